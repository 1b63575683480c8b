"""`notices`: what Alertmanager sends is printed for people."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator

import httpx
import pytest

from exporter.demo.alert_webhook import MAX_BODY_BYTES, format_notification, serve_webhook
from exporter.web.server import listen
from tests.command import ANY_PORT_FLAG, COMMAND, ENVIRONMENT

NOTIFICATION = {
    "status": "firing",
    "receiver": "platform",
    "groupLabels": {"owner": "platform", "account": "acme", "budget": ""},
    "alerts": [
        {
            "status": "firing",
            "labels": {"alertname": "AICostSpike", "severity": "warning", "account": "acme"},
            "annotations": {"summary": "acme: $9 in an hour", "description": "Much.", "runbook_url": "http://r/#a"},
            "startsAt": "2026-11-21T08:42:10.5Z",
        },
        {
            "status": "resolved",
            "labels": {"alertname": "AINewModel", "severity": "info"},
            "annotations": {"summary": "acme uses a\x1b[31mb", "description": "New."},
            "startsAt": "2026-11-21T07:00:00.123456789Z",
        },
    ],
}


@pytest.fixture(name="webhook")
def _start_webhook() -> Iterator[tuple[str, list[str]]]:
    said: list[str] = []
    opened = listen("127.0.0.1:0")
    with serve_webhook(opened, said.append):
        yield f"http://127.0.0.1:{opened.getsockname()[1]}/", said


def test_a_notification_is_printed_in_a_few_lines(webhook: tuple[str, list[str]]) -> None:
    """Who is told, what fires since when, what it means and where to read on; what is over in one line."""
    url, said = webhook
    assert httpx.post(url, json=NOTIFICATION).status_code == 200
    assert said == [
        "FIRING for platform: account=acme owner=platform",
        "  firing    warning   AICostSpike  since 2026-11-21 08:42 UTC  acme: $9 in an hour",
        "    Much.",
        "    http://r/#a",
        "  resolved  info      AINewModel  since 2026-11-21 07:00 UTC  acme uses a?[31mb",
    ]


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"\xff", json.dumps({**NOTIFICATION, "alerts": [1]}).encode()])
def test_an_invalid_notification_is_rejected(webhook: tuple[str, list[str]], body: bytes) -> None:
    """Anything else gets 400 with the reason, and nothing of it is printed."""
    url, said = webhook
    answer = httpx.post(url, content=body)
    assert answer.status_code == 400
    assert said == []
    with pytest.raises(ValueError, match=r".+"):
        list(format_notification(body))


def test_a_body_has_to_say_its_length(webhook: tuple[str, list[str]]) -> None:
    """A body without a length, or with too great a one, is refused before it is read."""
    url, said = webhook
    assert httpx.post(url, content=iter([b"{}"])).status_code == 413
    assert httpx.post(url, content=bytes(MAX_BODY_BYTES + 1)).status_code == 413
    assert said == []


def test_the_command_prints_until_it_is_ended() -> None:
    """`ai-spend-exporter notices` says where it listens, prints what comes, and ends with status 0 at SIGTERM."""
    command = [*COMMAND, "notices", ANY_PORT_FLAG]
    with subprocess.Popen(
        command, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        address = process.stderr.readline().removeprefix("Listening on ").strip()
        assert httpx.post(f"http://{address}/", json=NOTIFICATION).status_code == 200
        process.send_signal(signal.SIGTERM)
        printed, _ = process.communicate(timeout=10)
    assert process.returncode == 0
    assert printed.startswith("FIRING for platform: account=acme owner=platform\n")
