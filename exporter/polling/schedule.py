"""When a report is due, and which time range to request then. Pure: the poller acts on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from exporter.ledger import Coverage
from exporter.model import DAY, HOUR, Report, utc
from exporter.windows import TimeRange, floor, slots

NAMES_REPORT = Report("names", "names", HOUR, 6 * HOUR, HOUR, HOUR, timedelta(0), timedelta(0), optional=True)
"""The names of workspaces and API keys are polled like a report, although they come in no buckets."""

BALANCE_REPORT = Report(
    "balance", "balance", HOUR, timedelta(minutes=15), HOUR, HOUR, timedelta(0), timedelta(0), optional=True
)
"""The balance of a prepaid account is polled like a report too. Only its newest value is known, and not stored."""

UNLIMITED = timedelta(days=36500)
"""No limit to the length of a time range."""

WEEK = 7 * DAY
MAX_REREAD_AGE = 90 * DAY
"""Days older than this are not read again without a request."""


@dataclass(frozen=True, slots=True)
class PollSettings:
    """How an account is polled."""

    poll_interval: timedelta
    history: timedelta
    """How far back the first poll reaches, where the provider keeps as much."""
    offset: timedelta = timedelta(0)
    """The account's own delay, so that a thousand accounts are not polled in the same second of the hour."""
    max_range: timedelta = UNLIMITED
    """The longest time range that is requested at a time; what is longer takes several."""
    reread_offset: timedelta = timedelta(0)
    """The account's own time within a week at which older bills are read again, so that accounts are spread."""
    hourly_retention: timedelta = UNLIMITED
    """How long the ledger keeps hours; buckets of an older day cannot be replaced."""

    def oldest_replaceable_day(self, now: datetime) -> datetime:
        """Return the start of the oldest UTC day whose buckets the ledger can still replace."""
        return floor(now - self.hourly_retention, DAY)


def complete_until(report: Report, coverage: Coverage | None) -> datetime | None:
    """Return the watermark: every bucket that ends at or before it is complete."""
    return None if coverage is None else floor(coverage.until - report.lag, report.width)


def due_at(report: Report, coverage: Coverage, poll_settings: PollSettings) -> datetime:
    """Return when to refresh a report that was polled before.

    A report polled once per bucket is due as soon as its next bucket is complete, not an hour after the last poll.
    """
    interval = max(report.poll_interval, poll_settings.poll_interval)
    if interval == report.width:
        delay = report.lag + poll_settings.offset
        return floor(coverage.until - delay, report.width) + report.width + delay
    return coverage.until + interval


@dataclass(frozen=True, slots=True)
class PartialRefresh:
    """A refresh in several parts: where it began, and how far it has come."""

    start: datetime
    refreshed_until: datetime


def next_time_range(
    report: Report,
    coverage: Coverage | None,
    poll_settings: PollSettings,
    now: datetime,
    max_range: timedelta = UNLIMITED,
    partial_refresh: PartialRefresh | None = None,
) -> TimeRange | None:
    """Return the time range to request now; None when nothing is due.

    First the whole history; then, on every poll, the overlap, and once a day the settle period. Where a time range
    must not be longer than `max_range`, the first poll begins with the newest part and reaches further back
    afterwards, and a refresh continues where its last part ended: the coverage never has a gap.
    """
    first = history_start(report, poll_settings, now)
    if coverage is None:
        return TimeRange(max(first, floor(now - max_range, report.width)), now)
    if partial_refresh is not None or now >= due_at(report, coverage, poll_settings):
        since = (
            partial_refresh.refreshed_until
            if partial_refresh
            else max(first, coverage.since, _refresh_start(report, coverage, now))
        )
        # On a bucket's edge: a bucket requested in two parts would be replaced by its second half.
        return TimeRange(since, min(now, floor(since + max(max_range, report.width), report.width)))
    if coverage.since > first:
        return TimeRange(max(first, floor(coverage.since - max_range, report.width)), coverage.since)
    return None


