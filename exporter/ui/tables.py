"""The landing page's tables: accounts, their last days, the most expensive models, change events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from exporter.ledger import DayCost
from exporter.model import DAY, ChangeEvent
from exporter.snapshot.aggregation import Totals
from exporter.snapshot.estimates import OneTimeCost
from exporter.ui.chart import render_sparkline
from exporter.ui.format import (
    DASH,
    escape_text,
    format_change,
    format_count,
    format_money,
    format_percent,
    format_time,
    humanize_duration,
)
from exporter.ui.links import ACCOUNT_DASHBOARD, METRICS_PATH, SPEND_DASHBOARD, SUMMARY_PATH, PageLinks, render_link
from exporter.ui.page_data import AccountRow, PageData, Trend
from exporter.ui.style import render_sign, render_state
from exporter.ui.table import Column, render_table

DAYS_DISPLAYED = 7
"""Days that are listed for each account."""
MAX_ACCOUNTS = 50
MAX_MODELS = 10
MAX_CHANGES = 10
MAX_ONE_TIME_COSTS = 10

NOT_READ = '<span class="muted">not read</span>'

_ACCOUNT_COLUMNS = (
    Column("Account"),
    Column("State", "state"),
    Column("Today", "n"),
    Column("This month", "n"),
    Column("Forecast", "n"),
    Column("7-day change", "n"),
    Column("Last 30 days", "trend"),
    Column("Complete until", "when"),
)


def render_accounts(page_data: PageData) -> str:
    """Return the accounts with their state and their money, and the last days of each to unfold.

    Those that need attention come first, then the most expensive ones; beyond a number only sums are shown.
    """
    if not page_data.accounts:
        return ""
    shown = page_data.accounts[:MAX_ACCOUNTS]
    table = render_table(
        "Accounts", _ACCOUNT_COLUMNS, (_account_cells(account, page_data) for account in shown), "accounts"
    )
    days = "".join(_render_last_days(account, page_data) for account in shown)
    return (
        f'<section aria-labelledby="accounts"><h2 id="accounts">Accounts</h2>\n{table}'
        f"{_render_other_accounts(page_data.accounts[MAX_ACCOUNTS:])}"
        "<p><small>7-day change: the last seven complete days against the seven before. Last 30 days: the cost of each "
        "day before today.</small></p>\n"
        f"<h3>The last {DAYS_DISPLAYED} days</h3>\n{days}</section>\n"
    )


def _render_other_accounts(others: Sequence[AccountRow]) -> str:
    if not others:
        return ""
    today = format_money(sum(account.today or 0 for account in others))
    month = format_money(sum(account.month or 0 for account in others))
    return (
        f'<p class="more">{format_count(len(others), "more account")}, all of lower cost or without failures: {today} '
        f"today, {month} this month. {render_link(SUMMARY_PATH, 'The summary')} and "
        f"{render_link(METRICS_PATH, 'the metrics')} list every account.</p>\n"
    )


def _account_cells(account: AccountRow, page_data: PageData) -> Iterator[str]:
    now = page_data.now
    address = page_data.links.dashboard(ACCOUNT_DASHBOARD, provider=account.provider, account=account.name)
    owner = f"owner {escape_text(account.owner)}" if account.owner else "no owner"
    yield (
        f'{render_sign(account.worst_state)}<span class="name">{render_link(address, escape_text(account.name))}</span>'
        f'<small class="under">{escape_text(account.provider)} · {owner}</small>'
    )
    alerts = (
        f'<small class="under"><a href="#alerts">{format_count(len(account.alerts), "alert")}</a></small>'
        if account.alerts
        else ""
    )
    yield f'<span class="{account.state}">{escape_text(account.state_text)}</span>{alerts}'
    # An account that was never read has an unknown cost, not none.
    for cost in (account.today, account.month, account.month_forecast):
        yield NOT_READ if cost is None else format_money(cost)
    yield render_trend(account.trend)
    yield render_sparkline([_cost_of(account, start) for start in page_data.complete_days])
    until = "not yet" if account.complete_until is None else format_time(account.complete_until)
    synced = "never read" if account.last_sync is None else f"read {humanize_duration(now - account.last_sync)} ago"
    late = render_state("wait", f"{until}, late") if account.late else until
    yield f'{late}<small class="under">{synced if account.is_polled else "pushed"}</small>'


def _cost_of(account: AccountRow, start: datetime) -> int | None:
    if start not in account.days:
        return None
    day = account.days[start]
    return day.cost if day is not None else 0


def render_trend(trend: Trend | None) -> str:
    """Return the change of seven days in percent, with both sums as a title."""
    if trend is None:
        return f'<span class="muted" title="fewer than fourteen complete days were read">{DASH}</span>'
    sums = f"{format_money(trend.last)} in the last seven complete days, {format_money(trend.previous)} in those before"
    return f'<span class="change" title="{sums}">{format_change(trend.last, trend.previous)}</span>'


def _render_last_days(account: AccountRow, page_data: PageData) -> str:
    shown = page_data.days[-DAYS_DISPLAYED:]
    known = [account.days.get(start) for start in shown]
    shared = sum(other.name == account.name for other in page_data.accounts) > 1
    name = f"{account.name} ({account.provider})" if shared else account.name
    was_read = any(start in account.days for start in shown)
    total = format_money(sum(day.cost for day in known if day is not None)) if was_read else "not read"
    columns = [Column("Day"), Column("Cost", "n"), Column("State")]
    if account.day_reads:
        columns += [Column("Usage read"), *[Column("Bill read")] * account.has_bills]
    rows = (
        _day_cells(start, day, account, page_data.now)
        for start, day in zip(reversed(shown), reversed(known), strict=True)
    )
    content = (
        render_table(f"Days of {name}", columns, rows, "narrow") if was_read else "<p>No day has been read yet.</p>"
    )
    return f"<details><summary>{escape_text(name)} · {total}</summary>{content}</details>\n"


def _day_cells(start: datetime, day: DayCost | None, account: AccountRow, now: datetime) -> Iterator[str]:
    yield f"{start:%a %m-%d}"
    yield from _describe_day(day, has_data=start in account.days, running=start + DAY > now)
    yield from _reads(start, account)


def _describe_day(day: DayCost | None, *, has_data: bool, running: bool) -> tuple[str, str]:
    """Return the cost of a day and how it is known."""
    so_far = ", still running" * running
    if day is None:
        return (format_money(0), "nothing used") if has_data else (DASH, "not read")
    if not day.billed:
        incomplete = ", bill incomplete" * day.bill_is_incomplete
        return f"≈ {format_money(day.cost)}", f"estimated{incomplete}{so_far}"
    first = f", corrected, first {format_money(day.first_bill)}" if day.restatement else ""
    return format_money(day.cost) + "*" * bool(day.restatement), f"billed{first}{so_far}"


def _reads(start: datetime, account: AccountRow) -> Iterator[str]:
    """Yield when the day was read last; nothing for an account that is not polled."""
    if not account.day_reads:
        return
    reads = account.day_reads.get(start)
    usage, bill = (None, None) if reads is None else (reads.usage, reads.bill)
    for time in (usage, bill) if account.has_bills else (usage,):
        yield f'<span class="muted">{DASH if time is None else format_time(time)}</span>'


def render_models(page_data: PageData) -> str:
    """Return the models that cost most in the last 30 days, with their share of all cost and of all requests."""
    if not page_data.accounts:
        return ""
    used = [(name, totals) for name, totals in page_data.models() if totals.cost or totals.requests]
    if not used:
        return f"{_MODELS_HEADING}<p>No usage has been read yet.</p></section>\n"
    total = sum((totals for _, totals in used), Totals())
    shown, others = used[:MAX_MODELS], [totals for _, totals in used[MAX_MODELS:]]
    largest = Totals(
        cost=max(totals.cost for _, totals in shown),
        requests=max((totals.requests or 0 for _, totals in shown), default=0),
    )
    columns = (
        Column("Model"),
        Column("Cost", "n"),
        Column("Share of cost", "share"),
        Column("Requests", "n"),
        Column("Share of requests", "share"),
    )
    rows = (_model_cells(name, totals, total, largest, page_data.links) for name, totals in shown)
    notes = []
    if others:
        rest = sum(others, Totals())
        notes.append(f"{len(others):,} more: {format_money(rest.cost)} ({format_percent(rest.cost, total.cost)}).")
    if any(totals.requests is None for _, totals in shown):
        notes.append(f"{DASH}: the provider does not report requests.")
    small = f"<p><small>{' '.join(notes)}</small></p>\n" if notes else ""
    table = render_table("Top models of the last 30 days", columns, rows, "models")
    return f"{_MODELS_HEADING}{table}{small}</section>\n"


_MODELS_HEADING = '<section aria-labelledby="models"><h2 id="models">Top models, 30 days</h2>\n'


def _model_cells(name: str, totals: Totals, total: Totals, largest: Totals, links: PageLinks) -> Iterator[str]:
    yield f'<span class="name">{render_link(links.dashboard(SPEND_DASHBOARD, model=name), escape_text(name))}</span>'
    yield format_money(totals.cost)
    yield _render_share(totals.cost, total.cost, largest.cost)
    yield DASH if totals.requests is None else f"{totals.requests:,}"
    yield (
        DASH if totals.requests is None else _render_share(totals.requests, total.requests or 0, largest.requests or 0)
    )


def _render_share(value: int, total: int, largest: int) -> str:
    """Return a share in percent beside a bar; the largest share fills the column."""
    width = min(100.0, max(0.0, 100 * value / largest)) if largest > 0 else 0.0
    return (
        f'<span class="meter"><svg aria-hidden="true"><rect width="{width:.2f}%" height="100%"/></svg>'
        f"<span>{format_percent(value, total)}</span></span>"
    )


def render_one_time_costs(page_data: PageData) -> str:
    """Return the charges and credits of the last 30 days that are not expected again, newest first."""
    found = [(account, cost) for account in page_data.accounts for cost in account.one_time_costs]
    if not found:
        return ""
    found.sort(key=lambda item: item[1].day, reverse=True)
    rest = sum(cost.nano_usd for _, cost in found[MAX_ONE_TIME_COSTS:])
    more = len(found) - MAX_ONE_TIME_COSTS
    small = f"<small>{more:,} more: {format_money(rest)}</small>\n" if more > 0 else ""
    columns = (Column("Day (UTC)"), Column("Account"), Column("Workspace"), Column("Item"), Column("Cost", "n"))
    rows = (_one_time_cost_cells(account, cost) for account, cost in found[:MAX_ONE_TIME_COSTS])
    table = render_table("One-time costs", columns, rows)
    return f'<section aria-labelledby="once"><h2 id="once">One-time costs, 30 days</h2>\n{table}{small}</section>\n'


def _one_time_cost_cells(account: AccountRow, cost: OneTimeCost) -> Iterator[str]:
    yield f"{cost.day:%a %m-%d}"
    yield escape_text(account.name)
    yield escape_text(cost.workspace)
    yield escape_text(cost.item)
    yield format_money(cost.nano_usd)


def render_changes(page_data: PageData) -> str:
    """Return the change events of the last days."""
    if not page_data.change_events:
        return ""
    more = len(page_data.change_events) - MAX_CHANGES
    small = f"<small>{more:,} more in seven days</small>\n" if more > 0 else ""
    columns = (Column("Time (UTC)"), Column("Change"), Column("Service"), Column("Account"))
    table = render_table("Changes", columns, map(_change_cells, page_data.change_events[:MAX_CHANGES]))
    return f'<section aria-labelledby="changes"><h2 id="changes">Changes</h2>\n{table}{small}</section>\n'


def _change_cells(change_event: ChangeEvent) -> Iterator[str]:
    yield format_time(change_event.time)
    yield render_link(change_event.link, escape_text(change_event.title))
    yield escape_text(change_event.service)
    yield escape_text(change_event.account)
