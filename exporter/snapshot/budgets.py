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
class AccountShare:
    """What one account has spent of a budget in the running period."""

    provider: str
    account: str
    spent: int
    """In nano-USD."""


@dataclass(frozen=True, slots=True)
class EvaluatedBudget:
    """A budget, its running period and its status in it."""

    budget: Budget
    period: TimeRange
    status: BudgetStatus
    accounts: Sequence[AccountShare] = ()
    """The accounts that the budget counts, in the order of the snapshots."""


def limit_nano_usd(budget: Budget) -> int:
    """Return a budget's limit in nano-USD."""
    return int(budget.limit_usd * NANO)


def evaluate_budgets(
    budgets: Iterable[Budget], snapshots: Sequence[AccountSnapshot], now: datetime
) -> tuple[EvaluatedBudget, ...]:
    """Return the status of every budget, by name."""
    evaluated = []
    for budget in sorted(budgets, key=lambda budget: budget.name):
        counted = [snapshot for snapshot in snapshots if budget.name in snapshot.budget_shares]
        shares = [snapshot.budget_shares[budget.name] for snapshot in counted]
        status = budget_status(limit_nano_usd(budget), budget.period, shares, now)
        period = current_period(budget.period, now)
        accounts = [
            # The share may be of the period before, if the account was not read since.
            AccountShare(snapshot.account.provider, snapshot.account.name, share.spent if share.period == period else 0)
            for snapshot, share in zip(counted, shares, strict=True)
        ]
        evaluated.append(EvaluatedBudget(budget, period, status, accounts))
    return tuple(evaluated)
