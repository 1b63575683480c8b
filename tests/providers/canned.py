"""A loopback HTTP server with canned answers, for what the simulator is too well-behaved to say."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from exporter.model import Provider, Secret
from exporter.providers import PROVIDERS
from exporter.providers.http import ClientConfig


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """One request as it arrived."""

    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Reply:
    """What the server says; a body that is no bytes is sent as JSON."""

    body: object
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class CannedServer:
    """A running server: its address and everything it was asked."""

    url: str
    requests: list[ReceivedRequest] = field(default_factory=list)


@contextmanager
def start_canned_server(respond: Callable[[ReceivedRequest], Reply]) -> Iterator[CannedServer]:
    """Run a server that gives `answer` to every request."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            length = int(self.headers.get("content-length", 0))
            body = json.loads(self.rfile.read(length)) if length else {}
            headers = {name.lower(): value for name, value in self.headers.items()}
            asked = ReceivedRequest(parts.path, parse_qs(parts.query), headers, body)
            running.requests.append(asked)
            reply = respond(asked)
            raw = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            self.send_response(reply.status)
            for name, value in {"content-length": str(len(raw)), **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(raw)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    running = CannedServer(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield running
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def open_provider(
    name: str, respond: Callable[[ReceivedRequest], Reply], *, key: str = "a-key", api_keys: bool = False
) -> Iterator[tuple[Provider, CannedServer]]:
    """Open the provider of that name against such a server."""
    with (
        start_canned_server(respond) as server,
        closing(PROVIDERS[name](ClientConfig(Secret(key), server.url, api_keys))) as session,
    ):
        yield session, server
