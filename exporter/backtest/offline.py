"""The ledger of an exporter that may be running, opened for reading: what commands about the past work on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

from exporter.backtest.account_history import AccountHistory
from exporter.config.configuration import Account, Source
from exporter.errors import LedgerError
from exporter.history.hourly import HistoryAccount
from exporter.ledger import Ledger
from exporter.metrics.spend import build_label_mapper
from exporter.model import DAY, HOUR, utc
from exporter.polling.schedule import complete_until
from exporter.pricing.valuer import LedgerAccount
from exporter.providers import ProviderType
from exporter.push.service import build_account, build_ledger_account
from exporter.windows import TimeRange, days_back

PROMETHEUS_HEAD_RANGE = timedelta(hours=3)
"""A block that reaches into the hours that a Prometheus still holds in memory makes its next start drop samples."""


@contextmanager
def open_ledger(folder: Path) -> Iterator[Ledger]:
    """Open a ledger for reading. Raises LedgerError with what to do."""
    ledger = Ledger(folder, read_only=True)
    try:
        yield ledger
    finally:
        ledger.close()


def load_history_accounts(
    ledger: Ledger, accounts: Sequence[Account], providers: Mapping[str, ProviderType], now: datetime
) -> list[HistoryAccount]:
    """Return the accounts of which the ledger knows anything, as they would be shown now."""
    found = list[HistoryAccount]()
    for account in accounts:
        number = ledger.buckets.find_account(account.name, account.provider)
        if number is not None:
            book = LedgerAccount(number, account.provider, providers[account.provider].reports)
            found += _build_history_account(ledger, account, book, now)
    return found


def load_pushed_history_accounts(ledger: Ledger, sources: Sequence[Source], now: datetime) -> list[HistoryAccount]:
    """Return the same for those who push; witnesses are not shown."""
    found = list[HistoryAccount]()
    for source in sources:
        for provider in () if source.crosscheck_of else ledger.events.providers(source.name):
            number = ledger.buckets.find_account(source.name, provider)
            if number is not None:
                found += _build_history_account(
                    ledger, build_account(source, provider), build_ledger_account(source, provider, number), now
                )
    return found


def _build_history_account(
    ledger: Ledger, account: Account, ledger_account: LedgerAccount, now: datetime
) -> Iterator[HistoryAccount]:
    marks = (
        complete_until(report, ledger.buckets.coverage(ledger_account.id, report.name))
        for report in ledger_account.usage_reports
    )
    # A report of which nothing was ever told is one that this account does not have.
    until = min((mark for mark in marks if mark is not None), default=None)
    if until is not None:
        yield HistoryAccount(
            account.name, ledger_account, build_label_mapper(ledger_account, account.max_series, ledger, now), until
        )


def newest_exportable_day(now: datetime) -> datetime:
    """Return the newest UTC day that a file of history may hold."""
    return days_back(now - PROMETHEUS_HEAD_RANGE, 1)


def known_day_range(
    ledger: Ledger, history_accounts: Sequence[HistoryAccount], since: datetime | None, last: datetime
) -> TimeRange:
    """Return the UTC days from `since`, or the oldest known one, to `last`. Raises LedgerError where there is none."""
    known = [
        day
        for teller in history_accounts
        for day in ledger.hours.days(teller.ledger_account.id, TimeRange(since or utc(0), last + DAY))[:1]
        if day < teller.complete_until
    ]
    if not known:
        raise LedgerError(
            f"The ledger knows nothing of the configured accounts up to {last:%Y-%m-%d}. Is this the right "
            "--storage.path, and has the exporter polled them?"
        )
    return TimeRange(min(known), last + DAY)


def load_account_histories(
    ledger: Ledger, history_accounts: Sequence[HistoryAccount], accounts: Sequence[Account], time_range: TimeRange
) -> list[AccountHistory]:
    """Return the accounts whose use is known throughout the end of a span, each with its past."""
    configured = {account.name: account for account in accounts}
    found = []
    for teller in history_accounts:
        covered = {
            report: ledger.buckets.coverage(teller.ledger_account.id, report.name)
            for report in teller.ledger_account.reports
        }
        known = {report: one for report, one in covered.items() if one is not None}
        since = max(one.since for report, one in known.items() if report.kind == "usage")
        if teller.complete_until >= time_range.end:
            found.append(AccountHistory(ledger, configured[teller.name], teller, list(known), since, time_range))
    return found


def newest_complete_hour(history_accounts: Sequence[HistoryAccount]) -> datetime:
    """Return the end of the newest hour that is complete for every account that is read at present."""
    newest = max(teller.complete_until for teller in history_accounts)
    return min(teller.complete_until for teller in history_accounts if teller.complete_until >= newest - 6 * HOUR)
