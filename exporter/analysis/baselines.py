"""Baselines: the expected value of an hour and its upper bound, from the same hour of the days before. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from statistics import median

from exporter.model import DAY, HOUR
from exporter.windows import TimeRange, floor

BASELINE_DAYS = 14
"""Days before an hour with which it is compared."""
MIN_DAYS = 3
"""Known days that a baseline needs."""
MIN_SIMILAR_DAYS = 4
"""With so many known days of the same kind, workdays or weekends, days of the other kind are left out."""
SPREAD_FACTOR = 4 * 1.4826
"""Four standard deviations, as a factor of the median absolute deviation: 1.4826 of it for a normal distribution."""
MIN_UPPER_BOUND_RATIO = 2
"""The upper bound is at least this multiple of the expected value: steady usage has hardly any spread."""


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
    """Return the baseline of the hour that starts at `hour`, from the same hour of the days before it.

    Workdays are compared with workdays and weekends with weekends where there are enough of them. The upper bound is
    at least `min_increase` above the expected value. None where too few days are known.
    """
    days_before = _compared_days(hour, series.known_since)
    if len(days_before) < MIN_DAYS:
        return None
    index, length = (hour - series.since) // HOUR, len(series.values)
    compared = [index - 24 * number for number in days_before]
    values = [series.values[position] if 0 <= position < length else 0 for position in compared]
    # Medians: the day of an incident among the compared ones moves neither the expected value nor the spread.
    expected = median(values)
    spread = SPREAD_FACTOR * median(abs(value - expected) for value in values)
    upper_bound = max(expected + spread, MIN_UPPER_BOUND_RATIO * expected, expected + min_increase)
    return Baseline(round(expected), round(upper_bound))


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


@lru_cache(maxsize=4096)
def _compared_days(hour: datetime, known_since: datetime) -> tuple[int, ...]:
    """Return with which of the days before an hour it is compared: 1 is the day before.

    Cached because it is the same for all workspaces of an account.
    """
    days_before = [(number, hour - number * DAY) for number in range(1, BASELINE_DAYS + 1)]
    known_days = [(number, day) for number, day in days_before if day >= known_since]
    similar_days = [(number, day) for number, day in known_days if _is_weekend(day) == _is_weekend(hour)]
    compared_days = similar_days if len(similar_days) >= MIN_SIMILAR_DAYS else known_days
    return tuple(number for number, _ in compared_days)


def _is_weekend(time: datetime) -> bool:
    return time.weekday() >= 5
