"""The table of all metric families: name, type, labels and help. A family that is not here is not exported."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

SPEND_LABELS = ("provider", "account", "workspace", "model", "tier")
ACCOUNT_LABELS = ("provider", "account")
API_KEY_LABEL = "api_key"
"""Added to spend series where the configuration asks for it."""


@dataclass(frozen=True, slots=True)
class Family:
    """One metric family."""

    name: str
    type: Literal["gauge", "counter"]
    labels: tuple[str, ...]
    help: str


def _gauge(name: str, labels: tuple[str, ...], help_text: str) -> Family:
    return Family(name, "gauge", labels, help_text)


def _counter(name: str, labels: tuple[str, ...], help_text: str) -> Family:
    return Family(name, "counter", labels, help_text)


_COST_HELP = "USD {when} (UTC): billed where the provider has billed, estimated otherwise. {source}"
_TOKENS_HELP = "Tokens {when} (UTC) by disjoint type; the sum over type is every token once. {source}"
_REQUESTS_HELP = "Requests {when} (UTC); absent where the provider does not report them. {source}"
_UNITS_HELP = "Images, characters, seconds, searches, sessions {when} (UTC); bytes: the largest hour. {source}"
_SOURCE_HELP = "From the provider's admin API, polled; usually minutes late, revised for days."

_WINDOW_HELP = {
    "this_hour": "in the running, incomplete hour",
    "last_hour": "in the newest complete hour",
    "today": "since midnight",
    "month": "since the month began",
    "30d": "today and in the 29 days before",
}


def _window_gauge(name: str, window: str, labels: tuple[str, ...], help_template: str) -> Family:
    return _gauge(
        name.format(window=window), labels, help_template.format(when=_WINDOW_HELP[window], source=_SOURCE_HELP)
    )


COST = {window: _window_gauge("ai_cost_{window}_usd", window, SPEND_LABELS, _COST_HELP) for window in _WINDOW_HELP}
TOKENS = {
    window: _window_gauge("ai_tokens_{window}", window, (*SPEND_LABELS, "type"), _TOKENS_HELP)
    for window in ("last_hour", "today", "month", "30d")
}
REQUESTS = {
    window: _window_gauge("ai_requests_{window}", window, SPEND_LABELS, _REQUESTS_HELP)
    for window in ("last_hour", "today", "month", "30d")
}
UNITS = {
    window: _window_gauge("ai_units_{window}", window, (*ACCOUNT_LABELS, "workspace", "model", "unit"), _UNITS_HELP)
    for window in ("today", "month")
}
COST_DAILY = _gauge(
    "ai_cost_daily_usd",
    (*ACCOUNT_LABELS, "date"),
    f"USD of each of the last 35 UTC days, restated until it leaves. {_SOURCE_HELP}",
)
COST_DAILY_BILLED = _gauge(
    "ai_cost_daily_billed_usd",
    (*ACCOUNT_LABELS, "date"),
    "USD of each of the last 35 UTC days that the provider has billed, equal to ai_cost_daily_usd of that day; absent "
    "for a day that is estimated. From the provider's bill, polled hourly.",
)
COST_DAILY_ESTIMATE = _gauge(
    "ai_cost_daily_estimate_usd",
    (*ACCOUNT_LABELS, "date"),
    "Estimate in USD of a billed day of the last 35 (UTC) from before its bill arrived; absent where the day was never "
    "estimated.",
)
COST_MONTH_FORECAST = _gauge(
    "ai_cost_month_forecast_usd",
    ACCOUNT_LABELS,
    "Expected USD of the whole month (UTC): known hours, then the hourly shape of the past four weeks at the last "
    "week's level; below 14 days of history an even pace. One-time costs are not repeated. Budgets over whole accounts "
    "have the same forecast.",
)
COST_MONTH_ONE_TIME = _gauge(
    "ai_cost_month_one_time_usd",
    ACCOUNT_LABELS,
    "USD of this month (UTC) charged less credited once, a part of ai_cost_month_usd: costs without usage that fewer "
    "than half of the recent bills have. Left out of forecasts, burn rates and baselines.",
)
COST_DAILY_ONE_TIME = _gauge(
    "ai_cost_daily_one_time_usd",
    (*ACCOUNT_LABELS, "date"),
    "USD charged less credited once on each of today and the four UTC days before it, a part of ai_cost_daily_usd; "
    "absent for a day without one-time costs. A day is known once it is billed.",
)
COST_TODAY_LOW = _gauge(
    "ai_cost_today_estimate_low_usd",
    ACCOUNT_LABELS,
    "The lowest USD that the provider is expected to bill for the usage in ai_cost_today_usd, from the errors of this "
    "account's last 14 billed estimates; absent before the first.",
)
COST_TODAY_HIGH = _gauge(
    "ai_cost_today_estimate_high_usd",
    ACCOUNT_LABELS,
    "The highest USD that the provider is expected to bill for the usage in ai_cost_today_usd, from the errors of this "
    "account's last 14 billed estimates; absent before the first.",
)
COST_MONTH_BILLED = _gauge(
    "ai_cost_month_billed_usd",
    ACCOUNT_LABELS,
    "USD of this month (UTC) that the provider has billed, a part of ai_cost_month_usd. From the provider's bill, "
    "polled hourly; a day is billed hours after it has closed.",
)

_BASELINE_HELP = "of {hour} (UTC) from the same hour of the 14 days before, workdays or weekends: {definition}"
_EXPECTED_HELP = "their median. Absent where fewer than 3 such days are known."
_UPPER_BOUND_HELP = "above this it is unusual. Median and four robust standard deviations, at least 2.5 times it."
_WORKSPACE_LABELS = (*ACCOUNT_LABELS, "workspace")


def _baseline_gauge(
    name: str, unit: str, hour: str = "the newest complete hour", definition: str = _UPPER_BOUND_HELP
) -> Family:
    return _gauge(name, _WORKSPACE_LABELS, f"{unit} {_BASELINE_HELP.format(hour=hour, definition=definition)}")


COST_EXPECTED = _baseline_gauge("ai_cost_last_hour_expected_usd", "USD", definition=_EXPECTED_HELP)
COST_UPPER_BOUND = _baseline_gauge("ai_cost_last_hour_upper_bound_usd", "USD")
COST_THIS_HOUR_UPPER_BOUND = _baseline_gauge(
    "ai_cost_this_hour_upper_bound_usd", "USD", "the whole of the running hour"
)
REQUESTS_EXPECTED = _baseline_gauge("ai_requests_last_hour_expected", "Requests", definition=_EXPECTED_HELP)
REQUESTS_UPPER_BOUND = _baseline_gauge("ai_requests_last_hour_upper_bound", "Requests")
TOKENS_EXPECTED = _baseline_gauge(
    "ai_tokens_last_hour_expected", "Tokens, where no requests are counted,", definition=_EXPECTED_HELP
)
TOKENS_UPPER_BOUND = _baseline_gauge("ai_tokens_last_hour_upper_bound", "Tokens, where no requests are counted,")
COST_EXCESS = _gauge(
    "ai_cost_excess_24h_usd",
    _WORKSPACE_LABELS,
    "USD by which the 24 newest complete hours (UTC) exceeded their upper bounds, each compared with the days before "
    "it: a spike that was reported late is included.",
)
INCIDENT_COST = _gauge(
    "ai_cost_incident_usd",
    _WORKSPACE_LABELS,
    "USD from the first to the newest hour (UTC) of the newest incident: hours above their upper bounds with at most 2 "
    "others in between, running hour included, up to 48 hours. Absent 24 complete hours after it.",
)
INCIDENT_START = _gauge(
    "ai_cost_incident_start_timestamp_seconds",
    _WORKSPACE_LABELS,
    "When the first hour (UTC) of the incident in ai_cost_incident_usd began, by the time of usage.",
)

SIGNAL_FAMILIES = (
    COST_EXPECTED,
    COST_UPPER_BOUND,
    COST_THIS_HOUR_UPPER_BOUND,
    REQUESTS_EXPECTED,
    REQUESTS_UPPER_BOUND,
    TOKENS_EXPECTED,
    TOKENS_UPPER_BOUND,
    COST_EXCESS,
    INCIDENT_COST,
    INCIDENT_START,
)

_BUDGET_LABELS = ("budget", "owner", "period")
BUDGET_LIMIT = _gauge(
    "ai_budget_limit_usd", _BUDGET_LABELS, "USD that a budget allows per UTC day, week (from Monday) or month."
)
BUDGET_SPENT = _gauge(
    "ai_budget_spent_usd",
    _BUDGET_LABELS,
    "USD spent in the running period of a budget: billed where the provider has billed, estimated otherwise.",
)
BUDGET_FORECAST = _gauge(
    "ai_budget_forecast_usd",
    _BUDGET_LABELS,
    "Expected USD of the whole running period: known hours, then the hourly shape of the past four weeks at "
    "the last week's level; below 14 days of history an even pace.",
)
BUDGET_BURN_RATE = _gauge(
    "ai_budget_burn_rate",
    (*_BUDGET_LABELS, "window"),
    "Spend of the newest complete hours of a window relative to an even pace; at 1 the limit is used up exactly.",
)
BUDGET_EXHAUSTION_TIME = _gauge(
    "ai_budget_exhaustion_timestamp_seconds",
    _BUDGET_LABELS,
    "When the limit was or will be reached, by known and expected hours; absent where it is not in this period.",
)
BUDGET_INFO = _gauge(
    "ai_budget_info",
    (*_BUDGET_LABELS, "selector"),
    "Always 1; the budget's selection as matchers on the spend metrics and the owner in ai_account_info.",
)
BUDGET_ACCOUNT_SPENT = _gauge(
    "ai_budget_account_spent_usd",
    (*_BUDGET_LABELS, *ACCOUNT_LABELS),
    "USD that one account has spent in the running period of a budget, a part of ai_budget_spent_usd.",
)
BUDGET_ALERT_THRESHOLD = _gauge(
    "ai_budget_alert_threshold_ratio",
    (*_BUDGET_LABELS, "alert"),
    "The budget's own threshold of an alert, relative to its limit; absent where the default of the rules applies.",
)
BUDGET_SPENT_THRESHOLD = _gauge(
    "ai_budget_spent_threshold_ratio",
    (*_BUDGET_LABELS, "threshold"),
    "The budget's own thresholds of AIBudgetThresholdReached, relative to its limit; absent where the defaults of the "
    "rules apply.",
)
BUDGET_FAMILIES = (
    BUDGET_INFO,
    BUDGET_LIMIT,
    BUDGET_SPENT,
    BUDGET_ACCOUNT_SPENT,
    BUDGET_FORECAST,
    BUDGET_BURN_RATE,
    BUDGET_EXHAUSTION_TIME,
    BUDGET_ALERT_THRESHOLD,
    BUDGET_SPENT_THRESHOLD,
)
"""Per configured budget, not per account."""

ACCOUNT_UP = _gauge(
    "ai_account_up", ACCOUNT_LABELS, "1 when the newest poll of every report of this account succeeded."
)
ACCOUNT_INFO = _gauge(
    "ai_account_info", (*ACCOUNT_LABELS, "owner"), "Always 1; joins an account's owner to its other series."
)
ACCOUNT_ALERT_THRESHOLD = _gauge(
    "ai_account_alert_threshold_usd",
    (*ACCOUNT_LABELS, "alert"),
    "The account's own threshold of an alert in USD; absent where the default of the rules applies.",
)
ACCOUNT_PROBLEM = _gauge(
    "ai_account_problem",
    (*ACCOUNT_LABELS, "reason"),
    "1 for every reason for which a poll of this account fails at present.",
)
_REPORT_LABELS = (*ACCOUNT_LABELS, "report", "kind", "width")
LAST_SUCCESS = _gauge(
    "ai_account_last_success_timestamp_seconds",
    _REPORT_LABELS,
    "When a report was last polled successfully up to the present. kind: usage or bill; width of its buckets: hour or "
    "day.",
)
COMPLETE_UNTIL = _gauge(
    "ai_account_complete_until_timestamp_seconds",
    _REPORT_LABELS,
    "The time up to which a report is complete: its last poll less the provider's usual delay. kind: usage or bill; "
    "width of its buckets: hour or day.",
)
POLLS = _counter("ai_account_polls_total", (*ACCOUNT_LABELS, "report"), "Polls begun, by report.")
POLL_FAILURES = _counter("ai_account_poll_failures_total", (*ACCOUNT_LABELS, "reason"), "Polls that failed, by reason.")
API_REQUESTS = _counter(
    "ai_account_api_requests_total",
    (*ACCOUNT_LABELS, "code"),
    "Requests sent to the provider, by HTTP status; code error where no answer came.",
)
POLL_DURATION = _gauge(
    "ai_account_poll_duration_seconds",
    (*ACCOUNT_LABELS, "report"),
    "How long the newest poll of a report took, all its pages.",
)
ESTIMATE_ERROR = _gauge(
    "ai_account_estimate_error_ratio",
    ACCOUNT_LABELS,
    "How far the newest billed day had been estimated from its bill as it is now: (estimated - billed) / billed. "
    "From the rates known before that bill came, without one-time costs.",
)
RESTATED_COST = _counter(
    "ai_account_restated_usd_total",
    ACCOUNT_LABELS,
    "USD by which the provider has corrected days that it had billed, up and down added, since the ledger began.",
)
CROSSCHECK = _gauge(
    "ai_account_crosscheck_ratio",
    (*ACCOUNT_LABELS, "source"),
    "Tokens of the newest complete hour (UTC) that a crosscheck source pushed, relative to those that the provider "
    "reported: below 1, some usage bypassed the source; absent if neither side reported tokens.",
)
BALANCE = _gauge(
    "ai_account_balance_usd",
    (*ACCOUNT_LABELS, "type"),
    "USD left of the money that was paid (prepaid) or given (granted) in advance, 0 or below when used up; absent "
    "where the provider reports no balance. From the provider's admin API, polled every 15 minutes.",
)
BALANCE_EXHAUSTION = _gauge(
    "ai_account_balance_exhaustion_timestamp_seconds",
    ACCOUNT_LABELS,
    "When the balance will be used up at the pace that the forecast of budgets expects; absent where it is used up, "
    "will last for a year, or the provider reports no cost.",
)
UNPRICED_TOKENS = _gauge(
    "ai_account_unpriced_tokens",
    (*ACCOUNT_LABELS, "model"),
    "Tokens of all days (UTC) without a bill for which no price is known: their cost is missing until it comes.",
)
UNPRICED_COST = _gauge(
    "ai_account_unpriced_cost_ratio",
    ACCOUNT_LABELS,
    "Estimated share of the cost of all days without a bill that is missing because no price is known, 0 to 1: "
    "ai_account_unpriced_tokens at the mean cost of the other tokens.",
)
INCOMPLETE_BILLS = _gauge(
    "ai_account_incomplete_bills",
    ACCOUNT_LABELS,
    "Days (UTC) that stay estimated although there is a bill: it does not pay for everything that earlier bills paid "
    "for, or is lower than expected and still new. Up to 72 hours after the day.",
)
MISSING_BILLS = _gauge(
    "ai_account_missing_bills",
    ACCOUNT_LABELS,
    "Days (UTC) of the last 35 that cost at least one cent by their usage and have no bill at all, a day after it "
    "usually arrives, although an earlier day has one. Counted from the newest successful poll of the bill.",
)
AGGREGATED_SERIES = _gauge(
    "ai_account_aggregated_series",
    ACCOUNT_LABELS,
    "Combinations of workspace, model and tier above max_series, shown together under other.",
)

HOURLY_SAMPLE_LEAD = timedelta(seconds=1)
"""Time from the sample of an hour to the end of that hour.

