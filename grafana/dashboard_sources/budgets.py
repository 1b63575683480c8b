"""Rows of the budgets dashboard."""

# Queries and descriptions are not wrapped.
# ruff: noqa: E501

from __future__ import annotations

from grafana.dashboard_sources.shared import BUDGET_THRESHOLDS, BURN_RATE_THRESHOLDS, DashboardRows
from grafana.panels import RATIO, SECONDS, TIME, USD, Query, bar_gauge_panel, table_panel, time_series_panel


def budget_rows() -> DashboardRows:
    """Return the rows of the budgets dashboard."""
    selected = 'budget=~"$budget",owner=~"$owner"'

    def table(expr: str) -> Query:
        return Query(f"max by (budget, owner, period) ({expr})", instant=True, table=True)

    def total(metric: str) -> str:
        # With --shard each exporter exports its share of a budget.
        return f"sum by (budget, owner, period) ({metric}{{{selected}}})"

    limit = f"max by (budget, owner, period) (ai_budget_limit_usd{{{selected}}})"
    elapsed_share = {
        "day": "hour() / 24 + minute() / 1440",
        "week": "((day_of_week() + 6) % 7 + hour() / 24) / 7",
        "month": "(day_of_month() - 1 + hour() / 24) / days_in_month()",
    }
    even_spend = " or ".join(
        f'max by (budget, owner, period) (ai_budget_limit_usd{{{selected},period="{period}"}}) * scalar({share})'
        for period, share in elapsed_share.items()
    )
    return (
        (
            "All budgets",
            (
                table_panel(
                    "Budgets",
                    "Spend, forecast and limit of the current period (UTC). A burn rate of 1 uses up the limit exactly at the end of the period.",
                    [
                        ("Limit", table(limit), USD),
                        ("Spent", table(total("ai_budget_spent_usd")), USD),
                        ("Spent / limit", table(f"{total('ai_budget_spent_usd')} / {limit}"), RATIO),
                        ("Forecast", table(total("ai_budget_forecast_usd")), USD),
                        (
                            "Burn rate 1h",
                            table(f'sum by (budget, owner, period) (ai_budget_burn_rate{{{selected},window="1h"}})'),
                            "short",
                        ),
                        (
                            "Burn rate 1d",
                            table(f'sum by (budget, owner, period) (ai_budget_burn_rate{{{selected},window="1d"}})'),
                            "short",
                        ),
                        ("Exhausted", table(f"ai_budget_exhaustion_timestamp_seconds{{{selected}}} * 1000"), TIME),
                    ],
                    sort_by="Spent / limit",
                    width=24,
                ),
                bar_gauge_panel(
                    "Spent / limit",
                    "Spend relative to the limit. Green below 80 %, orange from 80 %, red from 100 %.",
                    Query(f"{total('ai_budget_spent_usd')} / {limit}", "{{budget}} ({{owner}}, {{period}})"),
                    thresholds=BUDGET_THRESHOLDS,
                    width=12,
                    max_value=1.2,
                ),
                bar_gauge_panel(
                    "Forecast / limit",
                    "Forecast spend at the end of the period, relative to the limit. Orange above 100 %, red above 120 %.",
                    Query(f"{total('ai_budget_forecast_usd')} / {limit}", "{{budget}} ({{owner}}, {{period}})"),
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
                    "Spend of the current period, and its limit; a new period starts at 0. Even spend: the limit times the elapsed share of the period.",
                    Query(total("ai_budget_spent_usd"), "{{budget}} spent"),
                    Query(limit, "{{budget}} limit"),
                    Query(even_spend, "{{budget}} even spend"),
                ),
                time_series_panel(
                    "Forecast and limit",
                    "Forecast spend at the end of the period, as calculated at that time, and the limit.",
                    Query(total("ai_budget_forecast_usd"), "{{budget}} forecast"),
                    Query(limit, "{{budget}} limit"),
                ),
                time_series_panel(
                    "Burn rates",
                    "Spend of the newest complete hours relative to even spend. 1: used up exactly at the end of the period. 1.5 over three days: a warning. 14.4 over one hour: a critical alert.",
                    Query(f"sum by (budget, window) (ai_budget_burn_rate{{{selected}}})", "{{budget}} {{window}}"),
                    unit="short",
                    thresholds=BURN_RATE_THRESHOLDS,
                ),
                time_series_panel(
                    "Time to exhaustion",
                    "Time until the limit is reached, from known and expected cost; absent if the limit is not reached in this period.",
                    Query(
                        f"max by (budget) (ai_budget_exhaustion_timestamp_seconds{{{selected}}}) - time() > 0",
                        "{{budget}}",
                    ),
                    unit=SECONDS,
                ),
            ),
        ),
    )
