"""The ledger's main reads and writes with plain rows, beside the same with rows or columns as one JSON text."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from exporter.ledger.sqlite_store import SqliteStore

SERIES, RUNS, BUSY_THREADS = 1000, 9, 2
ACCOUNT, REPORT, HOURS, HOUR_SECONDS = 1, "use", 24, 3600
DAY_SECONDS = HOURS * HOUR_SECONDS
MAX_CPU_RATIO = 2
"""Plain rows may take at most so many times the CPU time of JSON: where they take more, JSON is worth its code."""
BOUNDS = (ACCOUNT, 0, DAY_SECONDS)

HourlyValues = dict[int, list[int]]
CostRow = tuple[int, int, int]
"""Start, series, value."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """CPU or wall-clock seconds of an operation in both ways, medians."""

    operation: str
    plain: float
    as_json: float

    @property
    def ratio(self) -> float:
        """Plain beside JSON; below 1 plain rows are faster."""
        return self.plain / self.as_json

    def format_row(self) -> str:
        """Return a line of the table."""
        return (
            f"  {self.operation:<26}plain {self.plain * 1000:7.1f} ms   JSON {self.as_json * 1000:7.1f} ms"
            f"   ratio {self.ratio:.2f}"
        )


class LedgerTables:
    """A day of cost, and of a report, in the tables of a ledger; each operation in both ways."""

    def __init__(self, folder: Path, series: int) -> None:
        self.store = SqliteStore(folder)
        self.rows: list[CostRow] = [
            (hour * HOUR_SECONDS, number, 10**9 + 7919 * number + hour)
            for hour in range(HOURS)
            for number in range(series)
        ]

    def put_costs_plain(self) -> None:
        """Replace the day's costs, as Costs.put does."""
        with self.store.write() as db:
            db.execute("DELETE FROM cost WHERE account = ? AND start >= ? AND start < ?", BOUNDS)
            db.executemany(
                "INSERT INTO cost (account, start, series, value) VALUES (?, ?, ?, ?)",
                [(ACCOUNT, *row) for row in self.rows],
            )

    def put_costs_json(self) -> None:
        """Replace the day's costs from a JSON text."""
        with self.store.write() as db:
            db.execute("DELETE FROM cost WHERE account = ? AND start >= ? AND start < ?", BOUNDS)
            db.execute(
                "INSERT INTO cost SELECT ?, value ->> 0, value ->> 1, value ->> 2 FROM json_each(?)",
                (ACCOUNT, to_json(self.rows)),
            )

    def put_buckets_plain(self) -> None:
        """Replace the day's buckets, as Buckets.put does."""
        starts = range(0, DAY_SECONDS, HOUR_SECONDS)
        with self.store.write() as db:
            db.executemany(
                "DELETE FROM point WHERE account = ? AND report = ? AND start = ?",
                [(ACCOUNT, REPORT, start) for start in starts],
            )
            db.executemany(
                "INSERT INTO point (account, report, start, series, value) VALUES (?, ?, ?, ?, ?)",
                [(ACCOUNT, REPORT, *row) for row in self.rows],
            )

    def put_buckets_json(self) -> None:
        """Replace the day's buckets from a JSON text."""
        starts = to_json(list(range(0, DAY_SECONDS, HOUR_SECONDS)))
        with self.store.write() as db:
            db.execute(
                "DELETE FROM point WHERE account = ? AND report = ? AND start IN (SELECT value FROM json_each(?))",
                (ACCOUNT, REPORT, starts),
            )
            db.execute(
                "INSERT INTO point SELECT ?, ?, value ->> 0, value ->> 1, value ->> 2 FROM json_each(?)",
                (ACCOUNT, REPORT, to_json(self.rows)),
            )

    def read_hours_plain(self) -> HourlyValues:
        """Return series -> 24 values of the day."""
        values_by_series: HourlyValues = {}
        with self.store.read() as db:
            for series, start, value in db.execute(
                "SELECT series, start, value FROM cost WHERE account = ? AND start >= ? AND start < ?", BOUNDS
            ):
                values = values_by_series.get(series)
                if values is None:
                    values = values_by_series[series] = [0] * HOURS
                values[start // HOUR_SECONDS] = value
        return values_by_series

    def read_hours_json(self) -> HourlyValues:
        """Return the same from a text for each column, as Hours.cost and Hours.units do."""
        with self.store.read() as db:
            columns = db.execute(
                f"SELECT group_concat(series), group_concat(start / {HOUR_SECONDS}), group_concat(value) FROM cost"
                " WHERE account = ? AND start >= ? AND start < ?",
                BOUNDS,
            ).fetchone()
        all_series, hours, values = (json.loads(f"[{column or ''}]") for column in columns)
        values_by_series: HourlyValues = {series: [0] * HOURS for series in set(all_series)}
        for series, hour, value in zip(all_series, hours, values, strict=True):
            values_by_series[series][hour] = value
        return values_by_series

    def read_totals_plain(self) -> dict[int, int]:
        """Return series -> sum of the day, as Costs.total does."""
        with self.store.read() as db:
            return dict(
                db.execute(
                    "SELECT series, SUM(value) FROM cost WHERE account = ? AND start >= ? AND start < ?"
                    " GROUP BY series",
                    BOUNDS,
                ).fetchall()
            )

    def read_totals_json(self) -> dict[int, int]:
        """Return the same from a single JSON text."""
        with self.store.read() as db:
            (text,) = db.execute(
                "SELECT json_group_array(json_array(series, total)) FROM (SELECT series, SUM(value) AS total FROM cost"
                " WHERE account = ? AND start >= ? AND start < ? GROUP BY series)",
                BOUNDS,
            ).fetchone()
        return dict(json.loads(text))

    def compare(self, clock: Callable[[], float], runs: int) -> list[Comparison]:
        """Measure every operation in both ways, in turns; check that both read the same."""
        self.put_costs_plain()
        by_plain = self.read_hours_plain(), self.read_totals_plain()
        self.put_costs_json()
        assert (self.read_hours_json(), self.read_totals_json()) == by_plain
        operations: Sequence[tuple[str, Callable[[], object], Callable[[], object]]] = (
            ("write buckets", self.put_buckets_plain, self.put_buckets_json),
            ("write costs", self.put_costs_plain, self.put_costs_json),
            ("read hours", self.read_hours_plain, self.read_hours_json),
            ("read totals", self.read_totals_plain, self.read_totals_json),
        )
        return [_compare(name, plain, as_json, clock, runs) for name, plain, as_json in operations]


def to_json(rows: Sequence[object]) -> str:
    """Return rows as the JSON text that a statement reads with json_each."""
    return json.dumps(rows, separators=(",", ":"))


def _compare(
    name: str, plain: Callable[[], object], as_json: Callable[[], object], clock: Callable[[], float], runs: int
) -> Comparison:
    plain_seconds, json_seconds = [], []
    for _ in range(runs):
        plain_seconds.append(_measure(plain, clock))
        json_seconds.append(_measure(as_json, clock))
    return Comparison(name, median(plain_seconds), median(json_seconds))


def _measure(action: Callable[[], object], clock: Callable[[], float]) -> float:
    began = clock()
    action()
    return clock() - began


@contextmanager
def computing_threads(count: int) -> Iterator[None]:
    """Compute in so many threads: each row that SQLite returns gives them a chance to take the interpreter's lock."""
    stop = threading.Event()

    def compute() -> None:
        while not stop.is_set():
            sum(number * number for number in range(1000))

    threads = [threading.Thread(target=compute) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_plain_rows_take_about_as_much_cpu_time_as_json(tmp_path: Path) -> None:
    """No operation takes more than twice the CPU time with plain rows; times beside threads are printed only."""
    tables = LedgerTables(tmp_path, SERIES)
    alone = tables.compare(time.process_time, RUNS)
    with computing_threads(BUSY_THREADS):
        beside_threads = tables.compare(time.perf_counter, RUNS)
    tables.store.close()
    print(f"\n  a day of {SERIES:,} series, {HOURS * SERIES:,} rows, medians of {RUNS}; CPU time alone")
    print(*(comparison.format_row() for comparison in alone), sep="\n")
    print(f"  beside {BUSY_THREADS} computing threads")
    print(*(comparison.format_row() for comparison in beside_threads), sep="\n")
    for comparison in alone:
        assert comparison.ratio <= MAX_CPU_RATIO, comparison.operation
