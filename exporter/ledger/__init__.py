"""The store of the newest telling of every bucket. The only SQL in the house."""

from __future__ import annotations

from pathlib import Path

from exporter.ledger.buckets import Buckets, Coverage
from exporter.ledger.costs import Costs, Day, Worth
from exporter.ledger.names import Names
from exporter.ledger.retention import Retention
from exporter.ledger.series import Series
from exporter.ledger.store import Store

__all__ = ["Coverage", "Day", "Ledger", "Worth"]


class Ledger:
    """What was told (`buckets`), what it costs (`costs`), how ids are called (`names`), and how long it is kept."""

    def __init__(self, folder: Path) -> None:
        """Open or create the ledger in a folder of its own. Raises LedgerError with what to do about it."""
        self._store = Store(folder)
        series = Series(self._store)
        self.buckets = Buckets(self._store, series)
        self.costs = Costs(self._store, series)
        self.names = Names(self._store)
        self.retention = Retention(self._store)

    @property
    def place(self) -> Path:
        """The file itself."""
        return self._store.path

    def size(self) -> int:
        """Return the bytes that the ledger takes on the disk."""
        return self._store.size()

    def close(self) -> None:
        """Close the file and let the next process in."""
        self._store.close()
