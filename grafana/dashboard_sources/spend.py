"""Rows of the main dashboard: spend now, over time, and by whom."""

# Queries and descriptions are not wrapped.
# ruff: noqa: E501

from __future__ import annotations

from grafana.dashboard_sources.shared import (
    ACCOUNT_MATCHERS,
    BUDGET_MATCHERS,
    BUDGET_THRESHOLDS,
    CACHE_HIT_DESCRIPTION,
    DATA_DELAY_THRESHOLDS,
    END,
    HISTORY_NOTE,
    MODEL_MATCHERS,
    NONE_OR_BAD,
    RUNBOOKS,
    DashboardRows,
    RowSpec,
    complete_hours_of_today,
    cost_per_day,
    cost_per_interval,
    field,
    link_to,
    month_to_date,
    with_owner,
)
from grafana.panels import (
    PROVIDER_STYLES,
    RATIO,
    SECONDS,
    TIME,
    TOKENS,
    USD_TO_THE_CENT,
    Column,
    Comparison,
    Link,
    PanelSpec,
    Query,
    Style,
    bar_chart_panel,
    stat_panel,
    table_panel,
    table_query,
    tile_panel,
    time_series_panel,
)

INCREASE_THRESHOLDS = ((None, "green"), (0.25, "orange"), (1.0, "red"))
_MAX_ROWS = 50
"""Rows of a table: a thousand accounts are searched with the filters of the dashboard."""


def _status_panels() -> tuple[PanelSpec, ...]:
    forecast = f"sum by (budget, owner, period) (ai_budget_forecast_usd{{{BUDGET_MATCHERS}}})"
    spent = f"sum by (budget, owner, period) (ai_budget_spent_usd{{{BUDGET_MATCHERS}}})"
    limit = f"max by (budget, owner, period) (ai_budget_limit_usd{{{BUDGET_MATCHERS}}})"
    return (
        stat_panel(
            "Accounts in trouble",
            "Accounts of which the newest poll failed: their numbers are old. Red above 0.",
            Query(
                f"count(ai_account_up{{{ACCOUNT_MATCHERS}}} == 0) or on () 0 * count(ai_account_up{{{ACCOUNT_MATCHERS}}})",
                "accounts",
            ),
            unit="short",
            thresholds=NONE_OR_BAD,
            width=6,
            height=3,
            no_value="No account",
            links=(link_to("ai-spend-telemetry", "Open AI telemetry", provider="$provider", owner="$owner"),),
        ),
        stat_panel(
            "Alerts firing",
            "Firing alerts except those for information, of the selected accounts, of budgets and of the exporter. Red above 0.",
            Query(
                'count(ALERTS{alertname=~"AI.*",alertstate="firing",severity!="info",account=~"|$account"}) or on () vector(0)',
                "alerts",
            ),
            unit="short",
            thresholds=NONE_OR_BAD,
            width=6,
            height=3,
            links=(
                link_to(
                    "ai-spend-signals", "Open AI signals", provider="$provider", owner="$owner", account="$account"
                ),
            ),
        ),
        stat_panel(
            "Budgets at risk",
            "Budgets of the selected owners whose forecast exceeds the limit, or that are spent. Filters by account, workspace and model do not apply. Red above 0.",
            Query(
                f"count(({forecast} or {spent}) >= {limit} or {spent} >= {limit}) or on () 0 * count({limit})",
                "budgets",
            ),
            unit="short",
            thresholds=NONE_OR_BAD,
            width=6,
            height=3,
            no_value="No budget",
            links=(link_to("ai-spend-budgets", "Open AI budgets", owner="$owner"),),
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
            width=6,
            height=3,
            no_value="Not read yet",
            links=(link_to("ai-spend-telemetry", "Open AI telemetry", provider="$provider", owner="$owner"),),
        ),
    )


