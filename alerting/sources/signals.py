"""Signals: unusual hours, models, caches and requests."""

from __future__ import annotations

from alerting.annotations import (
    DURATION,
    NUMBER,
    PERCENT,
    TIME,
    USD,
    AnnotationBuilder,
    active_since,
    list_lookup,
    lookup,
)
from alerting.config import RulesConfig
from alerting.rules import Alert, Recording, Rule, RuleFile

_WORKSPACE = "provider, account, owner, workspace"
_WORKSPACE_LABELS = ("account", "workspace")
_TIER_LABELS = ("account", "workspace", "model", "tier")
_MODEL_NAME = '{{ or .Labels.model "-" }}'
_WORKSPACE_NAME = '{{ or .Labels.workspace "-" }}'

_INCIDENT_START = lookup("ai_cost_incident_start_timestamp_seconds", *_WORKSPACE_LABELS, text=f" since {TIME}")
_INCIDENT_AGE = lookup(
    "floor((time() - ai_cost_incident_start_timestamp_seconds) / 60) * 60", *_WORKSPACE_LABELS, text=f" ({DURATION})."
)
_INCIDENT_COST = lookup("ai_cost_incident_usd", *_WORKSPACE_LABELS, text=USD)
_INCIDENT = (
    lookup("ai_cost_incident_usd", *_WORKSPACE_LABELS, text=f" In total: {USD}") + _INCIDENT_START + _INCIDENT_AGE
)


def signal_file(config: RulesConfig) -> RuleFile:
    """Return the rules about unusual usage."""
    return RuleFile(
        "signals",
        "Signals: unusual hours, by the hour of usage, compared with the cost that the exporter expected for that "
        "hour. No hourly alert fires for an account whose hourly usage is late, because its newest complete hour is "
        "old, nor for an account without hourly usage, because its hours are only a day's total spread evenly.",
        (
            *_cost_recordings(),
            *_token_recordings(),
            *_thresholds(config),
            *_cost_alerts(config),
            *_hour_alerts(config),
            *_model_alerts(config),
            *_token_alerts(config),
            *_charge_alerts(config),
        ),
    )


def _with_owner(aggregation: str, labels: str, metric: str) -> str:
    """Return an aggregation of a metric whose series have the owner of their account."""
    return f"{aggregation} by ({labels}) ({metric} * on (provider, account) group_left (owner) ai_account_info)"


def _cost_recordings() -> tuple[Rule, ...]:
    model = f"{_WORKSPACE}, model"
    return (
        Recording(
            "account:ai_account_complete_until:lag_seconds",
            "time() - min by (provider, account) "
            '(ai_account_complete_until_timestamp_seconds{kind="usage",width="hour"})',
        ),
        *(
            Recording(f"workspace_model:ai_cost_{window}_usd:sum", _with_owner("sum", model, f"ai_cost_{window}_usd"))
            for window in ("this_hour", "last_hour", "today", "30d")
        ),
        Recording(
            "workspace_model:ai_cost_this_hour_usd:rise",
            "workspace_model:ai_cost_this_hour_usd:sum - workspace_model:ai_cost_30d_usd:sum / 720",
            "Cost above the mean hour of 30 days, and the largest contributors to an increase.",
        ),
        Recording(
            "workspace_model:ai_cost_last_hour_usd:rise",
            "workspace_model:ai_cost_last_hour_usd:sum - workspace_model:ai_cost_30d_usd:sum / 720",
        ),
        *(
            Recording(
                f"workspace_model:ai_cost_{window}_usd:top3_rise",
                f"topk by ({_WORKSPACE}) (3, workspace_model:ai_cost_{window}_usd:rise > 0)",
            )
            for window in ("this_hour", "last_hour")
        ),
        Recording(
            "budget_account:ai_cost_last_hour_usd:top3_rise",
            """
            topk by (budget, owner, period) (
              3,
              group by (budget, owner, period, provider, account) (ai_budget_account_spent_usd > 0)
              * on (provider, account) group_left ()
              sum by (provider, account) (workspace_model:ai_cost_last_hour_usd:rise) > 0
            )
            """,
            "Of the whole account, also where the budget counts a part of it.",
        ),
        *(
            Recording(
                f"workspace_model:ai_cost_{window}_usd:top3",
                f"topk by ({_WORKSPACE}) (3, workspace_model:ai_cost_{window}_usd:sum > 0)",
            )
            for window in ("last_hour", "today", "30d")
        ),
        *(
            Recording(
                f"workspace:ai_cost_{window}_usd:sum",
                f"sum by ({_WORKSPACE}) (workspace_model:ai_cost_{window}_usd:sum)",
            )
            for window in ("this_hour", "last_hour")
        ),
        Recording(
            "workspace:ai_cost_last_hour_expected_usd:max",
            _with_owner("max", _WORKSPACE, "ai_cost_last_hour_expected_usd"),
        ),
        Recording("workspace:ai_cost_excess_24h_usd:max", _with_owner("max", _WORKSPACE, "ai_cost_excess_24h_usd")),
        Recording(
            "model:ai_cost_today_usd:sum",
            "sum by (provider, account, owner, model) (workspace_model:ai_cost_today_usd:sum)",
        ),
        Recording(
            "model:ai_cost_before_today_usd:sum",
            "sum by (provider, account, owner, model) "
            "(workspace_model:ai_cost_30d_usd:sum - workspace_model:ai_cost_today_usd:sum)",
        ),
        Recording("account:ai_cost_today_usd:sum", "sum by (provider, account, owner) (model:ai_cost_today_usd:sum)"),
        Recording(
            "account:ai_cost_before_today_usd:sum",
            "sum by (provider, account, owner) (model:ai_cost_before_today_usd:sum)",
        ),
        Recording(
            "change:ai_change_timestamp_seconds:recent",
            "max by (title, service, account) (ai_change_timestamp_seconds) > time() - 14400",
            "Deployments of the last four hours that CI reported.",
        ),
    )


