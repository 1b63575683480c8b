"""Messages for Slack, PagerDuty, e-mail and Teams as a real Alertmanager renders them: `make golden` updates them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote_plus

import httpx
import pytest
import yaml

from tests.command import wait_until
from tests.paths import ROOT
from tests.prometheus.receivers import Post, Receivers, start_receivers
from tests.prometheus.test_rules import TESTS
from tests.servers import VERSIONS, start_alertmanager

GOLDEN_FOLDER = ROOT / "tests" / "golden" / "notifications"
INCIDENTS = ("AIRunawaySpend", "AICostSpike", "AIBudgetExceeded", "AIAccountKeyRejected", "AIExporterDown")
STARTED, ENDED, FUTURE = "2025-11-21T03:00:00Z", "2025-11-21T06:10:20Z", "2100-01-01T00:00:00Z"
TIMEOUT = 60
HAS_TEAMS = {"debian": False, "today": True}
"""Debian 12's Alertmanager 0.25 does not know Teams."""


class Rendered(NamedTuple):
    """A message: when it is sent, and its parts by name."""

    incident: str
    status: str
    parts: Mapping[str, str]


def find_alerts(name: str) -> list[dict[str, Any]]:
    """Return the alerts of a name as the rule tests expect them, for Alertmanager's API."""
    cases = (
        case
        for path in TESTS
        for test in yaml.safe_load(path.read_text())["tests"]
        for case in test.get("alert_rule_test", ())
    )
    alerts = next(case["exp_alerts"] for case in cases if case["alertname"] == name and case["exp_alerts"])
    return [
        {
            "labels": {"alertname": name, **{label: str(value) for label, value in alert["exp_labels"].items()}},
            "annotations": {label: value for label, value in alert["exp_annotations"].items() if value},
        }
        for alert in alerts
    ]


@contextmanager
def start_alertmanager_with_receivers(version: str, folder: Path) -> Iterator[tuple[httpx.Client, Receivers]]:
    """Run Alertmanager with the example receivers of alertmanager.yml, all of which get every alert."""
    with start_receivers() as receivers:
        addresses = {
            "slack_url": f"http://{receivers.http_address}/slack",
            "teams_url": f"http://{receivers.http_address}/teams",
            "pagerduty_key": "0123456789abcdef0123456789abcdef",
        }
        for name, value in addresses.items():
            (folder / name).write_text(value)
        text = (ROOT / "prometheus" / "alertmanager.yml").read_text()
        names = ["slack-platform", "pagerduty-platform", "email-research", *["teams-finance"] * HAS_TEAMS[version]]
        changes = {
            "repeat_interval: 12h\n  routes:\n": "repeat_interval: 12h\n  routes:\n"
            + "".join(f"    - {{receiver: {name}, continue: true}}\n" for name in names),
            **{f"/etc/alertmanager/secrets/{name}": str(folder / name) for name in ("slack_url", "pagerduty_key")},
            "smarthost: smtp.example.com:587": f"smarthost: {receivers.smtp_address}\n        require_tls: false",
            "        client: ai-spend-exporter\n": f"        client: ai-spend-exporter\n        url: http://{receivers.http_address}/pagerduty\n",
            "/etc/alertmanager/secrets/smtp_password": str(folder / "pagerduty_key"),
        }
        if HAS_TEAMS[version]:
            changes |= {
                f"  # {line}": f"  {line}" for line in re.findall(r"^  # ((?:- name: teams|  ).*)$", text, re.MULTILINE)
            }
            changes["/etc/alertmanager/secrets/teams_url"] = str(folder / "teams_url")
        with (
            start_alertmanager(version, folder, receivers.http_address, changes) as address,
            httpx.Client(base_url=f"http://{address}", timeout=30) as client,
        ):
            yield client, receivers


def send(client: httpx.Client, alerts: Sequence[Mapping[str, Any]], ends_at: str) -> None:
    """Send alerts as Prometheus does."""
    body = [{**alert, "startsAt": STARTED, "endsAt": ends_at} for alert in alerts]
    client.post("/api/v2/alerts", json=body).raise_for_status()


