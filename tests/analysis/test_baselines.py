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
    assert baseline(hours, FRIDAY_TEN, 500) == Baseline(10_000, 25_000)
    assert baseline(hours, FRIDAY + 3 * HOUR, 500) == Baseline(1_000, 2_500)
    assert baseline(hours, SUNDAY_TEN, 500) == Baseline(0, 500)


def test_one_outlier_day_does_not_move_the_baseline() -> None:
    """The day of an incident and a day without usage do not change the expected value."""
    hours = replace_hours(
        make_hourly_series(workday_cost, FRIDAY_TEN), (FRIDAY_TEN - DAY, 900_000), (FRIDAY_TEN - 2 * DAY, 0)
    )
    assert baseline(hours, FRIDAY_TEN, 500) == Baseline(10_000, 25_000)


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


def test_where_weekends_are_like_workdays_all_days_count() -> None:
    """A service that is used every day alike is compared with the two days before, a Saturday with its Friday."""
    saturday_ten = FRIDAY_TEN + DAY
    hours = make_hourly_series(lambda hour: 40_000 if hour >= FRIDAY - DAY else 10_000, saturday_ten)
    assert baseline(hours, saturday_ten, 500) == Baseline(40_000, 100_000)


def test_a_new_level_is_learned_within_two_days() -> None:
    """The first two days of a new level are unusual, on the third it is expected."""
    hours = make_hourly_series(lambda hour: 50_000 if hour >= FRIDAY - 2 * DAY else 10_000, FRIDAY_TEN)
    assert baseline(hours, FRIDAY_TEN - 2 * DAY, 500) == Baseline(10_000, 25_000)
    assert baseline(hours, FRIDAY_TEN - DAY, 500) == Baseline(10_000, 25_000)
    assert baseline(hours, FRIDAY_TEN, 500) == Baseline(50_000, 125_000)


def test_a_lower_level_is_not_learned_in_two_days() -> None:
    """After two holidays a workday is still expected to cost what workdays cost."""
    hours = make_hourly_series(lambda hour: 0 if FRIDAY - 2 * DAY <= hour < FRIDAY else workday_cost(hour), FRIDAY_TEN)
    assert baseline(hours, FRIDAY_TEN, 500) == Baseline(10_000, 25_000)


def test_bursts_in_any_hour_raise_the_bound_of_every_hour() -> None:
    """Where on three days some hour was above its bound, an hour is unusual only above four such bursts."""
    quiet = make_hourly_series(lambda _: 0, FRIDAY_TEN)
    bursts = [(FRIDAY - days * DAY + days * HOUR, 10_500 + 1_000 * days) for days in (1, 2, 3)]
    assert baseline(replace_hours(quiet, *bursts[:2]), FRIDAY_TEN, 500) == Baseline(0, 500)
    # The bound of each hour is 500, and the third largest burst 11,500.
    assert baseline(replace_hours(quiet, *bursts), FRIDAY_TEN, 500) == Baseline(0, 500 + 4 * 11_000)


def test_growth_raises_the_level_of_every_hour() -> None:
    """Where the newest two days cost more in total, hours are expected to cost more, the quiet ones too."""
    hours = make_hourly_series(lambda hour: workday_cost(hour) * (3 if hour >= FRIDAY - 2 * DAY else 1), FRIDAY_TEN)
    quiet = replace_hours(hours, (FRIDAY - DAY + 3 * HOUR, 0))
    assert baseline(quiet, FRIDAY + 3 * HOUR, 500) == Baseline(2_969, 7_422)


def test_an_incident_that_passes_midnight_does_not_raise_the_bound() -> None:
    """Hours above their bounds on two days are an incident, not bursts that are usual."""
    hours = make_hourly_series(workday_cost, FRIDAY_TEN)
    night = [(FRIDAY - 2 * DAY + number * HOUR, 900_000) for number in range(-4, 5)]
    assert baseline(replace_hours(hours, *night), FRIDAY_TEN, 500) == Baseline(10_000, 25_000)


def test_jobs_that_run_once_a_month_are_expected() -> None:
    """On the same day of the month an hour may cost 2.5 times what it cost in the month before, on other days not."""
    hours = make_hourly_series(lambda _: 10_000, FRIDAY_TEN)
    job = replace_hours(hours, (FRIDAY_TEN.replace(month=5), 70_000))
    assert baseline(job, FRIDAY_TEN, 500) == Baseline(10_000, 175_000)
    assert baseline(job, FRIDAY_TEN - DAY, 500) == Baseline(10_000, 25_000)
    assert baseline(job, FRIDAY_TEN - HOUR, 500) == Baseline(10_000, 25_000)


def test_the_month_before_is_not_compared_across_kinds_of_days() -> None:
    """A Sunday is not expected to cost what the same day of the month before, a Thursday, cost as usual."""
    hours = make_hourly_series(workday_cost, SUNDAY_TEN)
    thursday = SUNDAY_TEN.replace(month=5)
    assert thursday.weekday() == 3
    assert baseline(hours, SUNDAY_TEN, 500) == Baseline(0, 500)
    assert baseline(replace_hours(hours, (thursday, 25_000)), SUNDAY_TEN, 500) == Baseline(0, 500)
    assert baseline(replace_hours(hours, (thursday, 25_002)), SUNDAY_TEN, 500) == Baseline(0, 62_505)


def test_the_last_day_of_a_short_month_stands_for_later_days() -> None:
    """31 May is compared with 30 April."""
    end_of_may = datetime(2026, 5, 31, 10, tzinfo=MONDAY.tzinfo)
    job = replace_hours(make_hourly_series(lambda _: 10_000, end_of_may), (end_of_may - 31 * DAY, 50_000))
    assert baseline(job, end_of_may, 500) == Baseline(10_000, 125_000)


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
    assert excess(incident, FRIDAY_TEN, 500) == 5_000 + 100
    assert excess(incident, FRIDAY_TEN + timedelta(minutes=59), 500) == 5_100


def test_excess_forgets_after_a_day() -> None:
    """An hour counts while it is among the 24 newest complete ones."""
    hours = replace_hours(make_hourly_series(workday_cost, FRIDAY_TEN + DAY), (FRIDAY_TEN - HOUR, 30_000))
    assert excess(hours, FRIDAY_TEN + 23 * HOUR, 500) == 5_000
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
