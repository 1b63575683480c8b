"""Buckets: whole ones replace whole ones, so retry, overlap, late correction and backfill are one operation."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b

from exporter.ledger.day_versions import DayVersions
from exporter.ledger.series import SeriesIndex, labels, row_of
from exporter.ledger.store import Store, fetch_json, to_json
from exporter.model import DAY, GAUGE_METERS, HOUR, Bucket, Row, RowLabels, utc
from exporter.windows import TimeRange, floor

Point = tuple[int, int]
"""The number of a series, and a value."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """The one stretch of time that a report's tellings cover without a gap, and when it was last read in depth."""

    since: datetime
    until: datetime
    """Also the time of the newest poll that reached the present."""
    last_refresh: datetime


@dataclass(frozen=True, slots=True)
class BucketUpdate:
    """What a transaction that has not ended yet changes: to be noted when it has."""

    account: int
    report: str
    days: frozenset[int]
    coverage: Coverage


class Buckets:
    """The newest telling of every bucket of every account's reports."""

    def __init__(self, store: Store, series: SeriesIndex, day_versions: DayVersions) -> None:
        self._store = store
        self._series = series
        self._day_versions = day_versions
        self._coverage: dict[tuple[int, str], Coverage | None] = {}

    def register_account(self, name: str, provider: str) -> int:
        """Return the account's number in this ledger."""
        return self._series.register_account(name, provider)

    def find_account(self, name: str, provider: str) -> int | None:
        """Return the account's number; None where the ledger was never told of it."""
        return self._series.find_account(name, provider)

    def put(
        self,
        account: int,
        report: str,
        time_range: TimeRange,
        buckets: Iterable[Bucket],
        *,
        completes_refresh: bool = False,
    ) -> frozenset[datetime]:
        """Replace whole buckets and widen the coverage, in one transaction; return the UTC days that changed.

        `settled` says that the span reached back over all that the provider may still revise. Days that changed are
        marked as not valued. A bucket told again in the same words writes nothing. Raises LedgerError; then nothing
        of it is stored.
        """
        totals = {_timestamp(bucket.start): _totals(bucket.rows) for bucket in buckets}
        every = {one for told in totals.values() for one in told}
        with self._store.write() as db:
            number = self._series.intern_labels(db, account, report, every)
            points = {
                start: sorted((number[one], value) for one, value in told.items()) for start, told in totals.items()
            }
            digests = {start: _digest(told) for start, told in points.items() if told}
            changed = _changed_starts(db, account, report, list(points), digests)
            _replace(db, account, report, {start: points[start] for start in changed}, digests)
            days = _mark_unvalued(db, account, changed)
            coverage = _extend_coverage(db, account, report, time_range, completes_refresh=completes_refresh)
        self.publish(BucketUpdate(account, report, days, coverage))
        return frozenset(map(utc, days))

    def add(
        self,
        db: sqlite3.Connection,
        account: int,
        report: str,
        sums: Mapping[datetime, Mapping[RowLabels, int]],
        time_range: TimeRange,
    ) -> BucketUpdate:
        """Add to buckets and widen the coverage, in the caller's transaction; `note` what is returned after its end."""
        number = self._series.intern_labels(db, account, report, {one for told in sums.values() for one in told})
        starts = list(map(_timestamp, sums))
        db.execute(
            "INSERT INTO point SELECT ?, ?, value ->> 0, value ->> 1, value ->> 2 FROM json_each(?) WHERE true"
            " ON CONFLICT (account, report, start, series) DO UPDATE SET value = value + excluded.value",
            (
                account,
                report,
                to_json(
                    [
                        (_timestamp(start), number[one], value)
                        for start, told in sums.items()
                        for one, value in told.items()
                    ]
                ),
            ),
        )
        db.execute(
            "INSERT OR REPLACE INTO bucket SELECT ?, ?, value, '' FROM json_each(?)", (account, report, to_json(starts))
        )
        return BucketUpdate(
            account,
            report,
            _mark_unvalued(db, account, starts),
            _extend_coverage(db, account, report, time_range, completes_refresh=False),
        )

    def publish(self, update: BucketUpdate) -> None:
        """Let readers know of a change that can be read by now."""
        self._day_versions.increment(update.account, update.days)
        known = self._coverage.get((update.account, update.report))
        if known is None or known.until <= update.coverage.until:  # else somebody was faster with a newer one
            self._coverage[update.account, update.report] = update.coverage

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
        start = _timestamp(day)
        hours: dict[int, list[Row]] = {}
        with self._store.read() as db:
            points = fetch_json(
                db,
                "SELECT json_group_array(json_array(start, series, value)) FROM point"
                " WHERE account = ? AND report = ? AND start >= ? AND start < ?",
                (account, report, start, start + int(DAY.total_seconds())),
            )
            known = self._series.labels(db, account, report, {number for _, number, _ in points})
        for moment, number, value in points:
            hour = (moment - start) // int(HOUR.total_seconds())
            hours.setdefault(hour, []).append(row_of(known[number], value))
        return hours

    def units(self, account: int, reports: Sequence[str], time_range: TimeRange) -> dict[RowLabels, int]:
        """Return the sum of every series over a span; of a stock (bytes) the largest hour."""
        totals: dict[RowLabels, int] = {}
        with self._store.read() as db:
            for report in reports:
                sums = fetch_json(
                    db,
                    "SELECT json_group_array(json_array(series, total, peak)) FROM"
                    " (SELECT series, SUM(value) AS total, MAX(value) AS peak FROM point"
                    " WHERE account = ? AND report = ? AND start >= ? AND start < ? GROUP BY series)",
                    (account, report, _timestamp(time_range.start), _timestamp(time_range.end)),
                )
                known = self._series.labels(db, account, report, (number for number, _, _ in sums))
                for number, total, peak in sums:
                    one = known[number]
                    totals[one] = totals.get(one, 0) + (peak if one[0] in GAUGE_METERS else total)
        return totals

    def days(self, account: int, reports: Sequence[str], since: datetime) -> frozenset[datetime]:
        """Return the UTC days from `since` on of which these reports told anything but nothing."""
        width = int(DAY.total_seconds())
        with self._store.read() as db:
            found = fetch_json(
                db,
                f"SELECT json_group_array(DISTINCT start / {width} * {width}) FROM bucket"
                " WHERE account = ? AND report IN (SELECT value FROM json_each(?)) AND start >= ?",
                (account, to_json(reports), _timestamp(since)),
            )
        return frozenset(map(utc, found))


