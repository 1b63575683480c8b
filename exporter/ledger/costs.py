"""What every hour costs, as valued from the newest tellings, and which days the provider has billed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from exporter.ledger.series import Labels, Series, labels
from exporter.ledger.store import Store, array, rows
from exporter.model import DAY, HOUR, Row, utc
from exporter.windows import Span

ROLLED = "rolled"
"""The method of a day whose hours are no longer kept: it is not valued again."""


@dataclass(frozen=True, slots=True)
class Day:
    """One valued UTC day."""

    start: datetime
    cost: int
    """nano-USD"""
    billed: bool


class Costs:
    """Nano-USD per hour and labels. A day is written whole, so what was withdrawn is gone."""

    def __init__(self, store: Store, series: Series) -> None:
        self._store = store
        self._series = series

    def put(
        self,
        account: int,
        day: datetime,
        hours: Mapping[int, Sequence[Row]],
        unpriced: Mapping[str, int],
        *,
        billed: bool,
        method: str,
    ) -> None:
        """Replace the cost of one UTC day: hour 0..23 -> rows of meter `cost`; and model -> tokens without a price.

        `method` names how it was valued, so that a later release knows which days to value again.
        """
        start = int(day.timestamp())
        told = {start + hour * int(HOUR.total_seconds()): costs for hour, costs in hours.items()}
        with self._store.write() as db:
            numbers = self._series.number(db, account, "", {labels(row) for costs in told.values() for row in costs})
            db.execute(
                "DELETE FROM cost WHERE account = ? AND start >= ? AND start < ?",
                (account, start, start + int(DAY.total_seconds())),
            )
            db.execute("DELETE FROM unpriced WHERE account = ? AND start = ?", (account, start))
            points = [(moment, numbers[labels(row)], row.value) for moment, costs in told.items() for row in costs]
            db.execute(
                "INSERT INTO cost SELECT ?, value ->> 0, value ->> 1, value ->> 2 FROM json_each(?)",
                (account, array(points)),
            )
            db.execute(
                "INSERT INTO unpriced SELECT ?, ?, value ->> 0, value ->> 1 FROM json_each(?)",
                (account, start, array(list(unpriced.items()))),
            )
            db.execute("INSERT OR REPLACE INTO day VALUES (?, ?, ?, ?)", (account, start, int(billed), method))
        with self._store.read() as db:
            self._series.refresh(account, "", db)

    def total(self, account: int, span: Span) -> dict[Labels, int]:
        """Return nano-USD per labels over a span."""
        with self._store.read() as db:
            known = self._series.labels(account, "", db)
            sums = rows(
                db,
                "SELECT json_group_array(json_array(series, total)) FROM (SELECT series, SUM(value) AS total FROM cost"
                " WHERE account = ? AND start >= ? AND start < ? GROUP BY series)",
                (account, int(span.start.timestamp()), int(span.end.timestamp())),
            )
        return {known[number]: total for number, total in sums}

    def days(self, account: int, span: Span) -> list[Day]:
        """Return the valued days that start within a span, oldest first."""
        bounds = (account, int(span.start.timestamp()), int(span.end.timestamp()))
        with self._store.read() as db:
            found = db.execute(
                "SELECT d.start, d.billed, (SELECT COALESCE(SUM(c.value), 0) FROM cost c WHERE c.account = d.account"
                f" AND c.start >= d.start AND c.start < d.start + {int(DAY.total_seconds())})"
                " FROM day d WHERE d.account = ? AND d.start >= ? AND d.start < ? ORDER BY d.start",
                bounds,
            ).fetchall()
        return [Day(utc(start), cost, bool(billed)) for start, billed, cost in found]

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
