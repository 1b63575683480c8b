"""A webhook that prints what Alertmanager sends, so that routes can be tried before anybody is woken by them."""

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
"""Seconds to wait for the rest of a request."""


def format_notification(body: bytes) -> Iterator[str]:
    """Yield lines for a notification in Alertmanager's webhook format. Raises ValueError where it is none."""
    notice = json.loads(body)
    try:
        yield (
            f"{notice['status'].upper()} for {notice['receiver']}: "
            f"{_format_labels(notice['groupLabels']) or 'everything'}"
        )
        for alert in notice["alerts"]:
            labels, words = alert["labels"], alert["annotations"]
            since = datetime.fromisoformat(alert["startsAt"])
            yield (
                f"  {alert['status']:<8}  {labels.get('severity', ''):<8}  {labels['alertname']}"
                f"  since {since:%Y-%m-%d %H:%M} UTC  {words.get('summary', '')}"
            )
            if alert["status"] == "firing":
                yield from (f"    {words[word]}" for word in ("description", "runbook_url") if word in words)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a notification of Alertmanager: {error!r}") from error


def _format_labels(labels: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in sorted(labels.items()) if value)


@contextmanager
def serve_webhook(sock: socket.socket, print_line: Callable[[str], object]) -> Iterator[None]:
    """Serve on an opened socket, and say every line of what comes, until the block ends."""

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
            with speaking:
                for line in lines:
                    print_line("".join(one if one.isprintable() else "?" for one in line))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
            pass

    speaking = threading.Lock()
    server = ThreadingHTTPServer(sock.getsockname()[:2], Handler, bind_and_activate=False)
    server.socket.close()
    server.socket, server.daemon_threads = sock, True
    server.server_activate()
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="notices", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
