"""Budgets: spent, pace, forecast and when they run out, across the edges of days, weeks, months and leap years."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import re2
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.analysis.baselines import HourlySeries
from exporter.analysis.budgets import (
    BudgetStatus,
    PeriodType,
    SpendSeries,
    budget_share,
    budget_status,
    current_period,
    exhaustion_time,
    glob_to_regex,
    matches,
)
from exporter.model import DAY, HOUR
from exporter.windows import TimeRange
from tests.analysis.hourly import MONDAY, make_hourly_series

NOON = MONDAY + 14 * DAY + 12 * HOUR
MINUTE = timedelta(minutes=1)
PERIODS: tuple[PeriodType, ...] = ("day", "week", "month")


def compute_status(
    limit: int,
    kind: PeriodType,
    hours: HourlySeries,
    now: datetime = NOON,
    until: datetime | None = NOON,
    times: int = 1,
) -> BudgetStatus:
    """Return how a budget of `times` equal accounts stands."""
    return budget_status(limit, kind, [budget_share(kind, SpendSeries(hours), now, until)] * times, now)


def utc_day(year: int, month: int, number: int) -> datetime:
    return datetime(year, month, number, tzinfo=UTC)


@pytest.mark.parametrize(
    ("kind", "now", "start", "end"),
    [
        ("day", utc_day(2026, 12, 31), utc_day(2026, 12, 31), utc_day(2027, 1, 1)),
        ("week", utc_day(2026, 6, 1), utc_day(2026, 6, 1), utc_day(2026, 6, 8)),
        ("week", utc_day(2027, 1, 3), utc_day(2026, 12, 28), utc_day(2027, 1, 4)),
        ("month", utc_day(2026, 12, 31), utc_day(2026, 12, 1), utc_day(2027, 1, 1)),
        ("month", utc_day(2027, 2, 28), utc_day(2027, 2, 1), utc_day(2027, 3, 1)),
        ("month", utc_day(2028, 2, 29), utc_day(2028, 2, 1), utc_day(2028, 3, 1)),
        ("month", utc_day(2026, 4, 30), utc_day(2026, 4, 1), utc_day(2026, 5, 1)),
    ],
)
def test_periods_are_utc_and_whole(kind: PeriodType, now: datetime, start: datetime, end: datetime) -> None:
    """A period contains its first and last microsecond, also with leap days and at the end of a year."""
    for moment in (now, now + DAY - timedelta(microseconds=1)):
        assert current_period(kind, moment) == TimeRange(start, end)


@settings(deadline=None)
@given(st.sampled_from(PERIODS), st.integers(0, 8 * 366 * 24 * 60))
def test_periods_follow_each_other(kind: PeriodType, minutes: int) -> None:
    """Every time is in its period, and the period's end begins the next."""
    now = utc_day(2024, 1, 1) + minutes * MINUTE
    period = current_period(kind, now)
    assert period.start <= now < period.end
    assert current_period(kind, period.end).start == period.end
    assert current_period(kind, period.end - MINUTE) == period


