"""Buckets: the rows of a report for one hour or day, always replaced as a whole.

Because a bucket replaces the whole bucket, retries, overlapping polls, late corrections and backfill are one operation
and need no distinction: the newest version of a bucket is what counts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from itertools import chain

import msgspec

from exporter.ledger.day_versions import DayVersions
from exporter.ledger.series import SeriesIndex
from exporter.ledger.store import Connection, Store, placeholders
from exporter.model import DAY, GAUGE_METERS, HOUR, Bucket, Row, RowLabels, to_row, utc
from exporter.windows import TimeRange

_DAY_SECONDS = int(DAY.total_seconds())
_HOUR_SECONDS = int(HOUR.total_seconds())


_Point = tuple[int, int]
"""Series and value of a bucket. Not a NamedTuple: unlike those, plain tuples of numbers are no work for the garbage
collector, which takes longer for the tens of thousands of a first poll than all other work on them."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """The time range that a report's polls cover without a gap."""

    since: datetime
    until: datetime
    """Also the time of the newest poll that reached the present."""
    last_refresh: datetime
    """The time of the newest poll that read everything that the provider may still revise."""


@dataclass(frozen=True, slots=True)
class DaysRead:
    """The UTC days that a read of a report completed, and its time."""

    days: Collection[datetime]
    """Their starts. A day is complete when all of its buckets were read, or all until now."""
    time: datetime


@dataclass(frozen=True, slots=True)
class BucketUpdate:
    """The changes of a transaction, to be published after it was committed."""

    account: int
    report: str
    days: frozenset[int]
    """Starts of the changed UTC days, in seconds since the epoch."""
    coverage: Coverage


