"""The page as it stands: accounts hang up their lines, scrapes read the whole."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime

from exporter.expose.exposition import Chunks, Page, Section, assemble
from exporter.expose.metrics import ACCOUNT_FAMILIES, SPEND_FAMILIES
from exporter.expose.series import Places
from exporter.expose.spend import spend_chunks
from exporter.expose.state import state_chunks
from exporter.ledger import Ledger
from exporter.members import Member
from exporter.model import HOUR
from exporter.windows import floor

SHARE = 10
"""Putting the page together may take one part in so many of the time: a large page is put together less often."""


class Board:
    """Every account's lines and the page made of them, swapped whole: a scrape never sees half a change."""

    def __init__(self, ledger: Ledger, monotonic: Callable[[], float]) -> None:
        self._ledger = ledger
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._assembling = threading.Lock()
        self._lines: dict[str, Chunks] = {}
        self._places: dict[str, Places] = {}
        self._expected: set[str] = set()
        self._hanging: dict[str, threading.Lock] = {}
        self._spend_changed = self._state_changed = True
        self._not_before = 0.0
        self._hour: datetime | None = None
        self.page = _page(Section.of(b""), [])

    @property
    def current(self) -> bool:
        """Whether everything that was hung is on the page."""
        return not (self._spend_changed or self._state_changed or self._assembling.locked())

    def hang(self, member: Member, now: datetime) -> None:
        """Render an account anew."""
        with self._lock:
            hanging = self._hanging.setdefault(member.account.name, threading.Lock())
        # One at a time, so that what was rendered first is not hung last.
        with hanging:
            spend, places = spend_chunks(member, self._ledger, now)
            self._replace(member, {**spend, **state_chunks(member, self._ledger)}, places)

    def _replace(self, member: Member, lines: Chunks, places: Places) -> None:
        with self._lock:
            if member.account.name not in self._expected:
                return
            old = self._lines.get(member.account.name, {})
            self._lines[member.account.name], self._places[member.account.name] = lines, places
            if any(lines.get(family) != old.get(family) for family in SPEND_FAMILIES):
                self._spend_changed = True
            self._state_changed = True

    def places(self, name: str) -> Places | None:
        """Return where the series of an account are shown; None while it is not on the page."""
        return self._places.get(name)

    def expect(self, keep: set[str]) -> None:
        """Say which accounts are configured; the others leave the page, and are not hung any more."""
        with self._lock:
            self._expected = keep
            for name in set(self._lines) - keep:
                del self._lines[name], self._places[name]
                self._spend_changed = self._state_changed = True

    def turned(self, now: datetime) -> bool:
        """Tell once per UTC hour that the windows have moved, so that every account has to be hung anew."""
        hour = floor(now, HOUR)
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
                accounts = [self._lines[name] for name in sorted(self._lines)]
            began = self._monotonic()
            spend = self.page.spend
            if spend_changed:
                spend = Section.of(assemble(SPEND_FAMILIES, accounts, openmetrics=False))
            self.page = _page(spend, accounts)
            self._not_before = self._monotonic() + SHARE * (self._monotonic() - began)


def _page(spend: Section, accounts: list[Chunks]) -> Page:
    text = Section.of(assemble(ACCOUNT_FAMILIES, accounts, openmetrics=False))
    openmetrics = Section.of(assemble(ACCOUNT_FAMILIES, accounts, openmetrics=True))
    return Page.of(spend, text, openmetrics)
