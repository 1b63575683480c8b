"""What one client may ask of the server, and how long it is waited for, so that others are served."""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from exporter.history.remote_read_protocol import MAX_REQUEST_BYTES
from exporter.web import LimitedEventLoop, LimitedProtocol, WebConfigReloader
from exporter.web.body_limit import DEFAULT_MAX_BODY_BYTES, MAX_HEADER_BYTES
from tests.certificates import CertificateAuthority
from tests.web_server import make_handlers, serve

PATHS = ("/", "/metrics", "/-/healthy", "/-/ready", "/-/reload", "/nothing")
GET = b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n"


class ShortTimeouts(LimitedProtocol):
    """Waits for everything, only shorter."""

    HEADER_TIMEOUT = 0.3
    REQUEST_TIMEOUT = 0.6


class FewConnections(LimitedProtocol):
    """Has room for few."""

    MOST = 8


@pytest.fixture(scope="module", name="address")
def _serve() -> Iterator[str]:
    with serve(protocol=ShortTimeouts) as address:
        yield address


def connect(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=5)


@contextmanager
def keep_connection(address: str) -> Iterator[http.client.HTTPConnection]:
    """Open one connection; when it is closed, no other takes its place."""
    one = http.client.HTTPConnection(address, timeout=5)
    one.connect()
    one.auto_open = 0
    yield one
    one.close()


def scrape(connection: http.client.HTTPConnection) -> int:
    connection.request("GET", "/metrics")
    answer = connection.getresponse()
    assert answer.read()
    return answer.status


def seconds_until_closed(connection: socket.socket, *pieces: bytes, pause: float = 0.05) -> float:
    """Send the pieces slowly, then wait; return when the other side closed."""
    began = time.monotonic()
    try:
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(pause)
        while connection.recv(1 << 16):
            pass
    except ConnectionError:
        pass
    return time.monotonic() - began


@pytest.mark.parametrize("path", PATHS)
def test_an_unexpected_body_is_rejected(address: str, path: str) -> None:
    """Whatever the path and the method, a body of more than a few KiB is 413, and the server goes on."""
    for method in ("GET", "POST"):
        assert (
            httpx.request(method, f"http://{address}{path}", content=bytes(DEFAULT_MAX_BODY_BYTES + 1)).status_code
            == 413
        )
    assert httpx.post(f"http://{address}{path}", content=bytes(DEFAULT_MAX_BODY_BYTES)).status_code in (403, 404, 405)


def test_only_a_remote_read_may_have_a_long_body(address: str) -> None:
    """A read of up to a megabyte is answered; one byte more is 413, whether its length is told or not."""
    url = f"http://{address}/api/v1/read"
    most = bytes(range(256)) * (MAX_REQUEST_BYTES // 256)
    assert httpx.post(url, content=most).content == most[::-1]
    assert httpx.post(url, content=iter([most])).content == most[::-1]
    for longer in (most + b"!", iter([most, b"!"])):
        answer = httpx.post(url, content=longer)
        assert (answer.status_code, str(MAX_REQUEST_BYTES) in answer.text) == (413, True)


def test_a_long_header_is_rejected(address: str) -> None:
    """A head that goes on beyond its limit is answered with 400 and the end of the connection."""
    with connect(address) as one:
        one.sendall(b"GET / HTTP/1.1\r\nHost: here\r\nX-Long: " + b"x" * MAX_HEADER_BYTES)
        assert one.recv(1 << 16).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    ("pieces", "limit"),
    [
        ([], ShortTimeouts.HEADER_TIMEOUT),
        ([bytes([one]) for one in GET[:-1]], ShortTimeouts.HEADER_TIMEOUT),
        ([GET, *(bytes([one]) for one in GET[:-1])], ShortTimeouts.HEADER_TIMEOUT),
        (
            [b"POST /api/v1/read HTTP/1.1\r\nHost: here\r\nContent-Length: 99\r\n\r\n", *[b"x"] * 90],
            ShortTimeouts.REQUEST_TIMEOUT,
        ),
        (
            [b"POST /metrics HTTP/1.1\r\nHost: here\r\nContent-Length: 99\r\n\r\n", *[b"x"] * 90],
            ShortTimeouts.HEADER_TIMEOUT,
        ),
    ],
    ids=["silence", "a slow head", "a slow second head", "a slow body", "a slow body that nobody reads"],
)
def test_a_slow_client_is_disconnected(address: str, pieces: list[bytes], limit: float) -> None:
    """Who sends nothing, or little by little, is cut when the time for it is over."""
    with connect(address) as one:
        assert limit * 0.9 < seconds_until_closed(one, *pieces) < limit + 0.5