class Buckets:
    """The newest version of every bucket of every account's reports."""

    def __init__(self, store: Store, series: SeriesIndex, day_versions: DayVersions) -> None:
        self._store = store
        self._series = series
        self._day_versions = day_versions
        self._coverage: dict[tuple[int, str], Coverage | None] = {}

    def register_account(self, name: str, provider: str) -> int:
        """Return the account's number in this ledger."""
        return self._series.register_account(name, provider)

    def find_account(self, name: str, provider: str) -> int | None:
        """Return the account's number; None where the ledger does not have it."""
        return self._series.find_account(name, provider)

    def put(
        self,
        account: int,
        report: str,
        time_range: TimeRange,
        buckets: Iterable[Bucket],
        *,
        completes_refresh: bool = False,
        days_read: DaysRead | None = None,
    ) -> frozenset[datetime]:
        """Replace whole buckets and extend the coverage, in one transaction; return the UTC days that changed.

        `completes_refresh` states that the time range includes everything that the provider may still revise. The days
        of `days_read` get its time as that of their newest read. Changed days are marked as not valued. An unchanged
        bucket writes nothing. Raises LedgerError; then nothing is stored.
        """
        totals_by_start = {_timestamp(bucket.start): bucket.totals for bucket in buckets}
        # In the order in which they come: then the points of most buckets are sorted already.
        label_sets = dict.fromkeys(chain.from_iterable(totals_by_start.values()))
        with self._store.write() as db:
            numbers = self._series.intern_labels(db, account, report, label_sets)
            points_by_start = {
                start: sorted(zip(map(numbers.__getitem__, totals), totals.values(), strict=True))
                for start, totals in totals_by_start.items()
            }
            digests = {start: _digest(points) for start, points in points_by_start.items() if points}
            stored_digests = _read_digests(db, account, report, points_by_start)
            changed = _changed_starts(db, account, report, points_by_start, digests, stored_digests)
            _delete(db, account, report, [start for start in changed if start in stored_digests])
            _insert(self._store, db, account, report, {start: points_by_start[start] for start in changed}, digests)
            days = _mark_unvalued(db, account, changed)
            coverage = _extend_coverage(db, account, report, time_range, completes_refresh=completes_refresh)
            _advance_reread(db, account, report, time_range)
            if days_read is not None:
                _record_days_read(db, account, report, days_read)
        self.publish(BucketUpdate(account, report, days, coverage))
        return frozenset(map(utc, days))

    def add(
        self,
        db: Connection,
        account: int,
        report: str,
        sums: Mapping[datetime, Mapping[RowLabels, int]],
        time_range: TimeRange,
    ) -> BucketUpdate:
        """Add to buckets (start -> labels -> value) and extend the coverage, in the caller's transaction.

        The caller has to `publish` the result after the transaction was committed.
        """
        label_sets = {labels for hour in sums.values() for labels in hour}
        numbers = self._series.intern_labels(db, account, report, label_sets)
        starts = [_timestamp(time) for time in sums]
        db.executemany(
            "INSERT INTO point (account, report, start, series, value) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (account, report, start, series) DO UPDATE SET value = point.value + excluded.value",
            [
                (account, report, _timestamp(time), numbers[labels], value)
                for time, hour in sums.items()
                for labels, value in hour.items()
            ],
        )
        # Sums have no digest: they are never compared with a whole new version.
        db.executemany(
            "INSERT INTO bucket (account, report, start, digest) VALUES (?, ?, ?, '')"
            " ON CONFLICT (account, report, start) DO UPDATE SET digest = excluded.digest",
            [(account, report, start) for start in starts],
        )
        days = _mark_unvalued(db, account, starts)
        coverage = _extend_coverage(db, account, report, time_range, completes_refresh=False)
        return BucketUpdate(account, report, days, coverage)

    def publish(self, update: BucketUpdate) -> None:
        """Make a committed change known to readers that keep results."""
        self._day_versions.increment(update.account, update.days)
        known = self._coverage.get((update.account, update.report))
        # Transactions of several threads may be published out of order; the newest coverage stays.
        if known is None or known.until <= update.coverage.until:
            self._coverage[update.account, update.report] = update.coverage

    def coverage(self, account: int, report: str) -> Coverage | None:
        """Return a report's coverage; None before its first poll."""
        if (account, report) not in self._coverage:
            with self._store.read() as db:
                coverage = _read_coverage(db, account, report)
            # A coverage that was published since this read is newer: setdefault leaves it.
            self._coverage.setdefault((account, report), coverage)
        return self._coverage[account, report]

    def forget_coverage(self) -> None:
        """Read every coverage again when it is next used."""
        self._coverage.clear()

    def truncate_coverage(
        self, account: int, report: str, now: datetime, *, needs_refresh: bool, reread: TimeRange | None = None
    ) -> None:
        """End a coverage at `now` that reaches beyond it, because it was written while the clock was ahead.

        With `needs_refresh` everything that the provider may still revise is due to be read again. `reread` is stored
        among `pending_rereads`, in the same transaction: afterwards nothing shows that the clock was wrong. Reads of
        days at a time after `now` are forgotten. A coverage that only begins after `now` is removed.

        Raises LedgerError.
        """
        known = self.coverage(account, report)
        if known is None or known.until <= now:
            return
        with self._store.write() as db:
            known = _read_coverage(db, account, report)
            if known is None:
                return
            key = (account, report)
            coverage = None
            if known.since < now:
                coverage = Coverage(known.since, now, utc(0) if needs_refresh else min(known.last_refresh, now))
                db.execute(
                    "UPDATE coverage SET until = ?, last_refresh = ? WHERE account = ? AND report = ?",
                    (coverage.until.timestamp(), coverage.last_refresh.timestamp(), *key),
                )
            else:
                db.execute("DELETE FROM coverage WHERE account = ? AND report = ?", key)
            db.execute("DELETE FROM day_read WHERE account = ? AND report = ? AND time > ?", (*key, now.timestamp()))
            if reread is not None:
                db.execute(
                    "INSERT INTO reread (account, report, since, until) VALUES (?, ?, ?, ?)"
                    " ON CONFLICT (account, report) DO UPDATE"
                    " SET since = CASE WHEN excluded.since < reread.since THEN excluded.since ELSE reread.since END,"
                    " until = CASE WHEN excluded.until > reread.until THEN excluded.until ELSE reread.until END",
                    (*key, reread.start.timestamp(), reread.end.timestamp()),
                )
        self._coverage[key] = coverage

    def pending_rereads(self, account: int) -> dict[str, TimeRange]:
        """Return report -> the time range that was read while the clock was wrong and has not been read again."""
        with self._store.read() as db:
            found = db.execute("SELECT report, since, until FROM reread WHERE account = ?", (account,)).fetchall()
        return {report: TimeRange(utc(since), utc(until)) for report, since, until in found}

    def rows(self, account: int, report: str, day: datetime) -> dict[int, list[Row]]:
        """Return a report's rows of one UTC day: hour 0..23 -> rows; those of a bill are all under 0."""
        day_start = _timestamp(day)
        with self._store.read() as db:
            points = db.execute(
                "SELECT start, series, value FROM point WHERE account = ? AND report = ? AND start >= ? AND start < ?"
                " ORDER BY start, series",
                (account, report, day_start, day_start + _DAY_SECONDS),
            ).fetchall()
            known_labels = self._series.labels(db, account, report, {series for _, series, _ in points})
        hours: dict[int, list[Row]] = {}
        for start, series, value in points:
            hour = (start - day_start) // _HOUR_SECONDS
            hours.setdefault(hour, []).append(to_row(known_labels[series], value))
        return hours

    def units(self, account: int, reports: Sequence[str], time_range: TimeRange) -> dict[RowLabels, int]:
        """Return the sum of every series over a time range; of a gauge meter (bytes) the largest hour."""
        units: dict[RowLabels, int] = {}
        with self._store.read() as db:
            for report in reports:
                found = db.execute(
                    "SELECT series, SUM(value), MAX(value) FROM point"
                    " WHERE account = ? AND report = ? AND start >= ? AND start < ? GROUP BY series"
                    " ORDER BY series",
                    (account, report, _timestamp(time_range.start), _timestamp(time_range.end)),
                ).fetchall()
                known_labels = self._series.labels(db, account, report, (series for series, _, _ in found))
                for series, total, largest in found:
                    labels = known_labels[series]
                    value = largest if labels.meter in GAUGE_METERS else total
                    units[labels] = units.get(labels, 0) + value
        return units

    def days(self, account: int, reports: Sequence[str], since: datetime) -> frozenset[datetime]:
        """Return the UTC days from `since` on for which these reports have any rows."""
        with self._store.read() as db:
            found = db.execute(
                f"SELECT DISTINCT start / {_DAY_SECONDS} * {_DAY_SECONDS} FROM bucket"
                f" WHERE account = ? AND report IN ({placeholders(reports)}) AND start >= ?",
                (account, *reports, _timestamp(since)),
            ).fetchall()
        return frozenset(utc(start) for (start,) in found)

    def last_reads(self, account: int, reports: Sequence[str], time_range: TimeRange) -> dict[datetime, datetime]:
        """Return the start of each UTC day within a time range -> when all of these reports were last read.

        That is the oldest of the reports' newest reads. Reports and days without a known read are left out.
        """
        with self._store.read() as db:
            found = db.execute(
                f"SELECT day, MIN(time) FROM day_read WHERE account = ? AND report IN ({placeholders(reports)})"
                " AND day >= ? AND day < ? GROUP BY day ORDER BY day",
                (account, *reports, _timestamp(time_range.start), _timestamp(time_range.end)),
            ).fetchall()
        return {utc(day): utc(time) for day, time in found}


