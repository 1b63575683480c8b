"""What was expected, what came, and who moved."""

# A query or a text stands on one line.
# ruff: noqa: E501

from __future__ import annotations

from grafana.dashboard_sources.words import Rows, W
from grafana.panels import RATIO, TOKENS, USD, Query, lines, rows, states


def _moved() -> list[tuple[str, Query, str]]:
    def week(metric: str, offset: str = "") -> str:
        return f"sum by (account, model) (sum_over_time({metric}{{{W}}}[7d]{offset}))"

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


def signals() -> Rows:
    """Return what was expected, what came, and who moved."""
    by = "account, workspace"
    rise = f"sum by (account, workspace, model) (ai_cost_last_hour_usd{{{W}}}) - sum by (account, workspace, model) (ai_cost_30d_usd{{{W}}}) / 720"
    return (
        (
            "Alerts",
            (
                states(
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
                lines(
                    "Newest complete hour",
                    "What the newest complete hour cost, by workspace.",
                    Query(f"sum by ({by}) (ai_cost_last_hour_usd{{{W}}})", "{{account}} / {{workspace}}"),
                    width=12,
                ),
                lines(
                    "Expected",
                    "What that hour was expected to cost: the median of the same hour of fourteen days, workdays or weekends.",
                    Query(f"sum by ({by}) (ai_cost_last_hour_expected_usd{{{W}}})", "{{account}} / {{workspace}}"),
                    width=12,
                ),
                lines(
                    "Of its high value",
                    "The newest complete hour beside its high value. Above 1 it is unusual.",
                    Query(
                        f"sum by ({by}) (ai_cost_last_hour_usd{{{W}}}) / sum by ({by}) (ai_cost_last_hour_high_usd{{{W}}})",
                        "{{account}} / {{workspace}}",
                    ),
                    unit=RATIO,
                    steps=((None, "green"), (1.0, "red")),
                    width=12,
                ),
                lines(
                    "Running hour of its high value",
                    "The running hour so far beside what a whole such hour would have to cost to be unusual. Above 1 it runs away.",
                    Query(
                        f"sum by ({by}) (ai_cost_this_hour_usd{{{W}}}) / sum by ({by}) (ai_cost_this_hour_high_usd{{{W}}})",
                        "{{account}} / {{workspace}}",
                    ),
                    unit=RATIO,
                    steps=((None, "green"), (1.0, "red")),
                    width=12,
                ),
                rows(
                    "Excess of 24 hours",
                    "By how much the 24 newest complete hours were above their high values, each by its own; told from $20 on.",
                    [
                        (
                            "Above high",
                            Query(f"sum by ({by}) (ai_cost_excess_24h_usd{{{W}}}) > 0", instant=True, table=True),
                            USD,
                        )
                    ],
                    sort="Above high",
                ),
                lines(
                    "Requests of their high value",
                    "Requests, or tokens where none are counted, of the newest complete hour beside their high value.",
                    Query(
                        f"sum by ({by}) (ai_requests_last_hour{{{W}}}) / sum by ({by}) (ai_requests_last_hour_high{{{W}}}) or sum by ({by}) (ai_tokens_last_hour{{{W}}}) / sum by ({by}) (ai_tokens_last_hour_high{{{W}}})",
                        "{{account}} / {{workspace}}",
                    ),
                    unit=RATIO,
                    steps=((None, "green"), (1.0, "red")),
                    width=12,
                ),
            ),
        ),
        (
            "Who moved",
            (
                rows(
                    "Risen most",
                    "Models of workspaces whose newest complete hour was furthest above the mean hour of thirty days.",
                    [("Above the mean", Query(f"topk(15, {rise})", instant=True, table=True), USD)],
                    sort="Above the mean",
                ),
                rows(
                    "New models",
                    "Models with cost today that had none in the 29 days before.",
                    [
                        (
                            "Today",
                            Query(
                                f"sum by (account, model) (ai_cost_today_usd{{{W}}}) > 0 unless sum by (account, model) (ai_cost_30d_usd{{{W}}}) - sum by (account, model) (ai_cost_today_usd{{{W}}}) > 0.01",
                                instant=True,
                                table=True,
                            ),
                            USD,
                        )
                    ],
                    sort="Today",
                ),
                rows(
                    "What rose in seven days",
                    "The last seven days of complete hours beside the seven before, by model: in all, by more or fewer tokens at the old price, and by another price of a token (its mix of types and tiers included). A model that is new has no old price.",
                    _moved(),
                    sort="Change",
                    width=24,
                ),
                lines(
                    "Tokens per request",
                    "Tokens of one request in the newest complete hour, where the provider counts requests.",
                    Query(
                        f"sum by ({by}) (ai_tokens_last_hour{{{W}}}) / (sum by ({by}) (ai_requests_last_hour{{{W}}}) > 0)",
                        "{{account}} / {{workspace}}",
                    ),
                    unit=TOKENS,
                ),
                lines(
                    "Cost of 1k tokens",
                    "Price and mix: what 1,000 tokens cost today, by account.",
                    Query(
                        f"1000 * sum by (account) (ai_cost_today_usd{{{W}}}) / sum by (account) (ai_tokens_today{{{W}}})",
                        "{{account}}",
                    ),
                ),
            ),
        ),
    )
