"""`notices`: what Alertmanager sends is printed for people."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator

import httpx
import pytest

from exporter.demo.alert_webhook import MOST_BYTES, notices, told
from exporter.web.server import listen
from tests.command import ANYWHERE, COMMAND, ENVIRONMENT

NOTICE = {
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


@pytest.fixture(name="place")
def _place() -> Iterator[tuple[str, list[str]]]:
    said: list[str] = []
    opened = listen("127.0.0.1:0")
    with notices(opened, said.append):
        yield f"http://127.0.0.1:{opened.getsockname()[1]}/", said


def test_a_notification_is_printed_in_a_few_lines(place: tuple[str, list[str]]) -> None:
    """Who is told, what fires since when, what it means and where to read on; what is over in one line."""
    url, said = place
    assert httpx.post(url, json=NOTICE).status_code == 200
    assert said == [
        "FIRING for platform: account=acme owner=platform",
        "  firing    warning   AICostSpike  since 2026-11-21 08:42 UTC  acme: $9 in an hour",
        "    Much.",
        "    http://r/#a",
        "  resolved  info      AINewModel  since 2026-11-21 07:00 UTC  acme uses a?[31mb",
    ]


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"\xff", json.dumps({**NOTICE, "alerts": [1]}).encode()])
def test_what_is_no_notification_is_refused(place: tuple[str, list[str]], body: bytes) -> None:
    """Anything else gets 400 with the reason, and nothing of it is printed."""
    url, said = place
    answer = httpx.post(url, content=body)
    assert answer.status_code == 400
    assert said == []
    with pytest.raises(ValueError, match=r".+"):
        list(told(body))


def test_a_body_has_to_say_its_length(place: tuple[str, list[str]]) -> None:
    """A body without a length, or with too great a one, is refused before it is read."""
    url, said = place
    assert httpx.post(url, content=iter([b"{}"])).status_code == 413
    assert httpx.post(url, content=bytes(MOST_BYTES + 1)).status_code == 413
    assert said == []


def test_the_command_prints_until_it_is_ended() -> None:
    """`ai-spend-exporter notices` says where it listens, prints what comes, and ends with status 0 at SIGTERM."""
    command = [*COMMAND, "notices", ANYWHERE]
    with subprocess.Popen(
        command, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        address = process.stderr.readline().removeprefix("Listening on ").strip()
        assert httpx.post(f"http://{address}/", json=NOTICE).status_code == 200
        process.send_signal(signal.SIGTERM)
        printed, _ = process.communicate(timeout=10)
    assert process.returncode == 0
    assert printed.startswith("FIRING for platform: account=acme owner=platform\n")
