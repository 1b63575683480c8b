"""prometheus/alertmanager.yml: accepted by two Alertmanagers, and every alert finds its way."""

from __future__ import annotations

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
    """Run amtool, which has to succeed, and return what it prints."""
    command = [str(BIN_DIRS[version] / "amtool"), *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.parametrize("version", VERSIONS)
def test_amtool_accepts_it(version: str) -> None:
    """`amtool check-config` finds nothing wrong, in the examples for Slack, PagerDuty and e-mail neither."""
    told = run_amtool(version, "check-config", str(FILE))
    assert "SUCCESS" in told
    assert f"{len(CONFIG['receivers'])} receivers" in told
    kinds = {kind for receiver in CONFIG["receivers"] for kind in receiver if kind != "name"}
    assert kinds == {"webhook_configs", "slack_configs", "pagerduty_configs", "email_configs"}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ALERTS)
def test_every_alert_is_received(version: str, name: str) -> None:
    """As it stands every alert, of a team that is named and of one that is not, goes to the webhook that works."""
    severity = ALERTS[name]["labels"]["severity"]
    for owner in ("platform", "research", "somebody", ""):
        labels = [f"alertname={name}", f"severity={severity}", *([f"owner={owner}"] if owner else [])]
        assert run_amtool(version, "config", "routes", "test", f"--config.file={FILE}", *labels).split() == ["notices"]


def test_no_secret_is_written_into_it() -> None:
    """Receivers read their secrets from files."""
    for receiver in CONFIG["receivers"]:
        for kind, configs in receiver.items():
            for one in configs if kind != "name" else ():
                secrets = {key for key in one if key.endswith(("_url", "_key", "password", "token"))}
                assert not secrets, receiver


def test_inhibition_names_alerts_that_there_are() -> None:
    """What silences and what is silenced exists, and nothing silences itself."""
    for rule in CONFIG["inhibit_rules"]:
        silencing, silenced = (_names(rule[part]) for part in ("source_matchers", "target_matchers"))
        assert silencing | silenced <= set(ALERTS)
        assert not silencing & silenced
        assert rule["equal"]


def _names(matchers: list[str]) -> set[str]:
    (matcher,) = matchers
    return set(matcher.partition('"')[2].removesuffix('"').split("|"))
