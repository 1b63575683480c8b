"""The calendar: windows, hours, months, in UTC."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from exporter.model import DAY, HOUR
from exporter.windows import TimeRange, calendar_windows, days_back, floor, slots


def utc_time(*parts: int) -> datetime:
    """A UTC time."""
    return datetime(*parts, tzinfo=UTC)  # type: ignore[arg-type, misc]


def test_the_windows_at_an_ordinary_time() -> None:
    """Each window has the length and the start of its name."""
    now = utc_time(2026, 11, 20, 14, 23, 5)
    assert calendar_windows(now, utc_time(2026, 11, 20, 13)) == {
        "this_hour": TimeRange(utc_time(2026, 11, 20, 14), utc_time(2026, 11, 20, 15)),
        "last_hour": TimeRange(utc_time(2026, 11, 20, 12), utc_time(2026, 11, 20, 13)),
        "today": TimeRange(utc_time(2026, 11, 20), utc_time(2026, 11, 21)),
        "month": TimeRange(utc_time(2026, 11, 1), utc_time(2026, 11, 21)),
        "30d": TimeRange(utc_time(2026, 10, 22), utc_time(2026, 11, 21)),
    }


@pytest.mark.parametrize(
    ("now", "month"),
    [
        (utc_time(2026, 3, 1), utc_time(2026, 3, 1)),
        (utc_time(2026, 2, 28, 23, 59, 59), utc_time(2026, 2, 1)),
        (utc_time(2028, 2, 29, 12), utc_time(2028, 2, 1)),
        (utc_time(2027, 1, 1), utc_time(2027, 1, 1)),
    ],
)
def test_a_month_begins_on_its_first_day(now: datetime, month: datetime) -> None:
    """Month ends, leap days and new year are where the calendar has them."""
    assert calendar_windows(now, None)["month"] == TimeRange(month, floor(now, DAY) + DAY)


def test_without_a_watermark_there_is_no_last_hour() -> None:
    """Nothing is called complete before it can be known."""
    assert "last_hour" not in calendar_windows(utc_time(2026, 11, 20, 14), None)


def test_a_watermark_ahead_of_the_clock_does_not_complete_the_running_hour() -> None:
    """A provider that answers ahead of our clock cannot make the running hour the last one."""
    assert calendar_windows(utc_time(2026, 11, 20, 14, 30), utc_time(2026, 11, 20, 16))["last_hour"].end == utc_time(
        2026, 11, 20, 14
    )


def test_slots_cover_a_time_range_from_its_start() -> None:
    """Slots begin at the edge at or before the start and end before the end."""
    assert list(slots(utc_time(2026, 11, 20, 22, 30), utc_time(2026, 11, 21, 1), HOUR)) == [
        utc_time(2026, 11, 20, 22),
        utc_time(2026, 11, 20, 23),
        utc_time(2026, 11, 21, 0),
    ]
    assert days_back(utc_time(2026, 3, 1, 5), 1) == utc_time(2026, 2, 28)
