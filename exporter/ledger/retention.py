"""Hours are kept for a season, then rolled into days; days are kept for years."""

from __future__ import annotations

import sqlite3
from datetime import datetime, timedelta

from exporter.ledger.costs import ROLLED_UP
from exporter.ledger.day_versions import DayVersions
from exporter.ledger.store import Store, to_json
from exporter.model import DAY, GAUGE_METERS
from exporter.windows import floor

_DAY_SECONDS = int(DAY.total_seconds())


class Retention:
    """Keeps the ledger's size bounded. A rolled day keeps its sums and is not told again."""

    def __init__(self, store: Store, day_versions: DayVersions) -> None:
        self._store = store
        self._day_versions = day_versions

    def apply(self, now: datetime, keep_hours: timedelta, keep_days: timedelta) -> int:
        """Roll whole UTC days older than `hours` into one point each, drop those older than `days`.

        Returns how many days of reports were rolled. One transaction per day and report: a kill between two
        of them leaves both whole.
        """
        cutoff = int(floor(now - keep_hours, DAY).timestamp())
        told, valued = self._older_than(cutoff)
        for account, report, day in told:
            with self._store.write() as db:
                _roll_up_report(db, account, report, day)
            self._day_versions.increment(account, [day])
        for account, day in valued:
            with self._store.write() as db:
                _roll_up_cost(db, account, day)
            self._day_versions.increment(account, [day])
        with self._store.write() as db:
            _delete_before(db, int(floor(now - keep_days, DAY).timestamp()))
        return len(told)

    def _older_than(self, cutoff: int) -> tuple[list[tuple[int, str, int]], list[tuple[int, int]]]:
        with self._store.read() as db:
            told = db.execute(
                f"SELECT DISTINCT account, report, start / {_DAY_SECONDS} * {_DAY_SECONDS} FROM bucket WHERE start < ?",
                (cutoff,),
            ).fetchall()
            valued = db.execute(
                "SELECT account, start FROM day WHERE start < ? AND method <> ?", (cutoff, ROLLED_UP)
            ).fetchall()
        return told, valued


def _roll_up_report(db: sqlite3.Connection, account: int, report: str, day: int) -> None:
    span = (account, report, day, day + _DAY_SECONDS)
    levels = ",".join(f"'{meter}'" for meter in sorted(GAUGE_METERS))
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


def _roll_up_cost(db: sqlite3.Connection, account: int, day: int) -> None:
    span = (account, day, day + _DAY_SECONDS)
    sums = db.execute(
        "SELECT series, SUM(value) FROM cost WHERE account = ? AND start >= ? AND start < ? GROUP BY series", span
    ).fetchall()
    db.execute("DELETE FROM cost WHERE account = ? AND start >= ? AND start < ?", span)
    db.execute(
        "INSERT INTO cost SELECT ?, ?, value ->> 0, value ->> 1 FROM json_each(?)", (account, day, to_json(sums))
    )
    db.execute("UPDATE day SET method = ? WHERE account = ? AND start = ?", (ROLLED_UP, account, day))


def _delete_before(db: sqlite3.Connection, cutoff: int) -> None:
    for table in ("point", "bucket", "cost", "day", "unpriced"):
        db.execute(f"DELETE FROM {table} WHERE start < ?", (cutoff,))
    db.execute("DELETE FROM rolled WHERE day < ?", (cutoff,))
