"""A daily summary in plain text and as JSON: yesterday, the month, what moved, budgets, and what needs attention."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from exporter.model import DAY, NANO
from exporter.snapshot.account_snapshot import AccountSnapshot
from exporter.snapshot.aggregation import aggregate_days
from exporter.snapshot.budgets import EvaluatedBudget
from exporter.ui.alerts import Alert, assess_budget, assess_budgets
from exporter.ui.format import format_change, format_day, format_money, format_percent, format_time, to_usd
from exporter.ui.links import PageLinks
from exporter.ui.page_data import TREND_DAYS, PageData, Trend, collect_page_data
from exporter.windows import TimeRange, days_back

MAX_MOVERS = 5
MIN_MOVE = NANO
"""nano-USD: a workspace whose cost of seven days changed by less is not listed."""
MAX_ALERTS = 10
MAX_BUDGETS = 20
_WEEK = timedelta(days=7)
_NAME_WIDTH = 16


@dataclass(frozen=True, slots=True)
class Mover:
    """A workspace whose cost of the last seven complete days differs from that of the seven before; in nano-USD."""

    account: str
    workspace: str
    last: int
    previous: int

    @property
    def change(self) -> int:
        """The difference."""
        return self.last - self.previous


@dataclass(frozen=True, slots=True)
class Digest:
    """A daily summary; amounts in nano-USD, None where it is not known."""

    day: datetime
    """The UTC day that it reports: yesterday."""
    cost: int | None
    billed: int
    """The part of `cost` that is billed."""
    cost_week_before: int | None
    """Of the same weekday a week before."""
    month: int | None
    month_billed: int
    month_forecast: int | None
    trend: Trend | None
    movers: tuple[Mover, ...]
    """The largest changes, whether up or down."""
    budgets: tuple[EvaluatedBudget, ...]
    """Those that need attention first."""
    alerts: tuple[Alert, ...]
    """The worst first."""
    accounts: int
    unread: tuple[str, ...]
    """Accounts of which yesterday is not known completely."""
    links: PageLinks


def build_digest(
    snapshots: Sequence[AccountSnapshot], budgets: Sequence[EvaluatedBudget], now: datetime, links: PageLinks
) -> Digest:
    """Return the summary of the day before `now`."""
    page = collect_page_data(snapshots, budgets, (), now, links)
    yesterday = days_back(now, 1)
    bars = {bar.start: bar for bar in page.bars()}
    bar, week_before = bars[yesterday], bars[yesterday - _WEEK]
    months = [account.month for account in page.accounts if account.month is not None]
    forecasts = [account.month_forecast for account in page.accounts if account.month_forecast is not None]
    return Digest(
        day=yesterday,
        cost=bar.billed + bar.estimated if bar.has_data else None,
        billed=bar.billed,
        cost_week_before=week_before.billed + week_before.estimated if week_before.has_data else None,
        month=sum(months) if months else None,
        month_billed=sum(account.month_billed for account in page.accounts),
        month_forecast=sum(forecasts) if forecasts else None,
        trend=page.trend(),
        movers=_movers(snapshots, now),
        budgets=tuple(evaluated for evaluated, _ in assess_budgets(budgets)),
        alerts=page.alerts,
        accounts=len(page.accounts),
        unread=_unread_accounts(page, yesterday),
        links=links,
    )


def _unread_accounts(page: PageData, day: datetime) -> tuple[str, ...]:
    return tuple(
        account.name
        for account in page.accounts
        if account.complete_until is None or account.complete_until < day + DAY
    )


def _movers(snapshots: Sequence[AccountSnapshot], now: datetime) -> tuple[Mover, ...]:
    """Return the workspaces whose cost changed most, of accounts of which all fourteen days are known."""
    end = days_back(now, 0)
    last_days = TimeRange(end - TREND_DAYS * DAY, end)
    previous_days = TimeRange(last_days.start - TREND_DAYS * DAY, last_days.start)
    known = [
        snapshot
        for snapshot in snapshots
        if snapshot.covered is not None
        and snapshot.covered.start <= previous_days.start
        and snapshot.complete_until is not None
        and snapshot.complete_until >= end
    ]
    last, previous = (
        aggregate_days(known, days, lambda snapshot, labels: (snapshot.account.name, labels.workspace))
        for days in (last_days, previous_days)
    )
    movers = []
    for account, workspace in last.keys() | previous.keys():
        key = (account, workspace)
        costs = [totals[key].cost if key in totals else 0 for totals in (last, previous)]
        movers.append(Mover(account, workspace, *costs))
    moved = [mover for mover in movers if abs(mover.change) >= MIN_MOVE]
    moved.sort(key=lambda mover: (-abs(mover.change), mover.account, mover.workspace))
    return tuple(moved[:MAX_MOVERS])


def render_text(digest: Digest) -> str:
    """Return the summary as lines of at most some 100 characters, for e-mail, chat or a terminal."""
    return "\n".join(_lines(digest)) + "\n"


def _lines(digest: Digest) -> Iterator[str]:
    yield f"AI spend of {digest.day:%A, %Y-%m-%d} (UTC)"
    yield ""
    yield from _cost_lines(digest)
    if digest.movers:
        yield ""
        yield "Largest changes, last 7 days against the 7 before"
        for mover in digest.movers:
            sign = "+" if mover.change > 0 else "-"
            place = f"{mover.account} / {mover.workspace}" if mover.workspace else mover.account
            compared = f"{format_money(mover.last)}, {format_change(mover.last, mover.previous)}"
            yield f"  {sign}{format_money(abs(mover.change))}  {place}  ({compared})"
    if digest.budgets:
        yield ""
        yield "Budgets"
        for evaluated in digest.budgets[:MAX_BUDGETS]:
            yield f"  {_describe_budget(evaluated)}"
        if len(digest.budgets) > MAX_BUDGETS:
            yield f"  and {len(digest.budgets) - MAX_BUDGETS} more"
    yield ""
    yield from _attention_lines(digest)


def _cost_lines(digest: Digest) -> Iterator[str]:
    def line(name: str, nano_usd: int | None, *notes: str) -> str:
        amount = "not read" if nano_usd is None else format_money(nano_usd)
        return f"{name:<{_NAME_WIDTH}}{amount:>14}  {', '.join(note for note in notes if note)}".rstrip()

    cost, week_before = digest.cost, digest.cost_week_before
    state = "" if cost is None else "billed" if digest.billed == cost else "estimated, not all of it is billed yet"
    weekday = ""
    if cost is not None and week_before is not None:
        weekday = f"{format_change(cost, week_before)} against {format_day(digest.day - _WEEK)}"
    yield line("Yesterday", cost, weekday, state)
    if digest.unread:
        shown = ", ".join(digest.unread[:MAX_ALERTS])
        more = f" and {len(digest.unread) - MAX_ALERTS} more" if len(digest.unread) > MAX_ALERTS else ""
        yield f"{'':<{_NAME_WIDTH}}not known completely of: {shown}{more}"
    if digest.trend is not None:
        change = format_change(digest.trend.last, digest.trend.previous)
        yield line("Last 7 days", digest.trend.last, f"{change} against the 7 days before")
    billed = "" if digest.month is None else f"{format_percent(digest.month_billed, digest.month)} billed"
    yield line("This month", digest.month, billed)
    yield line("Month forecast", digest.month_forecast)


def _describe_budget(evaluated: EvaluatedBudget) -> str:
    budget, status = evaluated.budget, evaluated.status
    spent = f"{format_money(status.spent)} of {format_money(status.limit)} per {budget.period}"
    parts = [f"{spent} ({format_percent(status.spent, status.limit)})"]
    if status.forecast is not None:
        parts.append(f"forecast {format_percent(status.forecast, status.limit)}")
    if status.exhausted_at is not None:
        parts.append(f"limit reached {format_time(status.exhausted_at)} UTC")
    return f"{budget.name}: {assess_budget(budget, status).text}: {', '.join(parts)}"


def _attention_lines(digest: Digest) -> Iterator[str]:
    if not digest.accounts:
        yield "No account has any usage in this ledger."
        return
    if not digest.alerts:
        yield "Nothing needs attention."
        return
    yield f"Needs attention ({len(digest.alerts)})"
    for alert in digest.alerts[:MAX_ALERTS]:
        owner = f", owner {alert.owner}" if alert.owner else ""
        yield f"  {alert.title}{owner}"
        yield f"    {alert.details[0]}"
        if alert.action:
            yield f"    Next step: {alert.action}"
        address = digest.links.dashboard(alert.dashboard, **(alert.variables or {}))
        if address:
            yield f"    {address}"
    if len(digest.alerts) > MAX_ALERTS:
        yield f"  and {len(digest.alerts) - MAX_ALERTS} more"


def to_plain(digest: Digest) -> Mapping[str, Any]:
    """Return the summary for JSON: `text`, which chat services display, and the values; amounts in USD."""
    return {
        "text": render_text(digest),
        "day": f"{digest.day:%Y-%m-%d}",
        "cost_usd": _usd(digest.cost),
        "billed_usd": _usd(digest.billed),
        "cost_week_before_usd": _usd(digest.cost_week_before),
        "month_usd": _usd(digest.month),
        "month_billed_usd": _usd(digest.month_billed),
        "month_forecast_usd": _usd(digest.month_forecast),
        "last_7_days_usd": _usd(digest.trend.last if digest.trend else None),
        "previous_7_days_usd": _usd(digest.trend.previous if digest.trend else None),
        "incomplete_accounts": list(digest.unread),
        "movers": [
            {
                "account": mover.account,
                "workspace": mover.workspace,
                "last_7_days_usd": _usd(mover.last),
                "previous_7_days_usd": _usd(mover.previous),
            }
            for mover in digest.movers
        ],
        "budgets": [
            {
                "budget": evaluated.budget.name,
                "owner": evaluated.budget.owner,
                "period": evaluated.budget.period,
                "limit_usd": _usd(evaluated.status.limit),
                "spent_usd": _usd(evaluated.status.spent),
                "forecast_usd": _usd(evaluated.status.forecast),
            }
            for evaluated in digest.budgets
        ],
        "alerts": [
            {"title": alert.title, "owner": alert.owner, "details": list(alert.details), "next_step": alert.action}
            for alert in digest.alerts
        ],
    }


def _usd(nano_usd: int | None) -> float | None:
    return None if nano_usd is None else to_usd(nano_usd)
