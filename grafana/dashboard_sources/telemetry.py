"""Rows of the telemetry dashboard: polls, data delay, problems, and the exporter itself."""

# Queries and descriptions are not wrapped.
# ruff: noqa: E501

from __future__ import annotations

from grafana.dashboard_sources.shared import ACCOUNT_MATCHERS, DATA_DELAY_THRESHOLDS, DashboardRows
from grafana.panels import (
    NO_VALUE,
    SECONDS,
    TOKENS,
    Query,
    stat_panel,
    state_timeline_panel,
    table_panel,
    time_series_panel,
)

_ADVICE = {
    "ok": (NO_VALUE, "text"),
    "wrong_key_kind": (
        "A personal, project or member key cannot read usage: create an admin key and replace this key with it.",
        "text",
    ),
    "key_rejected": (
        "The key is revoked, expired, unknown or unreadable: create a new admin key and replace this key with it.",
        "text",
    ),
    "missing_scope": (
        "The key lacks a permission that a report requires: grant the scope or role that `check keys` names.",
        "text",
    ),
    "rate_limited": (
        "Wait; nothing is lost. If it persists, check who else uses this key, or raise poll_interval.",
        "text",
    ),
    "unavailable": (
        "Check the provider's status page, then base_url, network, firewall and proxy. Missed data is fetched later.",
        "text",
    ),
    "unsupported": (
        "The address has no such report (404): check base_url and any proxy, then whether the plan includes the report.",
        "text",
    ),
    "malformed": (
        "Check base_url and any proxy. If they are correct, the provider's API has changed: update the exporter.",
        "text",
    ),
    "internal_error": (
        "The exporter has a bug; the previous numbers are kept. Update the exporter, or report the error in its log.",
        "text",
    ),
}
"""Reason of a problem -> (advice, colour). The landing page and `check keys` add the status and the report."""


