"""Which alerts a replay can judge, by the metrics of their expressions."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from exporter.backtest.promtool_series import STEP, PromtoolSeries
from exporter.backtest.rule_inputs import RuleInputs, judge_silent_alerts
from exporter.backtest.rules import AlertRule, Rules, load_rules
from exporter.backtest.sampling import CONSTANT_SERIES, SAMPLED_FAMILIES
from exporter.model import DAY, HOUR

SAMPLED_METRICS = frozenset(family.name for family in SAMPLED_FAMILIES)
ON_TIME = "the ledger does not record when data arrived: all of it counts as on time"
RECORDINGS = {
    "a:threshold": ["vector(1)", "vector(2)"],
    "account:cost:sum": ["sum by (account) (ai_cost_today_usd)"],
    "account:lag": ["time() - min by (account) (ai_account_complete_until_timestamp_seconds)"],
    "account:restated": ["max_over_time(ai_account_restated_usd_total[1d])"],
    "account:hours": ["max_over_time(account:cost:sum[3h] offset 2h)"],
    "a:either": ["up", "ai_cost_today_usd"],
    "a:itself": ["a:itself offset 1m or ai_cost_today_usd"],
}


def make_series(name: str, first_step: int = 0) -> PromtoolSeries:
    """Return a series of a day that has values from a step on."""
    series = PromtoolSeries(f'{name}{{account="acme"}}')
    series.add_constant(first_step, None)
    series.add_constant(DAY // STEP - first_step, "1")
    return series


def judge(expression: str, hold: timedelta = timedelta(0), duration: timedelta = DAY) -> tuple[str, int]:
    """Return reason and first step of an alert in a replay that has cost, watermarks and late upper bounds."""
    series = [
        make_series("ai_cost_today_usd"),
        make_series("ai_account_info"),
        make_series("ai_account_complete_until_timestamp_seconds"),
        make_series("ai_account_restated_usd_total"),
        make_series("ai_account_incomplete_bills"),
        make_series("ai_cost_last_hour_upper_bound_usd", 75),
        *map(make_series, CONSTANT_SERIES),
    ]
    rule = AlertRule("A", expression, hold)
    inputs = RuleInputs(Rules([rule], RECORDINGS), series, SAMPLED_METRICS)
    judgement = judge_silent_alerts(Rules([rule], RECORDINGS), inputs, [], duration)["A"]
    return judgement.reason, judgement.first_step


@pytest.mark.parametrize(
    "expression",
    [
        "ai_cost_today_usd > 5",
        'sum by (account) (ai_cost_today_usd{account="up"}) > on (up) group_left () scalar(a:threshold{name="up"})',
        "sum(ai_cost_today_usd) without (up) > bool 1e6 # up",
        "ai_cost_today_usd and on (account) account:lag < 14400",
        "ai_cost_today_usd unless on (account) ai_budget_spent_usd > 1",
        "ai_cost_today_usd or up",
        "(up or ai_cost_today_usd) * on (account) group_left (owner) ai_account_info",
        "ai_requests_today and up or ai_cost_today_usd",
        "label_replace(ai_cost_today_usd @ end(), 'up', 'up', 'account', '(.*)')",
        "ai_cost_today_usd offset 1h > -Inf",
        "ai_cost_today_usd offset -1h",
        "account:cost:sum",
        "account:hours",
        "a:either",
        "a:itself",
        "ai_account_unpriced_tokens > 0",
        'ALERTS{alertname="B"}',
        "vector(1)",
        "ai_account_info == 1",
    ],
)
def test_an_alert_is_judged_if_each_required_input_has_values(expression: str) -> None:
    """Labels, strings, comments, functions and operands that may be absent are no required inputs."""
    assert judge(expression) == ("", 0)


@pytest.mark.parametrize(
    ("expression", "metrics"),
    [
        ("up == 0 or absent(up)", "up"),
        ("ai_cost_today_usd and on (instance) process_start_time_seconds", "process_start_time_seconds"),
        ("up unless ai_cost_today_usd", "up"),
        ("ai_exporter_config_last_reload_successful == 0", "ai_exporter_config_last_reload_successful"),
        ("account:restated > 10", "ai_account_restated_usd_total"),
        ("ai_account_incomplete_bills > 0", "ai_account_incomplete_bills"),
        ("rate(ai_account_polls_total[1h]) / up", "ai_account_polls_total, up"),
        ("sum_over_time(ai_hourly_cost_usd[1h])", "ai_hourly_cost_usd"),
    ],
)
def test_an_alert_on_unrecorded_metrics_is_not_judged(expression: str, metrics: str) -> None:
    """Metrics of polls, of corrections of bills, of the process and of other exporters have no past in the ledger."""
    assert judge(expression)[0] == f"the ledger does not record the past of {metrics}"


@pytest.mark.parametrize(
    ("expression", "metrics"),
    [
        ("ai_budget_spent_usd / ai_budget_limit_usd > 1", "ai_budget_limit_usd, ai_budget_spent_usd"),
        ("ai_cost_today_usd > on (account) ai_cost_last_hour_expected_usd", "ai_cost_last_hour_expected_usd"),
        ("ai_requests_today or ai_tokens_today", "ai_requests_today, ai_tokens_today"),
    ],
)
def test_an_alert_on_absent_metrics_is_not_judged(expression: str, metrics: str) -> None:
    """Without budgets, history for baselines or counted requests, the alerts about them are not judged."""
    assert judge(expression)[0] == f"no values of {metrics} in these days"


@pytest.mark.parametrize("expression", ["account:lag > 14400", "(account:lag > 14400) * on (account) ai_account_info"])
def test_late_data_is_not_judged(expression: str) -> None:
    """In a replay every report is complete after its usual delay, so an alert about the delay alone cannot fire."""
    assert judge(expression)[0] == ON_TIME


@pytest.mark.parametrize(
    ("expression", "hold", "duration", "needed"),
    [
        ("ai_cost_today_usd", 2 * HOUR, 2 * HOUR, "2h"),
        ("ai_cost_today_usd offset 7d", timedelta(0), DAY, "7d"),
        ("max_over_time(ai_cost_today_usd[3d] offset 1d)", timedelta(0), 3 * DAY, "4d"),
        ("max_over_time(sum(ai_cost_today_usd)[1d:1h]) > 1", HOUR, DAY, "1d1h"),
        ("account:hours or up", HOUR, 6 * HOUR, "6h"),
        ("ai_cost_last_hour_upper_bound_usd > 1", 20 * HOUR, DAY, "20h"),
    ],
)
def test_an_alert_that_looks_back_further_than_the_replay_is_not_judged(
    expression: str, hold: timedelta, duration: timedelta, needed: str
) -> None:
    """Ranges, offsets and `for` add up, also through recording rules and from the first value on."""
    reason, _ = judge(expression, hold, duration)
    assert reason.startswith(f"needs {needed} of values; these days have ")
    assert judge(expression, hold, duration + 7 * DAY) == ("", judge(expression)[1])


def test_an_alert_is_judged_from_the_first_value_of_its_inputs() -> None:
    """The input that begins last decides; of alternatives, the input that begins first decides."""
    assert judge("ai_cost_today_usd > ai_cost_last_hour_upper_bound_usd") == ("", 75)
    assert judge("ai_cost_today_usd or ai_cost_last_hour_upper_bound_usd") == ("", 0)


def test_alerts_that_fired_are_not_listed() -> None:
    """Alerts that fired are left out; of two rules with a name, one that can be judged is enough."""
    names = {"Fired": "up", "Twice": "ai_cost_today_usd"}
    alerts = [AlertRule(name, expression, timedelta(0)) for name, expression in names.items()]
    rules = Rules([AlertRule("Twice", "up", timedelta(0)), *alerts], {})
    inputs = RuleInputs(rules, [make_series("ai_cost_today_usd")], SAMPLED_METRICS)
    judgements = judge_silent_alerts(rules, inputs, ["Fired"], DAY)
    assert {name: judgement.reason for name, judgement in judgements.items()} == {"Twice": ""}


def test_rules_are_read_from_files(tmp_path: Path) -> None:
    """Alerts and recording rules of all groups are read; a metric may be recorded by several rules."""
    file = tmp_path / "rules.yml"
    file.write_text(
        "groups: [{name: a, rules: [{record: 'a:b', expr: x}, {alert: A, expr: y, for: 1h5m}]},"
        " {name: b, rules: [{record: 'a:b', expr: 1}]}]"
    )
    rules = load_rules([file])
    assert rules.alerts == [AlertRule("A", "y", timedelta(minutes=65))]
    assert rules.recordings == {"a:b": ["x", "1"]}