@pytest.mark.parametrize(
    "head",
    [GET, GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), GET.replace(b"/metrics", b"/")],
    ids=["in pieces", "at the end of a connection", "at once"],
)
def test_a_client_that_does_not_read_is_disconnected(head: bytes) -> None:
    """An answer that nobody takes does not stay: the connection is closed, and most of it was never sent."""
    size = 30 << 20
    shown = replace(make_handlers(size), landing_page=lambda: "#" * size)
    with serve(handlers=shown, protocol=ShortTimeouts, keep_alive_seconds=1) as address, connect(address) as one:
        one.sendall(head)
        time.sleep(ShortTimeouts.REQUEST_TIMEOUT + 0.6)
        assert 0 < sum(map(len, iter(lambda: one.recv(1 << 20), b""))) < size


def test_a_keep_alive_connection_stays_open(address: str) -> None:
    """The time limits are for one request: a client that asks again and again keeps its connection."""
    with keep_connection(address) as one:
        assert scrape(one) == 200
        time.sleep(ShortTimeouts.REQUEST_TIMEOUT * 1.2)
        assert scrape(one) == 200


def test_idle_connections_do_not_block_a_scrape() -> None:
    """Past a hundred connections that ask nothing a scrape is answered at once; those that wait longest make room."""
    with ExitStack() as stack:
        address = stack.enter_context(serve(protocol=FewConnections))
        known = stack.enter_context(keep_connection(address))
        assert scrape(known) == 200
        strangers = [stack.enter_context(connect(address)) for _ in range(100)]
        assert httpx.get(f"http://{address}/metrics", timeout=2).status_code == 200
        assert max(map(seconds_until_closed, strangers[:90])) < 1
        assert scrape(known) == 200


def test_an_unfinished_tls_handshake_is_disconnected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With TLS, who does not begin to speak it is cut, and so is who speaks it and then asks nothing."""
    monkeypatch.setattr(LimitedEventLoop, "HANDSHAKE_TIMEOUT", 0.4)
    authority = CertificateAuthority(tmp_path)
    authority.sign("server")
    (tmp_path / "web.yml").write_text("tls_server_config: {cert_file: server.crt, key_file: server.key}\n")
    encrypted = ssl.create_default_context(cafile=str(authority.file))
    with serve(WebConfigReloader(tmp_path / "web.yml", time.monotonic), protocol=ShortTimeouts) as address:
        with connect(address) as silent:
            assert 0.3 < seconds_until_closed(silent) < 0.9
        with encrypted.wrap_socket(connect(address), server_hostname="127.0.0.1") as silent:
            assert 0.2 < seconds_until_closed(silent) < 0.9


@pytest.mark.parametrize("asked", [*(f"GET {path}" for path in ("/nothing", "/")), "POST /metrics", "G\0T /"])
def test_an_error_response_reveals_nothing_about_the_server(address: str, asked: str) -> None:
    """Neither a wrong request nor a defect of ours is answered with versions, names of software or a traceback."""
    with connect(address) as one:
        one.sendall(f"{asked} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n".encode())
        told = b"".join(iter(lambda: one.recv(1 << 16), b"")).decode()
    assert told.split()[1] in ("400", "404", "405", "500")
    for word in ("uvicorn", "starlette", "python", "server:", "Traceback", "ZeroDivision", "a defect"):
        assert word.lower() not in told.lower()


def test_the_limits_are_those_of_the_real_server() -> None:
    """What is served in earnest waits for seconds, not for minutes, and holds some hundred connections."""
    assert 1 < LimitedProtocol.HEADER_TIMEOUT <= 10
    assert 1 < LimitedEventLoop.HANDSHAKE_TIMEOUT <= 10
    assert LimitedProtocol.REQUEST_TIMEOUT <= 120
    assert 100 < LimitedProtocol.MAX_CONNECTIONS < 1000