def _token_recordings() -> tuple[Rule, ...]:
    tier = f"{_WORKSPACE}, model, tier"
    tier_without_owner = "provider, account, workspace, model, tier"
    return (
        Recording("workspace:ai_requests_last_hour:sum", _with_owner("sum", _WORKSPACE, "ai_requests_last_hour")),
        Recording("workspace:ai_tokens_last_hour:sum", _with_owner("sum", _WORKSPACE, "ai_tokens_last_hour")),
        *(
            Recording(
                f"workspace_model_tier:ai_tokens_{window}:cache_hit_ratio",
                f"""
                {_with_owner("sum", tier, f'ai_tokens_{window}{{type=~".*cache_read"}}')}
                / {_with_owner("sum", tier, f'ai_tokens_{window}{{type!~".*output"}}')}
                """,
                comment,
            )
            for window, comment in (
                (
                    "last_hour",
                    (
                        "The share of input tokens read from a cache, and tokens per request. By model and tier, "
                        "because nightly batch jobs and interactive requests differ, and their mix changes with the "
                        "hour."
                    ),
                ),
                ("today", ""),
            )
        ),
        Recording(
            "workspace_model_tier:ai_tokens_30d:cache_hit_ratio",
            f"""
            sum by ({tier_without_owner}) (ai_tokens_30d{{type=~".*cache_read"}})
            / sum by ({tier_without_owner}) (ai_tokens_30d{{type!~".*output"}})
            """,
        ),
        Recording("workspace_model_tier:ai_requests_last_hour:sum", _with_owner("sum", tier, "ai_requests_last_hour")),
        Recording(
            "workspace_model_tier:ai_tokens_last_hour:per_request",
            f"{_with_owner('sum', tier, 'ai_tokens_last_hour')} / workspace_model_tier:ai_requests_last_hour:sum",
        ),
        Recording(
            "workspace_model_tier:ai_tokens_30d:per_request",
            f"""
            sum by ({tier_without_owner}) (ai_tokens_30d)
            / sum by ({tier_without_owner}) (ai_requests_30d)
            """,
        ),
    )


