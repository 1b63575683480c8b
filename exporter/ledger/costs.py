"""What every hour costs, as valued from the newest tellings, and which days the provider has billed."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import NamedTuple

from exporter.ledger.day_versions import Changes
from exporter.ledger.series import Labels, Series, labels
from exporter.ledger.store import Store, array, rows
from exporter.model import DAY, HOUR, Row, utc
from exporter.windows import Span

_DAY = int(DAY.total_seconds())
ROLLED = "rolled"
"""The method of a day whose hours are no longer kept: it is not valued again."""


@dataclass(frozen=True, slots=True)
class Day:
    """One valued UTC day."""

    start: datetime
    cost: int
    """nano-USD, as known now."""
    billed: bool
    first: int = 0
    """nano-USD of a billed day as it was first told."""
    restated: int = 0
    """nano-USD by which a billed day was corrected since, up or down."""
    estimate: int | None = None
    """nano-USD that a billed day was estimated at before its bill; None where nobody estimated it."""


@dataclass(frozen=True, slots=True)
class Worth:
    """One UTC day as it was valued."""

    hours: Mapping[int, Sequence[Row]]
    """Hour 0..23 -> rows of meter `cost`."""
    unpriced: Mapping[str, int]
    """Model -> tokens without a price."""
    method: str
    """How it was valued, so that a change of the way is a reason to value it again."""
    billed: bool
    estimate: int | None = None
    """nano-USD that the day would have been estimated at; kept when the day first turns billed."""
    lesson: str = ""
    """What the day teaches about rates, in the words of those who ask for it later."""


class Costs:
    """Nano-USD per hour and labels. A day is written whole, so what was withdrawn is gone."""

    def __init__(self, store: Store, series: Series, changes: Changes) -> None:
        self._store = store
        self._series = series
        self._changes = changes

    def told(self, account: int, day: datetime) -> int:
        """Return how often a day has changed; to be read before its rows, and handed to `put`."""
        with self._store.read() as db:
            return _noted(db, account, int(day.timestamp())).told

    def put(self, account: int, day: datetime, worth: Worth, told: int, *, moving: bool = False) -> None:
        """Replace the cost of one UTC day. A billed day whose sum changes is counted as restated by the difference.

        Does nothing where the day has changed since it was told `told` times: what was valued is no longer true,
        and the day is still among the unvalued. So it is where it is `moving`, told more at any moment, but then it
        takes the cost of what was known: else it would have none while much is told.
        """
        start, width = int(day.timestamp()), int(HOUR.total_seconds())
        points = [(start + hour * width, labels(row), row.value) for hour, cost in worth.hours.items() for row in cost]
        with self._store.write() as db:
            known = _noted(db, account, start)
            if known.told != told:
                if not moving:
                    return
                worth = replace(worth, method="")
            before = db.execute(
                "SELECT COALESCE(SUM(value), 0) FROM cost WHERE account = ? AND start >= ? AND start < ?",
                (account, start, start + _DAY),
            ).fetchone()[0]
            db.execute(
                "DELETE FROM cost WHERE account = ? AND start >= ? AND start < ?", (account, start, start + _DAY)
            )
            numbers = self._series.number(db, account, "", {one for _, one, _ in points})
            db.execute(
                "INSERT INTO cost SELECT ?, value ->> 0, value ->> 1, value ->> 2 FROM json_each(?)",
                (account, array([(moment, numbers[one], value) for moment, one, value in points])),
            )
            db.execute("DELETE FROM unpriced WHERE account = ? AND start = ?", (account, start))
            db.execute(
                "INSERT INTO unpriced SELECT ?, ?, value ->> 0, value ->> 1 FROM json_each(?)",
                (account, start, array(list(worth.unpriced.items()))),
            )
            _note(db, account, start, worth, known.after(worth, before, sum(value for _, _, value in points)))
        self._changes.note(account, [start])

    def total(self, account: int, span: Span) -> dict[Labels, int]:
        """Return nano-USD per labels over a span."""
        with self._store.read() as db:
            sums = rows(
                db,
                "SELECT json_group_array(json_array(series, total)) FROM (SELECT series, SUM(value) AS total FROM cost"
                " WHERE account = ? AND start >= ? AND start < ? GROUP BY series)",
                (account, int(span.start.timestamp()), int(span.end.timestamp())),
            )
            known = self._series.labels(db, account, "", (number for number, _ in sums))
        return {known[number]: total for number, total in sums}

    def days(self, account: int, span: Span) -> list[Day]:
        """Return the valued days that start within a span, oldest first."""
        bounds = (account, int(span.start.timestamp()), int(span.end.timestamp()))
        with self._store.read() as db:
            found = rows(
                db,
                "SELECT json_group_array(json_array(start, (SELECT COALESCE(SUM(c.value), 0) FROM cost c WHERE"
                f" c.account = d.account AND c.start >= d.start AND c.start < d.start + {_DAY}),"
                " billed, first, restated, estimate)) FROM"
                " (SELECT * FROM day WHERE account = ? AND start >= ? AND start < ? ORDER BY start) d",
                bounds,
            )
        return [Day(utc(start), cost, bool(billed), *rest) for start, cost, billed, *rest in found]

    def billed(self, account: int, since: datetime) -> list[datetime]:
        """Return the billed days from `since` on, oldest first."""
        with self._store.read() as db:
            found = db.execute(
                "SELECT start FROM day WHERE account = ? AND start >= ? AND billed = 1 ORDER BY start",
                (account, int(since.timestamp())),
            ).fetchall()
        return [utc(start) for (start,) in found]

    def lessons(self, account: int, before: datetime, most: int) -> list[str]:
        """Return what the newest billed days before a day teach, newest first."""
        with self._store.read() as db:
            found = db.execute(
                "SELECT lesson FROM day WHERE account = ? AND start < ? AND billed = 1 AND lesson <> ''"
                " ORDER BY start DESC LIMIT ?",
                (account, int(before.timestamp()), most),
            ).fetchall()
        return [lesson for (lesson,) in found]

    def restated(self, account: int) -> int:
        """Return nano-USD by which billed days were ever corrected, up and down added."""
        with self._store.read() as db:
            return int(
                db.execute("SELECT COALESCE(SUM(restated), 0) FROM day WHERE account = ?", (account,)).fetchone()[0]
            )

    def unpriced(self, account: int, day: datetime) -> dict[str, int]:
        """Return model -> tokens of that UTC day for which no price is known."""
        with self._store.read() as db:
            return dict(
                db.execute(
                    "SELECT model, tokens FROM unpriced WHERE account = ? AND start = ?",
                    (account, int(day.timestamp())),
                ).fetchall()
            )

    def unvalued(self, account: int, method: str) -> list[datetime]:
        """Return the days that changed since they were valued, or were valued by another method; oldest first."""
        with self._store.read() as db:
            found = db.execute(
                "SELECT start FROM day WHERE account = ? AND method NOT IN (?, ?) ORDER BY start",
                (account, method, ROLLED),
            ).fetchall()
        return [utc(start) for (start,) in found]


class _Noted(NamedTuple):
    """What is known of a day beside its hours; the money in nano-USD."""

    told: int
    billed: int
    first: int
    restated: int
    estimate: int | None

    def after(self, worth: Worth, before: int, now: int) -> _Noted:
        """Return what is known once the day's sum is `now`: its first bill and its estimate are never overwritten."""
        if self.billed and worth.billed:
            return self._replace(restated=self.restated + abs(now - before))
        if worth.billed:
            return self._replace(billed=1, first=now, estimate=worth.estimate)
        return self._replace(billed=0)


def _noted(db: sqlite3.Connection, account: int, start: int) -> _Noted:
    found = db.execute(
        "SELECT told, billed, first, restated, estimate FROM day WHERE account = ? AND start = ?", (account, start)
    ).fetchone()
    return _Noted(0, 0, 0, 0, None) if found is None else _Noted(*found)


def _note(db: sqlite3.Connection, account: int, start: int, worth: Worth, noted: _Noted) -> None:
    db.execute(
        "INSERT OR REPLACE INTO day (account, start, method, lesson, told, billed, first, restated, estimate)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (account, start, worth.method, worth.lesson, *noted),
    )
