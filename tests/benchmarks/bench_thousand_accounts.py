"""A thousand accounts in a running exporter: first polls, ten minutes of steady polling, memory and threads.

The providers are simulated in processes of their own. CPU time is that of the exporter's process; how long first polls
take depends on how many cores the providers leave to it as well.
"""

from __future__ import annotations

import os
import re
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import httpx
import yaml

from exporter.ledger import PostgresLocation
from tests.benchmarks.process import run_process
from tests.benchmarks.results import write_results
from tests.command import ENVIRONMENT, ExporterProcess, start_exporter
from tests.postgres import start_postgres

ACCOUNTS = 1000
COMBINATIONS = 3
"""Of workspace, model and tier in an account: about 60 series."""
STEADY_SECONDS = 600
POLL_INTERVAL = "5m"
MAX_FIRST_POLL_CPU_SECONDS = 300
MAX_STEADY_SHARE = 0.1
"""Of a core."""
MAX_RESIDENT_BYTES = 500 * 2**20
SCRAPE_SECONDS = 5
_KEYS = {"openai": "sk-admin-benchmark", "anthropic": "sk-ant-admin01-benchmark"}


class _Usage(NamedTuple):
    """What a process has used until now."""

    time: float
    cpu_seconds: float


@dataclass(frozen=True, slots=True)
class Measurement:
    """What a number of accounts took."""

    accounts: int
    series: int
    first_poll_seconds: float
    """Until the last account's first poll was on /metrics."""
    first_poll_cpu_seconds: float
    steady_seconds: float
    steady_cpu_seconds: float
    failed_polls: int
    resident_bytes: int
    """The largest resident memory since the start."""
    threads: int
    """After the steady polls."""
    ledger_bytes: int

    @property
    def steady_share(self) -> float:
        """Return the share of a core that steady polling takes, scrapes included."""
        return self.steady_cpu_seconds / self.steady_seconds

    def format_table(self) -> str:
        """Return the lines to print."""
        first_poll = (
            f"{self.first_poll_cpu_seconds:.1f} s of CPU, {self.first_poll_cpu_seconds / self.accounts:.3f} s each"
        )
        steady = f"of a core over {self.steady_seconds:.0f} s, {self.failed_polls} failed"
        lines = (
            f"{self.accounts:,} accounts, {self.series:,} series, a scrape every {SCRAPE_SECONDS} s",
            f"first polls of 30 days {self.first_poll_seconds:9.1f} s, {first_poll}",
            f"steady polls, every {POLL_INTERVAL} {self.steady_share:8.1%} {steady}",
            f"resident memory        {self.resident_bytes / 2**20:9.0f} MiB, {self.threads} threads",
            f"ledger                 {self.ledger_bytes / 2**20:9.0f} MiB",
        )
        return "\n".join(f"  {line}" for line in lines)