def next_partial(
    time_range: TimeRange, coverage: Coverage | None, now: datetime, partial_refresh: PartialRefresh | None
) -> PartialRefresh | None:
    """Return the refresh that is still under way after a time range was stored.

    None where the time range reached the present, or extended the history backwards.
    """
    refreshed = coverage is not None and time_range.start >= coverage.since
    return (
        PartialRefresh(partial_refresh.start if partial_refresh else time_range.start, time_range.end)
        if refreshed and time_range.end < now
        else None
    )


def completes_refresh(
    report: Report,
    poll_settings: PollSettings,
    time_range: TimeRange,
    now: datetime,
    partial_refresh: PartialRefresh | None = None,
) -> bool:
    """Return whether a time range completes a refresh of all that the provider may still revise."""
    began = partial_refresh.start if partial_refresh else time_range.start
    return (
        began <= max(history_start(report, poll_settings, now), floor(now, DAY) - report.settle_period)
        and time_range.end >= now
    )


def completed_days(
    time_range: TimeRange, coverage: Coverage | None, now: datetime, partial_refresh: PartialRefresh | None = None
) -> Sequence[datetime]:
    """Return the UTC days of which everything has been read, once a time range was read.

    Those are the days that the time range contains, together with the earlier parts of its refresh, and the running day
    if it reaches the present. `coverage` is the one before.
    """
    start = partial_refresh.start if partial_refresh else time_range.start
    end = time_range.end
    if end >= now:
        running_day = floor(now, DAY)
        return [day for day in slots(start, running_day, DAY) if day >= start] + [running_day]
    if coverage is not None and end == coverage.since and end > floor(end, DAY):
        # The history is extended backwards: the rest of the day was read just before.
        end = floor(end, DAY) + DAY
    return [day for day in slots(start, end, DAY) if day >= start and day + DAY <= end]


def reread_time(poll_settings: PollSettings, now: datetime) -> datetime:
    """Return the account's newest time at or before `now` at which older bills are to be read again."""
    return now - (now - utc(0) - poll_settings.reread_offset) % WEEK


def next_weekly_range(
    report: Report,
    coverage: Coverage,
    poll_settings: PollSettings,
    last_reads: Mapping[datetime, datetime],
    now: datetime,
) -> TimeRange | None:
    """Return the days of a bill to read again although the daily refresh leaves them out; None where there are none.

    Those are the days older than the settle period and up to MAX_REREAD_AGE old which were not read since the account's
    weekly time, as far as provider and coverage reach. `last_reads` has the newest read of each day of the report.
    """
    due_since = reread_time(poll_settings, now)
    window = weekly_window(report, coverage, poll_settings, now)
    # A day without a record was read by a version that kept none: the newest refresh stands in, so that after an
    # upgrade, too, every account waits for its own time of the week.
    due = [
        day for day in slots(window.start, window.end, DAY) if last_reads.get(day, coverage.last_refresh) < due_since
    ]
    return TimeRange(due[0], due[-1] + DAY) if due else None


def weekly_window(report: Report, coverage: Coverage, poll_settings: PollSettings, now: datetime) -> TimeRange:
    """Return the days of a bill that are read again once a week; empty (start = end) where there are none."""
    today = floor(now, DAY)
    first_whole_day = floor(coverage.since, DAY)
    if first_whole_day < coverage.since:
        first_whole_day += DAY
    start = max(today - min(MAX_REREAD_AGE, report.history), poll_settings.oldest_replaceable_day(now), first_whole_day)
    end = min(today - report.settle_period, floor(coverage.until, DAY))
    return TimeRange(start, max(start, end))


def next_due(report: Report, coverage: Coverage | None, poll_settings: PollSettings, now: datetime) -> datetime:
    """Return when `next_time_range` will next return a time range."""
    if coverage is None or coverage.since > history_start(report, poll_settings, now):
        return now
    return due_at(report, coverage, poll_settings)


def history_start(report: Report, poll_settings: PollSettings, now: datetime) -> datetime:
    """Return the start of the oldest UTC day that polls reach back to."""
    return floor(now, DAY) - min(poll_settings.history, report.history)


def _refresh_start(report: Report, coverage: Coverage, now: datetime) -> datetime:
    since = floor(coverage.until - report.overlap, report.width)
    if now - coverage.last_refresh >= DAY:
        since = min(since, floor(now, DAY) - report.settle_period)
    return since
