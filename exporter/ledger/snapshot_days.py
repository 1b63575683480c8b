"""What snapshots keep of an account's closed days, stored so that a restart need not sum every hour again.

Only a copy: everything in it can be computed from the ledger, and is where it does not fit the ledger.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from exporter.ledger.store import Connection, Store
from exporter.model import DAY, utc
from exporter.windows import TimeRange


class DayRevision(NamedTuple):
    """How often a UTC day has changed since the ledger began; unlike its version, kept over a restart."""

    buckets: int
    """How often its usage or bill has changed."""
    costs: int
    """How often its costs were replaced, or its hours rolled up."""


UNKNOWN_DAY = DayRevision(0, 0)
"""The revision of a day of which the ledger has nothing."""


class SnapshotDays:
    """One text of bytes per account; what it means is known to the snapshots."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def revisions(self, account: int, time_range: TimeRange) -> dict[datetime, DayRevision]:
        """Return the revisions of the UTC days within a time range; days of which nothing is known are left out."""
        with self._store.read() as db:
            return _read_revisions(db, account, time_range)

    def read(self, account: int, time_range: TimeRange) -> tuple[bytes, dict[datetime, DayRevision]]:
        """Return what was stored, empty where nothing was, and the revisions of the same moment."""
        with self._store.read() as db:
            found = db.execute("SELECT content FROM snapshot_days WHERE account = ?", (account,)).fetchone()
            content = b"" if found is None else found[0]
            return content if isinstance(content, bytes) else b"", _read_revisions(db, account, time_range)

    def put(self, account: int, content: bytes, revisions: Mapping[datetime, DayRevision]) -> bool:
        """Store the content, unless any day has another revision by now than it was computed from.

        Returns whether it was stored. Raises LedgerError.
        """
        time_range = TimeRange(min(revisions), max(revisions) + DAY)
        with self._store.write() as db:
            present = _read_revisions(db, account, time_range)
            if any(present.get(day, UNKNOWN_DAY) != revision for day, revision in revisions.items()):
                return False
            db.execute(
                "INSERT INTO snapshot_days (account, content) VALUES (?, ?)"
                " ON CONFLICT (account) DO UPDATE SET content = excluded.content",
                (account, content),
            )
        return True


def _read_revisions(db: Connection, account: int, time_range: TimeRange) -> dict[datetime, DayRevision]:
    found = db.execute(
        "SELECT start, revision, cost_revision FROM day WHERE account = ? AND start >= ? AND start < ?",
        (account, int(time_range.start.timestamp()), int(time_range.end.timestamp())),
    )
    return {utc(start): DayRevision(buckets, costs) for start, buckets, costs in found.fetchall()}
