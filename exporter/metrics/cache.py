"""The rendered bytes of /metrics: an account is rendered when its snapshot changes, a scrape returns them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from exporter.config.configuration import Budget
from exporter.metrics.account import render_account
from exporter.metrics.budgets import render_budgets
from exporter.metrics.exposition import Page, SampleLines, Section, assemble
from exporter.metrics.families import ACCOUNT_FAMILIES, SPEND_FAMILIES
from exporter.snapshot.account_snapshot import AccountSnapshot
from exporter.snapshot.budgets import EvaluatedBudget, evaluate_budgets
from exporter.snapshot.store import AccountKey

ASSEMBLY_PAUSE_FACTOR = 20
"""After assembling the page, pause for so many times as long as it took: it takes a twentieth of a core at most.

A page of 200,000 series, which takes 0.2 s, is then at most 4 s older than its accounts."""


@dataclass(frozen=True, slots=True)
class RenderedAccount:
    """An account's snapshot and its sample lines."""

    snapshot: AccountSnapshot
    lines: SampleLines


class MetricsCache:
    """Every account's lines and the page made of them, replaced as a whole: no scrape sees half of a change."""

    def __init__(self, clock: Callable[[], datetime], monotonic: Callable[[], float]) -> None:
        self._clock = clock
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._assembly_lock = threading.Lock()
        self._accounts: dict[AccountKey, RenderedAccount] = {}
        self._budgets: tuple[Budget, ...] = ()
        self._spend_changed = self._status_changed = True
        self._not_before = 0.0
        self.page = _assemble_page(Section.compress(b""), [])
        """The page that a scrape returns."""
        self.evaluated_budgets: tuple[EvaluatedBudget, ...] = ()
        """The budgets as `page` shows them."""

    @property
    def up_to_date(self) -> bool:
        """Whether every change is in the page."""
        return not (self._spend_changed or self._status_changed or self._assembly_lock.locked())

    def update(self, snapshot: AccountSnapshot) -> None:
        """Render an account's new snapshot; `refresh` puts it into the page."""
        rendered = RenderedAccount(snapshot, render_account(snapshot))
        with self._lock:
            previous = self._accounts.get(snapshot.key)
            self._accounts[snapshot.key] = rendered
            self._status_changed = True
            # The spend section is large: it is assembled and compressed again only where one of its lines changed.
            if previous is None or _spend_changed(previous, rendered):
                self._spend_changed = True

    def configure(self, budgets: tuple[Budget, ...], removed: Iterable[AccountKey]) -> None:
        """Set the configured budgets and drop removed accounts."""
        with self._lock:
            self._budgets = budgets
            for key in removed:
                self._accounts.pop(key, None)
            self._spend_changed = self._status_changed = True

    def refresh(self, *, force: bool = False) -> None:
        """Assemble the page where anything changed; `force` ignores the pause after the last time."""
        if not force and self._monotonic() < self._not_before:
            return
        with self._assembly_lock:
            with self._lock:
                if not (self._spend_changed or self._status_changed):
                    return
                spend_changed, self._spend_changed, self._status_changed = self._spend_changed, False, False
                accounts, budgets = [self._accounts[key] for key in sorted(self._accounts)], self._budgets
            started = self._monotonic()
            spend, lines = self.page.spend, [account.lines for account in accounts]
            if spend_changed:
                snapshots = [account.snapshot for account in accounts]
                self.evaluated_budgets = evaluate_budgets(budgets, snapshots, self._clock())
                budget_lines = render_budgets(self.evaluated_budgets)
                spend = Section.compress(assemble(SPEND_FAMILIES, [*lines, budget_lines], openmetrics=False))
            self.page = _assemble_page(spend, lines)
            self._not_before = self._monotonic() + ASSEMBLY_PAUSE_FACTOR * (self._monotonic() - started)


def _spend_changed(previous: RenderedAccount, current: RenderedAccount) -> bool:
    return previous.snapshot.budget_shares != current.snapshot.budget_shares or any(
        previous.lines.get(family) != current.lines.get(family) for family in SPEND_FAMILIES
    )


def _assemble_page(spend: Section, accounts: list[SampleLines]) -> Page:
    text = Section.compress(assemble(ACCOUNT_FAMILIES, accounts, openmetrics=False))
    openmetrics = Section.compress(assemble(ACCOUNT_FAMILIES, accounts, openmetrics=True))
    return Page.from_sections(spend, text, openmetrics)
