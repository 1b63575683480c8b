"""When each UTC day of an account was last read from its provider."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from exporter.polling.account_state import AccountView
from exporter.snapshot.source import SnapshotSource
from exporter.windows import TimeRange


@dataclass(frozen=True, slots=True)
class DayReads:
    """The newest reads of one UTC day; None where none is known, or where the account has no report of the kind."""

    usage: datetime | None
    """When all usage reports were read: the oldest of their newest reads."""
    bill: datetime | None


def find_day_reads(view: AccountView, source: SnapshotSource, time_range: TimeRange) -> Mapping[datetime, DayReads]:
    """Return the start of each UTC day within a time range -> when it was read; days that were never read are left out.

    A closed day counts as read when all of it was read, not when a poll read its last hours again.
    """
    usage, bills = (
        source.last_reads([report.name for report in view.reports if report.kind == kind], time_range)
        for kind in ("usage", "bill")
    )
    return {day: DayReads(usage.get(day), bills.get(day)) for day in sorted({*usage, *bills})}
