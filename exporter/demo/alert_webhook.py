"""A webhook receiver that prints Alertmanager's notifications, for trying routes before they page anyone."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MAX_BODY_BYTES = 4 << 20
READ_TIMEOUT = 10
"""Seconds to wait for data of a request."""


def format_notification(body: bytes) -> Iterator[str]:
    """Yield lines of text for a notification in Alertmanager's webhook format.

    Raises ValueError if the body has another format.
    """
    notification = json.loads(body)
    try:
        yield (
            f"{notification['status'].upper()} for {notification['receiver']}: "
            f"{_format_labels(notification['groupLabels']) or 'all alerts'}"
        )
        for alert in notification["alerts"]:
            labels, annotations = alert["labels"], alert["annotations"]
            since = datetime.fromisoformat(alert["startsAt"])
            yield (
                f"  {alert['status']:<8}  {labels.get('severity', ''):<8}  {labels['alertname']}"
                f"  since {since:%Y-%m-%d %H:%M} UTC  {annotations.get('summary', '')}"
            )
            if alert["status"] == "firing":
                for name in ("description", "runbook_url"):
                    for line in annotations.get(name, "").splitlines():
                        yield f"    {line}"
            elif annotations.get("total"):
                yield f"    In total: {annotations['total']}"
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a notification of Alertmanager: {error!r}") from error


def _format_labels(labels: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in sorted(labels.items()) if value)


@contextmanager
def serve_webhook(sock: socket.socket, print_line: Callable[[str], object]) -> Iterator[None]:
    """Serve on a listening socket until the block ends, and print every notification."""

    class Handler(BaseHTTPRequestHandler):
        timeout = READ_TIMEOUT

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
                self.send_error(413, f"Send a Content-Length of at most {MAX_BODY_BYTES}")
                return
            try:
                lines = list(format_notification(self.rfile.read(int(length))))
            except ValueError as error:
                self.send_error(400, str(error)[:200])
                return
            with print_lock:
                for line in lines:
                    print_line("".join(character if character.isprintable() else "?" for character in line))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
            pass

    print_lock = threading.Lock()
    server = ThreadingHTTPServer(sock.getsockname()[:2], Handler, bind_and_activate=False)
    server.socket.close()
    server.socket, server.daemon_threads = sock, True
    server.server_activate()
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="alert-webhook", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
