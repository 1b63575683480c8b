"""Snapshots of configured accounts from the ledger alone, for commands that work beside a running exporter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from exporter.config.configuration import Account, Budget, Source
from exporter.ledger import Ledger
from exporter.ledger.events import EVENTS_REPORT_NAME
from exporter.polling.account_state import AccountView, Crosscheck
from exporter.polling.health import HealthSnapshot
from exporter.pricing.valuer import LedgerAccount
from exporter.providers import ProviderType
from exporter.push.service import build_account, build_ledger_account
from exporter.snapshot.account_snapshot import AccountSnapshot
from exporter.snapshot.builder import SnapshotBuilder
from exporter.snapshot.source import LedgerSource

_NO_POLLS = HealthSnapshot({}, {}, {}, {}, {}, None, frozenset(), key_rejected=False)
"""The ledger does not record how polls went."""


def stored_accounts(
    ledger: Ledger, accounts: Sequence[Account], sources: Sequence[Source], providers: Mapping[str, ProviderType]
) -> Iterator[AccountView]:
    """Yield the polled accounts of which the ledger knows anything. Raises LedgerError."""
    for account in accounts:
        number = ledger.buckets.find_account(account.name, account.provider)
        if number is not None:
            reports = providers[account.provider].reports
            crosschecks = tuple(_crosschecks(ledger, account, sources))
            yield _view(ledger, account, LedgerAccount(number, account.provider, reports), crosschecks)


def stored_pushed_accounts(ledger: Ledger, sources: Sequence[Source]) -> Iterator[AccountView]:
    """Yield the accounts of pushed events; a source that only crosschecks another account has none."""
    for source in sources:
        for provider in () if source.crosscheck_of else ledger.events.providers(source.name):
            number = ledger.buckets.find_account(source.name, provider)
            if number is not None:
                account, ledger_account = (
                    build_account(source, provider),
                    build_ledger_account(source, provider, number),
                )
                yield _view(ledger, account, ledger_account, ())


def build_snapshot(ledger: Ledger, view: AccountView, now: datetime, budgets: Sequence[Budget] = ()) -> AccountSnapshot:
    """Return an account's snapshot. Raises LedgerError."""
    return SnapshotBuilder().build(view, LedgerSource(ledger, view.ledger_account), budgets, now)


def build_snapshots(
    ledger: Ledger, views: Iterator[AccountView], now: datetime, budgets: Sequence[Budget] = ()
) -> list[AccountSnapshot]:
    """Return the snapshots of accounts that have a watermark. Raises LedgerError."""
    snapshots = (build_snapshot(ledger, view, now, budgets) for view in views)
    return [snapshot for snapshot in snapshots if snapshot.complete_until is not None]


def _view(
    ledger: Ledger, account: Account, ledger_account: LedgerAccount, crosschecks: tuple[Crosscheck, ...]
) -> AccountView:
    # A report that was never stored is one that this account does not have.
    reports = tuple(
        report
        for report in ledger_account.reports
        if ledger.buckets.coverage(ledger_account.id, report.name) is not None
    )
    return AccountView(account, ledger_account, reports, reports, _NO_POLLS, crosschecks)


def _crosschecks(ledger: Ledger, account: Account, sources: Sequence[Source]) -> Iterator[Crosscheck]:
    for source in sources:
        if source.crosscheck_of == account.name:
            numbers = [
                ledger.buckets.find_account(source.name, provider) for provider in ledger.events.providers(source.name)
            ]
            known = tuple(number for number in numbers if number is not None)
            yield Crosscheck(source.name, known, EVENTS_REPORT_NAME)
