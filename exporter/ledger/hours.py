"""Whole days hour by hour, for history, hourly totals and baselines.

These are the largest reads: 24,000 rows for an account of 1,000 series. They alone do not fetch rows, but each column
as one text: sqlite3 releases the interpreter's lock at every row, and beside computing threads that makes fetching rows
two to three times as slow (docs/benchmarks.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from exporter.ledger.costs import ROLLED_UP
from exporter.ledger.day_versions import DayVersions
from exporter.ledger.series import SeriesIndex
from exporter.ledger.store import Connection, Dialect, Store
from exporter.model import DAY, HOUR, RowLabels, utc
from exporter.windows import TimeRange

_DAY_SECONDS = int(DAY.total_seconds())
_HOUR_SECONDS = int(HOUR.total_seconds())
_INTEGERS = msgspec.json.Decoder(tuple[int, ...])


HourlyValues = Mapping[RowLabels, Sequence[int]]
"""Labels -> nano-USD or units of the hours 0..23 of a UTC day; a single value where only the day's sum is kept."""


class Hours:
    """Reads days hour by hour. What it returns changes whenever the day's `version` does."""

    def __init__(self, store: Store, series: SeriesIndex, day_versions: DayVersions) -> None:
        self._store = store
        self._series = series
        self._day_versions = day_versions

    def version(self, account: int, day: datetime) -> int:
        """Return a number that grows when a day's usage or cost changes; to be read before the day is."""
        return self._day_versions.version(account, int(day.timestamp()))

    def days(self, account: int, time_range: TimeRange) -> list[datetime]:
        """Return the UTC days starting within a time range of which anything is known, oldest first."""
        with self._store.read() as db:
            found = db.execute(
                "SELECT start FROM day WHERE account = ? AND start >= ? AND start < ? ORDER BY start",
                (account, int(time_range.start.timestamp()), int(time_range.end.timestamp())),
            ).fetchall()
        return [utc(start) for (start,) in found]

    def labels(self, account: int, reports: Sequence[str]) -> list[RowLabels]:
        """Return every set of labels that these reports of the account ever had, or that it was valued under."""
        with self._store.read() as db:
            return self._series.all_labels(db, account, ("", *reports))

    def cost(self, account: int, day: datetime) -> HourlyValues:
        """Return nano-USD of a UTC day."""
        start = int(day.timestamp())
        with self._store.read() as db:
            method = db.execute("SELECT method FROM day WHERE account = ? AND start = ?", (account, start)).fetchone()
            values_by_series = _read_values(db, self._store.dialect, "cost WHERE account = ?", (account,), start)
            known_labels = self._series.labels(db, account, "", values_by_series)
        is_rolled_up = method == (ROLLED_UP,)
        return {
            known_labels[number]: values[:1] if is_rolled_up else values for number, values in values_by_series.items()
        }

    def units(self, account: int, reports: Sequence[str], day: datetime) -> HourlyValues:
        """Return units of a UTC day, of all these reports together."""
        start = int(day.timestamp())
        totals: dict[RowLabels, Sequence[int]] = {}
        with self._store.read() as db:
            rolled_up = db.execute("SELECT report FROM rolled WHERE account = ? AND day = ?", (account, start))
            rolled_up_reports = {report for (report,) in rolled_up}
            for report in reports:
                values_by_series = _read_values(
                    db, self._store.dialect, "point WHERE account = ? AND report = ?", (account, report), start
                )
                known_labels = self._series.labels(db, account, report, values_by_series)
                for number, all_values in values_by_series.items():
                    labels = known_labels[number]
                    values = all_values[:1] if report in rolled_up_reports else all_values
                    totals[labels] = add_hourly_values(totals[labels], values) if labels in totals else values
        return totals


def add_hourly_values(first: Sequence[int], second: Sequence[int]) -> Sequence[int]:
    """Return the sum of two days' values; where of either only the day's sum is kept, only that of both."""
    if len(first) != len(second):
        return [sum(first) + sum(second)]
    return [*map(sum, zip(first, second, strict=True))]


def _read_values(
    db: Connection, dialect: Dialect, source: str, parameters: Sequence[object], day_start: int
) -> dict[int, list[int]]:
    """Return series -> 24 values of a day, from a table and a condition."""
    series_column = dialect.concat("series", order="series")
    values_column = dialect.concat("value", order="series")
    # By the primary key: SQLite's rows come in the order of the series.
    found = db.execute(
        f"SELECT start, {series_column}, {values_column}"
        f" FROM {source} AND start >= ? AND start < ? GROUP BY start ORDER BY start",
        (*parameters, day_start, day_start + _DAY_SECONDS),
    )
    hours = {
        (start - day_start) // _HOUR_SECONDS: (_parse_integers(series), _parse_integers(values))
        for start, series, values in found
    }
    all_series = {series for series, _ in hours.values()}
    if len(all_series) == 1:
        # Every hour has the same series, as a steady account has: transposed at once, in a fraction of the time.
        (shared,) = all_series
        no_values = (0,) * len(shared)
        rows = [hours[hour][1] if hour in hours else no_values for hour in range(24)]
        return dict(zip(shared, map(list, zip(*rows, strict=True)), strict=True))
    values_by_series: dict[int, list[int]] = {}
    for hour, (series, values) in hours.items():
        for number, value in zip(series, values, strict=True):
            if number not in values_by_series:
                values_by_series[number] = [0] * 24
            values_by_series[number][hour] = value
    return values_by_series


def _parse_integers(column: str) -> tuple[int, ...]:
    """Return the values of a `Dialect.concat`, in the order of the rows."""
    return _INTEGERS.decode(f"[{column}]")
