"""Every hour of the past, from the ledger, under the labels that the page shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from exporter.ledger import Ledger
from exporter.ledger.hours import add_hourly_values
from exporter.metrics.families import ACCOUNT_LABELS, HOURLY_COST, HOURLY_TOKENS, SPEND_LABELS, Family
from exporter.model import DAY, HOUR, REQUESTS, TOKEN_METERS
from exporter.pricing.valuer import LedgerAccount
from exporter.snapshot.account_snapshot import AccountSnapshot
from exporter.snapshot.labels import LabelMapper, SpendLabels

HistorySeriesKey = tuple[SpendLabels, str]
"""Where a row is shown, and the type of its tokens; all in ids."""
DayValues = Mapping[HistorySeriesKey, Sequence[int]]
"""nano-USD, tokens or requests of the 24 hours of a UTC day; one value where only the day's sum is kept."""

HOUR_MS = int(HOUR.total_seconds()) * 1000


@dataclass(frozen=True, slots=True)
class HistoryAccount:
    """An account whose past hours are exported: the labels of its series, and the newest complete hour's end."""

    name: str
    ledger_account: LedgerAccount
    label_mapper: LabelMapper
    complete_until: datetime

    @classmethod
    def from_snapshot(cls, snapshot: AccountSnapshot) -> HistoryAccount | None:
        """Return the account as its snapshot has it; None without a watermark."""
        if snapshot.complete_until is None:
            return None
        return cls(snapshot.account.name, snapshot.ledger_account, snapshot.label_mapper, snapshot.complete_until)


def history_accounts(snapshots: Iterable[AccountSnapshot]) -> list[HistoryAccount]:
    """Return the accounts that have a watermark."""
    accounts = (HistoryAccount.from_snapshot(snapshot) for snapshot in snapshots)
    return [account for account in accounts if account is not None]


def read_day(ledger: Ledger, family: Family, history_account: HistoryAccount, day: datetime) -> DayValues:
    """Return what a family tells of one UTC day of an account.

    A series that was active on a day has every hour of it, idle ones as 0; on other days it is absent.
    """
    book = history_account.ledger_account
    if family is HOURLY_COST:
        told = ledger.hours.cost(book.id, day)
    else:
        told = ledger.hours.units(book.id, [report.name for report in book.usage_reports], day)
    found: dict[HistorySeriesKey, Sequence[int]] = {}
    for labels, values in told.items():
        if family is HOURLY_COST:
            where = (history_account.label_mapper.remap(labels), "")
        elif family is HOURLY_TOKENS and labels[0] in TOKEN_METERS:
            where = (history_account.label_mapper.remap(labels), labels[0])
        elif family is not HOURLY_TOKENS and labels[0] == REQUESTS:
            where = (history_account.label_mapper.remap(labels), "")
        else:
            continue
        found[where] = add_hourly_values(found[where], values) if where in found else values
    return found


def account_labels(history_account: HistoryAccount) -> dict[str, str]:
    """Return the labels that all series of an account share."""
    return dict(zip(ACCOUNT_LABELS, (history_account.ledger_account.provider, history_account.name), strict=True))


def series_labels(history_account: HistoryAccount, series_key: HistorySeriesKey) -> dict[str, str]:
    """Return the labels that tell an account's series apart; those without a value are left out."""
    names = (*SPEND_LABELS[len(ACCOUNT_LABELS) :], "api_key", "type")
    values = (*history_account.label_mapper.label_values(series_key[0]), series_key[1])
    return {name: value for name, value in zip(names, values, strict=True) if value}


def sample_timestamps(day: datetime) -> list[int]:
    """Return when the 24 samples of a UTC day stand, in milliseconds: a sample stands in the hour that it tells of.

    At the hour's very end it would belong to two days on a Prometheus whose ranges are closed.
    """
    start = int(day.timestamp()) * 1000
    return [start + (hour + 1) * HOUR_MS - 1 for hour in range(int(DAY / HOUR))]
