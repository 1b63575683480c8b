"""One account at one moment, as immutable values: everything that is exported or displayed of it derives from here."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from exporter.analysis.baselines import Baseline, HourlySeries
from exporter.analysis.budgets import BudgetShare, SpendSeries
from exporter.analysis.thresholds import MAX_DAILY_DELAY, MAX_HOURLY_DELAY
from exporter.config.configuration import Account
from exporter.ledger import Coverage, DayCost
from exporter.model import DAY, GAUGE_METERS, Report, RowLabels
from exporter.polling.account_state import AccountView
from exporter.polling.health import HealthSnapshot
from exporter.pricing.valuer import LedgerAccount
from exporter.snapshot.day_reads import DayReads
from exporter.snapshot.labels import LabelMapper
from exporter.windows import DAYS_EXPORTED, TimeRange, calendar_windows, days_back, floor

RECENT_WINDOWS = ("month", "30d")
"""A series with cost or usage in one of these is exported. On the 31st the month began a day before the 30 days did."""

RowTotals = Mapping[RowLabels, int]
"""Labels of rows -> nano-USD for meter `cost`, else units."""


@dataclass(frozen=True, slots=True)
class DayTotals:
    """Cost and usage of one UTC day by row labels. Labels and values are parallel, since 35 of these are kept."""

    labels: Sequence[RowLabels]
    values: array[int]

    def items(self) -> Iterator[tuple[RowLabels, int]]:
        """Yield labels and value of every row."""
        return zip(self.labels, self.values, strict=True)


@dataclass(frozen=True, slots=True)
class ReportCoverage:
    """How far a report has been read."""

    report: Report
    coverage: Coverage | None
    """None before the first successful poll."""
    complete_until: datetime | None
    """The watermark: every bucket that ends at or before it is complete."""


@dataclass(frozen=True, slots=True)
class Incident:
    """The newest hours of a workspace that cost more than their upper bounds, by the hour of usage."""

    start: datetime
    """The start of its first hour."""
    cost: int
    """nano-USD from its first hour to its newest, the hours between included."""


@dataclass(frozen=True, slots=True)
class WorkspaceSignals:
    """Baselines of the newest hours of one workspace. A value is None where too little history is known."""

    workspace: str
    """Its exported name."""
    cost: Baseline | None
    """Of the newest complete hour, in nano-USD."""
    this_hour_cost: Baseline | None
    """Of the whole running hour, in nano-USD."""
    requests: Baseline | None
    tokens: Baseline | None
    """Only where the provider reports no requests."""
    excess: int | None
    """nano-USD by which the newest 24 complete hours were above their upper bounds."""
    last_hour_cost: int
    """nano-USD of the newest complete hour."""
    incident: Incident | None = None
    """None where no hour from the 24 newest complete ones on cost more than its upper bound."""

    @property
    def is_spike(self) -> bool:
        """Whether the newest complete hour cost more than its upper bound."""
        return self.cost is not None and self.last_hour_cost > self.cost.upper_bound


@dataclass(frozen=True, slots=True)
class HourlyTotals:
    """Cost and usage by the hour, for the days that baselines and budgets look at."""

    usage_cost: Mapping[str, HourlySeries]
    """By workspace id, in nano-USD: cost that follows usage, also of workspaces that have only fixed costs."""
    fixed_cost: Mapping[str, HourlySeries]
    """By workspace id, in nano-USD: recurring fees and one-time charges and credits; workspaces that have any."""
    requests: Mapping[str, HourlySeries]
    """By workspace id; empty where the provider reports none."""
    tokens: Mapping[str, HourlySeries]
    """By workspace id; empty where the provider reports requests."""
    account: SpendSeries
    """Of the whole account, in nano-USD."""
    budgets: Mapping[str, SpendSeries]
    """By budget, in nano-USD: every budget that may count something of the account."""

    def cost_at(self, workspace: str, hour: datetime) -> int:
        """Return the nano-USD of a workspace's hour."""
        return sum(series[workspace].at(hour) for series in (self.usage_cost, self.fixed_cost) if workspace in series)


@dataclass(frozen=True, slots=True)
class AccountSnapshot:
    """One account as the ledger and the poller know it at `time`. Built once per change, never modified."""

    view: AccountView
    time: datetime
    reports: tuple[ReportCoverage, ...]
    complete_until: datetime | None
    """The watermark over all usage reports; None until each was read once."""
    covered: TimeRange | None
    """The time range of which all usage is known; None until each usage report was read once."""
    up: bool
    """Whether the newest poll of every report succeeded."""
    label_mapper: LabelMapper
    windows: Mapping[str, RowTotals]
    """Window of `windows.calendar_windows` -> cost and usage; `this_hour` has cost only."""
    days: Mapping[datetime, DayTotals]
    """Start of each of the last 35 UTC days with any cost or usage -> its totals."""
    day_costs: tuple[DayCost, ...]
    """The valued days of the last 35, oldest first: billed or estimated, estimate and restatement."""
    day_reads: Mapping[datetime, DayReads]
    """Start of each of the last 35 UTC days that was read -> when it was read last; empty for pushed events."""
    unpriced_tokens: Mapping[datetime, Mapping[str, int]]
    """Start of a UTC day -> model -> tokens without a known price; days that have any."""
    restated: int
    """nano-USD by which billed days were ever corrected, ups and downs added."""
    hourly: HourlyTotals
    signals: tuple[WorkspaceSignals, ...]
    """Of every workspace with recent usage; empty without a watermark."""
    budget_shares: Mapping[str, BudgetShare]
    """Budget -> this account's share of it."""
    month_forecast: int | None
    """Expected nano-USD of the whole month; None without a watermark."""
    balance_exhausted_at: datetime | None
    """When the balance runs out at the pace of the forecast; None where it is not known, or will last for a year."""
    crosscheck_ratios: Mapping[str, float]
    """Source -> its tokens of the newest complete hour relative to the provider's."""

    @property
    def exported(self) -> TimeRange:
        """The UTC days that the snapshot holds, today included."""
        return TimeRange(days_back(self.time, DAYS_EXPORTED - 1), floor(self.time, DAY) + DAY)

    @property
    def last_hour(self) -> TimeRange | None:
        """The newest complete hour; None without a watermark."""
        return calendar_windows(self.time, self.complete_until).get("last_hour")

    def is_late(self, now: datetime) -> bool:
        """Whether usage is known only up to a time that is longer ago than the provider's reports usually are."""
        max_delay = MAX_HOURLY_DELAY if self.view.has_hourly_usage else MAX_DAILY_DELAY
        return self.complete_until is not None and now - self.complete_until > max_delay

    @property
    def account(self) -> Account:
        """The account's configuration."""
        return self.view.account

    @property
    def ledger_account(self) -> LedgerAccount:
        """The account as the ledger and the valuer know it."""
        return self.view.ledger_account

    @property
    def health(self) -> HealthSnapshot:
        """Polls, failures and present problems."""
        return self.view.health

    @property
    def key(self) -> tuple[str, str]:
        """Name and provider, which identify an account."""
        return self.account.identity


def merge_totals(totals: dict[RowLabels, int], rows: Iterator[tuple[RowLabels, int]]) -> None:
    """Add rows to totals; a gauge meter, such as bytes, keeps its maximum, since a sum of levels means nothing."""
    for labels, value in rows:
        if labels in totals:
            totals[labels] = max(totals[labels], value) if labels.meter in GAUGE_METERS else totals[labels] + value
        else:
            totals[labels] = value
