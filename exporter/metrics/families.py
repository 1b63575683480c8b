"""THE table of our metrics: name, type, labels and help. Every family that is exposed stands here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SPEND = ("provider", "account", "workspace", "model", "tier")
ACCOUNT = ("provider", "account")


@dataclass(frozen=True, slots=True)
class Family:
    """One metric family as it is announced."""

    name: str
    type: Literal["gauge", "counter"]
    labels: tuple[str, ...]
    help: str


def _gauge(name: str, labels: tuple[str, ...], text: str) -> Family:
    return Family(name, "gauge", labels, text)


def _counter(name: str, labels: tuple[str, ...], text: str) -> Family:
    return Family(name, "counter", labels, text)


_COST = "USD {when} (UTC): billed where the provider has billed, estimated otherwise. {source}"
_TOKENS = "Tokens {when} (UTC) by disjoint type; the sum over type is every token once. {source}"
_REQUESTS = "Requests {when} (UTC); absent where the provider does not count them. {source}"
_UNITS = "Images, characters, seconds, searches, sessions {when} (UTC); bytes: the largest hour. {source}"
_SOURCE = "From the provider's admin API, polled; usually minutes late, revised for days."

_WHEN = {
    "this_hour": "in the running, incomplete hour",
    "last_hour": "in the newest complete hour",
    "today": "since midnight",
    "month": "since the month began",
    "30d": "today and in the 29 days before",
}


def _window(name: str, window: str, labels: tuple[str, ...], text: str) -> Family:
    return _gauge(name.format(window=window), labels, text.format(when=_WHEN[window], source=_SOURCE))


COST = {window: _window("ai_cost_{window}_usd", window, SPEND, _COST) for window in _WHEN}
TOKENS = {
    window: _window("ai_tokens_{window}", window, (*SPEND, "type"), _TOKENS)
    for window in ("last_hour", "today", "month", "30d")
}
REQUESTS = {
    window: _window("ai_requests_{window}", window, SPEND, _REQUESTS)
    for window in ("last_hour", "today", "month", "30d")
}
UNITS = {
    window: _window("ai_units_{window}", window, (*ACCOUNT, "workspace", "model", "unit"), _UNITS)
    for window in ("today", "month")
}
COST_DAILY = _gauge(
    "ai_cost_daily_usd",
    (*ACCOUNT, "date"),
    f"USD of each of the last 35 UTC days, restated until it leaves. {_SOURCE}",
)
COST_DAILY_ESTIMATE = _gauge(
    "ai_cost_daily_estimate_usd",
    (*ACCOUNT, "date"),
    "USD that a billed day of the last 35 (UTC) had been estimated at before its bill came; absent where nobody had "
    "estimated it.",
)
MONTH_BILLED = _gauge(
    "ai_cost_month_billed_usd",
    ACCOUNT,
    "USD of this month (UTC) that the provider has billed, a part of ai_cost_month_usd. From the provider's bill, "
    "polled hourly; a day is billed hours after it has closed.",
)

_EXPECTED = "of {hour} (UTC) from the same hour of the 14 days before, workdays or weekends: {what}"
_MEDIAN = "their median. Absent where fewer than 3 such days are known."
_HIGH = "above this it is unusual. Median and four robust standard deviations, at least twice the median."
_WORKSPACE = (*ACCOUNT, "workspace")


def _baseline(name: str, unit: str, hour: str = "the newest complete hour", what: str = _HIGH) -> Family:
    return _gauge(name, _WORKSPACE, f"{unit} {_EXPECTED.format(hour=hour, what=what)}")


COST_EXPECTED = _baseline("ai_cost_last_hour_expected_usd", "USD", what=_MEDIAN)
COST_HIGH = _baseline("ai_cost_last_hour_high_usd", "USD")
COST_THIS_HIGH = _baseline("ai_cost_this_hour_high_usd", "USD", "the whole of the running hour")
REQUESTS_EXPECTED = _baseline("ai_requests_last_hour_expected", "Requests", what=_MEDIAN)
REQUESTS_HIGH = _baseline("ai_requests_last_hour_high", "Requests")
TOKENS_EXPECTED = _baseline("ai_tokens_last_hour_expected", "Tokens, where no requests are counted,", what=_MEDIAN)
TOKENS_HIGH = _baseline("ai_tokens_last_hour_high", "Tokens, where no requests are counted,")
EXCESS = _gauge(
    "ai_cost_excess_24h_usd",
    _WORKSPACE,
    "USD by which the 24 newest complete hours (UTC) were above their own high values, each judged by the days before "
    "it: a spike that was told late is in here too.",
)

SIGNAL_FAMILIES = (
    COST_EXPECTED,
    COST_HIGH,
    COST_THIS_HIGH,
    REQUESTS_EXPECTED,
    REQUESTS_HIGH,
    TOKENS_EXPECTED,
    TOKENS_HIGH,
    EXCESS,
)

_BUDGET = ("budget", "owner", "period")
BUDGET_LIMIT = _gauge(
    "ai_budget_limit_usd", _BUDGET, "USD that a budget allows per UTC day, week (from Monday) or month."
)
BUDGET_SPENT = _gauge(
    "ai_budget_spent_usd",
    _BUDGET,
    "USD spent in the running period of a budget: billed where the provider has billed, estimated otherwise.",
)
BUDGET_FORECAST = _gauge(
    "ai_budget_forecast_usd",
    _BUDGET,
    "USD that the running period is expected to come to: what is known, and then the shape of the past four weeks at "
    "the last week's level; below 14 days of history an even pace.",
)
BUDGET_BURN = _gauge(
    "ai_budget_burn_rate",
    (*_BUDGET, "window"),
    "Spend of the newest complete hours of a window relative to an even pace; at 1 the limit is used up exactly.",
)
BUDGET_EXHAUSTED = _gauge(
    "ai_budget_exhaustion_timestamp_seconds",
    _BUDGET,
    "When the limit was or will be reached, by known and expected hours; absent where it is not in this period.",
)
BUDGET_INFO = _gauge(
    "ai_budget_info",
    (*_BUDGET, "selector"),
    "Always 1; what a budget counts, as matchers on the spend metrics and the owner in ai_account_info.",
)
BUDGET_FAMILIES = (BUDGET_INFO, BUDGET_LIMIT, BUDGET_SPENT, BUDGET_FORECAST, BUDGET_BURN, BUDGET_EXHAUSTED)
"""Of the configuration, not of an account."""

UP = _gauge("ai_account_up", ACCOUNT, "1 when the newest poll of every report of this account succeeded.")
INFO = _gauge("ai_account_info", (*ACCOUNT, "owner"), "Always 1; joins an account's owner to its other series.")
PROBLEM = _gauge(
    "ai_account_problem", (*ACCOUNT, "reason"), "1 for every reason for which a poll of this account fails at present."
)
LAST_SUCCESS = _gauge(
    "ai_account_last_success_timestamp_seconds",
    (*ACCOUNT, "report"),
    "When a report was last polled with success up to the present.",
)
COMPLETE_UNTIL = _gauge(
    "ai_account_complete_until_timestamp_seconds",
    (*ACCOUNT, "report"),
    "The time up to which a report is complete: its last poll less the provider's usual delay.",
)
POLLS = _counter("ai_account_polls_total", (*ACCOUNT, "report"), "Polls begun, by report.")
FAILURES = _counter("ai_account_poll_failures_total", (*ACCOUNT, "reason"), "Polls that failed, by reason.")
CALLS = _counter(
    "ai_account_api_requests_total",
    (*ACCOUNT, "code"),
    "Requests sent to the provider, by HTTP status; code error where no answer came.",
)
DURATION = _gauge(
    "ai_account_poll_duration_seconds",
    (*ACCOUNT, "report"),
    "How long the newest poll of a report took, all its pages.",
)
ESTIMATE_ERROR = _gauge(
    "ai_account_estimate_error_ratio",
    ACCOUNT,
    "How far the newest billed day had been estimated from its first bill: (estimated - billed) / billed. "
    "From the rates known before that bill came.",
)
RESTATED = _counter(
    "ai_account_restated_usd_total",
    ACCOUNT,
    "USD by which the provider has corrected days that it had billed, up and down added, since the ledger began.",
)
WITNESS = _gauge(
    "ai_account_witness_ratio",
    (*ACCOUNT, "source"),
    "Tokens of the newest complete hour (UTC) that a witness has pushed, relative to those that the provider told: "
    "below 1 something went past the witness, at 0 it may be silent. Absent where nobody was told of any.",
)
UNPRICED = _gauge(
    "ai_account_unpriced_tokens",
    (*ACCOUNT, "model"),
    "Tokens since midnight (UTC) for which no price is known: their cost is missing until the day is billed.",
)
FOLDED = _gauge(
    "ai_account_folded_series",
    ACCOUNT,
    "Combinations of workspace, model and tier above max_series, shown together under other.",
)

_HOURLY = "of each hour (UTC), at the hour's last millisecond, as known now; up to the newest complete hour."
HOURLY_COST = _gauge("ai_hourly_cost_usd", SPEND, f"USD {_HOURLY} Billed where billed, estimated otherwise.")
HOURLY_TOKENS = _gauge("ai_hourly_tokens", (*SPEND, "type"), f"Tokens by disjoint type {_HOURLY}")
HOURLY_REQUESTS = _gauge("ai_hourly_requests", SPEND, f"Requests {_HOURLY}")

HISTORY_FAMILIES = (HOURLY_COST, HOURLY_TOKENS, HOURLY_REQUESTS)
"""Read from the ledger, over remote read or as a file; never on the page."""

SPEND_FAMILIES = (
    *COST.values(),
    *TOKENS.values(),
    *REQUESTS.values(),
    *UNITS.values(),
    COST_DAILY,
    COST_DAILY_ESTIMATE,
    MONTH_BILLED,
    *SIGNAL_FAMILIES,
    *BUDGET_FAMILIES,
)
"""Change when what was told changes; rendered once per change."""

ACCOUNT_FAMILIES = (
    UP,
    INFO,
    PROBLEM,
    LAST_SUCCESS,
    COMPLETE_UNTIL,
    POLLS,
    FAILURES,
    CALLS,
    DURATION,
    ESTIMATE_ERROR,
    RESTATED,
    WITNESS,
    UNPRICED,
    FOLDED,
)
"""Change with every poll; rendered then."""

BUILD_INFO = _gauge(
    "ai_exporter_build_info", ("version", "pythonversion"), "Always 1; which ai-spend-exporter this is."
)
RELOAD_SUCCESSFUL = _gauge(
    "ai_exporter_config_last_reload_successful", (), "1 when the newest attempt to load the configuration succeeded."
)
RELOAD_TIME = _gauge(
    "ai_exporter_config_last_reload_success_timestamp_seconds",
    (),
    "When the configuration was last loaded with success.",
)
LEDGER_BYTES = _gauge("ai_exporter_ledger_bytes", (), "Bytes that the ledger takes on the disk.")
DEFECTS = _counter(
    "ai_exporter_defects_total", (), "Visits to an account that broke off for a defect of ours; the log tells more."
)

INGEST_EVENTS = _counter(
    "ai_exporter_ingest_events_total",
    ("source", "outcome"),
    "Usage events that a source has pushed: accepted; repeated, which are counted once; conflict, whose id was given "
    "to another event before; refused.",
)
CHANGE_TIME = _gauge(
    "ai_change_timestamp_seconds",
    ("title", "service", "account", "link"),
    "When something was done to a system, such as a deployment, as CI and others have told; of the last seven days.",
)

OWN_FAMILIES = (BUILD_INFO, RELOAD_SUCCESSFUL, RELOAD_TIME, LEDGER_BYTES, DEFECTS, INGEST_EVENTS, CHANGE_TIME)
"""About ourselves; fresh on every scrape, beside process_* and python_*."""

FAMILIES = SPEND_FAMILIES + ACCOUNT_FAMILIES + OWN_FAMILIES + HISTORY_FAMILIES
