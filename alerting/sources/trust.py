"""Trust: whether the exported numbers are reliable."""

from __future__ import annotations

from alerting.annotations import USD, AnnotationBuilder, active_since, lookup
from alerting.config import RulesConfig
from alerting.rules import Alert, Recording, Rule, RuleFile

_JOIN_OWNER = "* on (provider, account) group_left (owner) ai_account_info"
_MEAN_DAY = lookup("account:ai_cost_30d_usd:mean_day", "account", text=f" Mean cost per day: {USD}.")


def trust_file(config: RulesConfig) -> RuleFile:
    """Return the rules about the accuracy of the numbers."""
    return RuleFile(
        "trust",
        "Trust: whether the exported numbers are reliable.",
        (*_recordings(), *_bill_alerts(config), *_usage_alerts(config)),
    )


def _recordings() -> tuple[Rule, ...]:
    return (
        Recording(
            "account:ai_account_restated_usd:increase1d",
            """
            max by (provider, account) (
              ai_account_restated_usd_total - min_over_time(ai_account_restated_usd_total[1d])
            )
            """,
            "A plain difference, because increase() extrapolates to the edges of the range. Minus the minimum, because "
            "a new ledger starts at 0.",
        ),
        Recording("account:ai_cost_30d_usd:mean_day", "sum by (provider, account) (ai_cost_30d_usd) / 30"),
        Recording(
            "source:ai_account_crosscheck_ratio:max",
            "max by (provider, account, source) (ai_account_crosscheck_ratio)",
        ),
        Recording(
            "account:ai_account_incomplete_bills:last15m",
            "max by (provider, account) (last_over_time(ai_account_incomplete_bills[15m]))",
            "The older samples bridge a restart of the exporter: a gap of one scrape would start the 48 hours again.",
        ),
    )


def _bill_alerts(config: RulesConfig) -> tuple[Rule, ...]:
    alerts, build = config.alerts, _builder(config).build
    return (
        Alert(
            "AIEstimateDrift",
            alerts.estimate_drift,
            f"""
            (
              abs(ai_account_estimate_error_ratio) > {alerts.estimate_drift.ratio}
              and on (provider, account)
              abs(ai_account_estimate_error_ratio) * on (provider, account) account:ai_cost_30d_usd:mean_day
              > {alerts.estimate_drift.usd}
            )
            {_JOIN_OWNER}
            """,
            build(
                "AIEstimateDrift",
                "{account}: the newest estimate differed by {percent} from the bill",
                "The estimate for the newest billed day of account {account} {owner} differed by {percent} from the "
                "bill.{mean_day}{since}",
                "Days not yet billed may be off by as much; the exporter learns the new rates from that bill.",
                "Next: compare the account's prices with the provider's price list, and set `prices:` where they "
                "differ.",
                mean_day=_MEAN_DAY,
                since=active_since("AIEstimateDrift", "account"),
            ),
        ),
        Alert(
            "AICostRestated",
            alerts.cost_restated,
            f"""
            (
              account:ai_account_restated_usd:increase1d > {alerts.cost_restated.usd}
              and
              account:ai_account_restated_usd:increase1d
              > {alerts.cost_restated.ratio} * account:ai_cost_30d_usd:mean_day
            )
            {_JOIN_OWNER}
            """,
            build(
                "AICostRestated",
                "{account}: billed days were restated by {usd}",
                "Within a day the provider has restated billed days of account {account} {owner} by {usd}, counting "
                "increases and decreases.{mean_day}{since}",
                "Every window, budget and the served history are already corrected; reports exported earlier are not.",
                "Next: repeat reports that were made from the old numbers.",
                mean_day=_MEAN_DAY,
                since=active_since("AICostRestated", "account"),
            ),
        ),
        Alert(
            "AIBillIncomplete",
            alerts.bill_incomplete,
            f"""
            (account:ai_account_incomplete_bills:last15m > {alerts.bill_incomplete.days})
            * on (provider, account) group_left (owner)
            (ai_account_info or on (provider, account) max_over_time(ai_account_info[15m]))
            """,
            build(
                "AIBillIncomplete",
                f"{{account}}: incomplete bills for {alerts.bill_incomplete.hold} (days now: {{whole}})",
                f"For {alerts.bill_incomplete.hold} account {{account}} {{owner}} has had days whose bill does not pay "
                "for everything yet; days now: {whole}.{mean_day}{since}",
                "{provider} issues parts of its bill days late: these days stay estimated for up to 72 hours.",
                "Next: none, unless finance closes the month in these days.",
                mean_day=_MEAN_DAY,
                since=active_since("AIBillIncomplete", "account"),
            ),
            "An owner that was changed has two series in the range, so older samples of ai_account_info only count "
            "where there is no newer one.",
        ),
        Alert(
            "AIBillMissing",
            alerts.bill_missing,
            f"""
            (max by (provider, account) (ai_account_missing_bills) > {alerts.bill_missing.days})
            {_JOIN_OWNER}
            """,
            build(
                "AIBillMissing",
                "{account}: no bill for days that should have one (days now: {whole})",
                "A day after its bill usually arrives, {provider} has none for days on which account {account} {owner} "
                "had usage; days now: {whole}.{mean_day}{since}",
                "These days stay estimated: fees, credits and changed prices on them are unknown.",
                "Next: open the provider's cost page; if it has these days, check the key's permissions, else ask the "
                "provider.",
                mean_day=_MEAN_DAY,
                since=active_since("AIBillMissing", "account"),
            ),
        ),
    )


def _usage_alerts(config: RulesConfig) -> tuple[Rule, ...]:
    alerts, build = config.alerts, _builder(config).build
    return (
        Alert(
            "AIUnpricedTokens",
            alerts.unpriced_tokens,
            f"""
            (sum by (provider, account, model) (ai_account_unpriced_tokens) > {alerts.unpriced_tokens.tokens})
            {_JOIN_OWNER}
            """,
            build(
                "AIUnpricedTokens",
                "{account}: no price known for {model}",
                "{number} tokens that account {account} {owner} used on model {model} on days without a bill have no "
                "price.{since}",
                "Their cost is missing everywhere until these days are billed.",
                "Next: set the price in the account's `prices:`.",
                since=active_since("AIUnpricedTokens", "account", "model"),
            ),
        ),
        Alert(
            "AIUsageCrosscheckMismatch",
            alerts.usage_crosscheck_mismatch,
            f"""
            (
              source:ai_account_crosscheck_ratio:max
              unless
              abs(source:ai_account_crosscheck_ratio:max - 1) <= {alerts.usage_crosscheck_mismatch.ratio}
            )
            {_JOIN_OWNER}
            """,
            build(
                "AIUsageCrosscheckMismatch",
                "{account}: {source} reported {percent} of the tokens that {provider} reported",
                f"For {alerts.usage_crosscheck_mismatch.hold} source {{source}} has pushed {{percent}} of the tokens "
                "that {provider} reported for account {account} {owner}.{since}",
                "{cause}",
                "Next: find the application that differs by model and workspace.",
                since=active_since("AIUsageCrosscheckMismatch", "account", "source"),
                cause="{{ if lt $value 1.0 }}Some usage bypasses the source, or its telemetry loses events."
                "{{ else }}The source reports usage of other accounts, or reports events more than once.{{ end }}",
            ),
        ),
    )


def _builder(config: RulesConfig) -> AnnotationBuilder:
    return AnnotationBuilder(config.links, "ai-spend-account", ("account",))
