"""What was done to systems, as CI and others tell: kept for a week, and not without bound."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import datetime

from exporter.ledger.store import Store
from exporter.model import DAY, ChangeEvent, utc

CHANGE_EVENT_MAX_AGE = 7 * DAY
MAX_CHANGE_EVENTS = 200


class ChangeEvents:
    """The newest deeds; the same one told again is not there twice."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._cache: Sequence[ChangeEvent] | None = None

    def put(self, change_event: ChangeEvent, now: datetime) -> None:
        """Keep a deed, and forget those that are too old or too many. Raises LedgerError; then it is not kept."""
        with self._lock, self._store.write() as db:
            self._cache = None
            db.execute(
                "INSERT OR IGNORE INTO deed VALUES (?, ?, ?, ?, ?)",
                (
                    change_event.time.timestamp(),
                    change_event.title,
                    change_event.service,
                    change_event.account,
                    change_event.link,
                ),
            )
            db.execute("DELETE FROM deed WHERE moment < ?", ((now - CHANGE_EVENT_MAX_AGE).timestamp(),))
            db.execute(
                "DELETE FROM deed WHERE rowid NOT IN (SELECT rowid FROM deed ORDER BY moment DESC LIMIT ?)",
                (MAX_CHANGE_EVENTS,),
            )

    def recent(self, now: datetime) -> Sequence[ChangeEvent]:
        """Return the deeds of the last week, newest first; every scrape asks for them, so they are kept in memory."""
        with self._lock:
            if self._cache is None:
                self._cache = self._read()
            return [deed for deed in self._cache if deed.time >= now - CHANGE_EVENT_MAX_AGE]

    def _read(self) -> Sequence[ChangeEvent]:
        with self._store.read() as db:
            found = db.execute("SELECT title, moment, service, account, link FROM deed ORDER BY moment DESC, title")
            return [ChangeEvent(title, utc(moment), *rest) for title, moment, *rest in found]
