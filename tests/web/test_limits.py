"""Limits of the HTTP server: sizes of requests, time for slow clients, number of connections."""

from __future__ import annotations

import http.client
import logging
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest

from exporter.history.remote_read_protocol import MAX_REQUEST_BYTES
from exporter.web import ConnectionLimits, WebConfigReloader
from exporter.web.middleware import DEFAULT_MAX_BODY_BYTES, MAX_HEADER_BYTES
from exporter.web.server import listen
from tests.certificates import CertificateAuthority
from tests.web_server import AdvanceableLoop, hash_password, make_handlers, serve, write_web_config

PATHS = ("/", "/metrics", "/-/healthy", "/-/ready", "/-/reload", "/nothing")
GET = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
HEALTHY = b"GET /-/healthy HTTP/1.1\r\nHost: localhost\r\n\r\n"
READ = b"POST /api/v1/read HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\nExpect: 100-continue\r\n\r\n"
UNREAD_BODY = b"POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n"

LIMITS = ConnectionLimits()
UNLIMITED_TIME = ConnectionLimits(header_timeout=10**6, body_timeout=10**6, request_timeout=10**6)
TIMEOUT = 60
"""Seconds after which a test fails instead of waiting longer; nothing depends on how long something takes."""


@dataclass(frozen=True)
class Server:
    """A server with the default limits, whose timeouts pass when a test advances its clock."""

    address: str
    loop: AdvanceableLoop


def process_sent_data(address: str) -> None:
    """Return when the server has processed all data sent before, and overdue timers: it handles them in turn."""
    assert httpx.get(f"http://{address}/-/healthy", timeout=TIMEOUT).status_code == 200


@pytest.fixture(scope="module", name="server")
def _serve() -> Iterator[Server]:
    loop = AdvanceableLoop()
    with serve(loop=loop, limits=replace(LIMITS, keep_alive_timeout=10**6)) as address:
        yield Server(address, loop)


@pytest.fixture(scope="module", name="address")
def _address(server: Server) -> str:
    return server.address


def connect(address: str, receive_buffer: int | None = None) -> socket.socket:
    host, _, port = address.rpartition(":")
    with ExitStack() as stack:
        connection = stack.enter_context(socket.socket())
        if receive_buffer is not None:
            # The size that is negotiated depends on it, so it is set before the connection is established.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.settimeout(TIMEOUT)
        connection.connect((host, int(port)))
        stack.pop_all()
        return connection


@contextmanager
def keep_connection(address: str) -> Iterator[http.client.HTTPConnection]:
    """Open a connection that does not reconnect when the server closes it."""
    with closing(http.client.HTTPConnection(address, timeout=TIMEOUT)) as connection:
        connection.connect()
        connection.auto_open = 0
        yield connection


def scrape(connection: http.client.HTTPConnection) -> int:
    connection.request("GET", "/metrics")
    response = connection.getresponse()
    assert response.read()
    return response.status


def read_until_closed(connection: socket.socket) -> int:
    """Return the number of bytes that arrive until the server closes the connection; fail if it stays open."""
    size = 0
    with suppress(ConnectionError):
        while data := connection.recv(1 << 16):
            size += len(data)
    return size


@pytest.mark.parametrize("path", PATHS)
def test_an_unexpected_body_is_rejected(address: str, path: str) -> None:
    """On every path and method, a body above a few KiB is answered with 413, and the server keeps running."""
    for method in ("GET", "POST"):
        assert (
            httpx.request(method, f"http://{address}{path}", content=bytes(DEFAULT_MAX_BODY_BYTES + 1)).status_code
            == 413
        )
    assert httpx.post(f"http://{address}{path}", content=bytes(DEFAULT_MAX_BODY_BYTES)).status_code in (403, 404, 405)


def test_only_a_remote_read_may_have_a_long_body(address: str) -> None:
    """A remote read may have a megabyte; one byte more is answered with 413, with or without Content-Length."""
    url = f"http://{address}/api/v1/read"
    longest = bytes(range(256)) * (MAX_REQUEST_BYTES // 256)
    assert httpx.post(url, content=longest).content == longest[::-1]
    assert httpx.post(url, content=iter([longest])).content == longest[::-1]
    for too_long in (longest + b"!", iter([longest, b"!"])):
        response = httpx.post(url, content=too_long)
        assert (response.status_code, str(MAX_REQUEST_BYTES) in response.text) == (413, True)


def test_a_long_header_is_rejected(address: str) -> None:
    """Headers above their limit are answered with 400, and the connection is closed."""
    with connect(address) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"x" * MAX_HEADER_BYTES)
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 400 ")
        read_until_closed(connection)


