"""The page as it stands: accounts hang up their lines, scrapes read the whole."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime

from exporter.config.configuration import Budget
from exporter.ledger import Ledger
from exporter.metrics.account_status import render_account_status
from exporter.metrics.budgets import (
    BudgetShares,
    EvaluatedBudget,
    compute_budget_shares,
    evaluate_budgets,
    render_budgets,
)
from exporter.metrics.crosscheck import render_crosscheck
from exporter.metrics.exposition import Page, SampleLines, Section, assemble
from exporter.metrics.families import ACCOUNT_FAMILIES, SPEND_FAMILIES
from exporter.metrics.hourly_totals import HourlyTotalsReader, matching_budgets
from exporter.metrics.signals import Signal, render_signals
from exporter.metrics.spend import render_spend
from exporter.model import HOUR
from exporter.polling.account_state import AccountState
from exporter.snapshot.labels import LabelMapper
from exporter.windows import floor

ASSEMBLY_BACKOFF_FACTOR = 10
"""Putting the page together may take one part in so many of the time: a large page is put together less often."""


AccountKey = tuple[str, str]
"""An account's name and provider."""


@dataclass(frozen=True, slots=True)
class RenderedAccount:
    """What an account has hung up."""

    lines: SampleLines
    label_mapper: LabelMapper
    budget_shares: BudgetShares
    signals: tuple[Signal, ...]


@dataclass(slots=True)
class _RendererState:
    """Rendering an account, one at a time, so that what was rendered first is not hung last."""

    totals_reader: HourlyTotalsReader
    lock: threading.Lock = field(default_factory=threading.Lock)


class MetricsCache:
    """Every account's lines and the page made of them, swapped whole: a scrape never sees half a change."""

    def __init__(self, ledger: Ledger, clock: Callable[[], datetime], monotonic: Callable[[], float]) -> None:
        self._ledger = ledger
        self._clock = clock
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._assembly_lock = threading.Lock()
        self._rendered_accounts: dict[AccountKey, RenderedAccount] = {}
        self._renderer_states: dict[AccountKey, _RendererState] = {}
        self._configured_keys: set[AccountKey] = set()
        self._budgets: tuple[Budget, ...] = ()
        self._spend_changed = self._state_changed = True
        self._not_before = 0.0
        self._hour: datetime | None = None
        self.page = _assemble_page(Section.compress(b""), [])
        self.evaluated_budgets: tuple[EvaluatedBudget, ...] = ()
        """How the budgets stand on the page."""

    @property
    def up_to_date(self) -> bool:
        """Whether everything that was hung is on the page."""
        return not (self._spend_changed or self._state_changed or self._assembly_lock.locked())

    def update(self, account_state: AccountState) -> None:
        """Render an account anew."""
        with self._lock:
            rendering = self._renderer_states.setdefault(
                account_state.account.identity, _RendererState(HourlyTotalsReader(self._ledger))
            )
        with rendering.lock:
            now, until, budgets = self._clock(), account_state.complete_until(self._ledger), self._budgets
            lines, places = render_spend(account_state, self._ledger, now)
            trail = rendering.totals_reader.read(account_state, places, budgets, now)
            expected, signals = render_signals(account_state, trail, places, until, now)
            lines |= expected
            lines |= render_account_status(account_state, self._ledger) | render_crosscheck(
                account_state, self._ledger, now
            )
            self._replace(
                account_state,
                RenderedAccount(lines, places, compute_budget_shares(trail, budgets, now, until), signals),
            )

    def _replace(self, account_state: AccountState, rendered_account: RenderedAccount) -> None:
        with self._lock:
            if account_state.account.identity not in self._configured_keys:
                return
            old = self._rendered_accounts.get(account_state.account.identity)
            self._rendered_accounts[account_state.account.identity] = rendered_account
            if (
                old is None
                or old.budget_shares != rendered_account.budget_shares
                or _spend_lines(old) != _spend_lines(rendered_account)
            ):
                self._spend_changed = True
            self._state_changed = True

    @property
    def signals(self) -> list[Signal]:
        """What is unusual at present."""
        return [one for hung in list(self._rendered_accounts.values()) for one in hung.signals]

    def get_label_mapper(self, key: AccountKey) -> LabelMapper | None:
        """Return where the series of an account are shown; None while it is not on the page."""
        hung = self._rendered_accounts.get(key)
        return None if hung is None else hung.label_mapper

    def configure(self, account_states: Iterable[AccountState], budgets: tuple[Budget, ...]) -> None:
        """Say which accounts and budgets are configured; others leave the page, and accounts are not hung any more.

        An account that other budgets count is hung anew.
        """
        known = {member.account.identity: member for member in account_states}
        with self._lock:
            before, self._budgets, self._configured_keys = self._budgets, budgets, set(known)
            for key in {*self._rendered_accounts, *self._renderer_states} - self._configured_keys:
                self._rendered_accounts.pop(key, None)
                self._renderer_states.pop(key, None)
            self._spend_changed = self._state_changed = True
            anew = [known[key] for key in self._rendered_accounts]
        for member in anew:
            if matching_budgets(member.account, before) != matching_budgets(member.account, budgets):
                self.update(member)

    def hour_changed(self) -> bool:
        """Tell once per UTC hour that the windows have moved, so that every account has to be hung anew."""
        hour = floor(self._clock(), HOUR)
        moved, self._hour = self._hour is not None and hour != self._hour, hour
        return moved

    def refresh(self, *, force: bool = False) -> None:
        """Put the page together if anything changed; compress only the part that did."""
        if not force and self._monotonic() < self._not_before:
            return
        with self._assembly_lock:
            with self._lock:
                if not (self._spend_changed or self._state_changed):
                    return
                spend_changed, self._spend_changed, self._state_changed = self._spend_changed, False, False
                hung, budgets = [self._rendered_accounts[key] for key in sorted(self._rendered_accounts)], self._budgets
            began = self._monotonic()
            spend, accounts = self.page.spend, [one.lines for one in hung]
            if spend_changed:
                self.evaluated_budgets = evaluate_budgets(budgets, [one.budget_shares for one in hung], self._clock())
                lines = [*accounts, render_budgets(self.evaluated_budgets)]
                spend = Section.compress(assemble(SPEND_FAMILIES, lines, openmetrics=False))
            self.page = _assemble_page(spend, accounts)
            self._not_before = self._monotonic() + ASSEMBLY_BACKOFF_FACTOR * (self._monotonic() - began)


def _spend_lines(rendered_account: RenderedAccount) -> list[bytes | None]:
    return [rendered_account.lines.get(family) for family in SPEND_FAMILIES]


def _assemble_page(spend: Section, accounts: list[SampleLines]) -> Page:
    text = Section.compress(assemble(ACCOUNT_FAMILIES, accounts, openmetrics=False))
    openmetrics = Section.compress(assemble(ACCOUNT_FAMILIES, accounts, openmetrics=True))
    return Page.from_sections(spend, text, openmetrics)
