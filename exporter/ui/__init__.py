"""The landing page: first of all what someone has to do, then every account's money. No scripts, nothing from outside.

It is written anew for each request from the ledger, which is only read: nobody who polls waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from html import escape

from exporter import __version__
from exporter.ledger import Ledger
from exporter.metrics.budgets import Told
from exporter.metrics.labels import Places
from exporter.polling.account_state import Member
from exporter.ui.budgets import budgets as budget_bars
from exporter.ui.chart import chart
from exporter.ui.overview import figures, health, notices, problems
from exporter.ui.page_data import Facts, facts
from exporter.ui.style import HATCH, STYLE
from exporter.ui.tables import accounts, changes, models


def landing_page(
    members: Iterable[Member],
    ledger: Ledger,
    places: Callable[[tuple[str, str]], Places | None],
    budgets: Sequence[Told],
    now: datetime,
) -> str:
    """Return the page as HTML; `places` and `budgets` are those that /metrics shows."""
    return html(facts(members, ledger, places, budgets, now))


def html(shown: Facts) -> str:
    """Return what is shown as HTML."""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>AI spend exporter</title><style>{STYLE}</style></head><body>
{HATCH}<header><h1>AI spend exporter</h1>
<p class="top"><a href="metrics">Metrics</a> · version {escape(__version__)} · {shown.now:%Y-%m-%d %H:%M} UTC</p>
{health(shown)}</header><main>
{problems(shown)}{notices(shown)}{figures(shown)}{chart(shown.bars())}{budget_bars(shown.budgets, shown.now)}
{accounts(shown)}{models(shown)}{changes(shown)}</main>
<footer><small>Money in USD, days in UTC. ≈ estimated until the provider has billed the day;
* corrected since it was first billed.</small></footer>
</body></html>
"""
