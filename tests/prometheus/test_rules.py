"""The rules, their tests, runbooks and documentation are complete, on Debian's and on the current Prometheus."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from alerting.build import render_files
from alerting.config import CONFIG_FILE, load_rules_config
from exporter.analysis.thresholds import (
    BUDGET_FAST_BURN_RATE,
    BUDGET_FAST_SIX_HOURS_BURN_RATE,
    BUDGET_FORECAST_RATIO,
    BUDGET_NEARLY_SPENT_RATIO,
    BUDGET_SLOW_BURN_RATE,
    MAX_DAILY_DELAY,
    MAX_HOURLY_DELAY,
    MIN_BALANCE_LEFT,
    MIN_EXCESS_USD,
    MIN_RUNAWAY_USD,
    MIN_SPIKE_USD,
    RUNAWAY_TIMES,
)
from exporter.errors import ConfigError
from exporter.metrics.families import FAMILIES, HISTORY_FAMILIES
from exporter.ui.alerts import KINDS
from tests.paths import ROOT
from tests.servers import VERSIONS, run_promtool

PROMETHEUS_DIR = ROOT / "prometheus"
FILES = sorted((PROMETHEUS_DIR / "rules").glob("*.yml"))
RULES: list[dict[str, Any]] = [
    rule for path in FILES for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]
]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RECORDING_RULES = {rule["record"] for rule in RULES if "record" in rule}
TESTS = [path for path in sorted((PROMETHEUS_DIR / "tests").glob("*.yml")) if "alert_rule_test" in path.read_text()]
"""The tests that evaluate all rules; test_mutants.py runs the others, each with the rules that it needs."""
EXTERNAL_METRICS = {"up", "process_start_time_seconds", "ALERTS"}


@pytest.mark.parametrize("version", VERSIONS)
def test_promtool_accepts_the_rules(version: str) -> None:
    """`promtool check rules` accepts every file without errors or lint warnings, such as duplicate rules."""
    checked = run_promtool(version, "check", "rules", "--lint=all", "--lint-fatal", *map(str, FILES))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert checked.stdout.count("SUCCESS") == len(FILES)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_the_rule_tests_pass(version: str, path: Path) -> None:
    """`promtool test rules` passes: alerts fire and do not fire as expected, with the exact text."""
    tested = run_promtool(version, "test", "rules", str(path))
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_every_alert_is_tested_with_its_text() -> None:
    """Each alert has a rule test in which it fires with all labels and annotations, and one in which none fires."""
    fired = set()
    for path in TESTS:
        for test in yaml.safe_load(path.read_text())["tests"]:
            fired |= {case["alertname"] for case in test.get("alert_rule_test", ()) if case["exp_alerts"]}
            if "alert_rule_test" in test:
                assert any(not case["exp_samples"] for case in test["promql_expr_test"]), path
    assert fired == set(ALERTS)


def test_no_rule_selects_a_report_by_name() -> None:
    """Rules select reports by kind and width, because plug-ins choose the names of their reports."""
    for rule in RULES:
        assert not re.search(r"\breport\s*(=|!)", rule["expr"]), rule


@pytest.mark.parametrize("name", ALERTS)
def test_every_alert_has_annotations_and_links(name: str) -> None:
    """An alert has a severity, a summary, a description, and links to its runbook and a dashboard."""
    alert = ALERTS[name]
    assert alert["labels"]["severity"] in ("critical", "warning", "info")
    annotations = alert["annotations"]
    assert set(annotations) - {"total"} == {"summary", "description", "runbook_url", "dashboard_url"}
    links = load_rules_config().links
    assert annotations["runbook_url"] == f"{links.runbooks}#{name.lower()}"
    assert re.search(r"/d/ai-spend(-budgets|-signals|-account|-telemetry)?(\?|$)", annotations["dashboard_url"])
    assert annotations["dashboard_url"].startswith(links.dashboards)
    for label in ("account", "budget", "workspace"):
        if f"$labels.{label}" in annotations["summary"]:
            assert f"$labels.{label}" in annotations["description"]


@pytest.mark.parametrize("name", ALERTS)
def test_every_alert_has_a_runbook(name: str) -> None:
    """Each runbook section has meaning, impact, diagnosis and mitigation, in this order."""
    _, _, text = (PROMETHEUS_DIR / "runbooks.md").read_text().partition(f"\n## {name}\n")
    section = text.partition("\n## ")[0]
    assert re.findall(r"^### (.*)$", section, re.MULTILINE) == ["Meaning", "Impact", "Diagnosis", "Mitigation"]
    assert all(part.strip() for part in re.split(r"^### .*$", section, flags=re.MULTILINE)[1:])


def test_every_runbook_entry_has_an_alert() -> None:
    """Every runbook section belongs to an existing alert."""
    assert set(re.findall(r"^## (.*)$", (PROMETHEUS_DIR / "runbooks.md").read_text(), re.MULTILINE)) == set(ALERTS)


def test_rules_use_what_is_scraped() -> None:
    """Rules use scraped metrics only, because alerts must not depend on whether served history is reachable."""
    scraped = {family.name for family in set(FAMILIES) - set(HISTORY_FAMILIES)} | RECORDING_RULES | EXTERNAL_METRICS
    for rule in RULES:
        expr = re.sub(
            r'"[^"]*"|\{[^}]*\}|\[[^]]*\]|(on|by|ignoring|group_left|group_right) ?\([^)]*\)', " ", rule["expr"]
        )
        names = set(re.findall(r"[a-zA-Z_][\w:]*_[\w:]*|ai:[\w:]+|up|ALERTS", expr))
        assert names - {"min_over_time", "max_over_time", "last_over_time", "group_left", "label_replace"} <= scraped, (
            rule
        )


def test_the_rules_are_current() -> None:
    """prometheus/rules contains exactly the files that alerting/build.py generates from alerting/config.yml."""
    assert {path.name: path.read_text() for path in FILES} == dict(render_files(load_rules_config()))


def test_a_changed_setting_changes_the_rules(tmp_path: Path) -> None:
    """A threshold, a duration, a severity, a link and matchers of the settings are in the generated rules."""
    changes = {
        "hour_burn_rate: 14.4": "hour_burn_rate: 6",
        "for: 65m": "for: 3h",
        "AIRequestSpike:\n    severity: info": "AIRequestSpike:\n    severity: warning",
        "http://localhost:3000": "https://grafana.example.com",
        'metrics: ""': """metrics: cluster="eu",env=~"a|b\"""",
    }
    files = dict(render_files(load_rules_config(_write_settings(tmp_path, changes))))
    rules = {rule["alert"]: rule for text in files.values() for rule in _rules(text) if "alert" in rule}
    assert 'window="1h"} > 6' in rules["AIBudgetBurnFast"]["expr"]
    assert rules["AISpendStopped"]["for"] == "3h"
    assert rules["AIRequestSpike"]["labels"] == {"severity": "warning"}
    assert rules["AIExporterDown"]["annotations"]["dashboard_url"].startswith("https://grafana.example.com/d/")
    assert 'max by (budget, owner, period) (ai_budget_limit_usd{cluster="eu",env=~"a|b"})' in files["budgets.yml"]
    assert 'ai_tokens_30d{cluster="eu",env=~"a|b",type=~".*cache_read"}' in files["signals.yml"]
    assert 'budget:ai_budget_burn_rate:sum{window="1h"}' in files["budgets.yml"]
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    checked = run_promtool("debian", "check", "rules", "--lint-fatal", *(str(tmp_path / name) for name in files))
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("usd: 25 #", "used: 25 #", "AIRunawaySpend.used: unknown key; did you mean usd?"),
        ("AICostSpike:", "AICostSpik:", "AICostSpik: unknown key; did you mean AICostSpike?"),
        ("usd: 25 #", "usd: $25 #", "AIRunawaySpend.usd: expected a number such as 14.4, without sign or exponent"),
        ("usd: 25 #", "usd: 0 #", "AIRunawaySpend.usd: must be more than 0"),
        ("ratios: [0.5, 0.9]", "ratios: [0.9, 0.5]", "ratios: every ratio must be more than the one before it"),
        ("ratios: [0.5, 0.9]", "ratios: 0.5", "ratios: expected a list of ratios such as [0.5, 0.9], got"),
        ("ratios: [0.5, 0.9]", "ratios: [50%]", "ratios: expected a number such as 14.4, without sign or exponent"),
        ("for: 65m", "for: 65", "AISpendStopped.for: expected a duration such as 5m, got 65"),
        ("hourly: 4h", "hourly: soon", 'delays.hourly: expected a duration such as 5m, got "soon"'),
        ("severity: info", "severity: page", 'severity: expected "critical", "warning" or "info", got "page"'),
        ('metrics: ""', "metrics: cluster=eu", 'metrics: expected label matchers such as job="ai-spend",cluster='),
    ],
)
def test_an_error_in_the_settings_names_file_line_and_key(tmp_path: Path, old: str, new: str, problem: str) -> None:
    """A mistake in the settings is an error with file, line, key and what is allowed."""
    path = _write_settings(tmp_path, {old: new})
    with pytest.raises(ConfigError) as caught:
        load_rules_config(path)
    number = path.read_text().partition(new)[0].count("\n") + 1
    (message,) = (line for line in str(caught.value).splitlines() if problem in line)
    assert message.startswith(f"{path}:{number}: ")


