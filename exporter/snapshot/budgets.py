"""The status of every budget, from the shares of all accounts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from exporter.analysis.budgets import BudgetStatus, budget_status, current_period
from exporter.config.configuration import Budget
from exporter.model import NANO
from exporter.snapshot.account_snapshot import AccountSnapshot
from exporter.windows import TimeRange


@dataclass(frozen=True, slots=True)
class EvaluatedBudget:
    """A budget, its running period and its status in it."""

    budget: Budget
    period: TimeRange
    status: BudgetStatus


def limit_nano_usd(budget: Budget) -> int:
    """Return a budget's limit in nano-USD."""
    return int(budget.limit_usd * NANO)


def evaluate_budgets(
    budgets: Iterable[Budget], snapshots: Sequence[AccountSnapshot], now: datetime
) -> tuple[EvaluatedBudget, ...]:
    """Return the status of every budget, by name."""
    evaluated = []
    for budget in sorted(budgets, key=lambda budget: budget.name):
        shares = [
            snapshot.budget_shares[budget.name] for snapshot in snapshots if budget.name in snapshot.budget_shares
        ]
        status = budget_status(limit_nano_usd(budget), budget.period, shares, now)
        evaluated.append(EvaluatedBudget(budget, current_period(budget.period, now), status))
    return tuple(evaluated)
