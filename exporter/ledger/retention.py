"""Retention: hours are kept for a while, then rolled up into days; days are kept for longer, then deleted."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

from exporter.ledger.costs import ROLLED_UP
from exporter.ledger.day_versions import DayVersions
from exporter.ledger.store import Connection, Store, placeholders
from exporter.model import DAY, GAUGE_METERS, utc
from exporter.windows import floor

_DAY_SECONDS = int(DAY.total_seconds())


class _ReportDay(NamedTuple):
    """A UTC day of a report."""

    account: int
    report: str
    start: int
    """Seconds since the epoch."""


class _CostDay(NamedTuple):
    """A valued UTC day."""

    account: int
    start: int
    """Seconds since the epoch."""


class Retention:
    """Keeps the ledger's size bounded. A rolled-up day keeps its sums; buckets of it are not stored again."""

    def __init__(self, store: Store, day_versions: DayVersions) -> None:
        self._store = store
        self._day_versions = day_versions

    def apply(self, now: datetime, keep_hours: timedelta, keep_days: timedelta) -> int:
        """Roll up whole UTC days older than `keep_hours` into one row per series; delete those older than `keep_days`.

        Returns the number of days of reports that were rolled up. Each day and report is a transaction of its own: it
        is short, and a kill between two of them leaves both days whole.
        """
        cutoff = int(floor(now - keep_hours, DAY).timestamp())
        report_days = self._report_days_before(cutoff)
        for report_day in report_days:
            with self._store.write() as db:
                _roll_up_report(db, report_day)
            self._day_versions.increment(report_day.account, [report_day.start])
        for cost_day in self._cost_days_before(cutoff):
            with self._store.write() as db:
                _roll_up_cost(db, cost_day)
            self._day_versions.increment(cost_day.account, [cost_day.start])
        with self._store.write() as db:
            # A day that was rolled up is not read again.
            db.execute("DELETE FROM day_read WHERE day < ?", (cutoff,))
            _delete_before(db, int(floor(now - keep_days, DAY).timestamp()))
        return len(report_days)

    def newest_bucket(self) -> datetime | None:
        """Return the start of the newest bucket of any account that has rows; None where none is stored."""
        with self._store.read() as db:
            (start,) = db.execute("SELECT MAX(start) FROM bucket").fetchone()
        return None if start is None else utc(start)

    def _report_days_before(self, cutoff: int) -> list[_ReportDay]:
        with self._store.read() as db:
            found = db.execute(
                f"SELECT DISTINCT account, report, start / {_DAY_SECONDS} * {_DAY_SECONDS} FROM bucket WHERE start < ?",
                (cutoff,),
            )
            return [_ReportDay(*columns) for columns in found]

    def _cost_days_before(self, cutoff: int) -> list[_CostDay]:
        with self._store.read() as db:
            found = db.execute("SELECT account, start FROM day WHERE start < ? AND method <> ?", (cutoff, ROLLED_UP))
            return [_CostDay(*columns) for columns in found]


def _roll_up_report(db: Connection, day: _ReportDay) -> None:
    bounds = (day.account, day.report, day.start, day.start + _DAY_SECONDS)
    gauge_meters = sorted(GAUGE_METERS)
    # The hours of a gauge are levels: their sum means nothing, the day has the largest.
    totals = db.execute(
        f"SELECT p.series, CASE WHEN s.meter IN ({placeholders(gauge_meters)}) THEN MAX(p.value) ELSE SUM(p.value) END"
        " FROM point p JOIN series s ON s.id = p.series"
        " WHERE p.account = ? AND p.report = ? AND p.start >= ? AND p.start < ? GROUP BY p.series, s.meter",
        (*gauge_meters, *bounds),
    ).fetchall()
    db.execute("DELETE FROM point WHERE account = ? AND report = ? AND start >= ? AND start < ?", bounds)
    db.execute("DELETE FROM bucket WHERE account = ? AND report = ? AND start >= ? AND start < ?", bounds)
    db.executemany(
        "INSERT INTO point (account, report, start, series, value) VALUES (?, ?, ?, ?, ?)",
        [(day.account, day.report, day.start, series, value) for series, value in totals],
    )
    db.execute("INSERT INTO rolled (account, report, day) VALUES (?, ?, ?) ON CONFLICT DO NOTHING", day)
    db.execute(
        "UPDATE day SET cost_revision = cost_revision + 1 WHERE account = ? AND start = ?", (day.account, day.start)
    )


def _roll_up_cost(db: Connection, day: _CostDay) -> None:
    bounds = (day.account, day.start, day.start + _DAY_SECONDS)
    totals = db.execute(
        "SELECT series, SUM(value) FROM cost WHERE account = ? AND start >= ? AND start < ? GROUP BY series", bounds
    ).fetchall()
    db.execute("DELETE FROM cost WHERE account = ? AND start >= ? AND start < ?", bounds)
    db.executemany(
        "INSERT INTO cost (account, start, series, value) VALUES (?, ?, ?, ?)",
        [(day.account, day.start, series, value) for series, value in totals],
    )
    db.execute(
        "UPDATE day SET method = ?, cost_revision = cost_revision + 1 WHERE account = ? AND start = ?",
        (ROLLED_UP, *day),
    )


def _delete_before(db: Connection, cutoff: int) -> None:
    for table in ("point", "bucket", "cost", "day", "unpriced"):
        db.execute(f"DELETE FROM {table} WHERE start < ?", (cutoff,))
    db.execute("DELETE FROM rolled WHERE day < ?", (cutoff,))
