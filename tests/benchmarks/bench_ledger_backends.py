"""The same operations of the ledger on SQLite and on PostgreSQL, in turns, with a server on the same machine."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from exporter.ledger import Ledger, ValuedDay
from exporter.model import COST, DAY, HOUR, Bucket, Row, RowLabels, UsageEvent
from exporter.windows import TimeRange
from tests.benchmarks.results import write_results
from tests.postgres import start_postgres

SERIES, ACCOUNTS, RUNS, BATCH_SIZE = 1000, 1000, 7, 300
DAY1 = datetime(2026, 1, 1, tzinfo=UTC)
WHOLE_DAY = TimeRange(DAY1, DAY1 + DAY)
HOURS = [DAY1 + hour * HOUR for hour in range(24)]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Wall-clock seconds of an operation on both, medians."""

    operation: str
    sqlite: float
    postgres: float

    @property
    def ratio(self) -> float:
        """PostgreSQL beside SQLite."""
        return self.postgres / self.sqlite

    def format_row(self) -> str:
        """Return a line of the table."""
        return (
            f"  {self.operation:<46}SQLite {self.sqlite * 1000:8.1f} ms   PostgreSQL {self.postgres * 1000:8.1f} ms"
            f"   ratio {self.ratio:5.1f}"
        )


class Operations:
    """What polls, pushes and valuations do to a ledger."""

    def __init__(self, ledger: Ledger, series: int, accounts: int) -> None:
        self.ledger = ledger
        self.account = ledger.buckets.register_account("large", "p")
        self.labels = [RowLabels("output", f"w{n % 10}", f"model-{n}") for n in range(series)]
        self.accounts = [ledger.buckets.register_account(f"small-{n}", "p") for n in range(accounts)]
        self._numbers = itertools.count(1)

    def all(self) -> Mapping[str, Callable[[], object]]:
        """Return name -> operation."""
        return {
            "first poll: a day of new series": self.put_new_series,
            "later poll: a day of known series": self.put_known_series,
            "later poll: nothing has changed": self.put_unchanged,
            "value a day": self.value_day,
            "read the hours of a day": lambda: self.ledger.hours.units(self.account, ["use"], DAY1),
            "read the sums of a day": lambda: self.ledger.buckets.units(self.account, ["use"], WHOLE_DAY),
            "read a day for its valuation": lambda: self.ledger.reported_days.read(self.account, ["use"], WHOLE_DAY),
            f"push {BATCH_SIZE} events": self.push,
            f"poll {len(self.accounts):,} accounts, an hour of 5 series each": self.poll_accounts,
        }

    def put_new_series(self) -> None:
        """Store a day of labels that no account had."""
        number = next(self._numbers)
        account = self.ledger.buckets.register_account(f"new-{number}", "p")
        self._put(account, number)

    def put_known_series(self) -> None:
        """Replace every bucket of a day."""
        self._put(self.account, next(self._numbers))

    def put_unchanged(self) -> None:
        """Store a day's buckets again."""
        self._put(self.account, 1 << 20)

    def _put(self, account: int, value: int) -> None:
        rows = tuple(Row("output", value, labels.workspace, labels.model) for labels in self.labels)
        buckets = [Bucket("use", hour, hour + HOUR, rows) for hour in HOURS]
        self.ledger.buckets.put(account, "use", WHOLE_DAY, buckets)

    def value_day(self) -> None:
        """Store the cost of each hour of each series."""
        number = next(self._numbers)
        costs = {labels._replace(meter=COST): dict.fromkeys(range(24), number) for labels in self.labels}
        revision = self.ledger.costs.revision(self.account, DAY1)
        self.ledger.costs.put(self.account, DAY1, ValuedDay(costs, {}, "m", billed=False), revision)

    def push(self) -> None:
        """Count a batch of events."""
        number = next(self._numbers)
        rows = (Row("output", 5, model="m"),)
        events = [UsageEvent("p", HOURS[index % 24], rows, f"{number}-{index}", "c") for index in range(BATCH_SIZE)]
        self.ledger.events.add("gateway", events, DAY1 + DAY)

    def poll_accounts(self) -> None:
        """Store the newest hour of many accounts, each in its own transaction, and read its sums."""
        number = next(self._numbers)
        time_range = TimeRange(DAY1, DAY1 + HOUR)
        rows = tuple(Row("output", number, model=f"m{index}") for index in range(5))
        for account in self.accounts:
            self.ledger.buckets.put(account, "use", time_range, [Bucket("use", DAY1, DAY1 + HOUR, rows)])
            self.ledger.buckets.units(account, ["use"], time_range)


def compare(folder: Path, series: int = SERIES, accounts: int = ACCOUNTS, runs: int = RUNS) -> list[Comparison]:
    """Measure every operation on both backends, in turns; check that both ledgers are the same in the end."""
    with (
        start_postgres(settings=()) as server,
        closing(Ledger(folder / "sqlite")) as in_sqlite,
        closing(Ledger(server.new_location())) as in_postgres,
    ):
        both = [Operations(ledger, series, accounts) for ledger in (in_sqlite, in_postgres)]
        comparisons = [
            _measure_operation(name, [operations.all()[name] for operations in both], runs) for name in both[0].all()
        ]
        for account in (both[0].account, *both[0].accounts):
            expected = in_sqlite.buckets.units(account, ["use"], WHOLE_DAY)
            assert in_postgres.buckets.units(account, ["use"], WHOLE_DAY) == expected
            assert in_postgres.costs.total(account, WHOLE_DAY) == in_sqlite.costs.total(account, WHOLE_DAY)
    return comparisons


def _measure_operation(name: str, actions: Sequence[Callable[[], object]], runs: int) -> Comparison:
    seconds: list[list[float]] = [[], []]
    for _ in range(runs):
        for action, measured in zip(actions, seconds, strict=True):
            began = time.perf_counter()
            action()
            measured.append(time.perf_counter() - began)
    return Comparison(name, median(seconds[0]), median(seconds[1]))


def test_postgres_beside_sqlite(tmp_path: Path) -> None:
    """The table of both backends; times depend on the machine and its disk, and are not asserted."""
    comparisons = compare(tmp_path)
    print(f"\n  {SERIES:,} series, a day is {24 * SERIES:,} rows; wall-clock time, medians of {RUNS}")
    print(*(comparison.format_row() for comparison in comparisons), sep="\n")
    write_results("ledger_backends", comparisons)
