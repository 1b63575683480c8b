"""The ledger: stores reported usage and bills, pushed events, and the costs they are valued at. The only SQL."""

from __future__ import annotations

from collections.abc import Callable

from exporter.errors import LedgerError
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
from exporter.ledger.locations import LedgerLocation, PostgresLocation
from exporter.ledger.names import Names
from exporter.ledger.reported_days import ReportedDays, ReportedSeries
from exporter.ledger.retention import Retention
from exporter.ledger.series import SeriesIndex
from exporter.ledger.snapshot_days import DayRevision, SnapshotDays
from exporter.ledger.sqlite_store import SqliteStore
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
    "LedgerLocation",
    "PostgresLocation",
    "ReportedSeries",
    "RevisedDay",
    "StoredEvidence",
    "ValuedDay",
    "open_store",
]


class Ledger:
    """The ledger of one exporter, in a folder or a database of its own.

    Reported usage and bills are `buckets`, pushed usage is `events`; `costs` are what days are valued at, from the rows
    that `reported_days` reads; `hours` reads all of them hour by hour. Beside that: `names`, `change_events`,
    `snapshot_days` and `retention`.
    """

    def __init__(self, location: LedgerLocation, *, read_only: bool = False) -> None:
        """Open or create the ledger. Raises LedgerError, with advice.

        With `read_only` an exporter may be running on it.
        """
        day_versions = DayVersions()
        self._store = open_store(location, read_only=read_only, on_unknown_outcome=self._forget)
        series = SeriesIndex(self._store)
        self.buckets = Buckets(self._store, series, day_versions)
        self.events = Events(self._store, self.buckets)
        self.costs = Costs(self._store, series, day_versions)
        self.hours = Hours(self._store, series, day_versions)
        self.names = Names(self._store)
        self.reported_days = ReportedDays(self._store, series)
        self.change_events = ChangeEvents(self._store)
        self.snapshot_days = SnapshotDays(self._store)
        self.retention = Retention(self._store, day_versions)
        self._day_versions = day_versions

    def _forget(self) -> None:
        """Forget what is kept in memory after a transaction of which nobody knows whether it was stored."""
        self.buckets.forget_coverage()
        self.change_events.forget()
        self._day_versions.increment_all()

    @property
    def unavailable_reason(self) -> str:
        """Why nothing can be stored at present, where all operations fail for this reason; empty while it can."""
        return self._store.unavailable_reason

    def size(self) -> int:
        """Return the bytes that the ledger takes on disk."""
        return self._store.size()

    def check(self) -> None:
        """Raise LedgerError where the ledger cannot be used any more; a lost connection is opened again."""
        self._store.check()

    def close(self) -> None:
        """Close the ledger, and let another process open it."""
        self._store.close()


def open_store(
    location: LedgerLocation,
    *,
    read_only: bool = False,
    exclusive: bool = False,
    on_unknown_outcome: Callable[[], None] | None = None,
) -> Store:
    """Open or create the file or the tables of a ledger. Raises LedgerError, with advice.

    With `read_only` an exporter may be running on it, unless it is opened as `exclusive`. `on_unknown_outcome` is
    called where nobody knows whether a transaction was stored.
    """
    if not isinstance(location, PostgresLocation):
        return SqliteStore(location, read_only=read_only, exclusive=exclusive)
    try:
        # Only where it is used: psycopg belongs to an extra.
        from exporter.ledger.postgres_store import PostgresStore  # noqa: PLC0415
    except ImportError as error:
        raise LedgerError(
            f"A ledger in PostgreSQL needs psycopg, which cannot be loaded ({error}): "
            "pip install 'ai-spend-exporter[postgres]'"
        ) from error
    store = PostgresStore(location, read_only=read_only, exclusive=exclusive)
    if on_unknown_outcome is not None:
        store.on_unknown_outcome = on_unknown_outcome
    return store
