"""What was done to systems, as CI and others tell: kept for a week, and not without bound."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import datetime

from exporter.ledger.store import Store
from exporter.model import DAY, Deed, utc

KEPT = 7 * DAY
MOST = 200


class Timeline:
    """The newest deeds; the same one told again is not there twice."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._known: Sequence[Deed] | None = None

    def put(self, deed: Deed, now: datetime) -> None:
        """Keep a deed, and forget those that are too old or too many. Raises LedgerError; then it is not kept."""
        with self._lock, self._store.write() as db:
            self._known = None
            db.execute(
                "INSERT OR IGNORE INTO deed VALUES (?, ?, ?, ?, ?)",
                (deed.moment.timestamp(), deed.title, deed.service, deed.account, deed.link),
            )
            db.execute("DELETE FROM deed WHERE moment < ?", ((now - KEPT).timestamp(),))
            db.execute(
                "DELETE FROM deed WHERE rowid NOT IN (SELECT rowid FROM deed ORDER BY moment DESC LIMIT ?)", (MOST,)
            )

    def newest(self, now: datetime) -> Sequence[Deed]:
        """Return the deeds of the last week, newest first; every scrape asks for them, so they are kept in memory."""
        with self._lock:
            if self._known is None:
                self._known = self._read()
            return [deed for deed in self._known if deed.moment >= now - KEPT]

    def _read(self) -> Sequence[Deed]:
        with self._store.read() as db:
            found = db.execute("SELECT title, moment, service, account, link FROM deed ORDER BY moment DESC, title")
            return [Deed(title, utc(moment), *rest) for title, moment, *rest in found]
