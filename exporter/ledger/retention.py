"""Hours are kept for a season, then rolled into days; days are kept for years."""

from __future__ import annotations

import sqlite3
from datetime import datetime, timedelta

from exporter.ledger.costs import ROLLED
from exporter.ledger.store import Store
from exporter.model import DAY, LEVEL_METERS
from exporter.windows import floor

_DAY = int(DAY.total_seconds())


class Retention:
    """Keeps the ledger's size bounded. A rolled day keeps its sums and is not told again."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def apply(self, now: datetime, hours: timedelta, days: timedelta) -> int:
        """Roll whole UTC days older than `hours` into one point each, drop those older than `days`.

        Returns how many days of reports were rolled. One transaction per day and report: a kill between two
        of them leaves both whole.
        """
        cutoff = int(floor(now - hours, DAY).timestamp())
        rolled = 0
        for account, report, day in self._older_than(cutoff):
            with self._store.write() as db:
                _roll(db, account, report, day)
            rolled += 1
        with self._store.write() as db:
            _roll_costs(db, cutoff)
            _forget(db, int(floor(now - days, DAY).timestamp()))
        return rolled

    def _older_than(self, cutoff: int) -> list[tuple[int, str, int]]:
        with self._store.read() as db:
            return db.execute(
                f"SELECT DISTINCT account, report, start / {_DAY} * {_DAY} FROM bucket WHERE start < ?", (cutoff,)
            ).fetchall()


def _roll(db: sqlite3.Connection, account: int, report: str, day: int) -> None:
    span = (account, report, day, day + _DAY)
    levels = ",".join(f"'{meter}'" for meter in sorted(LEVEL_METERS))
    sums = db.execute(
        f"SELECT p.series, CASE WHEN s.meter IN ({levels}) THEN MAX(p.value) ELSE SUM(p.value) END"
        " FROM point p JOIN series s ON s.id = p.series"
        " WHERE p.account = ? AND p.report = ? AND p.start >= ? AND p.start < ? GROUP BY p.series",
        span,
    ).fetchall()
    db.execute("DELETE FROM point WHERE account = ? AND report = ? AND start >= ? AND start < ?", span)
    db.execute("DELETE FROM bucket WHERE account = ? AND report = ? AND start >= ? AND start < ?", span)
    db.executemany(
        "INSERT INTO point VALUES (?, ?, ?, ?, ?)", [(account, report, day, series, value) for series, value in sums]
    )
    db.execute("INSERT OR IGNORE INTO rolled VALUES (?, ?, ?)", span[:3])


def _roll_costs(db: sqlite3.Connection, cutoff: int) -> None:
    db.execute(
        "CREATE TEMP TABLE IF NOT EXISTS rolled_cost (account INTEGER, start INTEGER, series INTEGER, value INTEGER)"
    )
    db.execute("DELETE FROM rolled_cost")
    db.execute(
        f"INSERT INTO rolled_cost SELECT account, start / {_DAY} * {_DAY}, series, SUM(value) FROM cost"
        " WHERE start < ? GROUP BY 1, 2, 3",
        (cutoff,),
    )
    db.execute("DELETE FROM cost WHERE start < ?", (cutoff,))
    db.execute("INSERT INTO cost SELECT * FROM rolled_cost")
    db.execute("DELETE FROM rolled_cost")
    db.execute("UPDATE day SET method = ? WHERE start < ?", (ROLLED, cutoff))


def _forget(db: sqlite3.Connection, cutoff: int) -> None:
    for table in ("point", "bucket", "cost", "day", "unpriced"):
        db.execute(f"DELETE FROM {table} WHERE start < ?", (cutoff,))
    db.execute("DELETE FROM rolled WHERE day < ?", (cutoff,))
