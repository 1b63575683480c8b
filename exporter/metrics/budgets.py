"""How every budget stands, as sample lines: each account's part is worked out when the account changes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from exporter.analysis.budgets import (
    BudgetShare,
    BudgetStatus,
    budget_share,
    budget_status,
    current_period,
    glob_to_regex,
)
from exporter.config.configuration import Budget
from exporter.metrics.exposition import escape_label_value, format_labels, format_usd, render_samples
from exporter.metrics.families import (
    BUDGET_BURN_RATE,
    BUDGET_EXHAUSTION_TIME,
    BUDGET_FAMILIES,
    BUDGET_FORECAST,
    BUDGET_INFO,
    BUDGET_LIMIT,
    BUDGET_SPENT,
    Family,
)
from exporter.metrics.hourly_totals import HourlyTotals
from exporter.model import NANO
from exporter.windows import TimeRange

BudgetShares = Mapping[str, BudgetShare]
"""Budget -> an account's part of it."""


def compute_budget_shares(
    hourly_totals: HourlyTotals, budgets: Iterable[Budget], now: datetime, until: datetime | None
) -> BudgetShares:
    """Return an account's part of every budget that may count something of it."""
    return {
        one.name: budget_share(one.period, hourly_totals.budgets[one.name], now, until)
        for one in budgets
        if one.name in hourly_totals.budgets
    }


@dataclass(frozen=True, slots=True)
class EvaluatedBudget:
    """What is told of a budget, and of which day, week or month."""

    budget: Budget
    period: TimeRange
    status: BudgetStatus


def evaluate_budgets(
    budgets: Iterable[Budget], account_shares: Sequence[BudgetShares], now: datetime
) -> tuple[EvaluatedBudget, ...]:
    """Return how every budget stands, by name."""
    return tuple(
        _evaluate_budget(budget, [parts[budget.name] for parts in account_shares if budget.name in parts], now)
        for budget in sorted(budgets, key=lambda one: one.name)
    )


def render_budgets(evaluated_budgets: Iterable[EvaluatedBudget]) -> dict[Family, bytes]:
    """Return the lines of every family about budgets."""
    lines: dict[Family, list[tuple[str, str]]] = {family: [] for family in BUDGET_FAMILIES}
    for one in evaluated_budgets:
        for family, labels, value in _labelled_samples(one):
            lines[family].append((labels, value))
    return {family: render_samples(family, samples) for family, samples in lines.items()}


def budget_samples(
    budget: Budget, budget_shares: Sequence[BudgetShare], now: datetime
) -> Iterator[tuple[Family, str, str]]:
    """Yield family, labels and value of everything that is told of a budget."""
    yield from _labelled_samples(_evaluate_budget(budget, budget_shares, now))


def _evaluate_budget(budget: Budget, budget_shares: Sequence[BudgetShare], now: datetime) -> EvaluatedBudget:
    limit = int(budget.limit_usd * NANO)
    return EvaluatedBudget(
        budget, current_period(budget.period, now), budget_status(limit, budget.period, budget_shares, now)
    )


def _labelled_samples(evaluated_budget: EvaluatedBudget) -> Iterator[tuple[Family, str, str]]:
    budget = evaluated_budget.budget
    own = (budget.name, budget.owner, budget.period)
    yield BUDGET_INFO, format_labels(BUDGET_INFO.labels, (*own, promql_selector(budget.match.globs))), "1"
    for family, further, value in _status_samples(evaluated_budget.status):
        yield family, format_labels(family.labels, (*own, *further)), value


def promql_selector(match: Mapping[str, str]) -> str:
    """Return globs as the matchers of a PromQL selector."""
    return (
        "{"
        + ",".join(f'{name}=~"{escape_label_value(glob_to_regex(glob))}"' for name, glob in sorted(match.items()))
        + "}"
    )


def _status_samples(status: BudgetStatus) -> Iterator[tuple[Family, tuple[str, ...], str]]:
    yield BUDGET_LIMIT, (), format_usd(status.limit)
    yield BUDGET_SPENT, (), format_usd(status.spent)
    if status.forecast is not None:
        yield BUDGET_FORECAST, (), format_usd(status.forecast)
    for window, rate in status.burn_rates.items():
        yield BUDGET_BURN_RATE, (window,), f"{rate:.4f}"
    if status.exhausted_at is not None:
        yield BUDGET_EXHAUSTION_TIME, (), f"{status.exhausted_at.timestamp():.0f}"
