"""What can be read of the past: hourly cost and usage, baselines of workspaces, and budgets."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from exporter.analysis.baselines import BASELINE_DAYS, Baseline
from exporter.analysis.budgets import burn_rates, current_period
from exporter.config.configuration import Budget
from exporter.history.hourly import (
    DayValues,
    HistoryAccount,
    HistorySeriesKey,
    account_labels,
    read_day,
    series_labels,
)
from exporter.history.past_budgets import PastShare, PastShares, sample_times, sum_window_spend
from exporter.history.past_days import PastDays
from exporter.history.remote_read_protocol import WorkBudget
from exporter.ledger import Ledger
from exporter.metrics.families import (
    BASELINE_HISTORY_FAMILIES,
    BUDGET_HISTORY_FAMILIES,
    BUDGET_HISTORY_FORECAST,
    BUDGET_HISTORY_LIMIT,
    BUDGET_HISTORY_SPENT,
    COST_MONTH_FORECAST_HISTORY,
    HOURLY_COST_EXPECTED,
    HOURLY_COST_UPPER_BOUND,
    HOURLY_FAMILIES,
    HOURLY_REQUESTS_EXPECTED,
    HOURLY_REQUESTS_UPPER_BOUND,
    HOURLY_TOKENS_EXPECTED,
    HOURLY_TOKENS_UPPER_BOUND,
    MONTH_HISTORY_FAMILIES,
    Family,
)
from exporter.model import DAY, HOUR, NANO
from exporter.snapshot.account_snapshot import HourlyTotals
from exporter.snapshot.budgets import limit_nano_usd
from exporter.snapshot.labels import SpendLabels
from exporter.snapshot.signals import cost_baseline, requests_baseline, tokens_baseline
from exporter.windows import TimeRange, floor, slots

_BASELINE_WORK = 200
"""Units of work for the baselines of a day of a workspace: 24 of them, 5 us each, and as much for joining the days."""
_ENCODING_WORK = 3
"""Units of work for reading and encoding a series of a day."""


@dataclass(frozen=True, slots=True)
class _BaselineValue:
    """How a value of a family is computed: the baseline of an hour, and which of its two values."""

    compute: Callable[[HourlyTotals, str, datetime], Baseline | None]
    select: Callable[[Baseline], int]


_EXPECTED, _UPPER_BOUND = operator.attrgetter("expected"), operator.attrgetter("upper_bound")
_BASELINE_VALUES: Mapping[Family, _BaselineValue] = {
    HOURLY_COST_EXPECTED: _BaselineValue(cost_baseline, _EXPECTED),
    HOURLY_COST_UPPER_BOUND: _BaselineValue(cost_baseline, _UPPER_BOUND),
    HOURLY_REQUESTS_EXPECTED: _BaselineValue(requests_baseline, _EXPECTED),
    HOURLY_REQUESTS_UPPER_BOUND: _BaselineValue(requests_baseline, _UPPER_BOUND),
    HOURLY_TOKENS_EXPECTED: _BaselineValue(tokens_baseline, _EXPECTED),
    HOURLY_TOKENS_UPPER_BOUND: _BaselineValue(tokens_baseline, _UPPER_BOUND),
}


@dataclass(frozen=True, slots=True)
class History:
    """Everything whose past is served, at a time."""

    accounts: Sequence[HistoryAccount]
    budgets: Sequence[Budget]
    now: datetime


class HistorySource(ABC):
    """The series of one family that share an account or a budget."""

    family: Family
    shared_labels: Mapping[str, str]
    """The labels of all series, besides the family's name."""
    end: datetime
    """The end of the newest hour that is served."""
    account_number: int = 0
    """The account's number in the ledger; 0 for a budget."""

    @property
    def unit(self) -> int:
        """By which values are divided: amounts are in nano-USD, and a metric's name ends in its unit."""
        return NANO if self.family.name.endswith("_usd") else 1

    @abstractmethod
    def days(self, time_range: TimeRange) -> Iterable[datetime]:
        """Return the UTC days that start within a time range and may have samples, oldest first."""

    def version(self, day: datetime) -> object:  # noqa: ARG002 (for sources that are cached)
        """Return a value that differs when the values of a day differ; to be read before the day is.

        None where encoded days are not cached.
        """
        return None

    @abstractmethod
    def read(self, day: datetime, work: WorkBudget) -> DayValues:
        """Return the values of a day. Raises LedgerError, and QueryRejected when the work exceeds its budget."""

    @abstractmethod
    def labels(self, key: HistorySeriesKey) -> Mapping[str, str]:
        """Return the labels of a series besides the shared ones."""