def _thresholds(config: RulesConfig) -> tuple[Rule, ...]:
    alerts = config.alerts
    defaults = {
        "AIRunawaySpend": ("runaway_spend", alerts.runaway_spend.usd),
        "AICostSpike": ("cost_spike", alerts.cost_spike.usd),
        "AIUnexpectedSpend": ("unexpected_spend", alerts.unexpected_spend.usd),
        "AISpendStopped": ("spend_stopped", alerts.spend_stopped.usd),
        "AIHighCostModel": ("high_cost_model", alerts.high_cost_model.usd),
        "AINewModel": ("new_model", alerts.new_model.usd),
        "AIOneTimeCost": ("one_time_cost", alerts.one_time_cost.usd),
    }
    return tuple(
        Recording(
            f"account:ai_account_alert_threshold_usd:{name}",
            f"""
            max by (provider, account) (ai_account_alert_threshold_usd{{alert="{alert}"}})
            or {default} * group by (provider, account) (ai_account_info)
            """,
            "" if number else "Thresholds: the account's own from the exporter's configuration, or the default.",
        )
        for number, (alert, (name, default)) in enumerate(defaults.items())
    )


def _cost_alerts(config: RulesConfig) -> tuple[Rule, ...]:
    alerts, build, on_time = config.alerts, _builder(config).build, _on_time(config)
    changes = _changes()
    return (
        Alert(
            "AIRunawaySpend",
            alerts.runaway_spend,
            f"""
            workspace:ai_cost_this_hour_usd:sum
            > on (provider, account, workspace) group_left ()
            {alerts.runaway_spend.times} * ai_cost_this_hour_upper_bound_usd
            and
            workspace:ai_cost_this_hour_usd:sum
            > on (provider, account) group_left () account:ai_account_alert_threshold_usd:runaway_spend
            {on_time}
            """,
            build(
                "AIRunawaySpend",
                "{where}: {usd} in the current hour",
                "The current hour of {workspace_of_account} {owner} has already cost {usd}{bound}.{incident}",
                "{increases}{requests}{budgets}{changes}",
                "Next: find the application; if it is not intended, revoke its API key at the provider.",
                bound=lookup(
                    "ai_cost_this_hour_upper_bound_usd",
                    *_WORKSPACE_LABELS,
                    text=f"; the upper bound for the whole hour is {USD}",
                ),
                increases=_increases("this_hour"),
                requests=lookup(
                    "workspace:ai_requests_last_hour:sum",
                    *_WORKSPACE_LABELS,
                    text=f" Requests in the newest complete hour: {NUMBER}.",
                ),
                budgets=list_lookup(
                    "group by (budget, account) (ai_budget_account_spent_usd > 0) "
                    "* on (budget) group_left () budget:ai_budget_spent_usd:ratio",
                    "account",
                    title=" Budgets of the account:",
                    text=f"{{{{ .Labels.budget }}}} {PERCENT} spent",
                ),
                changes=changes,
                incident=_INCIDENT,
                total="{cost}{start}",
                cost=_INCIDENT_COST,
                start=_INCIDENT_START,
            ),
        ),
        Alert(
            "AICostSpike",
            alerts.cost_spike,
            f"""
            workspace:ai_cost_last_hour_usd:sum
            > on (provider, account, workspace) group_left () ai_cost_last_hour_upper_bound_usd
            and
            workspace:ai_cost_last_hour_usd:sum - workspace:ai_cost_last_hour_expected_usd:max
            > on (provider, account) group_left () account:ai_account_alert_threshold_usd:cost_spike
            {on_time}
            unless on (provider, account, workspace)
            max_over_time(ALERTS{{alertname="AIRunawaySpend",alertstate="firing"}}[3h])
            """,
            build(
                "AICostSpike",
                "{where}: {usd} in an hour",
                "The newest complete hour of {workspace_of_account} {owner} cost {usd}{expected}.{incident}",
                "{increases}{changes}",
                "Next: ask the owner for the cause; set a limit at the provider if it is not intended.",
                expected=lookup(
                    "workspace:ai_cost_last_hour_expected_usd:max", *_WORKSPACE_LABELS, text=f"; expected: {USD}"
                ),
                increases=_increases("last_hour"),
                changes=changes,
                incident=_INCIDENT,
                total="{cost}{start}",
                cost=_INCIDENT_COST,
                start=_INCIDENT_START,
            ),
        ),
        Alert(
            "AIUnexpectedSpend",
            alerts.unexpected_spend,
            f"""
            workspace:ai_cost_excess_24h_usd:max
            > on (provider, account) group_left () account:ai_account_alert_threshold_usd:unexpected_spend
            {on_time}
            unless on (provider, account, workspace)
            max_over_time(ALERTS{{alertname=~"AIRunawaySpend|AICostSpike",alertstate="firing"}}[26h])
            """,
            build(
                "AIUnexpectedSpend",
                "{where}: {usd} above the upper bound within a day",
                "The 24 newest complete hours of {workspace_of_account} {owner} cost {usd} more than their upper "
                "bounds.{incident}",
                "They were reported late, or were each too small for a spike alert.{models}{changes}",
                "Next: open the dashboard and find the hours; then treat it as a spike.",
                models=_largest("today", " Largest today:"),
                changes=changes,
                incident=_INCIDENT,
                total="{cost}{start}",
                cost=_INCIDENT_COST,
                start=_INCIDENT_START,
            ),
        ),
    )


