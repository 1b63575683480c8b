"""Cost and usage by the hour, summed as signals and budgets look at them: by workspace and by budget."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from exporter.analysis.baselines import HourlySeries
from exporter.analysis.budgets import SpendSeries, matches
from exporter.config.configuration import Account, Budget
from exporter.ledger import FixedCost, HourlyValues
from exporter.ledger.hours import add_hourly_values
from exporter.model import DAY, HOUR, REQUESTS, TOKEN_METERS, RowLabels
from exporter.snapshot.account_snapshot import HourlyTotals
from exporter.snapshot.labels import LabelMapper, SpendLabels, to_spend_labels

_ZERO_DAY = array("q", [0] * int(DAY / HOUR))
_WHOLE_ACCOUNT = ""
"""Key of the whole account among budgets: no budget has an empty name."""

HourlySums = dict[str, Sequence[int]]
"""Workspace id or budget -> nano-USD, requests or tokens of the hours of a day."""


def matching_budgets(account: Account, budgets: Iterable[Budget]) -> tuple[Budget, ...]:
    """Return the budgets that may count something of an account."""
    labels = _account_match_labels(account)
    return tuple(
        budget
        for budget in budgets
        if matches({name: glob for name, glob in budget.match.globs.items() if name in labels}, labels)
    )


def _account_match_labels(account: Account) -> dict[str, str]:
    return {"account": account.name, "provider": account.provider, "owner": account.owner}


@dataclass(slots=True)
class BudgetMatcher:
    """Finds the budgets that count a row of an account."""

    account: Account
    budgets: Sequence[Budget]
    names: Mapping[str, str]
    _matches: dict[SpendLabels, list[str]] = field(default_factory=dict)

    def match(self, labels: RowLabels) -> list[str]:
        """Return the names of the budgets. A model that is aggregated in metrics is matched under its own name."""
        series = to_spend_labels(labels)
        if series not in self._matches:
            workspace = self.names.get(series.workspace, series.workspace)
            values = _account_match_labels(self.account) | {"workspace": workspace, "model": series.model}
            self._matches[series] = [budget.name for budget in self.budgets if matches(budget.match.globs, values)]
        return self._matches[series]


@dataclass(frozen=True, slots=True)
class RawDay:
    """One UTC day of an account as the ledger has it."""

    cost: HourlyValues
    usage: HourlyValues | None
    """None for days that are too old for baselines: only their totals are needed."""

    @property
    def is_rolled_up(self) -> bool:
        """Whether only the day's sums are kept."""
        values = next(iter(self.cost.values()), _ZERO_DAY)
        return len(values) < len(_ZERO_DAY)


@dataclass(frozen=True, slots=True)
class HourlyDay:
    """One UTC day of an account by the hour."""

    usage_cost: HourlySums
    fixed_cost: HourlySums
    budgets: HourlySums
    one_time_cost: HourlySums
    """By budget; a part of what `budgets` has."""
    requests: HourlySums
    tokens: HourlySums
    has_usage: bool = True
    """Whether requests and tokens were read; they are not for days that are too old for baselines."""

    def without_usage(self) -> HourlyDay:
        """Return the same day as if requests and tokens had not been read."""
        return replace(self, requests={}, tokens={}, has_usage=False)


def sum_day(
    raw_day: RawDay, fixed_costs: Mapping[RowLabels, FixedCost], label_mapper: LabelMapper, matcher: BudgetMatcher
) -> HourlyDay:
    """Sum a day by workspace and by budget. `fixed_costs` are those of the day that do not follow usage."""
    usage_cost: HourlySums = {}
    fixed_cost: HourlySums = {}
    budgets: HourlySums = {}
    one_time_cost: HourlySums = {}
    requests: HourlySums = {}
    tokens: HourlySums = {}
    for labels, values in raw_day.cost.items():
        fixed = fixed_costs.get(labels)
        _add(usage_cost if fixed is None else fixed_cost, label_mapper.remap(labels).workspace, values)
        for budget in (_WHOLE_ACCOUNT, *matcher.match(labels)):
            _add(budgets, budget, values)
            if fixed is not None and fixed.frequency == "one_time":
                _add(one_time_cost, budget, values)
    for labels, values in (raw_day.usage or {}).items():
        if labels.meter == REQUESTS:
            _add(requests, label_mapper.remap(labels).workspace, values)
        elif labels.meter in TOKEN_METERS:
            _add(tokens, label_mapper.remap(labels).workspace, values)
    return HourlyDay(
        usage_cost=_pack(usage_cost),
        fixed_cost=_pack(fixed_cost),
        budgets=_pack(budgets),
        one_time_cost=_pack(one_time_cost),
        requests=_pack(requests),
        tokens={} if requests else _pack(tokens),
        has_usage=raw_day.usage is not None,
    )


def _add(sums: HourlySums, name: str, values: Sequence[int]) -> None:
    sums[name] = add_hourly_values(sums[name], values) if name in sums else values


def _pack(sums: HourlySums) -> HourlySums:
    return {name: array("q", values) for name, values in sums.items()}


def join_days(
    first_day: datetime, known_since: datetime, days: Sequence[HourlyDay], budgets: Iterable[Budget]
) -> HourlyTotals:
    """Join the days from `first_day` on, without a gap. Hours before `known_since` are unknown, not 0.

    So are the days before the first usage of an account: a new account has no level yet, rather than the level 0.
    """
    first_used = next((number for number, day in enumerate(days) if day.budgets or day.requests or day.tokens), 0)
    known_since = max(known_since, first_day + first_used * DAY)

    def join(sums: Iterable[HourlySums]) -> dict[str, HourlySeries]:
        return _join_sums(first_day, known_since, list(sums))

    unused = HourlySeries(first_day, array("q", bytes(8 * len(_ZERO_DAY) * len(days))), known_since)
    usage_cost, fixed_cost = join(day.usage_cost for day in days), join(day.fixed_cost for day in days)
    requests = join(day.requests for day in days)
    budget_cost, one_time_cost = join(day.budgets for day in days), join(day.one_time_cost for day in days)

    def spend(name: str) -> SpendSeries:
        return SpendSeries(budget_cost.get(name, unused), one_time_cost.get(name))

    return HourlyTotals(
        usage_cost=dict.fromkeys(fixed_cost, unused) | usage_cost,
        fixed_cost=fixed_cost,
        requests=requests,
        tokens={} if requests else join(day.tokens for day in days),
        account=spend(_WHOLE_ACCOUNT),
        budgets={budget.name: spend(budget.name) for budget in budgets},
    )


def _join_sums(since: datetime, known_since: datetime, days: Sequence[HourlySums]) -> dict[str, HourlySeries]:
    joined = {}
    for name in sorted({name for day in days for name in day}):
        values = array("q")
        for day in days:
            values.extend(day.get(name, _ZERO_DAY))
        joined[name] = HourlySeries(since, values, known_since)
    return joined
