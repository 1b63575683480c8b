"""The whole chain: a simulated provider, the exporter, real Prometheus and Alertmanager, and a webhook."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from exporter.config.configuration import Budget
from exporter.model import DAY, HOUR
from exporter.simulator.world import World
from exporter.windows import floor
from tests.command import wait_until
from tests.servers import VERSIONS, Prometheus, start_alertmanager, start_prometheus, write_prometheus_config
from tests.system import Clock, System, make_account, midnight, start_system
from tests.timelapse import increase_spend

TIMEOUT = 60
SIX_MINUTES = timedelta(minutes=6)


@dataclass
class Webhook:
    """A webhook receiver, and the notifications that Alertmanager sent, in order."""

    address: str
    notifications: list[dict[str, Any]] = field(default_factory=list)

    def find_notifications(self, status: str, alert_name: str, **labels: str) -> list[dict[str, Any]]:
        """Return the notifications of a status that contain an alert with these labels."""
        wanted = {"alertname": alert_name, **labels}.items()
        return [
            notification
            for notification in list(self.notifications)
            if notification["status"] == status
            and any(wanted <= alert["labels"].items() for alert in notification["alerts"])
        ]

    def wait_for(self, status: str, alert: str, **labels: str) -> dict[str, Any]:
        """Wait for the first such notification and return system."""
        wait_until(f"{alert} {status}", lambda: self.find_notifications(status, alert, **labels), TIMEOUT)
        return self.find_notifications(status, alert, **labels)[0]


@contextmanager
def start_webhook() -> Iterator[Webhook]:
    """Run a webhook receiver until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            webhook.notifications.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    webhook = Webhook(f"127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield webhook
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def start_alerting_stack(folder: Path) -> Iterator[tuple[System, list[Webhook]]]:
    """Run an exporter with three weeks of two accounts, and every version of Prometheus and Alertmanager."""
    clock = Clock(datetime.now(UTC))
    accounts = [
        increase_spend(make_account("openai", "acme")),
        increase_spend(make_account("anthropic", "labs"), "research"),
    ]
    world = World(accounts, clock, start_time=midnight(clock.now) - 25 * DAY)
    with ExitStack() as stack:
        system = stack.enter_context(start_system(folder, world, clock, history="20d"))
        stack.enter_context(system.run_exporter())
        system.poll_until_idle()
        webhooks, servers = list[Webhook](), list[Prometheus]()
        for version in VERSIONS:
            server_folder = folder / version
            server_folder.mkdir()
            webhooks.append(stack.enter_context(start_webhook()))
            alertmanager = stack.enter_context(start_alertmanager(version, server_folder, webhooks[-1].address))
            exporter = system.url.removeprefix("http://")
            config = write_prometheus_config(server_folder, exporter, alertmanager, rules=True)
            servers.append(stack.enter_context(start_prometheus(version, server_folder, config)))
        for server in servers:
            wait_until("evaluated rules", partial(_has_evaluated_rules, server), TIMEOUT)
        yield system, webhooks


def _has_evaluated_rules(server: Prometheus) -> bool:
    return bool(server.query("workspace:ai_cost_last_hour_usd:sum", datetime.now(UTC)))


def annotation_text(notification: dict[str, Any]) -> str:
    """Return the annotations of all alerts of a notification as one text."""
    return " ".join(" ".join(alert["annotations"].values()) for alert in notification["alerts"])


def test_a_spike_a_revoked_key_and_an_exceeded_budget_notify_once_each(tmp_path: Path) -> None:
    """Each alert sends one notification to its owner, with account, amount and runbook, and one when it resolves."""
    with start_alerting_stack(tmp_path) as (system, webhooks):
        assert not [webhook.notifications for webhook in webhooks if webhook.notifications]

        hour = floor(system.clock.now, HOUR) - 2 * HOUR
        for spike_hour in (hour, hour + HOUR):
            system.world.revise("acme", spike_hour, 40, "proj_web")
        system.advance(SIX_MINUTES)
        for webhook in webhooks:
            notification = webhook.wait_for("firing", "AICostSpike", account="acme")
            assert notification["groupLabels"] == {"owner": "platform", "provider": "openai", "account": "acme"}
            assert {alert["labels"]["workspace"] for alert in notification["alerts"]} == {"Web"}
            assert "acme / Web: $" in annotation_text(notification)
            assert "gpt-5-2025-08-07 +$" in annotation_text(notification)
            assert "runbooks.md#aicostspike" in annotation_text(notification)

        key = system.key_file("labs")
        valid = key.read_text()
        key.write_text("sk-ant-admin01-revoked-yesterday")
        system.advance(SIX_MINUTES)
        spent = system.value("ai_cost_month_usd") or 0
        budget = Budget(name="everything", owner="finance", period="month", limit_usd=Decimal(round(spent / 2)))
        system.config = system.config.model_copy(update={"budgets": (budget,)})
        system.app.apply(system.config)
        for webhook in webhooks:
            notification = webhook.wait_for("firing", "AIAccountKeyRejected", account="labs")
            assert notification["groupLabels"]["owner"] == "research"
            assert "anthropic rejects the key of account labs (owner research): it is revoked" in annotation_text(
                notification
            )
            notification = webhook.wait_for("firing", "AIBudgetExceeded", budget="everything")
            assert notification["groupLabels"] == {"owner": "finance", "budget": "everything"}
            assert f"of ${round(spent / 2)}.00 this month" in annotation_text(notification)

        for spike_hour in (hour, hour + HOUR):
            system.world.revise("acme", spike_hour, 1 / 40, "proj_web")
        key.write_text(valid)
        system.config = system.config.model_copy(
            update={"budgets": (budget.model_copy(update={"limit_usd": Decimal(round(spent * 9))}),)}
        )
        system.app.apply(system.config)
        system.advance(SIX_MINUTES)
        for webhook in webhooks:
            webhook.wait_for("resolved", "AICostSpike", account="acme")
            webhook.wait_for("resolved", "AIAccountKeyRejected", account="labs")
            webhook.wait_for("resolved", "AIBudgetExceeded", budget="everything")
            for alert in ("AICostSpike", "AIAccountKeyRejected", "AIBudgetExceeded"):
                assert len(webhook.find_notifications("firing", alert)) == 1
            assert not webhook.find_notifications("firing", "AIBudgetNearlySpent")
            assert not webhook.find_notifications("firing", "AIRequestSpike")
