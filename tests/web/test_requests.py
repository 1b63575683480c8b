"""Requests that no monitoring system sends, and the headers that protect browsers."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from exporter.web import WebConfigReloader
from exporter.web.auth import MAX_PENDING_CHECKS
from tests.web_server import hash_password, make_handlers, serve, write_web_config

TIMEOUT = 60
"""Seconds after which a test fails instead of waiting longer."""
SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


@pytest.fixture(scope="module", name="url")
def _serve() -> Iterator[str]:
    """A server that can be reloaded over HTTP."""
    with serve(handlers=replace(make_handlers(), reload=lambda: "", landing_page=lambda: "<p>page</p>")) as address:
        yield f"http://{address}"


def _send(url: str, data: bytes) -> bytes:
    """Send bytes and return everything that the server sends until it closes the connection."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=TIMEOUT) as connection:
        connection.sendall(data)
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def test_pending_password_checks_are_bounded(tmp_path: Path) -> None:
    """Guessed passwords beyond the limit get 503 at once, and a client whose password is known gets its answer."""
    path = write_web_config(tmp_path, basic_auth_users={"reader": hash_password("secret", cost=10)})
    reloader, known = WebConfigReloader(path, time.monotonic), ("reader", "secret")

    async def scrape_during_guesses(url: str) -> tuple[list[int], int]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT, limits=limits) as client:
            assert (await client.get("/metrics", auth=known)).status_code == 200
            requests = [client.get("/metrics", auth=("reader", str(number))) for number in range(80)]
            guesses = asyncio.gather(*requests)
            scrape = await client.get("/metrics", auth=known)
            return [guess.status_code for guess in await guesses], scrape.status_code

    with serve(reloader) as address:
        guesses, scrape = asyncio.run(scrape_during_guesses(f"http://{address}"))
    assert set(guesses) == {401, 503}
    assert guesses.count(401) >= MAX_PENDING_CHECKS
    assert scrape == 200


@pytest.mark.parametrize("path", ["/", "/metrics", "/-/ready", "/-/reload", "/nothing"])
def test_every_response_has_security_headers(url: str, path: str) -> None:
    """Browsers must not guess content types, frame the page, or load anything for it."""
    response = httpx.get(url + path)
    assert {name: response.headers.get(name) for name in SECURITY_HEADERS} == SECURITY_HEADERS


def test_configured_headers_replace_the_security_headers(tmp_path: Path) -> None:
    """A header of the web configuration is sent once, with its own value, and the others are kept."""
    headers = {"X-Frame-Options": "sameorigin", "Content-Security-Policy": "default-src 'self'"}
    path = write_web_config(tmp_path, http_server_config={"headers": headers})
    with serve(WebConfigReloader(path, time.monotonic)) as address:
        found = httpx.get(f"http://{address}/metrics").headers
    assert found.get_list("x-frame-options") == ["sameorigin"]
    assert found.get_list("content-security-policy") == ["default-src 'self'"]
    assert found.get_list("x-content-type-options") == ["nosniff"]


@pytest.mark.parametrize("path", ["/metrics/", "/-/healthy/", "//evil.example/", "/-/reload/"])
def test_no_path_is_a_redirect(url: str, path: str) -> None:
    """A path with a slash at its end does not exist: a redirect would lead to any host that a request names."""
    response = httpx.get(url + path, headers={"host": "evil.example"})
    assert response.status_code == 404
    assert "location" not in response.headers


@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_a_request_with_two_lengths_is_rejected(url: str, method: bytes) -> None:
    """Content-Length with Transfer-Encoding is answered with 400, and what follows is not taken for a request."""
    hidden = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
    head = b" /api/v1/read HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
    response = _send(url, method + head + b"0\r\n\r\n" + hidden)
    assert response.startswith(b"HTTP/1.1 400 ")
    assert response.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "https://evil.example", "sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
    ids=str,
)
@pytest.mark.parametrize("path", ["/-/reload", "/-/reread", "/api/v1/read"])
def test_a_form_of_another_site_is_rejected(url: str, path: str, headers: dict[str, str]) -> None:
    """A browser that sends a form of another site's page gets 403, and nothing is done."""
    assert httpx.post(url + path, headers=headers).status_code == 403


@pytest.mark.parametrize("sec_fetch_site", ["same-origin", "none", None])
def test_other_clients_can_reload(url: str, sec_fetch_site: str | None) -> None:
    """A page of the exporter's own origin and clients that are no browsers can reload."""
    own = {"origin": url} if sec_fetch_site is None else {"origin": "https://proxy", "sec-fetch-site": sec_fetch_site}
    for headers in ({}, own):
        assert httpx.post(url + "/-/reload", headers=headers).status_code == 200