def _write_settings(folder: Path, changes: Mapping[str, str]) -> Path:
    text = CONFIG_FILE.read_text()
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new, 1)
    path = folder / "settings.yml"
    path.write_text(text)
    return path


def _rules(text: str) -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]


def test_every_alert_compares_with_its_own_settings() -> None:
    """Alerts compare with numbers of their own settings, or with 0, 1 and a cent."""
    config = load_rules_config()
    for name, alert in ALERTS.items():
        settings = {str(value) for value in config.alerts.settings_of(name).model_dump().values()}
        settings |= {str(config.delays.hourly), str(config.delays.daily), "0", "1", "0.01"}
        numbers = re.findall(r"(?:[<>]=?|[=!]=)\s*(?:bool\s*)?(-?\d[\d.e]*)", alert["expr"])
        assert set(numbers) <= settings, name


def test_annotations_are_short_and_have_constant_queries() -> None:
    """A summary has one line, a description at most three; queries are constant, so that linters can check them."""
    for alert in ALERTS.values():
        annotations = alert["annotations"]
        assert "\n" not in annotations["summary"], alert
        assert len(annotations["description"].splitlines()) <= 3, alert
        for text in annotations.values():
            assert len(re.findall(r"\bquery\b", text)) == len(
                re.findall(r'range query "(?:[^"\\]|\\.)*" (?:\| sortByLabel "\w+" )?}}', text)
            ), alert


