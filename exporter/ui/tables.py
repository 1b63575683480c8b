"""The landing page's tables: accounts, their last days, the most expensive models, change events."""

from __future__ import annotations

from datetime import datetime

from exporter.ledger import DayCost
from exporter.model import DAY, ChangeEvent
from exporter.snapshot.estimates import OneTimeCost
from exporter.ui.format import escape_text, format_money, format_percent, format_time, humanize_duration
from exporter.ui.page_data import AccountRow, PageData
from exporter.ui.style import render_sign, render_state

DAYS_DISPLAYED = 7
"""Days that are listed for each account."""
MAX_MODELS = 10
MAX_CHANGES = 10
MAX_ONE_TIME_COSTS = 10


def render_accounts(page_data: PageData) -> str:
    """Return every account with its state and its money, and the last days of each to unfold."""
    if not page_data.accounts:
        return ""
    rows = "".join(_render_account(account, page_data.now) for account in page_data.accounts)
    days = "".join(_render_last_days(account, page_data) for account in page_data.accounts)
    return (
        '<h2>Accounts</h2>\n<div class="wide" tabindex="0" role="region" aria-label="Accounts"><table class="accounts">'
        '<thead><tr><th>Account</th><th>Provider</th><th>Owner</th><th>State</th><th class="n">Today</th>'
        '<th class="n">Month</th><th>Complete until</th><th>Last sync</th></tr></thead>\n'
        f"<tbody>{rows}</tbody></table></div>\n<h3>The last {DAYS_DISPLAYED} days</h3>\n{days}"
    )


def _render_account(account: AccountRow, now: datetime) -> str:
    synced = "never" if account.last_sync is None else f"{humanize_duration(now - account.last_sync)} ago"
    until = "not yet" if account.complete_until is None else format_time(account.complete_until)
    mark = render_state("wait", f"{until}, late") if account.late else until
    # An account that was never read has an unknown cost, not none.
    was_read = bool(account.days)
    today, month = (format_money(cost) if was_read else "not read" for cost in (account.today, account.month))
    return (
        f'<tr><th scope="row">{render_sign(account.state)}{escape_text(account.name)}</th><td>'
        f"{escape_text(account.provider)}</td>"
        f'<td>{escape_text(account.owner)}</td><td class="state {account.state}">{escape_text(account.state_text)}</td>'
        f'<td class="n">{today}</td><td class="n">{month}</td><td>{mark}</td><td>{synced}</td></tr>\n'
    )


def _render_last_days(account: AccountRow, page_data: PageData) -> str:
    shown = page_data.days[-DAYS_DISPLAYED:]
    known = [account.days.get(start) for start in shown]
    rows = "".join(
        _render_day(start, day, account, page_data.now)
        for start, day in zip(reversed(shown), reversed(known), strict=True)
    )
    total = sum(day.cost for day in known if day is not None)
    shared = sum(other.name == account.name for other in page_data.accounts) > 1
    name = f"{account.name} ({account.provider})" if shared else account.name
    return (
        f"<details><summary>{escape_text(name)} · {format_money(total)}</summary>"
        f'<div class="wide" tabindex="0" role="region" aria-label="Days of {escape_text(name)}"><table class="narrow">'
        f"{_days_head(account)}<tbody>{rows}</tbody></table></div></details>\n"
    )


def _days_head(account: AccountRow) -> str:
    columns = '<th>Day</th><th class="n">Cost</th><th>State</th>'
    if account.day_reads:
        columns += "<th>Usage read</th>" + "<th>Bill read</th>" * account.has_bills
    return f"<thead><tr>{columns}</tr></thead>"


def _render_day(start: datetime, day: DayCost | None, account: AccountRow, now: datetime) -> str:
    cost, state = _describe_day(day, has_data=start in account.days, running=start + DAY > now)
    return (
        f'<tr><th scope="row">{start:%a %m-%d}</th><td class="n">{cost}</td><td>{state}</td>'
        f"{_render_reads(start, account)}</tr>"
    )


def _describe_day(day: DayCost | None, *, has_data: bool, running: bool) -> tuple[str, str]:
    """Return the cost of a day and how it is known."""
    so_far = ", still running" * running
    if day is None:
        return (format_money(0), "") if has_data else ("?", "not read")
    if not day.billed:
        incomplete = ", bill incomplete" * day.bill_is_incomplete
        return f"≈ {format_money(day.cost)}", f"estimated{incomplete}{so_far}"
    first = f", corrected, first {format_money(day.first_bill)}" if day.restatement else ""
    return format_money(day.cost) + "*" * bool(day.restatement), f"billed{first}{so_far}"