def test_a_steady_budget_is_burnt_at_one() -> None:
    """Spend at the pace that uses the limit up: every rate is 1, the forecast is the limit, it runs out at the end."""
    for kind in PERIODS:
        period = current_period(kind, NOON)
        hours_in = (period.end - period.start) // HOUR
        status = compute_status(1000 * hours_in, kind, make_hourly_series(lambda _: 1000, NOON))
        assert status.burn_rates == {"1h": 1, "6h": 1, "1d": 1, "3d": 1}
        assert status.forecast == status.limit
        assert status.spent == 1000 * ((NOON - period.start) // HOUR)
        assert status.exhausted_at == period.end


def test_accounts_of_a_budget_add_up() -> None:
    """Three accounts spend three times as much, burn three times as fast and run out in a third of the time."""
    hours = make_hourly_series(lambda _: 1000, NOON)
    status = compute_status(720_000, "month", hours, times=3)
    assert status.spent == 3 * compute_status(720_000, "month", hours).spent
    assert status.burn_rates["6h"] == 3
    assert status.exhausted_at == MONDAY + 240 * HOUR


def test_no_account_has_spent_nothing() -> None:
    """A budget without any usage has spent nothing and has no forecast."""
    assert budget_status(5, "month", [], NOON) == BudgetStatus(5, 0, None, {}, None)


def test_before_the_first_complete_hour_nothing_is_forecast() -> None:
    """Known cost is spent, but there is no burn rate and no forecast: a partly read month is no trend."""
    status = compute_status(720_000, "month", make_hourly_series(lambda _: 1000, NOON), until=None)
    assert status.spent == 1000 * (14 * 24 + 12)
    assert (status.forecast, status.burn_rates, status.exhausted_at) == (None, {}, None)


def workday_cost(hour: datetime) -> int:
    return 10_000 if hour.weekday() < 5 and 9 <= hour.hour < 17 else 0


def test_the_forecast_has_the_weekly_pattern_of_past_weeks() -> None:
    """On a Friday evening a week of office hours is complete: the weekend is not expected to cost anything."""
    friday = MONDAY + 4 * DAY + 20 * HOUR
    status = compute_status(10**6, "week", make_hourly_series(workday_cost, friday), friday, friday)
    assert status.forecast == status.spent == 5 * 8 * 10_000
    monday = MONDAY + 7 * DAY
    assert (
        compute_status(10**6, "week", make_hourly_series(workday_cost, monday), monday, monday).forecast
        == 5 * 8 * 10_000
    )


def test_the_forecast_follows_the_last_weeks_level() -> None:
    """Where the last week cost twice as much as the weeks before, the rest of the month is expected at that level."""
    weeks = (NOON - 7 * DAY, NOON - 28 * DAY)
    hours = make_hourly_series(lambda hour: 2_000 if hour >= weeks[0] else 1_000 if hour >= weeks[1] else 0, NOON)
    status = compute_status(10**7, "month", hours)
    rest = (current_period("month", NOON).end - NOON) // HOUR
    assert status.forecast == pytest.approx(status.spent + 2_000 * rest, rel=0.001)


def test_one_outlier_week_does_not_move_the_forecast() -> None:
    """The last week raises the expected cost to four times the usual week at most."""
    hours = make_hourly_series(
        lambda hour: 1_000_000 if hour >= NOON - 7 * DAY else 100 if hour < NOON - 28 * DAY else 0, NOON
    )
    status = compute_status(10**9, "month", hours)
    rest = (current_period("month", NOON).end - NOON) // HOUR
    assert status.forecast is not None
    assert status.forecast - status.spent == pytest.approx(1_000_000 * rest, rel=0.01)


def test_with_little_history_the_forecast_is_linear() -> None:
    """Below two weeks every hour to come is expected to cost the mean of the last seven known days."""
    hours = make_hourly_series(workday_cost, NOON, known_since=NOON - 2 * DAY)
    status = compute_status(10**6, "day", hours)
    known = 3 * 10_000 + 2 * 0  # Monday nine to noon; Saturday noon to Sunday night nothing
    assert status.spent == known
    assert status.forecast == known + 12 * (known // 48)


def test_a_running_hour_counts_once() -> None:
    """The known cost of an incomplete hour is spent at once; the forecast has the whole expected hour."""
    now = NOON + 30 * MINUTE
    for known, expected in ((400, 1000), (5_000, 5_000)):
        hours = make_hourly_series(lambda hour, known=known: known if hour == NOON else 1000, NOON + HOUR)  # type: ignore[misc]
        status = compute_status(10**7, "day", hours, now, NOON)
        assert status.spent == 12 * 1000 + known
        assert status.forecast == 12 * 1000 + expected + 11 * 1000


def test_hours_that_are_late_are_expected_not_missing() -> None:
    """Six hours that are not reported yet do not lower the forecast; burn rates are those of the known hours."""
    late = compute_status(10**7, "day", make_hourly_series(lambda _: 1000, NOON - 6 * HOUR), NOON, NOON - 6 * HOUR)
    assert late.spent == 6_000
    assert late.forecast == 24_000
    assert late.burn_rates["1h"] == pytest.approx(1000 * 24 / 10**7)


def test_an_account_unread_for_a_day_has_no_burn_rate() -> None:
    """A spike just before an account was lost does not burn for ever; its expected cost stays in the forecast."""
    lost = NOON - 5 * DAY
    hours = make_hourly_series(lambda hour: 10**6 if hour == lost - HOUR else 1000, lost)
    status = compute_status(10**7, "month", hours, NOON, lost)
    assert status.burn_rates == {"1h": 0, "6h": 0, "1d": 0, "3d": 0}
    assert status.forecast is not None
    assert status.forecast > status.spent


def test_a_limit_reached_in_the_past_has_its_time() -> None:
    """The time at which it ran out lies within its hour, evenly, and stays."""
    hours = make_hourly_series(lambda _: 1000, NOON)
    status = compute_status(2_500, "day", hours)
    assert status.exhausted_at == MONDAY + 14 * DAY + 2 * HOUR + 30 * MINUTE
    assert compute_status(24_001, "day", hours).exhausted_at is None


def test_budgets_restart_at_the_start_of_a_month() -> None:
    """In the first minute of a month nothing is spent; burn rates include earlier hours; the old month is not spent."""
    first = utc_day(2026, 7, 1)
    old = budget_share("month", SpendSeries(make_hourly_series(lambda _: 1000, first)), first - MINUTE, first - HOUR)
    new = budget_share("month", SpendSeries(make_hourly_series(lambda _: 1000, first)), first + MINUTE, first)
    assert budget_status(10**6, "month", [old], first - MINUTE).spent == 30 * 24_000
    status = budget_status(744_000, "month", [old, new], first + MINUTE)
    assert status.spent == 0
    assert status.forecast == 744_000
    assert status.burn_rates["3d"] == 1


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 10**12), min_size=35 * 24, max_size=35 * 24),
    st.sampled_from(PERIODS),
    st.integers(0, 47),
    st.integers(1, 10**14),
)
def test_the_figures_of_a_budget_are_consistent(values: list[int], kind: PeriodType, late: int, limit: int) -> None:
    """The forecast is never below the spent amount, and a limit runs out exactly where the forecast reaches it."""
    since = NOON.replace(hour=0) - 34 * DAY
    values[(NOON - since) // HOUR + 1 :] = [0] * (len(values) - (NOON - since) // HOUR - 1)
    status = compute_status(limit, kind, HourlySeries(since, values, since), NOON + MINUTE, NOON - late * HOUR)
    period = current_period(kind, NOON)
    assert status.forecast is not None
    assert status.forecast >= status.spent == sum(values[max(0, (period.start - since) // HOUR) :])
    assert (status.exhausted_at is not None) == (status.forecast >= limit)
    assert status.exhausted_at is None or period.start <= status.exhausted_at <= period.end


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


@settings(deadline=None)
@given(st.text("ab*?.[]()|^$\\\\+{}-", max_size=8), st.text("ab*?.[]()|^$\\\\+{}-", max_size=8))
def test_prometheus_reads_a_glob_as_we_do(glob: str, value: str) -> None:
    """The regular expression that stands for a glob matches the same values in Prometheus's syntax."""
    assert (re2.fullmatch(glob_to_regex(glob), value) is not None) == matches({"x": glob}, {"x": value})
    assert matches({"x": glob}, {"x": glob})


def test_a_balance_lasts_at_the_pace_of_the_forecast() -> None:
    """A balance is used up when the expected hours from the time of its reading cost as much, to the minute."""
    spend = SpendSeries(make_hourly_series(lambda _: 1000, NOON))
    assert exhaustion_time(spend, 2_500, NOON, NOON) == NOON + 2 * HOUR + 30 * MINUTE
    assert exhaustion_time(spend, 2_500, NOON + 30 * MINUTE, NOON) == NOON + 3 * HOUR
    assert exhaustion_time(spend, 10 * 168_000, NOON, NOON) == NOON + 70 * DAY


def test_a_balance_is_not_used_at_hours_without_cost() -> None:
    """The weekly pattern decides: what is left on a Friday evening lasts until Monday morning."""
    friday_evening = MONDAY + 32 * DAY + 20 * HOUR
    spend = SpendSeries(make_hourly_series(workday_cost, friday_evening))
    assert exhaustion_time(spend, 15_000, friday_evening, friday_evening) == MONDAY + 35 * DAY + 9 * HOUR + 90 * MINUTE


@pytest.mark.parametrize(("cost", "amount"), [(1000, 0), (1000, -1), (0, 1000), (-5, 1000), (1, 52 * 168)])
def test_a_balance_without_an_end_has_no_time(cost: int, amount: int) -> None:
    """What is used up already, not used at all, or lasts for a year has no time of exhaustion."""
    assert exhaustion_time(SpendSeries(make_hourly_series(lambda _: cost, NOON)), amount, NOON, NOON) is None
