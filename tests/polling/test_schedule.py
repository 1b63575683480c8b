"""When a report is asked, and for which span."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

from exporter.ledger import Coverage
from exporter.model import DAY, HOUR, Report
from exporter.polling.schedule import (
    PollSettings,
    complete_until,
    completes_refresh,
    due_at,
    next_due,
    next_partial,
    next_time_range,
)
from exporter.windows import TimeRange

MINUTE = timedelta(minutes=1)
NOW = datetime(2026, 11, 20, 14, 23, 5, tzinfo=UTC)
TODAY = datetime(2026, 11, 20, tzinfo=UTC)
MAIN_REPORT = Report("main", "usage", HOUR, MINUTE, 4 * HOUR, 6 * DAY, 10 * MINUTE, 365 * DAY)
HOURLY_REPORT = Report("rare", "usage", HOUR, HOUR, 6 * HOUR, 6 * DAY, 10 * MINUTE, 365 * DAY)
BILL_REPORT = Report("bill", "bill", DAY, HOUR, 3 * DAY, 30 * DAY, 8 * HOUR, 365 * DAY)
SETTINGS = PollSettings(5 * MINUTE, 30 * DAY)


def make_coverage(until: datetime, settled: datetime | None = None, since: datetime = TODAY - 30 * DAY) -> Coverage:
    """A coverage of thirty days that was settled this morning unless said."""
    return Coverage(since, until, settled or TODAY)


def test_the_first_poll_reaches_over_whole_days() -> None:
    """The first span begins at a midnight, so that a billed day has all of its hours."""
    assert next_time_range(MAIN_REPORT, None, SETTINGS, NOW) == TimeRange(TODAY - 30 * DAY, NOW)


def test_the_history_is_never_longer_than_the_provider_keeps() -> None:
    """A history of a year at a provider that keeps ninety days asks for ninety days."""
    short = Report("main", "usage", HOUR, MINUTE, HOUR, DAY, HOUR, 90 * DAY)
    assert next_time_range(short, None, PollSettings(MINUTE, 365 * DAY), NOW) == TimeRange(TODAY - 90 * DAY, NOW)


def test_every_poll_reads_the_overlap_again() -> None:
    """A steady poll begins the overlap before the last one, on a bucket's edge."""
    assert next_time_range(MAIN_REPORT, make_coverage(NOW - 5 * MINUTE), SETTINGS, NOW) == TimeRange(
        TODAY + 10 * HOUR, NOW
    )


def test_nothing_is_polled_before_the_interval_has_passed() -> None:
    """Four minutes after a poll, nothing is due of a report asked every five."""
    assert next_time_range(MAIN_REPORT, make_coverage(NOW - 4 * MINUTE), SETTINGS, NOW) is None
    assert next_due(MAIN_REPORT, make_coverage(NOW - 4 * MINUTE), SETTINGS, NOW) == NOW + MINUTE


def test_once_a_day_the_settle_period_is_read_again() -> None:
    """A day after the last deep read the span reaches back over all that the provider may revise, in one poll."""
    span = next_time_range(MAIN_REPORT, make_coverage(NOW - 5 * MINUTE, settled=NOW - DAY), SETTINGS, NOW)

    assert span == TimeRange(TODAY - 6 * DAY, NOW)
    assert completes_refresh(MAIN_REPORT, SETTINGS, span, NOW)
    assert (NOW - span.start) / HOUR <= 168, "more than one page"


def test_an_outage_is_caught_up_without_a_gap() -> None:
    """After two days of silence the span begins before the last poll."""
    until = NOW - 2 * DAY
    span = next_time_range(MAIN_REPORT, make_coverage(until, settled=NOW - HOUR), SETTINGS, NOW)
    assert span is not None
    assert span.start <= until
    assert span.end == NOW


def test_an_hourly_report_is_polled_when_an_hour_is_complete() -> None:
    """It is due right after the next hour's delay, not an hour after the last poll."""
    assert (
        due_at(HOURLY_REPORT, make_coverage(TODAY + 13 * HOUR + 40 * MINUTE), SETTINGS)
        == TODAY + 14 * HOUR + 10 * MINUTE
    )
    assert (
        due_at(HOURLY_REPORT, make_coverage(TODAY + 14 * HOUR + 9 * MINUTE), SETTINGS)
        == TODAY + 14 * HOUR + 10 * MINUTE
    )
    assert (
        due_at(HOURLY_REPORT, make_coverage(TODAY + 14 * HOUR + 10 * MINUTE), SETTINGS)
        == TODAY + 15 * HOUR + 10 * MINUTE
    )


def test_accounts_are_spread_over_the_hour() -> None:
    """The offset of an account shifts its hourly polls and never makes them twice in an hour."""
    pace = PollSettings(5 * MINUTE, 30 * DAY, offset=2 * MINUTE)
    assert (
        due_at(HOURLY_REPORT, make_coverage(TODAY + 14 * HOUR + 12 * MINUTE), pace) == TODAY + 15 * HOUR + 12 * MINUTE
    )


def test_a_bill_is_polled_an_hour_after_the_last_poll() -> None:
    """A bill's buckets are days, so it is simply asked every hour."""
    assert due_at(BILL_REPORT, make_coverage(NOW), SETTINGS) == NOW + HOUR


def test_a_longer_history_reaches_further_back() -> None:
    """When the history is made longer, the part before the coverage is asked, and joins it."""
    coverage = make_coverage(NOW - MINUTE)
    assert next_time_range(MAIN_REPORT, coverage, PollSettings(5 * MINUTE, 60 * DAY), NOW) == TimeRange(
        TODAY - 60 * DAY, coverage.since
    )


def test_a_shortened_first_poll_begins_with_the_newest_part() -> None:
    """Cut to two days, the first poll asks for the last two days, the next one for the two before."""
    first = next_time_range(MAIN_REPORT, None, SETTINGS, NOW, max_range=2 * DAY)
    assert first == TimeRange(TODAY - 2 * DAY + 14 * HOUR, NOW)

    then = next_time_range(MAIN_REPORT, Coverage(first.start, NOW, TODAY), SETTINGS, NOW + MINUTE, max_range=2 * DAY)
    assert then == TimeRange(TODAY - 4 * DAY + 14 * HOUR, first.start)
    assert next_partial(then, Coverage(first.start, NOW, TODAY), NOW + MINUTE, None) is None


def test_a_partial_refresh_goes_forward_part_by_part() -> None:
    """A refresh cut to an hour is resumed where it ended until it has reached the present."""
    coverage, walk, pieces = make_coverage(NOW - 5 * MINUTE), None, []
    while True:
        span = next_time_range(MAIN_REPORT, coverage, SETTINGS, NOW, max_range=HOUR, partial_refresh=walk)
        if span is None:
            break
        pieces.append(span)
        walk = next_partial(span, coverage, NOW, walk)
        coverage = Coverage(coverage.since, max(coverage.until, span.end), coverage.last_refresh)

    assert pieces[0].start == TODAY + 10 * HOUR
    assert pieces[-1].end == NOW
    assert all(before.end == after.start for before, after in pairwise(pieces))
    assert len(pieces) == 5


def test_nothing_is_called_complete_early() -> None:
    """The watermark is the newest bucket's end whose delay had passed when the poll was made."""
    assert complete_until(MAIN_REPORT, make_coverage(TODAY + 14 * HOUR + 9 * MINUTE)) == TODAY + 13 * HOUR
    assert complete_until(MAIN_REPORT, make_coverage(TODAY + 14 * HOUR + 10 * MINUTE)) == TODAY + 14 * HOUR
    assert complete_until(MAIN_REPORT, None) is None
