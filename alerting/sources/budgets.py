"""Budgets: burn rates, forecast and spend relative to the limit."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from alerting.annotations import PERCENT, TIME, USD, AnnotationBuilder, active_since, list_lookup, lookup, since
from alerting.config import RulesConfig
from alerting.rules import Alert, Recording, Rule, RuleFile
from alerting.sources.balances import balance_alerts
from exporter.analysis.budgets import format_threshold

_SPENT = lookup("budget:ai_budget_spent_usd:sum", "budget", text=USD)
_LIMIT = lookup("budget:ai_budget_limit_usd:max", "budget", text=f" of {USD}")
_FORECAST = lookup("budget:ai_budget_forecast_usd:sum", "budget", text=f" Forecast: {USD}.")
_EXHAUSTED = lookup(
    "budget:ai_budget_exhaustion_timestamp_seconds:min", "budget", text=f" The limit is reached at {TIME}."
)
_ACCOUNTS = list_lookup(
    "budget_account:ai_budget_account_spent_usd:top3",
    "budget",
    title=" Largest accounts:",
    text=f"{{{{ .Labels.account }}}} {USD}",
)
_INCREASES = list_lookup(
    "budget_account:ai_cost_last_hour_usd:top3_rise",
    "budget",
    title=" Largest increases in that hour:",
    text=f"{{{{ .Labels.account }}}} +{USD}",
)
_CHANGES = list_lookup(
    "change:ai_change_timestamp_seconds:recent",
    title=" Recent changes:",
    text=f"{{{{ .Labels.title }}}}{{{{ with .Labels.service }}}} ({{{{ . }}}}){{{{ end }}}} at {TIME}",
    condition="true",
    by="title",
)
_EXCEEDED_SINCE = since(
    "(budget:ai_budget_exhaustion_timestamp_seconds:min <= time()) "
    'or on (budget) ALERTS_FOR_STATE{alertname="AIBudgetExceeded"}',
    "budget",
)
_AMOUNTS = {
    "total": "{spent}{limit} spent this {period}",
    "spent": _SPENT,
    "limit": _LIMIT,
    "forecast": _FORECAST,
    "exhausted": _EXHAUSTED,
    "accounts": _ACCOUNTS,
}


def budget_file(config: RulesConfig) -> RuleFile:
    """Return the rules about budgets."""
    return RuleFile(
        "budgets",
        "Budgets. The exporter attributes spend to the hour of usage, so data that arrives late does not raise the "
        "burn rate.",
        (*_recordings(config), *_burn_rate_alerts(config), *_limit_alerts(config), *balance_alerts(config)),
    )


def _recordings(config: RulesConfig) -> tuple[Rule, ...]:
    alerts = config.alerts
    return (
        Recording(
            "budget:ai_budget_limit_usd:max",
            "max by (budget, owner, period) (ai_budget_limit_usd)",
            "With --shard each exporter exports its share of a budget: the sum over all shards is the budget.",
        ),
        Recording("budget:ai_budget_spent_usd:sum", "sum by (budget, owner, period) (ai_budget_spent_usd)"),
        Recording("budget:ai_budget_forecast_usd:sum", "sum by (budget, owner, period) (ai_budget_forecast_usd)"),
        Recording("budget:ai_budget_burn_rate:sum", "sum by (budget, owner, period, window) (ai_budget_burn_rate)"),
        Recording(
            "budget:ai_budget_exhaustion_timestamp_seconds:min",
            "min by (budget, owner, period) (ai_budget_exhaustion_timestamp_seconds)",
        ),
        Recording(
            "budget_account:ai_budget_account_spent_usd:top3",
            "topk by (budget, owner, period) "
            "(3, sum by (budget, owner, period, provider, account) (ai_budget_account_spent_usd) > 0)",
        ),
        Recording(
            "budget:ai_budget_spent_usd:ratio", "budget:ai_budget_spent_usd:sum / budget:ai_budget_limit_usd:max"
        ),
        Recording(
            "budget:ai_budget_runaway_accounts:group",
            """
            group by (budget, owner, period) (
              ai_budget_account_spent_usd > 0
              and on (provider, account, owner) ALERTS{alertname="AIRunawaySpend",alertstate="firing"}
            )
            """,
            "Budgets with an account of the same owner whose runaway spend is notified: that text names the budget.",
        ),
        Recording("ai:period:hours", "vector(24)", labels="period: day"),
        Recording("ai:period:hours", "vector(168)", labels="period: week"),
        Recording("ai:period:hours", "vector(720)", labels="period: month"),
        Recording(
            "budget:ai_budget_spent_usd:burn_rate1h",
            """
            sum by (budget, owner, period) (ai_budget_spent_usd - min_over_time(ai_budget_spent_usd[1h]))
            / budget:ai_budget_limit_usd:max * on (period) group_left () ai:period:hours
            """,
            "Spend that became known within the last hour of wall-clock time, as a burn rate: whether the spend of the "
            "newest complete hour continues. Minus the minimum instead of the oldest value, because a new period "
            "starts at 0.",
        ),
        Recording(
            "budget:ai_budget_alert_threshold_ratio:forecast_exceeded",
            _budget_threshold("AIBudgetForecastExceeded", alerts.budget_forecast_exceeded.ratio),
            "Thresholds: the budget's own from the exporter's configuration, or the default.",
        ),
        Recording(
            "budget:ai_budget_alert_threshold_ratio:nearly_spent",
            _budget_threshold("AIBudgetNearlySpent", alerts.budget_nearly_spent.ratio),
        ),
        Recording(
            "budget:ai_budget_spent_threshold_ratio:max", _spent_thresholds(alerts.budget_threshold_reached.ratios)
        ),
    )


def _budget_threshold(alert: str, default: str) -> str:
    return f"""
        max by (budget, owner, period) (ai_budget_alert_threshold_ratio{{alert="{alert}"}})
        or {default} * group by (budget, owner, period) (ai_budget_limit_usd)
    """


def _spent_thresholds(defaults: Sequence[str]) -> str:
    budgets = "group by (budget, owner, period) (ai_budget_limit_usd)"
    steps = [
        f'label_replace({ratio} * {budgets}, "threshold", "{format_threshold(Decimal(ratio))}", "", "")'
        for ratio in defaults
    ]
    separator = "\n          or\n          "
    return f"""
        max by (budget, owner, period, threshold) (ai_budget_spent_threshold_ratio)
        or on (budget, owner, period) (
          {separator.join(steps)}
        )
    """


def _unless_runaway(alert: str) -> str:
    """Return the condition that runaway spend does not explain the alert; an alert that fires already goes on."""
    return f"""unless on (budget, owner, period) (
              budget:ai_budget_runaway_accounts:group
              unless on (budget, owner, period) ALERTS{{alertname="{alert}",alertstate="firing"}}
            )"""


def _burn_rate_alerts(config: RulesConfig) -> tuple[Rule, ...]:
    alerts, build = config.alerts, _builder(config).build
    return (
        Alert(
            "AIBudgetBurnFast",
            alerts.budget_burn_fast,
            f"""
            budget:ai_budget_burn_rate:sum{{window="1h"}} > {alerts.budget_burn_fast.hour_burn_rate}
            and on (budget, owner, period)
            (
              budget:ai_budget_burn_rate:sum{{window="6h"}} > {alerts.budget_burn_fast.six_hours_burn_rate}
              or
              budget:ai_budget_burn_rate:sum{{window="6h",period="day"}}
            )
            and on (budget, owner, period)
            budget:ai_budget_spent_usd:burn_rate1h > {alerts.budget_burn_fast.known_burn_rate}
            {_unless_runaway("AIBudgetBurnFast")}
            """,
            build(
                "AIBudgetBurnFast",
                "Budget {budget} is burning at {whole} times the sustainable rate",
                "In the newest complete hour budget {budget} {owner} was spent at {decimal} times the rate that lasts "
                "for its {period}, and spending continues.{since}",
                "{spent}{limit} is spent.{exhausted}{accounts}{increases}{changes}",
                "Next: ask the owner whether the spend is intended; if not, stop the job or revoke its API key.",
                since=active_since("AIBudgetBurnFast", "budget"),
                increases=_INCREASES,
                changes=_CHANGES,
                **_AMOUNTS,
            ),
        ),
        Alert(
            "AIBudgetBurnSlow",
            alerts.budget_burn_slow,
            f"""
            budget:ai_budget_burn_rate:sum{{window="3d",period!="day"}} > {alerts.budget_burn_slow.burn_rate}
            and ignoring (window) budget:ai_budget_burn_rate:sum{{window="1d"}} > {alerts.budget_burn_slow.burn_rate}
            unless on (budget, owner, period) budget:ai_budget_spent_usd:ratio > 1
            {_unless_runaway("AIBudgetBurnSlow")}
            """,
            build(
                "AIBudgetBurnSlow",
                "Budget {budget} has burned at {decimal} times the sustainable rate for three days",
                "For three days budget {budget} {owner} has been spent at {decimal} times the rate that lasts for its "
                "{period}, including the last day.{since}",
                "{spent}{limit} is spent.{exhausted}{accounts}",
                "Next: agree with the owner on less usage, or on a higher limit_usd.",
                since=active_since("AIBudgetBurnSlow", "budget"),
                **_AMOUNTS,
            ),
        ),
    )


def _limit_alerts(config: RulesConfig) -> tuple[Rule, ...]:
    alerts, build = config.alerts, _builder(config).build
    return (
        Alert(
            "AIBudgetForecastExceeded",
            alerts.budget_forecast_exceeded,
            f"""
            budget:ai_budget_forecast_usd:sum
            and budget:ai_budget_forecast_usd:sum / budget:ai_budget_limit_usd:max
            > budget:ai_budget_alert_threshold_ratio:forecast_exceeded
            unless on (budget, owner, period) budget:ai_budget_spent_usd:ratio > 1
            {_unless_runaway("AIBudgetForecastExceeded")}
            """,
            build(
                "AIBudgetForecastExceeded",
                "Budget {budget} is forecast to reach {usd}",
                "Spend of budget {budget} {owner} is forecast to reach {usd} this {period}.{since}",
                "{spent}{limit} is spent.{exhausted}{accounts}",
                "Next: agree with the owner on less usage, or on a higher limit_usd.",
                since=active_since("AIBudgetForecastExceeded", "budget"),
                **_AMOUNTS,
            ),
        ),
        Alert(
            "AIBudgetThresholdReached",
            alerts.budget_threshold_reached,
            """
            budget:ai_budget_spent_threshold_ratio:max
            == on (budget, owner, period) group_left ()
            max by (budget, owner, period) (
              budget:ai_budget_spent_threshold_ratio:max
              <= on (budget, owner, period) group_left () budget:ai_budget_spent_usd:ratio
            )
            """,
            build(
                "AIBudgetThresholdReached",
                "Budget {budget} has reached {percent} of its limit",
                "{ratio} of budget {budget} {owner} is spent: {spent}{limit} this {period}."
                "{since}{exhausted}{accounts}",
                "Next: none while spend keeps pace with the {period}; otherwise agree with the owner on less usage.",
                ratio=lookup("budget:ai_budget_spent_usd:ratio", "budget", text=PERCENT),
                since=active_since("AIBudgetThresholdReached", "budget", "threshold"),
                **_AMOUNTS,
            ),
            "The highest threshold that is reached; the value is the threshold.",
        ),
        Alert(
            "AIBudgetNearlySpent",
            alerts.budget_nearly_spent,
            """
            budget:ai_budget_spent_usd:ratio >= budget:ai_budget_alert_threshold_ratio:nearly_spent
            and budget:ai_budget_spent_usd:ratio <= 1
            """,
            build(
                "AIBudgetNearlySpent",
                "Budget {budget} is {percent} spent",
                "{percent} of budget {budget} {owner} is spent: {spent}{limit} this {period}."
                "{since}{exhausted}{accounts}",
                "Next: decide before the limit is reached whether to reduce usage or to raise limit_usd.",
                since=active_since("AIBudgetNearlySpent", "budget"),
                **_AMOUNTS,
            ),
        ),
        Alert(
            "AIBudgetExceeded",
            alerts.budget_exceeded,
            "budget:ai_budget_spent_usd:ratio > 1",
            build(
                "AIBudgetExceeded",
                "Budget {budget} is exceeded",
                "Budget {budget} {owner} is exceeded: {spent}{limit} this {period}.{since}{forecast}{accounts}",
                "Next: reduce usage, or raise limit_usd with the approval of whoever pays.",
                since=_EXCEEDED_SINCE,
                **_AMOUNTS,
            ),
        ),
    )


def _builder(config: RulesConfig) -> AnnotationBuilder:
    return AnnotationBuilder(config.links, "ai-spend-budgets", ("budget",))
