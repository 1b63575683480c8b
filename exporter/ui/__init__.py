"""The landing page: alerts first, then every account's cost. No scripts, no external resources.

It is rendered for each request from the newest snapshots, so it never waits for the poller.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from html import escape

from exporter import __version__
from exporter.model import ChangeEvent
from exporter.snapshot.account_snapshot import AccountSnapshot
from exporter.snapshot.budgets import EvaluatedBudget
from exporter.ui.budgets import render_budget_bars
from exporter.ui.chart import render_chart
from exporter.ui.links import METRICS_PATH, SPEND_DASHBOARD, SUMMARY_PATH, PageLinks, render_link
from exporter.ui.overview import render_alerts, render_health, render_notices, render_totals
from exporter.ui.page_data import PageData, collect_page_data
from exporter.ui.style import HATCH_PATTERN, STYLE
from exporter.ui.tables import render_accounts, render_changes, render_models, render_one_time_costs


def render_landing_page(
    snapshots: Iterable[AccountSnapshot],
    budgets: Sequence[EvaluatedBudget],
    change_events: Sequence[ChangeEvent],
    now: datetime,
    links: PageLinks = PageLinks(),  # noqa: B008 - immutable
) -> str:
    """Return the page as HTML; `snapshots` and `budgets` are those that /metrics shows."""
    return render_page(collect_page_data(snapshots, budgets, change_events, now, links))


def render_page(page_data: PageData) -> str:
    """Render the page data as HTML."""
    chart = render_chart(page_data.bars()) if page_data.accounts else ""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>AI spend exporter</title><style>{STYLE}</style></head><body>
{HATCH_PATTERN}<header><div class="pair"><h1>AI spend exporter</h1>
{_render_navigation(page_data.links)}</div>
<p class="top">version {escape(__version__)} · {page_data.now:%Y-%m-%d %H:%M} UTC</p>
{render_health(page_data)}</header><main>
{render_totals(page_data)}{render_alerts(page_data)}{render_notices(page_data)}{chart}
{render_budget_bars(page_data.budgets, page_data.now, page_data.links)}
{render_accounts(page_data)}{render_models(page_data)}{render_one_time_costs(page_data)}{render_changes(page_data)}</main>
<footer><small>Money in USD, days in UTC. ≈ estimated until the provider has billed the day;
* corrected since it was first billed.</small></footer>
</body></html>
"""


def _render_navigation(links: PageLinks) -> str:
    """Return the links to everything else; a page whose address is not configured is left out."""
    pages = (
        (links.dashboard(SPEND_DASHBOARD), "Dashboards"),
        (SUMMARY_PATH, "Summary (JSON)"),
        (METRICS_PATH, "Metrics"),
        (links.runbook(""), "Runbooks"),
        (links.document("metrics.md"), "Documentation"),
    )
    items = "".join(f"<li>{render_link(address, name)}</li>" for address, name in pages if address)
    return f'<nav aria-label="Pages"><ul>{items}</ul></nav>'
