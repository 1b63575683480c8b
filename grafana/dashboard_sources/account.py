"""Rows of the account dashboard: one account in detail."""

# Queries and descriptions are not wrapped.
# ruff: noqa: E501

from __future__ import annotations

from grafana.dashboard_sources.account_status import account_status_panel
from grafana.dashboard_sources.shared import DAILY_BARS_NOTE, DashboardRows, RowSpec, cost_per_day
from grafana.panels import NO_VALUE, RATIO, SECONDS, Query, bar_chart_panel, stat_panel, time_series_panel


def account_rows() -> DashboardRows:
    """Return the rows of the account dashboard."""
    account = 'account=~"$account"'

    def daily(label: str) -> Query:
        cost = cost_per_day(label, account)
        return Query(
            f'label_replace({cost}, "{label}", "{NO_VALUE}", "{label}", "")', f"{{{{{label}}}}}", interval="1d"
        )

    billed = f"sum(ai_cost_month_billed_usd{{{account}}}) / (sum(ai_cost_month_usd{{{account}}}) > 0)"
    return (
        RowSpec("Status", (account_status_panel("Polls", 4),)),
        RowSpec(
            "Now",
            (
                stat_panel(
                    "Today (USD)",
                    "Since midnight UTC.",
                    Query(f"sum(ai_cost_today_usd{{{account}}})", "today"),
                    width=5,
                ),
                stat_panel(
                    "This month (USD)",
                    "Since the first of the month, UTC.",
                    Query(f"sum(ai_cost_month_usd{{{account}}})", "month"),
                    width=5,
                ),
                stat_panel(
                    "Billed share",
                    "The share of this month's cost that the provider has billed; the rest is estimated. Pushed usage has no bills.",
                    Query(
                        # A pushed account never has a bill, which is not a share of 0 %.
                        f"{billed} > 0 or {billed} and on () count(ai_account_incomplete_bills{{{account}}})",
                        "billed",
                    ),
                    unit=RATIO,
                    width=5,
                    no_value="No bills",
                ),
                stat_panel(
                    "Estimate error",
                    "Deviation of the newest billed day's estimate from its bill. Orange above 5 %, red above 10 %.",
                    Query(f"abs(max(ai_account_estimate_error_ratio{{{account}}}))", "error"),
                    unit=RATIO,
                    thresholds=((None, "green"), (0.05, "orange"), (0.1, "red")),
                    width=5,
                ),
                stat_panel(
                    "Restated (USD)",
                    "USD by which billed days were restated since the ledger was created, increases plus decreases.",
                    Query(f"sum(ai_account_restated_usd_total{{{account}}})", "restated"),
                    width=4,
                ),
            ),
        ),
        RowSpec(
            "Prepaid balance",
            (
                stat_panel(
                    "Balance (USD)",
                    "What is left of the money that was paid or granted in advance. Red when it is used up.",
                    Query(f"sum(ai_account_balance_usd{{{account}}})", "balance"),
                    thresholds=((None, "red"), (0.01, "green")),
                    width=5,
                    no_value="Not prepaid",
                ),
                stat_panel(
                    "Used up in",
                    "Time until the balance is used up at the pace that the forecast of budgets expects. Orange below a week, red below three days.",
                    Query(
                        f"min(ai_account_balance_exhaustion_timestamp_seconds{{{account}}}) - time()",
                        "left",
                    ),
                    unit=SECONDS,
                    thresholds=((None, "red"), (259200, "orange"), (604800, "green")),
                    width=5,
                    no_value="Not known",
                ),
                time_series_panel(
                    "Balance over time",
                    "What was left when the balance was read, by account and type.",
                    Query(f"sum by (account, type) (ai_account_balance_usd{{{account}}})", "{{account}} {{type}}"),
                    width=14,
                    time_from="24h",
                    no_value="Not prepaid",
                ),
            ),
            collapsed=True,
        ),
        RowSpec(
            "Cost per day",
            (
                bar_chart_panel(
                    "Daily cost and estimate, last 35 days",
                    "Cost per UTC day as currently known: billed where billed. Next to it the estimate made before the bill arrived, where one was made.",
                    ("cost", Query(f"sum by (date) (ai_cost_daily_usd{{{account}}})", instant=True, table=True)),
                    (
                        "estimated",
                        Query(f"sum by (date) (ai_cost_daily_estimate_usd{{{account}}})", instant=True, table=True),
                    ),
                    x="date",
                    width=24,
                ),
                time_series_panel(
                    "By workspace",
                    f"Cost per day and workspace; {DAILY_BARS_NOTE}. {NO_VALUE}: no workspace reported.",
                    daily("workspace"),
                    stacked=True,
                    bars=True,
                    interval="1d",
                ),
                time_series_panel(
                    "By model",
                    f"Cost per day and model; {DAILY_BARS_NOTE}. {NO_VALUE}: no model reported.",
                    daily("model"),
                    stacked=True,
                    bars=True,
                    interval="1d",
                ),
                time_series_panel(
                    "By tier",
                    f"Cost per day and service tier; {DAILY_BARS_NOTE}. {NO_VALUE}: no tier reported.",
                    daily("tier"),
                    stacked=True,
                    bars=True,
                    interval="1d",
                ),
            ),
        ),
        RowSpec(
            "Cost per API key",
            (
                time_series_panel(
                    "By API key",
                    f"Cost per day and API key, if the account's configuration has labels: [api_key]; {DAILY_BARS_NOTE}. {NO_VALUE}: no key reported.",
                    daily("api_key"),
                    stacked=True,
                    bars=True,
                    interval="1d",
                    width=24,
                    no_value="This account has no API keys in its labels: set labels: [api_key]",
                ),
            ),
            collapsed=True,
        ),
        RowSpec(
            "Accuracy",
            (
                time_series_panel(
                    "Month to date, total and billed",
                    "The difference between the two is estimated.",
                    Query(f"sum(ai_cost_month_usd{{{account}}})", "total"),
                    Query(f"sum(ai_cost_month_billed_usd{{{account}}})", "billed"),
                    time_from="24h",
                ),
                time_series_panel(
                    "Restatements",
                    "USD by which billed days were restated since the ledger was created, increases plus decreases.",
                    Query(f"sum by (account) (ai_account_restated_usd_total{{{account}}})", "{{account}}"),
                    time_from="24h",
                ),
            ),
            collapsed=True,
        ),
    )
