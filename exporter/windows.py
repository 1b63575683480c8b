"""Calendar arithmetic in UTC. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from exporter.model import DAY, HOUR

DAYS_EXPORTED = 35
"""How many UTC days `ai_cost_daily_usd` tells; longer than any month."""


@dataclass(frozen=True, slots=True)
class TimeRange:
    """A half-open stretch of time, [start, end)."""

    start: datetime
    end: datetime


def floor(time: datetime, width: timedelta) -> datetime:
    """Return the start of the slot of `width` (an hour or a day, UTC) that holds the moment."""
    if width >= DAY:
        return time.replace(hour=0, minute=0, second=0, microsecond=0)
    return time.replace(minute=0, second=0, microsecond=0)


def slots(start: datetime, end: datetime, width: timedelta) -> Iterator[datetime]:
    """Yield the starts of the slots of [start, end), oldest first."""
    moment = floor(start, width)
    while moment < end:
        yield moment
        moment += width


def days_back(now: datetime, days: int) -> datetime:
    """Return the start of the UTC day `days` before today."""
    return floor(now, DAY) - days * DAY


def calendar_windows(now: datetime, complete_until: datetime | None) -> dict[str, TimeRange]:
    """Return the windows that the clock and the watermark define, by name.

    `last_hour` is the newest hour that ends at or before `complete_until`; without a watermark it is missing.
    """
    hour, day = floor(now, HOUR), floor(now, DAY)
    shown = {
        "this_hour": TimeRange(hour, hour + HOUR),
        "today": TimeRange(day, day + DAY),
        "month": TimeRange(day.replace(day=1), day + DAY),
        "30d": TimeRange(day - 29 * DAY, day + DAY),
    }
    if complete_until is not None:
        newest = floor(min(complete_until, now), HOUR)
        shown["last_hour"] = TimeRange(newest - HOUR, newest)
    return shown
