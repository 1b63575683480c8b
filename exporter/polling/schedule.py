"""When a report is due and which span to ask for. Pure: the poller does what this says."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from exporter.ledger import Coverage
from exporter.model import DAY, HOUR, Report
from exporter.windows import Span, floor

NAMES = Report("names", "usage", HOUR, 6 * HOUR, HOUR, HOUR, timedelta(0), timedelta(0), optional=True)
"""Asking for names is scheduled like a report, though nothing of it is a bucket."""

WHOLE = timedelta(days=36500)
"""No limit to the length of a span."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How an account wants to be asked."""

    poll_interval: timedelta
    history: timedelta
    offset: timedelta = timedelta(0)
    """A little delay of its own, so that a thousand accounts do not ask in the same second of the hour."""


def complete_until(report: Report, coverage: Coverage | None) -> datetime | None:
    """Return the watermark: every bucket that ends at or before it is complete."""
    return None if coverage is None else floor(coverage.until - report.lag, report.width)


def due_at(report: Report, coverage: Coverage, pace: Pace) -> datetime:
    """Return when to refresh a report that has been told before.

    A report asked once per bucket is due as soon as its next bucket is complete, not an hour after the last poll.
    """
    every = max(report.every, pace.poll_interval)
    if every == report.width:
        delay = report.lag + pace.offset
        return floor(coverage.until - delay, report.width) + report.width + delay
    return coverage.until + every


@dataclass(frozen=True, slots=True)
class Walk:
    """A refresh that goes on in pieces: where it began, and how far it has come."""

    began: datetime
    reached: datetime


def next_span(
    report: Report,
    coverage: Coverage | None,
    pace: Pace,
    now: datetime,
    at_most: timedelta = WHOLE,
    walk: Walk | None = None,
) -> Span | None:
    """Return what to ask for now; None when nothing is due.

    First the whole history; then, on every poll, the overlap, and once a day the settle period. Where a span must
    not be longer than `at_most`, the first poll begins with the newest part and reaches further back afterwards, and
    a refresh goes forward from where its walk has come: the covered stretch never has a gap.
    """
    first = _first(report, pace, now)
    if coverage is None:
        return Span(max(first, floor(now - at_most, report.width)), now)
    if walk is not None or now >= due_at(report, coverage, pace):
        since = walk.reached if walk else max(first, coverage.since, _refresh_from(report, coverage, now))
        # On a bucket's edge: a bucket told in two pieces would be replaced by its second half.
        return Span(since, min(now, floor(since + max(at_most, report.width), report.width)))
    if coverage.since > first:
        return Span(max(first, floor(coverage.since - at_most, report.width)), coverage.since)
    return None


def walk_after(span: Span, coverage: Coverage | None, now: datetime, walk: Walk | None) -> Walk | None:
    """Return the walk that a span has begun or gone on with; None where it reached the present or went backwards."""
    refreshed = coverage is not None and span.start >= coverage.since
    return Walk(walk.began if walk else span.start, span.end) if refreshed and span.end < now else None


def settles(report: Report, pace: Pace, span: Span, now: datetime, walk: Walk | None = None) -> bool:
    """Tell whether a span ends a reading of all that the provider may still revise, in one piece or several."""
    began = walk.began if walk else span.start
    return began <= max(_first(report, pace, now), floor(now, DAY) - report.settle) and span.end >= now


def next_due(report: Report, coverage: Coverage | None, pace: Pace, now: datetime) -> datetime:
    """Return when `next_span` will next have something to ask for."""
    if coverage is None or coverage.since > _first(report, pace, now):
        return now
    return due_at(report, coverage, pace)


def _first(report: Report, pace: Pace, now: datetime) -> datetime:
    return floor(now, DAY) - min(pace.history, report.history)


def _refresh_from(report: Report, coverage: Coverage, now: datetime) -> datetime:
    since = floor(coverage.until - report.overlap, report.width)
    if now - coverage.settled >= DAY:
        since = min(since, floor(now, DAY) - report.settle)
    return since
