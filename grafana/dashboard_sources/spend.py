"""Rows of the main dashboard: spend by provider, account, workspace and model."""

# Queries and descriptions are not wrapped.
# ruff: noqa: E501

from __future__ import annotations

from grafana.dashboard_sources.shared import (
    ACCOUNT_MATCHERS,
    BUDGET_THRESHOLDS,
    CACHE_HIT_DESCRIPTION,
    DAILY_BARS_NOTE,
    DATA_DELAY_THRESHOLDS,
    END,
    HISTORY_NOTE,
    MODEL_MATCHERS,
    WORKSPACE_MATCHERS,
    DashboardRows,
    cost_per_day,
    cost_per_interval,
)
from grafana.panels import (
    RATIO,
    REQUESTS,
    SECONDS,
    TIME,
    TOKENS,
    USD,
    Query,
    bar_chart_panel,
    bar_gauge_panel,
    stat_panel,
    table_panel,
    time_series_panel,
)


def _top_models_queries(window: str) -> list[tuple[str, Query, str]]:
    def table(expr: str) -> Query:
        return Query(expr, instant=True, table=True)

    cost, requests, tokens = (
        f"sum by (model) (ai_{metric}{{{MODEL_MATCHERS}}})"
        for metric in (f"cost_{window}_usd", f"requests_{window}", f"tokens_{window}")
    )
    return [
        ("Cost", table(f"topk(15, {cost} > 0)"), USD),
        (
            "Share",
            table(
                f"{cost} / on () group_left () sum(ai_cost_{window}_usd{{{MODEL_MATCHERS}}}) and topk(15, {cost} > 0)"
            ),
            RATIO,
        ),
        ("Requests", table(f"{requests} and on (model) topk(15, {cost} > 0)"), REQUESTS),
        ("Per request", table(f"{cost} / ({requests} > 0) and topk(15, {cost} > 0)"), USD),
        ("Per 1k tokens", table(f"1000 * {cost} / ({tokens} > 0) and topk(15, {cost} > 0)"), USD),
    ]


