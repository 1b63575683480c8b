"""Whether the numbers can be trusted."""

# A query or a text stands on one line.
# ruff: noqa: E501

from __future__ import annotations

from grafana.dashboard_sources.words import ACCOUNT_MATCHERS, DATA_DELAY_THRESHOLDS, DashboardRows
from grafana.panels import SECONDS, TOKENS, Query, stat_panel, state_timeline_panel, table_panel, time_series_panel

_ADVICE = {
    "well": ("Nothing.", "text"),
    "wrong_key_kind": (
        "A personal, project or member key cannot read usage: make an admin key and put it in the place of this one.",
        "text",
    ),
    "key_rejected": (
        "The key is revoked, expired, unknown or cannot be read: make a new admin key and put it in the place of this one.",
        "text",
    ),
    "missing_scope": (
        "The key may not read something that is asked for: give it the scope or role that `check keys` names.",
        "text",
    ),
    "rate_limited": ("Wait, nothing is lost. If it lasts: who else uses this key? Else raise poll_interval.", "text"),
    "unavailable": (
        "See the provider's status page, then base_url, network, firewall and proxy. What is missed is read later.",
        "text",
    ),
    "malformed": (
        "Check base_url and the proxy behind it. If they are right, the provider's API has changed: update the exporter.",
        "text",
    ),
}
"""By the reason of a problem; the landing page and `check keys` give the provider's own words beside it."""


def telemetry_rows() -> DashboardRows:
    """Return whether the numbers can be trusted."""
    reasons = (("0", "well", "green"), ("1", "fails", "red"))
    return (
        (
            "Accounts",
            (
                table_panel(
                    "What to do",
                    "Every account, and what to do where its polls fail; the landing page and `check keys` have the provider's own words.",
                    (
                        (
                            "Value",
                            Query(
                                f'label_replace(max by (account, reason) (ai_account_problem{{{ACCOUNT_MATCHERS}}} == 1) or on (account) label_replace(0 * max by (account) (ai_account_up{{{ACCOUNT_MATCHERS}}}), "reason", "well", "", ""), "to_do", "$1", "reason", "(.*)")',
                                instant=True,
                                table=True,
                            ),
                            "short",
                        ),
                    ),
                    hidden_columns=("Value",),
                    value_mappings={"reason": {"well": ("well", "green")}, "to_do": _ADVICE},
                    width=24,
                    height=7,
                ),
                state_timeline_panel(
                    "Problems",
                    "Red while polls of an account fail for a reason.",
                    Query(
                        f"max by (account, reason) (ai_account_problem{{{ACCOUNT_MATCHERS}}}) > 0 or 0 * max by (account) (ai_account_up{{{ACCOUNT_MATCHERS}}})",
                        "{{account}} {{reason}}",
                    ),
                    mappings=reasons,
                ),
                time_series_panel(
                    "Watermarks",
                    "How far each report of use is behind: up to then everything is told. From four hours on no spike is told.",
                    Query(
                        f'time() - max by (account, report) (ai_account_complete_until_timestamp_seconds{{{ACCOUNT_MATCHERS},report!="costs"}})',
                        "{{account}} {{report}}",
                    ),
                    unit=SECONDS,
                    thresholds=DATA_DELAY_THRESHOLDS,
                ),
                time_series_panel(
                    "Since the last sync",
                    "Since each report was last read with success.",
                    Query(
                        f"time() - max by (account, report) (ai_account_last_success_timestamp_seconds{{{ACCOUNT_MATCHERS}}})",
                        "{{account}} {{report}}",
                    ),
                    unit=SECONDS,
                    thresholds=DATA_DELAY_THRESHOLDS,
                ),
                time_series_panel(
                    "API requests",
                    "Requests to the providers per minute, by status; error where no answer came.",
                    Query(
                        f"60 * sum by (account, code) (rate(ai_account_api_requests_total{{{ACCOUNT_MATCHERS}}}[$__rate_interval]))",
                        "{{account}} {{code}}",
                    ),
                    unit="short",
                ),
                time_series_panel(
                    "Failed polls",
                    "Polls that failed within the hour, by reason.",
                    Query(
                        f"sum by (account, reason) (increase(ai_account_poll_failures_total{{{ACCOUNT_MATCHERS}}}[1h])) > 0 or 0 * sum by (account) (ai_account_up{{{ACCOUNT_MATCHERS}}})",
                        "{{account}} {{reason}}",
                    ),
                    unit="short",
                ),
                time_series_panel(
                    "Poll durations",
                    "How long the newest poll of each report took, all its pages.",
                    Query(
                        f"max by (account, report) (ai_account_poll_duration_seconds{{{ACCOUNT_MATCHERS}}})",
                        "{{account}} {{report}}",
                    ),
                    width=8,
                    unit=SECONDS,
                ),
                time_series_panel(
                    "Tokens without a price",
                    "Today's tokens that no price is known for: their cost is missing until the day is billed.",
                    Query(
                        f"sum by (account, model) (ai_account_unpriced_tokens{{{ACCOUNT_MATCHERS}}}) or 0 * sum by (account) (ai_account_up{{{ACCOUNT_MATCHERS}}})",
                        "{{account}} {{model}}",
                    ),
                    width=8,
                    unit=TOKENS,
                ),
                time_series_panel(
                    "Folded series",
                    "Combinations above max_series, shown together under other.",
                    Query(f"sum by (account) (ai_account_aggregated_series{{{ACCOUNT_MATCHERS}}})", "{{account}}"),
                    width=8,
                    unit="short",
                ),
            ),
        ),
        (
            "Ourselves",
            (
                time_series_panel(
                    "Memory",
                    "Resident memory of the exporter.",
                    Query('process_resident_memory_bytes{job="ai-spend"}', "{{instance}}"),
                    unit="bytes",
                    width=8,
                ),
                time_series_panel(
                    "Scrapes",
                    "How long Prometheus took to scrape the exporter.",
                    Query('scrape_duration_seconds{job="ai-spend"}', "{{instance}}"),
                    unit=SECONDS,
                    width=8,
                ),
                time_series_panel(
                    "Series",
                    "Samples of one scrape.",
                    Query('scrape_samples_scraped{job="ai-spend"}', "{{instance}}"),
                    unit="short",
                    width=8,
                ),
                time_series_panel(
                    "Ledger",
                    "What the ledger takes on the disk.",
                    Query("ai_exporter_ledger_bytes", "{{instance}}"),
                    unit="bytes",
                    width=8,
                ),
                time_series_panel(
                    "CPU",
                    "Seconds of processor time per second.",
                    Query('rate(process_cpu_seconds_total{job="ai-spend"}[$__rate_interval])', "{{instance}}"),
                    unit=SECONDS,
                    width=8,
                ),
                stat_panel(
                    "Configuration",
                    "1: the newest reload succeeded. 0: an old configuration is in use.",
                    Query("min(ai_exporter_config_last_reload_successful)", "loaded"),
                    unit="short",
                    thresholds=((None, "red"), (1.0, "green")),
                    width=4,
                ),
                stat_panel(
                    "Defects",
                    "Visits that broke off for a defect of ours; the log tells more. Red: report it.",
                    Query("sum(ai_exporter_internal_errors_total)", "defects"),
                    unit="short",
                    thresholds=((None, "green"), (1.0, "red")),
                    width=4,
                ),
            ),
        ),
    )
