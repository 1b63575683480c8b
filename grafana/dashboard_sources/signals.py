"""Rows of the signals dashboard: actual and expected cost, and the contributors to changes."""

# Queries and descriptions are not wrapped.
# ruff: noqa: E501

from __future__ import annotations

from grafana.dashboard_sources.shared import WORKSPACE_MATCHERS, DashboardRows
from grafana.panels import RATIO, TOKENS, USD, Query, state_timeline_panel, table_panel, time_series_panel


def _cost_change_queries() -> list[tuple[str, Query, str]]:
    def week(metric: str, offset: str = "") -> str:
        return f"sum by (account, model) (sum_over_time({metric}{{{WORKSPACE_MATCHERS}}}[7d]{offset}))"

    cost, cost_before = week("ai_hourly_cost_usd"), week("ai_hourly_cost_usd", " offset 7d")
    tokens, tokens_before = week("ai_hourly_tokens"), week("ai_hourly_tokens", " offset 7d")
    # The change in tokens at the previous price per token; the remainder is price and mix.
    volume = f"({tokens} - {tokens_before}) * {cost_before} / ({tokens_before} > 0)"
    change = f"({cost} - {cost_before} or {cost})"
    largest = f"and on (account, model) topk(15, abs({change}))"
    return [
        (heading, Query(f"{expr} {largest}", instant=True, table=True), USD)
        for heading, expr in (
            ("Change", change),
            ("By volume", f"({volume})"),
            ("By price and mix", f"({cost} - {cost_before} - {volume})"),
        )
    ]