def telemetry_rows() -> DashboardRows:
    """Return the rows of the telemetry dashboard."""
    poll_states = (("0", "ok", "green"), ("1", "failing", "red"))
    return (
        (
            "Accounts",
            (
                table_panel(
                    "Action needed",
                    f"All accounts, and the action needed where polls fail; the landing page and `check keys` show the status that the provider answers. {NO_VALUE}: no action needed.",
                    (
                        (
                            "Value",
                            Query(
                                f'label_replace(max by (account, reason) (ai_account_problem{{{ACCOUNT_MATCHERS}}} == 1) or on (account) label_replace(0 * max by (account) (ai_account_up{{{ACCOUNT_MATCHERS}}}), "reason", "ok", "", ""), "action", "$1", "reason", "(.*)")',
                                instant=True,
                                table=True,
                            ),
                            "short",
                        ),
                    ),
                    hidden_columns=("Value",),
                    value_mappings={"reason": {"ok": ("ok", "green")}, "action": _ADVICE},
                    width=24,
                    height=7,
                ),
                state_timeline_panel(
                    "Problems",
                    "Red while polls of an account fail, by reason.",
                    Query(
                        f"max by (account, reason) (ai_account_problem{{{ACCOUNT_MATCHERS}}}) > 0 or 0 * max by (account) (ai_account_up{{{ACCOUNT_MATCHERS}}})",
                        "{{account}} {{reason}}",
                    ),
                    mappings=poll_states,
                ),
                time_series_panel(
                    "Data complete until",
                    "Age of each usage report's watermark: data is complete until then. Above 4 hours of hourly usage no spike alert fires.",
                    Query(
                        f'time() - max by (account, report) (ai_account_complete_until_timestamp_seconds{{{ACCOUNT_MATCHERS},kind="usage"}})',
                        "{{account}} {{report}}",
                    ),
                    unit=SECONDS,
                    thresholds=DATA_DELAY_THRESHOLDS,
                ),
                time_series_panel(
                    "Last successful poll",
                    "Time since the last successful poll of each report.",
                    Query(
                        f"time() - max by (account, report) (ai_account_last_success_timestamp_seconds{{{ACCOUNT_MATCHERS}}})",
                        "{{account}} {{report}}",
                    ),
                    unit=SECONDS,
                    thresholds=DATA_DELAY_THRESHOLDS,
                ),
                time_series_panel(
                    "API requests",
                    "Requests to the providers per minute, by status code; error: no response.",
                    Query(
                        f"60 * sum by (account, code) (rate(ai_account_api_requests_total{{{ACCOUNT_MATCHERS}}}[$__rate_interval]))",
                        "{{account}} {{code}}",
                    ),
                    unit="short",
                ),
                time_series_panel(
                    "Failed polls",
                    "Failed polls within the last hour, by reason.",
                    Query(
                        f"sum by (account, reason) (increase(ai_account_poll_failures_total{{{ACCOUNT_MATCHERS}}}[1h])) > 0 or 0 * sum by (account) (ai_account_up{{{ACCOUNT_MATCHERS}}})",
                        "{{account}} {{reason}}",
                    ),
                    unit="short",
                ),
                time_series_panel(
                    "Poll duration",
                    "Duration of the last poll of each report, including all pages.",
                    Query(
                        f"max by (account, report) (ai_account_poll_duration_seconds{{{ACCOUNT_MATCHERS}}})",
                        "{{account}} {{report}}",
                    ),
                    width=8,
                    unit=SECONDS,
                ),
                time_series_panel(
                    "Unpriced tokens",
                    "Today's tokens without a known price: their cost is missing until the day is billed.",
                    Query(
                        f"sum by (account, model) (ai_account_unpriced_tokens{{{ACCOUNT_MATCHERS}}}) or 0 * sum by (account) (ai_account_up{{{ACCOUNT_MATCHERS}}})",
                        "{{account}} {{model}}",
                    ),
                    width=8,
                    unit=TOKENS,
                ),
                time_series_panel(
                    "Aggregated series",
                    'Series above max_series, aggregated into model="other".',
                    Query(f"sum by (account) (ai_account_aggregated_series{{{ACCOUNT_MATCHERS}}})", "{{account}}"),
                    width=8,
                    unit="short",
                ),
            ),
        ),
        (
            "Exporter",
            (
                time_series_panel(
                    "Memory",
                    "Resident memory of the exporter.",
                    Query('process_resident_memory_bytes{job="ai-spend"}', "{{instance}}"),
                    unit="bytes",
                    width=8,
                ),
                time_series_panel(
                    "Scrape duration",
                    "Duration of Prometheus's scrapes of the exporter.",
                    Query('scrape_duration_seconds{job="ai-spend"}', "{{instance}}"),
                    unit=SECONDS,
                    width=8,
                ),
                time_series_panel(
                    "Samples per scrape",
                    "Samples in one scrape of the exporter.",
                    Query('scrape_samples_scraped{job="ai-spend"}', "{{instance}}"),
                    unit="short",
                    width=8,
                ),
                time_series_panel(
                    "Ledger size",
                    "Size of the ledger on disk.",
                    Query("ai_exporter_ledger_bytes", "{{instance}}"),
                    unit="bytes",
                    width=8,
                ),
                time_series_panel(
                    "CPU",
                    "CPU seconds used per second.",
                    Query('rate(process_cpu_seconds_total{job="ai-spend"}[$__rate_interval])', "{{instance}}"),
                    unit=SECONDS,
                    width=8,
                ),
                stat_panel(
                    "Configuration reload",
                    "1: the last reload succeeded. 0: it failed, and the previous configuration is in use.",
                    Query("min(ai_exporter_config_last_reload_successful)", "loaded"),
                    unit="short",
                    thresholds=((None, "red"), (1.0, "green")),
                    width=4,
                ),
                stat_panel(
                    "Internal errors",
                    "Polls aborted by an error in the exporter itself; see the log. Red: please report it.",
                    Query("sum(ai_exporter_internal_errors_total)", "errors"),
                    unit="short",
                    thresholds=((None, "green"), (1.0, "red")),
                    width=4,
                ),
            ),
        ),
    )
