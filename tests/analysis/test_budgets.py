"""Budgets: spent, pace, forecast and when they run out, across the edges of days, weeks, months and leap years."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import re2
from hypothesis import given
from hypothesis import strategies as st

from exporter.analysis.baselines import Hourly
from exporter.analysis.budgets import Period, Standing, matches, part, period_of, regex, standing
from exporter.model import DAY, HOUR
from exporter.windows import Span
from tests.analysis.hourly import MONDAY, hourly

NOON = MONDAY + 14 * DAY + 12 * HOUR
MINUTE = timedelta(minutes=1)
PERIODS: tuple[Period, ...] = ("day", "week", "month")


def stood(
    limit: int, kind: Period, hours: Hourly, now: datetime = NOON, until: datetime | None = NOON, times: int = 1
) -> Standing:
    """Return how a budget of `times` equal accounts stands."""
    return standing(limit, kind, [part(kind, hours, now, until)] * times, now)


def day(year: int, month: int, number: int) -> datetime:
    return datetime(year, month, number, tzinfo=UTC)


@pytest.mark.parametrize(
    ("kind", "now", "start", "end"),
    [
        ("day", day(2026, 12, 31), day(2026, 12, 31), day(2027, 1, 1)),
        ("week", day(2026, 6, 1), day(2026, 6, 1), day(2026, 6, 8)),
        ("week", day(2027, 1, 3), day(2026, 12, 28), day(2027, 1, 4)),
        ("month", day(2026, 12, 31), day(2026, 12, 1), day(2027, 1, 1)),
        ("month", day(2027, 2, 28), day(2027, 2, 1), day(2027, 3, 1)),
        ("month", day(2028, 2, 29), day(2028, 2, 1), day(2028, 3, 1)),
        ("month", day(2026, 4, 30), day(2026, 4, 1), day(2026, 5, 1)),
    ],
)
def test_periods_are_utc_and_whole(kind: Period, now: datetime, start: datetime, end: datetime) -> None:
    """A period holds its first moment and its last, and ends where the next begins: leap days and years' ends too."""
    for moment in (now, now + DAY - timedelta(microseconds=1)):
        assert period_of(kind, moment) == Span(start, end)


@given(st.sampled_from(PERIODS), st.integers(0, 8 * 366 * 24 * 60))
def test_periods_follow_each_other(kind: Period, minutes: int) -> None:
    """Every moment is in its period, and the period's end begins the next."""
    now = day(2024, 1, 1) + minutes * MINUTE
    period = period_of(kind, now)
    assert period.start <= now < period.end
    assert period_of(kind, period.end).start == period.end
    assert period_of(kind, period.end - MINUTE) == period