def _timestamp(time: datetime) -> int:
    return int(time.timestamp())


def _start_of_day(start: int) -> int:
    return start - start % _DAY_SECONDS


def _digest(points: Sequence[_Point]) -> str:
    """Return a digest of sorted points: polls overlap, and most buckets are read again unchanged."""
    return blake2b(msgspec.json.encode(points), digest_size=16).hexdigest()


def _read_digests(db: Connection, account: int, report: str, starts: Collection[int]) -> dict[int, str]:
    """Return start -> digest of the stored buckets from the first to the last of these starts."""
    return dict(
        db.execute(
            "SELECT start, digest FROM bucket WHERE account = ? AND report = ? AND start BETWEEN ? AND ?",
            (account, report, min(starts, default=0), max(starts, default=0)),
        ).fetchall()
    )


def _changed_starts(
    db: Connection,
    account: int,
    report: str,
    starts: Collection[int],
    digests: Mapping[int, str],
    stored_digests: Mapping[int, str],
) -> list[int]:
    """Return the starts of the buckets that differ from the stored ones; a bucket without rows is not stored.

    Buckets of days that were rolled up are left out: their hours are summed in one row and cannot be replaced.
    """
    changed = [start for start in starts if stored_digests.get(start) != digests.get(start)]
    if not changed:
        return []
    rolled_up = db.execute(
        "SELECT day FROM rolled WHERE account = ? AND report = ? AND day BETWEEN ? AND ?",
        (account, report, _start_of_day(min(changed)), max(changed)),
    )
    rolled_up_days = {day for (day,) in rolled_up}
    return [start for start in changed if _start_of_day(start) not in rolled_up_days]


