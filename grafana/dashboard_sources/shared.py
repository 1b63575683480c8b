"""Label matchers, queries, descriptions, links and colour thresholds that several dashboards share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from alerting.config import load_rules_config
from grafana.panels import Link, PanelSpec


@dataclass(frozen=True)
class RowSpec:
    """A row of a dashboard: its title and its panels from left to right, top to bottom."""

    title: str
    panels: Sequence[PanelSpec]
    collapsed: bool = False
    """Whether the panels, and their queries, wait for a click on the title."""


DashboardRows = Sequence[RowSpec]

ACCOUNT_MATCHERS = 'provider=~"$provider",account=~"$account"'
WORKSPACE_MATCHERS = f'{ACCOUNT_MATCHERS},workspace=~"$workspace"'
MODEL_MATCHERS = f'{WORKSPACE_MATCHERS},model=~"$model"'
BUDGET_MATCHERS = 'owner=~"$owner"'
END = "@ ${__to:date:seconds}"
"""The end of the time range. `@ end()` is the last step of the query, which may be a whole interval older."""
_END_IS_NOW = f"absent(count(last_over_time(ai_hourly_cost_usd[1h] offset -1h {END})))"
"""Whether the time range ends in an hour that has not ended; a past hour is in served history."""
HISTORY_NOTE = "From served history if remote read is configured, otherwise from scraped metrics"
_WEEK_SECONDS = 604_800
_DAY_SECONDS = 86_400


def with_owner(expr: str) -> str:
    """Return an expression by account with the account's owner as another label."""
    return f"{expr} * on (provider, account) group_left (owner) ai_account_info"


def with_known_owner(expr: str) -> str:
    """Return an expression from served history with the owner where Prometheus knows it at the end of the time range.

    Series of an account that was not scraped then stay without the label.
    """
    info = f"ai_account_info {END}"
    return f"{expr} * on (provider, account) group_left (owner) {info} or {expr} unless on (provider, account) {info}"


def cost_per_interval(label: str, matchers: str) -> str:
    """Return cost per interval of the panel by a label, at the start of each interval; the interval is whole hours.

    The newest interval includes the running hour, which served history does not have yet. Without any history, every
    step has the scraped cost of the hour that was complete then: a step that only lacks history must not repeat it.
    """
    hours = with_known_owner(f"sum_over_time(ai_hourly_cost_usd{{{matchers}}}[$__interval] offset -$__interval)")
    history = f"sum by ({label}) ({hours})"
    running_hour = with_owner(f"ai_cost_this_hour_usd{{{matchers}}} {END}")
    running = f'label_replace(sum by ({label}) ({running_hour} {END}), "part", "running", "", "")'
    is_newest = "vector(1000 * time()) > $__to - $__interval_ms"
    has_history = f"count(last_over_time(ai_hourly_cost_usd{{{matchers}}}[2d] {END}))"
    with_history = f"sum by ({label}) ({history} or ({running} and on () ({is_newest}) and on () {_END_IS_NOW}))"
    return (
        f"({with_history} and on () {has_history}) or "
        f"(sum by ({label}) ({with_owner(f'ai_cost_last_hour_usd{{{matchers}}}')}) unless on () {has_history})"
    )


def cost_per_day(label: str, matchers: str) -> str:
    """Return cost per UTC day by a label, at the start of each day; the interval of the panel has to be a day.

    Today has the value of the tiles: it includes hours that are not complete. Without any history, every day has its
    last scraped value. Without a label it is the sum.
    """
    by = f"by ({label}) " if label else ""
    history = f"sum {by}(sum_over_time(ai_hourly_cost_usd{{{matchers}}}[1d] offset -1d))"
    scraped = f"sum {by}(last_over_time(ai_cost_today_usd{{{matchers}}}[1d] offset -1d))"
    today = f"sum {by}(ai_cost_today_usd{{{matchers}}} {END})"
    is_today = f"((vector(1000 * time()) > $__to - 86400000) and on () {_END_IS_NOW})"
    return f"({today} and on () {is_today}) or ({history} unless on () {is_today}) or {scraped}"


def month_to_date(history: str, now: str) -> str:
    """Return an expression of `history`, a metric by account, every six hours, and of `now` at the newest step.

    With a workspace or model selected, the history is its share by the cost of the last 30 days.
    """
    selected, whole = (f"sum(ai_cost_30d_usd{{{matchers}}} {END})" for matchers in (MODEL_MATCHERS, ACCOUNT_MATCHERS))
    past = f"sum(last_over_time({history}{{{ACCOUNT_MATCHERS}}}[6h])) * on () ({selected} / ({whole} > 0))"
    is_newest = "vector(1000 * time()) > $__to - $__interval_ms"
    return f"(({now}) and on () ({is_newest})) or {past}"


def complete_hours_of_today(matchers: str, weeks_before: int = 0) -> str:
    """Return the cost of today's complete hours, or of the same hours of the same day some weeks before."""
    shift = weeks_before * _WEEK_SECONDS
    offset = f" offset {7 * weeks_before}d" if weeks_before else ""
    midnight = f"scalar(floor(vector((${{__to:date:seconds}} - {shift}) / {_DAY_SECONDS}))) * {_DAY_SECONDS}"
    hourly_usage = f'{ACCOUNT_MATCHERS},kind="usage",width="hour"'
    watermark = f"scalar(min(ai_account_complete_until_timestamp_seconds{{{hourly_usage}}} {END}))"
    # At a full hour, [1h] is the hour that has ended. The sum of hours is 0 at first, to have a value at midnight.
    hour = f"(sum(sum_over_time(ai_hourly_cost_usd{{{matchers}}}[1h])) or vector(0))"
    counted = f"(vector(time()) > {midnight} and vector(time()) <= {watermark} - {shift})"
    return f"sum_over_time(({hour} and on () {counted})[1d:1h]{offset})"


_OWN_TIME_RANGE = {"ai-spend-telemetry", "ai-spend-budgets"}
"""Dashboards whose time range suits them better than that of the page with the link."""


def link_to(uid: str, title: str, **variables: str) -> Link:
    """Return a link to a dashboard that keeps the data source and the time range and sets variables to templates."""
    time_range = "" if uid in _OWN_TIME_RANGE else "${__url_time_range}&"
    values = "".join(f"&var-{name}={value}" for name, value in variables.items())
    return Link(title, f"/d/{uid}?{time_range}var-datasource=${{datasource}}{values}")


def field(name: str) -> str:
    """Return the template of another cell of the row, by the heading of its column."""
    return f'${{__data.fields["{name}"]}}'


RUNBOOKS = load_rules_config().links.runbooks
"""As in the notifications of alerts."""
NO_HISTORY = "No served history: configure remote_read in Prometheus (docs/history.md)"
CACHE_HIT_DESCRIPTION = "The share of input tokens, cache writes included, that was read from a cache."
DAILY_BARS_NOTE = "one bar per UTC day, so the panel's interval must remain 1d and the dashboard's time zone UTC"
BURN_RATE_THRESHOLDS = ((None, "green"), (1.0, "yellow"), (1.5, "orange"), (14.4, "red"))
BUDGET_THRESHOLDS = ((None, "green"), (0.8, "orange"), (1.0, "red"))
DATA_DELAY_THRESHOLDS = ((None, "green"), (10800.0, "orange"), (14400.0, "red"))
NONE_OR_BAD = ((None, "green"), (1.0, "red"))
"""Of a number that should be 0."""
