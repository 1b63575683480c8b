"""The ledger: stores reported usage and bills, pushed events, and the costs they are valued at. The only SQL."""

from __future__ import annotations

from pathlib import Path

from exporter.ledger.buckets import Buckets, Coverage, DaysRead
from exporter.ledger.change_events import ChangeEvents
from exporter.ledger.costs import (
    NO_BILL,
    BillState,
    Costs,
    DayCost,
    DayState,
    FixedCost,
    RevisedDay,
    StoredEvidence,
    ValuedDay,
)
from exporter.ledger.day_versions import DayVersions
from exporter.ledger.events import Events
from exporter.ledger.hours import HourlyValues, Hours
from exporter.ledger.names import Names
from exporter.ledger.reported_days import ReportedDays, ReportedSeries
from exporter.ledger.retention import Retention
from exporter.ledger.series import SeriesIndex
from exporter.ledger.snapshot_days import DayRevision, SnapshotDays
from exporter.ledger.store import Store

__all__ = [
    "NO_BILL",
    "BillState",
    "Coverage",
    "DayCost",
    "DayRevision",
    "DayState",
    "DaysRead",
    "FixedCost",
    "HourlyValues",
    "Ledger",
    "ReportedSeries",
    "RevisedDay",
    "StoredEvidence",
    "ValuedDay",
]


class Ledger:
    """The ledger of one exporter, in a folder of its own.

    Reported usage and bills are `buckets`, pushed usage is `events`; `costs` are what days are valued at, from the rows
    that `reported_days` reads; `hours` reads all of them hour by hour. Beside that: `names`, `change_events`,
    `snapshot_days` and `retention`.
    """

    def __init__(self, folder: Path, *, read_only: bool = False) -> None:
        """Open or create the ledger. Raises LedgerError, with advice.

        With `read_only` an exporter may be running on it.
        """
        self._store = Store(folder, read_only=read_only)
        series, day_versions = SeriesIndex(self._store), DayVersions()
        self.buckets = Buckets(self._store, series, day_versions)
        self.events = Events(self._store, self.buckets)
        self.costs = Costs(self._store, series, day_versions)
        self.hours = Hours(self._store, series, day_versions)
        self.names = Names(self._store)
        self.reported_days = ReportedDays(self._store, series)
        self.change_events = ChangeEvents(self._store)
        self.snapshot_days = SnapshotDays(self._store)
        self.retention = Retention(self._store, day_versions)

    @property
    def path(self) -> Path:
        """The database file."""
        return self._store.path

    def size(self) -> int:
        """Return the bytes that the ledger takes on disk."""
        return self._store.size()

    def check_files(self) -> None:
        """Raise LedgerError where a file of the ledger was removed or replaced by another one."""
        self._store.check_files()

    def close(self) -> None:
        """Close the file and release the folder."""
        self._store.close()
