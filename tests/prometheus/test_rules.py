"""The rules, their tests, runbooks and documentation are complete, on Debian's and on the current Prometheus."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from exporter.analysis.thresholds import (
    BUDGET_FAST_BURN_RATE,
    BUDGET_NEARLY_SPENT_RATIO,
    BUDGET_SLOW_BURN_RATE,
    MAX_DAILY_DELAY,
    MAX_HOURLY_DELAY,
    MIN_EXCESS_USD,
    MIN_RUNAWAY_USD,
    MIN_SPIKE_USD,
)
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
    assert set(annotations) == {"summary", "description", "runbook_url", "dashboard_url"}
    assert annotations["runbook_url"].endswith(f"}}#{name.lower()}")
    assert re.search(r"/d/ai-spend(-budgets|-signals|-account|-telemetry)?(\?|$)", annotations["dashboard_url"])
    for link in ("runbook_url", "dashboard_url"):
        assert annotations[link].startswith('{{ with query "ai:alert:links" }}')
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
        assert names - {"min_over_time", "max_over_time", "last_over_time", "group_left"} <= scraped, rule


def test_thresholds_are_defined_once() -> None:
    """Alerts compare with thresholds of thresholds.yml and with no other numbers than 0, 1 and a cent."""
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
    assert THRESHOLDS["budget_burn_fast"] == f"vector({BUDGET_FAST_BURN_RATE})"
    assert THRESHOLDS["budget_burn_slow"] == f"vector({BUDGET_SLOW_BURN_RATE})"
    assert THRESHOLDS["spike_usd"] == f"vector({MIN_SPIKE_USD})"
    assert THRESHOLDS["runaway_usd"] == f"vector({MIN_RUNAWAY_USD})"
    assert THRESHOLDS["excess_24h_usd"] == f"vector({MIN_EXCESS_USD})"
    assert THRESHOLDS["use_late_seconds"] == f"vector({MAX_HOURLY_DELAY.total_seconds():.0f})"
    assert THRESHOLDS["bill_late_seconds"] == f"vector({MAX_DAILY_DELAY.total_seconds():.0f})"


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
    """The table in docs/alerts.md has exactly the thresholds of thresholds.yml, with their values."""
    text = (ROOT / "docs" / "alerts.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| ([\d.e]+) \|", text, re.MULTILINE))
    assert {name: f"vector({value})" for name, value in rows.items()} == THRESHOLDS
