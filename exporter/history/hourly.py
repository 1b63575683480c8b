"""Past hours from the ledger, under the labels of /metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from exporter.ledger import Ledger
from exporter.ledger.hours import add_hourly_values
from exporter.metrics.families import (
    ACCOUNT_LABELS,
    HOURLY_COST,
    HOURLY_REQUESTS,
    HOURLY_SAMPLE_LEAD,
    HOURLY_TOKENS,
    SPEND_LABELS,
    Family,
)
from exporter.model import DAY, HOUR, REQUESTS, TOKEN_METERS
from exporter.pricing.valuer import LedgerAccount
from exporter.snapshot.account_snapshot import AccountSnapshot
from exporter.snapshot.labels import LabelMapper, SpendLabels


class HistorySeriesKey(NamedTuple):
    """One series of an account, in ids."""

    labels: SpendLabels
    token_type: str
    """Empty except for tokens."""


DayValues = Mapping[HistorySeriesKey, Sequence[int]]
"""nano-USD, tokens or requests of the 24 hours of a UTC day; a single value where only the day's sum is kept."""

MILLISECOND = timedelta(milliseconds=1)
HOUR_MS = HOUR // MILLISECOND
SAMPLE_LEAD_MS = HOURLY_SAMPLE_LEAD // MILLISECOND
"""Milliseconds from the sample of an hour to the end of that hour."""


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
    """Return a family's values of one UTC day of an account.

    A series that was active on a day has every hour of it, hours without usage as 0; on other days it is absent.
    Raises LedgerError.
    """
    ledger_account = history_account.ledger_account
    if family is HOURLY_COST:
        rows = ledger.hours.cost(ledger_account.id, day)
    else:
        reports = [report.name for report in ledger_account.usage_reports]
        rows = ledger.hours.units(ledger_account.id, reports, day)
    values_by_series: dict[HistorySeriesKey, Sequence[int]] = {}
    for labels, values in rows.items():
        if family is HOURLY_TOKENS and labels.meter not in TOKEN_METERS:
            continue
        if family is HOURLY_REQUESTS and labels.meter != REQUESTS:
            continue
        token_type = labels.meter if family is HOURLY_TOKENS else ""
        key = HistorySeriesKey(history_account.label_mapper.remap(labels), token_type)
        known = values_by_series.get(key)
        values_by_series[key] = values if known is None else add_hourly_values(known, values)
    return values_by_series


def account_labels(history_account: HistoryAccount) -> dict[str, str]:
    """Return the labels that all series of an account share."""
    return dict(zip(ACCOUNT_LABELS, (history_account.ledger_account.provider, history_account.name), strict=True))


def series_labels(history_account: HistoryAccount, series_key: HistorySeriesKey) -> dict[str, str]:
    """Return the labels of a series besides provider and account; labels without a value are omitted."""
    names = (*SPEND_LABELS[len(ACCOUNT_LABELS) :], "api_key", "type")
    values = (*history_account.label_mapper.label_values(series_key.labels), series_key.token_type)
    return {name: value for name, value in zip(names, values, strict=True) if value}


def sample_timestamps(day: datetime) -> list[int]:
    """Return the timestamps of the 24 samples of a UTC day, in milliseconds.

    Each is HOURLY_SAMPLE_LEAD before the end of its hour.
    """
    start = int(day.timestamp()) * 1000
    return [start + (hour + 1) * HOUR_MS - SAMPLE_LEAD_MS for hour in range(int(DAY / HOUR))]
