"""When a report is polled, and for which time range."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from exporter.config.configuration import Account
from exporter.ledger import Coverage
from exporter.model import DAY, HOUR, Report
from exporter.polling.connection import build_account_config
from exporter.polling.schedule import (
    WEEK,
    PartialRefresh,
    PollSettings,
    complete_until,
    completed_days,
    completes_refresh,
    due_at,
    next_due,
    next_partial,
    next_time_range,
    next_weekly_range,
    reread_time,
)
from exporter.providers.openai import OpenAI
from exporter.windows import TimeRange, floor, slots

MINUTE = timedelta(minutes=1)
NOW = datetime(2026, 11, 20, 14, 23, 5, tzinfo=UTC)
TODAY = datetime(2026, 11, 20, tzinfo=UTC)
MAIN_REPORT = Report("main", "usage", HOUR, MINUTE, 4 * HOUR, 6 * DAY, 10 * MINUTE, 365 * DAY)
HOURLY_REPORT = Report("rare", "usage", HOUR, HOUR, 6 * HOUR, 6 * DAY, 10 * MINUTE, 365 * DAY)
BILL_REPORT = Report("bill", "bill", DAY, HOUR, 3 * DAY, 30 * DAY, 8 * HOUR, 365 * DAY)
SETTINGS = PollSettings(5 * MINUTE, 30 * DAY)


def make_coverage(until: datetime, last_refresh: datetime = TODAY, since: datetime = TODAY - 30 * DAY) -> Coverage:
    """Return a coverage of thirty days, refreshed at midnight unless given otherwise."""
    return Coverage(since, until, last_refresh)


def test_the_first_poll_reaches_over_whole_days() -> None:
    """The first time range begins at a midnight, so that a billed day has all of its hours."""
    assert next_time_range(MAIN_REPORT, None, SETTINGS, NOW) == TimeRange(TODAY - 30 * DAY, NOW)


def test_the_history_is_never_longer_than_the_provider_keeps() -> None:
    """With a history of a year, a provider that keeps ninety days is requested for ninety days."""
    short = Report("main", "usage", HOUR, MINUTE, HOUR, DAY, HOUR, 90 * DAY)
    assert next_time_range(short, None, PollSettings(MINUTE, 365 * DAY), NOW) == TimeRange(TODAY - 90 * DAY, NOW)


def test_every_poll_reads_the_overlap_again() -> None:
    """A poll begins the overlap before the last one, on a bucket's edge."""
    assert next_time_range(MAIN_REPORT, make_coverage(NOW - 5 * MINUTE), SETTINGS, NOW) == TimeRange(
        TODAY + 10 * HOUR, NOW
    )


def test_nothing_is_polled_before_the_interval_has_passed() -> None:
    """Four minutes after a poll, a report with an interval of five is not due."""
    assert next_time_range(MAIN_REPORT, make_coverage(NOW - 4 * MINUTE), SETTINGS, NOW) is None
    assert next_due(MAIN_REPORT, make_coverage(NOW - 4 * MINUTE), SETTINGS, NOW) == NOW + MINUTE


def test_once_a_day_the_settle_period_is_read_again() -> None:
    """A day after the last refresh the time range covers all that the provider may revise, in one poll."""
    time_range = next_time_range(MAIN_REPORT, make_coverage(NOW - 5 * MINUTE, last_refresh=NOW - DAY), SETTINGS, NOW)

    assert time_range == TimeRange(TODAY - 6 * DAY, NOW)
    assert completes_refresh(MAIN_REPORT, SETTINGS, time_range, NOW)
    assert (NOW - time_range.start) / HOUR <= 168, "more than one page"


def test_an_outage_is_caught_up_without_a_gap() -> None:
    """After two days without a poll the time range begins before the last one."""
    until = NOW - 2 * DAY
    time_range = next_time_range(MAIN_REPORT, make_coverage(until, last_refresh=NOW - HOUR), SETTINGS, NOW)
    assert time_range is not None
    assert time_range.start <= until
    assert time_range.end == NOW


def test_an_hourly_report_is_polled_when_an_hour_is_complete() -> None:
    """It is due as soon as the next hour's lag has passed, not an hour after the last poll."""
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
    """The offset of an account delays its hourly polls and never causes two in an hour."""
    settings = PollSettings(5 * MINUTE, 30 * DAY, offset=2 * MINUTE)
    assert (
        due_at(HOURLY_REPORT, make_coverage(TODAY + 14 * HOUR + 12 * MINUTE), settings)
        == TODAY + 15 * HOUR + 12 * MINUTE
    )


