"""Expected values of an hour: robust, by the kind of day, and absent where too few days are known."""

from __future__ import annotations

from datetime import datetime, timedelta

from exporter.analysis.baselines import Baseline, HourlySeries, baseline, excess
from exporter.model import DAY, HOUR
from tests.analysis.hourly import MONDAY, make_hourly_series

FRIDAY = MONDAY + 18 * DAY
FRIDAY_TEN = FRIDAY + 10 * HOUR
SUNDAY_TEN = FRIDAY_TEN + 2 * DAY


def workday_cost(hour: datetime) -> int:
    """Work by day: ten dollars an hour from nine to five on workdays, nothing at weekends, one by night."""
    if hour.weekday() >= 5:
        return 0
    return 10_000 if 9 <= hour.hour < 17 else 1_000


def replace_hours(hours: HourlySeries, *changes: tuple[datetime, int]) -> HourlySeries:
    """Return a series with other values in some hours."""
    values = list(hours.values)
    for hour, value in changes:
        values[(hour - hours.since) // HOUR] = value
    return HourlySeries(hours.since, values, hours.known_since)


def test_an_hour_is_compared_with_the_same_hour_of_the_same_kind_of_day() -> None:
    """A workday's ten o'clock is expected to cost what workdays' did, a night its night, a Sunday what Sundays did."""
    hours = make_hourly_series(workday_cost, FRIDAY_TEN)
    assert baseline(hours, FRIDAY_TEN, 500) == Baseline(10_000, 20_000)
    assert baseline(hours, FRIDAY + 3 * HOUR, 500) == Baseline(1_000, 2_000)
    assert baseline(hours, SUNDAY_TEN, 500) == Baseline(0, 500)


def test_one_outlier_day_does_not_move_the_baseline() -> None:
    """The day of an incident and a day without usage do not change the expected value."""
    hours = replace_hours(
        make_hourly_series(workday_cost, FRIDAY_TEN), (FRIDAY_TEN - DAY, 900_000), (FRIDAY_TEN - 2 * DAY, 0)
    )
    assert baseline(hours, FRIDAY_TEN, 500) == Baseline(10_000, 20_000)


def test_normal_variation_is_not_above_the_upper_bound() -> None:
    """Where the same hour differs much from day to day, high is four robust standard deviations above the median."""
    hours = make_hourly_series(lambda hour: 10_000 + 4_000 * (hour.day % 3), FRIDAY_TEN)
    found = baseline(hours, FRIDAY_TEN, 500)
    assert found is not None
    assert found.expected == 14_000
    assert found.upper_bound == round(14_000 + 4 * 1.4826 * 4_000)


def test_small_amounts_are_never_above_the_upper_bound() -> None:
    """An hour is not high while it is less than the minimum increase above the expected value."""
    assert baseline(make_hourly_series(lambda _: 10, FRIDAY_TEN), FRIDAY_TEN, 500) == Baseline(10, 510)


def test_without_three_known_days_nothing_is_expected() -> None:
    """Unknown days are not days without usage: with fewer than three known days there is no baseline."""
    for days, known in ((2, False), (3, True)):
        hours = make_hourly_series(workday_cost, FRIDAY_TEN, known_since=FRIDAY_TEN - days * DAY)
        assert (baseline(hours, FRIDAY_TEN, 500) is not None) == known
    part = make_hourly_series(workday_cost, FRIDAY_TEN, known_since=FRIDAY_TEN - 3 * DAY + timedelta(minutes=1))
    assert baseline(part, FRIDAY_TEN, 500) is None


def test_with_few_days_of_a_kind_all_days_count() -> None:
    """On the fourth day of an account, a Monday, its weekend is compared with too: there is nothing else."""
    monday = MONDAY + 14 * DAY + 10 * HOUR
    hours = make_hourly_series(workday_cost, monday, known_since=monday - 4 * DAY)
    assert baseline(hours, monday, 500) == Baseline(5_000, 5_000 + round(4 * 1.4826 * 5_000))


def test_an_hour_is_not_part_of_its_own_baseline() -> None:
    """The cost of an hour and of later hours does not change its expected value."""
    hours = make_hourly_series(workday_cost, FRIDAY_TEN + 5 * HOUR)
    assert baseline(replace_hours(hours, (FRIDAY_TEN, 10**9), (FRIDAY_TEN + HOUR, 10**9)), FRIDAY_TEN, 500) == baseline(
        hours, FRIDAY_TEN, 500
    )


def test_excess_is_cost_above_the_upper_bound() -> None:
    """The excess of the last day is the sum over two hours of an incident, each above its own upper bound."""
    hours = make_hourly_series(workday_cost, FRIDAY_TEN)
    assert excess(hours, FRIDAY_TEN, 500) == 0
    incident = replace_hours(hours, (FRIDAY_TEN - HOUR, 30_000), (FRIDAY_TEN - 6 * HOUR, 2_600))
    assert excess(incident, FRIDAY_TEN, 500) == 10_000 + 600
    assert excess(incident, FRIDAY_TEN + timedelta(minutes=59), 500) == 10_600


def test_excess_forgets_after_a_day() -> None:
    """An hour counts while it is among the 24 newest complete ones."""
    hours = replace_hours(make_hourly_series(workday_cost, FRIDAY_TEN + DAY), (FRIDAY_TEN - HOUR, 30_000))
    assert excess(hours, FRIDAY_TEN + 23 * HOUR, 500) == 10_000
    assert excess(hours, FRIDAY_TEN + DAY, 500) == 0


def test_excess_without_a_baseline_is_unknown() -> None:
    """Where no hour can be judged there is no excess, which is not the same as none."""
    assert (
        excess(make_hourly_series(workday_cost, FRIDAY_TEN, known_since=FRIDAY_TEN - 2 * DAY), FRIDAY_TEN, 500) is None
    )


def test_a_steady_catch_up_is_no_excess() -> None:
    """Five hours that are reported at once are judged hour by hour, as if they had been in time."""
    told_late = make_hourly_series(workday_cost, FRIDAY_TEN)
    assert excess(told_late, FRIDAY_TEN - 5 * HOUR, 500) == excess(told_late, FRIDAY_TEN, 500) == 0