def spend_rows() -> DashboardRows:
    """Return the rows of the main dashboard."""
    last_week = f"sum(sum_over_time(ai_hourly_cost_usd{{{MODEL_MATCHERS}}}[7d]))"
    week_before = f"sum(sum_over_time(ai_hourly_cost_usd{{{MODEL_MATCHERS}}}[7d] offset 7d))"
    return (
        (
            "Now",
            (
                stat_panel(
                    "Today",
                    "Since midnight UTC, including the current hour: billed where billed, estimated otherwise.",
                    Query(f"sum(ai_cost_today_usd{{{MODEL_MATCHERS}}})", "today"),
                ),
                stat_panel(
                    "This month",
                    "Since the first of the month, UTC.",
                    Query(f"sum(ai_cost_month_usd{{{MODEL_MATCHERS}}})", "month"),
                ),
                stat_panel(
                    "Month forecast",
                    "Expected cost of the whole month: the forecast that budgets over whole accounts have. With a workspace or model selected, its share by the cost of the last 30 days.",
                    Query(
                        f"sum(sum by (provider, account) (ai_cost_month_forecast_usd{{{ACCOUNT_MATCHERS}}}) * on (provider, account) sum by (provider, account) (ai_cost_30d_usd{{{MODEL_MATCHERS}}}) / (sum by (provider, account) (ai_cost_30d_usd{{{ACCOUNT_MATCHERS}}}) > 0))",
                        "forecast",
                    ),
                ),
                stat_panel(
                    "Last 30 days",
                    "Today and the previous 29 days.",
                    Query(f"sum(ai_cost_30d_usd{{{MODEL_MATCHERS}}})", "30 days"),
                ),
                stat_panel(
                    "vs. last week",
                    "Complete hours of the last 7 days compared with the 7 days before, from served history. Orange: 25 % more. Red: 100 % more.",
                    Query(f"{last_week} / {week_before} - 1", "change", instant=True),
                    unit=RATIO,
                    thresholds=((None, "green"), (0.25, "orange"), (1.0, "red")),
                ),
                stat_panel(
                    "Data delay",
                    "Age of the oldest watermark of the selected accounts' hourly usage: data is complete until then. Orange from 3 hours; red from 4 hours, when spike alerts stop.",
                    Query(
                        f'time() - min(ai_account_complete_until_timestamp_seconds{{{ACCOUNT_MATCHERS},kind="usage",width="hour"}})',
                        "delay",
                    ),
                    unit=SECONDS,
                    thresholds=DATA_DELAY_THRESHOLDS,
                ),
            ),
        ),
        (
            "Cost over time",
            (
                time_series_panel(
                    "Daily cost by $group_by",
                    f"Cost per day as currently known, restatements included, and today so far; {DAILY_BARS_NOTE}. {HISTORY_NOTE}.",
                    Query(
                        cost_per_day("$group_by", MODEL_MATCHERS),
                        "{{$group_by}}",
                        interval="1d",
                    ),
                    stacked=True,
                    bars=True,
                    interval="1d",
                    width=16,
                    height=11,
                ),
                bar_chart_panel(
                    "Daily cost, last 35 days",
                    "Cost of each UTC day as currently known. Requires neither served history nor a dashboard time zone.",
                    (
                        "cost",
                        Query(f"sum by (date) (ai_cost_daily_usd{{{ACCOUNT_MATCHERS}}})", instant=True, table=True),
                    ),
                    x="date",
                    width=8,
                    height=11,
                ),
                time_series_panel(
                    "Cost by $group_by",
                    f"Cost per hour, or per larger interval where the time range is long, as currently known; the newest bar includes the running hour. {HISTORY_NOTE}: then of the newest complete hour.",
                    Query(
                        cost_per_interval("$group_by", MODEL_MATCHERS),
                        "{{$group_by}}",
                        interval="1h",
                    ),
                    stacked=True,
                    bars=True,
                    interval="1h",
                    width=12,
                ),
                time_series_panel(
                    "Last hour, expected and upper bound",
                    "Cost of the newest complete hour, its expected cost (the median of the same hour of the previous 14 days) and the upper bound above which it is unusual. From scraped metrics only: starts with Prometheus and follows an hour once it is complete.",
                    Query(f"sum(ai_cost_last_hour_usd{{{WORKSPACE_MATCHERS}}})", "cost"),
                    Query(f"sum(ai_cost_last_hour_expected_usd{{{WORKSPACE_MATCHERS}}})", "expected"),
                    Query(f"sum(ai_cost_last_hour_upper_bound_usd{{{WORKSPACE_MATCHERS}}})", "upper bound"),
                    time_from="24h",
                    width=12,
                ),
            ),
        ),
        (
            "Breakdown",
            (
                table_panel(
                    "Top models, last 30 days",
                    "Cost, share of the selected cost, requests, cost per request and per 1,000 tokens. Requests are empty where the provider does not report them.",
                    _top_models_queries("30d"),
                    sort_by="Cost",
                    width=16,
                    height=12,
                ),
                time_series_panel(
                    "Tokens by type",
                    f"Tokens by type per hour, or per larger interval where the time range is long; complete hours only. Types are disjoint and sum to all tokens. {HISTORY_NOTE}: then of the newest complete hour.",
                    Query(
                        f"sum by (type) (sum_over_time(ai_hourly_tokens{{{MODEL_MATCHERS}}}[$__interval] offset -$__interval)) or (sum by (type) (ai_tokens_last_hour{{{MODEL_MATCHERS}}}) unless on () count(last_over_time(ai_hourly_tokens{{{MODEL_MATCHERS}}}[2d] {END})))",
                        "{{type}}",
                        interval="1h",
                    ),
                    unit=TOKENS,
                    stacked=True,
                    interval="1h",
                    width=8,
                    height=12,
                ),
                time_series_panel(
                    "Cache hit ratio",
                    f"{CACHE_HIT_DESCRIPTION} By UTC day and workspace, from served history if remote read is configured, otherwise from scraped metrics.",
                    Query(
                        f'sum by (account, workspace) (sum_over_time(ai_hourly_tokens{{{MODEL_MATCHERS},type=~".*cache_read"}}[1d] offset -1d)) / sum by (account, workspace) (sum_over_time(ai_hourly_tokens{{{MODEL_MATCHERS},type!~".*output"}}[1d] offset -1d)) or sum by (account, workspace) (ai_tokens_today{{{MODEL_MATCHERS},type=~".*cache_read"}}) / sum by (account, workspace) (ai_tokens_today{{{MODEL_MATCHERS},type!~".*output"}})',
                        "{{account}} / {{workspace}}",
                        interval="1d",
                    ),
                    unit=RATIO,
                    interval="1d",
                    width=9,
                ),
                bar_gauge_panel(
                    "Budgets",
                    "Spend relative to the limit. Green below 80 %, orange from 80 %, red from 100 %.",
                    Query(
                        "budget:ai_budget_spent_usd:ratio or sum by (budget, owner, period) (ai_budget_spent_usd) / max by (budget, owner, period) (ai_budget_limit_usd)",
                        "{{budget}} ({{owner}})",
                    ),
                    thresholds=BUDGET_THRESHOLDS,
                    width=5,
                    max_value=1.2,
                ),
                table_panel(
                    "Firing alerts",
                    "Alerts that are currently firing.",
                    [
                        (
                            "Since",
                            Query(
                                'ALERTS_FOR_STATE{alertname=~"AI.*"} * 1000 and on (alertname, account, workspace, model, budget) ALERTS{alertname=~"AI.*",alertstate="firing"}',
                                instant=True,
                                table=True,
                            ),
                            TIME,
                        )
                    ],
                    hidden_columns=(
                        "alertstate",
                        "__name__",
                        "period",
                        "provider",
                        "tier",
                        "window",
                        "kind",
                        "width",
                        "job",
                        "instance",
                    ),
                    width=10,
                ),
            ),
        ),
    )