def _tiles() -> tuple[PanelSpec, ...]:
    by = "sum by (provider, account)"
    share = (
        f"{by} (ai_cost_30d_usd{{{MODEL_MATCHERS}}} {END}) / ({by} (ai_cost_30d_usd{{{ACCOUNT_MATCHERS}}} {END}) > 0)"
    )
    forecast = f"sum({by} (ai_cost_month_forecast_usd{{{ACCOUNT_MATCHERS}}} {END}) * on (provider, account) {share})"
    last_week = f"sum(sum_over_time(ai_hourly_cost_usd{{{MODEL_MATCHERS}}}[7d]))"
    week_before = f"sum(sum_over_time(ai_hourly_cost_usd{{{MODEL_MATCHERS}}}[7d] offset 7d))"
    return (
        tile_panel(
            "Today (USD)",
            "Since midnight UTC, including the running hour: billed where billed, estimated otherwise. Below: its complete hours compared with the same hours of the same weekday a week before, from served history. The graph has the days of the last 30. Orange: 25 % more. Red: 100 % more.",
            Query(cost_per_day("", MODEL_MATCHERS), "today", interval="1d"),
            Comparison(
                "vs. last week",
                f"{complete_hours_of_today(MODEL_MATCHERS)} / ({complete_hours_of_today(MODEL_MATCHERS, 1)} > 0) - 1",
                thresholds=INCREASE_THRESHOLDS,
            ),
        ),
        tile_panel(
            "This month (USD)",
            "Since the first of the month, UTC. Below: the share of it that the providers have billed, of whole accounts; the rest is estimated. The graph has the last 30 days, from served history.",
            Query(
                month_to_date("ai_cost_month_history_usd", f"sum(ai_cost_month_usd{{{MODEL_MATCHERS}}} {END})"),
                "month",
                interval="6h",
            ),
            Comparison(
                "billed",
                f"sum(ai_cost_month_billed_usd{{{ACCOUNT_MATCHERS}}}) / (sum(ai_cost_month_usd{{{ACCOUNT_MATCHERS}}}) > 0)",
            ),
        ),
        tile_panel(
            "Month forecast (USD)",
            "Expected cost of the whole month: the forecast that budgets over whole accounts have. With a workspace or model selected, its share by the cost of the last 30 days. Below: what remains to be spent until the end of the month. The graph has the forecast as it was in the last 30 days, from served history.",
            Query(month_to_date("ai_cost_month_forecast_history_usd", forecast), "forecast", interval="6h"),
            Comparison(
                "still to come", f"{forecast} - sum(ai_cost_month_usd{{{MODEL_MATCHERS}}})", unit=USD_TO_THE_CENT
            ),
        ),
        tile_panel(
            "Last 30 days (USD)",
            "Today and the previous 29 days. Below: the last 7 days compared with the 7 days before, from served history. Orange: 25 % more. Red: 100 % more.",
            Query(f"sum(ai_cost_30d_usd{{{MODEL_MATCHERS}}})", "30 days", instant=True),
            Comparison("7 days vs. before", f"{last_week} / {week_before} - 1", thresholds=INCREASE_THRESHOLDS),
        ),
    )


def _spender_columns() -> list[Column]:
    """Return the columns of the table of spenders, for the largest by cost."""

    def grouped(expr: str) -> str:
        # A column's heading cannot depend on a variable, so all groups have the same label.
        return f'sum by (name) (label_replace({with_owner(expr)}, "name", "$1", "$group_by", "(.*)"))'

    def total(metric: str, matchers: str = MODEL_MATCHERS) -> str:
        return grouped(f"{metric}{{{matchers}}}")

    def week(offset: str = "") -> str:
        return grouped(f"sum_over_time(ai_hourly_cost_usd{{{MODEL_MATCHERS}}}[7d]{offset})")

    cost, tokens, requests = total("ai_cost_30d_usd"), total("ai_tokens_30d"), total("ai_requests_30d")
    largest = f"and on (name) topk({_MAX_ROWS}, {cost} > 0)"
    read = total("ai_tokens_30d", f'{MODEL_MATCHERS},type=~".*cache_read"')
    input_tokens = total("ai_tokens_30d", f'{MODEL_MATCHERS},type!~".*output"')
    all_requests = f"scalar(sum(ai_requests_30d{{{MODEL_MATCHERS}}}))"
    return [
        Column("Cost, 30 days (USD)", table_query(f"topk({_MAX_ROWS}, {cost} > 0)"), USD_TO_THE_CENT, width=150),
        Column(
            "Share",
            table_query(f"{cost} / on () group_left () sum(ai_cost_30d_usd{{{MODEL_MATCHERS}}}) {largest}"),
            RATIO,
            decimals=1,
            thresholds=((None, "blue"),),
            max_gauge=1,
            width=160,
        ),
        Column("Today (USD)", table_query(f"{total('ai_cost_today_usd')} {largest}"), USD_TO_THE_CENT, width=105),
        Column(
            "7 days vs. before",
            table_query(f"{week()} / ({week(' offset 7d')} > 0) - 1 {largest}"),
            RATIO,
            decimals=0,
            thresholds=((None, "text"), (0.25, "orange"), (1.0, "red")),
            width=130,
        ),
        Column(
            "USD per 1M tokens", table_query(f"1000000 * {cost} / ({tokens} > 0) {largest}"), USD_TO_THE_CENT, width=150
        ),
        Column("Tokens", table_query(f"{tokens} {largest}"), TOKENS, width=90),
        Column("Cache hits", table_query(f"{read} / ({input_tokens} > 0) {largest}"), RATIO, decimals=0, width=95),
        Column("Requests", table_query(f"{requests} {largest}"), "short", width=90),
        Column(
            "Share of requests", table_query(f"{requests} / {all_requests} {largest}"), RATIO, decimals=1, width=130
        ),
    ]


