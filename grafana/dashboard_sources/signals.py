"""Rows of the signals dashboard: what is unusual now and was in the last two weeks, and what contributes to it."""

# Queries and descriptions are not wrapped.
# ruff: noqa: E501

from __future__ import annotations

from grafana.dashboard_sources.shared import END, NO_HISTORY, WORKSPACE_MATCHERS, DashboardRows, RowSpec, field, link_to
from grafana.panels import (
    RATIO,
    TIME,
    TOKENS,
    USD_TO_THE_CENT,
    Column,
    PanelSpec,
    Query,
    Style,
    heat_map_panel,
    state_timeline_panel,
    table_panel,
    table_query,
    time_series_panel,
)

_BY = "account, workspace"
_MAX_ROWS = 50
_RATIO_STEPS = ((None, "green"), (0.75, "yellow"), (1.0, "red"))
_WORKSPACE_LINKS = (
    link_to("ai-spend-signals", "Show only this workspace", account=field("Account"), workspace="${__value.raw}"),
    link_to(
        "ai-spend", "Spend of this workspace", account=field("Account"), workspace="${__value.raw}", group_by="model"
    ),
)
_ACCOUNT_LINKS = (link_to("ai-spend-account", "Account dashboard", account="${__value.raw}"),)
_LINKS = {"Account": _ACCOUNT_LINKS, "Workspace": _WORKSPACE_LINKS}
_LABEL_COLUMNS = {"account": "Account", "workspace": "Workspace"}


def _gauge(metric: str, at: str = "") -> str:
    return f"sum by ({_BY}) ({metric}{{{WORKSPACE_MATCHERS}}} {at})"


def _unusual_now() -> PanelSpec:
    actual, expected = _gauge("ai_cost_last_hour_usd"), _gauge("ai_cost_last_hour_expected_usd")
    bound, excess = _gauge("ai_cost_last_hour_upper_bound_usd"), _gauge("ai_cost_excess_24h_usd")
    requests = f"({_gauge('ai_requests_last_hour')} / ({_gauge('ai_requests_last_hour_upper_bound')} > 0) or {_gauge('ai_tokens_last_hour')} / ({_gauge('ai_tokens_last_hour_upper_bound')} > 0))"
    # A change event of the account, or of no account, in the last day.
    change = 'max by (account) (ai_change_timestamp_seconds{account!="",account=~"$account"} > time() - 86400)'
    ratio = f"{actual} / ({bound} > 0)"
    largest = f"and on ({_BY}) topk({_MAX_ROWS}, {ratio})"
    return table_panel(
        "Newest complete hour of every workspace",
        "Cost of the newest complete hour, the cost that was expected of it (the median of the same hour of the previous 14 days, workdays and weekends separately) and the upper bound above which it is unusual. Requests (tokens where no requests are reported) relative to their own bound. Cost above the bounds in the last 24 complete hours. The newest change event of the account within a day. Red above 100 %: unusual.",
        [
            Column(
                "Actual / bound",
                table_query(f"topk({_MAX_ROWS}, {ratio})"),
                RATIO,
                0,
                _RATIO_STEPS,
                max_gauge=2,
                width=220,
            ),
            Column("Actual (USD)", table_query(f"{actual} {largest}"), USD_TO_THE_CENT),
            Column("Expected (USD)", table_query(f"{expected} {largest}"), USD_TO_THE_CENT),
            Column("Upper bound (USD)", table_query(f"{bound} {largest}"), USD_TO_THE_CENT),
            Column("Above, 24 h (USD)", table_query(f"{excess} {largest}"), USD_TO_THE_CENT),
            Column("Requests / bound", table_query(f"{requests} {largest}"), RATIO, 0, ((None, "text"), (1.0, "red"))),
            Column(
                "Change event",
                table_query(f"({ratio} * 0 + on (account) group_left () {change} * 1000) {largest}"),
                TIME,
            ),
        ],
        label_columns=_LABEL_COLUMNS,
        sort_by="Actual / bound",
        links=_LINKS,
        width=24,
        height=10,
        no_value="No workspace has a baseline yet: it needs three known days",
    )


