"""Change events, such as deployments, that CI systems and others push: kept for a week, and a limited number."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import datetime

from exporter.ledger.store import Store
from exporter.model import DAY, ChangeEvent, utc

CHANGE_EVENT_MAX_AGE = 7 * DAY
MAX_CHANGE_EVENTS = 200


class ChangeEvents:
    """The newest change events; an event that is pushed again is stored once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._cache: Sequence[ChangeEvent] | None = None

    def put(self, change_event: ChangeEvent, now: datetime) -> None:
        """Store an event, and delete those that are too old or too many. Raises LedgerError; then it is not stored."""
        with self._lock, self._store.write() as db:
            self._cache = None
            db.execute(
                "INSERT INTO change_event (time, title, service, account, link) VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT DO NOTHING",
                (
                    change_event.time.timestamp(),
                    change_event.title,
                    change_event.service,
                    change_event.account,
                    change_event.link,
                ),
            )
            db.execute("DELETE FROM change_event WHERE time < ?", ((now - CHANGE_EVENT_MAX_AGE).timestamp(),))
            db.execute(
                "DELETE FROM change_event WHERE (time, title, service, account) NOT IN"
                " (SELECT time, title, service, account FROM change_event ORDER BY time DESC LIMIT ?)",
                (MAX_CHANGE_EVENTS,),
            )

    def recent(self, now: datetime) -> Sequence[ChangeEvent]:
        """Return the events of the last week, newest first; cached, because every scrape reads them."""
        with self._lock:
            if self._cache is None:
                self._cache = self._read()
            return [event for event in self._cache if event.time >= now - CHANGE_EVENT_MAX_AGE]

    def forget(self) -> None:
        """Read the events again when they are next used."""
        self._cache = None

    def _read(self) -> Sequence[ChangeEvent]:
        with self._store.read() as db:
            found = db.execute(
                "SELECT title, time, service, account, link FROM change_event ORDER BY time DESC, title"
            ).fetchall()
        return [
            ChangeEvent(title, utc(timestamp), service, account, link)
            for title, timestamp, service, account, link in found
        ]
