"""Budgets: what is spent of a limit, how fast, what it comes to, and when it runs out. Pure, in UTC."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Literal

from exporter.analysis.baselines import Hourly
from exporter.model import DAY, HOUR
from exporter.windows import Span, floor

Period = Literal["day", "week", "month"]
WINDOWS = {"1h": HOUR, "6h": 6 * HOUR, "1d": DAY, "3d": 3 * DAY}
WEEK = 7 * DAY
SHAPED = 2 * WEEK
"""With so much history the hours to come are expected to have the shape of the weeks before."""
LOOKED_AT = 4 * WEEK
MOST_CHANGE = 4.0
"""The last week may lift or lower the shape so many times at most: one odd week is not the rest of a month."""


@dataclass(frozen=True, slots=True)
class Part:
    """What one account has of a budget's spend; money in nano-USD."""

    period: Span
    spent: int
    """In this period, the running hour included."""
    burnt: Mapping[str, int] | None
    """Window -> spend of its last complete hours; None before there is one, and then nothing is forecast."""
    course: Sequence[int]
    """Every hour of the period: what it cost, or is expected to."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a budget stands; money in nano-USD."""

    limit: int
    spent: int
    """In this period, the running hour included."""
    forecast: int | None
    """What the whole period is expected to come to; None where nothing is known yet."""
    burn: Mapping[str, float]
    """Window -> spend of the last complete hours relative to an even pace; 1 uses the limit up exactly."""
    exhausted_at: datetime | None
    """When the limit is reached, in the past or the future; None where it is not in this period."""


def matches(globs: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Tell whether labels fit the globs of a selection; a label without a glob may be anything."""
    return all(_compiled(glob).fullmatch(labels.get(name, "")) for name, glob in globs.items())


def regex(glob: str) -> str:
    """Return a glob as a regular expression for the whole value; only `*` and `?` are wild: names have brackets."""
    return "".join(_WILD.get(one) or _SPECIAL.sub(r"\\\g<0>", one) for one in glob)


_WILD = {"*": ".*", "?": "."}
_SPECIAL = re.compile(r"[\\.+()|\[\]{}^$]")


@cache
def _compiled(glob: str) -> re.Pattern[str]:
    return re.compile(regex(glob), re.DOTALL)


def period_of(kind: Period, now: datetime) -> Span:
    """Return the UTC day, the week from Monday on, or the month that holds a moment."""
    day = floor(now, DAY)
    match kind:
        case "day":
            return Span(day, day + DAY)
        case "week":
            monday = day - day.weekday() * DAY
            return Span(monday, monday + WEEK)
        case "month":
            first = day.replace(day=1)
            return Span(first, (first + 31 * DAY).replace(day=1))


def part(kind: Period, hours: Hourly, now: datetime, until: datetime | None) -> Part:
    """Return what an account has of a budget's spend.

    `hours` is what of its use the budget counts, the running hour included, for four weeks and the period if there is
    so much. `until` is the end of the account's newest complete hour: later ones count with what is known of them or
    what is expected, whichever is more. In a period's first hours a burn rate looks back into the one before: pace
    knows no calendar.
    """
    period = period_of(kind, now)
    spent = hours.total(Span(period.start, floor(now, HOUR) + HOUR))
    if until is None:
        return Part(period, spent, None, ())
    until = floor(min(until, now), HOUR)
    # An account that nobody could read for a day has no pace to tell; what it is expected to spend still counts.
    pace = max(until, floor(now, HOUR) - DAY)
    burnt = {name: hours.total(Span(pace - width, min(pace, until))) for name, width in WINDOWS.items()}
    return Part(period, spent, burnt, array("q", _course(hours, period, now, until)))


def standing(limit: int, kind: Period, parts: Sequence[Part], now: datetime) -> Standing:
    """Return how a budget stands from the parts of all accounts that it counts.

    At the turn of a period, a part that is still of the one before counts nothing.
    """
    period = period_of(kind, now)
    parts = [one for one in parts if one.period == period]
    told = [one for one in parts if one.burnt is not None]
    even = limit / ((period.end - period.start) / HOUR)
    course = [*map(sum, zip(*(one.course for one in told), strict=True))]
    return Standing(
        limit=limit,
        spent=sum(one.spent for one in parts),
        forecast=sum(course) if told else None,
        burn={
            name: sum((one.burnt or {})[name] for one in told) / (width / HOUR) / even
            for name, width in WINDOWS.items()
            if told
        },
        exhausted_at=_reached(period, course, limit),
    )


def _course(hours: Hourly, period: Span, now: datetime, until: datetime) -> Iterator[int]:
    shape = _shape(hours, until)
    hour = period.start
    while hour < period.end:
        known = hours.at(hour) if hour <= now else 0
        yield max(known, shape[_hour_of_week(hour)]) if hour >= until else known
        hour += HOUR


def _shape(hours: Hourly, until: datetime) -> list[int]:
    """Return what each hour of the week is expected to cost: as in the past weeks, at the last week's level."""
    since = max(hours.known, until - LOOKED_AT)
    if until - since < SHAPED:
        recent = Span(max(since, until - WEEK), until)
        known = (recent.end - recent.start) // HOUR
        return [hours.total(recent) // known if known > 0 else 0] * 168
    sums, counts = [0] * 168, [0] * 168
    for number in range((until - since) // HOUR):
        hour = until - (number + 1) * HOUR
        sums[_hour_of_week(hour)] += hours.at(hour)
        counts[_hour_of_week(hour)] += 1
    shape = [total / count for total, count in zip(sums, counts, strict=True)]
    usual = sum(shape)
    level = hours.total(Span(until - WEEK, until)) / usual if usual else 1.0
    return [round(cost * min(max(level, 1 / MOST_CHANGE), MOST_CHANGE)) for cost in shape]


def _hour_of_week(hour: datetime) -> int:
    return hour.weekday() * 24 + hour.hour


def _reached(period: Span, course: Sequence[int], limit: int) -> datetime | None:
    """Return when the limit is reached, evenly within its hour; None where it is not."""
    spent = 0
    for number, cost in enumerate(course):
        if cost > 0 and spent + cost >= limit:
            return period.start + (number + max(0.0, (limit - spent) / cost)) * HOUR
        spent += cost
    return None
