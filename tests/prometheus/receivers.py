"""Receivers of notifications on loopback: an HTTP server that keeps what is posted, and an SMTP server."""

from __future__ import annotations

import email.policy
import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True, slots=True)
class Post:
    """A request that was received."""

    path: str
    content: Any
    """The parsed JSON."""


@dataclass(slots=True)
class Receivers:
    """Where notifications are sent, and what arrived, in order."""

    http_address: str
    smtp_address: str
    posts: list[Post] = field(default_factory=list)
    messages: list[EmailMessage] = field(default_factory=list)

    def posts_to(self, path: str) -> list[Any]:
        """Return what was posted to a path."""
        return [post.content for post in list(self.posts) if post.path == path]


@contextmanager
def start_receivers() -> Iterator[Receivers]:
    """Run both servers until the block ends."""
    posts: list[Post] = []
    messages: list[EmailMessage] = []
    http_server = ThreadingHTTPServer(("127.0.0.1", 0), _http_handler(posts))
    smtp_server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), _smtp_handler(messages))
    smtp_server.daemon_threads = True
    servers = (http_server, smtp_server)
    threads = [threading.Thread(target=server.serve_forever, args=(0.05,)) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield Receivers(
            f"127.0.0.1:{http_server.server_address[1]}", f"127.0.0.1:{smtp_server.server_address[1]}", posts, messages
        )
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
        for thread in threads:
            thread.join()


def _http_handler(posts: list[Post]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            posts.append(Post(self.path, json.loads(body)))
            # PagerDuty accepts an event with 202 and this status; others look at the status code only.
            answer = b'{"status": "success"}' if self.path == "/pagerduty" else b"ok"
            self.send_response(202 if self.path == "/pagerduty" else 200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
            pass

    return Handler


def _smtp_handler(messages: list[EmailMessage]) -> type[socketserver.StreamRequestHandler]:
    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self._answer(220, "test")
            while line := self.rfile.readline().decode().strip().upper():
                if line.startswith("DATA"):
                    self._answer(354, "end with a dot")
                    messages.append(self._read_message())
                    self._answer(250, "queued")
                elif line.startswith("QUIT"):
                    self._answer(221, "bye")
                    return
                else:
                    self._answer(250, "ok")

        def _answer(self, code: int, text: str) -> None:
            self.wfile.write(f"{code} {text}\r\n".encode())

        def _read_message(self) -> EmailMessage:
            lines = []
            while (line := self.rfile.readline()) not in (b".\r\n", b""):
                lines.append(line.removeprefix(b".") if line.startswith(b"..") else line)
            message = email.message_from_bytes(b"".join(lines), policy=email.policy.default)
            assert isinstance(message, EmailMessage)
            return message

    return Handler
