"""How every budget stands."""

# A query or a text stands on one line.
# ruff: noqa: E501

from __future__ import annotations

from grafana.dashboard_sources.words import BUDGET_THRESHOLDS, BURN_RATE_THRESHOLDS, DashboardRows
from grafana.panels import RATIO, SECONDS, TIME, USD, Query, bar_gauge_panel, table_panel, time_series_panel


def budget_rows() -> DashboardRows:
    """Return how every budget stands."""
    chosen = 'budget=~"$budget",owner=~"$owner"'

    def table(expr: str) -> Query:
        return Query(f"max by (budget, owner, period) ({expr})", instant=True, table=True)

    def whole(metric: str) -> str:
        return f"sum by (budget, owner, period) ({metric}{{{chosen}}})"

    limit = f"max by (budget, owner, period) (ai_budget_limit_usd{{{chosen}}})"
    passed = {
        "day": "hour() / 24 + minute() / 1440",
        "week": "((day_of_week() + 6) % 7 + hour() / 24) / 7",
        "month": "(day_of_month() - 1 + hour() / 24) / days_in_month()",
    }
    pace = " or ".join(
        f'max by (budget, owner, period) (ai_budget_limit_usd{{{chosen},period="{period}"}}) * scalar({share})'
        for period, share in passed.items()
    )
    return (
        (
            "Every budget",
            (
                table_panel(
                    "Budgets",
                    "Spent, expected and allowed in the running period (UTC). A burn rate of 1 uses the limit up exactly.",
                    [
                        ("Limit", table(limit), USD),
                        ("Spent", table(whole("ai_budget_spent_usd")), USD),
                        ("Spent of limit", table(f"{whole('ai_budget_spent_usd')} / {limit}"), RATIO),
                        ("Forecast", table(whole("ai_budget_forecast_usd")), USD),
                        (
                            "Burn 1h",
                            table(f'sum by (budget, owner, period) (ai_budget_burn_rate{{{chosen},window="1h"}})'),
                            "short",
                        ),
                        (
                            "Burn 1d",
                            table(f'sum by (budget, owner, period) (ai_budget_burn_rate{{{chosen},window="1d"}})'),
                            "short",
                        ),
                        ("Runs out", table(f"ai_budget_exhaustion_timestamp_seconds{{{chosen}}} * 1000"), TIME),
                    ],
                    sort_by="Spent of limit",
                    width=24,
                ),
                bar_gauge_panel(
                    "Spent",
                    "Spent of the limit. Green below 80 %, orange from there, red above the limit.",
                    Query(f"{whole('ai_budget_spent_usd')} / {limit}", "{{budget}} ({{owner}}, {{period}})"),
                    thresholds=BUDGET_THRESHOLDS,
                    width=12,
                    max_value=1.2,
                ),
                bar_gauge_panel(
                    "Forecast",
                    "What the period is expected to come to, of the limit. Orange above 100 %, red above 120 %.",
                    Query(f"{whole('ai_budget_forecast_usd')} / {limit}", "{{budget}} ({{owner}}, {{period}})"),
                    thresholds=((None, "green"), (1.0, "orange"), (1.2, "red")),
                    width=12,
                    max_value=1.5,
                ),
            ),
        ),
        (
            "Over time",
            (
                time_series_panel(
                    "Spent and limit",
                    "Spent in the running period, and its limit; a new period begins at 0. Pace is what an even spend would have come to by then.",
                    Query(whole("ai_budget_spent_usd"), "{{budget}} spent"),
                    Query(limit, "{{budget}} limit"),
                    Query(pace, "{{budget}} pace"),
                ),
                time_series_panel(
                    "Forecast",
                    "What the running period was expected to come to, as it was known then, and its limit.",
                    Query(whole("ai_budget_forecast_usd"), "{{budget}} forecast"),
                    Query(limit, "{{budget}} limit"),
                ),
                time_series_panel(
                    "Burn rates",
                    "Spend of the newest complete hours relative to an even pace. 1: used up exactly. 1.5 for three days: a ticket. 14.4 in an hour: a page.",
                    Query(f"sum by (budget, window) (ai_budget_burn_rate{{{chosen}}})", "{{budget}} {{window}}"),
                    unit="short",
                    thresholds=BURN_RATE_THRESHOLDS,
                ),
                time_series_panel(
                    "Time left",
                    "Until the limit is reached, by known and expected hours; nothing where it is not in this period.",
                    Query(
                        f"max by (budget) (ai_budget_exhaustion_timestamp_seconds{{{chosen}}}) - time() > 0",
                        "{{budget}}",
                    ),
                    unit=SECONDS,
                ),
            ),
        ),
    )
