"""The top of the landing page: the worst that holds now, alerts with a next step each, notices, totals."""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Iterator, Sequence

from exporter.ui.alerts import Alert, State, count_alerts
from exporter.ui.chart import render_sparkline
from exporter.ui.format import escape_text, format_count, format_day, format_money, format_percent
from exporter.ui.links import SUMMARY_PATH, PageLinks, render_link
from exporter.ui.page_data import FIRST_POLL, PageData
from exporter.ui.style import render_sign, render_state
from exporter.ui.tables import render_trend

MAX_ALERTS = 10
"""Shown at once."""
MAX_FOLDED_ALERTS = 90
"""To unfold; beyond them only their number is shown."""
MAX_KINDS = 4
"""Kinds of alerts in the headline."""
MAX_NOTICE_ITEMS = 10
"""In one notice."""


def render_health(page_data: PageData) -> str:
    """Return the headline: the worst kinds of alerts with their numbers, and how many accounts are up."""
    state, words = _headline(page_data)
    headline = f'<p class="health" role="status">{render_state(state, words)}</p>\n'
    return f'{headline}<p class="top">{_accounts_text(page_data)}</p>\n'


def _headline(page_data: PageData) -> tuple[State, str]:
    accounts, alerts = page_data.accounts, page_data.alerts
    if alerts:
        kinds = count_alerts(alerts)
        more = f" and {format_count(len(kinds) - MAX_KINDS, 'more kind')} of alerts" if len(kinds) > MAX_KINDS else ""
        words = f"{', '.join(kinds[:MAX_KINDS])}{more}"
        return ("bad" if any(alert.kind.state == "bad" for alert in alerts) else "wait"), words
    if not accounts:
        return "wait", "No account is configured"
    if any(account.state != "good" for account in accounts):
        return "wait", "No alerts, but not everything has been read yet"
    return "good", "No alerts"


def _accounts_text(page_data: PageData) -> str:
    accounts = page_data.accounts
    if not accounts:
        example = render_link(page_data.links.document("configuration.md"), "configuration")
        return f"Add accounts to the {example} and reload it; then their cost is shown here."
    up = sum(account.state_text.startswith("up") for account in accounts)
    first = sum(account.state_text == FIRST_POLL for account in accounts)
    bad = sum(account.state == "bad" for account in accounts)
    late = sum(account.late and account.state != "bad" for account in accounts)
    counts = [f"{up:,} up"] if up != len(accounts) else ["up" if up == 1 else "all up"]
    counts += [f"{bad:,} failing"] * bool(bad)
    counts += [f"{late:,} with late data"] * bool(late)
    counts += [f"{first:,} in the first poll"] * bool(first)
    return f"{format_count(len(accounts), 'account')}: {', '.join(counts)}."


def render_alerts(page_data: PageData) -> str:
    """Return everything that needs attention, the worst first; empty where nothing does."""
    alerts = page_data.alerts
    if not alerts:
        return ""
    items = [_render_alert(alert, page_data.links) for alert in alerts[: MAX_ALERTS + MAX_FOLDED_ALERTS]]
    folded, uncounted = items[MAX_ALERTS:], len(alerts) - MAX_ALERTS - MAX_FOLDED_ALERTS
    rest = ""
    if folded:
        others = (
            f"<p>{format_count(uncounted, 'more alert')}: see {render_link(SUMMARY_PATH, 'the summary')}.</p>"
            if uncounted > 0
            else ""
        )
        rest = (
            f'<details><summary>{len(alerts) - MAX_ALERTS:,} more</summary>\n<ul class="alerts">{"".join(folded)}</ul>'
            f"{others}</details>\n"
        )
    return (
        '<section aria-labelledby="alerts"><h2 id="alerts">Alerts</h2>\n'
        f'<ul class="alerts">{"".join(items[:MAX_ALERTS])}</ul>\n{rest}</section>\n'
    )


def _render_alert(alert: Alert, links: PageLinks) -> str:
    owner = f"owner {escape_text(alert.owner)}" if alert.owner else "no owner"
    since = f" · {escape_text(alert.since)}" if alert.since else ""
    first, *others = alert.details
    more = (
        f"<details><summary>{len(others):,} more of the kind</summary>"
        f"{''.join(f'<p>{escape_text(text)}</p>' for text in others)}</details>"
        if others
        else ""
    )
    action = f"<p><strong>Next step:</strong> {escape_text(alert.action)}</p>" if alert.action else ""
    # Without documents the name of the alert rule still names the section of the runbooks.
    runbook = render_link(
        links.runbook(alert.kind.rule), f"Runbook {alert.kind.rule}" if links.docs_url else alert.kind.rule
    )
    address = links.dashboard(alert.dashboard, **(alert.variables or {}))
    dashboard = f"<span>{render_link(address, 'Dashboard')}</span>" if address else ""
    return (
        f'<li class="alert {alert.kind.state}-alert"><h3>{render_sign(alert.kind.state)}{escape_text(alert.title)}</h3>'
        f'<p class="meta">{owner}{since}</p><p>{escape_text(first)}</p>{more}{action}'
        f'<p class="links"><span>{runbook}</span>{dashboard}</p></li>\n'
    )


