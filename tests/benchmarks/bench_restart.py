"""A restart with a thousand accounts: the time until /metrics is complete, without any request to a provider.

Side by side with the same ledger without the days that snapshots stored in it, whose hours are all read and summed.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from exporter.app import App, Dependencies
from exporter.config.configuration import load
from exporter.model import DAY, HOUR, Bucket, Row
from exporter.pricing.list_prices import list_rates
from exporter.pricing.valuer import Valuer
from exporter.providers import PROVIDERS
from exporter.windows import TimeRange, floor
from tests.benchmarks.process import run_process
from tests.system import NOON, Clock, ledger_of, polled_account

ACCOUNTS, DAYS = 1000, 30
MAX_CPU_SECONDS = 10
"""Of the restart, from the start of the process: a bound for slow machines, twice the target."""
MAX_RESIDENT = 500 * 2**20
MIN_SPEEDUP = 2
"""How many times less CPU time a restart takes with stored days; start, configuration and rendering are in both."""
MODELS = ("claude-opus-5", "claude-sonnet-5")
METERS = ("uncached_input", "cache_read", "output")


@dataclass(frozen=True, slots=True)
class Restart:
    """One start of the process; seconds until the page is complete."""

    wall: float
    cpu: float
    before_accounts: float
    """CPU seconds until the configuration is loaded, the start of the interpreter included."""
    resident: float
    """Bytes."""
    samples: float

    def format_row(self, name: str) -> str:
        """Return a line of the table."""
        return (
            f"  {name:<22}{self.wall:7.2f} s   CPU {self.cpu:6.2f} s ({self.before_accounts:.2f} s before accounts)"
            f"   {self.resident / 2**20:5.0f} MiB   {self.samples:,.0f} samples"
        )


def restart(folder: Path) -> Restart:
    """Start a process on a ledger, and wait until its page is complete."""
    began = time.perf_counter()
    with run_process("tests.benchmarks.restart_process", str(folder)) as info:
        wall = time.perf_counter() - began
        return Restart(wall, info["cpu"], info["loaded"], info["resident"], info["samples"])


def forget_days(folder: Path) -> Path:
    """Return a copy of a ledger without the days that snapshots stored in it."""
    copy = Path(shutil.copytree(folder, folder.with_name("without")))
    with sqlite3.connect(copy / "ledger" / "ledger.db") as db:
        db.execute("DELETE FROM snapshot_days")
    db.close()
    return copy


def test_a_restart_with_a_thousand_accounts_takes_seconds(tmp_path: Path) -> None:
    """The page is complete without a request, in at most half of the CPU time that it takes without stored days."""
    folder = tmp_path / "with"
    folder.mkdir()
    build_ledger(folder, ACCOUNTS)
    without = forget_days(folder)
    slow, fast = restart(without), restart(folder)
    assert (without / "page.txt").read_bytes() == (folder / "page.txt").read_bytes()
    print(f"\n  restart with {ACCOUNTS} accounts of {DAYS} days, until /metrics is complete")
    print(slow.format_row("every hour summed"), fast.format_row("with stored days"), sep="\n")
    print(f"  ratio of CPU time      {slow.cpu / fast.cpu:.1f}")
    print("  " + json.dumps({"summed": asdict(slow), "stored": asdict(fast)}))
    assert fast.cpu < MAX_CPU_SECONDS
    assert fast.resident < MAX_RESIDENT
    assert slow.cpu > MIN_SPEEDUP * fast.cpu


def build_ledger(folder: Path, accounts: int) -> None:
    """Fill a ledger with thirty days of accounts that have about 60 series each, and stop the exporter."""
    names = [f"team-{number:04d}" for number in range(accounts)]
    configured = [
        {"name": name, "provider": "anthropic", "owner": "platform", "api_key_env": "KEY", "base_url": "http://[::1]:9"}
        for name in names
    ]
    (folder / "config.yaml").write_text(yaml.safe_dump({"accounts": configured}))
    app = App(folder / "ledger", Dependencies(Clock(NOON), time.monotonic, {}, PROVIDERS))
    app.apply(load(folder / "config.yaml", PROVIDERS))
    valuer = Valuer(ledger_of(app), list_rates)
    time_range = TimeRange(floor(NOON, DAY) - DAYS * DAY, NOON)
    for number, name in enumerate(names):
        account = polled_account(app, name)
        for report in account.ledger_account.reports:
            buckets = _buckets(report.name, time_range, number) if report.kind == "usage" else ()
            app.ledger.buckets.put(account.ledger_account.id, report.name, time_range, buckets, completes_refresh=True)
        valuer.value_days(account.ledger_account, NOON)
        app.snapshots.update(account)
    app.stop()


def _buckets(report: str, time_range: TimeRange, number: int) -> Iterator[Bucket]:
    start = time_range.start
    while start < time_range.end:
        rows = [
            Row(meter, 1000 + (number * 7919 + start.day * 104_729) % 900_000, "wrkspc_1", model, "standard")
            for model in MODELS
            for meter in METERS
        ]
        yield Bucket(report, start, start + HOUR, tuple(rows))
        start += HOUR
