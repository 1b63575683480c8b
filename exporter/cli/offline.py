"""The ledger of a possibly running exporter, opened for reading, for the commands that look at the past."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta

from exporter.backtest.past_source import PastSource
from exporter.backtest.sampling import PastAccount
from exporter.config.configuration import Budget, Config
from exporter.errors import LedgerError
from exporter.history.hourly import HistoryAccount
from exporter.ledger import Ledger, LedgerLocation
from exporter.model import DAY, HOUR, utc
from exporter.providers import ProviderType
from exporter.snapshot.account_snapshot import AccountSnapshot
from exporter.snapshot.builder import SnapshotBuilder
from exporter.snapshot.offline import build_snapshots, stored_accounts, stored_pushed_accounts
from exporter.windows import TimeRange, days_back

PROMETHEUS_HEAD_RANGE = timedelta(hours=3)
"""A block that reaches into the hours that a Prometheus still holds in memory makes its next start drop samples."""


@contextmanager
def open_ledger(location: LedgerLocation) -> Iterator[Ledger]:
    """Open a ledger for reading. Raises LedgerError with the remedy."""
    ledger = Ledger(location, read_only=True)
    try:
        yield ledger
    finally:
        ledger.close()


def load_polled_snapshots(
    ledger: Ledger,
    config: Config,
    providers: Mapping[str, ProviderType],
    now: datetime,
    budgets: Sequence[Budget] = (),
) -> list[AccountSnapshot]:
    """Return a snapshot of every polled account that the ledger has usage of. Raises LedgerError."""
    accounts = stored_accounts(ledger, config.accounts, config.sources, providers)
    return build_snapshots(ledger, accounts, now, budgets)


def load_pushed_snapshots(
    ledger: Ledger, config: Config, now: datetime, budgets: Sequence[Budget] = ()
) -> list[AccountSnapshot]:
    """Return a snapshot of every account of pushed events. Raises LedgerError."""
    return build_snapshots(ledger, stored_pushed_accounts(ledger, config.sources), now, budgets)


def newest_exportable_day(now: datetime) -> datetime:
    """Return the newest UTC day that a file of history may hold."""
    return days_back(now - PROMETHEUS_HEAD_RANGE, 1)


def known_day_range(
    ledger: Ledger, accounts: Sequence[HistoryAccount], since: datetime | None, last: datetime
) -> TimeRange:
    """Return the UTC days from `since`, or the oldest stored day, to `last`. Raises LedgerError where there is none."""
    stored = [
        day
        for account in accounts
        for day in ledger.hours.days(account.ledger_account.id, TimeRange(since or utc(0), last + DAY))[:1]
        if day < account.complete_until
    ]
    if not stored:
        raise LedgerError(
            f"The ledger has no usage of the configured accounts up to {last:%Y-%m-%d}. Is this the right "
            "--storage.path or --storage.url, and has the exporter polled them?"
        )
    return TimeRange(min(stored), last + DAY)


def load_past_accounts(
    ledger: Ledger, snapshots: Sequence[AccountSnapshot], time_range: TimeRange
) -> list[PastAccount]:
    """Return the accounts of which all usage up to the end of a time range is known."""
    return [
        PastAccount(PastSource(ledger, snapshot.view, time_range), SnapshotBuilder())
        for snapshot in snapshots
        if snapshot.complete_until is not None and snapshot.complete_until >= time_range.end
    ]


def newest_complete_hour(snapshots: Sequence[AccountSnapshot]) -> datetime:
    """Return the end of the newest hour that is complete for every account that is polled at present."""
    watermarks = [snapshot.complete_until for snapshot in snapshots if snapshot.complete_until is not None]
    newest = max(watermarks)
    # An account that fell behind by more is not polled any more, and must not hold the others back.
    return min(watermark for watermark in watermarks if watermark >= newest - 6 * HOUR)
