"""Rows of the budgets dashboard."""

# Queries and descriptions are not wrapped.
# ruff: noqa: E501

from __future__ import annotations

from grafana.dashboard_sources.shared import BUDGET_THRESHOLDS, BURN_RATE_THRESHOLDS, DashboardRows, RowSpec, link_to
from grafana.panels import (
    RATIO,
    TIME,
    USD_TO_THE_CENT,
    Column,
    PanelSpec,
    Query,
    Style,
    table_panel,
    table_query,
    time_series_panel,
)

_SELECTED = 'budget=~"$budget",owner=~"$owner"'
_BY = "budget, owner, period"
_FORECAST_THRESHOLDS = ((None, "green"), (1.0, "orange"), (1.2, "red"))


def _total(metric: str, matchers: str = _SELECTED) -> str:
    # With --shard each exporter exports its share of a budget.
    return f"sum by ({_BY}) ({metric}{{{matchers}}})"


_LIMIT = f"max by ({_BY}) (ai_budget_limit_usd{{{_SELECTED}}})"


def _past(metric: str, scraped: str) -> str:
    """Return a budget's value over time: from served history, else as it was scraped."""
    served = f"sum by ({_BY}) (last_over_time({metric}{{{_SELECTED}}}[6h]))"
    return f"{served} or {scraped}"


def _overview() -> PanelSpec:
    spent, forecast = _total("ai_budget_spent_usd"), _total("ai_budget_forecast_usd")
    exhausted_at = f"min by ({_BY}) (ai_budget_exhaustion_timestamp_seconds{{{_SELECTED}}})"
    state = f"(3 * ({spent} >= {_LIMIT}) ^ 0) or (2 * ({forecast} >= {_LIMIT}) ^ 0) or (1 * ({spent} >= 0.8 * {_LIMIT}) ^ 0) or (0 * {_LIMIT})"
    return table_panel(
        "Budgets",
        "Spend, forecast and limit of the running period (UTC), the worst first. A burn rate of 1 uses up the limit exactly at the end of the period. The bar ends at 120 %. Orange from 80 %, red from 100 %.",
        [
            Column(
                "State",
                table_query(state),
                thresholds=((None, "green"), (1, "yellow"), (2, "orange"), (3, "red")),
                width=140,
            ),
            Column("Exhausted", table_query(f"{exhausted_at} * 1000"), TIME, width=100),
            Column(
                "Spent / limit",
                table_query(f"{spent} / {_LIMIT}"),
                RATIO,
                0,
                BUDGET_THRESHOLDS,
                max_gauge=1.2,
                width=220,
            ),
            Column(
                "Forecast / limit", table_query(f"{forecast} / {_LIMIT}"), RATIO, 0, _FORECAST_THRESHOLDS, width=120
            ),
            Column("Spent (USD)", table_query(spent), USD_TO_THE_CENT),
            Column("Forecast (USD)", table_query(forecast), USD_TO_THE_CENT),
            Column("Limit (USD)", table_query(_LIMIT), USD_TO_THE_CENT),
            Column(
                "Burn 1 h",
                table_query(_total("ai_budget_burn_rate", f'{_SELECTED},window="1h"')),
                "short",
                1,
                BURN_RATE_THRESHOLDS,
            ),
            Column(
                "Burn 1 d",
                table_query(_total("ai_budget_burn_rate", f'{_SELECTED},window="1d"')),
                "short",
                1,
                BURN_RATE_THRESHOLDS,
            ),
        ],
        label_columns={"budget": "Budget", "owner": "Owner", "period": "Period"},
        label_widths={"Owner": 100, "Period": 75},
        sort_by="State",
        value_mappings={
            "State": {
                "0": ("on track", "green"),
                "1": ("80 % spent", "yellow"),
                "2": ("will exceed", "orange"),
                "3": ("spent", "red"),
            }
        },
        links={"Budget": (link_to("ai-spend-budgets", "Show only this budget", budget="${__value.raw}"),)},
        width=24,
        height=8,
        no_value="No budget is configured: see budgets in docs/configuration.md",
    )


def budget_rows() -> DashboardRows:
    """Return the rows of the budgets dashboard."""
    elapsed_share = {
        "day": "hour() / 24 + minute() / 1440",
        "week": "((day_of_week() + 6) % 7 + hour() / 24) / 7",
        "month": "(day_of_month() - 1 + hour() / 24) / days_in_month()",
    }
    limit = f"max by ({_BY}) (last_over_time(ai_budget_history_limit_usd{{{_SELECTED}}}[6h])) or {_LIMIT}"
    even_spend = " or ".join(
        f'({limit}) * scalar({share}) and on (period) label_replace(vector(1), "period", "{period}", "", "")'
        for period, share in elapsed_share.items()
    )
    return (
        RowSpec("All budgets", (_overview(),)),
        RowSpec(
            "Spend, forecast and limit",
            (
                time_series_panel(
                    "$budget",
                    "Spend of the period, its forecast as it was at that time, an even pace and the limit; a new period starts at 0. From served history if remote read is configured (a value every six hours, of budgets per day every hour), otherwise from scraped metrics.",
                    Query(_past("ai_budget_history_spent_usd", _total("ai_budget_spent_usd")), "spent"),
                    Query(_past("ai_budget_history_forecast_usd", _total("ai_budget_forecast_usd")), "forecast"),
                    Query(even_spend, "even pace"),
                    Query(limit, "limit"),
                    styles=(
                        Style("spent", "blue", fill_opacity=20),
                        Style("forecast", "orange", is_dashed=True),
                        Style("even pace", "text", is_dashed=True),
                        Style("limit", "red"),
                    ),
                    width=12,
                    height=8,
                    repeat="budget",
                    no_value="No spend of this budget is known yet",
                ),
            ),
        ),
        RowSpec(
            "Burn rates",
            (
                time_series_panel(
                    "Burn rates",
                    "Spend of complete hours relative to an even pace. 1: used up exactly at the end of the period. 1.5 over three days: a warning. 14.4 over one hour: a critical alert.",
                    Query(
                        f"sum by (budget, window) (last_over_time(ai_budget_history_burn_rate{{{_SELECTED}}}[6h])) or sum by (budget, window) (ai_budget_burn_rate{{{_SELECTED}}})",
                        "{{budget}} {{window}}",
                    ),
                    unit="short",
                    thresholds=BURN_RATE_THRESHOLDS,
                    width=24,
                    no_value="No burn rate is known yet",
                ),
            ),
            collapsed=True,
        ),
    )
