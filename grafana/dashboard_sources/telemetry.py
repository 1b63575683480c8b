"""Rows of the telemetry dashboard: polls, data delay, problems, and the exporter itself."""

# Queries and descriptions are not wrapped.
# ruff: noqa: E501

from __future__ import annotations

from grafana.dashboard_sources.account_status import account_status_panel
from grafana.dashboard_sources.shared import ACCOUNT_MATCHERS, DATA_DELAY_THRESHOLDS, DashboardRows, RowSpec
from grafana.panels import (
    SECONDS,
    TOKENS,
    Query,
    stat_panel,
    state_timeline_panel,
    time_series_panel,
)


def telemetry_rows() -> DashboardRows:
    """Return the rows of the telemetry dashboard."""
    poll_states = (("0", "ok", "green"), ("1", "failing", "red"))
    return (
        RowSpec("Accounts", (account_status_panel("Accounts", 9),)),
        RowSpec(
            "Polls",
            (
                state_timeline_panel(
                    "Problems",
                    "Red while polls of an account fail, by reason; of up to twenty accounts, those in trouble first.",
                    Query(
                        f"topk(20, max by (account, reason) (ai_account_problem{{{ACCOUNT_MATCHERS}}}) > 0 or 0 * max by (account) (ai_account_up{{{ACCOUNT_MATCHERS}}}))",
                        "{{account}} {{reason}}",
                    ),
                    mappings=poll_states,
                ),
                time_series_panel(
                    "Data delay",
                    "Age of an account's oldest watermark of usage: data is complete until then. The ten oldest. Above 4 hours of hourly usage no spike alert fires.",
                    Query(
                        f'topk(10, time() - min by (account) (ai_account_complete_until_timestamp_seconds{{{ACCOUNT_MATCHERS},kind="usage"}}))',
                        "{{account}}",
                    ),
                    unit=SECONDS,
                    thresholds=DATA_DELAY_THRESHOLDS,
                    no_value="No account has been read yet",
                ),
                time_series_panel(
                    "Last successful poll",
                    "Time since the last successful poll of a report. The ten oldest.",
                    Query(
                        f"topk(10, time() - max by (account, report) (ai_account_last_success_timestamp_seconds{{{ACCOUNT_MATCHERS}}}))",
                        "{{account}} {{report}}",
                    ),
                    unit=SECONDS,
                    thresholds=DATA_DELAY_THRESHOLDS,
                    no_value="No account has been read yet",
                ),
                time_series_panel(
                    "API requests",
                    "Requests to the providers per minute, by provider and status code; error: no response.",
                    Query(
                        f"60 * sum by (provider, code) (rate(ai_account_api_requests_total{{{ACCOUNT_MATCHERS}}}[$__rate_interval]))",
                        "{{provider}} {{code}}",
                    ),
                    unit="short",
                ),
                time_series_panel(
                    "Failed polls",
                    "Failed polls within the last hour, by reason. The ten largest.",
                    Query(
                        f"topk(10, sum by (account, reason) (increase(ai_account_poll_failures_total{{{ACCOUNT_MATCHERS}}}[1h])) > 0 or 0 * sum by (account) (ai_account_up{{{ACCOUNT_MATCHERS}}}))",
                        "{{account}} {{reason}}",
                    ),
                    unit="short",
                ),
                time_series_panel(
                    "Poll duration",
                    "Duration of the last poll of a report, including all pages. The ten longest.",
                    Query(
                        f"topk(10, max by (account, report) (ai_account_poll_duration_seconds{{{ACCOUNT_MATCHERS}}}))",
                        "{{account}} {{report}}",
                    ),
                    width=8,
                    unit=SECONDS,
                ),
                time_series_panel(
                    "Unpriced tokens",
                    "Tokens of unbilled days without a known price: their cost is missing until the day is billed. The ten largest.",
                    Query(
                        f"topk(10, sum by (account, model) (ai_account_unpriced_tokens{{{ACCOUNT_MATCHERS}}}) or 0 * sum by (account) (ai_account_up{{{ACCOUNT_MATCHERS}}}))",
                        "{{account}} {{model}}",
                    ),
                    width=8,
                    unit=TOKENS,
                ),
                time_series_panel(
                    "Aggregated series",
                    'Series above max_series, aggregated into model="other". The ten largest.',
                    Query(
                        f"topk(10, sum by (account) (ai_account_aggregated_series{{{ACCOUNT_MATCHERS}}}))",
                        "{{account}}",
                    ),
                    width=8,
                    unit="short",
                ),
            ),
        ),
        RowSpec(
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
            collapsed=True,
        ),
    )