def test_a_bill_is_polled_an_hour_after_the_last_poll() -> None:
    """A bill's buckets are days, so it is polled at its interval."""
    assert due_at(BILL_REPORT, make_coverage(NOW), SETTINGS) == NOW + HOUR


def test_a_longer_history_reaches_further_back() -> None:
    """When the configured history grows, the part before the coverage is requested, and joins it."""
    coverage = make_coverage(NOW - MINUTE)
    assert next_time_range(MAIN_REPORT, coverage, PollSettings(5 * MINUTE, 60 * DAY), NOW) == TimeRange(
        TODAY - 60 * DAY, coverage.since
    )


def test_a_shortened_first_poll_begins_with_the_newest_part() -> None:
    """Limited to two days, the first poll requests the last two days, and the next poll the two before."""
    first = next_time_range(MAIN_REPORT, None, SETTINGS, NOW, max_range=2 * DAY)
    assert first == TimeRange(TODAY - 2 * DAY + 14 * HOUR, NOW)

    then = next_time_range(MAIN_REPORT, Coverage(first.start, NOW, TODAY), SETTINGS, NOW + MINUTE, max_range=2 * DAY)
    assert then == TimeRange(TODAY - 4 * DAY + 14 * HOUR, first.start)
    assert next_partial(then, Coverage(first.start, NOW, TODAY), NOW + MINUTE, None) is None


def test_a_partial_refresh_goes_forward_part_by_part() -> None:
    """A refresh limited to an hour continues where it ended until it has reached the present."""
    coverage, partial_refresh, parts = make_coverage(NOW - 5 * MINUTE), None, []
    while True:
        time_range = next_time_range(
            MAIN_REPORT, coverage, SETTINGS, NOW, max_range=HOUR, partial_refresh=partial_refresh
        )
        if time_range is None:
            break
        parts.append(time_range)
        partial_refresh = next_partial(time_range, coverage, NOW, partial_refresh)
        coverage = Coverage(coverage.since, max(coverage.until, time_range.end), coverage.last_refresh)

    assert parts[0].start == TODAY + 10 * HOUR
    assert parts[-1].end == NOW
    assert all(before.end == after.start for before, after in pairwise(parts))
    assert len(parts) == 5


def test_nothing_is_called_complete_early() -> None:
    """The watermark is the end of the newest bucket whose lag had passed at the time of the poll."""
    assert complete_until(MAIN_REPORT, make_coverage(TODAY + 14 * HOUR + 9 * MINUTE)) == TODAY + 13 * HOUR
    assert complete_until(MAIN_REPORT, make_coverage(TODAY + 14 * HOUR + 10 * MINUTE)) == TODAY + 14 * HOUR
    assert complete_until(MAIN_REPORT, None) is None


def test_a_day_is_read_when_all_of_it_was_requested() -> None:
    """A poll of the last hours reads the running day only; a refresh reads all of its days."""
    coverage = make_coverage(NOW - 5 * MINUTE)
    last_hours = TimeRange(TODAY - 2 * HOUR, NOW)
    assert completed_days(last_hours, coverage, NOW) == [TODAY]
    assert completed_days(TimeRange(TODAY + 8 * HOUR, NOW), coverage, NOW) == [TODAY]
    assert completed_days(TimeRange(TODAY - 2 * DAY, NOW), coverage, NOW) == [TODAY - 2 * DAY, TODAY - DAY, TODAY]
    assert completed_days(TimeRange(TODAY - 2 * DAY, TODAY - DAY), coverage, NOW) == [TODAY - 2 * DAY]
    assert completed_days(TimeRange(TODAY - 2 * DAY, TODAY - 12 * HOUR), coverage, NOW) == [TODAY - 2 * DAY]


