"""An account's hours of late, summed for its signals and for budgets; a day is read again only when it changed."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from exporter.analysis.baselines import BASELINE_DAYS, HourlySeries
from exporter.analysis.budgets import matches
from exporter.config.configuration import Account, Budget
from exporter.ledger import Ledger
from exporter.ledger.hours import add_hourly_values
from exporter.model import DAY, HOUR, REQUESTS, TOKEN_METERS, RowLabels
from exporter.polling.account_state import AccountState
from exporter.snapshot.labels import LabelMapper, SpendLabels, to_spend_labels
from exporter.windows import DAYS_EXPORTED, days_back, floor, slots

HourlySums = dict[str, Sequence[int]]
"""Workspace id or budget -> nano-USD, requests or tokens of the hours of a day."""

_BASELINE_DAYS = BASELINE_DAYS + 2
"""Days of use that a signal looks at: yesterday's hours are judged by the days before them."""
_ZERO_DAY = array("q", [0] * int(DAY / HOUR))


@dataclass(frozen=True, slots=True)
class HourlyTotals:
    """What an account cost and used by the hour: by workspace (its id, as the page places it), or by budget."""

    cost: Mapping[str, HourlySeries]
    requests: Mapping[str, HourlySeries]
    """Empty where the provider counts none."""
    tokens: Mapping[str, HourlySeries]
    """Empty where it counts requests."""
    budgets: Mapping[str, HourlySeries]
    """Every budget that may count something of the account."""


def matching_budgets(account: Account, budgets: Iterable[Budget]) -> tuple[Budget, ...]:
    """Return the budgets that may count something of an account."""
    labels = _account_match_labels(account)
    return tuple(one for one in budgets if matches({k: v for k, v in one.match.globs.items() if k in labels}, labels))


def _account_match_labels(account: Account) -> dict[str, str]:
    return {"account": account.name, "provider": account.provider, "owner": account.owner}


@dataclass(frozen=True, slots=True)
class CacheKey:
    """How rows are summed; another way of it is a reason to read every day again."""

    account_number: int
    remapped: Mapping[SpendLabels, SpendLabels]
    names: Mapping[str, str]
    budgets: tuple[Budget, ...]


@dataclass(frozen=True, slots=True)
class _DayTotals:
    """What was made of one UTC day."""

    version: int
    cost: HourlySums
    budgets: HourlySums
    requests: HourlySums
    tokens: HourlySums


@dataclass(slots=True)
class HourlyTotalsReader:
    """Follows one account, and keeps what it made of each day."""

    ledger: Ledger
    _cache_key: CacheKey | None = None
    _days: dict[datetime, _DayTotals] = field(default_factory=dict)

    def read(
        self, account_state: AccountState, label_mapper: LabelMapper, budgets: Iterable[Budget], now: datetime
    ) -> HourlyTotals:
        """Return the account's trail as the ledger knows it."""
        number, today = account_state.ledger_account.id, floor(now, DAY)
        scheme = CacheKey(
            number, label_mapper.remapped, label_mapper.names, matching_budgets(account_state.account, budgets)
        )
        before, self._cache_key = self._days if scheme == self._cache_key else {}, scheme
        self._days = {}
        days = list(slots(days_back(now, DAYS_EXPORTED - 1), today + DAY, DAY))
        for day in days:
            # Read before the day is: what changes meanwhile is a reason to read it again.
            version, old = self.ledger.hours.version(number, day), before.get(day)
            if old is None or old.version != version:
                old = self._read_day(
                    account_state, label_mapper, scheme, day, version, include_usage=today - day < _BASELINE_DAYS * DAY
                )
            self._days[day] = old
        told = account_state.usage_time_range(self.ledger)
        known = today + DAY if told is None else told.start
        cost, counted, requests, tokens = (
            _join_days(days[0], known, [getattr(self._days[day], part) for day in days])
            for part in ("cost", "budgets", "requests", "tokens")
        )
        idle = _build_hourly_series(days[0], known, [_ZERO_DAY] * len(days))
        every = {budget.name: counted.get(budget.name, idle) for budget in scheme.budgets}
        return HourlyTotals(cost, requests, {} if requests else tokens, every)

    def _read_day(
        self,
        account_state: AccountState,
        label_mapper: LabelMapper,
        cache_key: CacheKey,
        day: datetime,
        version: int,
        *,
        include_usage: bool,
    ) -> _DayTotals:
        book, counted = (
            account_state.ledger_account,
            BudgetMatcher(account_state.account, cache_key.budgets, cache_key.names),
        )
        cost: HourlySums = {}
        budgets: HourlySums = {}
        requests: HourlySums = {}
        tokens: HourlySums = {}
        for labels, values in self.ledger.hours.cost(book.id, day).items():
            _add(cost, label_mapper.remap(labels)[0], values)
            for budget in counted.match(labels):
                _add(budgets, budget, values)
        told = self.ledger.hours.units(book.id, [one.name for one in book.usage_reports], day) if include_usage else {}
        for labels, values in told.items():
            if labels[0] == REQUESTS:
                _add(requests, label_mapper.remap(labels)[0], values)
            elif labels[0] in TOKEN_METERS:
                _add(tokens, label_mapper.remap(labels)[0], values)
        return _DayTotals(version, *map(_pack, (cost, budgets, requests, {} if requests else tokens)))


@dataclass(slots=True)
class BudgetMatcher:
    """Which budgets count a row of an account."""

    account: Account
    budgets: Sequence[Budget]
    names: Mapping[str, str]
    _matches: dict[SpendLabels, list[str]] = field(default_factory=dict)

    def match(self, labels: RowLabels) -> list[str]:
        """Return the names of the budgets; they count a model that is folded under its own name."""
        one = to_spend_labels(labels)
        if one not in self._matches:
            workspace, model = self.names.get(one[0], one[0]), one[1]
            told = _account_match_labels(self.account) | {"workspace": workspace, "model": model}
            self._matches[one] = [budget.name for budget in self.budgets if matches(budget.match.globs, told)]
        return self._matches[one]


def _add(sums: HourlySums, name: str, values: Sequence[int]) -> None:
    sums[name] = add_hourly_values(sums[name], values) if name in sums else values


def _pack(sums: HourlySums) -> HourlySums:
    return {name: array("q", values) for name, values in sums.items()}


def _join_days(since: datetime, known_since: datetime, days: Sequence[HourlySums]) -> dict[str, HourlySeries]:
    names = sorted({name for day in days for name in day})
    return {
        name: _build_hourly_series(since, known_since, [day.get(name, _ZERO_DAY) for day in days]) for name in names
    }


def _build_hourly_series(since: datetime, known_since: datetime, days: Sequence[Sequence[int]]) -> HourlySeries:
    values = array("q")
    for day in days:
        values.extend(day)
    return HourlySeries(since, values, known_since)