def signal_rows() -> DashboardRows:
    """Return the rows of the signals dashboard."""
    by = "account, workspace"
    increase = f"sum by (account, workspace, model) (ai_cost_last_hour_usd{{{WORKSPACE_MATCHERS}}}) - sum by (account, workspace, model) (ai_cost_30d_usd{{{WORKSPACE_MATCHERS}}}) / 720"
    return (
        (
            "Alerts",
            (
                state_timeline_panel(
                    "Alerts",
                    "All alerts in the time range: red while firing, orange while pending.",
                    Query(
                        'max by (alertname, account, workspace, budget, model) (ALERTS{alertname=~"AI.*",alertstate="firing"} * 2 or ALERTS{alertname=~"AI.*",alertstate="pending"})',
                        "{{alertname}} {{account}}{{budget}} {{workspace}} {{model}}",
                    ),
                    mappings=(("1", "pending", "orange"), ("2", "firing", "red")),
                ),
            ),
        ),
        (
            "Actual and expected",
            (
                time_series_panel(
                    "Last hour",
                    "Cost of the newest complete hour, by workspace.",
                    Query(
                        f"sum by ({by}) (ai_cost_last_hour_usd{{{WORKSPACE_MATCHERS}}})", "{{account}} / {{workspace}}"
                    ),
                    width=12,
                ),
                time_series_panel(
                    "Last hour, expected",
                    "Expected cost of that hour: the median of the same hour of the previous 14 days, workdays and weekends separately.",
                    Query(
                        f"sum by ({by}) (ai_cost_last_hour_expected_usd{{{WORKSPACE_MATCHERS}}})",
                        "{{account}} / {{workspace}}",
                    ),
                    width=12,
                ),
                time_series_panel(
                    "Actual / upper bound",
                    "Cost of the newest complete hour relative to its upper bound. Red above 100 %: unusual.",
                    Query(
                        f"sum by ({by}) (ai_cost_last_hour_usd{{{WORKSPACE_MATCHERS}}}) / sum by ({by}) (ai_cost_last_hour_upper_bound_usd{{{WORKSPACE_MATCHERS}}})",
                        "{{account}} / {{workspace}}",
                    ),
                    unit=RATIO,
                    thresholds=((None, "green"), (1.0, "red")),
                    width=12,
                ),
                time_series_panel(
                    "This hour / upper bound",
                    "Cost of the current hour so far relative to the upper bound for the whole hour. Red above 100 %: runaway spend.",
                    Query(
                        f"sum by ({by}) (ai_cost_this_hour_usd{{{WORKSPACE_MATCHERS}}}) / sum by ({by}) (ai_cost_this_hour_upper_bound_usd{{{WORKSPACE_MATCHERS}}})",
                        "{{account}} / {{workspace}}",
                    ),
                    unit=RATIO,
                    thresholds=((None, "green"), (1.0, "red")),
                    width=12,
                ),
                table_panel(
                    "Cost above upper bound, last 24 h",
                    "Sum over the 24 newest complete hours of the cost above each hour's upper bound. Alerts above $20.",
                    [
                        (
                            "Above upper bound",
                            Query(
                                f"sum by ({by}) (ai_cost_excess_24h_usd{{{WORKSPACE_MATCHERS}}}) > 0",
                                instant=True,
                                table=True,
                            ),
                            USD,
                        )
                    ],
                    sort_by="Above upper bound",
                ),
                time_series_panel(
                    "Requests / upper bound",
                    "Requests of the newest complete hour (tokens where no requests are reported) relative to their upper bound.",
                    Query(
                        f"sum by ({by}) (ai_requests_last_hour{{{WORKSPACE_MATCHERS}}}) / sum by ({by}) (ai_requests_last_hour_upper_bound{{{WORKSPACE_MATCHERS}}}) or sum by ({by}) (ai_tokens_last_hour{{{WORKSPACE_MATCHERS}}}) / sum by ({by}) (ai_tokens_last_hour_upper_bound{{{WORKSPACE_MATCHERS}}})",
                        "{{account}} / {{workspace}}",
                    ),
                    unit=RATIO,
                    thresholds=((None, "green"), (1.0, "red")),
                    width=12,
                ),
            ),
        ),
        (
            "Contributors",
            (
                table_panel(
                    "Largest increases, last hour",
                    "Workspaces and models whose newest complete hour is furthest above their mean hour of the last 30 days.",
                    [("Above mean", Query(f"topk(15, {increase})", instant=True, table=True), USD)],
                    sort_by="Above mean",
                ),
                table_panel(
                    "New models",
                    "Models with cost today and none in the previous 29 days.",
                    [
                        (
                            "Today",
                            Query(
                                f"sum by (account, model) (ai_cost_today_usd{{{WORKSPACE_MATCHERS}}}) > 0 unless sum by (account, model) (ai_cost_30d_usd{{{WORKSPACE_MATCHERS}}}) - sum by (account, model) (ai_cost_today_usd{{{WORKSPACE_MATCHERS}}}) > 0.01",
                                instant=True,
                                table=True,
                            ),
                            USD,
                        )
                    ],
                    sort_by="Today",
                ),
                table_panel(
                    "Cost change, last 7 days",
                    "Complete hours of the last 7 days compared with the 7 days before, by model: total change, change by volume (tokens at the previous price per token), and change by price and mix (of token types and tiers). New models have no previous price.",
                    _cost_change_queries(),
                    sort_by="Change",
                    width=24,
                ),
                time_series_panel(
                    "Tokens per request",
                    "Mean tokens per request in the newest complete hour, where the provider reports requests.",
                    Query(
                        f"sum by ({by}) (ai_tokens_last_hour{{{WORKSPACE_MATCHERS}}}) / (sum by ({by}) (ai_requests_last_hour{{{WORKSPACE_MATCHERS}}}) > 0)",
                        "{{account}} / {{workspace}}",
                    ),
                    unit=TOKENS,
                ),
                time_series_panel(
                    "Cost per 1k tokens",
                    "Mean cost of 1,000 tokens today, by account; changes with price and mix.",
                    Query(
                        f"1000 * sum by (account) (ai_cost_today_usd{{{WORKSPACE_MATCHERS}}}) / sum by (account) (ai_tokens_today{{{WORKSPACE_MATCHERS}}})",
                        "{{account}}",
                    ),
                ),
            ),
        ),
    )