def test_pint_reports_no_problem() -> None:
    """`pint lint` reports nothing, where pint is installed; .ci/pint installs it, or says that it cannot."""
    pint = shutil.which("pint", path=f"{ROOT / '.tools' / 'bin'}:{os.environ['PATH']}")
    if pint is None:
        warnings.filterwarnings("default", message="pint is not installed")
        warnings.warn("pint is not installed: the rules are not linted with it", stacklevel=1)
        return
    options = ["--no-color", "--offline", "--config", str(ROOT / ".ci" / "pint.hcl")]
    command = [pint, *options, "lint", str(PROMETHEUS_DIR / "rules")]
    checked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    output = checked.stdout + checked.stderr
    assert checked.returncode == 0, output
    assert f"entries={len(RULES)}" in output
    assert not re.search(r"^(Fatal|Bug|Warning)", output, re.MULTILINE), output


def test_the_landing_page_uses_the_thresholds_of_the_rules() -> None:
    """A threshold that both use has one value."""
    config = load_rules_config()
    alerts = config.alerts
    assert alerts.budget_nearly_spent.ratio == str(BUDGET_NEARLY_SPENT_RATIO)
    assert alerts.budget_forecast_exceeded.ratio == str(BUDGET_FORECAST_RATIO)
    assert alerts.budget_burn_fast.hour_burn_rate == str(BUDGET_FAST_BURN_RATE)
    assert alerts.budget_burn_fast.six_hours_burn_rate == str(BUDGET_FAST_SIX_HOURS_BURN_RATE)
    assert alerts.budget_burn_slow.burn_rate == str(BUDGET_SLOW_BURN_RATE)
    assert alerts.cost_spike.usd == str(MIN_SPIKE_USD)
    assert alerts.runaway_spend.usd == str(MIN_RUNAWAY_USD)
    assert alerts.runaway_spend.times == str(RUNAWAY_TIMES)
    assert alerts.unexpected_spend.usd == str(MIN_EXCESS_USD)
    assert config.delays.hourly == MAX_HOURLY_DELAY.total_seconds()
    assert config.delays.daily == MAX_DAILY_DELAY.total_seconds()
    assert alerts.balance_low.time_left == MIN_BALANCE_LEFT.total_seconds()


def test_the_landing_page_has_the_severities_of_the_rules() -> None:
    """A condition has one severity on the page and in notifications, and only critical ones are red."""
    assert {kind.rule: kind.severity for kind in KINDS} == {
        kind.rule: ALERTS[kind.rule]["labels"]["severity"] for kind in KINDS
    }
    assert {kind.severity for kind in KINDS if kind.state == "bad"} == {"critical"}


def test_the_documentation_lists_every_alert() -> None:
    """The table in docs/alerts.md has exactly the alerts of the rules, with their severity and runbook link."""
    text = (ROOT / "docs" / "alerts.md").read_text()
    rows = re.findall(r"^\| \[`(\w+)`\]\(([^)]*)\) \| (\w+) \| (.+) \|$", text, re.MULTILINE)
    assert len(rows) == len(ALERTS)
    for name, link, severity, condition in rows:
        assert link == f"../prometheus/runbooks.md#{name.lower()}"
        assert severity == ALERTS[name]["labels"]["severity"]
        assert condition


def test_the_documentation_lists_every_threshold() -> None:
    """The table in docs/alerts.md has exactly the thresholds of alerting/config.yml, with their values."""
    text = (ROOT / "docs" / "alerts.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+\.\w+)` \| ([\w.]+|\[[\d., ]+\]) \|", text, re.MULTILINE))
    settings = yaml.safe_load(CONFIG_FILE.read_text())
    thresholds = {f"delays.{name}": str(value) for name, value in settings["delays"].items()}
    for alert, values in settings["alerts"].items():
        own = values.keys() - {"severity", "for", "keep_firing_for"}
        thresholds |= {f"{alert}.{name}": str(values[name]) for name in own}
    assert rows == thresholds
