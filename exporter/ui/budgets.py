"""Budgets on the landing page: a bar each, and in words how it goes on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from exporter.analysis.budgets import Standing
from exporter.metrics.budgets import Told
from exporter.ui.format import clock, lasting, money, percent, text
from exporter.ui.page_data import State
from exporter.ui.style import told as in_colour

NEARLY = 0.8
"""The rules that Prometheus is given call a budget nearly spent from this part on."""
_PERIODS = {"day": "today", "week": "this week", "month": "this month"}
_ORDER = {"exceeded": 0, "nearly spent": 1, "forecast above the limit": 2}


def budget_state(standing: Standing) -> tuple[State, str]:
    """Return how a budget stands, in a colour and words; what has happened comes before what is expected."""
    if standing.spent > standing.limit:
        return "bad", "exceeded"
    if standing.spent >= NEARLY * standing.limit:
        return "wait", "nearly spent"
    if standing.forecast is None:
        return "wait", "nothing read yet"
    if standing.forecast > standing.limit:
        return "wait", "forecast above the limit"
    return "good", "on pace"


def budgets(told: Sequence[Told], now: datetime) -> str:
    """Return a bar for every budget, the worst first; nothing where there is none."""
    if not told:
        return ""
    ranked = sorted(told, key=lambda one: (_ORDER.get(budget_state(one.standing)[1], 3), one.budget.name))
    items = "".join(_item(one, now) for one in ranked)
    return f'<h2>Budgets</h2>\n<ul class="budgets">\n{items}</ul>\n'


def _item(told: Told, now: datetime) -> str:
    budget, standing = told.budget, told.standing
    state, words = budget_state(standing)
    owner = f"owner {text(budget.owner)}" if budget.owner else "no owner"
    counts = ", ".join(f"{text(name)} {text(glob)}" for name, glob in sorted(budget.match.items())) or "everything"
    spent = f"{money(standing.spent)} of {money(standing.limit)} ({percent(standing.spent, standing.limit)})"
    outlook = "".join(f"<span>{one}</span>" for one in _outlook(told, now))
    return (
        f'<li><div class="pair"><span><strong>{text(budget.name)}</strong> · {owner} · {_PERIODS[budget.period]}</span>'
        f'{in_colour(state, words)}</div><div class="{state}">{_bar(told, now)}</div>'
        f'<div class="pair"><span>{spent}</span>{outlook}</div><small>counts {counts}</small></li>\n'
    )


def _outlook(told: Told, now: datetime) -> Iterator[str]:
    standing = told.standing
    yield f"even pace: {percent(_passed(told, now), 1)}"
    if standing.forecast is not None:
        yield f"forecast {money(standing.forecast)} ({percent(standing.forecast, standing.limit)})"
    at = standing.exhausted_at
    if at is None:
        return
    if at > now:
        yield f"runs out {clock(at)} UTC, in {lasting(at - now)}"
    elif standing.spent >= standing.limit:
        yield f"ran out {clock(at)} UTC, {lasting(now - at)} ago"
    else:
        # Hours that nobody could read count with what is expected of them.
        yield f"by forecast ran out {clock(at)} UTC; not all is read"


def _passed(told: Told, now: datetime) -> float:
    """Return which part of the period is over."""
    return min(1.0, (now - told.period.start) / (told.period.end - told.period.start))


def _bar(told: Told, now: datetime) -> str:
    standing = told.standing
    spent, coming = (_part(one, standing.limit) for one in (standing.spent, standing.forecast or 0))
    pace = f"{100 * _passed(told, now):.2f}%"
    mark = f'x1="{pace}" x2="{pace}" y1="-3" y2="125%"'
    return (
        f'<svg role="img"><title>{percent(standing.spent, standing.limit)} spent; at an even pace it would be '
        f'{percent(_passed(told, now), 1)}</title><rect class="frame" width="100%" height="100%"/>'
        f'<rect class="coming" width="{max(spent, coming):.2f}%" height="100%"/>'
        f'<rect class="spent" width="{spent:.2f}%" height="100%"/>'
        f'<line class="pace edge" {mark}/><line class="pace" {mark}/></svg>'
    )


def _part(nano: int, limit: int) -> float:
    return 100 * min(1.0, max(0, nano) / limit) if limit else 100.0 * (nano > 0)
