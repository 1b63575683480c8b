"""One account in depth."""

# A query or a text stands on one line.
# ruff: noqa: E501

from __future__ import annotations

from grafana.dashboard_sources.words import DAY, Rows
from grafana.panels import RATIO, Query, columns, figure, lines


def account() -> Rows:
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
                figure("Today", "Since midnight UTC.", Query(f"sum(ai_cost_today_usd{{{one}}})", "today"), width=5),
                figure(
                    "This month",
                    "Since the first of the month, UTC.",
                    Query(f"sum(ai_cost_month_usd{{{one}}})", "month"),
                    width=5,
                ),
                figure(
                    "Billed of it",
                    "The part of the month that the provider has billed; the rest is estimated.",
                    Query(
                        f"sum(ai_account_info{{{one}}} * on (provider, account) ai_cost_month_billed_usd) / sum(ai_cost_month_usd{{{one}}})",
                        "billed",
                    ),
                    unit=RATIO,
                    width=5,
                ),
                figure(
                    "Newest estimate",
                    "How far the newest billed day had been estimated from its bill. Orange beyond 5 %, red beyond 10 %.",
                    Query(f"abs(max(ai_account_estimate_error_ratio{{{one}}}))", "error"),
                    unit=RATIO,
                    steps=((None, "green"), (0.05, "orange"), (0.1, "red")),
                    width=5,
                ),
                figure(
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
                columns(
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
                lines(
                    "By workspace",
                    f"What each day cost; {DAY}.",
                    daily("workspace"),
                    stacked=True,
                    bars=True,
                    interval="1d",
                ),
                lines(
                    "By model", f"What each day cost; {DAY}.", daily("model"), stacked=True, bars=True, interval="1d"
                ),
                lines(
                    "By tier",
                    f"What each day cost by service tier; {DAY}.",
                    daily("tier"),
                    stacked=True,
                    bars=True,
                    interval="1d",
                ),
                lines(
                    "By API key",
                    f"What each day cost by key, where the account's configuration asks for keys; {DAY}.",
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
                lines(
                    "Month, and what of it is billed",
                    "The gap between the two is estimated.",
                    Query(f"sum(ai_cost_month_usd{{{one}}})", "known"),
                    Query(f"sum(ai_cost_month_billed_usd{{{one}}})", "billed"),
                    last="24h",
                ),
                lines(
                    "Corrections",
                    "USD by which billed days were corrected, up and down added, since the ledger began.",
                    Query(f"sum by (account) (ai_account_restated_usd_total{{{one}}})", "{{account}}"),
                    last="24h",
                ),
            ),
        ),
    )