def measure_accounts(
    folder: Path, accounts: int, steady_seconds: float, database: PostgresLocation | None = None
) -> Measurement:
    """Start an exporter on an empty ledger, and measure it until so many seconds after the last first poll.

    The ledger is in the folder, or in a database, whose own CPU time is not counted.
    """
    with ExitStack() as stack:
        urls = {}
        for provider in _KEYS:
            info = stack.enter_context(run_process("tests.benchmarks.provider_process", provider, str(COMBINATIONS)))
            urls[provider] = f"http://127.0.0.1:{int(info['port'])}"
        client = stack.enter_context(httpx.Client(timeout=60))
        _set_clocks(client, urls)
        config = _write_config(folder, accounts, urls)
        storage = f"path={folder / 'ledger'}" if database is None else f"url={database.url}"
        exporter = stack.enter_context(
            start_exporter(
                f"--config.file={config}",
                f"--storage.{storage}",
                env={**ENVIRONMENT, **{f"KEY_{provider}": key for provider, key in _KEYS.items()}},
                new_interpreter=True,
            )
        )
        # The process exists since a moment ago: what it used to start belongs to its first polls.
        began = time.monotonic()
        while len(exporter.accounts("ai_account_up", "1")) < accounts:
            assert exporter.process.poll() is None, exporter.stderr_lines[-5:]
            time.sleep(min(SCRAPE_SECONDS, 0.2 + accounts / 200))
            _set_clocks(client, urls)
        first = _read_usage(exporter)
        while time.monotonic() < first.time + steady_seconds:
            _set_clocks(client, urls)
            assert exporter.get(**{"Accept-Encoding": "gzip"}).status_code == 200
            time.sleep(min(SCRAPE_SECONDS, steady_seconds / 4))
        steady = _read_usage(exporter)
        page = exporter.get().text
        failures = re.findall(r"^ai_account_poll_failures_total\{.*\} (\S+)$", page, re.MULTILINE)
        return Measurement(
            accounts=accounts,
            series=sum(not line.startswith("#") for line in page.splitlines()),
            first_poll_seconds=first.time - began,
            first_poll_cpu_seconds=first.cpu_seconds,
            steady_seconds=steady.time - first.time,
            steady_cpu_seconds=steady.cpu_seconds - first.cpu_seconds,
            failed_polls=int(sum(map(float, failures))),
            resident_bytes=_read_status(exporter, "VmHWM") * 1024,
            threads=_read_status(exporter, "Threads"),
            ledger_bytes=int(float(exporter.value("ai_exporter_ledger_bytes"))),
        )


def test_a_thousand_accounts_are_polled_on_one_core(tmp_path: Path) -> None:
    """First polls take 5 minutes of CPU at most, steady polls a tenth of a core, and memory is bounded."""
    measurement = measure_accounts(tmp_path, ACCOUNTS, STEADY_SECONDS)
    print(f"\n{measurement.format_table()}")
    write_results("thousand_accounts", [measurement])
    assert measurement.failed_polls == 0
    assert measurement.first_poll_cpu_seconds <= MAX_FIRST_POLL_CPU_SECONDS
    assert measurement.steady_share <= MAX_STEADY_SHARE
    assert measurement.resident_bytes <= MAX_RESIDENT_BYTES


def test_a_thousand_accounts_on_postgres(tmp_path: Path) -> None:
    """The same with the ledger in PostgreSQL on this machine; its first polls and steady polls are printed."""
    with start_postgres(settings=()) as server:
        measurement = measure_accounts(tmp_path, ACCOUNTS, STEADY_SECONDS, server.new_location())
    print(f"\n  PostgreSQL\n{measurement.format_table()}")
    write_results("thousand_accounts_postgres", [measurement])
    assert measurement.failed_polls == 0
    assert measurement.resident_bytes <= MAX_RESIDENT_BYTES


def _write_config(folder: Path, accounts: int, urls: dict[str, str]) -> Path:
    providers = list(urls)
    path = folder / "config.yaml"
    document = {
        "defaults": {"poll_interval": POLL_INTERVAL},
        "accounts": [
            {
                "name": f"account-{number:04d}",
                "provider": (provider := providers[number % len(providers)]),
                "owner": f"team-{number % 20}",
                "api_key_env": f"KEY_{provider}",
                "base_url": urls[provider],
            }
            for number in range(accounts)
        ],
    }
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def _set_clocks(client: httpx.Client, urls: dict[str, str]) -> None:
    # By five minutes: accounts that poll within them get the same answers, which are computed once.
    now = time.time() // 300 * 300
    for url in urls.values():
        client.get(f"{url}/clock", params={"now": now}).raise_for_status()


def _read_usage(exporter: ExporterProcess) -> _Usage:
    user, system = Path(f"/proc/{exporter.process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return _Usage(time.monotonic(), (int(user) + int(system)) / os.sysconf("SC_CLK_TCK"))


def _read_status(exporter: ExporterProcess, name: str) -> int:
    status = Path(f"/proc/{exporter.process.pid}/status").read_text()
    found = re.search(rf"^{name}:\s*(\d+)", status, re.MULTILINE)
    assert found is not None
    return int(found[1])
