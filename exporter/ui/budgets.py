"""Budgets on the landing page: a bar each, with its limit, its forecast and the even pace."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from exporter.snapshot.budgets import EvaluatedBudget
from exporter.ui.alerts import PERIODS, BudgetCondition, assess_budgets, spent_ratio
from exporter.ui.format import escape_text, format_count, format_money, format_percent, format_time, humanize_duration
from exporter.ui.links import BUDGETS_DASHBOARD, METRICS_PATH, PageLinks, render_link
from exporter.ui.style import render_state

MAX_BUDGETS = 20
"""Shown at once."""
MAX_FOLDED_BUDGETS = 80
"""To unfold; beyond them only their number is shown."""


def render_budget_bars(evaluated_budgets: Sequence[EvaluatedBudget], now: datetime, links: PageLinks) -> str:
    """Return a bar for every budget, the worst first; nothing where there is none."""
    if not evaluated_budgets:
        return ""
    items = [
        _render_item(evaluated, condition, now, links) for evaluated, condition in assess_budgets(evaluated_budgets)
    ]
    folded, uncounted = items[MAX_BUDGETS:][:MAX_FOLDED_BUDGETS], len(items) - MAX_BUDGETS - MAX_FOLDED_BUDGETS
    more = (
        f'<details><summary>{format_count(len(items) - MAX_BUDGETS, "more budget")}</summary><ul class="budgets">\n'
        f"{''.join(folded)}</ul>{_render_uncounted(uncounted)}</details>\n"
        if folded
        else ""
    )
    return (
        '<section aria-labelledby="budgets"><h2 id="budgets">Budgets</h2>\n'
        f'{_LEGEND}<ul class="budgets">\n{"".join(items[:MAX_BUDGETS])}</ul>\n{more}</section>\n'
    )


_LEGEND = (
    '<p class="key"><small><span><svg aria-hidden="true"><rect class="spent" width="100%" height="100%"/></svg> spent'
    '</span><span><svg aria-hidden="true"><rect class="coming" width="100%" height="100%"/></svg> forecast</span>'
    '<span><svg aria-hidden="true"><line class="limit" x1="50%" x2="50%" y1="0" y2="100%"/></svg> limit, 100 %</span>'
    '<span><svg aria-hidden="true"><line class="pace" x1="50%" x2="50%" y1="0" y2="100%"/></svg> even pace</span>'
    "</small></p>\n"
)


def _render_uncounted(number: int) -> str:
    if number <= 0:
        return ""
    return f"<p>{format_count(number, 'more budget')}: see {render_link(METRICS_PATH, 'the metrics')}.</p>"


def _render_item(evaluated: EvaluatedBudget, condition: BudgetCondition, now: datetime, links: PageLinks) -> str:
    budget, status = evaluated.budget, evaluated.status
    owner = f"owner {escape_text(budget.owner)}" if budget.owner else "no owner"
    counts = (
        ", ".join(f"{escape_text(name)} {escape_text(glob)}" for name, glob in budget.match.globs.items())
        or "everything"
    )
    spent = (
        f"{format_money(status.spent)} of {format_money(status.limit)} ({format_percent(status.spent, status.limit)})"
    )
    if status.forecast is None and not status.spent:
        # An unknown cost is not zero.
        spent = f"nothing read yet of this period; limit {format_money(status.limit)}"
    outlook = "".join(f"<span>{text}</span>" for text in _outlook(evaluated, now))
    name = render_link(links.dashboard(BUDGETS_DASHBOARD, budget=budget.name), escape_text(budget.name))
    return (
        f'<li><div class="pair"><span><strong>{name}</strong> · {owner} · {PERIODS[budget.period]}</span>'
        f'{render_state(condition.state, condition.text)}</div><div class="{condition.state}">'
        f'{_render_budget_bar(evaluated, now)}</div><div class="pair"><span>{spent}</span>{outlook}</div>'
        f"<small>counts {counts}</small></li>\n"
    )


def _outlook(evaluated: EvaluatedBudget, now: datetime) -> Iterator[str]:
    status = evaluated.status
    yield f"even pace: {format_percent(_elapsed_fraction(evaluated, now), 1)}"
    if status.forecast is not None:
        yield f"forecast {format_money(status.forecast)} ({format_percent(status.forecast, status.limit)})"
    at = status.exhausted_at
    if at is None:
        return
    if at > now:
        yield f"runs out {format_time(at)} UTC, in {humanize_duration(at - now)}"
    elif status.spent >= status.limit:
        yield f"ran out {format_time(at)} UTC, {humanize_duration(now - at)} ago"
    else:
        # Hours that could not be read count with their expected cost.
        yield f"by forecast ran out {format_time(at)} UTC; not all is read"


def _elapsed_fraction(evaluated: EvaluatedBudget, now: datetime) -> float:
    """Return which part of the period is over."""
    return min(1.0, (now - evaluated.period.start) / (evaluated.period.end - evaluated.period.start))


def _render_budget_bar(evaluated: EvaluatedBudget, now: datetime) -> str:
    """Return a bar whose full width is the limit, or where that is less the spend and its forecast.

    The limit is always marked: a bar that ends at its mark differs from a bar that goes far beyond it.
    """
    status = evaluated.status
    spent, coming = spent_ratio(status.spent, evaluated), spent_ratio(status.forecast or 0, evaluated)
    width = max(1.0, spent, coming)
    pace = _elapsed_fraction(evaluated, now)
    title = f"{format_percent(status.spent, status.limit)} of the limit spent, "
    if status.forecast is not None:
        title += f"{format_percent(status.forecast, status.limit)} forecast, "
    title += f"{format_percent(pace, 1)} of the period over"
    over = (
        f'<rect class="over" x="{100 / width:.2f}%" width="{100 * (spent - 1) / width:.2f}%" height="100%"/>'
        if spent > 1
        else ""
    )
    return (
        f'<svg role="img" aria-label="{title}"><title>{title}</title>'
        '<rect class="frame" width="100%" height="100%"/>'
        f'<rect class="coming" width="{100 * max(spent, coming) / width:.2f}%" height="100%"/>'
        f'<rect class="spent" width="{100 * spent / width:.2f}%" height="100%"/>{over}'
        f"{_mark('limit', 100 / width, 8)}{_mark('pace', 100 * pace / width, 3)}</svg>"
    )


def _mark(name: str, percent: float, above: int) -> str:
    # The edge in the background's colour separates the mark from the bar.
    place = f'x1="{percent:.2f}%" x2="{percent:.2f}%" y1="-{above}" y2="125%"'
    return f'<line class="{name} edge" {place}/><line class="{name}" {place}/>'
