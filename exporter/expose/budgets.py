"""How every budget stands, as sample lines: each account's part is worked out when the account changes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal

from exporter.expose.exposition import dollars, labelled, render
from exporter.expose.metrics import (
    BUDGET_BURN,
    BUDGET_EXHAUSTED,
    BUDGET_FAMILIES,
    BUDGET_FORECAST,
    BUDGET_LIMIT,
    BUDGET_SPENT,
    Family,
)
from exporter.expose.trail import Trail
from exporter.model import NANO
from exporter.money.budgets import Part, Standing, part, standing
from exporter.settings.config import Budget

Parts = Mapping[str, Part]
"""Budget -> an account's part of it."""


def parts_of(trail: Trail, budgets: Iterable[Budget], now: datetime, until: datetime | None) -> Parts:
    """Return an account's part of every budget that may count something of it."""
    return {
        one.name: part(one.period, trail.budgets[one.name], now, until) for one in budgets if one.name in trail.budgets
    }


def budget_chunks(budgets: Sequence[Budget], accounts: Sequence[Parts], now: datetime) -> dict[Family, bytes]:
    """Return the lines of every family about budgets."""
    lines: dict[Family, list[tuple[str, str]]] = {family: [] for family in BUDGET_FAMILIES}
    for budget in sorted(budgets, key=lambda one: one.name):
        parts = [parts[budget.name] for parts in accounts if budget.name in parts]
        told = standing(_nano(budget.limit_usd), budget.period, parts, now)
        labels = (budget.name, budget.owner, budget.period)
        for family, further, value in _samples(told):
            lines[family].append((labelled(family.labels, (*labels, *further)), value))
    return {family: render(family, samples) for family, samples in lines.items()}


def _nano(usd: Decimal) -> int:
    return int(usd * NANO)


def _samples(told: Standing) -> Iterator[tuple[Family, tuple[str, ...], str]]:
    yield BUDGET_LIMIT, (), dollars(told.limit)
    yield BUDGET_SPENT, (), dollars(told.spent)
    if told.forecast is not None:
        yield BUDGET_FORECAST, (), dollars(told.forecast)
    for window, rate in told.burn.items():
        yield BUDGET_BURN, (window,), f"{rate:.4f}"
    if told.exhausted_at is not None:
        yield BUDGET_EXHAUSTED, (), f"{told.exhausted_at.timestamp():.0f}"
