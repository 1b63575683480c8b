"""Budgets: spend of a period, burn rates, forecast and time of exhaustion. Pure, in UTC.

Each account computes its `BudgetShare` on its own; `budget_status` sums the shares of all accounts of a budget.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import cache
from operator import add, sub
from typing import Literal

from exporter.analysis.baselines import HourlySeries
from exporter.model import DAY, HOUR
from exporter.windows import TimeRange, floor

PeriodType = Literal["day", "week", "month"]
BURN_RATE_WINDOWS = {"1h": HOUR, "6h": 6 * HOUR, "1d": DAY, "3d": 3 * DAY}
WEEK = 7 * DAY
_HOURS_PER_WEEK = WEEK // HOUR
_MAX_WEEKS = 52
"""A balance that lasts for longer has no time of exhaustion."""
MIN_PROFILE_HISTORY = 2 * WEEK
"""With this much history the forecast has the weekly profile of the past weeks; with less it is linear."""
MAX_PROFILE_HISTORY = 4 * WEEK
MAX_LEVEL_CHANGE = 4.0
"""Largest factor by which the last week scales the profile: one odd week does not decide the rest of a month."""

MAX_DAY_RATIO = 2
"""A day that costs more than so many times the second most expensive one is exceptional."""
_MIN_COMPARED_DAYS = 3


@dataclass(frozen=True, slots=True)
class SpendSeries:
    """The cost that a budget counts, hour by hour, in nano-USD, the running hour included.

    Of the period and of the four weeks before, as far as known.
    """

    total: HourlySeries
    one_time: HourlySeries | None = None
    """The part that is charged or credited once: it is spent, but no measure of the hours to come."""

    def repeated_hours(self, time_range: TimeRange) -> list[int]:
        """Return the cost of each whole hour of a time range without its one-time part."""
        total = self.total.hours(time_range)
        return total if self.one_time is None else [*map(sub, total, self.one_time.hours(time_range))]

    def repeated(self, time_range: TimeRange) -> int:
        """Return the cost of a time range without its one-time part."""
        return self.total.total(time_range) - (self.one_time.total(time_range) if self.one_time else 0)


@dataclass(frozen=True, slots=True)
class BudgetShare:
    """One account's share of a budget's spend, in nano-USD."""

    period: TimeRange
    spent: int
    """In this period, the running hour included."""
    window_spend: Mapping[str, int] | None
    """Burn-rate window -> spend of the last complete hours, one-time costs excluded.

    None before the first complete hour, and then without a forecast.
    """
    hourly_spend: Sequence[int]
    """Each hour of the period: its cost, or the cost expected of it."""

    @property
    def forecast(self) -> int | None:
        """Expected spend of the whole period; None before the first complete hour."""
        return None if self.window_spend is None else sum(self.hourly_spend)


@dataclass(frozen=True, slots=True)
class BudgetStatus:
    """The state of a budget; amounts in nano-USD."""

    limit: int
    spent: int
    """In this period, the running hour included."""
    forecast: int | None
    """Expected spend of the whole period; None without any complete hour."""
    burn_rates: Mapping[str, float]
    """Window -> rate of spend of the last complete hours; 1 is the rate that spends exactly the limit in the period."""
    exhausted_at: datetime | None
    """The time at which the limit is reached, past or future; None where it is not in this period."""


def matches(globs: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Return whether labels match the globs of a selection; a label without a glob may have any value."""
    return all(_compile_glob(glob).fullmatch(labels.get(name, "")) for name, glob in globs.items())


def glob_to_regex(glob: str) -> str:
    """Return a glob as a regular expression for the whole value.

    Only `*` and `?` are wildcards. Brackets are literal, unlike in a shell: names of workspaces contain them.
    """
    return "".join(_WILDCARDS.get(character) or _REGEX_SPECIAL.sub(r"\\\g<0>", character) for character in glob)


def format_threshold(ratio: Decimal) -> str:
    """Return a threshold relative to a limit as the value of the label `threshold`: `50%`."""
    return f"{(ratio * 100).normalize():f}%"


_WILDCARDS = {"*": ".*", "?": "."}
_REGEX_SPECIAL = re.compile(r"[\\.+()|\[\]{}^$]")


@cache
def _compile_glob(glob: str) -> re.Pattern[str]:
    return re.compile(glob_to_regex(glob), re.DOTALL)


