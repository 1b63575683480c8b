"""The top of the landing page: health in one line, problems with their advice, milder notices, the large figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from exporter.ui.format import clock, counted, day, lasting, money, percent, text
from exporter.ui.page_data import FIRST, Account, Facts, State, Trouble
from exporter.ui.style import told

MOST_PROBLEMS = 20
"""Shown at once; the rest unfolds."""
MOST_NAMED = 10
"""In one notice."""


def health(facts: Facts) -> str:
    """Return one line on how all accounts fare."""
    state, words = _health(facts.accounts)
    return f'<p class="health">{told(state, words)}</p>\n'


def _health(accounts: Sequence[Account]) -> tuple[State, str]:
    if not accounts:
        return "wait", "No account is configured"
    bad = sum(one.state == "bad" for one in accounts)
    first = sum(one.words == FIRST for one in accounts)
    late = sum(_only_late(one) for one in accounts)
    rest = "".join([f"; {first:,} in the first poll" if first else "", f"; {late:,} with late data" if late else ""])
    if bad:
        return "bad", f"{bad:,} of {counted(len(accounts), 'account')} {'need' if bad > 1 else 'needs'} somebody{rest}"
    if rest:
        return "wait", f"{counted(len(accounts), 'account')}, none fails{rest}"
    return "good", "1 account, up" if len(accounts) == 1 else f"{len(accounts):,} accounts, all up"


def problems(facts: Facts) -> str:
    """Return every problem with what to do about it; nothing where there is none."""
    boxes = [_problem(one, facts) for account in facts.accounts for one in account.troubles]
    more = "".join(boxes[MOST_PROBLEMS:])
    rest = f"<details><summary>{len(boxes) - MOST_PROBLEMS:,} more</summary>\n{more}</details>\n" if more else ""
    return "".join(boxes[:MOST_PROBLEMS]) + rest


def _problem(trouble: Trouble, facts: Facts) -> str:
    owner = f" (owner {text(trouble.owner)})" if trouble.owner else " (no owner)"
    what = f" · {text(', '.join(trouble.reports))}" if trouble.reports else ""
    advice = f"<p><strong>What to do:</strong> {text(trouble.advice)}</p>" if trouble.advice else ""
    others = "".join(f"<p>{text(one)}</p>" for one in trouble.words[1:])
    more = f"<details><summary>{len(trouble.words) - 1} more of the kind</summary>{others}</details>" if others else ""
    since = "Nothing was ever read."
    if trouble.since is not None:
        since = f"Nothing read since {clock(trouble.since)} UTC ({lasting(facts.now - trouble.since)})."
    return (
        f'<div class="problem"><p><strong class="bad">{text(trouble.account)}</strong>{owner}{what}</p>'
        f'<p>{text(trouble.words[0])}</p>{more}{advice}<p class="muted">{since}</p></div>\n'
    )


def notices(facts: Facts) -> str:
    """Return what is worth knowing and not yet a problem, one notice of a kind."""
    every = facts.accounts
    late = [f"{text(one.name)} ({_mark(one, facts)})" for one in every if _only_late(one)]
    unpriced = [
        f"{text(model)} of {text(one.name)} ({counted(tokens, 'token')})"
        for one in every
        for model, tokens in sorted(one.unpriced.items(), key=lambda told: -told[1])
    ]
    folded = [f"{text(one.name)} ({one.folded:,} series)" for one in every if one.folded]
    spare = [f"{text(one.name)} ({text(one.spare)})" for one in every if one.spare]
    kinds = (
        ("New key not used", spare, "The key before it still works here."),
        ("First poll under way", [text(one.name) for one in every if one.words == FIRST], "Numbers are not whole yet."),
        ("Data is late", late, "What was used since is not in the numbers yet."),
        ("No price known today", unpriced, "They cost nothing here: give the price in <code>prices:</code>."),
        ("Series folded into <code>other</code>", folded, "Sums stay right; <code>max_series</code> keeps more names."),
    )
    return "".join(_notice(title, items, advice) for title, items, advice in kinds if items)


def _notice(title: str, items: Sequence[str], advice: str) -> str:
    more = f" and {len(items) - MOST_NAMED:,} more" if len(items) > MOST_NAMED else ""
    return (
        f'<div class="notice"><p><strong class="wait">{title}:</strong> {", ".join(items[:MOST_NAMED])}{more}. '
        f"{advice}</p></div>\n"
    )


def _only_late(account: Account) -> bool:
    return account.late and account.state != "bad"


def _mark(account: Account, facts: Facts) -> str:
    until = account.complete_until
    return "" if until is None else f"complete until {clock(until)}, {lasting(facts.now - until)} ago"


def figures(facts: Facts) -> str:
    """Return today, this month and the 30 days as large figures."""
    return '<dl class="figures">' + "".join(_figures(facts)) + "</dl>\n"


def _figures(facts: Facts) -> Iterator[str]:
    bars, month = facts.bars(), sum(one.month for one in facts.accounts)
    billed = sum(one.month_billed for one in facts.accounts)
    rest = ", the rest estimated" if billed != month else ""
    since = day(bars[0].start)
    yield _figure("Today", sum(one.today for one in facts.accounts), "running, in UTC")
    yield _figure("This month", month, f"{money(billed)} billed ({percent(billed, month)}){rest}")
    yield _figure("30 days", sum(bar.billed + bar.estimated for bar in bars), f"{since} to today")


def _figure(name: str, nano: int, words: str) -> str:
    return f'<div><dt>{name}</dt><dd class="sum">{money(nano)}</dd><dd><small>{words}</small></dd></div>'