def _render_reads(start: datetime, account: AccountRow) -> str:
    """Return when the day was read last, as cells; none for an account that is not polled."""
    if not account.day_reads:
        return ""
    reads = account.day_reads.get(start)
    usage, bill = (None, None) if reads is None else (reads.usage, reads.bill)
    times = [usage, bill] if account.has_bills else [usage]
    return "".join(f'<td class="muted">{"-" if time is None else format_time(time)}</td>' for time in times)


def render_models(page_data: PageData) -> str:
    """Return the models that cost most in the last 30 days, with their share of all cost."""
    every = [(name, nano) for name, nano in page_data.models() if nano]
    if not every:
        return ""
    total = sum(nano for _, nano in every)
    rows = "".join(_render_model(name, nano, total) for name, nano in every[:MAX_MODELS])
    rest = sum(nano for _, nano in every[MAX_MODELS:])
    more = len(every) - MAX_MODELS
    small = f"<small>{more:,} more: {format_money(rest)} ({format_percent(rest, total)})</small>\n" if more > 0 else ""
    return (
        '<h2>Top models, 30 days</h2>\n<table class="models"><thead><tr><th>Model</th><th class="n">Cost</th>'
        f'<th class="n share">Share</th></tr></thead>\n<tbody>{rows}</tbody></table>\n{small}'
    )


def _render_model(name: str, nano_usd: int, total: int) -> str:
    width = min(100.0, max(0.0, 100 * nano_usd / total)) if total else 0.0
    return (
        f'<tr><th scope="row">{escape_text(name)}</th><td class="n">{format_money(nano_usd)}</td><td class="n share">'
        f'<svg aria-hidden="true"><rect width="{width:.2f}%" height="100%"/></svg>'
        f"<span>{format_percent(nano_usd, total)}</span></td></tr>\n"
    )


def render_one_time_costs(page_data: PageData) -> str:
    """Return the charges and credits of the last 30 days that are not expected again, newest first."""
    found = [(account, cost) for account in page_data.accounts for cost in account.one_time_costs]
    if not found:
        return ""
    found.sort(key=lambda item: item[1].day, reverse=True)
    rows = "".join(_render_one_time_cost(account, cost) for account, cost in found[:MAX_ONE_TIME_COSTS])
    rest = sum(cost.nano_usd for _, cost in found[MAX_ONE_TIME_COSTS:])
    more = len(found) - MAX_ONE_TIME_COSTS
    small = f"<small>{more:,} more: {format_money(rest)}</small>\n" if more > 0 else ""
    return (
        "<h2>One-time costs, 30 days</h2>\n<table><thead><tr><th>Day (UTC)</th><th>Account</th><th>Workspace</th>"
        f'<th>Item</th><th class="n">Cost</th></tr></thead>\n'
        f"<tbody>{rows}</tbody></table>\n{small}"
    )


def _render_one_time_cost(account: AccountRow, cost: OneTimeCost) -> str:
    return (
        f'<tr><th scope="row">{cost.day:%a %m-%d}</th><td>{escape_text(account.name)}</td>'
        f"<td>{escape_text(cost.workspace)}</td><td>{escape_text(cost.item)}</td>"
        f'<td class="n">{format_money(cost.nano_usd)}</td></tr>\n'
    )


def render_changes(page_data: PageData) -> str:
    """Return the change events of the last days."""
    if not page_data.change_events:
        return ""
    rows = "".join(map(_render_change, page_data.change_events[:MAX_CHANGES]))
    more = len(page_data.change_events) - MAX_CHANGES
    small = f"<small>{more:,} more in seven days</small>\n" if more > 0 else ""
    return (
        "<h2>Changes</h2>\n<table><thead><tr><th>Time</th><th>Change</th><th>Service</th><th>Account</th></tr></thead>\n"
        f"<tbody>{rows}</tbody></table>\n{small}"
    )


def _render_change(change_event: ChangeEvent) -> str:
    title = (
        f'<a rel="noreferrer" href="{escape_text(change_event.link)}">{escape_text(change_event.title)}</a>'
        if change_event.link
        else escape_text(change_event.title)
    )
    return (
        f'<tr><th scope="row">{format_time(change_event.time)}</th><td>{title}</td>'
        f"<td>{escape_text(change_event.service)}</td>"
        f"<td>{escape_text(change_event.account)}</td></tr>\n"
    )
