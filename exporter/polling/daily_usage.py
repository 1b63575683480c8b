"""Spreads usage that a provider reports per day over the day's hours, so that everything after it sees hours. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from exporter.model import DAY, GAUGE_METERS, HOUR, Bucket, Report, Row
from exporter.pricing.usage import apportion
from exporter.windows import slots


def spread_daily_usage(report: Report, buckets: Sequence[Bucket], now: datetime) -> Sequence[Bucket]:
    """Return the hourly buckets of a usage report of whole days; buckets of any other report as they are.

    Every day yields 24 buckets, so that storing them replaces all that was stored of the day. Units are spread evenly
    over the hours that have begun at `now`: whole numbers that sum exactly to the day's. Gauge meters (bytes) keep
    their value in each of these hours: a level is not divided by time.
    """
    if report.kind != "usage" or report.width != DAY:
        return buckets
    return [hourly for bucket in buckets for hourly in _spread_day(bucket, now)]


def _spread_day(bucket: Bucket, now: datetime) -> list[Bucket]:
    hours = list(slots(bucket.start, bucket.start + DAY, HOUR))
    # A day that has not begun, by a clock that is behind the provider's, is put into its first hour.
    begun = sum(hour <= now for hour in hours) or 1
    rows_by_hour: list[list[Row]] = [[] for _ in hours]
    for row in bucket.rows:
        for hour, value in enumerate(_hourly_values(row, begun)):
            # Hours without a share need no row; a row of 0 stays, because it says that its labels are in use.
            if value or not row.value:
                rows_by_hour[hour].append(row._replace(value=value))
    return [
        Bucket(bucket.report, start, start + HOUR, tuple(rows)) for start, rows in zip(hours, rows_by_hour, strict=True)
    ]


def _hourly_values(row: Row, hours: int) -> Sequence[int]:
    if row.meter in GAUGE_METERS:
        return [row.value] * hours
    return apportion(row.value, [1] * hours)
