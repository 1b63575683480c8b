"""The top of the landing page: health, problems with the action they need, notices, totals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from exporter.ui.format import (
    escape_text,
    format_count,
    format_day,
    format_money,
    format_percent,
    format_time,
    humanize_duration,
)
from exporter.ui.page_data import FIRST_POLL, AccountProblem, AccountRow, PageData, State
from exporter.ui.style import render_state

MAX_PROBLEMS = 20
"""Shown at once; the rest unfolds."""
MAX_NOTICE_ITEMS = 10
"""In one notice."""


def render_health(page_data: PageData) -> str:
    """Return one line about the state of all accounts."""
    state, words = _health_state(page_data.accounts)
    return f'<p class="health">{render_state(state, words)}</p>\n'


def _health_state(accounts: Sequence[AccountRow]) -> tuple[State, str]:
    if not accounts:
        return "wait", "No account is configured"
    bad = sum(account.state == "bad" for account in accounts)
    first = sum(account.state_text == FIRST_POLL for account in accounts)
    late = sum(_is_only_late(account) for account in accounts)
    rest = "".join([f"; {first:,} in the first poll" if first else "", f"; {late:,} with late data" if late else ""])
    if bad:
        return (
            "bad",
            f"{bad:,} of {format_count(len(accounts), 'account')} {'need' if bad > 1 else 'needs'} attention{rest}",
        )
    if rest:
        return "wait", f"{format_count(len(accounts), 'account')}, no failures{rest}"
    return "good", "1 account, up" if len(accounts) == 1 else f"{len(accounts):,} accounts, all up"


def render_problems(page_data: PageData) -> str:
    """Return every problem with the action it needs; empty where there is none."""
    boxes = [_render_problem(problem, page_data) for account in page_data.accounts for problem in account.problems]
    more = "".join(boxes[MAX_PROBLEMS:])
    rest = f"<details><summary>{len(boxes) - MAX_PROBLEMS:,} more</summary>\n{more}</details>\n" if more else ""
    return "".join(boxes[:MAX_PROBLEMS]) + rest


def _render_problem(problem: AccountProblem, page_data: PageData) -> str:
    owner = f" (owner {escape_text(problem.owner)})" if problem.owner else " (no owner)"
    reports = f" · {escape_text(', '.join(problem.reports))}" if problem.reports else ""
    advice = f"<p><strong>Action needed:</strong> {escape_text(problem.advice)}</p>" if problem.advice else ""
    others = "".join(f"<p>{escape_text(message)}</p>" for message in problem.messages[1:])
    more = (
        f"<details><summary>{len(problem.messages) - 1} more of the kind</summary>{others}</details>" if others else ""
    )
    since = "Never read successfully."
    if problem.last_read is not None:
        since = (
            f"Not read since {format_time(problem.last_read)} UTC "
            f"({humanize_duration(page_data.now - problem.last_read)})."
        )
    return (
        f'<div class="problem"><p><strong class="bad">{escape_text(problem.account)}</strong>{owner}{reports}</p>'
        f'<p>{escape_text(problem.messages[0])}</p>{more}{advice}<p class="muted">{since}</p></div>\n'
    )


def render_notices(page_data: PageData) -> str:
    """Return notices: conditions that are not problems yet, grouped by kind."""
    accounts = page_data.accounts
    late = [
        f"{escape_text(account.name)} ({_watermark_text(account, page_data)})"
        for account in accounts
        if _is_only_late(account)
    ]
    unpriced = [
        f"{_unpriced_models(account)} of {escape_text(account.name)} (about {account.unpriced_cost_ratio * 100:.0f} % "
        "of its unbilled cost)"
        for account in accounts
        if account.unpriced
    ]
    incomplete = [
        f"{escape_text(account.name)} ({', '.join(map(format_day, days))})"
        for account in accounts
        if (days := [start for start, day in account.days.items() if day is not None and day.bill_is_incomplete])
    ]
    aggregated = [
        f"{escape_text(account.name)} ({account.aggregated_series:,} series)"
        for account in accounts
        if account.aggregated_series
    ]
    rejected_keys = [
        f"{escape_text(account.name)} ({escape_text(account.pending_key_message)})"
        for account in accounts
        if account.pending_key_message
    ]
    first_polls = [escape_text(account.name) for account in accounts if account.state_text == FIRST_POLL]
    kinds = (
        ("New key rejected", rejected_keys, "The previous key is still in use."),
        ("First poll under way", first_polls, "Numbers are incomplete."),
        ("Data is late", late, "Newer usage is not included yet."),
        (
            "No known price",
            unpriced,
            "Their cost is missing until it is billed: set a price under <code>prices:</code>.",
        ),
        ("Bill incomplete", incomplete, "These days stay estimated until their bill pays for everything."),
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
        f'<div class="notice"><p><strong class="wait">{title}:</strong> {", ".join(items[:MAX_NOTICE_ITEMS])}{more}. '
        f"{advice}</p></div>\n"
    )


def _unpriced_models(account: AccountRow) -> str:
    by_tokens = sorted(account.unpriced.items(), key=lambda item: -item[1])
    return ", ".join(f"{escape_text(model)} ({format_count(tokens, 'token')})" for model, tokens in by_tokens)


def _is_only_late(account: AccountRow) -> bool:
    return account.late and account.state != "bad"


def _watermark_text(account: AccountRow, page_data: PageData) -> str:
    until = account.complete_until
    return (
        "" if until is None else f"complete until {format_time(until)}, {humanize_duration(page_data.now - until)} ago"
    )


def render_totals(page_data: PageData) -> str:
    """Return today, this month and the 30 days as large figures."""
    return '<dl class="figures">' + "".join(_render_each_total(page_data)) + "</dl>\n"


def _render_each_total(page_data: PageData) -> Iterator[str]:
    bars, month = page_data.bars(), sum(account.month for account in page_data.accounts)
    billed = sum(account.month_billed for account in page_data.accounts)
    rest = ", the rest estimated" if billed != month else ""
    since = format_day(bars[0].start)
    yield _render_total("Today", sum(account.today for account in page_data.accounts), "running, in UTC")
    yield _render_total("This month", month, f"{format_money(billed)} billed ({format_percent(billed, month)}){rest}")
    yield _render_total("30 days", sum(bar.billed + bar.estimated for bar in bars), f"{since} to today")


def _render_total(name: str, nano_usd: int, note: str) -> str:
    return f'<div><dt>{name}</dt><dd class="sum">{format_money(nano_usd)}</dd><dd><small>{note}</small></dd></div>'
