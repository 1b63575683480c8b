"""One incident is one notification: grouping and inhibition of alertmanager.yml in a real Alertmanager."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.command import wait_until
from tests.prometheus.test_alert_delivery import TIMEOUT, Webhook, start_webhook
from tests.prometheus.test_rules import ALERTS
from tests.servers import VERSIONS, start_alertmanager

ACCOUNT = {"provider": "openai", "account": "acme", "owner": "platform"}
WORKSPACE = {**ACCOUNT, "workspace": "Agents"}
BUDGET = {"budget": "platform-month", "owner": "platform", "period": "month"}
MARKER = {"provider": "cursor", "account": "marker", "owner": "marker"}
"""The labels of an alert that is sent last: whatever was not notified before it, is not notified."""


@contextmanager
def start_receiver(version: str, folder: Path) -> Iterator[tuple[httpx.Client, Webhook]]:
    """Run Alertmanager and a webhook; yield a client for its API."""
    with (
        start_webhook() as webhook,
        start_alertmanager(version, folder, webhook.address) as address,
        httpx.Client(base_url=f"http://{address}", timeout=30) as client,
    ):
        yield client, webhook


def send_alerts(client: httpx.Client, *alerts: tuple[str, dict[str, str]]) -> None:
    """Send firing alerts as Prometheus does, with the severities of the rules."""
    body = [
        {"labels": {"alertname": name, "severity": ALERTS[name]["labels"]["severity"], **labels}}
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
    """Cost, requests, tokens and the budget's burn rate of one agent send one page, about its cost."""
    with start_receiver(version, tmp_path) as (client, webhook):
        send_alerts(
            client,
            ("AIRunawaySpend", WORKSPACE),
            ("AICostSpike", WORKSPACE),
            ("AIUnexpectedSpend", WORKSPACE),
            ("AIRequestSpike", WORKSPACE),
            ("AITokensPerRequestSurge", {**WORKSPACE, "model": "gpt-5", "tier": "standard"}),
            ("AIBudgetBurnFast", {**BUDGET, "window": "1h"}),
            ("AIBudgetForecastExceeded", BUDGET),
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