def current_period(period_type: PeriodType, now: datetime) -> TimeRange:
    """Return the UTC day, the week from Monday on, or the month that contains a time."""
    day = floor(now, DAY)
    match period_type:
        case "day":
            return TimeRange(day, day + DAY)
        case "week":
            monday = day - day.weekday() * DAY
            return TimeRange(monday, monday + WEEK)
        case "month":
            first = day.replace(day=1)
            return TimeRange(first, (first + 31 * DAY).replace(day=1))


def budget_share(
    period_type: PeriodType, spend: SpendSeries, now: datetime, complete_until: datetime | None
) -> BudgetShare:
    """Return an account's share of a budget's spend.

    `complete_until` is the end of the account's newest complete hour. Later hours count with their known cost or the
    expected one, whichever is larger. In the first hours of a period the burn rates include hours of the period before:
    they measure the rate of spend, which does not restart.
    """
    period = current_period(period_type, now)
    spent = spend.total.total(TimeRange(period.start, floor(now, HOUR) + HOUR))
    if complete_until is None:
        return BudgetShare(period, spent, None, ())
    complete_until = floor(min(complete_until, now), HOUR)
    # An account without data for more than a day has no burn rate: the windows end a day ago at the earliest, so a
    # spike just before the data ended does not burn for ever. Its expected spend still counts.
    windows_end = max(complete_until, floor(now, HOUR) - DAY)
    window_spend = {
        name: spend.repeated(TimeRange(windows_end - width, min(windows_end, complete_until)))
        for name, width in BURN_RATE_WINDOWS.items()
    }
    return BudgetShare(period, spent, window_spend, array("q", _hourly_spend(spend, period, now, complete_until)))


def budget_status(limit: int, period_type: PeriodType, shares: Sequence[BudgetShare], now: datetime) -> BudgetStatus:
    """Return the status of a budget from the shares of all accounts that it counts.

    At the start of a period, shares that are still of the period before are left out.
    """
    period = current_period(period_type, now)
    current_shares = [share for share in shares if share.period == period]
    known_shares = [share for share in current_shares if share.window_spend is not None]
    window_spend = {
        name: sum((share.window_spend or {})[name] for share in known_shares)
        for name in (BURN_RATE_WINDOWS if known_shares else ())
    }
    hourly_spend = [*map(sum, zip(*(share.hourly_spend for share in known_shares), strict=True))]
    return BudgetStatus(
        limit=limit,
        spent=sum(share.spent for share in current_shares),
        forecast=sum(hourly_spend) if known_shares else None,
        burn_rates=burn_rates(limit, period, window_spend),
        exhausted_at=_exhaustion_time(period, hourly_spend, limit),
    )


def burn_rates(limit: int, period: TimeRange, window_spend: Mapping[str, int]) -> dict[str, float]:
    """Return window -> rate of spend; 1 is the rate that spends exactly the limit in the period."""
    even_hourly_spend = limit / ((period.end - period.start) / HOUR)
    return {
        name: nano_usd / (BURN_RATE_WINDOWS[name] / HOUR) / even_hourly_spend for name, nano_usd in window_spend.items()
    }


def exhaustion_time(spend: SpendSeries, amount: int, since: datetime, complete_until: datetime) -> datetime | None:
    """Return when an amount that is left at the time `since` is spent, at the pace of the forecast of budgets.

    None where that takes more than a year, or nothing is expected to be spent.
    """
    profile = [max(0, cost) for cost in _weekly_profile(spend, complete_until)]
    week_cost = sum(profile)
    hour = floor(since, HOUR)
    first = _hour_of_week(hour)
    if not week_cost or amount <= 0:
        return None
    # The balance is known at a time within an hour: the part of that hour before it has been paid.
    amount += round(profile[first] * ((since - hour) / HOUR))
    full_weeks, remainder = divmod(amount, week_cost)
    if full_weeks >= _MAX_WEEKS:
        return None
    week = TimeRange(hour + full_weeks * WEEK, hour + (full_weeks + 1) * WEEK)
    return _exhaustion_time(week, profile[first:] + profile[:first], remainder)


def _hourly_spend(spend: SpendSeries, period: TimeRange, now: datetime, complete_until: datetime) -> list[int]:
    """Return the cost of each hour of the period: known up to the newest complete hour, at least the expected later."""
    known_end = min(floor(now, HOUR) + HOUR, period.end)
    complete_end = min(max(complete_until, period.start), known_end)
    complete, incomplete = TimeRange(period.start, complete_end), TimeRange(complete_end, known_end)
    known = spend.total.hours(incomplete)
    repeated = spend.repeated_hours(incomplete)
    expected = _expected_hours(spend, TimeRange(complete_end, period.end), complete_until)
    return [
        *spend.total.hours(complete),
        *(cost + max(0, due - part) for cost, part, due in zip(known, repeated, expected, strict=False)),
        *(max(0, due) for due in expected[len(known) :]),
    ]