def _timestamp(time: datetime) -> int:
    return int(time.timestamp())


def _start_of_day(start: int) -> int:
    return _timestamp(floor(utc(start), DAY))


def _totals(rows: Iterable[Row]) -> dict[RowLabels, int]:
    totals: dict[RowLabels, int] = {}
    for row in rows:
        one = labels(row)
        totals[one] = totals.get(one, 0) + row.value
    return totals


def _digest(points: Sequence[Point]) -> str:
    return blake2b(to_json(points).encode(), digest_size=16).hexdigest()


def _changed_starts(
    db: sqlite3.Connection, account: int, report: str, starts: Sequence[int], digests: Mapping[int, str]
) -> list[int]:
    """Return the starts of the buckets whose telling is not the known one; a bucket without rows is not stored."""
    if not starts:
        return []
    bounds = (account, report, min(starts), max(starts))
    known = dict(
        fetch_json(
            db,
            "SELECT json_group_array(json_array(start, digest)) FROM bucket"
            " WHERE account = ? AND report = ? AND start BETWEEN ? AND ?",
            bounds,
        )
    )
    rolled = set(
        fetch_json(
            db,
            "SELECT json_group_array(day) FROM rolled WHERE account = ? AND report = ? AND day BETWEEN ? AND ?",
            (*bounds[:2], _start_of_day(bounds[2]), bounds[3]),
        )
    )
    return [start for start in starts if known.get(start) != digests.get(start) and _start_of_day(start) not in rolled]


def _replace(
    db: sqlite3.Connection,
    account: int,
    report: str,
    points_by_start: Mapping[int, Sequence[Point]],
    digests: Mapping[int, str],
) -> None:
    if not points_by_start:
        return
    for table in ("point", "bucket"):
        db.execute(
            f"DELETE FROM {table} WHERE account = ? AND report = ? AND start IN (SELECT value FROM json_each(?))",
            (account, report, to_json(list(points_by_start))),
        )
    db.execute(
        "INSERT INTO bucket SELECT ?, ?, value ->> 0, value ->> 1 FROM json_each(?)",
        (account, report, to_json([(start, digests[start]) for start, points in points_by_start.items() if points])),
    )
    db.execute(
        "INSERT INTO point SELECT ?, ?, value ->> 0, value ->> 1, value ->> 2 FROM json_each(?)",
        (account, report, to_json([(start, *point) for start, points in points_by_start.items() for point in points])),
    )


def _mark_unvalued(db: sqlite3.Connection, account: int, starts: Iterable[int]) -> frozenset[int]:
    """Mark the UTC days of changed buckets as not valued, and return them.

    In the same transaction: a kill before the days are valued anew cannot leave an old cost standing.
    """
    days = frozenset(map(_start_of_day, starts))
    db.execute(
        "INSERT INTO day (account, start, told, method) SELECT ?, value, 1, '' FROM json_each(?) WHERE true"
        " ON CONFLICT (account, start) DO UPDATE SET told = told + 1, method = ''",
        (account, to_json(sorted(days))),
    )
    return days


def _extend_coverage(
    db: sqlite3.Connection, account: int, report: str, time_range: TimeRange, *, completes_refresh: bool
) -> Coverage:
    """Join the span to the coverage; a span that does not touch it begins a new one, so no gap is ever covered."""
    since, until = time_range.start.timestamp(), time_range.end.timestamp()
    deep = until if completes_refresh else 0.0
    found = db.execute(
        "SELECT since, until, settled FROM coverage WHERE account = ? AND report = ?", (account, report)
    ).fetchone()
    if found is not None:
        if since <= found[1] and until >= found[0]:
            since, until = min(since, found[0]), max(until, found[1])
        deep = max(deep, found[2])
    db.execute("INSERT OR REPLACE INTO coverage VALUES (?, ?, ?, ?, ?)", (account, report, since, until, deep))
    return Coverage(utc(since), utc(until), utc(deep))
