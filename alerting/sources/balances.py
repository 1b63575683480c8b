"""Balances of prepaid accounts: used up, or soon to be."""

from __future__ import annotations

from datetime import timedelta

from alerting.annotations import TIME, USD, AnnotationBuilder, active_since, lookup
from alerting.config import RulesConfig
from alerting.rules import Alert, Rule
from exporter.config.durations import format_duration

_JOIN_OWNER = "* on (provider, account) group_left (owner) ai_account_info"
_BALANCE = "sum by (provider, account) (ai_account_balance_usd)"
_COST = lookup("account:ai_cost_before_today_usd:sum", "account", text=f" It cost {USD} in the 29 days before today.")


def balance_alerts(config: RulesConfig) -> tuple[Rule, ...]:
    """Return the alerts about balances of prepaid accounts."""
    alerts = config.alerts
    build = AnnotationBuilder(config.links, "ai-spend-account", ("account",)).build
    period = format_duration(timedelta(seconds=alerts.balance_low.time_left))
    return (
        Alert(
            "AIBalanceLow",
            alerts.balance_low,
            f"""
            (
              (
                min by (provider, account) (ai_account_balance_exhaustion_timestamp_seconds) - time()
                or
                0 - ({_BALANCE} > 0)
                / (sum by (provider, account) (deriv(ai_account_balance_usd[1d])) < 0)
              ) < {alerts.balance_low.time_left}
            )
            {_JOIN_OWNER}
            """,
            build(
                "AIBalanceLow",
                "{account}: the balance at {provider} lasts for {duration}",
                "The prepaid balance of account {account} {owner} at {provider} is low: {left}at the present pace it "
                "is used up in {duration}{exhausted}.{since}",
                "Without a balance the provider rejects requests.{cost}",
                "Next: pay in advance again at the provider, or set up automatic payment there.",
                left=lookup(_BALANCE, "account", text=f"{USD} left; "),
                exhausted=lookup(
                    "min by (account) (ai_account_balance_exhaustion_timestamp_seconds)", "account", text=f", at {TIME}"
                ),
                since=active_since("AIBalanceLow", "account"),
                cost=_COST,
            ),
            f"The pace is that of the forecast of budgets: less than {period} are left. Where a provider reports no "
            "cost, it is that of the balance itself.",
        ),
        Alert(
            "AIBalanceExhausted",
            alerts.balance_exhausted,
            f"({_BALANCE} <= 0) {_JOIN_OWNER}",
            build(
                "AIBalanceExhausted",
                "{account}: the balance at {provider} is used up",
                "The prepaid balance of account {account} {owner} at {provider} is used up: {left} left.{since}",
                "The provider may reject every request.{cost}",
                "Next: pay in advance at the provider; without automatic payment it happens again.",
                left=lookup(_BALANCE, "account", text=USD),
                since=active_since("AIBalanceExhausted", "account"),
                cost=_COST,
            ),
        ),
    )
