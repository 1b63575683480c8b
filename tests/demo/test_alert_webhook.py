"""`notices` prints Alertmanager's notifications as text."""

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
            "annotations": {
                "summary": "acme: $9 in an hour",
                "description": "Much.\nNext: ask.",
                "runbook_url": "http://r/#a",
            },
            "startsAt": "2026-11-21T08:42:10.5Z",
        },
        {
            "status": "resolved",
            "labels": {"alertname": "AINewModel", "severity": "info"},
            "annotations": {"summary": "acme uses a\x1b[31mb", "description": "New.", "total": "$9.00"},
            "startsAt": "2026-11-21T07:00:00.123456789Z",
        },
    ],
}


@pytest.fixture(name="webhook")
def _start_webhook() -> Iterator[tuple[str, list[str]]]:
    lines: list[str] = []
    sock = listen("127.0.0.1:0")
    with serve_webhook(sock, lines.append):
        yield f"http://127.0.0.1:{sock.getsockname()[1]}/", lines


def test_a_notification_is_printed_in_a_few_lines(webhook: tuple[str, list[str]]) -> None:
    """A firing alert is printed with receiver, start time, description and runbook; a resolved alert with its total."""
    url, lines = webhook
    assert httpx.post(url, json=NOTIFICATION).status_code == 200
    assert lines == [
        "FIRING for platform: account=acme owner=platform",
        "  firing    warning   AICostSpike  since 2026-11-21 08:42 UTC  acme: $9 in an hour",
        "    Much.",
        "    Next: ask.",
        "    http://r/#a",
        "  resolved  info      AINewModel  since 2026-11-21 07:00 UTC  acme uses a?[31mb",
        "    In total: $9.00",
    ]


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"\xff", json.dumps({**NOTIFICATION, "alerts": [1]}).encode()])
def test_an_invalid_notification_is_rejected(webhook: tuple[str, list[str]], body: bytes) -> None:
    """A body in any other format is answered with 400 and the reason, and is not printed."""
    url, lines = webhook
    answer = httpx.post(url, content=body)
    assert answer.status_code == 400
    assert lines == []
    with pytest.raises(ValueError, match=r".+"):
        list(format_notification(body))


def test_a_body_requires_a_bounded_length(webhook: tuple[str, list[str]]) -> None:
    """A body without a Content-Length, or with a too large one, is rejected before it is read."""
    url, lines = webhook
    assert httpx.post(url, content=iter([b"{}"])).status_code == 413
    assert httpx.post(url, content=bytes(MAX_BODY_BYTES + 1)).status_code == 413
    assert lines == []


def test_the_command_prints_until_it_is_stopped() -> None:
    """`ai-spend-exporter notices` logs its address, prints notifications, and exits with status 0 on SIGTERM."""
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
