"""The store of the newest telling of every bucket. The only SQL in the house."""

from __future__ import annotations

from pathlib import Path

from exporter.ledger.buckets import Buckets, Coverage
from exporter.ledger.change_events import ChangeEvents
from exporter.ledger.costs import Costs, DayCost, ValuedDay
from exporter.ledger.day_versions import DayVersions
from exporter.ledger.events import Events
from exporter.ledger.hours import HourlyValues, Hours
from exporter.ledger.names import Names
from exporter.ledger.retention import Retention
from exporter.ledger.series import SeriesIndex
from exporter.ledger.store import Store

__all__ = ["Coverage", "DayCost", "HourlyValues", "Ledger", "ValuedDay"]


class Ledger:
    """What was told (`buckets`) or pushed (`events`), what it costs (`costs`), both by the hour (`hours`), `names`."""

    def __init__(self, folder: Path, *, read_only: bool = False) -> None:
        """Open or create the ledger in a folder of its own. Raises LedgerError with what to do about it.

        For `reading` only, an exporter may be running on it.
        """
        self._store = Store(folder, read_only=read_only)
        series, changes = SeriesIndex(self._store), DayVersions()
        self.buckets = Buckets(self._store, series, changes)
        self.events = Events(self._store, self.buckets)
        self.costs = Costs(self._store, series, changes)
        self.hours = Hours(self._store, series, changes)
        self.names = Names(self._store)
        self.change_events = ChangeEvents(self._store)
        self.retention = Retention(self._store, changes)

    @property
    def path(self) -> Path:
        """The file itself."""
        return self._store.path

    def size(self) -> int:
        """Return the bytes that the ledger takes on the disk."""
        return self._store.size()

    def close(self) -> None:
        """Close the file and let the next process in."""
        self._store.close()