@pytest.mark.parametrize(
    ("first", "expected", "slow", "timeout"),
    [
        (b"", b"", b"", LIMITS.header_timeout),
        (b"", b"", GET, LIMITS.header_timeout),
        (HEALTHY, b"is healthy.\n", GET, LIMITS.header_timeout),
        (READ, b"100 Continue", b"x" * 99, LIMITS.body_timeout),
        (UNREAD_BODY, b"Method Not Allowed", b"x" * 99, LIMITS.header_timeout),
    ],
    ids=["silence", "slow headers", "slow headers of a second request", "a slow body", "a slow body that is not read"],
)
def test_a_slow_client_is_disconnected(
    server: Server, first: bytes, expected: bytes, slow: bytes, timeout: float
) -> None:
    """A client that sends nothing, or byte after byte, is disconnected after the timeout, which no byte extends."""
    with connect(server.address) as connection:
        connection.sendall(first)
        received = b""
        while expected not in received:
            received += connection.recv(1 << 16)
        for index in range(3):
            with suppress(ConnectionError):
                connection.sendall(slow[index : index + 1])
            process_sent_data(server.address)
            server.loop.advance(0.4 * timeout)
        read_until_closed(connection)


@pytest.mark.parametrize(
    "request_head",
    [GET, GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), GET.replace(b"/metrics", b"/")],
    ids=["in pieces", "at the end of a connection", "at once"],
)
def test_a_client_that_does_not_read_is_disconnected(request_head: bytes) -> None:
    """A response that the client does not read is dropped: the connection is closed, most of it was never sent."""
    # Fixed buffers of the kernel on both sides, much smaller than the response; they include its own bookkeeping.
    buffer, size = 1 << 15, 1 << 22
    handlers = replace(make_handlers(size), landing_page=lambda: "#" * size)
    listener, loop = listen("127.0.0.1:0"), AdvanceableLoop()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    with (
        serve(handlers=handlers, sock=listener, loop=loop) as address,
        connect(address, receive_buffer=buffer) as connection,
    ):
        connection.sendall(request_head)
        assert connection.recv(1)  # The request has begun, and with it its timeout.
        loop.advance(LIMITS.request_timeout + 1)
        process_sent_data(address)
        assert read_until_closed(connection) < size / 2


def test_a_keep_alive_connection_stays_open(server: Server) -> None:
    """The timeouts apply to one request: a connection may last longer, with pauses between requests."""
    with keep_connection(server.address) as connection:
        for _ in range(3):
            assert scrape(connection) == 200
            server.loop.advance(LIMITS.request_timeout + 1)
            process_sent_data(server.address)


def test_an_idle_connection_is_closed() -> None:
    """After the keep-alive timeout without a request the server closes the connection."""
    loop = AdvanceableLoop()
    with serve(loop=loop) as address, connect(address) as connection:
        connection.sendall(HEALTHY)
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
        process_sent_data(address)
        loop.advance(LIMITS.keep_alive_timeout + 1)
        read_until_closed(connection)


def test_idle_connections_do_not_block_a_scrape() -> None:
    """Above the maximum of connections those are closed that have been idle longest, first those without a request."""
    maximum, strangers = 8, 100
    # No timeout can close them.
    limits = ConnectionLimits(header_timeout=10**6, max_connections=maximum)
    with ExitStack() as stack:
        address = stack.enter_context(serve(limits=limits))
        known = stack.enter_context(keep_connection(address))
        assert scrape(known) == 200
        connections = [stack.enter_context(connect(address)) for _ in range(strangers)]
        assert httpx.get(f"http://{address}/metrics", timeout=TIMEOUT).status_code == 200
        for connection in connections[: strangers - maximum]:
            read_until_closed(connection)
        assert scrape(known) == 200


def test_slow_bodies_do_not_block_a_scrape() -> None:
    """Above the maximum of connections those are closed whose request body arrives slowly, the oldest first."""
    maximum, strangers = 8, 100
    with ExitStack() as stack:
        address = stack.enter_context(serve(limits=replace(UNLIMITED_TIME, max_connections=maximum)))
        connections = []
        for _ in range(strangers):
            connections.append(stack.enter_context(connect(address)))
            connections[-1].sendall(READ)
            assert connections[-1].recv(1 << 16).startswith(b"HTTP/1.1 100 ")
        assert httpx.get(f"http://{address}/metrics", timeout=TIMEOUT).status_code == 200
        for connection in connections[: strangers - maximum]:
            read_until_closed(connection)