def _cost_change_columns() -> list[Column]:
    def week(metric: str, offset: str = "") -> str:
        return f"sum by (account, model) (sum_over_time({metric}{{{WORKSPACE_MATCHERS}}}[7d]{offset}))"

    cost, cost_before = week("ai_hourly_cost_usd"), week("ai_hourly_cost_usd", " offset 7d")
    tokens, tokens_before = week("ai_hourly_tokens"), week("ai_hourly_tokens", " offset 7d")
    # The change in tokens at the previous price per token; the remainder is price and mix.
    volume = f"({tokens} - {tokens_before}) * {cost_before} / ({tokens_before} > 0)"
    change = f"({cost} - {cost_before} or {cost})"
    largest = f"and on (account, model) topk(15, abs({change}))"
    return [
        Column(heading, table_query(f"{expr} {largest}"), USD_TO_THE_CENT)
        for heading, expr in (
            ("Change (USD)", change),
            ("By volume (USD)", f"({volume})"),
            ("By price and mix (USD)", f"({cost} - {cost_before} - {volume})"),
        )
    ]


def signal_rows() -> DashboardRows:
    """Return the rows of the signals dashboard."""
    increase = f"sum by (account, workspace, model) (ai_cost_last_hour_usd{{{WORKSPACE_MATCHERS}}}) - sum by (account, workspace, model) (ai_cost_30d_usd{{{WORKSPACE_MATCHERS}}}) / 720"

    def hourly(metric: str, by: str = "") -> str:
        return f"sum {by}(sum_over_time({metric}{{{WORKSPACE_MATCHERS}}}[$__interval] offset -$__interval))"

    by = f"by ({_BY}) "
    largest = f"topk(20, {_gauge('ai_cost_30d_usd', END)})"
    return (
        RowSpec("Now", (_unusual_now(),)),
        RowSpec(
            "Actual and expected",
            (
                time_series_panel(
                    "Cost of the selected workspaces, expected cost and upper bound",
                    "Cost per hour, or per larger interval where the time range is long, of all selected workspaces together: select one, above or by a click in a table. The band lies between the expected cost and the upper bound of complete hours. From served history.",
                    Query(hourly("ai_hourly_cost_usd"), "actual", interval="1h"),
                    Query(hourly("ai_hourly_cost_upper_bound_usd"), "upper bound", interval="1h"),
                    Query(hourly("ai_hourly_cost_expected_usd"), "expected", interval="1h"),
                    styles=(
                        Style("actual", "blue"),
                        Style(
                            "upper bound", "semi-dark-orange", is_dashed=True, fill_below_to="expected", fill_opacity=15
                        ),
                        Style("expected", "text", is_dashed=True),
                    ),
                    interval="1h",
                    width=24,
                    height=10,
                    no_value=NO_HISTORY,
                ),
                heat_map_panel(
                    "Cost / upper bound by workspace and hour, last 14 days",
                    "Each complete hour's cost relative to its upper bound, of the 20 selected workspaces with the largest cost in 30 days. From served history. Red above 100 %: unusual.",
                    Query(
                        f"{hourly('ai_hourly_cost_usd', by)} / ({hourly('ai_hourly_cost_upper_bound_usd', by)} > 0) and on ({_BY}) {largest}",
                        "{{account}} / {{workspace}}",
                        interval="1h",
                    ),
                    unit=RATIO,
                    thresholds=(
                        (None, "transparent"),
                        (0.25, "super-light-green"),
                        (0.5, "light-green"),
                        (0.75, "light-yellow"),
                        (1.0, "red"),
                    ),
                    time_from="14d",
                    height=11,
                    no_value=NO_HISTORY,
                ),
            ),
        ),
        RowSpec(
            "Alerts",
            (
                state_timeline_panel(
                    "Alerts",
                    "Alerts of the selected accounts, of budgets and of the exporter in the time range: red while firing, orange while pending. Filters by workspace do not apply.",
                    Query(
                        'max by (alertname, account, workspace, budget, model) (ALERTS{alertname=~"AI.*",alertstate="firing",account=~"|$account"} * 2 or ALERTS{alertname=~"AI.*",alertstate="pending",account=~"|$account"})',
                        "{{alertname}} {{account}}{{budget}} {{workspace}} {{model}}",
                    ),
                    mappings=(("1", "pending", "orange"), ("2", "firing", "red")),
                    no_value="No alert in this time range",
                ),
            ),
        ),
        RowSpec(
            "Contributors",
            (
                table_panel(
                    "Largest increases, last hour",
                    "Workspaces and models whose newest complete hour is furthest above their mean hour of the last 30 days.",
                    [Column("Above mean (USD)", table_query(f"topk(15, {increase} > 0)"), USD_TO_THE_CENT)],
                    label_columns={**_LABEL_COLUMNS, "model": "Model"},
                    sort_by="Above mean (USD)",
                    links=_LINKS,
                    no_value="No workspace costs more than its mean hour",
                ),
                table_panel(
                    "New models",
                    "Models with cost today and none in the previous 29 days.",
                    [
                        Column(
                            "Today (USD)",
                            table_query(
                                f"sum by (account, model) (ai_cost_today_usd{{{WORKSPACE_MATCHERS}}}) > 0 unless sum by (account, model) (ai_cost_30d_usd{{{WORKSPACE_MATCHERS}}}) - sum by (account, model) (ai_cost_today_usd{{{WORKSPACE_MATCHERS}}}) > 0.01"
                            ),
                            USD_TO_THE_CENT,
                        )
                    ],
                    label_columns={"account": "Account", "model": "Model"},
                    sort_by="Today (USD)",
                    links={"Account": _ACCOUNT_LINKS},
                    no_value="No model is new today",
                ),
                table_panel(
                    "Cost change, last 7 days",
                    "The last 7 days compared with the 7 days before, by model: total change, change by volume (tokens at the previous price per token), and change by price and mix (of token types and tiers). New models have no previous price. From served history.",
                    _cost_change_columns(),
                    label_columns={"account": "Account", "model": "Model"},
                    sort_by="Change (USD)",
                    links={"Account": _ACCOUNT_LINKS},
                    width=24,
                    no_value=NO_HISTORY,
                ),
            ),
            collapsed=True,
        ),
        RowSpec(
            "Efficiency",
            (
                time_series_panel(
                    "Tokens per request",
                    "Mean tokens per request per hour or larger interval, of the ten selected workspaces with the most requests in 30 days. From served history, where the provider reports requests.",
                    Query(
                        f"{hourly('ai_hourly_tokens', by)} / ({hourly('ai_hourly_requests', by)} > 0) and on ({_BY}) topk(10, {_gauge('ai_requests_30d', END)})",
                        "{{account}} / {{workspace}}",
                        interval="1h",
                    ),
                    unit=TOKENS,
                    interval="1h",
                    no_value="No requests are reported",
                ),
                time_series_panel(
                    "USD per 1M tokens",
                    "Mean price of a million tokens of all types per UTC day, of the ten accounts with the largest cost; changes with price and mix. From served history.",
                    Query(
                        f"1000000 * sum by (account) (sum_over_time(ai_hourly_cost_usd{{{WORKSPACE_MATCHERS}}}[1d] offset -1d)) / (sum by (account) (sum_over_time(ai_hourly_tokens{{{WORKSPACE_MATCHERS}}}[1d] offset -1d)) > 0) and on (account) topk(10, sum by (account) (ai_cost_30d_usd{{{WORKSPACE_MATCHERS}}} {END}))",
                        "{{account}}",
                        interval="1d",
                    ),
                    interval="1d",
                    no_value=NO_HISTORY,
                ),
            ),
            collapsed=True,
        ),
    )
