"""prometheus/alertmanager.yml is accepted by two versions of Alertmanager, and routes every alert."""

from __future__ import annotations

import re
import subprocess
from typing import Any

import pytest
import yaml

from tests.paths import ROOT
from tests.prometheus.test_rules import ALERTS
from tests.servers import BIN_DIRS, VERSIONS

FILE = ROOT / "prometheus" / "alertmanager.yml"
CONFIG: dict[str, Any] = yaml.safe_load(FILE.read_text())


def run_amtool(version: str, *arguments: str) -> str:
    """Run amtool, which must succeed, and return its output."""
    command = [str(BIN_DIRS[version] / "amtool"), *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.parametrize("version", VERSIONS)
def test_amtool_accepts_it(version: str) -> None:
    """`amtool check-config` accepts the file, including the examples for Slack, PagerDuty and e-mail."""
    output = run_amtool(version, "check-config", str(FILE))
    assert "SUCCESS" in output
    assert f"{len(CONFIG['receivers'])} receivers" in output
    kinds = {kind for receiver in CONFIG["receivers"] for kind in receiver if kind != "name"}
    assert kinds == {"webhook_configs", "slack_configs", "pagerduty_configs", "email_configs"}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ALERTS)
def test_every_alert_is_received(version: str, name: str) -> None:
    """By default every alert, of owners with and without a route, is sent to the receiver `notices`."""
    severity = ALERTS[name]["labels"]["severity"]
    for owner in ("platform", "research", "somebody", ""):
        labels = [f"alertname={name}", f"severity={severity}", *([f"owner={owner}"] if owner else [])]
        assert run_amtool(version, "config", "routes", "test", f"--config.file={FILE}", *labels).split() == ["notices"]


def test_it_contains_no_secret() -> None:
    """Receivers read all secrets from files."""
    for receiver in CONFIG["receivers"]:
        for kind, configs in receiver.items():
            for config in configs if kind != "name" else ():
                secrets = {key for key in config if key.endswith(("_url", "_key", "password", "token"))} - {
                    "client_url"
                }
                assert not secrets, receiver


def test_inhibition_rules_name_existing_alerts() -> None:
    """Inhibiting and inhibited alerts exist, and no alert inhibits itself.

    Only the exporter itself inhibits alerts of every account.
    """
    for rule in CONFIG["inhibit_rules"]:
        sources, targets = (_matching_alerts(rule[part]) for part in ("source_matchers", "target_matchers"))
        assert sources
        assert targets
        assert not sources & targets
        assert rule.get("equal") or sources == {"AIExporterDown"}


def _matching_alerts(matchers: list[str]) -> set[str]:
    """Return the alerts that match; each alternative of a matcher has to match some alert."""
    found = set(ALERTS)
    for matcher in matchers:
        label, values = matcher.rstrip('"').split('="' if "~" not in matcher else '=~"')
        if label == "threshold":
            # Only this label has values that are not those of a rule.
            continue
        texts = {name: name if label == "alertname" else rule["labels"][label] for name, rule in ALERTS.items()}
        for value in values.split("|"):
            assert any(re.fullmatch(value, text) for text in texts.values()), matcher
        found &= {name for name, text in texts.items() if re.fullmatch(values, text)}
    return found
