"""Random HTTP requests to every route of a running server, for the test of random inputs."""

from __future__ import annotations

import base64
import json
import logging
import re
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import cramjam

from exporter.app import App, Dependencies
from exporter.config import configuration
from exporter.history.remote_read_protocol import MESSAGES
from exporter.providers import PROVIDERS
from exporter.web import WebConfigReloader
from tests.faults.mutations import mutate_bytes
from tests.system import NOON
from tests.web_server import hash_password, serve, write_web_config

TOKEN = "gateway-token-40ad3c19"
CREDENTIALS = base64.b64encode(b"alice:correct").decode()
SECONDS_TO_ANSWER = 60
"""Seconds after which a server that neither answers nor closes the connection has failed."""
SECONDS_TO_WAIT = 0.02
"""Seconds after which a request without an answer is taken for incomplete. Where it was not, one input is lost."""
TOKENS = (
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"\0",
    b"Content-Length: 5\r\n",
    b"Content-Length: 99999999999999999999\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Encoding: gzip\r\n",
    b"Expect: 100-continue\r\n",
    b"Connection: upgrade\r\nUpgrade: websocket\r\n",
    b"Origin: http://other.example\r\n",
    b"Sec-Fetch-Site: cross-site\r\n",
    b"Idempotency-Key: a b\r\n",
    b"Accept: application/openmetrics-text;q=" + b"9" * 50 + b"\r\n",
    b"Accept-Encoding: gzip;q=nan, *;q=1e999\r\n",
    b"Authorization: Basic ====\r\n",
    b"?days=",
    b"?from=2026-02-30&to=%00",
    b"%",
    b"%FF",
    b"..",
    b"//",
    b"HTTP/1.0",
    b"ffffffffffffffff\r\n",
    b"0\r\n\r\n",
)


class RequestRejectedError(Exception):
    """The server answered with an error of the client, or closed the connection."""


class ErrorLog(logging.Handler):
    """Collects lines of the log."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Add a line."""
        self.messages.append(self.format(record))


def make_requests() -> list[bytes]:
    """Return a valid request for each route."""
    event = {"provider": "vllm", "model": "m", "timestamp": NOON.isoformat(), "promptTokens": 5, "id": "1"}
    change = {"title": "deploy", "time": NOON.timestamp(), "service": "api"}
    query = MESSAGES["ReadRequest"]()
    query.queries.add(start_timestamp_ms=0, end_timestamp_ms=1).matchers.add(name="__name__", value="ai_cost")
    read = bytes(cramjam.snappy.compress_raw(query.SerializeToString()))
    user, bearer = f"Authorization: Basic {CREDENTIALS}\r\n", f"Authorization: Bearer {TOKEN}\r\n"
    bodies = (
        ("/api/v1/read", read, user),
        ("/api/v1/ai/usage/events", json.dumps(event).encode(), bearer),
        ("/api/v1/ai/usage/events/batch", json.dumps([event] * 3).encode(), bearer),
        ("/api/v1/ai/changes", json.dumps(change).encode(), bearer),
        ("/-/reload", b"", user),
        ("/-/reread?from=2026-11-16&to=2026-11-17&account=labs&provider=anthropic", b"", user),
    )
    paths = ("/", "/metrics", "/-/healthy", "/-/ready", "/api/v1/ai/usage/summary?days=7", "/api/v1/openapi.json")
    common = (
        f"Host: localhost\r\nConnection: close\r\nAccept: text/plain;q=0.5, */*\r\nAccept-Encoding: gzip\r\n{user}\r\n"
    )
    requests = [f"GET {path} HTTP/1.1\r\n{common}".encode() for path in paths]
    for path, body, authorization in bodies:
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n{authorization}\r\n"
        requests.append(head.encode() + body)
    return requests


@contextmanager
def serve_requests(folder: Path) -> Iterator[tuple[Callable[[Random], bytes], Callable[[bytes], None]]]:
    """Run an exporter in this process; yield a function that makes a request, and one that sends it.

    What is sent is the whole of a connection. The second function raises RequestRejectedError where no answer is a
    success, and AssertionError where an answer or a line of the log is an error of the server.
    """
    (folder / "token").touch(mode=0o600)
    (folder / "token").write_text(TOKEN)
    path = folder / "config.yaml"
    path.write_text("ingest: {sources: [{name: gateway, token_file: token}]}\n")
    app = App(folder / "ledger", Dependencies(lambda: NOON, time.monotonic, {}, PROVIDERS))
    app.apply(configuration.load(path, PROVIDERS))
    web_config = write_web_config(folder, basic_auth_users={"alice": hash_password("correct")})
    reloader, requests = WebConfigReloader(web_config, time.monotonic), make_requests()

    def make_request(random: Random) -> bytes:
        request = random.choice(requests)
        # Changes of the head are as likely as of a long body.
        head, separator, body = request.partition(b"\r\n\r\n")
        if random.random() < 0.6:
            return mutate_bytes(random, head, TOKENS) + separator + body
        return mutate_bytes(random, request, TOKENS)

    log = ErrorLog(logging.ERROR)

    def send(request: bytes) -> None:
        try:
            send_request(address, request)
        finally:
            # Those of the request before are here, too, if they came after its answer.
            assert not log.messages, (request, log.messages)

    logging.getLogger().addHandler(log)
    # pytest keeps every line: a warning for each invalid request would be memory that the exporter does not use.
    server_logger = logging.getLogger("uvicorn.error")
    previous_level = server_logger.level
    server_logger.setLevel(logging.ERROR)
    try:
        with serve(reloader, app.handlers(lambda: "")) as address:
            yield make_request, send
    finally:
        server_logger.setLevel(previous_level)
        logging.getLogger().removeHandler(log)
        app.stop()


def send_request(address: str, request: bytes) -> None:
    """Send the bytes of a connection, and read its answers to the end."""
    host, _, port = address.rpartition(":")
    answer = b""
    with socket.create_connection((host, int(port)), SECONDS_TO_ANSWER) as connection:
        try:
            connection.sendall(request)
            # A client that has finished sending is taken for one that has left, whose requests are not answered. So
            # that is done once an answer begins, and where the server cannot answer because more would have to follow.
            select.select([connection], [], [], SECONDS_TO_WAIT)
            connection.shutdown(socket.SHUT_WR)
            while received := connection.recv(1 << 16):
                answer += received
        except (ConnectionResetError, BrokenPipeError):
            # The server has rejected the request before its end.
            pass
    statuses = [int(status) for status in re.findall(rb"^HTTP/1\.1 (\d{3}) ", answer, re.MULTILINE)]
    assert all(status < 500 for status in statuses), (request, answer[:1000])
    if not any(status < 300 for status in statuses):
        raise RequestRejectedError
