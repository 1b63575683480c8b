"""The landing page: every account with its health, its money and, first of all, what someone has to do."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from html import escape

from exporter import __version__
from exporter.errors import KeyRejected, ProviderError
from exporter.ledger import Day, Ledger
from exporter.members import Member
from exporter.model import DAY, NANO
from exporter.windows import Span, days_back, floor, slots

DAYS = 7
"""How many days the page shows one by one."""

_STYLE = """
:root{color-scheme:light dark;--line:#8884;--good:#1a7f37;--wait:#9a6700;--bad:#cf222e}
@media (prefers-color-scheme:dark){:root{--good:#3fb950;--wait:#d29922;--bad:#f85149}}
body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;width:100%}
td,th{text-align:left;padding:.35rem .8rem .35rem 0;border-bottom:1px solid var(--line)}
th{white-space:nowrap}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
.good{color:var(--good)}.wait{color:var(--wait)}.bad{color:var(--bad)}
.wide{overflow-x:auto}.open{font-style:italic;opacity:.8}small{opacity:.75}
.problem{border-left:4px solid var(--bad);padding:.2rem 1rem;margin:1rem 0}
"""


def landing_page(members: Sequence[Member], ledger: Ledger, now: datetime) -> str:
    """Return the page as HTML: no scripts, nothing loaded from elsewhere."""
    rows = "".join(_row(member, ledger, now) for member in members)
    problems = "".join(_problems(member) for member in members)
    shown = list(slots(days_back(now, DAYS - 1), now, DAY))
    dates = "".join(f'<th class="n">{day:%a %m-%d}</th>' for day in shown)
    days = "".join(_days(member, ledger, shown) for member in members)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>AI spend exporter</title><style>{_STYLE}</style></head><body>
<h1>AI spend exporter</h1>
<p><a href="metrics">Metrics</a> · version {escape(__version__)} · {now:%Y-%m-%d %H:%M} UTC</p>
{problems}
<div class="wide"><table><thead><tr><th>Account</th><th>Provider</th><th>Owner</th><th>State</th>
<th class="n">Today</th><th class="n">Month</th><th>Complete until</th><th>Last sync</th></tr></thead>
<tbody>{rows}</tbody></table></div>
<h2>The last days</h2>
<div class="wide"><table><thead><tr><th>Account</th>{dates}</tr></thead>
<tbody>{days}</tbody></table></div>
<p><small>Money in USD, days in UTC. <span class="open">≈ estimated</span> until the provider has billed the day;
* corrected since it was first billed.</small></p>
</body></html>
"""


def _row(member: Member, ledger: Ledger, now: datetime) -> str:
    today, tomorrow = floor(now, DAY), floor(now, DAY) + DAY
    days = ledger.costs.days(member.book.number, Span(today.replace(day=1), tomorrow))
    month = sum(day.cost for day in days)
    spent = sum(day.cost for day in days if day.start == today)
    kind, words = _state(member, ledger)
    synced = max((one.until for one in member.covered(ledger).values() if one is not None), default=None)
    account = member.account
    cells = (account.name, account.provider, account.owner)
    return (
        "<tr>"
        + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        + f'<td class="{kind}">{escape(words)}</td><td class="n">{_money(spent)}</td><td class="n">{_money(month)}</td>'
        + f"<td>{_moment(member.complete_until(ledger))}</td><td>{_ago(synced, now)}</td></tr>\n"
    )


def _days(member: Member, ledger: Ledger, shown: Sequence[datetime]) -> str:
    known = {day.start: day for day in ledger.costs.days(member.book.number, Span(shown[0], shown[-1] + DAY))}
    told = member.told_span(ledger)
    heard = [told is not None and told.start <= start < told.end for start in shown]
    cells = "".join(_day(known.get(day), "0" if was else "?") for day, was in zip(shown, heard, strict=True))
    return f"<tr><td>{escape(member.account.name)}</td>{cells}</tr>\n"


def _day(day: Day | None, otherwise: str) -> str:
    if day is None:
        return f'<td class="n">{otherwise}</td>'
    if not day.billed:
        return f'<td class="n open" title="estimated">≈ {_money(day.cost)}</td>'
    first = f", first {_money(day.first)}" if day.restated else ""
    return f'<td class="n" title="billed{first}">{_money(day.cost)}{"*" * bool(day.restated)}</td>'


def _state(member: Member, ledger: Ledger) -> tuple[str, str]:
    if member.stopped:
        return "bad", "stopped: key rejected"
    if member.health.problems:
        reasons = sorted({error.reason.replace("_", " ") for error in member.health.reasons()})
        return "bad", "failing: " + ", ".join(reasons)
    return ("good", "up") if member.up(ledger) else ("wait", "first poll under way")


def _problems(member: Member) -> str:
    told: dict[str, ProviderError] = {str(error): error for error in member.health.reasons()}
    return "".join(_problem(member, error) for error in told.values())


def _problem(member: Member, error: ProviderError) -> str:
    advice = f"<br>{escape(error.advice)}" if isinstance(error, KeyRejected) else ""
    return f'<div class="problem"><strong>{escape(member.account.name)}</strong>: {escape(str(error))}{advice}</div>\n'


def _money(nano: int) -> str:
    return f"${nano / NANO:,.2f}"


def _moment(moment: datetime | None) -> str:
    return "not yet" if moment is None else f"{moment:%m-%d %H:%M}"


def _ago(moment: datetime | None, now: datetime) -> str:
    if moment is None:
        return "never"
    passed = max(now - moment, timedelta(0))
    if passed < timedelta(minutes=2):
        return f"{passed.seconds} s ago"
    return f"{passed // timedelta(minutes=1)} min ago" if passed < timedelta(hours=2) else f"{moment:%m-%d %H:%M}"
