"""Buckets: whole ones replace whole ones, so retry, overlap, late correction and backfill are one operation."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b

from exporter.ledger.series import Labels, Series, labels, row_of
from exporter.ledger.store import Store, array, rows
from exporter.model import DAY, HOUR, LEVEL_METERS, Bucket, Row, utc
from exporter.windows import Span, floor

Totals = Mapping[Labels, int]


@dataclass(frozen=True, slots=True)
class Coverage:
    """The one stretch of time that a report's tellings cover without a gap, and when it was last read in depth."""

    since: datetime
    until: datetime
    """Also the time of the newest poll that reached the present."""
    settled: datetime


class Buckets:
    """The newest telling of every bucket of every account's reports."""

    def __init__(self, store: Store, series: Series) -> None:
        self._store = store
        self._series = series
        self._coverage: dict[tuple[int, str], Coverage | None] = {}

    def account(self, name: str, provider: str) -> int:
        """Return the account's number in this ledger."""
        return self._series.account(name, provider)

    def put(
        self, account: int, report: str, span: Span, buckets: Iterable[Bucket], *, settled: bool = False
    ) -> frozenset[datetime]:
        """Replace whole buckets and widen the coverage, in one transaction; return the UTC days that changed.

        `settled` says that the span reached back over all that the provider may still revise. Days that changed are
        marked as not valued. A bucket told again in the same words writes nothing. Raises LedgerError; then nothing
        of it is stored.
        """
        told = {_stamp(bucket.start): _totals(bucket.rows) for bucket in buckets}
        with self._store.write() as db:
            changed = _changed(db, account, report, told)
            self._replace(db, account, report, {start: told[start] for start in changed})
            days = {_stamp(floor(utc(start), DAY)) for start in changed}
            # In the same transaction: a kill before the days are valued anew cannot leave an old cost standing.
            db.execute(
                "INSERT INTO day SELECT ?, value, 0, '' FROM json_each(?) WHERE true"
                " ON CONFLICT (account, start) DO UPDATE SET method = ''",
                (account, array(sorted(days))),
            )
            coverage = _widen(db, account, report, span, settled=settled)
        if changed:
            with self._store.read() as db:
                self._series.refresh(account, report, db)
        self._coverage[account, report] = coverage
        return frozenset(map(utc, days))

    def _replace(self, db: sqlite3.Connection, account: int, report: str, told: Mapping[int, Totals]) -> None:
        if not told:
            return
        numbers = self._series.number(db, account, report, {one for totals in told.values() for one in totals})
        starts = array(list(told))
        for table in ("point", "bucket"):
            db.execute(
                f"DELETE FROM {table} WHERE account = ? AND report = ? AND start IN (SELECT value FROM json_each(?))",
                (account, report, starts),
            )
        db.execute(
            "INSERT INTO bucket SELECT ?, ?, value ->> 0, value ->> 1 FROM json_each(?)",
            (account, report, array([(start, _digest(totals)) for start, totals in told.items() if totals])),
        )
        points = [(start, numbers[one], value) for start, totals in told.items() for one, value in totals.items()]
        db.execute(
            "INSERT INTO point SELECT ?, ?, value ->> 0, value ->> 1, value ->> 2 FROM json_each(?)",
            (account, report, array(points)),
        )

    def coverage(self, account: int, report: str) -> Coverage | None:
        """Return what a report's tellings cover; None before the first."""
        if (account, report) not in self._coverage:
            with self._store.read() as db:
                found = db.execute(
                    "SELECT since, until, settled FROM coverage WHERE account = ? AND report = ?", (account, report)
                ).fetchone()
            # A telling that was stored since this read is newer: it stays.
            self._coverage.setdefault((account, report), None if found is None else Coverage(*map(utc, found)))
        return self._coverage[account, report]

    def rows(self, account: int, report: str, day: datetime) -> dict[int, list[Row]]:
        """Return what a report told of one UTC day: hour 0..23 -> rows; a bill's rows are all under 0."""
        start = _stamp(day)
        hours: dict[int, list[Row]] = {}
        with self._store.read() as db:
            known = self._series.labels(account, report, db)
            points = rows(
                db,
                "SELECT json_group_array(json_array(start, series, value)) FROM point"
                " WHERE account = ? AND report = ? AND start >= ? AND start < ?",
                (account, report, start, start + int(DAY.total_seconds())),
            )
        for moment, number, value in points:
            hour = (moment - start) // int(HOUR.total_seconds())
            hours.setdefault(hour, []).append(row_of(known[number], value))
        return hours

    def units(self, account: int, reports: Sequence[str], span: Span) -> dict[Labels, int]:
        """Return the sum of every series over a span; of a stock (bytes) the largest hour."""
        totals: dict[Labels, int] = {}
        with self._store.read() as db:
            for report in reports:
                known = self._series.labels(account, report, db)
                sums = rows(
                    db,
                    "SELECT json_group_array(json_array(series, total, peak)) FROM"
                    " (SELECT series, SUM(value) AS total, MAX(value) AS peak FROM point"
                    " WHERE account = ? AND report = ? AND start >= ? AND start < ? GROUP BY series)",
                    (account, report, _stamp(span.start), _stamp(span.end)),
                )
                for number, total, peak in sums:
                    one = known[number]
                    totals[one] = totals.get(one, 0) + (peak if one[0] in LEVEL_METERS else total)
        return totals

    def days(self, account: int, reports: Sequence[str], since: datetime) -> frozenset[datetime]:
        """Return the UTC days from `since` on of which these reports told anything but nothing."""
        width = int(DAY.total_seconds())
        with self._store.read() as db:
            found = rows(
                db,
                f"SELECT json_group_array(DISTINCT start / {width} * {width}) FROM bucket"
                " WHERE account = ? AND report IN (SELECT value FROM json_each(?)) AND start >= ?",
                (account, array(reports), _stamp(since)),
            )
        return frozenset(map(utc, found))