class _AccountSource(HistorySource):
    """A source that belongs to an account."""

    def __init__(self, ledger: Ledger, family: Family, history_account: HistoryAccount) -> None:
        self._ledger = ledger
        self.family = family
        self._history_account = history_account
        self.shared_labels = account_labels(history_account)
        self.end = history_account.complete_until
        self.account_number = history_account.ledger_account.id

    def days(self, time_range: TimeRange) -> Iterable[datetime]:
        """Return the days of which the ledger knows anything."""
        return self._ledger.hours.days(self._history_account.ledger_account.id, time_range)

    def labels(self, key: HistorySeriesKey) -> Mapping[str, str]:
        """Return workspace, model and so on, under the names of /metrics."""
        return series_labels(self._history_account, key)


class HourlySource(_AccountSource):
    """Cost, tokens or requests of an account, incomplete hours included: the next query has them as known then."""

    def __init__(self, ledger: Ledger, family: Family, history_account: HistoryAccount) -> None:
        super().__init__(ledger, family, history_account)
        self.end = history_account.reported_until

    def version(self, day: datetime) -> object:
        """Return the version of the day and of its labels."""
        account = self._history_account
        return self._ledger.hours.version(account.ledger_account.id, day), account.label_mapper.remapped

    def read(self, day: datetime, work: WorkBudget) -> DayValues:
        """Read the day from the ledger."""
        values = read_day(self._ledger, self.family, self._history_account, day)
        work.spend(_ENCODING_WORK * len(values))
        return values


class BaselineSource(_AccountSource):
    """Expected values or upper bounds of an account's workspaces."""

    def __init__(self, ledger: Ledger, family: Family, history_account: HistoryAccount, past_days: PastDays) -> None:
        super().__init__(ledger, family, history_account)
        self._past_days = past_days

    def days(self, time_range: TimeRange) -> Iterable[datetime]:
        """Return the days with hourly usage: usage per day says nothing about hours."""
        return super().days(time_range) if self._history_account.has_hourly_usage else ()

    def version(self, day: datetime) -> object:
        """Return the versions of the day, whose fixed costs count, and of those that it is compared with."""
        return (
            self._past_days.versions(self._history_account, _compared_range(day)),
            self._history_account.known_since,
        )

    def read(self, day: datetime, work: WorkBudget) -> DayValues:
        """Compute the day's baselines. A workspace is absent on a day of which an hour has none."""
        hourly = self._past_days.join(self._history_account, _compared_range(day), with_usage=True)
        workspaces = {*hourly.usage_cost, *hourly.requests, *hourly.tokens}
        work.spend(_BASELINE_WORK * len(workspaces))
        value = _BASELINE_VALUES[self.family]
        values_by_series: dict[HistorySeriesKey, Sequence[int]] = {}
        for workspace in sorted(workspaces):
            hours = slots(day, day + DAY, HOUR)
            baselines = [value.compute(hourly, workspace, hour) for hour in hours]
            known = [value.select(baseline) for baseline in baselines if baseline is not None]
            if len(known) == len(baselines):
                values_by_series[HistorySeriesKey(SpendLabels(workspace, "", "", ""))] = known
        return values_by_series


def _compared_range(day: datetime) -> TimeRange:
    """Return the days on which the baselines of a day depend."""
    return TimeRange(day - BASELINE_DAYS * DAY, day + DAY)


_TOTAL = HistorySeriesKey(SpendLabels("", "", "", ""))
"""The only series of an account's month, or of a budget's spend, forecast or limit."""


