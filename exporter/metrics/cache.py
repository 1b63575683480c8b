"""The page as it stands: accounts hang up their lines, scrapes read the whole."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime

from exporter.config.configuration import Budget
from exporter.ledger import Ledger
from exporter.metrics.account_status import state_chunks
from exporter.metrics.budgets import Parts, Told, budget_chunks, parts_of, standings
from exporter.metrics.crosscheck import witness_chunks
from exporter.metrics.exposition import Chunks, Page, Section, assemble
from exporter.metrics.families import ACCOUNT_FAMILIES, SPEND_FAMILIES
from exporter.metrics.hourly_totals import Trails, counting
from exporter.metrics.labels import Places
from exporter.metrics.signals import Signal, signal_chunks
from exporter.metrics.spend import spend_chunks
from exporter.model import HOUR
from exporter.polling.account_state import Member
from exporter.windows import floor

SHARE = 10
"""Putting the page together may take one part in so many of the time: a large page is put together less often."""


Key = tuple[str, str]
"""An account's name and provider."""


@dataclass(frozen=True, slots=True)
class _Hung:
    """What an account has hung up."""

    lines: Chunks
    places: Places
    parts: Parts
    signals: tuple[Signal, ...]


@dataclass(slots=True)
class _Rendering:
    """Rendering an account, one at a time, so that what was rendered first is not hung last."""

    trails: Trails
    lock: threading.Lock = field(default_factory=threading.Lock)


class Board:
    """Every account's lines and the page made of them, swapped whole: a scrape never sees half a change."""

    def __init__(self, ledger: Ledger, clock: Callable[[], datetime], monotonic: Callable[[], float]) -> None:
        self._ledger = ledger
        self._clock = clock
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._assembling = threading.Lock()
        self._hung: dict[Key, _Hung] = {}
        self._rendering: dict[Key, _Rendering] = {}
        self._expected: set[Key] = set()
        self._budgets: tuple[Budget, ...] = ()
        self._spend_changed = self._state_changed = True
        self._not_before = 0.0
        self._hour: datetime | None = None
        self.page = _page(Section.of(b""), [])
        self.budgets: tuple[Told, ...] = ()
        """How the budgets stand on the page."""

    @property
    def current(self) -> bool:
        """Whether everything that was hung is on the page."""
        return not (self._spend_changed or self._state_changed or self._assembling.locked())

    def hang(self, member: Member) -> None:
        """Render an account anew."""
        with self._lock:
            rendering = self._rendering.setdefault(member.account.key, _Rendering(Trails(self._ledger)))
        with rendering.lock:
            now, until, budgets = self._clock(), member.complete_until(self._ledger), self._budgets
            lines, places = spend_chunks(member, self._ledger, now)
            trail = rendering.trails.follow(member, places, budgets, now)
            expected, signals = signal_chunks(member, trail, places, until, now)
            lines |= expected
            lines |= state_chunks(member, self._ledger) | witness_chunks(member, self._ledger, now)
            self._replace(member, _Hung(lines, places, parts_of(trail, budgets, now, until), signals))

    def _replace(self, member: Member, hung: _Hung) -> None:
        with self._lock:
            if member.account.key not in self._expected:
                return
            old = self._hung.get(member.account.key)
            self._hung[member.account.key] = hung
            if old is None or old.parts != hung.parts or _spend(old) != _spend(hung):
                self._spend_changed = True
            self._state_changed = True

    @property
    def signals(self) -> list[Signal]:
        """What is unusual at present."""
        return [one for hung in list(self._hung.values()) for one in hung.signals]

    def places(self, key: Key) -> Places | None:
        """Return where the series of an account are shown; None while it is not on the page."""
        hung = self._hung.get(key)
        return None if hung is None else hung.places

    def expect(self, members: Iterable[Member], budgets: tuple[Budget, ...]) -> None:
        """Say which accounts and budgets are configured; others leave the page, and accounts are not hung any more.

        An account that other budgets count is hung anew.
        """
        known = {member.account.key: member for member in members}
        with self._lock:
            before, self._budgets, self._expected = self._budgets, budgets, set(known)
            for key in {*self._hung, *self._rendering} - self._expected:
                self._hung.pop(key, None)
                self._rendering.pop(key, None)
            self._spend_changed = self._state_changed = True
            anew = [known[key] for key in self._hung]
        for member in anew:
            if counting(member.account, before) != counting(member.account, budgets):
                self.hang(member)

    def turned(self) -> bool:
        """Tell once per UTC hour that the windows have moved, so that every account has to be hung anew."""
        hour = floor(self._clock(), HOUR)
        moved, self._hour = self._hour is not None and hour != self._hour, hour
        return moved

    def refresh(self, *, at_once: bool = False) -> None:
        """Put the page together if anything changed; compress only the part that did."""
        if not at_once and self._monotonic() < self._not_before:
            return
        with self._assembling:
            with self._lock:
                if not (self._spend_changed or self._state_changed):
                    return
                spend_changed, self._spend_changed, self._state_changed = self._spend_changed, False, False
                hung, budgets = [self._hung[key] for key in sorted(self._hung)], self._budgets
            began = self._monotonic()
            spend, accounts = self.page.spend, [one.lines for one in hung]
            if spend_changed:
                self.budgets = standings(budgets, [one.parts for one in hung], self._clock())
                lines = [*accounts, budget_chunks(self.budgets)]
                spend = Section.of(assemble(SPEND_FAMILIES, lines, openmetrics=False))
            self.page = _page(spend, accounts)
            self._not_before = self._monotonic() + SHARE * (self._monotonic() - began)


def _spend(hung: _Hung) -> list[bytes | None]:
    return [hung.lines.get(family) for family in SPEND_FAMILIES]


def _page(spend: Section, accounts: list[Chunks]) -> Page:
    text = Section.of(assemble(ACCOUNT_FAMILIES, accounts, openmetrics=False))
    openmetrics = Section.of(assemble(ACCOUNT_FAMILIES, accounts, openmetrics=True))
    return Page.of(spend, text, openmetrics)
