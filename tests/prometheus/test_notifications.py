"""One incident is one notification: grouping and inhibition of alertmanager.yml in a real Alertmanager."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
import yaml

from exporter.config.durations import parse_duration
from tests.command import wait_until
from tests.paths import ROOT
from tests.prometheus.test_alert_delivery import TIMEOUT, Webhook, start_webhook
from tests.prometheus.test_rules import ALERTS
from tests.servers import VERSIONS, start_alertmanager

ACCOUNT = {"provider": "openai", "account": "acme", "owner": "platform"}
WORKSPACE = {**ACCOUNT, "workspace": "Agents"}
BUDGET = {"budget": "platform-month", "owner": "platform", "period": "month"}
MARKER = {"provider": "cursor", "account": "marker", "owner": "marker"}
"""The labels of an alert that is sent last: whatever was not notified before it, is not notified."""


@contextmanager
def start_receiver(
    version: str, folder: Path, changes: Mapping[str, str] | None = None
) -> Iterator[tuple[httpx.Client, Webhook]]:
    """Run Alertmanager and a webhook; yield a client for its API."""
    with (
        start_webhook() as webhook,
        start_alertmanager(version, folder, webhook.address, changes) as address,
        httpx.Client(base_url=f"http://{address}", timeout=30) as client,
    ):
        yield client, webhook


def send_alerts(client: httpx.Client, *alerts: tuple[str, dict[str, str]]) -> None:
    """Send firing alerts as Prometheus does, with the severities of the rules."""
    _post_alerts(client, alerts)


def end_alerts(client: httpx.Client, *alerts: tuple[str, dict[str, str]]) -> None:
    """Send alerts that are resolved."""
    _post_alerts(client, alerts, endsAt=datetime.now(UTC).isoformat())


def _post_alerts(client: httpx.Client, alerts: Sequence[tuple[str, dict[str, str]]], **times: str) -> None:
    body = [
        {"labels": {"alertname": name, "severity": ALERTS[name]["labels"]["severity"], **labels}, **times}
        for name, labels in alerts
    ]
    client.post("/api/v2/alerts", json=body).raise_for_status()


def notified_alerts(client: httpx.Client, webhook: Webhook) -> Sequence[set[str]]:
    """Return the names of the alerts of each notification, after a further group was notified."""
    send_alerts(client, ("AIAccountKeyRejected", MARKER))
    wait_until("marker", lambda: webhook.find_notifications("firing", "AIAccountKeyRejected", **MARKER), TIMEOUT)
    return [
        {alert["labels"]["alertname"] for alert in notification["alerts"]}
        for notification in webhook.notifications
        if notification["groupLabels"].get("owner") != "marker"
    ]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_runaway_agent_is_one_notification(version: str, tmp_path: Path) -> None:
    """Cost, requests and tokens of one agent send one page, about its cost.

    Alerts about the burn rate and the forecast of its budgets do not fire: the rule tests show that.
    """
    with start_receiver(version, tmp_path) as (client, webhook):
        send_alerts(
            client,
            ("AIRunawaySpend", WORKSPACE),
            ("AICostSpike", WORKSPACE),
            ("AIUnexpectedSpend", WORKSPACE),
            ("AIRequestSpike", WORKSPACE),
            ("AITokensPerRequestSurge", {**WORKSPACE, "model": "gpt-5", "tier": "standard"}),
        )
        assert notified_alerts(client, webhook) == [{"AIRunawaySpend"}]


@pytest.mark.parametrize("version", VERSIONS)
def test_an_exceeded_budget_is_notified_beside_a_runaway_agent(version: str, tmp_path: Path) -> None:
    """An exceeded budget, and the budget of another owner, are incidents of their own."""
    with start_receiver(version, tmp_path) as (client, webhook):
        send_alerts(
            client,
            ("AIRunawaySpend", WORKSPACE),
            ("AIBudgetExceeded", BUDGET),
            ("AIBudgetBurnFast", {"budget": "other", "owner": "research", "period": "month", "window": "1h"}),
        )
        notified = notified_alerts(client, webhook)
        assert sorted(map(sorted, notified)) == [["AIBudgetBurnFast"], ["AIBudgetExceeded"], ["AIRunawaySpend"]]


@pytest.mark.parametrize("version", VERSIONS)
def test_without_the_exporter_only_critical_alerts_are_notified(version: str, tmp_path: Path) -> None:
    """AIExporterDown inhibits warnings of all accounts, which are outdated, and no critical alert."""
    with start_receiver(version, tmp_path) as (client, webhook):
        send_alerts(
            client,
            ("AIExporterDown", {"job": "ai-spend", "instance": "exporter:10042"}),
            ("AIAccountStale", ACCOUNT),
            ("AIAccountDataLate", {**ACCOUNT, "report": "usage", "kind": "usage", "width": "hour"}),
            ("AICostSpike", WORKSPACE),
            ("AIConfigReloadFailed", {"job": "ai-spend", "instance": "exporter:10042"}),
            ("AIBudgetExceeded", BUDGET),
        )
        wait_until("both", lambda: len(webhook.notifications) >= 2, TIMEOUT)
        names = {alert["labels"]["alertname"] for found in webhook.notifications for alert in found["alerts"]}
        assert names == {"AIExporterDown", "AIBudgetExceeded"}


@pytest.mark.parametrize("version", VERSIONS)
def test_several_workspaces_of_an_account_are_one_notification(version: str, tmp_path: Path) -> None:
    """Alerts of several workspaces of one account are in one notification."""
    with start_receiver(version, tmp_path) as (client, webhook):
        send_alerts(client, *(("AICostSpike", {**ACCOUNT, "workspace": name}) for name in ("Web", "Jobs", "Agents")))
        notified = notified_alerts(client, webhook)
        assert notified == [{"AICostSpike"}]
        (spikes,) = (found for found in webhook.notifications if found["groupLabels"]["owner"] == "platform")
        assert len(spikes["alerts"]) == 3


@pytest.mark.parametrize("version", VERSIONS)
def test_each_threshold_of_a_budget_is_one_notification(version: str, tmp_path: Path) -> None:
    """A threshold that is reached is notified once, together with the end of the one below; 100 % is the last."""
    with start_receiver(version, tmp_path) as (client, webhook):
        steps = ({"threshold": "50%"}, {"threshold": "75%"}, {"threshold": "90%"})
        previous: dict[str, str] | None = None
        for step in steps:
            if previous is not None:
                end_alerts(client, ("AIBudgetThresholdReached", {**BUDGET, **previous}))
            send_alerts(client, ("AIBudgetThresholdReached", {**BUDGET, **step}))
            webhook.wait_for("firing", "AIBudgetThresholdReached", **step)
            previous = step
        send_alerts(client, ("AIBudgetExceeded", BUDGET))
        notified_alerts(client, webhook)
        firing = [
            [alert["labels"].get("threshold", "100%") for alert in found["alerts"] if alert["status"] == "firing"]
            for found in webhook.notifications
            if found["groupLabels"].get("budget") and found["status"] == "firing"
        ]
        assert firing == [["50%"], ["75%"], ["90%"], ["100%"]]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_long_incident_is_repeated_at_its_interval(version: str, tmp_path: Path) -> None:
    """A critical alert of a team is repeated at the shorter interval, its resolution is notified once."""
    changes = {"repeat_interval: 4h": "repeat_interval: 6s"}
    with start_receiver(version, tmp_path, changes) as (client, webhook):
        send_alerts(client, ("AIRunawaySpend", WORKSPACE), ("AICostSpike", {**WORKSPACE, "account": "labs"}))
        begin = time.monotonic()
        wait_until("repeated", lambda: len(webhook.find_notifications("firing", "AIRunawaySpend")) >= 3, TIMEOUT)
        assert time.monotonic() - begin >= 2 * 6
        end_alerts(client, ("AIRunawaySpend", WORKSPACE))
        webhook.wait_for("resolved", "AIRunawaySpend")
        notified_alerts(client, webhook)
        assert len(webhook.find_notifications("resolved", "AIRunawaySpend")) == 1
        assert len(webhook.find_notifications("firing", "AICostSpike")) == 1


def test_intervals_are_sane() -> None:
    """Nothing is repeated more often than every four hours, nor forgotten between two repetitions."""
    config = yaml.safe_load((ROOT / "prometheus" / "alertmanager.yml").read_text())
    routes = [config["route"]]
    for route in routes:
        routes += route.get("routes", ())
    intervals = [parse_duration(route["repeat_interval"]) for route in routes if "repeat_interval" in route]
    (retention,) = re.findall(r"--data.retention=(\w+)", (ROOT / "docker-compose.yml").read_text())
    known = [interval for interval in intervals if interval is not None]
    assert len(known) == len(intervals)
    assert timedelta(hours=4) <= min(known)
    assert max(known) <= (parse_duration(retention) or timedelta(0)) / 2


@pytest.mark.parametrize("version", VERSIONS)
def test_budgets_are_sent_to_the_receiver_of_their_owner(version: str, tmp_path: Path) -> None:
    """With the receivers that the routes suggest, each owner's alerts reach the owner's receiver."""
    text = (ROOT / "prometheus" / "alertmanager.yml").read_text()
    names = sorted(set(re.findall(r"receiver: notices # for example (\S+)", text)))
    assert names == ["email-research", "pagerduty-platform", "slack-platform", "teams-finance"]
    with start_webhook() as webhook:
        changes = {f"receiver: notices # for example {name}": f"receiver: test-{name}" for name in names}
        receivers = "".join(
            f"  - {{name: test-{name}, webhook_configs: [{{url: 'http://{webhook.address}/'}}]}}\n" for name in names
        )
        changes["receivers:\n"] = f"receivers:\n{receivers}"
        with start_receiver(version, tmp_path, changes) as (client, others):
            send_alerts(
                client,
                ("AIBudgetThresholdReached", {"budget": "a", "owner": "finance", "threshold": "50%"}),
                ("AIBudgetExceeded", {"budget": "b", "owner": "platform"}),
                ("AIBudgetForecastExceeded", {"budget": "c", "owner": "platform"}),
                ("AIBudgetNearlySpent", {"budget": "d", "owner": "research"}),
                ("AIBudgetNearlySpent", {"budget": "e", "owner": "somebody"}),
            )
            wait_until("all", lambda: len(webhook.notifications) + len(others.notifications) >= 5, TIMEOUT)
    found = {
        (received["receiver"], received["groupLabels"]["owner"])
        for received in (*webhook.notifications, *others.notifications)
    }
    assert found == {
        ("test-teams-finance", "finance"),
        ("test-pagerduty-platform", "platform"),
        ("test-slack-platform", "platform"),
        ("test-email-research", "research"),
        ("notices", "somebody"),
    }
