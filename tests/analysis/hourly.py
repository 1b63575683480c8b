"""Hours made by hand for baselines and budgets."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from exporter.analysis.baselines import HourlySeries
from exporter.model import DAY, HOUR

MONDAY = datetime(2026, 6, 1, tzinfo=UTC)
"""The first of a month of thirty days."""


def make_hourly_series(
    cost: Callable[[datetime], int], end: datetime, days: int = 35, known_since: datetime | None = None
) -> HourlySeries:
    """Return `days` days up to the day of `end`: the cost of each hour before `end`, and 0 from then on."""
    since = end.replace(hour=0, minute=0, second=0) - (days - 1) * DAY
    hours = [since + number * HOUR for number in range(days * 24)]
    return HourlySeries(since, [cost(hour) if hour < end else 0 for hour in hours], known_since or since)