@pytest.mark.parametrize("request_head", [READ, UNREAD_BODY, HEALTHY], ids=["body", "unread body", "idle"])
def test_a_new_connection_has_time_for_its_request(request_head: bytes) -> None:
    """Above the maximum, a connection that is new is not the first to be closed, whatever the others wait for."""
    maximum = 8
    with ExitStack() as stack:
        address = stack.enter_context(serve(limits=replace(UNLIMITED_TIME, max_connections=maximum)))

        def add_strangers(count: int) -> None:
            for _ in range(count):
                stranger = stack.enter_context(connect(address))
                stranger.sendall(request_head)
                assert stranger.recv(1 << 16)

        add_strangers(2 * maximum)
        fresh = stack.enter_context(keep_connection(address))
        add_strangers(maximum // 2)
        assert scrape(fresh) == 200


def test_responses_that_are_not_read_do_not_block_a_scrape() -> None:
    """Above the maximum of connections those are closed whose clients do not read the response."""
    maximum, strangers, buffer, size = 8, 40, 1 << 15, 1 << 22
    listener = listen("127.0.0.1:0")
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    limits = replace(UNLIMITED_TIME, max_connections=maximum)
    with ExitStack() as stack:
        address = stack.enter_context(serve(handlers=make_handlers(size), sock=listener, limits=limits))
        connections = []
        for _ in range(strangers):
            connections.append(stack.enter_context(connect(address, receive_buffer=buffer)))
            connections[-1].sendall(GET)
            assert connections[-1].recv(1)
        assert httpx.get(f"http://{address}/-/healthy", timeout=TIMEOUT).status_code == 200
        for connection in connections[: strangers - maximum]:
            assert read_until_closed(connection) < size


def test_connections_are_reserved_for_scrapes() -> None:
    """If the server is busy with the maximum of requests, it answers scrapes and health checks, and others with 503."""
    maximum, reserved = 4, 3
    finish = threading.Event()

    def remote_read(body: bytes) -> bytes:
        assert finish.wait(TIMEOUT)
        return body

    handlers = replace(make_handlers(), remote_read=remote_read)
    limits = replace(UNLIMITED_TIME, max_connections=maximum, reserved_connections=reserved)
    with ExitStack() as stack:
        address = stack.enter_context(serve(handlers=handlers, limits=limits))
        stack.callback(finish.set)
        readers = [stack.enter_context(connect(address)) for _ in range(maximum)]
        for reader in readers:
            reader.sendall(READ + b"x" * 99)
            # The server is busy with this request once it has responded with 100 Continue.
            assert reader.recv(1 << 16).startswith(b"HTTP/1.1 100 ")
        for path in ("/metrics", "/-/healthy", "/-/ready"):
            assert httpx.get(f"http://{address}{path}", timeout=TIMEOUT).status_code == 200
        for method, path in (("POST", "/api/v1/read"), ("GET", "/nothing")):
            rejected = httpx.request(method, f"http://{address}{path}", timeout=TIMEOUT)
            assert (rejected.status_code, rejected.headers["retry-after"]) == (503, "1")
        finish.set()
        for reader in readers:
            assert reader.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
        assert httpx.get(f"http://{address}/nothing", timeout=TIMEOUT).status_code == 404


def test_unfinished_tls_handshakes_are_bounded_in_number(tmp_path: Path) -> None:
    """Above the maximum of unfinished TLS handshakes the oldest are closed, and other clients are not affected."""
    authority = CertificateAuthority(tmp_path)
    authority.sign("server")
    (tmp_path / "web.yml").write_text("tls_server_config: {cert_file: server.crt, key_file: server.key}\n")
    context = ssl.create_default_context(cafile=str(authority.file))
    limits = replace(UNLIMITED_TIME, handshake_timeout=10**6, max_handshakes=4)
    with ExitStack() as stack:
        reloader = WebConfigReloader(tmp_path / "web.yml", time.monotonic)
        address = stack.enter_context(serve(reloader, limits=limits))
        client = stack.enter_context(httpx.Client(base_url=f"https://{address}", verify=context, timeout=TIMEOUT))
        assert client.get("/metrics").status_code == 200
        strangers = [stack.enter_context(connect(address)) for _ in range(30)]
        for stranger in strangers:
            with suppress(ConnectionError):
                stranger.sendall(b"\x16\x03\x01")
        assert httpx.get(f"https://{address}/metrics", verify=context, timeout=TIMEOUT).status_code == 200
        for stranger in strangers[:26]:
            assert read_until_closed(stranger) == 0
        assert client.get("/metrics").status_code == 200


def test_a_body_is_not_awaited_without_credentials(tmp_path: Path) -> None:
    """With users, a request without credentials is answered with 401 before any byte of its body has arrived."""
    path = write_web_config(tmp_path, basic_auth_users={"reader": hash_password("secret")})
    with serve(WebConfigReloader(path, time.monotonic)) as address, connect(address) as connection:
        connection.sendall(READ)
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize("request_head", [READ, READ.replace(b"Content-Length: 99", b"Transfer-Encoding: chunked")])
def test_a_client_that_leaves_is_no_error(address: str, caplog: pytest.LogCaptureFixture, request_head: bytes) -> None:
    """A client that disconnects in the middle of its request body leaves no error in the log."""
    for _ in range(3):
        with connect(address) as connection:
            connection.sendall(request_head)
            assert connection.recv(1 << 16).startswith(b"HTTP/1.1 100 ")
        process_sent_data(address)
    process_sent_data(address)
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.mark.parametrize("path", [b"/metrics", b"/api/v1/read", b"/nothing"])
def test_an_invalid_body_is_no_error(address: str, caplog: pytest.LogCaptureFixture, path: bytes) -> None:
    """A chunked body that is no such body ends the connection, without an error in the log."""
    with connect(address) as connection:
        connection.sendall(b"POST " + path + b" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        process_sent_data(address)
        with suppress(ConnectionError):
            connection.sendall(b"not a chunk\r\n" * 5)
        read_until_closed(connection)
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.mark.parametrize("path", [b"/metrics", b"/api/v1/read", b"/nothing"])
def test_an_invalid_body_that_comes_with_its_head_is_no_error(
    address: str, caplog: pytest.LogCaptureFixture, path: bytes
) -> None:
    """A request whose chunked body is invalid from its first byte is answered with 400, without an error in the log."""
    head = b"POST " + path + b" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    with connect(address) as connection:
        connection.sendall(head + b"not a chunk\r\n")
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 400 ")
        read_until_closed(connection)
    process_sent_data(address)
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_an_unfinished_tls_handshake_is_disconnected(tmp_path: Path) -> None:
    """With TLS, a client that does not begin the handshake is disconnected, and one that sends no request after it."""
    authority = CertificateAuthority(tmp_path)
    authority.sign("server")
    (tmp_path / "web.yml").write_text("tls_server_config: {cert_file: server.crt, key_file: server.key}\n")
    context = ssl.create_default_context(cafile=str(authority.file))
    loop = AdvanceableLoop()
    with serve(WebConfigReloader(tmp_path / "web.yml", time.monotonic), loop=loop) as address:
        with connect(address) as silent:
            assert httpx.get(f"https://{address}/-/healthy", verify=context, timeout=TIMEOUT).status_code == 200
            loop.advance(LIMITS.handshake_timeout + 1)
            assert read_until_closed(silent) == 0
        with connect(address) as plain, context.wrap_socket(plain, server_hostname="127.0.0.1") as silent:
            assert httpx.get(f"https://{address}/-/healthy", verify=context, timeout=TIMEOUT).status_code == 200
            loop.advance(LIMITS.header_timeout + 1)
            assert read_until_closed(silent) == 0


@pytest.mark.parametrize("request_line", [*(f"GET {path}" for path in ("/nothing", "/")), "POST /metrics", "G\0T /"])
def test_an_error_response_reveals_nothing_about_the_server(address: str, request_line: str) -> None:
    """Responses to invalid requests and internal errors contain no version, no name of software and no traceback."""
    with connect(address) as connection:
        connection.sendall(f"{request_line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        response = b"".join(iter(lambda: connection.recv(1 << 16), b"")).decode()
    assert response.split()[1] in ("400", "404", "405", "500")
    for word in ("uvicorn", "starlette", "python", "server:", "Traceback", "ZeroDivision", "an internal error"):
        assert word.lower() not in response.lower()


def test_the_default_limits_fit_a_production_server() -> None:
    """The server waits for seconds, not for minutes, and has some hundred connections."""
    assert 1 < LIMITS.header_timeout <= 10
    assert 1 < LIMITS.handshake_timeout <= 10
    assert LIMITS.body_timeout <= 30
    assert LIMITS.request_timeout <= 120
    assert 100 < LIMITS.max_connections < 1000