def spend_rows() -> DashboardRows:
    """Return the rows of the main dashboard."""
    daily = f"sum by (date) (ai_cost_daily_usd{{{ACCOUNT_MATCHERS}}})"
    billed = f"sum by (date) (ai_cost_daily_billed_usd{{{ACCOUNT_MATCHERS}}})"
    has_billed_part = f"({daily} - {billed}) > 0.000001"
    return (
        RowSpec("Now", (*_status_panels(), *_tiles())),
        RowSpec(
            "Cost over time",
            (
                bar_chart_panel(
                    "Cost per day, last 35 days",
                    "Cost of each UTC day of the selected accounts as currently known, today included: the part that the providers have billed, and the part that is estimated. Filters by workspace and model do not apply. Requires neither served history nor a time range.",
                    ("billed", table_query(billed)),
                    ("estimated", table_query(f"{has_billed_part} or ({daily} unless on (date) {billed})")),
                    x="date",
                    width=24,
                    height=8,
                    stacked=True,
                    styles=(Style("billed", "blue"), Style("estimated", "light-blue", fill_opacity=25)),
                    no_value="No account has been read yet",
                ),
                time_series_panel(
                    "Cost by $group_by",
                    f"Cost per hour, or per larger interval where the time range is long, as currently known; the newest bar includes the running hour. {HISTORY_NOTE}: then of the newest complete hour.",
                    Query(cost_per_interval("$group_by", MODEL_MATCHERS), "{{$group_by}}", interval="1h"),
                    stacked=True,
                    bars=True,
                    interval="1h",
                    width=24,
                    height=10,
                    styles=PROVIDER_STYLES,
                    no_value="No cost in this time range; without served history (docs/history.md) it begins with the first scraped hour",
                ),
            ),
        ),
        RowSpec(
            "Who spends",
            (
                table_panel(
                    "Spend by $group_by",
                    f"The {_MAX_ROWS} largest of the last 30 days: cost, its share, today, the change of the last 7 days (served history), the price of a million tokens of all types, cache hits and requests. {CACHE_HIT_DESCRIPTION} Requests are empty where the provider does not report them. Click a name to select it. Orange: 25 % more. Red: 100 % more.",
                    _spender_columns(),
                    label_columns={"name": "Name"},
                    label_widths={"Name": 200},
                    sort_by="Cost, 30 days (USD)",
                    links={
                        "Name": (
                            Link(
                                "Show only ${__value.text}",
                                "/d/ai-spend?${__url_time_range}&var-datasource=${datasource}&var-group_by=model&var-${group_by}=${__value.raw}",
                            ),
                            Link(
                                "Unusual hours of ${__value.text}",
                                "/d/ai-spend-signals?${__url_time_range}&var-datasource=${datasource}&var-${group_by}=${__value.raw}",
                            ),
                            Link(
                                "Account dashboard",
                                "/d/ai-spend-account?${__url_time_range}&var-datasource=${datasource}&var-${group_by}=${__value.raw}",
                            ),
                        )
                    },
                    width=24,
                    height=12,
                    no_value="No cost in the last 30 days",
                ),
            ),
        ),
        RowSpec(
            "Alerts and budgets",
            (
                table_panel(
                    "Firing alerts",
                    "Alerts that are currently firing, of the selected accounts, of budgets and of the exporter.",
                    [
                        Column(
                            "Since",
                            table_query(
                                'ALERTS_FOR_STATE{alertname=~"AI.*",account=~"|$account"} * 1000 and on (alertname, account, workspace, model, budget) ALERTS{alertname=~"AI.*",alertstate="firing"}'
                            ),
                            TIME,
                        )
                    ],
                    label_columns={
                        "severity": "Severity",
                        "alertname": "Alert",
                        "account": "Account",
                        "workspace": "Workspace",
                        "model": "Model",
                        "budget": "Budget",
                        "owner": "Owner",
                    },
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
                        "reason",
                        "report",
                    ),
                    value_mappings={"Severity": {"critical": ("critical", "red"), "warning": ("warning", "orange")}},
                    links={
                        "Alert": (
                            Link("Runbook", f"{RUNBOOKS}#${{__value.raw}}"),
                            Link(
                                "Silence",
                                "/alerting/silence/new?alertmanager=Alertmanager&matcher=alertname%3D${__value.raw}",
                            ),
                        ),
                        "Account": (link_to("ai-spend-account", "Account dashboard", account="${__value.raw}"),),
                        "Workspace": (
                            link_to(
                                "ai-spend-signals",
                                "Unusual hours of the workspace",
                                account=field("Account"),
                                workspace="${__value.raw}",
                            ),
                        ),
                        "Budget": (link_to("ai-spend-budgets", "Budget", budget="${__value.raw}"),),
                    },
                    width=16,
                    no_value="No alert is firing",
                ),
                table_panel(
                    "Budgets",
                    "Spend and forecast relative to the limit, of the selected owners; filters by account, workspace and model do not apply. The bar ends at 120 %. Orange from 80 %, red from 100 %.",
                    [
                        Column(
                            "Spent",
                            table_query(
                                f"sum by (budget) (ai_budget_spent_usd{{{BUDGET_MATCHERS}}}) / max by (budget) (ai_budget_limit_usd{{{BUDGET_MATCHERS}}})"
                            ),
                            RATIO,
                            decimals=0,
                            thresholds=BUDGET_THRESHOLDS,
                            max_gauge=1.2,
                        ),
                        Column(
                            "Forecast",
                            table_query(
                                f"sum by (budget) (ai_budget_forecast_usd{{{BUDGET_MATCHERS}}}) / max by (budget) (ai_budget_limit_usd{{{BUDGET_MATCHERS}}})"
                            ),
                            RATIO,
                            decimals=0,
                            thresholds=((None, "green"), (1.0, "orange"), (1.2, "red")),
                            width=90,
                        ),
                    ],
                    label_columns={"budget": "Budget"},
                    sort_by="Spent",
                    links={"Budget": (link_to("ai-spend-budgets", "Budget", budget="${__value.raw}"),)},
                    width=8,
                    no_value="No budget is configured",
                ),
            ),
        ),
        RowSpec(
            "Tokens",
            (
                time_series_panel(
                    "Tokens by type",
                    f"Tokens by type per hour, or per larger interval where the time range is long; hours that have ended. Types are disjoint and sum to all tokens. {HISTORY_NOTE}: then of the newest complete hour.",
                    Query(
                        f"sum by (type) (sum_over_time(ai_hourly_tokens{{{MODEL_MATCHERS}}}[$__interval] offset -$__interval)) or (sum by (type) (ai_tokens_last_hour{{{MODEL_MATCHERS}}}) unless on () count(last_over_time(ai_hourly_tokens{{{MODEL_MATCHERS}}}[2d] {END})))",
                        "{{type}}",
                        interval="1h",
                    ),
                    unit=TOKENS,
                    stacked=True,
                    interval="1h",
                ),
                time_series_panel(
                    "Cache hit ratio",
                    f"{CACHE_HIT_DESCRIPTION} By UTC day, of the ten workspaces with the most input tokens in the last 30 days, from served history if remote read is configured, otherwise from scraped metrics.",
                    Query(_cache_hit_ratio(), "{{account}} / {{workspace}}", interval="1d"),
                    unit=RATIO,
                    interval="1d",
                ),
            ),
            collapsed=True,
        ),
    )


def _cache_hit_ratio() -> str:
    by = "sum by (account, workspace)"
    read, all_input = f'{MODEL_MATCHERS},type=~".*cache_read"', f'{MODEL_MATCHERS},type!~".*output"'
    largest = f"topk(10, {by} (ai_tokens_30d{{{all_input}}} {END}))"
    history = f"{by} (sum_over_time(ai_hourly_tokens{{{read}}}[1d] offset -1d)) / {by} (sum_over_time(ai_hourly_tokens{{{all_input}}}[1d] offset -1d))"
    scraped = f"{by} (ai_tokens_today{{{read}}}) / {by} (ai_tokens_today{{{all_input}}})"
    return f"({history} or {scraped}) and on (account, workspace) {largest}"
