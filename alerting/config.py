"""The settings of the rules, from config.yml: typed, and every error with its file, line, key and what is allowed."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError

from exporter.config import yaml_document
from exporter.config.durations import parse_duration
from exporter.config.messages import describe_error, format_value, validation_error
from exporter.errors import ConfigError

CONFIG_FILE = Path(__file__).parent / "config.yml"

_NUMBER = re.compile(r"(?:0|[1-9][0-9]{0,14})(?:\.[0-9]{1,9})?")
_MATCHER = r'[a-zA-Z_]\w*(?:=|!=|=~|!~)"(?:[^"\\]|\\.)*"'
_MATCHERS = re.compile(rf"(?:{_MATCHER}(?:,{_MATCHER})*)?")
_URL = re.compile(r"https?://[^\s{}#?']+[^\s{}#?'/]")
_PREFIX = re.compile(r"[a-z][a-z0-9-]*")


def _number(value: object) -> str:
    """Return a number as PromQL's text; numbers with a point are text already, as the file has them."""
    text = str(value)
    if isinstance(value, bool) or not _NUMBER.fullmatch(text):
        raise validation_error(f"expected a number such as 14.4, without sign or exponent, got {format_value(value)}")
    return text


def _positive_number(value: object) -> str:
    text = _number(value)
    if float(text) == 0:
        raise validation_error("must be more than 0")
    return text


def _ascending_ratios(value: object) -> tuple[str, ...]:
    """Return a list of numbers, each larger than the one before it."""
    if not isinstance(value, list) or not value:
        raise validation_error(f"expected a list of ratios such as [0.5, 0.9], got {format_value(value)}")
    ratios = tuple(_positive_number(ratio) for ratio in value)
    if any(float(ratio) >= float(following) for ratio, following in pairwise(ratios)):
        raise validation_error("every ratio must be more than the one before it")
    return ratios


def _duration(value: object) -> str:
    if not isinstance(value, str) or parse_duration(value) is None:
        raise validation_error(f"expected a duration such as 5m, got {format_value(value)}")
    return value


def _seconds(value: object) -> int:
    """Return a duration in whole seconds."""
    duration = parse_duration(_duration(value))
    if not duration:
        raise validation_error("must be more than 0s")
    return int(duration.total_seconds())


def _text(pattern: re.Pattern[str], expectation: str) -> PlainValidator:
    def validate(value: object) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise validation_error(f"expected {expectation}, got {format_value(value)}")
        return value

    return PlainValidator(validate)


Number = Annotated[str, PlainValidator(_positive_number)]
"""A number above 0 as PromQL's text."""
Count = Annotated[str, PlainValidator(_number)]
"""A number of at least 0 as PromQL's text."""
Ratios = Annotated[tuple[str, ...], PlainValidator(_ascending_ratios)]
"""Ascending numbers above 0 as PromQL's text."""
Duration = Annotated[str, PlainValidator(_duration)]
"""A duration in Prometheus's format."""
Seconds = Annotated[int, PlainValidator(_seconds)]
"""A duration in Prometheus's format, as seconds."""
Matchers = Annotated[str, _text(_MATCHERS, 'label matchers such as job="ai-spend",cluster="prod"')]
Url = Annotated[str, _text(_URL, "an address such as https://grafana.example.com without a slash at its end")]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Links(_Model):
    """The start of the links in notifications."""

    dashboards: Url
    runbooks: Url


class Selectors(_Model):
    """Label matchers, without braces."""

    exporter: Matchers
    """The scrape job of the exporter, for `up`."""
    metrics: Matchers
    """Added to every metric of the exporter."""


class Delays(_Model):
    """Seconds after which usage counts as late."""

    hourly: Seconds
    daily: Seconds


class AlertSettings(_Model):
    """What every alert has."""

    severity: Literal["critical", "warning", "info"]
    hold: Duration = Field(alias="for")
    """How long the condition must be true before the alert fires."""
    keep_firing_for: Duration = ""
    """How long the alert fires after its condition has become false; empty: not at all."""


class BudgetBurnFast(AlertSettings):
    """Burn rates relative to an even pace."""

    hour_burn_rate: Number
    six_hours_burn_rate: Number
    known_burn_rate: Number


class BudgetBurnSlow(AlertSettings):
    """A burn rate relative to an even pace."""

    burn_rate: Number


class RatioAlert(AlertSettings):
    """A threshold without unit."""

    ratio: Number


class RatiosAlert(AlertSettings):
    """Several thresholds without unit."""

    ratios: Ratios


class UsdAlert(AlertSettings):
    """A threshold in USD."""

    usd: Number


class RunawaySpend(UsdAlert):
    """USD in an hour, and a factor."""

    times: Number


class SpendStopped(UsdAlert):
    """Expected USD per hour, and how steady usage has to be."""

    steady_ratio: Number