def _delete(db: Connection, account: int, report: str, starts: Sequence[int]) -> None:
    for table in ("point", "bucket"):
        db.executemany(
            f"DELETE FROM {table} WHERE account = ? AND report = ? AND start = ?",
            [(account, report, start) for start in starts],
        )


def _insert(
    store: Store,
    db: Connection,
    account: int,
    report: str,
    points_by_start: Mapping[int, Sequence[_Point]],
    digests: Mapping[int, str],
) -> None:
    db.executemany(
        "INSERT INTO bucket (account, report, start, digest) VALUES (?, ?, ?, ?)",
        [(account, report, start, digests[start]) for start, points in points_by_start.items() if points],
    )
    points_by_key = {(account, report, start): points for start, points in points_by_start.items()}
    store.insert_pairs(db, "point (account, report, start, series, value)", points_by_key)


def _mark_unvalued(db: Connection, account: int, starts: Iterable[int]) -> frozenset[int]:
    """Mark the UTC days of changed buckets as not valued, and return their starts.

    In the same transaction as the buckets: after a kill before the next valuation, no outdated cost counts as valued.
    """
    days = frozenset(map(_start_of_day, starts))
    db.executemany(
        "INSERT INTO day (account, start, revision, method) VALUES (?, ?, 1, '')"
        " ON CONFLICT (account, start) DO UPDATE SET revision = day.revision + 1, method = ''",
        [(account, day) for day in sorted(days)],
    )
    return days


def _record_days_read(db: Connection, account: int, report: str, days_read: DaysRead) -> None:
    db.executemany(
        "INSERT INTO day_read (account, report, day, time) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (account, report, day) DO UPDATE SET time = excluded.time",
        [(account, report, _timestamp(day), days_read.time.timestamp()) for day in sorted(days_read.days)],
    )


def _read_coverage(db: Connection, account: int, report: str) -> Coverage | None:
    found = db.execute(
        "SELECT since, until, last_refresh FROM coverage WHERE account = ? AND report = ?", (account, report)
    ).fetchone()
    return None if found is None else Coverage(*map(utc, found))


def _advance_reread(db: Connection, account: int, report: str, time_range: TimeRange) -> None:
    """Shorten a time range that is to be read again by what was read of its beginning; parts are read oldest first."""
    key = (account, report)
    start, end = time_range.start.timestamp(), time_range.end.timestamp()
    db.execute(
        "UPDATE reread SET since = ? WHERE account = ? AND report = ? AND since >= ? AND since < ?",
        (end, *key, start, end),
    )
    db.execute("DELETE FROM reread WHERE account = ? AND report = ? AND since >= until", key)


def _extend_coverage(
    db: Connection, account: int, report: str, time_range: TimeRange, *, completes_refresh: bool
) -> Coverage:
    """Join a time range to the coverage.

    A range that does not touch the coverage replaces it: joined, the two would hide the gap between them.
    """
    since, until = time_range.start, time_range.end
    last_refresh = until if completes_refresh else utc(0)
    known = _read_coverage(db, account, report)
    if known is not None:
        if since <= known.until and until >= known.since:
            since, until = min(since, known.since), max(until, known.until)
        last_refresh = max(last_refresh, known.last_refresh)
    db.execute(
        "INSERT INTO coverage (account, report, since, until, last_refresh) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (account, report) DO UPDATE"
        " SET since = excluded.since, until = excluded.until, last_refresh = excluded.last_refresh",
        (account, report, since.timestamp(), until.timestamp(), last_refresh.timestamp()),
    )
    return Coverage(since, until, last_refresh)