def slack_parts(post: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the parts of a message to Slack."""
    (attachment,) = post["attachments"]
    return {name: attachment[name] for name in ("color", "title", "title_link", "text")}


def pagerduty_parts(post: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the parts of an event for PagerDuty."""
    payload = post["payload"]
    links = "\n".join(f"{link['text']}: {link['href']}" for link in post.get("links", ()))
    names = ("summary", "severity", "component", "group")
    return {
        "event_action": post["event_action"],
        **{name: payload.get(name, "") for name in names},
        **{name: payload["custom_details"][name] for name in ("owner", "text")},
        "links": links,
    }


def teams_parts(post: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the parts of a message to Teams: the texts of its adaptive card."""
    title, text = post["attachments"][0]["content"]["body"]
    return {"title": title["text"], "text": text["text"]}


def _rendered_posts(receivers: Receivers) -> list[Post]:
    return [post for post in list(receivers.posts) if post.path != "/"]


@pytest.fixture(name="rendered", scope="module", params=VERSIONS)
def _render_all(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Mapping[str, list[Rendered]]]:
    version: str = request.param
    messages: dict[str, list[Rendered]] = {"slack": [], "pagerduty": [], "email": [], "teams": []}
    parts: Mapping[str, Callable[[Any], Mapping[str, str]]] = {
        "slack": slack_parts,
        "pagerduty": pagerduty_parts,
        "teams": teams_parts,
    }
    with start_alertmanager_with_receivers(version, tmp_path_factory.mktemp(version)) as (client, receivers):
        for incident in INCIDENTS:
            # Of several groups only one, so that there is one message.
            alerts = find_alerts(incident)[:1]
            for status, ends_at in (("firing", FUTURE), ("resolved", ENDED)):
                receivers.posts.clear()
                receivers.messages.clear()
                send(client, alerts, ends_at)
                count = 2 + HAS_TEAMS[version]
                wait_until(
                    f"{incident} {status}",
                    lambda: len(_rendered_posts(receivers)) >= count and receivers.messages,  # noqa: B023
                    TIMEOUT,
                )
                for path, read in parts.items():
                    for post in receivers.posts_to(f"/{path}"):
                        messages[path].append(Rendered(incident, status, read(post)))
                for message in receivers.messages:
                    contents = {
                        part.get_content_type(): part.get_content()
                        for part in message.walk()
                        if not part.is_multipart()
                    }
                    messages["email"].append(Rendered(incident, status, {"Subject": message["Subject"], **contents}))
    return version, messages


@pytest.mark.parametrize("kind", ["slack", "pagerduty", "email", "teams"])
def test_the_messages_are_those_that_were_reviewed(
    kind: str, rendered: tuple[str, Mapping[str, list[Rendered]]], request: pytest.FixtureRequest
) -> None:
    """Five incidents, firing and resolved, have the same message from every version of Alertmanager."""
    version, messages = rendered
    if kind == "teams" and not HAS_TEAMS[version]:
        assert not messages[kind]
        return
    text = "\n".join(_format(message) for message in messages[kind])
    path = GOLDEN_FOLDER / f"{kind}.txt"
    if request.config.getoption("--write-golden"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert path.read_text() == text, "make golden updates the file; review the difference"


def _format(message: Rendered) -> str:
    parts = "".join(f"{name}: {_indent(value)}\n" for name, value in message.parts.items() if value)
    return f"=== {message.incident} {message.status}\n{parts}"


def _indent(value: str) -> str:
    lines = [line.rstrip() for line in value.replace("\r\n", "\n").strip().split("\n")]
    return lines[0] if len(lines) == 1 else "".join("\n" + f"  {line}".rstrip() for line in lines)


@pytest.mark.parametrize("kind", ["slack", "pagerduty", "email", "teams"])
def test_a_resolved_message_says_what_the_incident_cost(kind: str) -> None:
    """It has the total of the incident, and how long the alert fired."""
    text = (GOLDEN_FOLDER / f"{kind}.txt").read_text()
    for incident in ("AIRunawaySpend", "AICostSpike", "AIBudgetExceeded"):
        resolved = text.partition(f"=== {incident} resolved\n")[2].partition("\n===")[0]
        assert "Lasted from 2025-11-21 03:00 UTC to 2025-11-21 06:10 UTC (3h10m), in total $" in resolved


@pytest.mark.parametrize("version", VERSIONS)
def test_names_are_not_markup(version: str, tmp_path: Path) -> None:
    """A workspace whose name is markup mentions nobody in Slack, and is text in an e-mail."""
    name = "<!channel> & <b>"
    (alert,) = find_alerts("AIRunawaySpend")
    # Prometheus escapes names in links.
    text = json.dumps(alert).replace("var-workspace=Loop", f"var-workspace={quote_plus(name)}").replace("Loop", name)
    alert = json.loads(text)
    with start_alertmanager_with_receivers(version, tmp_path) as (client, receivers):
        send(client, [alert], FUTURE)
        wait_until("both", lambda: receivers.posts_to("/slack") and receivers.messages, TIMEOUT)
    (post,) = receivers.posts_to("/slack")
    text = slack_parts(post)["text"]
    assert "<!channel>" not in text
    assert "&lt;!channel&gt; &amp; &lt;b&gt;" in text
    html = receivers.messages[0].get_body(("html",))
    assert html is not None
    assert "<b>" not in html.get_content()
    assert "&lt;!channel&gt; &amp; &lt;b&gt;" in html.get_content()
