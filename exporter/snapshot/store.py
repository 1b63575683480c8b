"""The newest snapshot of every account."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from exporter.config.configuration import Budget
from exporter.errors import LedgerUnavailable
from exporter.ledger import DayRevision, Ledger
from exporter.ledger.snapshot_days import UNKNOWN_DAY
from exporter.model import DAY, HOUR
from exporter.polling.account_state import AccountState, AccountView
from exporter.snapshot.account_snapshot import AccountSnapshot
from exporter.snapshot.builder import SnapshotBuilder, exported_range
from exporter.snapshot.hourly import matching_budgets
from exporter.snapshot.source import LedgerSource
from exporter.snapshot.stored_days import decode_days, encode_days
from exporter.windows import slots

AccountKey = tuple[str, str]
"""An account's name and provider."""


STORE_INTERVAL = HOUR
"""Changes of closed days are stored at most so often: the ledger need not grow by every correction, and a restart reads
the days that have changed since."""


@dataclass(frozen=True, slots=True)
class _StoredState:
    """What the closed days that are stored in the ledger were computed from."""

    grouping: str
    revisions: Mapping[datetime, DayRevision]


@dataclass(slots=True)
class _Builder:
    """An account's builder. Held while it builds, so that the snapshot that was begun last is stored last."""

    builder: SnapshotBuilder = field(default_factory=SnapshotBuilder)
    lock: threading.Lock = field(default_factory=threading.Lock)
    is_restored: bool = False
    """Whether the days of an earlier process were read, or the builder does not need them."""
    stored: _StoredState | None = None
    store_after: datetime | None = None


class SnapshotStore:
    """Builds snapshots from any thread and keeps the newest of each configured account."""

    def __init__(
        self, ledger: Ledger, clock: Callable[[], datetime], on_change: Callable[[AccountSnapshot], None]
    ) -> None:
        """`on_change` is called with every new snapshot."""
        self._ledger = ledger
        self._clock = clock
        self._on_change = on_change
        self._lock = threading.Lock()
        self._snapshots: dict[AccountKey, AccountSnapshot] = {}
        self._builders: dict[AccountKey, _Builder] = {}
        self._configured: set[AccountKey] = set()
        self._budgets: tuple[Budget, ...] = ()

    def all(self) -> list[AccountSnapshot]:
        """Return the newest snapshots, by account."""
        with self._lock:
            return [self._snapshots[key] for key in sorted(self._snapshots)]

    def get(self, key: AccountKey) -> AccountSnapshot | None:
        """Return an account's newest snapshot; None before its first."""
        with self._lock:
            return self._snapshots.get(key)

    def update(self, account_state: AccountState) -> None:
        """Build an account's snapshot from the ledger. Raises LedgerError.

        Where that, or an unexpected exception, ends the build, the previous snapshot stays, with the account's present
        health.
        """
        key = account_state.view().account.identity
        with self._lock:
            entry = self._builders.setdefault(key, _Builder())
        with entry.lock:
            view = account_state.view()
            source = LedgerSource(self._ledger, view.ledger_account)
            try:
                snapshot = self._build(entry, view, source)
            except Exception:
                # Every kind, and raised again: the caller counts and logs it. What the builder keeps between two builds
                # may be half of one and half of the other.
                entry.builder = SnapshotBuilder()
                entry.is_restored = True
                previous = self.get(key)
                if previous is not None:
                    self._store(key, replace(previous, view=view, up=previous.up and not view.health.problems))
                raise
            self._store(key, snapshot)

    def _build(self, entry: _Builder, view: AccountView, source: LedgerSource) -> AccountSnapshot:
        """Build a snapshot; begin with the days that an earlier process stored, and store those that have changed."""
        now, number = self._clock(), view.ledger_account.id
        exported = exported_range(now)
        if entry.is_restored:
            revisions = self._ledger.snapshot_days.revisions(number, exported)
        else:
            versions = {day: source.day_version(day) for day in slots(exported.start, exported.end, DAY)}
            content, revisions = self._ledger.snapshot_days.read(number, exported)
            stored = decode_days(content)
            entry.builder.restore(stored, versions, revisions)
            entry.stored, entry.is_restored = _StoredState(stored.grouping, stored.revisions), True
        snapshot = entry.builder.build(view, source, self._budgets, now, revisions)
        if entry.store_after is None or entry.store_after <= now:
            self._store_days(entry, number, now)
        return snapshot

    def _store_days(self, entry: _Builder, number: int, now: datetime) -> None:
        closed = entry.builder.closed_days(now)
        state = _StoredState(closed.grouping, closed.revisions)
        if all(revision == UNKNOWN_DAY for revision in state.revisions.values()):
            return  # before the first poll
        entry.store_after = now + STORE_INTERVAL
        if state == entry.stored:
            return
        try:
            if self._ledger.snapshot_days.put(number, encode_days(closed), state.revisions):
                entry.stored = state
        except LedgerUnavailable:
            # Only a copy: without it the next start takes longer. What else fails with the disk, the poll reports.
            return

    def _store(self, key: AccountKey, snapshot: AccountSnapshot) -> None:
        with self._lock:
            if key not in self._configured:
                return
            self._snapshots[key] = snapshot
        self._on_change(snapshot)

    def configure(self, account_states: Iterable[AccountState], budgets: tuple[Budget, ...]) -> set[AccountKey]:
        """Set the accounts and budgets that are configured; return the accounts that were removed.

        An account that is counted by other budgets than before gets a new snapshot.
        """
        states = {state.view().account.identity: state for state in account_states}
        with self._lock:
            previous, self._budgets, self._configured = self._budgets, budgets, set(states)
            removed = self._snapshots.keys() - self._configured
            for key in {*self._snapshots, *self._builders} - self._configured:
                self._snapshots.pop(key, None)
                self._builders.pop(key, None)
            affected = [states[key] for key in self._snapshots]
        for state in affected:
            account = state.view().account
            if matching_budgets(account, previous) != matching_budgets(account, budgets):
                self.update(state)
        return removed
