"""The ledger of an exporter that may be running, opened for reading: what commands about the past work on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

from exporter.backtest.account_history import Past
from exporter.config.configuration import Account, Source
from exporter.errors import LedgerError
from exporter.history.hourly import Teller
from exporter.ledger import Ledger
from exporter.metrics.spend import places_at
from exporter.model import DAY, HOUR, utc
from exporter.polling.schedule import complete_until
from exporter.pricing.valuer import Book
from exporter.providers import ProviderType
from exporter.push.service import account_of, book_of
from exporter.windows import Span, days_back

SETTLED = timedelta(hours=3)
"""A block that reaches into the hours that a Prometheus still holds in memory makes its next start drop samples."""


@contextmanager
def past(folder: Path) -> Iterator[Ledger]:
    """Open a ledger for reading. Raises LedgerError with what to do."""
    ledger = Ledger(folder, reading=True)
    try:
        yield ledger
    finally:
        ledger.close()


def tellers(
    ledger: Ledger, accounts: Sequence[Account], providers: Mapping[str, ProviderType], now: datetime
) -> list[Teller]:
    """Return the accounts of which the ledger knows anything, as they would be shown now."""
    found = list[Teller]()
    for account in accounts:
        number = ledger.buckets.known(account.name, account.provider)
        if number is not None:
            book = Book(number, account.provider, providers[account.provider].reports)
            found += _teller(ledger, account, book, now)
    return found


def pushed(ledger: Ledger, sources: Sequence[Source], now: datetime) -> list[Teller]:
    """Return the same for those who push; witnesses are not shown."""
    found = list[Teller]()
    for source in sources:
        for provider in () if source.witness_of else ledger.events.providers(source.name):
            number = ledger.buckets.known(source.name, provider)
            if number is not None:
                found += _teller(ledger, account_of(source, provider), book_of(source, provider, number), now)
    return found


def _teller(ledger: Ledger, account: Account, book: Book, now: datetime) -> Iterator[Teller]:
    marks = (complete_until(report, ledger.buckets.coverage(book.number, report.name)) for report in book.usage)
    # A report of which nothing was ever told is one that this account does not have.
    until = min((mark for mark in marks if mark is not None), default=None)
    if until is not None:
        yield Teller(account.name, book, places_at(book, account.max_series, ledger, now), until)


def newest_day(now: datetime) -> datetime:
    """Return the newest UTC day that a file of history may hold."""
    return days_back(now - SETTLED, 1)


def whole_days(ledger: Ledger, told: Sequence[Teller], since: datetime | None, last: datetime) -> Span:
    """Return the UTC days from `since`, or the oldest known one, to `last`. Raises LedgerError where there is none."""
    known = [
        day
        for teller in told
        for day in ledger.hours.days(teller.book.number, Span(since or utc(0), last + DAY))[:1]
        if day < teller.until
    ]
    if not known:
        raise LedgerError(
            f"The ledger knows nothing of the configured accounts up to {last:%Y-%m-%d}. Is this the right "
            "--storage.path, and has the exporter polled them?"
        )
    return Span(min(known), last + DAY)


def pasts(ledger: Ledger, told: Sequence[Teller], accounts: Sequence[Account], span: Span) -> list[Past]:
    """Return the accounts whose use is known throughout the end of a span, each with its past."""
    configured = {account.name: account for account in accounts}
    found = []
    for teller in told:
        covered = {report: ledger.buckets.coverage(teller.book.number, report.name) for report in teller.book.reports}
        known = {report: one for report, one in covered.items() if one is not None}
        since = max(one.since for report, one in known.items() if report.kind == "usage")
        if teller.until >= span.end:
            found.append(Past(ledger, configured[teller.name], teller, list(known), since, span))
    return found


def newest_hour(told: Sequence[Teller]) -> datetime:
    """Return the end of the newest hour that is complete for every account that is read at present."""
    newest = max(teller.until for teller in told)
    return min(teller.until for teller in told if teller.until >= newest - 6 * HOUR)
