"""Pushed events: each is counted once, in its own hour, however often and however late it is told."""

from __future__ import annotations

import json
import sqlite3
from base64 import urlsafe_b64encode
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from hashlib import blake2b
from typing import Literal

from exporter.ledger.buckets import Buckets
from exporter.ledger.series import labels
from exporter.ledger.store import Store, to_json
from exporter.model import HOUR, RowLabels, UsageEvent
from exporter.windows import TimeRange, floor

EVENTS_REPORT_NAME = "events"
"""Under this name the sums stand among the buckets."""

Outcome = Literal["accepted", "duplicate", "conflict"]
"""Counted now; counted before, in the same words; not counted: its id was given to something else before."""

_DELETE_BATCH_SIZE = 10_000
_HourlySums = dict[datetime, dict[RowLabels, int]]


class Events:
    """Counts what sources push. Hours of sums are all that is kept, and of every id that it was there."""

    def __init__(self, store: Store, buckets: Buckets) -> None:
        self._store = store
        self._buckets = buckets

    def add(self, source: str, events: Sequence[UsageEvent], now: datetime) -> list[Outcome]:
        """Count events, all or none of the new ones, and return what became of each; durable when it returns.

        A source has an account per provider that its events name. Raises LedgerError; then nothing is counted.
        """
        numbers = {
            provider: self._buckets.register_account(source, provider) for provider in {one.provider for one in events}
        }
        with self._store.write() as db:
            outcomes = _deduplicate(db, source, events)
            added = [
                self._buckets.add(
                    db,
                    numbers[provider],
                    EVENTS_REPORT_NAME,
                    sums,
                    self._contiguous_range(numbers[provider], min(sums), now),
                )
                for provider, sums in _sum_by_hour(_with_outcome(events, outcomes, "accepted")).items()
            ]
        for one in added:
            self._buckets.publish(one)
        return outcomes

    def mark_complete(self, account: int, now: datetime) -> None:
        """Note that all is told up to now: what is not pushed was not used. Raises LedgerError."""
        self._buckets.put(account, EVENTS_REPORT_NAME, self._contiguous_range(account, now, now), ())

    def _contiguous_range(self, account: int, start: datetime, now: datetime) -> TimeRange:
        """Return a span that leaves no gap behind what was told before."""
        covered = self._buckets.coverage(account, EVENTS_REPORT_NAME)
        return TimeRange(min(start, covered.until) if covered else start, now)

    def providers(self, source: str) -> list[str]:
        """Return the providers of which a source has told anything."""
        with self._store.read() as db:
            found = db.execute(
                "SELECT account.provider FROM account JOIN coverage ON coverage.account = account.id"
                " WHERE account.name = ? AND coverage.report = ? ORDER BY 1",
                (source, EVENTS_REPORT_NAME),
            )
            return [provider for (provider,) in found]

    def delete_old_ids(self, before: datetime) -> None:
        """Forget the ids of events that happened before this: nobody may tell them again."""
        left = 1
        while left:
            # In small pieces: those who push wait for each.
            with self._store.write() as db:
                left = db.execute(
                    "DELETE FROM event WHERE (source, id) IN (SELECT source, id FROM event WHERE start < ? LIMIT ?)",
                    (int(before.timestamp()), _DELETE_BATCH_SIZE),
                ).rowcount


def _with_outcome(events: Sequence[UsageEvent], outcomes: Sequence[Outcome], wanted: Outcome) -> Iterator[UsageEvent]:
    return (event for event, outcome in zip(events, outcomes, strict=True) if outcome == wanted)


def _deduplicate(db: sqlite3.Connection, source: str, events: Sequence[UsageEvent]) -> list[Outcome]:
    """Compare ids with those that are known and with those before them, and keep the new ones."""
    digests = [(_digest(event.id, 16), _content_digest(event)) if event.id else None for event in events]
    asked = to_json([one[0] for one in digests if one])
    known = dict(
        db.execute(
            "SELECT id, content FROM event WHERE source = ? AND id IN (SELECT value FROM json_each(?))",
            (source, asked),
        )
    )
    outcomes, new = list[Outcome](), []
    for event, one in zip(events, digests, strict=True):
        if one is None:
            outcomes.append("accepted")
        elif one[0] in known:
            outcomes.append("duplicate" if known[one[0]] == one[1] else "conflict")
        else:
            outcomes.append("accepted")
            known[one[0]] = one[1]
            new.append((*one, int(event.time.timestamp())))
    db.execute(
        "INSERT INTO event SELECT ?, value ->> 0, value ->> 1, value ->> 2 FROM json_each(?)",
        (source, to_json(new)),
    )
    return outcomes


def _sum_by_hour(events: Iterable[UsageEvent]) -> dict[str, _HourlySums]:
    """Provider -> hour -> labels -> sum."""
    sums: defaultdict[str, _HourlySums] = defaultdict(dict)
    for event in events:
        hour = sums[event.provider].setdefault(floor(event.time, HOUR), {})
        for row in event.rows:
            one = labels(row)
            hour[one] = hour.get(one, 0) + row.value
    return sums


def _digest(text: str, size: int) -> str:
    return urlsafe_b64encode(blake2b(text.encode(), digest_size=size).digest()).decode().rstrip("=")


def _content_digest(event: UsageEvent) -> str:
    rows = sorted((*labels(row), row.value) for row in event.rows)
    return _digest(json.dumps([event.provider, event.time.timestamp(), rows]), 9)