def _expected_hours(spend: SpendSeries, time_range: TimeRange, complete_until: datetime) -> list[int]:
    """Return the expected cost of each hour of a time range; negative where credits exceeded the costs."""
    profile = _weekly_profile(spend, complete_until)
    first, count = _hour_of_week(time_range.start), (time_range.end - time_range.start) // HOUR
    weeks = profile * (1 + (first + count) // _HOURS_PER_WEEK)
    return weeks[first : first + count]


def _weekly_profile(spend: SpendSeries, complete_until: datetime) -> list[int]:
    """Return the expected cost of each hour of the week, Monday 00:00 UTC first.

    It is the mean of that hour in the past weeks, scaled to the last week's total: the pattern takes weeks to see,
    while the level of spend changes faster. With little history every hour is expected to cost the last week's mean.
    One-time costs and the excess of a single exceptional day are left out.
    """
    since = max(spend.total.known_since, complete_until - MAX_PROFILE_HISTORY)
    known_hours = max(0, (complete_until - since) // HOUR)
    newest_first = spend.repeated_hours(TimeRange(complete_until - known_hours * HOUR, complete_until))[::-1]
    costs = _limit_exceptional_day(newest_first)
    last_week = sum(costs[:_HOURS_PER_WEEK])
    if complete_until - since < MIN_PROFILE_HISTORY:
        averaged_hours = min(known_hours, _HOURS_PER_WEEK)
        return [last_week // averaged_hours if averaged_hours else 0] * _HOURS_PER_WEEK
    means = _hour_of_week_means(costs, complete_until)
    mean_week = sum(means)
    level = last_week / mean_week if mean_week else 1.0
    bounded_level = min(max(level, 1 / MAX_LEVEL_CHANGE), MAX_LEVEL_CHANGE)
    return [round(mean * bounded_level) for mean in means]


def _hour_of_week_means(newest_first: Sequence[int], complete_until: datetime) -> list[float]:
    """Return the mean cost of each hour of the week from hours before `complete_until`; at least a week of them.

    This runs for every budget of every account and, for history, every past hour: weeks are added as lists.
    """
    full_weeks, remaining_hours = divmod(len(newest_first), _HOURS_PER_WEEK)
    sums: Sequence[int] = newest_first[:_HOURS_PER_WEEK]
    for week in range(1, full_weeks):
        sums = [*map(add, sums, newest_first[week * _HOURS_PER_WEEK : (week + 1) * _HOURS_PER_WEEK])]
    oldest = newest_first[full_weeks * _HOURS_PER_WEEK :]
    means = [(total + cost) / (full_weeks + 1) for total, cost in zip(sums, oldest, strict=False)]
    means += [total / full_weeks for total in sums[remaining_hours:]]
    # Oldest first, they begin with the hour of the week at which the newest complete hour ends.
    means.reverse()
    monday = _HOURS_PER_WEEK - _hour_of_week(complete_until)
    return means[monday:] + means[:monday]


def _limit_exceptional_day(costs: Sequence[int]) -> list[int]:
    """Lower the most expensive 24 hours to those that follow them in cost, where they cost more than twice as much.

    A single exceptional day is no pattern; a second one that is similar makes it the new level. Days are counted back
    from the newest hour, and at least three are needed to tell which is exceptional.
    """
    limited = list(costs)
    day_totals = [sum(costs[start : start + 24]) for start in range(0, len(costs) - 23, 24)]
    if len(day_totals) < _MIN_COMPARED_DAYS:
        return limited
    second_largest, largest = sorted(day_totals)[-2:]
    if largest > MAX_DAY_RATIO * second_largest > 0:
        first = 24 * day_totals.index(largest)
        for index in range(first, first + 24):
            limited[index] = costs[index] * second_largest // largest
    return limited


def _hour_of_week(hour: datetime) -> int:
    return hour.weekday() * 24 + hour.hour


def _exhaustion_time(period: TimeRange, hourly_spend: Sequence[int], limit: int) -> datetime | None:
    """Return the time at which the limit is reached, interpolated within its hour; None where it is not."""
    spent = 0
    for number, cost in enumerate(hourly_spend):
        if cost > 0 and spent + cost >= limit:
            return period.start + (number + max(0.0, (limit - spent) / cost)) * HOUR
        spent += cost
    return None
