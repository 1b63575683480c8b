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

from exporter.history.remote_read_protocol import LONGEST_REQUEST
from exporter.web import Entrance, Loop, Patient
from exporter.web.body_limit import LONGEST_BODY, LONGEST_HEAD
from tests.certificates import Authority
from tests.web_server import serving, views

PATHS = ("/", "/metrics", "/-/healthy", "/-/ready", "/-/reload", "/nothing")
GET = b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n"


class Hurried(Patient):
    """Waits for everything, only shorter."""

    HEAD = 0.3
    WHOLE = 0.6


class Small(Patient):
    """Has room for few."""

    MOST = 8


@pytest.fixture(scope="module", name="address")
def _address() -> Iterator[str]:
    with serving(protocol=Hurried) as address:
        yield address


def connected(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=5)


@contextmanager
def kept(address: str) -> Iterator[http.client.HTTPConnection]:
    """Open one connection; when it is closed, no other takes its place."""
    one = http.client.HTTPConnection(address, timeout=5)
    one.connect()
    one.auto_open = 0
    yield one
    one.close()


def scraped(one: http.client.HTTPConnection) -> int:
    one.request("GET", "/metrics")
    answer = one.getresponse()
    assert answer.read()
    return answer.status


def seconds_until_cut(one: socket.socket, *pieces: bytes, pause: float = 0.05) -> float:
    """Send the pieces slowly, then wait; return when the other side closed."""
    began = time.monotonic()
    try:
        for piece in pieces:
            one.sendall(piece)
            time.sleep(pause)
        while one.recv(1 << 16):
            pass
    except ConnectionError:
        pass
    return time.monotonic() - began


@pytest.mark.parametrize("path", PATHS)
def test_a_body_where_none_is_read_is_refused(address: str, path: str) -> None:
    """Whatever the path and the method, a body of more than a few KiB is 413, and the server goes on."""
    for method in ("GET", "POST"):
        assert httpx.request(method, f"http://{address}{path}", content=bytes(LONGEST_BODY + 1)).status_code == 413
    assert httpx.post(f"http://{address}{path}", content=bytes(LONGEST_BODY)).status_code in (403, 404, 405)


def test_only_a_remote_read_may_have_a_long_body(address: str) -> None:
    """A read of up to a megabyte is answered; one byte more is 413, whether its length is told or not."""
    url = f"http://{address}/api/v1/read"
    most = bytes(range(256)) * (LONGEST_REQUEST // 256)
    assert httpx.post(url, content=most).content == most[::-1]
    assert httpx.post(url, content=iter([most])).content == most[::-1]
    for longer in (most + b"!", iter([most, b"!"])):
        answer = httpx.post(url, content=longer)
        assert (answer.status_code, str(LONGEST_REQUEST) in answer.text) == (413, True)


def test_a_long_head_is_refused(address: str) -> None:
    """A head that goes on beyond its limit is answered with 400 and the end of the connection."""
    with connected(address) as one:
        one.sendall(b"GET / HTTP/1.1\r\nHost: here\r\nX-Long: " + b"x" * LONGEST_HEAD)
        assert one.recv(1 << 16).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    ("pieces", "limit"),
    [
        ([], Hurried.HEAD),
        ([bytes([one]) for one in GET[:-1]], Hurried.HEAD),
        ([GET, *(bytes([one]) for one in GET[:-1])], Hurried.HEAD),
        ([b"POST /api/v1/read HTTP/1.1\r\nHost: here\r\nContent-Length: 99\r\n\r\n", *[b"x"] * 90], Hurried.WHOLE),
        ([b"POST /metrics HTTP/1.1\r\nHost: here\r\nContent-Length: 99\r\n\r\n", *[b"x"] * 90], Hurried.HEAD),
    ],
    ids=["silence", "a slow head", "a slow second head", "a slow body", "a slow body that nobody reads"],
)
def test_a_slow_client_is_cut(address: str, pieces: list[bytes], limit: float) -> None:
    """Who sends nothing, or little by little, is cut when the time for it is over."""
    with connected(address) as one:
        assert limit * 0.9 < seconds_until_cut(one, *pieces) < limit + 0.5


@pytest.mark.parametrize(
    "head",
    [GET, GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), GET.replace(b"/metrics", b"/")],
    ids=["in pieces", "at the end of a connection", "at once"],
)
def test_a_client_that_does_not_read_is_cut(head: bytes) -> None:
    """An answer that nobody takes does not stay: the connection is closed, and most of it was never sent."""
    size = 30 << 20
    shown = replace(views(size), landing=lambda: "#" * size)
    with serving(shown=shown, protocol=Hurried, kept=1) as address, connected(address) as one:
        one.sendall(head)
        time.sleep(Hurried.WHOLE + 0.6)
        assert 0 < sum(map(len, iter(lambda: one.recv(1 << 20), b""))) < size


def test_a_connection_that_is_kept_is_not_cut(address: str) -> None:
    """The time limits are for one request: a client that asks again and again keeps its connection."""
    with kept(address) as one:
        assert scraped(one) == 200
        time.sleep(Hurried.WHOLE * 1.2)
        assert scraped(one) == 200


def test_strangers_keep_nobody_out() -> None:
    """Past a hundred connections that ask nothing a scrape is answered at once; those that wait longest make room."""
    with ExitStack() as stack:
        address = stack.enter_context(serving(protocol=Small))
        known = stack.enter_context(kept(address))
        assert scraped(known) == 200
        strangers = [stack.enter_context(connected(address)) for _ in range(100)]
        assert httpx.get(f"http://{address}/metrics", timeout=2).status_code == 200
        assert max(map(seconds_until_cut, strangers[:90])) < 1
        assert scraped(known) == 200


def test_nobody_waits_for_a_handshake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With TLS, who does not begin to speak it is cut, and so is who speaks it and then asks nothing."""
    monkeypatch.setattr(Loop, "HANDSHAKE", 0.4)
    authority = Authority(tmp_path)
    authority.sign("server")
    (tmp_path / "web.yml").write_text("tls_server_config: {cert_file: server.crt, key_file: server.key}\n")
    encrypted = ssl.create_default_context(cafile=str(authority.file))
    with serving(Entrance(tmp_path / "web.yml", time.monotonic), protocol=Hurried) as address:
        with connected(address) as silent:
            assert 0.3 < seconds_until_cut(silent) < 0.9
        with encrypted.wrap_socket(connected(address), server_hostname="127.0.0.1") as silent:
            assert 0.2 < seconds_until_cut(silent) < 0.9


@pytest.mark.parametrize("asked", [*(f"GET {path}" for path in ("/nothing", "/")), "POST /metrics", "G\0T /"])
def test_a_refusal_tells_nothing_about_us(address: str, asked: str) -> None:
    """Neither a wrong request nor a defect of ours is answered with versions, names of software or a traceback."""
    with connected(address) as one:
        one.sendall(f"{asked} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n".encode())
        told = b"".join(iter(lambda: one.recv(1 << 16), b"")).decode()
    assert told.split()[1] in ("400", "404", "405", "500")
    for word in ("uvicorn", "starlette", "python", "server:", "Traceback", "ZeroDivision", "a defect"):
        assert word.lower() not in told.lower()


def test_the_limits_are_those_of_the_real_server() -> None:
    """What is served in earnest waits for seconds, not for minutes, and holds some hundred connections."""
    assert 1 < Patient.HEAD <= 10
    assert 1 < Loop.HANDSHAKE <= 10
    assert Patient.WHOLE <= 120
    assert 100 < Patient.MOST < 1000