def _hour_alerts(config: RulesConfig) -> tuple[Rule, ...]:
    alerts, build, on_time = config.alerts, _builder(config).build, _on_time(config)
    return (
        Alert(
            "AIRequestSpike",
            alerts.request_spike,
            f"""
            (
              workspace:ai_requests_last_hour:sum
              > on (provider, account, workspace) group_left () ai_requests_last_hour_upper_bound
              or
              workspace:ai_tokens_last_hour:sum
              > on (provider, account, workspace) group_left () ai_tokens_last_hour_upper_bound
            )
            {on_time}
            """,
            build(
                "AIRequestSpike",
                "{where}: {number} requests or tokens in an hour",
                "The newest complete hour of {workspace_of_account} {owner} had {number}{requests}{tokens}."
                "{since}{models}{changes}",
                "Next: none while cost is as expected; otherwise see AICostSpike.",
                requests=lookup(
                    "ai_requests_last_hour_expected", *_WORKSPACE_LABELS, text=f" requests; expected: {NUMBER}"
                ),
                tokens=lookup("ai_tokens_last_hour_expected", *_WORKSPACE_LABELS, text=f" tokens; expected: {NUMBER}"),
                models=_largest("last_hour", " Largest in that hour:"),
                changes=_changes(),
                since=active_since("AIRequestSpike", *_WORKSPACE_LABELS),
            ),
        ),
        Alert(
            "AISpendStopped",
            alerts.spend_stopped,
            f"""
            workspace:ai_cost_last_hour_expected_usd:max
            >= on (provider, account) group_left () account:ai_account_alert_threshold_usd:spend_stopped
            and on (provider, account, workspace)
            ai_cost_last_hour_upper_bound_usd / ai_cost_last_hour_expected_usd < {alerts.spend_stopped.steady_ratio}
            and workspace:ai_cost_last_hour_usd:sum == 0
            and max_over_time(workspace:ai_cost_last_hour_usd:sum[3d:30m]) > 0
            and on (provider, account, workspace) (
              max_over_time(workspace:ai_cost_last_hour_usd:sum[6h:30m]) > 0
              or
              max_over_time(ALERTS{{alertname="AISpendStopped",alertstate="firing"}}[30m])
            )
            {on_time}
            """,
            build(
                "AISpendStopped",
                "{where} has stopped spending",
                "No cost for two complete hours in {workspace_of_account} {owner}; expected: {usd} an hour.{since}",
                "An application may be down, or may have moved to another key.{models}{changes}",
                "Next: ask the owner whether the application works.",
                models=_largest("30d", " Largest in 30 days:"),
                changes=_changes(),
                since=active_since("AISpendStopped", *_WORKSPACE_LABELS),
            ),
            "It begins only within six hours of the last cost: a holiday does not begin during the work, and a "
            "provider that reports hours late never has cost in its newest complete hour. It ends after three days.",
        ),
    )


