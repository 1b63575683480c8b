"""Budgets on the landing page: a bar each, with its forecast."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from exporter.analysis.budgets import BudgetStatus
from exporter.analysis.thresholds import BUDGET_NEARLY_SPENT_RATIO
from exporter.snapshot.budgets import EvaluatedBudget
from exporter.ui.format import escape_text, format_money, format_percent, format_time, humanize_duration
from exporter.ui.page_data import State
from exporter.ui.style import render_state

_PERIODS = {"day": "today", "week": "this week", "month": "this month"}
_STATE_ORDER = {"exceeded": 0, "nearly spent": 1, "forecast above the limit": 2}


def budget_state(status: BudgetStatus) -> tuple[State, str]:
    """Return a budget's state and its text; known spend takes precedence over the forecast."""
    if status.spent > status.limit:
        return "bad", "exceeded"
    if status.spent >= BUDGET_NEARLY_SPENT_RATIO * status.limit:
        return "wait", "nearly spent"
    if status.forecast is None:
        return "wait", "nothing read yet"
    if status.forecast > status.limit:
        return "wait", "forecast above the limit"
    return "good", "on pace"


def render_budget_bars(evaluated_budgets: Sequence[EvaluatedBudget], now: datetime) -> str:
    """Return a bar for every budget, the worst first; nothing where there is none."""
    if not evaluated_budgets:
        return ""
    ranked = sorted(
        evaluated_budgets,
        key=lambda evaluated: (_STATE_ORDER.get(budget_state(evaluated.status)[1], 3), evaluated.budget.name),
    )
    items = "".join(_render_item(evaluated, now) for evaluated in ranked)
    return f'<h2>Budgets</h2>\n<ul class="budgets">\n{items}</ul>\n'


def _render_item(evaluated_budget: EvaluatedBudget, now: datetime) -> str:
    budget, standing = evaluated_budget.budget, evaluated_budget.status
    state, words = budget_state(standing)
    owner = f"owner {escape_text(budget.owner)}" if budget.owner else "no owner"
    counts = (
        ", ".join(f"{escape_text(name)} {escape_text(glob)}" for name, glob in budget.match.globs.items())
        or "everything"
    )
    spent = (
        f"{format_money(standing.spent)} of {format_money(standing.limit)} "
        f"({format_percent(standing.spent, standing.limit)})"
    )
    outlook = "".join(f"<span>{text}</span>" for text in _outlook(evaluated_budget, now))
    return (
        f'<li><div class="pair"><span><strong>{escape_text(budget.name)}</strong> · {owner} · '
        f"{_PERIODS[budget.period]}</span>"
        f'{render_state(state, words)}</div><div class="{state}">{_render_budget_bar(evaluated_budget, now)}</div>'
        f'<div class="pair"><span>{spent}</span>{outlook}</div><small>counts {counts}</small></li>\n'
    )


def _outlook(evaluated_budget: EvaluatedBudget, now: datetime) -> Iterator[str]:
    standing = evaluated_budget.status
    yield f"even pace: {format_percent(_elapsed_fraction(evaluated_budget, now), 1)}"
    if standing.forecast is not None:
        yield f"forecast {format_money(standing.forecast)} ({format_percent(standing.forecast, standing.limit)})"
    at = standing.exhausted_at
    if at is None:
        return
    if at > now:
        yield f"runs out {format_time(at)} UTC, in {humanize_duration(at - now)}"
    elif standing.spent >= standing.limit:
        yield f"ran out {format_time(at)} UTC, {humanize_duration(now - at)} ago"
    else:
        # Hours that could not be read count with their expected cost.
        yield f"by forecast ran out {format_time(at)} UTC; not all is read"


def _elapsed_fraction(evaluated_budget: EvaluatedBudget, now: datetime) -> float:
    """Return which part of the period is over."""
    return min(
        1.0, (now - evaluated_budget.period.start) / (evaluated_budget.period.end - evaluated_budget.period.start)
    )


def _render_budget_bar(evaluated_budget: EvaluatedBudget, now: datetime) -> str:
    standing = evaluated_budget.status
    spent, coming = (_bar_width(cost, standing.limit) for cost in (standing.spent, standing.forecast or 0))
    pace = f"{100 * _elapsed_fraction(evaluated_budget, now):.2f}%"
    mark = f'x1="{pace}" x2="{pace}" y1="-3" y2="125%"'
    return (
        f'<svg role="img"><title>{format_percent(standing.spent, standing.limit)} spent; at an even pace it '
        f"would be {format_percent(_elapsed_fraction(evaluated_budget, now), 1)}</title>"
        f'<rect class="frame" width="100%" height="100%"/>'
        f'<rect class="coming" width="{max(spent, coming):.2f}%" height="100%"/>'
        f'<rect class="spent" width="{spent:.2f}%" height="100%"/>'
        f'<line class="pace edge" {mark}/><line class="pace" {mark}/></svg>'
    )


def _bar_width(nano_usd: int, limit: int) -> float:
    return 100 * min(1.0, max(0, nano_usd) / limit) if limit else 100.0 * (nano_usd > 0)
