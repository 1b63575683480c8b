"""Past hours from the ledger, under the labels of /metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from exporter.config.configuration import Account, Budget
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
from exporter.snapshot.hourly import matching_budgets
from exporter.snapshot.labels import LabelMapper, SpendLabels
from exporter.windows import floor


class HistorySeriesKey(NamedTuple):
    """One series of an account, in ids, or of a budget."""

    labels: SpendLabels
    token_type: str = ""
    """Empty except for tokens."""
    window: str = ""
    """Empty except for burn rates."""


HourlyDayValues = Mapping[HistorySeriesKey, Sequence[int]]
"""nano-USD, tokens or requests of the 24 hours of a UTC day; a single value where only the day's sum is kept."""
DayValues = Mapping[HistorySeriesKey, Sequence[float]]
"""Series -> its values of a UTC day at even distances: 24 are those of the hours, a single one is that of the day."""

MILLISECOND = timedelta(milliseconds=1)
HOUR_MS = HOUR // MILLISECOND
HOURS_PER_DAY = int(DAY / HOUR)
SAMPLE_LEAD_MS = HOURLY_SAMPLE_LEAD // MILLISECOND
"""Milliseconds from the sample of an hour to the end of that hour."""


@dataclass(frozen=True, slots=True)
class HistoryAccount:
    """An account whose past is served: the labels of its series, and the times between which it is known."""

    account: Account
    ledger_account: LedgerAccount
    label_mapper: LabelMapper
    complete_until: datetime
    reported_until: datetime
    """The end of the newest hour that has ended and of which anything is known: at least `complete_until`.

    A provider has reported a part of the hours between the two. Without them the hours of a day would not sum to the
    day; an hour of which nothing is known yet would look like one without usage.
    """
    known_since: datetime
    """Usage before this time is unknown, not 0."""
    has_hourly_usage: bool = True
    """Whether all usage is reported by the hour: only then an hour can be unusual."""
    budgets: tuple[Budget, ...] = ()
    """The budgets that may count something of the account."""

    @classmethod
    def from_snapshot(cls, snapshot: AccountSnapshot, budgets: Iterable[Budget]) -> HistoryAccount | None:
        """Return the account as its snapshot has it; None without a watermark."""
        if snapshot.complete_until is None or snapshot.covered is None:
            return None
        return cls(
            account=snapshot.account,
            ledger_account=snapshot.ledger_account,
            label_mapper=snapshot.label_mapper,
            complete_until=snapshot.complete_until,
            reported_until=max(snapshot.complete_until, _reported_until(snapshot)),
            known_since=snapshot.covered.start,
            has_hourly_usage=snapshot.view.has_hourly_usage,
            budgets=matching_budgets(snapshot.account, budgets),
        )


def _reported_until(snapshot: AccountSnapshot) -> datetime:
    """Return the end of the newest hour with any cost or usage, the running hour excluded."""
    hourly = snapshot.hourly
    all_series = (hourly.account.total, *hourly.requests.values(), *hourly.tokens.values())
    hour = floor(snapshot.time, HOUR) - HOUR
    oldest = floor(snapshot.complete_until or hour, HOUR)
    while hour >= oldest and not any(series.at(hour) for series in all_series):
        hour -= HOUR
    return hour + HOUR


def history_accounts(snapshots: Iterable[AccountSnapshot], budgets: Sequence[Budget] = ()) -> list[HistoryAccount]:
    """Return the accounts that have a watermark."""
    accounts = (HistoryAccount.from_snapshot(snapshot, budgets) for snapshot in snapshots)
    return [account for account in accounts if account is not None]


def read_day(ledger: Ledger, family: Family, history_account: HistoryAccount, day: datetime) -> HourlyDayValues:
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
    return dict(
        zip(ACCOUNT_LABELS, (history_account.ledger_account.provider, history_account.account.name), strict=True)
    )


def series_labels(history_account: HistoryAccount, series_key: HistorySeriesKey) -> dict[str, str]:
    """Return the labels of a series besides provider and account; labels without a value are omitted."""
    names = (*SPEND_LABELS[len(ACCOUNT_LABELS) :], "api_key", "type")
    values = (*history_account.label_mapper.label_values(series_key.labels), series_key.token_type)
    return {name: value for name, value in zip(names, values, strict=True) if value}


def sample_timestamps(day: datetime, count: int = HOURS_PER_DAY) -> list[int]:
    """Return the timestamps of the samples of a UTC day, in milliseconds.

    Each is HOURLY_SAMPLE_LEAD before the end of an hour; the last one is that of the day.
    """
    start, interval = int(day.timestamp()) * 1000, HOURS_PER_DAY // count
    return [start + hour * HOUR_MS - SAMPLE_LEAD_MS for hour in range(interval, HOURS_PER_DAY + 1, interval)]