class HighCostModel(UsdAlert):
    """USD of the account, and shares between 0 and 1."""

    share: Number
    share_before: Number
    day_share: Number


class CacheHitRatioDropped(AlertSettings):
    """Ratios between 0 and 1, and tokens."""

    fall_to: Number
    before: Number
    hour_input_tokens: Number
    input_tokens: Number


class TokensPerRequestSurge(AlertSettings):
    """A factor, and requests per hour."""

    times: Number
    requests: Number


class DeviationAlert(UsdAlert):
    """A deviation in USD and as a ratio."""

    ratio: Number


class TokensAlert(AlertSettings):
    """A threshold in tokens."""

    tokens: Number


class DaysAlert(AlertSettings):
    """A threshold in days."""

    days: Count


class DelayAlert(AlertSettings):
    """A threshold in seconds."""

    delay: Seconds


class PollsAlert(AlertSettings):
    """A threshold in polls."""

    polls: Number


class BalanceAlert(AlertSettings):
    """A threshold in seconds."""

    time_left: Seconds


class Alerts(_Model):
    """The settings of every alert, in the order of the rule files."""

    budget_burn_fast: BudgetBurnFast = Field(alias="AIBudgetBurnFast")
    budget_burn_slow: BudgetBurnSlow = Field(alias="AIBudgetBurnSlow")
    budget_forecast_exceeded: RatioAlert = Field(alias="AIBudgetForecastExceeded")
    budget_threshold_reached: RatiosAlert = Field(alias="AIBudgetThresholdReached")
    budget_nearly_spent: RatioAlert = Field(alias="AIBudgetNearlySpent")
    budget_exceeded: AlertSettings = Field(alias="AIBudgetExceeded")
    balance_low: BalanceAlert = Field(alias="AIBalanceLow")
    balance_exhausted: AlertSettings = Field(alias="AIBalanceExhausted")
    runaway_spend: RunawaySpend = Field(alias="AIRunawaySpend")
    cost_spike: UsdAlert = Field(alias="AICostSpike")
    unexpected_spend: UsdAlert = Field(alias="AIUnexpectedSpend")
    request_spike: AlertSettings = Field(alias="AIRequestSpike")
    spend_stopped: SpendStopped = Field(alias="AISpendStopped")
    high_cost_model: HighCostModel = Field(alias="AIHighCostModel")
    new_model: UsdAlert = Field(alias="AINewModel")
    cache_hit_ratio_dropped: CacheHitRatioDropped = Field(alias="AICacheHitRatioDropped")
    tokens_per_request_surge: TokensPerRequestSurge = Field(alias="AITokensPerRequestSurge")
    one_time_cost: UsdAlert = Field(alias="AIOneTimeCost")
    estimate_drift: DeviationAlert = Field(alias="AIEstimateDrift")
    cost_restated: DeviationAlert = Field(alias="AICostRestated")
    unpriced_tokens: TokensAlert = Field(alias="AIUnpricedTokens")
    usage_crosscheck_mismatch: RatioAlert = Field(alias="AIUsageCrosscheckMismatch")
    bill_incomplete: DaysAlert = Field(alias="AIBillIncomplete")
    bill_missing: DaysAlert = Field(alias="AIBillMissing")
    exporter_down: AlertSettings = Field(alias="AIExporterDown")
    account_key_rejected: AlertSettings = Field(alias="AIAccountKeyRejected")
    account_stale: DelayAlert = Field(alias="AIAccountStale")
    account_data_late: AlertSettings = Field(alias="AIAccountDataLate")
    provider_rate_limited: PollsAlert = Field(alias="AIProviderRateLimited")
    config_reload_failed: AlertSettings = Field(alias="AIConfigReloadFailed")

    def settings_of(self, name: str) -> AlertSettings:
        """Return the settings of an alert by its name."""
        (field_name,) = (field_name for field_name, field in type(self).model_fields.items() if field.alias == name)
        settings: AlertSettings = getattr(self, field_name)
        return settings


class RulesConfig(_Model):
    """The content of config.yml."""

    links: Links
    selectors: Selectors
    group_prefix: Annotated[str, _text(_PREFIX, "a name of lower-case letters, digits and hyphens")]
    delays: Delays
    alerts: Alerts


def load_rules_config(path: Path = CONFIG_FILE) -> RulesConfig:
    """Read the settings. Raises ConfigError with every problem, each with its file and line."""
    document = yaml_document.read(path)
    problems = list(document.problems)
    try:
        config = RulesConfig.model_validate(document.value)
    except ValidationError as error:
        details = error.errors()
        problems += [document.problem_at(detail["loc"], describe_error(detail, RulesConfig)) for detail in details]
        raise ConfigError(problems) from None
    if problems:
        raise ConfigError(problems)
    return config