def _model_alerts(config: RulesConfig) -> tuple[Rule, ...]:
    alerts = config.alerts
    model = alerts.high_cost_model
    build = AnnotationBuilder(config.links, "ai-spend-signals", ("account",)).build
    workspaces = list_lookup(
        "workspace_model:ai_cost_today_usd:top3",
        "account",
        "model",
        title="Workspaces:",
        text=f"{_WORKSPACE_NAME} {USD}",
    )
    return (
        Alert(
            "AIHighCostModel",
            model,
            f"""
            model:ai_cost_today_usd:sum / on (provider, account, owner) group_left () account:ai_cost_today_usd:sum
            > {model.share}
            and
            model:ai_cost_before_today_usd:sum
            / on (provider, account, owner) group_left () account:ai_cost_before_today_usd:sum
            < {model.share_before}
            and on (provider, account, owner)
            account:ai_cost_today_usd:sum
            > on (provider, account) group_left () account:ai_account_alert_threshold_usd:high_cost_model
            and on (provider, account, owner)
            account:ai_cost_today_usd:sum > account:ai_cost_before_today_usd:sum / 29 * {model.day_share}
            """,
            build(
                "AIHighCostModel",
                "{account}: {model} accounts for {percent} of today's cost",
                "Model {model} accounts for {percent} of today's cost of account {account} {owner}{cost}.{since}",
                f"In the previous 29 days its share was below {float(model.share_before):.0%}. {{workspaces}}"
                "{changes}",
                "Next: ask the owner whether the change of model is intended.",
                cost=lookup("model:ai_cost_today_usd:sum", "account", "model", text=f", {USD}"),
                workspaces=workspaces,
                changes=_changes(),
                since=active_since("AIHighCostModel", "account", "model"),
            ),
        ),
        Alert(
            "AINewModel",
            alerts.new_model,
            """
            model:ai_cost_today_usd:sum
            > on (provider, account) group_left () account:ai_account_alert_threshold_usd:new_model
            and model:ai_cost_before_today_usd:sum < 0.01
            and on (provider, account, owner) account:ai_cost_before_today_usd:sum > 0.01
            """,
            build(
                "AINewModel",
                "{account} uses {model} for the first time in 30 days",
                "Account {account} {owner} has spent {usd} today on model {model}, which it had not used in the "
                "previous 29 days.{since}",
                "{workspaces}{changes}",
                "Next: check that the model's price is intended.",
                workspaces=workspaces,
                changes=_changes(),
                since=active_since("AINewModel", "account", "model"),
            ),
        ),
    )


def _token_alerts(config: RulesConfig) -> tuple[Rule, ...]:
    alerts, build, on_time = config.alerts, _builder(config).build, _on_time(config)
    cache, surge = alerts.cache_hit_ratio_dropped, alerts.tokens_per_request_surge
    tier = "provider, account, workspace, model, tier"
    return (
        Alert(
            "AICacheHitRatioDropped",
            cache,
            f"""
            (
              (
                workspace_model_tier:ai_tokens_last_hour:cache_hit_ratio
                < on ({tier}) group_left () {cache.fall_to} * workspace_model_tier:ai_tokens_30d:cache_hit_ratio
                and on ({tier}) sum by ({tier}) (ai_tokens_last_hour{{type!~".*output"}}) > {cache.hour_input_tokens}
                {on_time}
              )
              or
              (
                workspace_model_tier:ai_tokens_today:cache_hit_ratio
                < on ({tier}) group_left () {cache.fall_to} * workspace_model_tier:ai_tokens_30d:cache_hit_ratio
                and on ({tier}) sum by ({tier}) (ai_tokens_today{{type!~".*output"}}) > {cache.input_tokens}
              )
            )
            and on ({tier}) workspace_model_tier:ai_tokens_30d:cache_hit_ratio > {cache.before}
            """,
            build(
                "AICacheHitRatioDropped",
                "{where}: cache hit ratio of {model} dropped to {percent}",
                "{percent} of the recent input tokens of {model} in {workspace_of_account} {owner} were read from the "
                "prompt cache{before}.{since}",
                "Uncached input costs several times as much.{cost}{changes}",
                "Next: look for a change of the prompt's beginning, which is what the cache matches.",
                before=lookup(
                    "workspace_model_tier:ai_tokens_30d:cache_hit_ratio",
                    *_TIER_LABELS,
                    text=f"; the 30-day ratio is {PERCENT}",
                ),
                cost=lookup(
                    "workspace_model:ai_cost_today_usd:sum",
                    "account",
                    "workspace",
                    "model",
                    text=f" Cost today: {USD}.",
                ),
                changes=_changes(),
                since=active_since("AICacheHitRatioDropped", *_TIER_LABELS),
            ),
            "Two complete hours decide, before the ratio of the day falls. That of the day is for usage that is "
            "reported later than its hour counts as complete, and for usage below the threshold of an hour.",
        ),
        Alert(
            "AITokensPerRequestSurge",
            surge,
            f"""
            workspace_model_tier:ai_tokens_last_hour:per_request
            > on ({tier}) group_left () {surge.times} * workspace_model_tier:ai_tokens_30d:per_request
            and workspace_model_tier:ai_requests_last_hour:sum > {surge.requests}
            {on_time}
            """,
            build(
                "AITokensPerRequestSurge",
                "{where}: {number} tokens per {model} request",
                "Requests to {model} in {workspace_of_account} {owner} averaged {number} tokens in the newest complete "
                "hour{before}.{since}",
                "Possible causes: a growing context or a loop.{cost}{changes}",
                "Next: ask the owner what changed in the prompts.",
                before=lookup(
                    "workspace_model_tier:ai_tokens_30d:per_request",
                    *_TIER_LABELS,
                    text=f"; the 30-day average is {NUMBER}",
                ),
                cost=lookup(
                    "workspace_model:ai_cost_last_hour_usd:sum",
                    "account",
                    "workspace",
                    "model",
                    text=f" Cost of that hour: {USD}.",
                ),
                changes=_changes(),
                since=active_since("AITokensPerRequestSurge", *_TIER_LABELS),
            ),
        ),
    )