def test_a_steady_budget_is_burnt_at_one() -> None:
    """Spend at the pace that uses the limit up: every rate is 1, the forecast is the limit, it runs out at the end."""
    for kind in PERIODS:
        period = period_of(kind, NOON)
        hours_in = (period.end - period.start) // HOUR
        told = stood(1000 * hours_in, kind, hourly(lambda _: 1000, NOON))
        assert told.burn == {"1h": 1, "6h": 1, "1d": 1, "3d": 1}
        assert told.forecast == told.limit
        assert told.spent == 1000 * ((NOON - period.start) // HOUR)
        assert told.exhausted_at == period.end


def test_accounts_of_a_budget_add_up() -> None:
    """Three accounts spend three times as much, burn three times as fast and run out in a third of the time."""
    hours = hourly(lambda _: 1000, NOON)
    told = stood(720_000, "month", hours, times=3)
    assert told.spent == 3 * stood(720_000, "month", hours).spent
    assert told.burn["6h"] == 3
    assert told.exhausted_at == MONDAY + 240 * HOUR


def test_no_account_has_spent_nothing() -> None:
    """A budget that counts nothing yet has spent nothing, and nobody says where it will end."""
    assert standing(5, "month", [], NOON) == Standing(5, 0, None, {}, None)


def test_before_the_first_complete_hour_nothing_is_forecast() -> None:
    """What has been told is spent, but there is no pace and no forecast: half a month told in pieces is no trend."""
    told = stood(720_000, "month", hourly(lambda _: 1000, NOON), until=None)
    assert told.spent == 1000 * (14 * 24 + 12)
    assert (told.forecast, told.burn, told.exhausted_at) == (None, {}, None)


def workdays(hour: datetime) -> int:
    return 10_000 if hour.weekday() < 5 and 9 <= hour.hour < 17 else 0


def test_the_forecast_has_the_shape_of_the_weeks_before() -> None:
    """On a Friday evening a week of office hours is complete: the weekend is not expected to cost anything."""
    friday = MONDAY + 4 * DAY + 20 * HOUR
    told = stood(10**6, "week", hourly(workdays, friday), friday, friday)
    assert told.forecast == told.spent == 5 * 8 * 10_000
    monday = MONDAY + 7 * DAY
    assert stood(10**6, "week", hourly(workdays, monday), monday, monday).forecast == 5 * 8 * 10_000


def test_the_forecast_follows_the_last_weeks_level() -> None:
    """Where the last week cost twice what the weeks before did, the rest of the month is expected to go on so."""
    weeks = (NOON - 7 * DAY, NOON - 28 * DAY)
    hours = hourly(lambda hour: 2_000 if hour >= weeks[0] else 1_000 if hour >= weeks[1] else 0, NOON)
    told = stood(10**7, "month", hours)
    rest = (period_of("month", NOON).end - NOON) // HOUR
    assert told.forecast == pytest.approx(told.spent + 2_000 * rest, rel=0.001)


def test_one_mad_week_is_not_the_rest_of_the_month() -> None:
    """The last week lifts what is expected to four times the usual week at most."""
    hours = hourly(lambda hour: 1_000_000 if hour >= NOON - 7 * DAY else 100 if hour < NOON - 28 * DAY else 0, NOON)
    told = stood(10**9, "month", hours)
    rest = (period_of("month", NOON).end - NOON) // HOUR
    assert told.forecast is not None
    assert told.forecast - told.spent == pytest.approx(1_000_000 * rest, rel=0.01)


def test_with_little_history_the_pace_is_straight() -> None:
    """Below two weeks every hour to come is expected to cost the mean of the last seven known days."""
    hours = hourly(workdays, NOON, known=NOON - 2 * DAY)
    told = stood(10**6, "day", hours)
    known = 3 * 10_000 + 2 * 0  # Monday nine to noon; Saturday noon to Sunday night nothing
    assert told.spent == known
    assert told.forecast == known + 12 * (known // 48)


def test_a_running_hour_counts_once() -> None:
    """What is known of an incomplete hour is spent at once; the forecast has the whole hour as expected."""
    now = NOON + 30 * MINUTE
    for known, expected in ((400, 1000), (5_000, 5_000)):
        hours = hourly(lambda hour, known=known: known if hour == NOON else 1000, NOON + HOUR)  # type: ignore[misc]
        told = stood(10**7, "day", hours, now, NOON)
        assert told.spent == 12 * 1000 + known
        assert told.forecast == 12 * 1000 + expected + 11 * 1000


def test_hours_that_are_late_are_expected_not_missing() -> None:
    """Six hours that the provider has not told yet do not lower the forecast, and the pace is of the known hours."""
    late = stood(10**7, "day", hourly(lambda _: 1000, NOON - 6 * HOUR), NOON, NOON - 6 * HOUR)
    assert late.spent == 6_000
    assert late.forecast == 24_000
    assert late.burn["1h"] == pytest.approx(1000 * 24 / 10**7)


def test_an_account_nobody_could_read_for_a_day_has_no_pace() -> None:
    """A spike just before an account was lost does not burn for ever; what it is expected to cost stays expected."""
    lost = NOON - 5 * DAY
    hours = hourly(lambda hour: 10**6 if hour == lost - HOUR else 1000, lost)
    told = stood(10**7, "month", hours, NOON, lost)
    assert told.burn == {"1h": 0, "6h": 0, "1d": 0, "3d": 0}
    assert told.forecast is not None
    assert told.forecast > told.spent


def test_a_limit_reached_in_the_past_tells_when() -> None:
    """The time at which it ran out lies within its hour, evenly, and stays."""
    hours = hourly(lambda _: 1000, NOON)
    told = stood(2_500, "day", hours)
    assert told.exhausted_at == MONDAY + 14 * DAY + 2 * HOUR + 30 * MINUTE
    assert stood(24_001, "day", hours).exhausted_at is None


def test_at_the_turn_of_a_month_all_begins_anew() -> None:
    """In the first minute of a month nothing is spent; pace still looks back; what was of the old month counts not."""
    first = day(2026, 7, 1)
    old = part("month", hourly(lambda _: 1000, first), first - MINUTE, first - HOUR)
    new = part("month", hourly(lambda _: 1000, first), first + MINUTE, first)
    assert standing(10**6, "month", [old], first - MINUTE).spent == 30 * 24_000
    told = standing(744_000, "month", [old, new], first + MINUTE)
    assert told.spent == 0
    assert told.forecast == 744_000
    assert told.burn["3d"] == 1


@given(
    st.lists(st.integers(0, 10**12), min_size=35 * 24, max_size=35 * 24),
    st.sampled_from(PERIODS),
    st.integers(0, 47),
    st.integers(1, 10**14),
)
def test_what_is_told_of_a_budget_agrees(values: list[int], kind: Period, late: int, limit: int) -> None:
    """The forecast is never below what is spent, and a limit runs out exactly where the forecast reaches it."""
    since = NOON.replace(hour=0) - 34 * DAY
    values[(NOON - since) // HOUR + 1 :] = [0] * (len(values) - (NOON - since) // HOUR - 1)
    told = stood(limit, kind, Hourly(since, values, since), NOON + MINUTE, NOON - late * HOUR)
    period = period_of(kind, NOON)
    assert told.forecast is not None
    assert told.forecast >= told.spent == sum(values[max(0, (period.start - since) // HOUR) :])
    assert (told.exhausted_at is not None) == (told.forecast >= limit)
    assert told.exhausted_at is None or period.start <= told.exhausted_at <= period.end


@pytest.mark.parametrize(
    ("patterns", "fits"),
    [
        ({}, True),
        ({"account": "acme"}, True),
        ({"account": "acm"}, False),
        ({"model": "claude-*", "workspace": "Web*"}, True),
        ({"model": "claude-*", "workspace": "Lab"}, False),
        ({"owner": "?*"}, False),
        ({"model": "Claude-*"}, False),
        ({"workspace": "*"}, True),
        ({"workspace": "Web (???)"}, True),
        ({"account": "[a]cme"}, False),
        ({"account": "a.me"}, False),
    ],
)
def test_every_glob_of_a_selection_has_to_fit(patterns: dict[str, str], fits: bool) -> None:
    """Globs match whole values, case and all; a label that is not there is empty."""
    assert matches(patterns, {"account": "acme", "model": "claude-opus-5", "workspace": "Web (123)"}) == fits


@given(st.text("ab*?.[]()|^$\\\\+{}-", max_size=8), st.text("ab*?.[]()|^$\\\\+{}-", max_size=8))
def test_prometheus_reads_a_glob_as_we_do(glob: str, value: str) -> None:
    """The regular expression that stands for a glob matches the same values in Prometheus's syntax."""
    assert (re2.fullmatch(regex(glob), value) is not None) == matches({"x": glob}, {"x": value})
    assert matches({"x": glob}, {"x": glob})
