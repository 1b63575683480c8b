"""What was expected, what came, and who moved."""

# A query or a text stands on one line.
# ruff: noqa: E501

from __future__ import annotations

from grafana.dashboard_sources.words import WORKSPACE_MATCHERS, DashboardRows
from grafana.panels import RATIO, TOKENS, USD, Query, state_timeline_panel, table_panel, time_series_panel


def _cost_change_queries() -> list[tuple[str, Query, str]]:
    def week(metric: str, offset: str = "") -> str:
        return f"sum by (account, model) (sum_over_time({metric}{{{WORKSPACE_MATCHERS}}}[7d]{offset}))"

    cost, before = week("ai_hourly_cost_usd"), week("ai_hourly_cost_usd", " offset 7d")
    tokens, fewer = week("ai_hourly_tokens"), week("ai_hourly_tokens", " offset 7d")
    volume = f"({tokens} - {fewer}) * {before} / ({fewer} > 0)"
    change = f"({cost} - {before} or {cost})"
    most = f"and on (account, model) topk(15, abs({change}))"
    return [
        (heading, Query(f"{expr} {most}", instant=True, table=True), USD)
        for heading, expr in (
            ("Change", change),
            ("By volume", f"({volume})"),
            ("By price and mix", f"({cost} - {before} - {volume})"),
        )
    ]


def signal_rows() -> DashboardRows:
    """Return what was expected, what came, and who moved."""
    by = "account, workspace"
    rise = f"sum by (account, workspace, model) (ai_cost_last_hour_usd{{{WORKSPACE_MATCHERS}}}) - sum by (account, workspace, model) (ai_cost_30d_usd{{{WORKSPACE_MATCHERS}}}) / 720"
    return (
        (
            "Alerts",
            (
                state_timeline_panel(
                    "Alerts",
                    "Every alert about spend that has fired in this time: red while it fires, orange while it waits.",
                    Query(
                        'max by (alertname, account, workspace, budget, model) (ALERTS{alertname=~"AI.*",alertstate="firing"} * 2 or ALERTS{alertname=~"AI.*",alertstate="pending"})',
                        "{{alertname}} {{account}}{{budget}} {{workspace}} {{model}}",
                    ),
                    mappings=(("1", "waiting", "orange"), ("2", "firing", "red")),
                ),
            ),
        ),
        (
            "Actual against expected",
            (
                time_series_panel(
                    "Newest complete hour",
                    "What the newest complete hour cost, by workspace.",
                    Query(
                        f"sum by ({by}) (ai_cost_last_hour_usd{{{WORKSPACE_MATCHERS}}})", "{{account}} / {{workspace}}"
                    ),
                    width=12,
                ),
                time_series_panel(
                    "Expected",
                    "What that hour was expected to cost: the median of the same hour of fourteen days, workdays or weekends.",
                    Query(
                        f"sum by ({by}) (ai_cost_last_hour_expected_usd{{{WORKSPACE_MATCHERS}}})",
                        "{{account}} / {{workspace}}",
                    ),
                    width=12,
                ),
                time_series_panel(
                    "Of its high value",
                    "The newest complete hour beside its high value. Above 1 it is unusual.",
                    Query(
                        f"sum by ({by}) (ai_cost_last_hour_usd{{{WORKSPACE_MATCHERS}}}) / sum by ({by}) (ai_cost_last_hour_upper_bound_usd{{{WORKSPACE_MATCHERS}}})",
                        "{{account}} / {{workspace}}",
                    ),
                    unit=RATIO,
                    thresholds=((None, "green"), (1.0, "red")),
                    width=12,
                ),
                time_series_panel(
                    "Running hour of its high value",
                    "The running hour so far beside what a whole such hour would have to cost to be unusual. Above 1 it runs away.",
                    Query(
                        f"sum by ({by}) (ai_cost_this_hour_usd{{{WORKSPACE_MATCHERS}}}) / sum by ({by}) (ai_cost_this_hour_upper_bound_usd{{{WORKSPACE_MATCHERS}}})",
                        "{{account}} / {{workspace}}",
                    ),
                    unit=RATIO,
                    thresholds=((None, "green"), (1.0, "red")),
                    width=12,
                ),
                table_panel(
                    "Excess of 24 hours",
                    "By how much the 24 newest complete hours were above their high values, each by its own; told from $20 on.",
                    [
                        (
                            "Above high",
                            Query(
                                f"sum by ({by}) (ai_cost_excess_24h_usd{{{WORKSPACE_MATCHERS}}}) > 0",
                                instant=True,
                                table=True,
                            ),
                            USD,
                        )
                    ],
                    sort_by="Above high",
                ),
                time_series_panel(
                    "Requests of their high value",
                    "Requests, or tokens where none are counted, of the newest complete hour beside their high value.",
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
            "Who moved",
            (
                table_panel(
                    "Risen most",
                    "Models of workspaces whose newest complete hour was furthest above the mean hour of thirty days.",
                    [("Above the mean", Query(f"topk(15, {rise})", instant=True, table=True), USD)],
                    sort_by="Above the mean",
                ),
                table_panel(
                    "New models",
                    "Models with cost today that had none in the 29 days before.",
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
                    "What rose in seven days",
                    "The last seven days of complete hours beside the seven before, by model: in all, by more or fewer tokens at the old price, and by another price of a token (its mix of types and tiers included). A model that is new has no old price.",
                    _cost_change_queries(),
                    sort_by="Change",
                    width=24,
                ),
                time_series_panel(
                    "Tokens per request",
                    "Tokens of one request in the newest complete hour, where the provider counts requests.",
                    Query(
                        f"sum by ({by}) (ai_tokens_last_hour{{{WORKSPACE_MATCHERS}}}) / (sum by ({by}) (ai_requests_last_hour{{{WORKSPACE_MATCHERS}}}) > 0)",
                        "{{account}} / {{workspace}}",
                    ),
                    unit=TOKENS,
                ),
                time_series_panel(
                    "Cost of 1k tokens",
                    "Price and mix: what 1,000 tokens cost today, by account.",
                    Query(
                        f"1000 * sum by (account) (ai_cost_today_usd{{{WORKSPACE_MATCHERS}}}) / sum by (account) (ai_tokens_today{{{WORKSPACE_MATCHERS}}})",
                        "{{account}}",
                    ),
                ),
            ),
        ),
    )
