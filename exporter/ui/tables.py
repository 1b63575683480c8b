"""The landing page's tables: accounts, the last days of each, the models that cost most, what was changed."""

from __future__ import annotations

from datetime import datetime

from exporter.ledger import Day
from exporter.model import DAY, Deed
from exporter.ui.format import clock, lasting, money, percent, text
from exporter.ui.page_data import Account, Facts
from exporter.ui.style import sign, told

DAYS = 7
"""How many days the page shows one by one, for each account."""
MOST_MODELS = 10
MOST_CHANGES = 10


def accounts(facts: Facts) -> str:
    """Return every account with its state and its money, and the last days of each to unfold."""
    if not facts.accounts:
        return ""
    rows = "".join(_row(one, facts.now) for one in facts.accounts)
    days = "".join(_last_days(one, facts) for one in facts.accounts)
    return (
        '<h2>Accounts</h2>\n<div class="wide" tabindex="0" role="region" aria-label="Accounts"><table class="accounts">'
        '<thead><tr><th>Account</th><th>Provider</th><th>Owner</th><th>State</th><th class="n">Today</th>'
        '<th class="n">Month</th><th>Complete until</th><th>Last sync</th></tr></thead>\n'
        f"<tbody>{rows}</tbody></table></div>\n<h3>The last {DAYS} days</h3>\n{days}"
    )


def _row(account: Account, now: datetime) -> str:
    synced = "never" if account.synced is None else f"{lasting(now - account.synced)} ago"
    until = "not yet" if account.complete_until is None else clock(account.complete_until)
    mark = told("wait", f"{until}, late") if account.late else until
    return (
        f'<tr><th scope="row">{sign(account.state)}{text(account.name)}</th><td>{text(account.provider)}</td>'
        f'<td>{text(account.owner)}</td><td class="state {account.state}">{text(account.words)}</td>'
        f'<td class="n">{money(account.today)}</td>'
        f'<td class="n">{money(account.month)}</td><td>{mark}</td><td>{synced}</td></tr>\n'
    )


def _last_days(account: Account, facts: Facts) -> str:
    shown = facts.shown[-DAYS:]
    known = [account.days.get(start) for start in shown]
    rows = "".join(
        _day(start, day, read=start in account.days, running=start + DAY > facts.now)
        for start, day in zip(reversed(shown), reversed(known), strict=True)
    )
    total = sum(day.cost for day in known if day is not None)
    shared = sum(one.name == account.name for one in facts.accounts) > 1
    name = f"{account.name} ({account.provider})" if shared else account.name
    return (
        f'<details><summary>{text(name)} · {money(total)}</summary><table class="narrow"><tbody>'
        f"{rows}</tbody></table></details>\n"
    )


def _day(start: datetime, day: Day | None, *, read: bool, running: bool) -> str:
    head = f'<tr><th scope="row">{start:%a %m-%d}</th>'
    so_far = ", still running" * running
    if day is None:
        return f'{head}<td class="n">{money(0) if read else "?"}</td><td>{"" if read else "not read"}</td></tr>'
    if not day.billed:
        return f'{head}<td class="n">≈ {money(day.cost)}</td><td>estimated{so_far}</td></tr>'
    first = f", corrected, first {money(day.first)}" if day.restated else ""
    return f'{head}<td class="n">{money(day.cost)}{"*" * bool(day.restated)}</td><td>billed{first}{so_far}</td></tr>'


def models(facts: Facts) -> str:
    """Return the models that cost most in the last 30 days, with their share of all cost."""
    every = [(name, nano) for name, nano in facts.models() if nano]
    if not every:
        return ""
    total = sum(nano for _, nano in every)
    rows = "".join(_model(name, nano, total) for name, nano in every[:MOST_MODELS])
    rest = sum(nano for _, nano in every[MOST_MODELS:])
    more = len(every) - MOST_MODELS
    small = f"<small>{more:,} more: {money(rest)} ({percent(rest, total)})</small>\n" if more > 0 else ""
    return (
        '<h2>Top models, 30 days</h2>\n<table class="models"><thead><tr><th>Model</th><th class="n">Cost</th>'
        f'<th class="n share">Share</th></tr></thead>\n<tbody>{rows}</tbody></table>\n{small}'
    )


def _model(name: str, nano: int, total: int) -> str:
    width = min(100.0, max(0.0, 100 * nano / total)) if total else 0.0
    return (
        f'<tr><th scope="row">{text(name)}</th><td class="n">{money(nano)}</td><td class="n share">'
        f'<svg aria-hidden="true"><rect width="{width:.2f}%" height="100%"/></svg>'
        f"<span>{percent(nano, total)}</span></td></tr>\n"
    )


def changes(facts: Facts) -> str:
    """Return what was done to systems in the last days, as CI and others told it."""
    if not facts.deeds:
        return ""
    rows = "".join(map(_change, facts.deeds[:MOST_CHANGES]))
    more = len(facts.deeds) - MOST_CHANGES
    small = f"<small>{more:,} more in seven days</small>\n" if more > 0 else ""
    return (
        "<h2>Changes</h2>\n<table><thead><tr><th>When</th><th>What</th><th>Service</th><th>Account</th></tr></thead>\n"
        f"<tbody>{rows}</tbody></table>\n{small}"
    )


def _change(deed: Deed) -> str:
    what = f'<a rel="noreferrer" href="{text(deed.link)}">{text(deed.title)}</a>' if deed.link else text(deed.title)
    return (
        f'<tr><th scope="row">{clock(deed.moment)}</th><td>{what}</td><td>{text(deed.service)}</td>'
        f"<td>{text(deed.account)}</td></tr>\n"
    )
