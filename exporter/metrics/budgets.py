"""How every budget stands, as sample lines: each account's part is worked out when the account changes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from exporter.analysis.budgets import Part, Standing, part, period_of, regex, standing
from exporter.config.configuration import Budget
from exporter.metrics.exposition import dollars, escape, labelled, render
from exporter.metrics.families import (
    BUDGET_BURN,
    BUDGET_EXHAUSTED,
    BUDGET_FAMILIES,
    BUDGET_FORECAST,
    BUDGET_INFO,
    BUDGET_LIMIT,
    BUDGET_SPENT,
    Family,
)
from exporter.metrics.hourly_totals import Trail
from exporter.model import NANO
from exporter.windows import Span

Parts = Mapping[str, Part]
"""Budget -> an account's part of it."""


def parts_of(trail: Trail, budgets: Iterable[Budget], now: datetime, until: datetime | None) -> Parts:
    """Return an account's part of every budget that may count something of it."""
    return {
        one.name: part(one.period, trail.budgets[one.name], now, until) for one in budgets if one.name in trail.budgets
    }


@dataclass(frozen=True, slots=True)
class Told:
    """What is told of a budget, and of which day, week or month."""

    budget: Budget
    period: Span
    standing: Standing


def standings(budgets: Iterable[Budget], accounts: Sequence[Parts], now: datetime) -> tuple[Told, ...]:
    """Return how every budget stands, by name."""
    return tuple(
        _told(budget, [parts[budget.name] for parts in accounts if budget.name in parts], now)
        for budget in sorted(budgets, key=lambda one: one.name)
    )


def budget_chunks(told: Iterable[Told]) -> dict[Family, bytes]:
    """Return the lines of every family about budgets."""
    lines: dict[Family, list[tuple[str, str]]] = {family: [] for family in BUDGET_FAMILIES}
    for one in told:
        for family, labels, value in _lines(one):
            lines[family].append((labels, value))
    return {family: render(family, samples) for family, samples in lines.items()}


def budget_samples(budget: Budget, parts: Sequence[Part], now: datetime) -> Iterator[tuple[Family, str, str]]:
    """Yield family, labels and value of everything that is told of a budget."""
    yield from _lines(_told(budget, parts, now))


def _told(budget: Budget, parts: Sequence[Part], now: datetime) -> Told:
    limit = int(budget.limit_usd * NANO)
    return Told(budget, period_of(budget.period, now), standing(limit, budget.period, parts, now))


def _lines(told: Told) -> Iterator[tuple[Family, str, str]]:
    budget = told.budget
    own = (budget.name, budget.owner, budget.period)
    yield BUDGET_INFO, labelled(BUDGET_INFO.labels, (*own, selector(budget.match))), "1"
    for family, further, value in _samples(told.standing):
        yield family, labelled(family.labels, (*own, *further)), value


def selector(match: Mapping[str, str]) -> str:
    """Return globs as the matchers of a PromQL selector."""
    return "{" + ",".join(f'{name}=~"{escape(regex(glob))}"' for name, glob in sorted(match.items())) + "}"


def _samples(told: Standing) -> Iterator[tuple[Family, tuple[str, ...], str]]:
    yield BUDGET_LIMIT, (), dollars(told.limit)
    yield BUDGET_SPENT, (), dollars(told.spent)
    if told.forecast is not None:
        yield BUDGET_FORECAST, (), dollars(told.forecast)
    for window, rate in told.burn.items():
        yield BUDGET_BURN, (window,), f"{rate:.4f}"
    if told.exhausted_at is not None:
        yield BUDGET_EXHAUSTED, (), f"{told.exhausted_at.timestamp():.0f}"
