"""Pushed events: each is counted once, in its own hour, however often and however late it is pushed."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from hashlib import blake2b
from typing import Literal, NamedTuple

from exporter.ledger.buckets import Buckets
from exporter.ledger.store import Connection, Store, placeholders
from exporter.model import HOUR, RowLabels, UsageEvent, row_labels
from exporter.windows import TimeRange, floor

EVENTS_REPORT_NAME = "events"
"""The report whose buckets hold the hourly sums of events."""

Outcome = Literal["accepted", "duplicate", "conflict"]
"""Counted now; counted before with the same content; not counted, because its id had other content before."""

_CONTENT_VERSION = "~"
"""First character of a content digest; base64 does not have it. Digests of earlier versions begin with none: they were
computed from the labels under which an event was stored, which depend on the configuration."""
_DELETE_BATCH_SIZE = 10_000
_HourlySums = dict[datetime, dict[RowLabels, int]]


class Events:
    """Counts what sources push. Only hourly sums and digests of ids and contents are stored, not the events."""

    def __init__(self, store: Store, buckets: Buckets) -> None:
        self._store = store
        self._buckets = buckets

    def add(self, source: str, events: Sequence[UsageEvent], now: datetime) -> list[Outcome]:
        """Count the new events, all or none of them, and return the outcome of each; durable when it returns.

        A source has an account per provider that its events name. Raises LedgerError; then nothing is counted.
        """
        providers = {event.provider for event in events}
        accounts = {provider: self._buckets.register_account(source, provider) for provider in providers}
        updates = []
        with self._store.write() as db:
            outcomes = _deduplicate(db, source, events)
            accepted = _with_outcome(events, outcomes, "accepted")
            for provider, sums in _sum_by_hour(accepted).items():
                account = accounts[provider]
                time_range = self._contiguous_range(account, min(sums), now)
                updates.append(self._buckets.add(db, account, EVENTS_REPORT_NAME, sums, time_range))
        for update in updates:
            self._buckets.publish(update)
        return outcomes

    def mark_complete(self, account: int, now: datetime) -> None:
        """Extend the coverage to now: usage that was not pushed is none. Raises LedgerError.

        A coverage beyond now, from a time at which the clock was ahead, is cut back to it.
        """
        self._buckets.truncate_coverage(account, EVENTS_REPORT_NAME, now, needs_refresh=False)
        self._buckets.put(account, EVENTS_REPORT_NAME, self._contiguous_range(account, now, now), ())

    def _contiguous_range(self, account: int, start: datetime, now: datetime) -> TimeRange:
        """Return the time range up to now that includes `start` and leaves no gap after the coverage."""
        covered = self._buckets.coverage(account, EVENTS_REPORT_NAME)
        return TimeRange(min(start, covered.until) if covered else start, now)

    def providers(self, source: str) -> list[str]:
        """Return the providers for which a source has pushed anything."""
        with self._store.read() as db:
            found = db.execute(
                "SELECT account.provider FROM account JOIN coverage ON coverage.account = account.id"
                " WHERE account.name = ? AND coverage.report = ? ORDER BY 1",
                (source, EVENTS_REPORT_NAME),
            )
            return [provider for (provider,) in found]

    def delete_old_ids(self, before: datetime) -> None:
        """Delete the ids of events before a time; events of that age are no longer accepted."""
        deleted = 1
        while deleted:
            # In short transactions: pushes wait for each.
            with self._store.write() as db:
                deleted = db.execute(
                    "DELETE FROM event WHERE (source, id) IN (SELECT source, id FROM event WHERE start < ? LIMIT ?)",
                    (int(before.timestamp()), _DELETE_BATCH_SIZE),
                ).rowcount


def _with_outcome(events: Sequence[UsageEvent], outcomes: Sequence[Outcome], wanted: Outcome) -> Iterator[UsageEvent]:
    return (event for event, outcome in zip(events, outcomes, strict=True) if outcome == wanted)


class _EventDigests(NamedTuple):
    """An event as it is remembered."""

    id: str
    content: str


def _deduplicate(db: Connection, source: str, events: Sequence[UsageEvent]) -> list[Outcome]:
    """Return the outcome of each event and store the new ids. An id may be known or occur twice among the events."""
    all_digests = [_event_digests(event) for event in events]
    ids = [digests.id for digests in all_digests if digests is not None]
    content_by_id = dict(
        db.execute(
            f"SELECT id, content FROM event WHERE source = ? AND id IN ({placeholders(ids)})", (source, *ids)
        ).fetchall()
    )
    outcomes: list[Outcome] = []
    new_rows = []
    for event, digests in zip(events, all_digests, strict=True):
        if digests is None:
            outcomes.append("accepted")
            continue
        known_content = content_by_id.get(digests.id)
        if known_content is None:
            outcomes.append("accepted")
            content_by_id[digests.id] = digests.content
            new_rows.append((source, digests.id, digests.content, int(event.time.timestamp())))
        else:
            # The content of an event that an earlier version stored is unknown: it is recognized by its id alone.
            is_comparable = known_content.startswith(_CONTENT_VERSION)
            outcomes.append("conflict" if is_comparable and known_content != digests.content else "duplicate")
    db.executemany("INSERT INTO event (source, id, content, start) VALUES (?, ?, ?, ?)", new_rows)
    return outcomes


def _sum_by_hour(events: Iterable[UsageEvent]) -> dict[str, _HourlySums]:
    """Return provider -> hour -> labels -> sum."""
    sums: defaultdict[str, _HourlySums] = defaultdict(dict)
    for event in events:
        hour = sums[event.provider].setdefault(floor(event.time, HOUR), {})
        for row in event.rows:
            labels = row_labels(row)
            hour[labels] = hour.get(labels, 0) + row.value
    return sums


def _event_digests(event: UsageEvent) -> _EventDigests | None:
    """Return the digests of an event; None for one without an id, which cannot be recognised."""
    if not event.id:
        return None
    # Nine bytes of content suffice: they only tell a duplicate from a conflict among events of one id.
    return _EventDigests(_digest(event.id, 16), _CONTENT_VERSION + _digest(event.content, 9))


def _digest(text: str, size: int) -> str:
    return urlsafe_b64encode(blake2b(text.encode(), digest_size=size).digest()).decode().rstrip("=")
