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

MOST_BYTES = 4 << 20
LONGEST_WAIT = 10
"""Seconds to wait for the rest of a request."""


def told(body: bytes) -> Iterator[str]:
    """Yield lines for a notification in Alertmanager's webhook format. Raises ValueError where it is none."""
    notice = json.loads(body)
    try:
        yield f"{notice['status'].upper()} for {notice['receiver']}: {_words(notice['groupLabels']) or 'everything'}"
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


def _words(labels: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in sorted(labels.items()) if value)


@contextmanager
def notices(opened: socket.socket, say: Callable[[str], object]) -> Iterator[None]:
    """Serve on an opened socket, and say every line of what comes, until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        timeout = LONGEST_WAIT

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            if not length.isdecimal() or int(length) > MOST_BYTES:
                self.send_error(413, f"Send a Content-Length of at most {MOST_BYTES}")
                return
            try:
                lines = list(told(self.rfile.read(int(length))))
            except ValueError as error:
                self.send_error(400, str(error)[:200])
                return
            with speaking:
                for line in lines:
                    say("".join(one if one.isprintable() else "?" for one in line))
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
    server = ThreadingHTTPServer(opened.getsockname()[:2], Handler, bind_and_activate=False)
    server.socket.close()
    server.socket, server.daemon_threads = opened, True
    server.server_activate()
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="notices", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
