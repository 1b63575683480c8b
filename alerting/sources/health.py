"""Health: whether the exporter runs and every account is polled."""

from __future__ import annotations

from datetime import timedelta

from alerting.annotations import TIME, USD, AnnotationBuilder, active_since, list_lookup, lookup, since
from alerting.config import RulesConfig
from alerting.rules import Alert, Rule, RuleFile
from exporter.config.durations import format_duration

_JOIN_OWNER = "* on (provider, account) group_left (owner) ai_account_info"


def health_file(config: RulesConfig) -> RuleFile:
    """Return the rules about the exporter and its polls."""
    return RuleFile(
        "health",
        "Health: whether the exporter runs and every account is polled.",
        (*_exporter_alerts(config), *_key_alerts(config), *_delay_alerts(config)),
    )


def _exporter_alerts(config: RulesConfig) -> tuple[Rule, ...]:
    alerts, exporter = config.alerts, config.selectors.exporter
    build = AnnotationBuilder(config.links, "ai-spend-telemetry").build
    return (
        Alert(
            "AIExporterDown",
            alerts.exporter_down,
            f"up{{{exporter}}} == 0 or absent(up{{{exporter}}})",
            build(
                "AIExporterDown",
                "ai-spend-exporter cannot be scraped",
                f"Prometheus has not been able to scrape ai-spend-exporter{{instance}} for more than "
                f"{alerts.exporter_down.hold}.{{since}}",
                "No account is monitored: neither budgets nor spikes. Nothing is lost: the exporter fetches the missed "
                "data after a restart.",
                "Next: read the last lines of the exporter's log.",
                instance="{{ with $labels.instance }} {{ . }}{{ end }}",
                since=active_since("AIExporterDown", "instance"),
            ),
        ),
        Alert(
            "AIConfigReloadFailed",
            alerts.config_reload_failed,
            "ai_exporter_config_last_reload_successful == 0",
            build(
                "AIConfigReloadFailed",
                "ai-spend-exporter {instance} failed to reload its configuration",
                "The most recent configuration reload of ai-spend-exporter {instance} failed. The previous "
                "configuration stays in use{loaded}; a restart would fail.{since}",
                "Next: `ai-spend-exporter check config FILE` lists every problem with its line.",
                since=active_since("AIConfigReloadFailed", "instance"),
                loaded=lookup(
                    "ai_exporter_config_last_reload_success_timestamp_seconds",
                    "instance",
                    text=f" (loaded at {TIME})",
                ),
            ),
        ),
    )


def _key_alerts(config: RulesConfig) -> tuple[Rule, ...]:
    build = _builder(config).build
    return (
        Alert(
            "AIAccountKeyRejected",
            config.alerts.account_key_rejected,
            f"""
            max by (provider, account, reason) (
              ai_account_problem{{reason=~"wrong_key_kind|key_rejected|missing_scope"}}
            )
            {_JOIN_OWNER} == 1
            """,
            build(
                "AIAccountKeyRejected",
                "{account}: {provider} rejects the key ({reason})",
                "{provider} rejects the key of account {account} {owner}: {explanation}.{since}",
                "{polled}{cost}",
                "Next: `ai-spend-exporter check keys` shows the required action.",
                explanation='{{ if eq $labels.reason "key_rejected" }}it is revoked, expired or unknown'
                '{{ else if eq $labels.reason "missing_scope" }}it lacks a permission that a report requires'
                "{{ else }}it is not an admin key{{ end }}",
                since=active_since("AIAccountKeyRejected", "account", "reason"),
                polled=lookup(
                    "ai_account_up == 1",
                    "account",
                    text="The previous key still works, so the account is polled until that key is revoked.",
                )
                + lookup("ai_account_up == 0", "account", text="It is not polled until its key is replaced."),
                cost=lookup(
                    "account:ai_cost_before_today_usd:sum",
                    "account",
                    text=f" It cost {USD} in the 29 days before today.",
                ),
            ),
        ),
    )


def _delay_alerts(config: RulesConfig) -> tuple[Rule, ...]:
    alerts, delays, build = config.alerts, config.delays, _builder(config).build
    stale = format_duration(timedelta(seconds=alerts.account_stale.delay))
    return (
        Alert(
            "AIAccountStale",
            alerts.account_stale,
            f"""
            (
              time() - min by (provider, account) (ai_account_last_success_timestamp_seconds{{kind!="names"}})
              > {alerts.account_stale.delay}
              or
              time() - max by (provider, account) (
                (max_over_time(ai_account_up[{stale}]) == 0)
                + on (instance, job) group_left () process_start_time_seconds
              ) > {alerts.account_stale.delay}
            )
            {_JOIN_OWNER}
            """,
            build(
                "AIAccountStale",
                "{account} has not been polled successfully for {duration}",
                "At least one report of account {account} {owner} has not been fetched from {provider} for {duration}."
                "{since}{reasons}",
                "Its metrics are that old; spikes are not detected and budgets count expected cost.",
                "Next: `ai-spend-exporter check keys`, then the provider's status page.",
                since=since(
                    'min by (account) (ai_account_last_success_timestamp_seconds{kind!="names"})',
                    "account",
                    title="Last success:",
                ),
                reasons=list_lookup(
                    "ai_account_problem == 1", "account", title=" Reason:", text="{{ .Labels.reason }}", by="reason"
                ),
            ),
        ),
        Alert(
            "AIAccountDataLate",
            alerts.account_data_late,
            f"""
            (
              time() - min by (provider, account, report, kind, width) (
                ai_account_complete_until_timestamp_seconds{{kind="usage",width="hour"}}
              ) > {delays.hourly}
              or
              time() - min by (provider, account, report, kind, width) (
                ai_account_complete_until_timestamp_seconds
              ) > {delays.daily}
            )
            {_JOIN_OWNER}
            """,
            build(
                "AIAccountDataLate",
                "{account}: report {report} is {duration} behind",
                "The newest complete data of report {report} of account {account} {owner} is {duration} old.{since}",
                "{consequence}",
                "Next: wait for the provider, unless AIAccountStale fires too.",
                since=since(
                    "min by (account, report) (ai_account_complete_until_timestamp_seconds)",
                    "account",
                    "report",
                    title="Complete until",
                ),
                consequence='{{ if eq $labels.kind "bill" }}Newer days remain estimates for longer than usual.'
                '{{ else if eq $labels.width "day" }}Newer days are missing or incomplete, so budgets count expected '
                "cost.{{ else }}Newer hours are missing or incomplete, so no spike alert fires for this account and "
                "budgets count expected cost.{{ end }}",
            ),
            "By kind and width, never by a report's name: plug-ins name their reports as they like. Reports per day, "
            "bills and usage alike, are complete only hours after their day.",
        ),
        Alert(
            "AIProviderRateLimited",
            alerts.provider_rate_limited,
            f"""
            (
              sum by (provider, account) (increase(ai_account_poll_failures_total{{reason="rate_limited"}}[1h]))
              > {alerts.provider_rate_limited.polls}
            )
            {_JOIN_OWNER}
            """,
            build(
                "AIProviderRateLimited",
                "{account}: {provider} rate-limits polls",
                "{provider} rejected {whole} polls of account {account} {owner} within an hour because of its rate "
                "limit.{since}",
                "Data arrives late; nothing is lost.",
                "Next: raise poll_interval, or find who else uses this admin key.",
                since=active_since("AIProviderRateLimited", "account"),
            ),
        ),
    )


def _builder(config: RulesConfig) -> AnnotationBuilder:
    return AnnotationBuilder(config.links, "ai-spend-telemetry", ("account",))
