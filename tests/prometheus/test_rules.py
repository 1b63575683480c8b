"""The rules, their tests and their runbooks: every alert complete, proved on Debian's Prometheus and on today's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from exporter.analysis.thresholds import BUDGET_NEARLY_SPENT_RATIO, MAX_DAILY_DELAY, MAX_HOURLY_DELAY
from exporter.metrics.families import FAMILIES, HISTORY_FAMILIES
from tests.paths import ROOT
from tests.servers import VERSIONS, run_promtool

PROMETHEUS_DIR = ROOT / "prometheus"
FILES = sorted((PROMETHEUS_DIR / "rules").glob("*.yml"))
RULES: list[dict[str, Any]] = [
    rule for path in FILES for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]
]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RECORDING_RULES = {rule["record"] for rule in RULES if "record" in rule}
THRESHOLDS = {rule["labels"]["name"]: rule["expr"] for rule in RULES if rule.get("record") == "ai:alert:threshold"}
TESTS = sorted((PROMETHEUS_DIR / "tests").glob("*.yml"))
EXTERNAL_METRICS = {"up", "process_start_time_seconds", "ALERTS"}


@pytest.mark.parametrize("version", VERSIONS)
def test_promtool_accepts_the_rules(version: str) -> None:
    """`promtool check rules` has nothing to say, not even that two rules are the same."""
    checked = run_promtool(version, "check", "rules", "--lint=all", "--lint-fatal", *map(str, FILES))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert checked.stdout.count("SUCCESS") == len(FILES)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_the_rules_fire_and_keep_silent_as_their_tests_say(version: str, path: Path) -> None:
    """`promtool test rules` passes: who fires, who does not, and every word that is told."""
    tested = run_promtool(version, "test", "rules", str(path))
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_every_alert_is_tested_with_its_text() -> None:
    """Each alert is seen firing, with all its labels and annotations, and silent before; no test is of another one."""
    fired = set()
    for path in TESTS:
        for test in yaml.safe_load(path.read_text())["tests"]:
            fired |= {one["alertname"] for one in test.get("alert_rule_test", ()) if one["exp_alerts"]}
            if "alert_rule_test" in test:
                assert any(not one["exp_samples"] for one in test["promql_expr_test"]), path
    assert fired == set(ALERTS)


@pytest.mark.parametrize("name", ALERTS)
def test_every_alert_says_what_to_do(name: str) -> None:
    """Severity, summary, description, and links to its own runbook and a dashboard, both to one configured place."""
    alert = ALERTS[name]
    assert alert["labels"]["severity"] in ("critical", "warning", "info")
    told = alert["annotations"]
    assert set(told) == {"summary", "description", "runbook_url", "dashboard_url"}
    assert told["runbook_url"].endswith(f"}}#{name.lower()}")
    assert re.search(r"/d/ai-spend(-budgets|-signals|-account|-telemetry)?(\?|$)", told["dashboard_url"])
    for link in ("runbook_url", "dashboard_url"):
        assert told[link].startswith('{{ with query "ai:alert:links" }}')
    for label in ("account", "budget", "workspace"):
        if f"$labels.{label}" in told["summary"]:
            assert f"$labels.{label}" in told["description"]


@pytest.mark.parametrize("name", ALERTS)
def test_every_alert_has_a_runbook(name: str) -> None:
    """The runbook tells meaning, impact, diagnosis and mitigation, in this order."""
    _, _, found = (PROMETHEUS_DIR / "runbooks.md").read_text().partition(f"\n## {name}\n")
    section = found.partition("\n## ")[0]
    assert re.findall(r"^### (.*)$", section, re.MULTILINE) == ["Meaning", "Impact", "Diagnosis", "Mitigation"]
    assert all(part.strip() for part in re.split(r"^### .*$", section, flags=re.MULTILINE)[1:])


def test_every_runbook_entry_has_an_alert() -> None:
    """Every section of the runbooks is of an alert that there is."""
    assert set(re.findall(r"^## (.*)$", (PROMETHEUS_DIR / "runbooks.md").read_text(), re.MULTILINE)) == set(ALERTS)


def test_rules_use_what_is_scraped() -> None:
    """An alert works from the scraped gauges alone: served history may be away, and then it would keep silent."""
    scraped = {family.name for family in set(FAMILIES) - set(HISTORY_FAMILIES)} | RECORDING_RULES | EXTERNAL_METRICS
    for rule in RULES:
        told = re.sub(
            r'"[^"]*"|\{[^}]*\}|\[[^]]*\]|(on|by|ignoring|group_left|group_right) ?\([^)]*\)', " ", rule["expr"]
        )
        names = set(re.findall(r"[a-zA-Z_][\w:]*_[\w:]*|ai:[\w:]+|up|ALERTS", told))
        assert names - {"min_over_time", "max_over_time", "group_left"} <= scraped, rule


def test_thresholds_are_defined_once() -> None:
    """No alert compares with a number of its own but nothing and all; every threshold is used."""
    used = set()
    for rule in RULES:
        used |= set(re.findall(r'threshold\{name="(\w+)"', rule["expr"]))
    assert used == set(THRESHOLDS)
    for alert in ALERTS.values():
        numbers = re.findall(r"(?:[<>]=?|[=!]=)\s*(?:bool\s*)?(-?\d[\d.e]*)", alert["expr"])
        assert set(numbers) <= {"0", "1", "0.01"}, alert


def test_the_landing_page_uses_the_thresholds_of_the_rules() -> None:
    """A threshold that both use has one value."""
    assert THRESHOLDS["budget_nearly_spent_ratio"] == f"vector({BUDGET_NEARLY_SPENT_RATIO})"
    assert THRESHOLDS["use_late_seconds"] == f"vector({MAX_HOURLY_DELAY.total_seconds():.0f})"
    assert THRESHOLDS["bill_late_seconds"] == f"vector({MAX_DAILY_DELAY.total_seconds():.0f})"
