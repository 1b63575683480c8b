"""Reads of whole days by series, for their valuation: several days and all hours of a series at once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from exporter.ledger.series import SeriesIndex
from exporter.ledger.store import Store
from exporter.model import DAY, HOUR, RowLabels, utc
from exporter.windows import TimeRange

_DAY_SECONDS = int(DAY.total_seconds())
_HOUR_SECONDS = int(HOUR.total_seconds())


class ReportedSeries(NamedTuple):
    """The rows of a report with equal labels in one UTC day; hours and values are parallel."""

    labels: RowLabels
    hours: Sequence[int]
    """0..23, ascending; all rows of a bill are under 0."""
    values: Sequence[int]


class ReportedDays:
    """Reads the days that are to be valued."""

    def __init__(self, store: Store, series: SeriesIndex) -> None:
        self._store = store
        self._series = series

    def read(
        self, account: int, reports: Sequence[str], time_range: TimeRange
    ) -> Mapping[datetime, Sequence[ReportedSeries]]:
        """Return the start of each UTC day within a time range -> the rows of all these reports.

        Days without rows are left out. Labels that two reports have occur twice.
        """
        bounds = (int(time_range.start.timestamp()), int(time_range.end.timestamp()))
        days: dict[int, list[ReportedSeries]] = {}
        dialect = self._store.dialect
        hours_column = dialect.concat(f"start % {_DAY_SECONDS} / {_HOUR_SECONDS}", order="start")
        values_column = dialect.concat("value", order="start")
        hours_by_text: dict[str, Sequence[int]] = {}
        with self._store.read() as db:
            for report in reports:
                # One row per series and day, not one per value: for the reason, see `hours`.
                found = db.execute(
                    f"SELECT start / {_DAY_SECONDS} * {_DAY_SECONDS} AS day, series,"
                    f" {hours_column}, {values_column}"
                    " FROM (SELECT start, series, value FROM point"
                    " WHERE account = ? AND report = ? AND start >= ? AND start < ? ORDER BY series, start) AS sorted"
                    " GROUP BY series, day ORDER BY series, day",
                    (account, report, *bounds),
                ).fetchall()
                known_labels = self._series.labels(db, account, report, (series for _, series, _, _ in found))
                for day, series, hours_text, values_text in found:
                    # Most series have the same hours.
                    hours = hours_by_text.get(hours_text)
                    if hours is None:
                        hours = hours_by_text[hours_text] = json.loads(f"[{hours_text}]")
                    values = json.loads(f"[{values_text}]")
                    days.setdefault(day, []).append(ReportedSeries(known_labels[series], hours, values))
        return {utc(day): reported for day, reported in days.items()}
