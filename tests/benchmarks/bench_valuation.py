"""The valuation of an account's thirty days after its first poll, and of one changed day, beside plain row work."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from exporter.ledger import Ledger
from exporter.model import COST, DAY, HOUR, NANO, Bucket, Report, Row
from exporter.pricing.list_prices import list_rates
from exporter.pricing.valuer import LedgerAccount, Valuer
from exporter.providers import PROVIDERS
from exporter.windows import TimeRange, floor
from tests.system import NOON

DAYS, RUNS = 30, 5
PROVIDER, USAGE_REPORT = "openai", "completions"
WORKSPACES = ("proj_a", "proj_b", "proj_c")
MODELS = ("gpt-5.4-2026-03-05", "gpt-5-mini-2025-08-07", "gpt-4.1-2025-04-14", "o3-2025-04-16")
RATES = {"uncached_input": 1250, "cache_read": 125, "output": 10_000}
"""Meter -> nano-USD per token of the first model."""
MAX_RATIO = 3.5
"""A first valuation may take so many times as long as reading and writing the same rows without any pricing."""
RECORDED_SECONDS = {"first": 0.335, "changed": 0.0067}
"""CPU seconds of the version that priced row by row, on the machine on which docs/benchmarks.md was measured."""


@dataclass(frozen=True, slots=True)
class Times:
    """CPU seconds."""

    plain: float
    """Read every row, and write as many rows of costs."""
    first: float
    """Value thirty days, of which all but the current one are billed."""
    changed: float
    """Value the current day again, of which one value has changed."""
    nothing: float
    """Find nothing to value."""


class BilledAccount:
    """An account with billed days and a half one, in a ledger of its own."""

    def __init__(self, folder: Path, days: int) -> None:
        self.ledger = Ledger(folder)
        reports = PROVIDERS[PROVIDER].reports
        number = self.ledger.buckets.register_account("acme", PROVIDER)
        self.ledger_account = LedgerAccount(number, PROVIDER, tuple(reports))
        self.valuer = Valuer(self.ledger, list_rates)
        self._usage_report = next(report for report in reports if report.name == USAGE_REPORT)
        self.time_range = TimeRange(floor(NOON, DAY) - days * DAY, NOON)
        for report in reports:
            self._put(report, self.time_range, *self._buckets(report))

    def _buckets(self, report: Report) -> Iterator[Bucket]:
        start = self.time_range.start
        while start < self.time_range.end:
            end = start + report.width
            if report is self._usage_report:
                yield Bucket(report.name, start, end, tuple(usage_rows(int(start.timestamp()))))
            elif report.kind == "bill" and end <= self.time_range.end:
                hours = (int(start.timestamp()) + hour * 3600 for hour in range(24))
                yield Bucket(
                    report.name, start, end, tuple(bill_rows(row for hour in hours for row in usage_rows(hour)))
                )
            start = end

    def _put(self, report: Report, time_range: TimeRange, *buckets: Bucket) -> None:
        self.ledger.buckets.put(self.ledger_account.id, report.name, time_range, buckets)

    def value(self) -> None:
        """Value what needs it."""
        self.valuer.value_days(self.ledger_account, NOON)

    def change_an_hour(self, value: int) -> None:
        """Store another value in the newest hour."""
        start = floor(NOON, HOUR)
        first, *others = usage_rows(int(start.timestamp()))
        changed = Row(first.meter, value, first.workspace, first.model, first.tier)
        time_range = TimeRange(start, start + HOUR)
        self._put(self._usage_report, time_range, Bucket(USAGE_REPORT, start, start + HOUR, (changed, *others)))

    def copy_rows(self) -> None:
        """Read every row of usage, and store as many rows of costs in one transaction: no pricing can take less."""
        number = self.ledger_account.id
        with self.ledger._store.write() as db:
            rows = db.execute("SELECT start, series, value FROM point WHERE account = ?", (number,)).fetchall()
            db.executemany(
                "INSERT INTO cost (account, start, series, value) VALUES (?, ?, ?, ?)",
                [(-number, start, series, value) for start, series, value in rows],
            )
            db.execute("DELETE FROM cost WHERE account = ?", (-number,))


def usage_rows(seconds: int) -> Iterator[Row]:
    """Yield the usage of an hour: twelve combinations, each with three meters of tokens and its requests."""
    for place, workspace in enumerate(WORKSPACES):
        for number, model in enumerate(MODELS):
            for meter in (*RATES, "requests"):
                value = 1000 + (seconds // 3600 * 7919 + number * 104_729 + place * 1299) % 900_000
                yield Row(meter, value, workspace, model, "standard")


def bill_rows(usage: Iterator[Row]) -> Iterator[Row]:
    """Yield the bill of a day: a row for each combination and meter, at nine tenths of a price, and a fee."""
    sums: dict[tuple[str, str, str], int] = {}
    for row in usage:
        if row.meter in RATES:
            nano_usd = row.value * RATES[row.meter] * 9 // 10 // (MODELS.index(row.model) + 1)
            key = (row.meter, row.workspace, row.model)
            sums[key] = sums.get(key, 0) + nano_usd
    for (meter, workspace, model), nano_usd in sums.items():
        yield Row(meter, nano_usd // 1000 * 1000, workspace, model, item=f"{model}, {meter}")
    yield Row(COST, NANO, WORKSPACES[0], item="storage")


def measure(folder: Path, days: int, runs: int) -> Times:
    """Return the medians of some accounts."""
    measured = []
    for run in range(runs):
        account = BilledAccount(folder / str(run), days)
        plain = _cpu_seconds(account.copy_rows)
        first = _cpu_seconds(account.value)
        account.change_an_hour(1 + run)
        changed = _cpu_seconds(account.value)
        measured.append(Times(plain, first, changed, nothing=_cpu_seconds(account.value)))
        account.ledger.close()
    return Times(
        plain=median(times.plain for times in measured),
        first=median(times.first for times in measured),
        changed=median(times.changed for times in measured),
        nothing=median(times.nothing for times in measured),
    )


def _cpu_seconds(operation: Callable[[], object]) -> float:
    began = time.process_time()
    operation()
    return time.process_time() - began


def test_a_valuation_takes_little_more_than_its_rows(tmp_path: Path) -> None:
    """A first valuation takes at most 3.5 times the CPU time of reading and writing its rows."""
    measure(tmp_path / "warm", days=1, runs=1)
    times = measure(tmp_path, DAYS, RUNS)
    combinations = len(WORKSPACES) * len(MODELS)
    print(f"\n  CPU time of an account of {DAYS} days x {combinations} combinations, medians of {RUNS}")
    for name, seconds in (
        ("read and write the rows", times.plain),
        ("value thirty days", times.first),
        ("value one changed day", times.changed),
        ("nothing to value", times.nothing),
    ):
        print(f"  {name:<26}{seconds * 1000:8.1f} ms   ratio {seconds / times.plain:.2f}")
    print(
        "  "
        + json.dumps(
            {
                "plain": times.plain,
                "first": times.first,
                "changed": times.changed,
                "nothing": times.nothing,
                "recorded": RECORDED_SECONDS,
            }
        )
    )
    assert times.first < MAX_RATIO * times.plain
