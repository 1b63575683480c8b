"""Budgets: what is spent of a limit, how fast, what it comes to, and when it runs out. Pure, in UTC."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Literal

from exporter.analysis.baselines import HourlySeries
from exporter.model import DAY, HOUR
from exporter.windows import TimeRange, floor

PeriodType = Literal["day", "week", "month"]
BURN_RATE_WINDOWS = {"1h": HOUR, "6h": 6 * HOUR, "1d": DAY, "3d": 3 * DAY}
WEEK = 7 * DAY
MIN_PROFILE_HISTORY = 2 * WEEK
"""With so much history the hours to come are expected to have the shape of the weeks before."""
MAX_PROFILE_HISTORY = 4 * WEEK
MAX_LEVEL_CHANGE = 4.0
"""The last week may lift or lower the shape so many times at most: one odd week is not the rest of a month."""


@dataclass(frozen=True, slots=True)
class BudgetShare:
    """What one account has of a budget's spend; money in nano-USD."""

    period: TimeRange
    spent: int
    """In this period, the running hour included."""
    window_spend: Mapping[str, int] | None
    """Window -> spend of its last complete hours; None before there is one, and then nothing is forecast."""
    hourly_spend: Sequence[int]
    """Every hour of the period: what it cost, or is expected to."""


@dataclass(frozen=True, slots=True)
class BudgetStatus:
    """How a budget stands; money in nano-USD."""

    limit: int
    spent: int
    """In this period, the running hour included."""
    forecast: int | None
    """What the whole period is expected to come to; None where nothing is known yet."""
    burn_rates: Mapping[str, float]
    """Window -> spend of the last complete hours relative to an even pace; 1 uses the limit up exactly."""
    exhausted_at: datetime | None
    """When the limit is reached, in the past or the future; None where it is not in this period."""


def matches(globs: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Tell whether labels fit the globs of a selection; a label without a glob may be anything."""
    return all(_compile_glob(glob).fullmatch(labels.get(name, "")) for name, glob in globs.items())


def glob_to_regex(glob: str) -> str:
    """Return a glob as a regular expression for the whole value; only `*` and `?` are wild: names have brackets."""
    return "".join(_WILDCARDS.get(one) or _REGEX_SPECIAL.sub(r"\\\g<0>", one) for one in glob)


_WILDCARDS = {"*": ".*", "?": "."}
_REGEX_SPECIAL = re.compile(r"[\\.+()|\[\]{}^$]")


@cache
def _compile_glob(glob: str) -> re.Pattern[str]:
    return re.compile(glob_to_regex(glob), re.DOTALL)


def current_period(period_type: PeriodType, now: datetime) -> TimeRange:
    """Return the UTC day, the week from Monday on, or the month that holds a moment."""
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
    period_type: PeriodType, series: HourlySeries, now: datetime, complete_until: datetime | None
) -> BudgetShare:
    """Return what an account has of a budget's spend.

    `hours` is what of its use the budget counts, the running hour included, for four weeks and the period if there is
    so much. `until` is the end of the account's newest complete hour: later ones count with what is known of them or
    what is expected, whichever is more. In a period's first hours a burn rate looks back into the one before: pace
    knows no calendar.
    """
    period = current_period(period_type, now)
    spent = series.total(TimeRange(period.start, floor(now, HOUR) + HOUR))
    if complete_until is None:
        return BudgetShare(period, spent, None, ())
    complete_until = floor(min(complete_until, now), HOUR)
    # An account that nobody could read for a day has no pace to tell; what it is expected to spend still counts.
    pace = max(complete_until, floor(now, HOUR) - DAY)
    burnt = {
        name: series.total(TimeRange(pace - width, min(pace, complete_until)))
        for name, width in BURN_RATE_WINDOWS.items()
    }
    return BudgetShare(period, spent, burnt, array("q", _hourly_spend(series, period, now, complete_until)))


def budget_status(limit: int, period_type: PeriodType, shares: Sequence[BudgetShare], now: datetime) -> BudgetStatus:
    """Return how a budget stands from the parts of all accounts that it counts.

    At the turn of a period, a part that is still of the one before counts nothing.
    """
    period = current_period(period_type, now)
    shares = [one for one in shares if one.period == period]
    told = [one for one in shares if one.window_spend is not None]
    even = limit / ((period.end - period.start) / HOUR)
    course = [*map(sum, zip(*(one.hourly_spend for one in told), strict=True))]
    return BudgetStatus(
        limit=limit,
        spent=sum(one.spent for one in shares),
        forecast=sum(course) if told else None,
        burn_rates={
            name: sum((one.window_spend or {})[name] for one in told) / (width / HOUR) / even
            for name, width in BURN_RATE_WINDOWS.items()
            if told
        },
        exhausted_at=_exhaustion_time(period, course, limit),
    )


def _hourly_spend(series: HourlySeries, period: TimeRange, now: datetime, complete_until: datetime) -> Iterator[int]:
    shape = _weekly_profile(series, complete_until)
    hour = period.start
    while hour < period.end:
        known = series.at(hour) if hour <= now else 0
        yield max(known, shape[_hour_of_week(hour)]) if hour >= complete_until else known
        hour += HOUR


def _weekly_profile(series: HourlySeries, complete_until: datetime) -> list[int]:
    """Return what each hour of the week is expected to cost: as in the past weeks, at the last week's level."""
    since = max(series.known_since, complete_until - MAX_PROFILE_HISTORY)
    if complete_until - since < MIN_PROFILE_HISTORY:
        recent = TimeRange(max(since, complete_until - WEEK), complete_until)
        known = (recent.end - recent.start) // HOUR
        return [series.total(recent) // known if known > 0 else 0] * 168
    sums, counts = [0] * 168, [0] * 168
    for number in range((complete_until - since) // HOUR):
        hour = complete_until - (number + 1) * HOUR
        sums[_hour_of_week(hour)] += series.at(hour)
        counts[_hour_of_week(hour)] += 1
    shape = [total / count for total, count in zip(sums, counts, strict=True)]
    usual = sum(shape)
    level = series.total(TimeRange(complete_until - WEEK, complete_until)) / usual if usual else 1.0
    return [round(cost * min(max(level, 1 / MAX_LEVEL_CHANGE), MAX_LEVEL_CHANGE)) for cost in shape]


def _hour_of_week(hour: datetime) -> int:
    return hour.weekday() * 24 + hour.hour


def _exhaustion_time(period: TimeRange, hourly_spend: Sequence[int], limit: int) -> datetime | None:
    """Return when the limit is reached, evenly within its hour; None where it is not."""
    spent = 0
    for number, cost in enumerate(hourly_spend):
        if cost > 0 and spent + cost >= limit:
            return period.start + (number + max(0.0, (limit - spent) / cost)) * HOUR
        spent += cost
    return None