class MonthSource(_AccountSource):
    """Cost or forecast of an account's month."""

    def __init__(
        self, ledger: Ledger, family: Family, history_account: HistoryAccount, now: datetime, past_shares: PastShares
    ) -> None:
        super().__init__(ledger, family, history_account)
        self.end = floor(now, HOUR)
        self._now = now
        self._past_shares = past_shares

    def read(self, day: datetime, work: WorkBudget) -> DayValues:
        """Return the day's values; shares are cached."""
        shares = self._past_shares.read(self._history_account, None, day, self._now, work)
        if not shares:
            return {}
        is_forecast = self.family is COST_MONTH_FORECAST_HISTORY
        values = [share.forecast if is_forecast else share.spent for share in shares]
        return {_TOTAL: [*values, *[0] * (len(sample_times("month", day)) - len(values))]}

    def labels(self, key: HistorySeriesKey) -> Mapping[str, str]:  # noqa: ARG002 (there is one series)
        """Return no labels besides the shared ones."""
        return {}


class BudgetSource(HistorySource):
    """One value of a budget, summed over its accounts."""

    def __init__(self, family: Family, budget: Budget, history: History, past_shares: PastShares) -> None:
        self.family = family
        self.shared_labels = {
            name: value
            for name, value in (("budget", budget.name), ("owner", budget.owner), ("period", budget.period))
            if value
        }
        self.end = floor(history.now, HOUR)
        self._budget = budget
        self._limit = limit_nano_usd(budget)
        self._accounts = [account for account in history.accounts if budget in account.budgets]
        self._now = history.now
        self._past_shares = past_shares

    def days(self, time_range: TimeRange) -> Iterable[datetime]:
        """Return the days since the first known one of any account."""
        if not self._accounts:
            return ()
        first = floor(min(account.known_since for account in self._accounts), DAY)
        return slots(max(first, time_range.start), min(self._now, time_range.end), DAY)

    def read(self, day: datetime, work: WorkBudget) -> DayValues:
        """Sum the shares of all accounts that are known on the day. Shares are cached, sums are not."""
        all_shares = [
            shares
            for account in self._accounts
            if (shares := self._past_shares.read(account, self._budget, day, self._now, work))
        ]
        if not all_shares:
            return {}
        period = current_period(self._budget.period, day)
        by_time = [*zip(*all_shares, strict=True)]
        # A day has all its samples; those after `now` are not served.
        remaining = len(sample_times(self._budget.period, day)) - len(by_time)
        return {key: [*values, *[0] * remaining] for key, values in self._values(by_time, period).items()}

    def _values(self, by_time: Sequence[Sequence[PastShare]], period: TimeRange) -> DayValues:
        if self.family is BUDGET_HISTORY_LIMIT:
            return {_TOTAL: [self._limit] * len(by_time)}
        if self.family is BUDGET_HISTORY_SPENT:
            return {_TOTAL: [sum(share.spent for share in shares) for shares in by_time]}
        if self.family is BUDGET_HISTORY_FORECAST:
            return {_TOTAL: [sum(share.forecast for share in shares) for shares in by_time]}
        rates = [burn_rates(self._limit, period, sum_window_spend(shares)) for shares in by_time]
        return {_TOTAL._replace(window=window): [rate[window] for rate in rates] for window in rates[0]}

    def labels(self, key: HistorySeriesKey) -> Mapping[str, str]:
        """Return the burn rate's window."""
        return {"window": key.window} if key.window else {}


class HistorySources:
    """Finds the sources of a history. Safe for several threads."""

    def __init__(self, ledger: Ledger, max_cache_bytes: int) -> None:
        self._ledger = ledger
        self._past_days = PastDays(ledger, max_cache_bytes // 2)
        self._past_shares = PastShares(self._past_days, max_cache_bytes // 2)

    def find(self, history: History, is_selected: Callable[[Family], bool]) -> Iterator[HistorySource]:
        """Yield the sources of the selected families.

        A query usually names one of them, and with a thousand accounts the sources of the others are most of its work.
        """
        accounts, ledger = history.accounts, self._ledger
        for family in filter(is_selected, HOURLY_FAMILIES):
            yield from (HourlySource(ledger, family, account) for account in accounts)
        for family in filter(is_selected, BASELINE_HISTORY_FAMILIES):
            yield from (BaselineSource(ledger, family, account, self._past_days) for account in accounts)
        for family in filter(is_selected, MONTH_HISTORY_FAMILIES):
            yield from (MonthSource(ledger, family, account, history.now, self._past_shares) for account in accounts)
        for family in filter(is_selected, BUDGET_HISTORY_FAMILIES):
            yield from (BudgetSource(family, budget, history, self._past_shares) for budget in history.budgets)
