"""Shapes of usage: how much of the mean hour an hour has. Each is a function of the hour's start, in UTC."""

from __future__ import annotations

import math
import random
from collections.abc import Collection
from datetime import datetime

from exporter.model import DAY
from exporter.windows import floor
from tests.incidents.pasts import Shape


def flat(_: datetime) -> float:
    """Return the same for every hour of every day."""
    return 1.0


def day_and_night(hour: datetime) -> float:
    """Return a service that is used all over the world, and most by day."""
    return 1.4 if 7 <= hour.hour < 19 else 0.6


def office_hours(hour: datetime) -> float:
    """Return people who work from eight to six on workdays, with hardly any usage outside."""
    if hour.weekday() >= 5:
        return 0.05
    return 2.6 if 8 <= hour.hour < 18 else 0.1


def nightly_batch(hour: datetime) -> float:
    """Return jobs from two to four every night."""
    return 9.0 if 2 <= hour.hour < 4 else 0.25


def weekend_batch(hour: datetime) -> float:
    """Return jobs on Saturdays and Sundays, from six to noon."""
    return 12.0 if hour.weekday() >= 5 and 6 <= hour.hour < 12 else 0.2


def first_of_month_batch(hour: datetime) -> float:
    """Return a steady service that also writes reports in the first hours of each month."""
    return 4.0 if hour.day == 1 and hour.hour < 4 else 1.0


def bursts(seed: str, probability: float = 0.06, sigma: float = 0.5) -> Shape:
    """Return low volume with bursts in random hours, all of which have about the same size."""

    def shape(hour: datetime) -> float:
        random_hour = random.Random(f"burst {seed} {hour:%Y%m%d%H}")
        if random_hour.random() >= probability:
            return 0.05
        return random_hour.lognormvariate(0, sigma) / probability

    return shape


def growing(shape: Shape, since: datetime, daily_growth: float, until: datetime | None = None) -> Shape:
    """Return a shape that grows by the same ratio from day to day, from a time on."""

    def grown(hour: datetime) -> float:
        days = max(0.0, (min(hour, until or hour) - since) / DAY)
        return shape(hour) * math.pow(1 + daily_growth, days)

    return grown


def with_holidays(shape: Shape, holidays: Collection[datetime], level: float = 0.05) -> Shape:
    """Return a shape that has hardly any usage on some days."""
    return lambda hour: level if floor(hour, DAY) in holidays else shape(hour)


def starting(shape: Shape, start: datetime) -> Shape:
    """Return a shape without usage before a time."""
    return lambda hour: shape(hour) if hour >= start else 0.0


def during(shape: Shape, start: datetime, end: datetime, factor: float = 1.0, added: float = 0.0) -> Shape:
    """Return a shape that is multiplied and raised from `start` to `end`."""
    return lambda hour: shape(hour) * factor + added if start <= hour < end else shape(hour)
