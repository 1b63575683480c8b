"""When a report is due and which span to ask for. Pure: the poller does what this says."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from exporter.ledger import Coverage
from exporter.model import DAY, HOUR, Report
from exporter.windows import TimeRange, floor

NAMES_REPORT = Report("names", "usage", HOUR, 6 * HOUR, HOUR, HOUR, timedelta(0), timedelta(0), optional=True)
"""Asking for names is scheduled like a report, though nothing of it is a bucket."""

UNLIMITED = timedelta(days=36500)
"""No limit to the length of a span."""


@dataclass(frozen=True, slots=True)
class PollSettings:
    """How an account wants to be asked."""

    poll_interval: timedelta
    history: timedelta
    offset: timedelta = timedelta(0)
    """A little delay of its own, so that a thousand accounts do not ask in the same second of the hour."""


def complete_until(report: Report, coverage: Coverage | None) -> datetime | None:
    """Return the watermark: every bucket that ends at or before it is complete."""
    return None if coverage is None else floor(coverage.until - report.lag, report.width)


def due_at(report: Report, coverage: Coverage, poll_settings: PollSettings) -> datetime:
    """Return when to refresh a report that has been told before.

    A report asked once per bucket is due as soon as its next bucket is complete, not an hour after the last poll.
    """
    every = max(report.poll_interval, poll_settings.poll_interval)
    if every == report.width:
        delay = report.lag + poll_settings.offset
        return floor(coverage.until - delay, report.width) + report.width + delay
    return coverage.until + every


@dataclass(frozen=True, slots=True)
class PartialRefresh:
    """A refresh that goes on in pieces: where it began, and how far it has come."""

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
    """Return what to ask for now; None when nothing is due.

    First the whole history; then, on every poll, the overlap, and once a day the settle period. Where a span must
    not be longer than `at_most`, the first poll begins with the newest part and reaches further back afterwards, and
    a refresh goes forward from where its walk has come: the covered stretch never has a gap.
    """
    first = _history_start(report, poll_settings, now)
    if coverage is None:
        return TimeRange(max(first, floor(now - max_range, report.width)), now)
    if partial_refresh is not None or now >= due_at(report, coverage, poll_settings):
        since = (
            partial_refresh.refreshed_until
            if partial_refresh
            else max(first, coverage.since, _refresh_start(report, coverage, now))
        )
        # On a bucket's edge: a bucket told in two pieces would be replaced by its second half.
        return TimeRange(since, min(now, floor(since + max(max_range, report.width), report.width)))
    if coverage.since > first:
        return TimeRange(max(first, floor(coverage.since - max_range, report.width)), coverage.since)
    return None


def next_partial(
    time_range: TimeRange, coverage: Coverage | None, now: datetime, partial_refresh: PartialRefresh | None
) -> PartialRefresh | None:
    """Return the walk that a span has begun or gone on with; None where it reached the present or went backwards."""
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
    """Tell whether a span ends a reading of all that the provider may still revise, in one piece or several."""
    began = partial_refresh.start if partial_refresh else time_range.start
    return (
        began <= max(_history_start(report, poll_settings, now), floor(now, DAY) - report.settle_period)
        and time_range.end >= now
    )


def next_due(report: Report, coverage: Coverage | None, poll_settings: PollSettings, now: datetime) -> datetime:
    """Return when `next_span` will next have something to ask for."""
    if coverage is None or coverage.since > _history_start(report, poll_settings, now):
        return now
    return due_at(report, coverage, poll_settings)


def _history_start(report: Report, poll_settings: PollSettings, now: datetime) -> datetime:
    return floor(now, DAY) - min(poll_settings.history, report.history)


def _refresh_start(report: Report, coverage: Coverage, now: datetime) -> datetime:
    since = floor(coverage.until - report.overlap, report.width)
    if now - coverage.last_refresh >= DAY:
        since = min(since, floor(now, DAY) - report.settle_period)
    return since
