"""What an hour was expected to be: the same hour of the fourteen days before it, robustly. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median

from exporter.model import DAY, HOUR
from exporter.windows import TimeRange, floor

BASELINE_DAYS = 14
"""How far back an hour is compared."""
MIN_DAYS = 3
"""Days that have to be known; fewer are no baseline."""
MIN_SIMILAR_DAYS = 4
"""Days of the same kind, workdays or weekends, that are enough to leave the others out."""
SPREAD_FACTOR = 4 * 1.4826
"""Four standard deviations of what varies normally, told by its median deviation."""
MIN_UPPER_BOUND_RATIO = 2
"""An hour below so many times what was expected is never high: steady use has no spread to speak of."""


@dataclass(frozen=True, slots=True)
class HourlySeries:
    """Nano-USD, requests or tokens hour by hour, without a gap: an hour without use is 0."""

    since: datetime
    """A UTC midnight: the start of the first value's hour."""
    values: Sequence[int]
    known_since: datetime
    """From here on the values are what was told; before it nothing is known."""

    def at(self, hour: datetime) -> int:
        """Return the value of the hour that starts then; 0 outside of what is there."""
        place = (hour - self.since) // HOUR
        return self.values[place] if 0 <= place < len(self.values) else 0

    def total(self, time_range: TimeRange) -> int:
        """Return the sum over the whole hours of a span."""
        first, last = ((moment - self.since) // HOUR for moment in (time_range.start, time_range.end))
        return sum(self.values[max(first, 0) : max(last, 0)])


@dataclass(frozen=True, slots=True)
class Baseline:
    """What an hour was expected to be, and above what it is unusual; in the unit of the values."""

    expected: int
    upper_bound: int


def baseline(series: HourlySeries, hour: datetime, min_increase: int) -> Baseline | None:
    """Return what the hour that starts then was expected to be, from the same hour of the days before it.

    Workdays are compared with workdays and weekends with weekends where there are enough of them. `least` is how much
    above the expected an hour has to be to be high at all. None where too little is known: there is no guess.
    """
    days = [day for day in (hour - number * DAY for number in range(1, BASELINE_DAYS + 1)) if day >= series.known_since]
    alike = [day for day in days if _is_weekend(day) == _is_weekend(hour)]
    chosen = alike if len(alike) >= MIN_SIMILAR_DAYS else days
    if len(chosen) < MIN_DAYS:
        return None
    values = [series.at(day) for day in chosen]
    middle = median(values)
    spread = SPREAD_FACTOR * median(abs(value - middle) for value in values)
    return Baseline(round(middle), round(max(middle + spread, MIN_UPPER_BOUND_RATIO * middle, middle + min_increase)))


def excess(series: HourlySeries, until: datetime, min_increase: int) -> int | None:
    """Return by how much the 24 complete hours before `until` were above their own high values, added up.

    Every hour is judged by the days before it, so one that is told late is judged as if it had been told in time.
    None where too little is known to judge any.
    """
    end = floor(until, HOUR)
    judged = [(hour, baseline(series, hour, min_increase)) for hour in (end - number * HOUR for number in range(1, 25))]
    above = [max(0, series.at(hour) - one.upper_bound) for hour, one in judged if one is not None]
    return sum(above) if above else None


def _is_weekend(time: datetime) -> bool:
    return time.weekday() >= 5