def _stamp(moment: datetime) -> int:
    return int(moment.timestamp())


def _totals(told: Iterable[Row]) -> Totals:
    totals: dict[Labels, int] = {}
    for row in told:
        one = labels(row)
        totals[one] = totals.get(one, 0) + row.value
    return totals


def _digest(totals: Totals) -> str:
    return blake2b(repr(sorted(totals.items())).encode(), digest_size=16).hexdigest()


def _changed(db: sqlite3.Connection, account: int, report: str, told: Mapping[int, Totals]) -> list[int]:
    """Return the starts of the buckets whose telling is not the known one; a bucket without rows is not stored."""
    if not told:
        return []
    bounds = (account, report, min(told), max(told))
    known = dict(
        rows(
            db,
            "SELECT json_group_array(json_array(start, digest)) FROM bucket"
            " WHERE account = ? AND report = ? AND start BETWEEN ? AND ?",
            bounds,
        )
    )
    rolled = set(
        rows(
            db,
            "SELECT json_group_array(day) FROM rolled WHERE account = ? AND report = ? AND day BETWEEN ? AND ?",
            (*bounds[:2], _stamp(floor(utc(bounds[2]), DAY)), bounds[3]),
        )
    )
    return [
        start
        for start, totals in told.items()
        if known.get(start) != (_digest(totals) if totals else None) and _stamp(floor(utc(start), DAY)) not in rolled
    ]


def _widen(db: sqlite3.Connection, account: int, report: str, span: Span, *, settled: bool) -> Coverage:
    """Join the span to the coverage; a span that does not touch it begins a new one, so no gap is ever covered."""
    since, until = span.start.timestamp(), span.end.timestamp()
    deep = until if settled else 0.0
    found = db.execute(
        "SELECT since, until, settled FROM coverage WHERE account = ? AND report = ?", (account, report)
    ).fetchone()
    if found is not None:
        if since <= found[1] and until >= found[0]:
            since, until = min(since, found[0]), max(until, found[1])
        deep = max(deep, found[2])
    db.execute("INSERT OR REPLACE INTO coverage VALUES (?, ?, ?, ?, ?)", (account, report, since, until, deep))
    return Coverage(utc(since), utc(until), utc(deep))
