"""One account in depth."""

# A query or a text stands on one line.
# ruff: noqa: E501

from __future__ import annotations

from grafana.dashboard_sources.words import DAILY_BARS_NOTE, DashboardRows
from grafana.panels import RATIO, Query, bar_chart_panel, stat_panel, time_series_panel


def account_rows() -> DashboardRows:
    """Return one account in depth."""
    one = 'account=~"$account"'
    day = f"sum_over_time(ai_hourly_cost_usd{{{one}}}[1d] offset -1d)"
    fallback = f"last_over_time(ai_cost_today_usd{{{one}}}[1d] offset -1d)"

    def daily(label: str) -> Query:
        told = f"sum by ({label}) ({day}) or sum by ({label}) ({fallback})"
        return Query(f'label_replace({told}, "{label}", "not told", "{label}", "")', f"{{{{{label}}}}}", interval="1d")

    return (
        (
            "Now",
            (
                stat_panel("Today", "Since midnight UTC.", Query(f"sum(ai_cost_today_usd{{{one}}})", "today"), width=5),
                stat_panel(
                    "This month",
                    "Since the first of the month, UTC.",
                    Query(f"sum(ai_cost_month_usd{{{one}}})", "month"),
                    width=5,
                ),
                stat_panel(
                    "Billed of it",
                    "The part of the month that the provider has billed; the rest is estimated.",
                    Query(
                        f"sum(ai_account_info{{{one}}} * on (provider, account) ai_cost_month_billed_usd) / sum(ai_cost_month_usd{{{one}}})",
                        "billed",
                    ),
                    unit=RATIO,
                    width=5,
                ),
                stat_panel(
                    "Newest estimate",
                    "How far the newest billed day had been estimated from its bill. Orange beyond 5 %, red beyond 10 %.",
                    Query(f"abs(max(ai_account_estimate_error_ratio{{{one}}}))", "error"),
                    unit=RATIO,
                    thresholds=((None, "green"), (0.05, "orange"), (0.1, "red")),
                    width=5,
                ),
                stat_panel(
                    "Corrected",
                    "By how much billed days were ever corrected, up and down added.",
                    Query(f"sum(ai_account_restated_usd_total{{{one}}})", "corrected"),
                    width=4,
                ),
            ),
        ),
        (
            "By day",
            (
                bar_chart_panel(
                    "35 days, billed beside estimated",
                    "Each day as known now: billed where billed. Beside it what the day had been estimated at before its bill came, where it was.",
                    ("cost", Query(f"sum by (date) (ai_cost_daily_usd{{{one}}})", instant=True, table=True)),
                    (
                        "estimated",
                        Query(f"sum by (date) (ai_cost_daily_estimate_usd{{{one}}})", instant=True, table=True),
                    ),
                    x="date",
                    width=24,
                ),
                time_series_panel(
                    "By workspace",
                    f"What each day cost; {DAILY_BARS_NOTE}.",
                    daily("workspace"),
                    stacked=True,
                    bars=True,
                    interval="1d",
                ),
                time_series_panel(
                    "By model",
                    f"What each day cost; {DAILY_BARS_NOTE}.",
                    daily("model"),
                    stacked=True,
                    bars=True,
                    interval="1d",
                ),
                time_series_panel(
                    "By tier",
                    f"What each day cost by service tier; {DAILY_BARS_NOTE}.",
                    daily("tier"),
                    stacked=True,
                    bars=True,
                    interval="1d",
                ),
                time_series_panel(
                    "By API key",
                    f"What each day cost by key, where the account's configuration asks for keys; {DAILY_BARS_NOTE}.",
                    daily("api_key"),
                    stacked=True,
                    bars=True,
                    interval="1d",
                ),
            ),
        ),
        (
            "Trust",
            (
                time_series_panel(
                    "Month, and what of it is billed",
                    "The gap between the two is estimated.",
                    Query(f"sum(ai_cost_month_usd{{{one}}})", "known"),
                    Query(f"sum(ai_cost_month_billed_usd{{{one}}})", "billed"),
                    time_from="24h",
                ),
                time_series_panel(
                    "Corrections",
                    "USD by which billed days were corrected, up and down added, since the ledger began.",
                    Query(f"sum by (account) (ai_account_restated_usd_total{{{one}}})", "{{account}}"),
                    time_from="24h",
                ),
            ),
        ),
    )
