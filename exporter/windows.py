"""Calendar arithmetic in UTC. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from exporter.model import DAY, HOUR

DAYS_EXPORTED = 35
"""Number of UTC days that `ai_cost_daily_usd` exports; longer than any month."""


@dataclass(frozen=True, slots=True)
class TimeRange:
    """A half-open range of time, [start, end)."""

    start: datetime
    end: datetime


def floor(time: datetime, width: timedelta) -> datetime:
    """Return the start of the slot of `width` (an hour or a day, UTC) that contains a time."""
    if width >= DAY:
        return time.replace(hour=0, minute=0, second=0, microsecond=0)
    return time.replace(minute=0, second=0, microsecond=0)


def slots(start: datetime, end: datetime, width: timedelta) -> Iterator[datetime]:
    """Yield the starts of the slots of [start, end), oldest first."""
    slot = floor(start, width)
    while slot < end:
        yield slot
        slot += width


def days_back(now: datetime, days: int) -> datetime:
    """Return the start of the UTC day `days` before today."""
    return floor(now, DAY) - days * DAY


def calendar_windows(now: datetime, complete_until: datetime | None) -> dict[str, TimeRange]:
    """Return name -> time range of the windows that end now, and of the last complete hour.

    `last_hour` is the newest hour that ends at or before `complete_until`; without a watermark it is missing.
    """
    hour, day = floor(now, HOUR), floor(now, DAY)
    windows = {
        "this_hour": TimeRange(hour, hour + HOUR),
        "today": TimeRange(day, day + DAY),
        "month": TimeRange(day.replace(day=1), day + DAY),
        "30d": TimeRange(day - 29 * DAY, day + DAY),
    }
    if complete_until is not None:
        # A provider's clock may be ahead: its watermark never completes the running hour.
        end = floor(min(complete_until, now), HOUR)
        windows["last_hour"] = TimeRange(end - HOUR, end)
    return windows
