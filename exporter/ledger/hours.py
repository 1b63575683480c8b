"""Every hour of a past day at once: what history is made of."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from datetime import datetime

from exporter.ledger.costs import ROLLED_UP
from exporter.ledger.day_versions import DayVersions
from exporter.ledger.series import SeriesIndex
from exporter.ledger.store import Store, fetch_json
from exporter.model import DAY, HOUR, RowLabels, utc
from exporter.windows import TimeRange

_DAY_SECONDS = int(DAY.total_seconds())
_HOUR_SECONDS = int(HOUR.total_seconds())


HourlyValues = Mapping[RowLabels, Sequence[int]]
"""RowLabels -> nano-USD or units of the hours 0..23 of a UTC day; one value where only the day's sum is kept."""


class Hours:
    """Reads days hour by hour. What it reads changes whenever the day's `version` does."""

    def __init__(self, store: Store, series: SeriesIndex, day_versions: DayVersions) -> None:
        self._store = store
        self._series = series
        self._day_versions = day_versions

    def version(self, account: int, day: datetime) -> int:
        """Return a number that grows when a day is told or valued anew; to be read before the day is."""
        return self._day_versions.version(account, int(day.timestamp()))

    def days(self, account: int, time_range: TimeRange) -> list[datetime]:
        """Return the UTC days starting within a span of which anything is known, oldest first."""
        with self._store.read() as db:
            found = fetch_json(
                db,
                "SELECT json_group_array(start) FROM"
                " (SELECT start FROM day WHERE account = ? AND start >= ? AND start < ? ORDER BY start)",
                (account, int(time_range.start.timestamp()), int(time_range.end.timestamp())),
            )
        return [utc(start) for start in found]

    def labels(self, account: int, reports: Sequence[str]) -> list[RowLabels]:
        """Return every set of labels that these reports of the account ever told, or that it was valued under."""
        with self._store.read() as db:
            return self._series.all_labels(db, account, ("", *reports))

    def cost(self, account: int, day: datetime) -> HourlyValues:
        """Return nano-USD."""
        start = int(day.timestamp())
        with self._store.read() as db:
            method = db.execute("SELECT method FROM day WHERE account = ? AND start = ?", (account, start)).fetchone()
            found = _read_values(db, "cost", "account = ?", (account,), start)
            known = self._series.labels(db, account, "", found)
        return {known[number]: hours[:1] if method == (ROLLED_UP,) else hours for number, hours in found.items()}

    def units(self, account: int, reports: Sequence[str], day: datetime) -> HourlyValues:
        """Return units of all these reports."""
        start, told = int(day.timestamp()), dict[RowLabels, Sequence[int]]()
        with self._store.read() as db:
            rolled = fetch_json(
                db,
                "SELECT json_group_array(report) FROM rolled WHERE account = ? AND day = ?",
                (account, start),
            )
            for report in reports:
                found = _read_values(db, "point", "account = ? AND report = ?", (account, report), start)
                known = self._series.labels(db, account, report, found)
                for number, hours in found.items():
                    one, values = known[number], hours[:1] if report in rolled else hours
                    told[one] = add_hourly_values(told[one], values) if one in told else values
        return told


def add_hourly_values(first: Sequence[int], second: Sequence[int]) -> Sequence[int]:
    """Return the sum of two days' values; where of one only the day's sum is kept, so it is of both."""
    if len(first) != len(second):
        return [sum(first) + sum(second)]
    return [*map(sum, zip(first, second, strict=True))]


def _read_values(
    db: sqlite3.Connection, table: str, where: str, parameters: Sequence[object], start: int
) -> dict[int, list[int]]:
    """Return series -> 24 values of a day. Columns come as text: the fastest way out of SQLite for many rows."""
    told = db.execute(
        f"SELECT group_concat(series), group_concat((start - {start}) / {_HOUR_SECONDS}), "
        f"group_concat(value) FROM {table}"
        f" WHERE {where} AND start >= ? AND start < ?",
        (*parameters, start, start + _DAY_SECONDS),
    ).fetchone()
    series, hours, values = (json.loads(f"[{column or ''}]") for column in told)
    found: dict[int, list[int]] = {number: [0] * 24 for number in set(series)}
    for number, hour, value in zip(series, hours, values, strict=True):
        found[number][hour] = value
    return found
