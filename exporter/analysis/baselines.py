"""Baselines: the expected value of an hour and its upper bound, from the days before. Pure."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from operator import sub
from statistics import median
from typing import NamedTuple

from exporter.model import DAY, HOUR
from exporter.windows import TimeRange, floor

BASELINE_DAYS = 14
"""Days before an hour with which it is compared."""
MIN_DAYS = 3
"""Known days that a baseline needs."""
MIN_SIMILAR_DAYS = 4
"""With so many known days of the same kind, workdays or weekends, days of the other kind are left out."""
MAX_ALIKE_RATIO = 1.5
"""Workdays and weekends are compared with each other where their median days differ by no more than this factor."""
NEW_LEVEL_DAYS = 2
"""What so many newest days reached, in an hour or in total, is expected: a new level is learned within two days."""
SPREAD_FACTOR = 4 * 1.4826
"""Four standard deviations, as a factor of the median absolute deviation: 1.4826 of it for a normal distribution."""
MIN_UPPER_BOUND_RATIO = 2.5
"""The upper bound is at least this multiple of the expected value: steady usage has hardly any spread."""
BURST_DAYS = 3
"""Where on so many days some hour was above its bound, bursts are part of the usage. An incident that passes midnight
is on two days."""
BURST_FACTOR = 4
"""The upper bound then is higher by so many times the burst of the third largest day: sizes of bursts vary."""
_HOURS = 24


@dataclass(frozen=True, slots=True)
class HourlySeries:
    """nano-USD, requests or tokens hour by hour, without a gap: an hour without usage is 0."""

    since: datetime
    """The start of the first value's hour, a UTC midnight."""
    values: Sequence[int]
    known_since: datetime
    """Values before this time are unknown, not 0."""

    def at(self, hour: datetime) -> int:
        """Return the value of the hour that starts at `hour`; 0 outside of the series."""
        index = (hour - self.since) // HOUR
        return self.values[index] if 0 <= index < len(self.values) else 0

    def hours(self, time_range: TimeRange) -> list[int]:
        """Return the value of each whole hour of a time range; 0 outside of the series."""
        first, end = (time_range.start - self.since) // HOUR, (time_range.end - self.since) // HOUR
        if first >= end:
            return []
        inside = self.values[max(first, 0) : max(end, 0)]
        before = min(max(-first, 0), end - first)
        return [*([0] * before), *inside, *([0] * (end - first - before - len(inside)))]

    def total(self, time_range: TimeRange) -> int:
        """Return the sum over the whole hours of a time range."""
        first = max((time_range.start - self.since) // HOUR, 0)
        end = max((time_range.end - self.since) // HOUR, 0)
        return sum(self.values[first:end])


@dataclass(frozen=True, slots=True)
class Baseline:
    """The expected value of an hour, and the value above which it is unusual; in the unit of the series."""

    expected: int
    upper_bound: int


def baseline(series: HourlySeries, hour: datetime, min_increase: int) -> Baseline | None:
    """Return the baseline of the hour that starts at `hour`, from the days before its day.

    It is compared with the same hour of those days: workdays with workdays and weekends with weekends where these
    differ and there are enough of them. The upper bound is at least `min_increase` above the expected value. It is
    higher where bursts in any hour are usual, and where the same hour of that day of the month before cost more: many
    jobs run once a month. None where too few days are known.
    """
    day = floor(hour, DAY)
    first = (day - series.since) // HOUR
    before = _hours_between(series.values, first - BASELINE_DAYS * _HOURS, first)
    month_before = first - (day - _same_day_of_month_before(day)) // HOUR
    monthly = _hours_between(series.values, month_before, month_before + _HOURS)
    return _day_baselines(day, series.known_since, min_increase, before, monthly)[hour.hour]


def excess(series: HourlySeries, until: datetime, min_increase: int) -> int | None:
    """Return by how much the 24 complete hours before `until` exceed their own upper bounds, added up.

    Each hour is compared with the days before it, so usage that is reported late is judged as if it had been in time.
    None where no hour has a baseline.
    """
    end = floor(until, HOUR)
    total: int | None = None
    for number in range(1, 25):
        hour = end - number * HOUR
        hour_baseline = baseline(series, hour, min_increase)
        if hour_baseline is not None:
            total = (total or 0) + max(0, series.at(hour) - hour_baseline.upper_bound)
    return total


def _hours_between(values: Sequence[int], first: int, end: int) -> bytes:
    """Return the values of [first, end) as 64-bit integers; 0 outside of the series."""
    inside = array("q", values[max(first, 0) : max(end, 0)])
    missing_before = array("q", bytes(8 * min(max(-first, 0), end - first)))
    missing_after = bytes(8 * (end - first - len(missing_before) - len(inside)))
    return missing_before.tobytes() + inside.tobytes() + missing_after


def _same_day_of_month_before(day: datetime) -> datetime:
    """Return the same day of the month before, or that month's last day where it is shorter."""
    end_of_month_before = day.replace(day=1) - DAY
    return end_of_month_before.replace(day=min(day.day, end_of_month_before.day))


@lru_cache(maxsize=2048)
def _day_baselines(
    day: datetime, known_since: datetime, min_increase: int, before: bytes, monthly: bytes
) -> tuple[Baseline | None, ...]:
    """Return the baseline of each hour of a UTC day.

    `before` has the hours of the BASELINE_DAYS days before it, `monthly` those of the same day of the month before.
    Cached by content: a snapshot is built at every poll, but the days before today hardly ever change.
    """
    hours = array("q", before)
    # By number of days before: the day before is the first.
    days = [hours[start : start + _HOURS] for start in range((BASELINE_DAYS - 1) * _HOURS, -1, -_HOURS)]
    monthly_bounds = _monthly_bounds(days, day, known_since, array("q", monthly))
    # The first known day may begin within the day: its first hours are compared with fewer days than the last ones.
    known_days = [_known_days(day + number * HOUR, known_since) for number in range(_HOURS)]
    compared = {known: _compared_days(days, known) for known in set(known_days)}
    levels = {known: _level(days, numbers) for known, numbers in compared.items()}
    baselines = [
        _hour_baseline([days[number - 1][hour] for number in compared[known]], levels[known], min_increase)
        for hour, known in enumerate(known_days)
    ]
    margin = BURST_FACTOR * _usual_burst(days, known_days[-1], min_increase)
    return tuple(
        None
        if known is None
        else Baseline(known.expected, max(known.upper_bound + margin, round(monthly_bounds[hour])))
        for hour, known in enumerate(baselines)
    )


def _hour_baseline(newest_first: Sequence[int], level: float, min_increase: int) -> Baseline | None:
    """Return the baseline of an hour from the values of the days that it is compared with; None of too few."""
    if len(newest_first) < MIN_DAYS:
        return None
    # Medians: the day of an incident among the compared ones moves neither the expected value nor the spread.
    middle = median(newest_first)
    spread = SPREAD_FACTOR * median([abs(value - middle) for value in newest_first])
    expected = max(level * middle, min(newest_first[:NEW_LEVEL_DAYS]))
    upper_bound = max(level * (middle + spread), MIN_UPPER_BOUND_RATIO * expected, expected + min_increase)
    return Baseline(round(expected), round(upper_bound))


def _level(days: Sequence[Sequence[int]], compared: Sequence[int]) -> float:
    """Return the level of the newest days relative to the median of the days that are compared; at least 1.

    The median needs a week to follow growth or a new level. A lower level is not learned in this way: it may be that
    of holidays.
    """
    totals = [sum(days[number - 1]) for number in compared]
    middle = median(totals) if len(totals) >= MIN_DAYS else 0
    return max(1.0, min(totals[:NEW_LEVEL_DAYS]) / middle) if middle > 0 else 1.0


def _usual_burst(days: Sequence[Sequence[int]], known_days: _KnownDays, min_increase: int) -> int:
    """Return by how much the largest hour of a day usually exceeds its bound; 0 where it usually does not."""
    bursts: list[int] = []
    for numbers in known_days:
        if len(numbers) >= MIN_DAYS:
            of_kind = [days[number - 1] for number in numbers]
            known = [_hour_baseline(values, 1.0, min_increase) for values in zip(*of_kind, strict=True)]
            bounds = [0 if baseline is None else baseline.upper_bound for baseline in known]
            bursts += [max(map(sub, day, bounds)) for day in of_kind]
    return max(0, sorted(bursts, reverse=True)[BURST_DAYS - 1]) if len(bursts) >= BURST_DAYS else 0


def _monthly_bounds(
    days: Sequence[Sequence[int]], day: datetime, known_since: datetime, month_before: Sequence[int]
) -> Sequence[float]:
    """Return what each hour may cost because it cost that on the same day of the month before; 0 for no reason."""
    bounds = [MIN_UPPER_BOUND_RATIO * value for value in month_before]
    if _is_weekend(_same_day_of_month_before(day)) == _is_weekend(day):
        return bounds
    # A workday says nothing about a Sunday, unless it was unusual for a workday.
    others = [days[number - 1] for number in _known_days(day, known_since).other]
    usual = [MIN_UPPER_BOUND_RATIO * median(values) for values in zip(*others, strict=True)] or [0] * _HOURS
    return [bound if bound > MIN_UPPER_BOUND_RATIO * limit else 0 for bound, limit in zip(bounds, usual, strict=True)]


class _KnownDays(NamedTuple):
    """Known days before an hour, newest first: 1 is the day before."""

    similar: tuple[int, ...]
    """Of the hour's own kind, workdays or weekends."""
    other: tuple[int, ...]


def _compared_days(days: Sequence[Sequence[int]], known_days: _KnownDays) -> Sequence[int]:
    """Return with which of the known days an hour is compared, newest first."""
    similar, other = known_days
    if len(similar) < MIN_SIMILAR_DAYS or (other and _are_alike(days, known_days)):
        return sorted((*similar, *other))
    return similar


def _are_alike(days: Sequence[Sequence[int]], known_days: _KnownDays) -> bool:
    """Return whether the days of two kinds have about the same total."""
    totals = [median([sum(days[number - 1]) for number in numbers]) for numbers in known_days]
    return max(totals) <= MAX_ALIKE_RATIO * min(totals)


@lru_cache(maxsize=4096)
def _known_days(hour: datetime, known_since: datetime) -> _KnownDays:
    """Return the known days before an hour. Cached because it is the same for all workspaces of an account."""
    known = [number for number in range(1, BASELINE_DAYS + 1) if hour - number * DAY >= known_since]
    similar = tuple(number for number in known if _is_weekend(hour - number * DAY) == _is_weekend(hour))
    return _KnownDays(similar, tuple(number for number in known if number not in similar))


def _is_weekend(time: datetime) -> bool:
    return time.weekday() >= 5
