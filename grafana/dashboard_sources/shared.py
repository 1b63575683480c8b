"""Label matchers, descriptions and colour thresholds that several dashboards share."""

from __future__ import annotations

from collections.abc import Sequence

from grafana.panels import PanelSpec

DashboardRows = Sequence[tuple[str, Sequence[PanelSpec]]]
"""Rows of a dashboard: (title, panels), top to bottom."""

ACCOUNT_MATCHERS = 'provider=~"$provider",account=~"$account"'
WORKSPACE_MATCHERS = f'{ACCOUNT_MATCHERS},workspace=~"$workspace"'
MODEL_MATCHERS = f'{WORKSPACE_MATCHERS},model=~"$model"'
END = "@ ${__to:date:seconds}"
"""The end of the time range. `@ end()` is the last step of the query, which may be a whole interval older."""
_END_IS_NOW = f"absent(count(last_over_time(ai_hourly_cost_usd[1h] offset -1h {END})))"
"""Whether the time range ends in an hour that is not complete; a past hour is in served history."""
HISTORY_NOTE = "From served history if remote read is configured, otherwise from scraped metrics"


def cost_per_interval(label: str, matchers: str) -> str:
    """Return cost per interval of the panel by a label, at the start of each interval; the interval is whole hours.

    The newest interval includes the running hour, which served history does not have yet. Without any history, every
    step has the scraped cost of the hour that was complete then: a step that only lacks history must not repeat it.
    """
    history = f"sum by ({label}) (sum_over_time(ai_hourly_cost_usd{{{matchers}}}[$__interval] offset -$__interval))"
    running = f'label_replace(sum by ({label}) (ai_cost_this_hour_usd{{{matchers}}} {END}), "part", "running", "", "")'
    is_newest = "vector(1000 * time()) > $__to - $__interval_ms"
    has_history = f"count(last_over_time(ai_hourly_cost_usd{{{matchers}}}[2d] {END}))"
    with_history = f"sum by ({label}) ({history} or ({running} and on () ({is_newest}) and on () {_END_IS_NOW}))"
    return (
        f"({with_history} and on () {has_history}) or "
        f"(sum by ({label}) (ai_cost_last_hour_usd{{{matchers}}}) unless on () {has_history})"
    )


def cost_per_day(label: str, matchers: str) -> str:
    """Return cost per UTC day by a label, at the start of each day; the interval of the panel has to be a day.

    Today has the value of the tiles: it includes hours that are not complete. Without any history, every day has its
    last scraped value.
    """
    history = f"sum by ({label}) (sum_over_time(ai_hourly_cost_usd{{{matchers}}}[1d] offset -1d))"
    scraped = f"sum by ({label}) (last_over_time(ai_cost_today_usd{{{matchers}}}[1d] offset -1d))"
    today = f"sum by ({label}) (ai_cost_today_usd{{{matchers}}} {END})"
    is_today = f"((vector(1000 * time()) > $__to - 86400000) and on () {_END_IS_NOW})"
    return f"({today} and on () {is_today}) or ({history} unless on () {is_today}) or {scraped}"


CACHE_HIT_DESCRIPTION = "The share of input tokens, cache writes included, that was read from a cache."
DAILY_BARS_NOTE = "one bar per UTC day, so the panel's interval must remain 1d and the dashboard's time zone UTC"
BURN_RATE_THRESHOLDS = ((None, "green"), (1.0, "yellow"), (1.5, "orange"), (14.4, "red"))
BUDGET_THRESHOLDS = ((None, "green"), (0.8, "orange"), (1.0, "red"))
DATA_DELAY_THRESHOLDS = ((None, "green"), (10800.0, "orange"), (14400.0, "red"))