At the full hour, a sample would belong to two days on a Prometheus whose ranges include both ends. Dashboards shift the
ends of a range by less than a second: Grafana rounds $__range to seconds, and its "Yesterday" ends at 23:59:59.999. A
sample a whole second before the hour is in the range of its own hour in both cases. Change _HOURLY_HELP with it.
"""
_HOURLY_HELP = "of each hour (UTC), one second before the hour's end, as known now; up to the newest reported hour."
HOURLY_COST = _gauge(
    "ai_hourly_cost_usd", SPEND_LABELS, f"USD {_HOURLY_HELP} Billed where billed, estimated otherwise."
)
HOURLY_TOKENS = _gauge("ai_hourly_tokens", (*SPEND_LABELS, "type"), f"Tokens by disjoint type {_HOURLY_HELP}")
HOURLY_REQUESTS = _gauge("ai_hourly_requests", SPEND_LABELS, f"Requests {_HOURLY_HELP}")

HOURLY_FAMILIES = (HOURLY_COST, HOURLY_TOKENS, HOURLY_REQUESTS)
"""Served over remote read or exported as a file; never on /metrics."""

_COMPLETE_HOUR_HELP = "of each hour (UTC), one second before the hour's end; up to the newest complete hour."
_HOURLY_EXPECTED_HELP = "Expected {what} " + _COMPLETE_HOUR_HELP + " From the same hour of the 14 days before."
_HOURLY_UPPER_BOUND_HELP = "{what} above which an hour is unusual, " + _COMPLETE_HOUR_HELP
HOURLY_COST_EXPECTED = _gauge(
    "ai_hourly_cost_expected_usd", _WORKSPACE_LABELS, _HOURLY_EXPECTED_HELP.format(what="USD")
)
HOURLY_COST_UPPER_BOUND = _gauge(
    "ai_hourly_cost_upper_bound_usd", _WORKSPACE_LABELS, _HOURLY_UPPER_BOUND_HELP.format(what="USD")
)
HOURLY_REQUESTS_EXPECTED = _gauge(
    "ai_hourly_requests_expected", _WORKSPACE_LABELS, _HOURLY_EXPECTED_HELP.format(what="requests")
)
HOURLY_REQUESTS_UPPER_BOUND = _gauge(
    "ai_hourly_requests_upper_bound", _WORKSPACE_LABELS, _HOURLY_UPPER_BOUND_HELP.format(what="Requests")
)
HOURLY_TOKENS_EXPECTED = _gauge(
    "ai_hourly_tokens_expected",
    _WORKSPACE_LABELS,
    _HOURLY_EXPECTED_HELP.format(what="tokens") + " Only where the provider reports no requests.",
)
HOURLY_TOKENS_UPPER_BOUND = _gauge(
    "ai_hourly_tokens_upper_bound",
    _WORKSPACE_LABELS,
    _HOURLY_UPPER_BOUND_HELP.format(what="Tokens") + " Only where the provider reports no requests.",
)
BASELINE_HISTORY_FAMILIES = (
    HOURLY_COST_EXPECTED,
    HOURLY_COST_UPPER_BOUND,
    HOURLY_REQUESTS_EXPECTED,
    HOURLY_REQUESTS_UPPER_BOUND,
    HOURLY_TOKENS_EXPECTED,
    HOURLY_TOKENS_UPPER_BOUND,
)
"""Served over remote read; the gauges of SIGNAL_FAMILIES have the newest hours."""

COST_MONTH_HISTORY = _gauge(
    "ai_cost_month_history_usd",
    ACCOUNT_LABELS,
    "USD of the month (UTC) every six hours, one second before the hour's end: as ai_cost_month_usd was then, from "
    "costs as known now.",
)
COST_MONTH_FORECAST_HISTORY = _gauge(
    "ai_cost_month_forecast_history_usd",
    ACCOUNT_LABELS,
    "Expected USD of the whole month (UTC) every six hours, one second before the hour's end: as "
    "ai_cost_month_forecast_usd was then, from costs as known now.",
)
MONTH_HISTORY_FAMILIES = (COST_MONTH_HISTORY, COST_MONTH_FORECAST_HISTORY)
"""Served over remote read."""

_BUDGET_HISTORY_HELP = (
    "every six hours (UTC), of a budget per day every hour, one second before the hour's end: as {name} was then, "
    "from costs as known now."
)
BUDGET_HISTORY_LIMIT = _gauge(
    "ai_budget_history_limit_usd", _BUDGET_LABELS, "USD that a budget allows at present, with the times of its history."
)
BUDGET_HISTORY_SPENT = _gauge(
    "ai_budget_history_spent_usd", _BUDGET_LABELS, f"USD {_BUDGET_HISTORY_HELP.format(name=BUDGET_SPENT.name)}"
)
BUDGET_HISTORY_FORECAST = _gauge(
    "ai_budget_history_forecast_usd",
    _BUDGET_LABELS,
    f"Expected USD of the whole period {_BUDGET_HISTORY_HELP.format(name=BUDGET_FORECAST.name)}",
)
BUDGET_HISTORY_BURN_RATE = _gauge(
    "ai_budget_history_burn_rate",
    (*_BUDGET_LABELS, "window"),
    f"Spend relative to an even pace {_BUDGET_HISTORY_HELP.format(name=BUDGET_BURN_RATE.name)}",
)
BUDGET_HISTORY_FAMILIES = (
    BUDGET_HISTORY_LIMIT,
    BUDGET_HISTORY_SPENT,
    BUDGET_HISTORY_FORECAST,
    BUDGET_HISTORY_BURN_RATE,
)
"""Served over remote read."""

HISTORY_FAMILIES = HOURLY_FAMILIES + BASELINE_HISTORY_FAMILIES + MONTH_HISTORY_FAMILIES + BUDGET_HISTORY_FAMILIES
"""Never on /metrics."""

SPEND_FAMILIES = (
    *COST.values(),
    *TOKENS.values(),
    *REQUESTS.values(),
    *UNITS.values(),
    COST_DAILY,
    COST_DAILY_BILLED,
    COST_DAILY_ESTIMATE,
    COST_MONTH_BILLED,
    COST_MONTH_FORECAST,
    COST_MONTH_ONE_TIME,
    COST_DAILY_ONE_TIME,
    COST_TODAY_LOW,
    COST_TODAY_HIGH,
    *SIGNAL_FAMILIES,
    *BUDGET_FAMILIES,
)
"""Change with cost and usage."""

ACCOUNT_FAMILIES = (
    ACCOUNT_UP,
    ACCOUNT_INFO,
    ACCOUNT_ALERT_THRESHOLD,
    ACCOUNT_PROBLEM,
    LAST_SUCCESS,
    COMPLETE_UNTIL,
    POLLS,
    POLL_FAILURES,
    API_REQUESTS,
    POLL_DURATION,
    ESTIMATE_ERROR,
    RESTATED_COST,
    CROSSCHECK,
    BALANCE,
    BALANCE_EXHAUSTION,
    UNPRICED_TOKENS,
    UNPRICED_COST,
    INCOMPLETE_BILLS,
    MISSING_BILLS,
    AGGREGATED_SERIES,
)
"""Change with every poll."""

BUILD_INFO = _gauge(
    "ai_exporter_build_info", ("version", "pythonversion"), "Always 1; version of ai-spend-exporter and of Python."
)
RELOAD_SUCCESSFUL = _gauge(
    "ai_exporter_config_last_reload_successful", (), "1 when the newest attempt to load the configuration succeeded."
)
RELOAD_TIME = _gauge(
    "ai_exporter_config_last_reload_success_timestamp_seconds",
    (),
    "When the configuration was last loaded with success.",
)
LEDGER_BYTES = _gauge("ai_exporter_ledger_bytes", (), "Size of the ledger on disk in bytes.")
INTERNAL_ERRORS = _counter(
    "ai_exporter_internal_errors_total",
    (),
    "Polls and timed jobs that ended with an internal error; the log has the details.",
)

INGEST_EVENTS = _counter(
    "ai_exporter_ingest_events_total",
    ("source", "outcome"),
    "Pushed usage events by outcome: accepted; duplicate, counted once; conflict, the id of a different event was "
    "reused; rejected.",
)
CHANGE_TIME = _gauge(
    "ai_change_timestamp_seconds",
    ("title", "service", "account", "link"),
    "Time of a change event, such as a deployment, that CI reported in the last seven days.",
)

SELF_FAMILIES = (BUILD_INFO, RELOAD_SUCCESSFUL, RELOAD_TIME, LEDGER_BYTES, INTERNAL_ERRORS, INGEST_EVENTS, CHANGE_TIME)
"""Of the exporter itself; collected on every scrape, beside process_* and python_*."""

FAMILIES = SPEND_FAMILIES + ACCOUNT_FAMILIES + SELF_FAMILIES + HISTORY_FAMILIES
