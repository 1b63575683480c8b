"""What every hour costs, as valued from the newest tellings, and which days the provider has billed."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import NamedTuple

from exporter.ledger.day_versions import DayVersions
from exporter.ledger.series import SeriesIndex, labels
from exporter.ledger.store import Store, fetch_json, to_json
from exporter.model import DAY, HOUR, Row, RowLabels, utc
from exporter.windows import TimeRange

_DAY_SECONDS = int(DAY.total_seconds())
ROLLED_UP = "rolled"
"""The method of a day whose hours are no longer kept: it is not valued again."""


@dataclass(frozen=True, slots=True)
class DayCost:
    """One valued UTC day."""

    start: datetime
    cost: int
    """nano-USD, as known now."""
    billed: bool
    first_bill: int = 0
    """nano-USD of a billed day as it was first told."""
    restatement: int = 0
    """nano-USD by which a billed day was corrected since, up or down."""
    estimate: int | None = None
    """nano-USD that a billed day was estimated at before its bill; None where nobody estimated it."""


@dataclass(frozen=True, slots=True)
class ValuedDay:
    """One UTC day as it was valued."""

    hours: Mapping[int, Sequence[Row]]
    """Hour 0..23 -> rows of meter `cost`."""
    unpriced_tokens: Mapping[str, int]
    """Model -> tokens without a price."""
    method: str
    """How it was valued, so that a change of the way is a reason to value it again."""
    billed: bool
    estimate: int | None = None
    """nano-USD that the day would have been estimated at; kept when the day first turns billed."""
    bill_evidence: str = ""
    """What the day teaches about rates, in the words of those who ask for it later."""


class Costs:
    """Nano-USD per hour and labels. A day is written whole, so what was withdrawn is gone."""

    def __init__(self, store: Store, series: SeriesIndex, day_versions: DayVersions) -> None:
        self._store = store
        self._series = series
        self._day_versions = day_versions

    def revision(self, account: int, day: datetime) -> int:
        """Return how often a day has changed; to be read before its rows, and handed to `put`."""
        with self._store.read() as db:
            return _read_record(db, account, int(day.timestamp())).revision

    def put(
        self, account: int, day: datetime, valued_day: ValuedDay, revision: int, *, still_open: bool = False
    ) -> None:
        """Replace the cost of one UTC day. A billed day whose sum changes is counted as restated by the difference.

        Does nothing where the day has changed since it was told `told` times: what was valued is no longer true,
        and the day is still among the unvalued. So it is where it is `moving`, told more at any moment, but then it
        takes the cost of what was known: else it would have none while much is told.
        """
        start, width = int(day.timestamp()), int(HOUR.total_seconds())
        points = [
            (start + hour * width, labels(row), row.value) for hour, cost in valued_day.hours.items() for row in cost
        ]
        with self._store.write() as db:
            known = _read_record(db, account, start)
            if known.revision != revision:
                if not still_open:
                    return
                valued_day = replace(valued_day, method="")
            before = db.execute(
                "SELECT COALESCE(SUM(value), 0) FROM cost WHERE account = ? AND start >= ? AND start < ?",
                (account, start, start + _DAY_SECONDS),
            ).fetchone()[0]
            db.execute(
                "DELETE FROM cost WHERE account = ? AND start >= ? AND start < ?",
                (account, start, start + _DAY_SECONDS),
            )
            numbers = self._series.intern_labels(db, account, "", {one for _, one, _ in points})
            db.execute(
                "INSERT INTO cost SELECT ?, value ->> 0, value ->> 1, value ->> 2 FROM json_each(?)",
                (account, to_json([(moment, numbers[one], value) for moment, one, value in points])),
            )
            db.execute("DELETE FROM unpriced WHERE account = ? AND start = ?", (account, start))
            db.execute(
                "INSERT INTO unpriced SELECT ?, ?, value ->> 0, value ->> 1 FROM json_each(?)",
                (account, start, to_json(list(valued_day.unpriced_tokens.items()))),
            )
            _write_record(
                db, account, start, valued_day, known.revalue(valued_day, before, sum(value for _, _, value in points))
            )
        self._day_versions.increment(account, [start])

    def total(self, account: int, time_range: TimeRange) -> dict[RowLabels, int]:
        """Return nano-USD per labels over a span."""
        with self._store.read() as db:
            sums = fetch_json(
                db,
                "SELECT json_group_array(json_array(series, total)) FROM (SELECT series, SUM(value) AS total FROM cost"
                " WHERE account = ? AND start >= ? AND start < ? GROUP BY series)",
                (account, int(time_range.start.timestamp()), int(time_range.end.timestamp())),
            )
            known = self._series.labels(db, account, "", (number for number, _ in sums))
        return {known[number]: total for number, total in sums}

    def days(self, account: int, time_range: TimeRange) -> list[DayCost]:
        """Return the valued days that start within a span, oldest first."""
        bounds = (account, int(time_range.start.timestamp()), int(time_range.end.timestamp()))
        with self._store.read() as db:
            found = fetch_json(
                db,
                "SELECT json_group_array(json_array(start, (SELECT COALESCE(SUM(c.value), 0) FROM cost c WHERE"
                f" c.account = d.account AND c.start >= d.start AND c.start < d.start + {_DAY_SECONDS}),"
                " billed, first, restated, estimate)) FROM"
                " (SELECT * FROM day WHERE account = ? AND start >= ? AND start < ? ORDER BY start) d",
                bounds,
            )
        return [DayCost(utc(start), cost, bool(billed), *rest) for start, cost, billed, *rest in found]

    def billed_days(self, account: int, since: datetime) -> list[datetime]:
        """Return the billed days from `since` on, oldest first."""
        with self._store.read() as db:
            found = db.execute(
                "SELECT start FROM day WHERE account = ? AND start >= ? AND billed = 1 ORDER BY start",
                (account, int(since.timestamp())),
            ).fetchall()
        return [utc(start) for (start,) in found]

    def bill_evidence(self, account: int, before: datetime, max_days: int) -> list[str]:
        """Return what the newest billed days before a day teach, newest first."""
        with self._store.read() as db:
            found = db.execute(
                "SELECT lesson FROM day WHERE account = ? AND start < ? AND billed = 1 AND lesson <> ''"
                " ORDER BY start DESC LIMIT ?",
                (account, int(before.timestamp()), max_days),
            ).fetchall()
        return [lesson for (lesson,) in found]

    def total_restatement(self, account: int) -> int:
        """Return nano-USD by which billed days were ever corrected, up and down added."""
        with self._store.read() as db:
            return int(
                db.execute("SELECT COALESCE(SUM(restated), 0) FROM day WHERE account = ?", (account,)).fetchone()[0]
            )

    def unpriced_tokens(self, account: int, time_range: TimeRange) -> dict[datetime, dict[str, int]]:
        """Return start of a UTC day -> model -> tokens for which no price is known; days that have any."""
        with self._store.read() as db:
            found = db.execute(
                "SELECT start, model, tokens FROM unpriced WHERE account = ? AND start >= ? AND start < ?",
                (account, int(time_range.start.timestamp()), int(time_range.end.timestamp())),
            ).fetchall()
        days: dict[datetime, dict[str, int]] = {}
        for start, model, tokens in found:
            days.setdefault(utc(start), {})[model] = tokens
        return days

    def unvalued_days(self, account: int, method: str) -> list[datetime]:
        """Return the days that changed since they were valued, or were valued by another method; oldest first."""
        with self._store.read() as db:
            found = db.execute(
                "SELECT start FROM day WHERE account = ? AND method NOT IN (?, ?) ORDER BY start",
                (account, method, ROLLED_UP),
            ).fetchall()
        return [utc(start) for (start,) in found]


class _DayRecord(NamedTuple):
    """What is known of a day beside its hours; the money in nano-USD."""

    revision: int
    billed: int
    first_bill: int
    restatement: int
    estimate: int | None

    def revalue(self, valued_day: ValuedDay, old_total: int, new_total: int) -> _DayRecord:
        """Return what is known once the day's sum is `now`: its first bill and its estimate are never overwritten."""
        if self.billed and valued_day.billed:
            return self._replace(restatement=self.restatement + abs(new_total - old_total))
        if valued_day.billed:
            return self._replace(billed=1, first_bill=new_total, estimate=valued_day.estimate)
        return self._replace(billed=0)


def _read_record(db: sqlite3.Connection, account: int, start: int) -> _DayRecord:
    found = db.execute(
        "SELECT told, billed, first, restated, estimate FROM day WHERE account = ? AND start = ?", (account, start)
    ).fetchone()
    return _DayRecord(0, 0, 0, 0, None) if found is None else _DayRecord(*found)


def _write_record(db: sqlite3.Connection, account: int, start: int, valued_day: ValuedDay, record: _DayRecord) -> None:
    db.execute(
        "INSERT OR REPLACE INTO day (account, start, method, lesson, told, billed, first, restated, estimate)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (account, start, valued_day.method, valued_day.bill_evidence, *record),
    )