def _charge_alerts(config: RulesConfig) -> tuple[Rule, ...]:
    build = AnnotationBuilder(config.links, "ai-spend-account", ("account",)).build
    return (
        Alert(
            "AIOneTimeCost",
            config.alerts.one_time_cost,
            """
            (
              max by (provider, account, date) (ai_cost_daily_one_time_usd)
              > on (provider, account) group_left () account:ai_account_alert_threshold_usd:one_time_cost
            )
            * on (provider, account) group_left (owner) ai_account_info
            """,
            build(
                "AIOneTimeCost",
                "{account}: {usd} charged once on {date}",
                "The bill of {date} (UTC) of account {account} {owner} has {usd} that follow no usage and are on few "
                "other bills.{mean_day}{since}",
                "Budgets and the month include them; forecasts, burn rates and baselines do not.",
                "Next: find the item on the landing page, and ask the owner whether it is intended.",
                mean_day=lookup("account:ai_cost_30d_usd:mean_day", "account", text=f" Mean cost per day: {USD}."),
                since=active_since("AIOneTimeCost", "account", "date"),
                total="{usd}",
            ),
            "By the day of the charge, which is exported until it is five days old: neither a restart of the exporter "
            "nor a restatement of the day begins another alert, and a month that begins ends none.",
        ),
    )


def _on_time(config: RulesConfig) -> str:
    """Return the condition that the account's hourly usage is not late."""
    return f"and on (provider, account) account:ai_account_complete_until:lag_seconds < {config.delays.hourly}"


def _increases(window: str) -> str:
    return list_lookup(
        f"workspace_model:ai_cost_{window}_usd:top3_rise",
        *_WORKSPACE_LABELS,
        title="Largest increases:",
        text=f"{_MODEL_NAME} +{USD}",
    )


def _largest(window: str, title: str) -> str:
    return list_lookup(
        f"workspace_model:ai_cost_{window}_usd:top3", *_WORKSPACE_LABELS, title=title, text=f"{_MODEL_NAME} {USD}"
    )


def _changes(title: str = " Recent changes:") -> str:
    """Return a template with the recent changes of the account, or of no account in particular."""
    return list_lookup(
        "change:ai_change_timestamp_seconds:recent",
        title=title,
        text=f"{{{{ .Labels.title }}}}{{{{ with .Labels.service }}}} ({{{{ . }}}}){{{{ end }}}} at {TIME}",
        condition='or (eq .Labels.account "") (eq .Labels.account $labels.account)',
        by="title",
    )


def _builder(config: RulesConfig) -> AnnotationBuilder:
    return AnnotationBuilder(config.links, "ai-spend-signals", _WORKSPACE_LABELS)