def test_a_day_that_is_read_in_parts_is_read_with_its_last_part() -> None:
    """Parts of a refresh count together, and so do the two parts of a day at which the history was extended."""
    coverage = make_coverage(NOW - 5 * MINUTE, since=TODAY - 3 * DAY + 14 * HOUR)
    morning, evening = (TimeRange(TODAY - DAY + hours * HOUR, TODAY - DAY + (hours + 12) * HOUR) for hours in (0, 12))
    assert completed_days(morning, coverage, NOW) == []
    assert completed_days(evening, coverage, NOW) == []
    assert completed_days(evening, coverage, NOW, PartialRefresh(morning.start, morning.end)) == [TODAY - DAY]

    extended = TimeRange(TODAY - 4 * DAY + 14 * HOUR, coverage.since)
    assert completed_days(extended, coverage, NOW) == [TODAY - 3 * DAY]


def test_older_bills_are_read_again_once_a_week() -> None:
    """After the account's time of the week, all days from the settle period to ninety days are due until read."""
    coverage = make_coverage(NOW, last_refresh=NOW, since=TODAY - 200 * DAY)
    before = dict.fromkeys(slots(TODAY - 90 * DAY, TODAY, DAY), reread_time(SETTINGS, NOW) - MINUTE)
    every = TimeRange(TODAY - 90 * DAY, TODAY - 30 * DAY)
    assert next_weekly_range(BILL_REPORT, coverage, SETTINGS, before, NOW) == every

    read = before | dict.fromkeys(slots(every.start, every.end - 3 * DAY, DAY), NOW)
    rest = TimeRange(every.end - 3 * DAY, every.end)
    assert next_weekly_range(BILL_REPORT, coverage, SETTINGS, read, NOW) == rest
    read |= dict.fromkeys(slots(rest.start, TODAY, DAY), NOW)
    assert next_weekly_range(BILL_REPORT, coverage, SETTINGS, read, NOW) is None

    later = reread_time(SETTINGS, NOW) + WEEK
    assert next_weekly_range(BILL_REPORT, coverage, SETTINGS, read, later - MINUTE) is None
    assert next_weekly_range(BILL_REPORT, coverage, SETTINGS, read, later) is not None


@pytest.mark.parametrize(
    ("report", "since", "retention", "oldest"),
    [
        (BILL_REPORT, 200, 93, 90),
        (BILL_REPORT, 45, 93, 45),
        (BILL_REPORT, 200, 40, 40),
        (Report("bill", "bill", DAY, HOUR, DAY, 30 * DAY, HOUR, 60 * DAY), 200, 93, 60),
        (BILL_REPORT, 30, 93, None),
        (BILL_REPORT, 5, 93, None),
    ],
)
def test_a_weekly_read_never_exceeds_what_is_kept(
    report: Report, since: int, retention: int, oldest: int | None
) -> None:
    """It begins at the oldest day that coverage, provider and ledger all have, and is left out where none is left."""
    settings = PollSettings(5 * MINUTE, 30 * DAY, hourly_retention=retention * DAY)
    coverage = make_coverage(NOW, last_refresh=NOW - WEEK, since=TODAY - since * DAY)
    expected = None if oldest is None else TimeRange(TODAY - oldest * DAY, TODAY - 30 * DAY)
    assert next_weekly_range(report, coverage, settings, {}, NOW) == expected


def test_days_of_an_earlier_version_wait_for_the_time_of_the_week() -> None:
    """Where no read of a day is recorded, the newest refresh stands in: an upgrade reads nothing at once."""
    due_since = reread_time(SETTINGS, NOW)
    for last_refresh, due in ((due_since + MINUTE, False), (due_since - MINUTE, True)):
        coverage = make_coverage(NOW, last_refresh=last_refresh, since=TODAY - 90 * DAY)
        assert (next_weekly_range(BILL_REPORT, coverage, SETTINGS, {}, NOW) is not None) == due


def test_weekly_reads_are_spread_over_the_accounts() -> None:
    """Of a thousand accounts at most twenty read older bills again in the same hour of the week."""
    hours: dict[datetime, int] = {}
    for number in range(1000):
        account = Account(
            name=f"account-{number}",
            provider="openai",
            api_key_env="KEY",
            poll_interval=5 * MINUTE,
            history=DAY,
            max_series=100,
            timeout=MINUTE,
        )
        config = build_account_config(account, {"openai": OpenAI}, 1, {}, lambda: 0.0)
        time = reread_time(config.poll_settings, NOW)
        assert NOW - WEEK < time <= NOW
        assert reread_time(config.poll_settings, time + WEEK) == time + WEEK
        hours[floor(time, HOUR)] = hours.get(floor(time, HOUR), 0) + 1
    assert max(hours.values()) <= 20
    assert len(hours) > 160
