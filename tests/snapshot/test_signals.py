"""Incidents: the newest hours of a workspace above their upper bounds."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from exporter.analysis.baselines import HourlySeries
from exporter.analysis.budgets import SpendSeries
from exporter.model import DAY, HOUR, NANO
from exporter.snapshot.account_snapshot import HourlyTotals, Incident
from exporter.snapshot.signals import find_incident

NOW = datetime(2026, 11, 20, 10, tzinfo=UTC)
SINCE = datetime(2026, 11, 4, tzinfo=UTC)
USUAL = 5
UNUSUAL = 40


def make_hourly_totals(*unusual_hours: int) -> HourlyTotals:
    """Return totals of a workspace with 5 USD an hour, and 40 USD in hours given by their distance from NOW."""
    hours = (NOW - SINCE) // HOUR + 1
    unusual = {hours - 1 - distance for distance in unusual_hours}
    values = [(UNUSUAL if number in unusual else USUAL) * NANO for number in range(hours)]
    series = HourlySeries(SINCE, values, SINCE - 30 * DAY)
    return HourlyTotals({"web": series}, {}, {}, {}, SpendSeries(series), {})


@pytest.mark.parametrize(
    ("unusual_hours", "first", "usd"),
    [
        ([0], 0, UNUSUAL),
        ([2, 3, 4], 4, 3 * UNUSUAL),
        ([2, 5], 5, 2 * UNUSUAL + 2 * USUAL),
        ([2, 6], 2, UNUSUAL),
        ([25], 25, UNUSUAL),
        # After two whole days it is a new level: the twelve hours of the third are as expected.
        (range(60), 48, 37 * UNUSUAL),
    ],
    ids=["running hour", "three hours", "two usual hours between", "three usual hours between", "oldest", "longest"],
)
def test_an_incident_begins_with_its_first_hour_and_has_its_whole_cost(
    unusual_hours: list[int], first: int, usd: int
) -> None:
    """Up to two usual hours do not end an incident, and their cost is included."""
    incident = find_incident(make_hourly_totals(*unusual_hours), "web", NOW - 2 * HOUR, NOW)
    assert incident == Incident(NOW - first * HOUR, usd * NANO)


@pytest.mark.parametrize("unusual_hours", [[], [26]])
def test_usual_hours_are_no_incident(unusual_hours: list[int]) -> None:
    """There is no incident where the 24 newest complete hours, and the hours after them, are usual."""
    assert find_incident(make_hourly_totals(*unusual_hours), "web", NOW - 2 * HOUR, NOW) is None