def render_notices(page_data: PageData) -> str:
    """Return notices: conditions that need no action but explain the numbers, grouped by kind."""
    accounts = page_data.accounts
    aggregated = [
        f"{escape_text(account.name)} ({account.aggregated_series:,} series)"
        for account in accounts
        if account.aggregated_series
    ]
    first_polls = [escape_text(account.name) for account in accounts if account.state_text == FIRST_POLL]
    kinds = (
        ("First poll under way", first_polls, "Numbers are incomplete."),
        (
            "Series aggregated into <code>other</code>",
            aggregated,
            "Sums are exact; <code>max_series</code> keeps more names.",
        ),
    )
    return "".join(_render_notice(title, items, advice) for title, items, advice in kinds if items)


def _render_notice(title: str, items: Sequence[str], advice: str) -> str:
    more = f" and {len(items) - MAX_NOTICE_ITEMS:,} more" if len(items) > MAX_NOTICE_ITEMS else ""
    return (
        f'<div class="notice"><p><strong>{title}:</strong> {", ".join(items[:MAX_NOTICE_ITEMS])}{more}. '
        f"{advice}</p></div>\n"
    )


def render_totals(page_data: PageData) -> str:
    """Return today, this month, its forecast and the 30 days as large figures; nothing without any account."""
    if not page_data.accounts:
        return ""
    return '<dl class="figures">' + "".join(_render_each_total(page_data)) + "</dl>\n"


def _render_each_total(page_data: PageData) -> Iterator[str]:
    bars, accounts = page_data.bars(), page_data.accounts
    month, billed = _sum(account.month for account in accounts), sum(account.month_billed for account in accounts)
    running = "running, in UTC"
    if bars[-2].has_data:
        running += f"; yesterday {format_money(bars[-2].billed + bars[-2].estimated)}"
    running += _without_unread([account.today for account in accounts])
    yield _render_total("Today", _sum(account.today for account in accounts), running)
    note = _NOTHING_READ
    if month is not None:
        rest = ", the rest estimated" if billed != month else ""
        note = f"{format_money(billed)} billed ({format_percent(billed, month)}){rest}"
        if not billed and not any(account.is_polled for account in accounts):
            # Pushed usage never gets a bill: 0 % would look like something that is missing.
            note = "estimated: pushed usage has no bill"
        note += _without_unread([account.month for account in accounts])
    yield _render_total("This month", month, note)
    yield _render_total(
        "Month forecast", _sum(account.month_forecast for account in accounts), _forecast_note(page_data)
    )
    days = sum(bar.billed + bar.estimated for bar in bars) if any(bar.has_data for bar in bars) else None
    trend = page_data.trend()
    compared = f"; 7-day change {render_trend(trend)}" if trend is not None else ""
    since = f"since {format_day(bars[0].start)}{compared}"
    yield _render_total("30 days", days, since, render_sparkline(page_data.daily_cost()))


_NOTHING_READ = "no day has been read yet"


def _sum(values: Iterator[int | None]) -> int | None:
    """Return the sum of the known values; None where none is known."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _forecast_note(page_data: PageData) -> str:
    now, accounts = page_data.now, page_data.accounts
    last_day = now.replace(day=monthrange(now.year, now.month)[1])
    forecasts = [account.month_forecast for account in accounts]
    if all(forecast is None for forecast in forecasts):
        return "no complete hour has been read yet"
    return f"expected by the end of {format_day(last_day)}{_without_unread(forecasts)}"


def _without_unread(values: Sequence[int | None]) -> str:
    """Return how many accounts a sum leaves out because they were not read; empty where it has all or none of them."""
    unread = sum(value is None for value in values)
    return f", without {format_count(unread, 'account')} not read" if 0 < unread < len(values) else ""


def _render_total(name: str, nano_usd: int | None, note: str, chart: str = "") -> str:
    value = "not read" if nano_usd is None else format_money(nano_usd)
    css = "sum" if nano_usd is not None else "sum muted"
    return f'<div><dt>{name}</dt><dd class="{css}">{value}</dd><dd><small>{note}</small>{chart}</dd></div>'
