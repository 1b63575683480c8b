"""Middleware before all routes: limits of request bodies, added headers, the rate limit, and authentication."""

from __future__ import annotations

import math
import ssl
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from exporter.ratelimit import TokenBucket
from exporter.web.auth import AuthCheck, TooManyPendingChecks

MAX_HEADER_BYTES = 16 << 10
"""Limit of a request line with its headers."""

DEFAULT_MAX_BODY_BYTES = 4 << 10
"""Limit of a body for paths that do not read it."""


CONTENT_SECURITY_POLICY = "; ".join(
    (
        # The landing page consists of HTML with inline styles, and of nothing else.
        "default-src 'none'",
        "style-src 'unsafe-inline'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
SECURITY_HEADERS = (
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)
"""Headers of every response, unless the web configuration has others of the same names."""

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


class RequestCheck:
    """The first middleware: rejects ambiguous and cross-site requests, and adds SECURITY_HEADERS to all responses.

    It also ends requests whose client has disconnected, which is no error.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request with 400 or 403, or pass it on."""
        app = _reject_ambiguous_length(scope) or _reject_cross_site(scope) or self._app
        with suppress(ClientDisconnect):
            await app(scope, receive, _add_headers(SECURITY_HEADERS, send, only_missing=True))


def _reject_ambiguous_length(scope: Scope) -> Response | None:
    """Reject a request with two lengths: a proxy may see its end elsewhere, and take the rest for another request."""
    names = {name for name, _ in scope["headers"]}
    if names >= {b"content-length", b"transfer-encoding"}:
        detail = "A request has either Content-Length or Transfer-Encoding.\n"
        return PlainTextResponse(detail, 400, {"connection": "close"})
    return None


def _reject_cross_site(scope: Scope) -> Response | None:
    """Reject requests that a page of another site made a browser send, such as a form for /-/reload.

    Browsers always send Origin with these, and newer ones Sec-Fetch-Site, which pages cannot change; other clients
    send neither.
    """
    if scope["method"] in _SAFE_METHODS:
        return None
    headers = dict[bytes, bytes](scope["headers"])
    site, origin = headers.get(b"sec-fetch-site"), headers.get(b"origin")
    if site is not None:
        allowed = site in (b"same-origin", b"none")
    else:
        allowed = origin is None or origin.partition(b"://")[2].lower() == headers.get(b"host", b"").lower()
    return None if allowed else PlainTextResponse("Cross-site requests are not allowed.\n", 403)


class BodyLimit:
    """Rejects bodies that are too long with 413: at once if Content-Length says so, else while the body arrives."""

    def __init__(self, app: ASGIApp, max_bytes: Mapping[str, int]) -> None:
        """`max_bytes` has limits by path; other paths have DEFAULT_MAX_BODY_BYTES."""
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request with 413, or pass it on."""
        headers = dict[bytes, bytes](scope["headers"])
        if b"content-length" in headers or b"transfer-encoding" in headers:
            max_bytes = self._max_bytes.get(scope["path"], DEFAULT_MAX_BODY_BYTES)
            detail = f"The body of a request to this path may have {max_bytes} bytes at most.\n"
            if int(headers.get(b"content-length", 0)) > max_bytes:
                await PlainTextResponse(detail, 413)(scope, receive, send)
                return
            receive = _limit_body(receive, max_bytes, detail)
        await self._app(scope, receive, send)


def _limit_body(receive: Receive, max_bytes: int, detail: str) -> Receive:
    received_bytes = 0

    async def counting_receive() -> Message:
        nonlocal received_bytes
        message = await receive()
        received_bytes += len(message.get("body", b""))
        if received_bytes > max_bytes:
            raise HTTPException(413, detail)
        return message

    return counting_receive


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """The part of the web configuration that applies to each request or connection; None: no restriction."""

    headers: Sequence[tuple[bytes, bytes]] = ()
    """Added to every response."""
    rate_limiter: TokenBucket | None = None
    authenticate: AuthCheck | None = None
    ssl_context: ssl.SSLContext | None = None
    """For new connections; None: without TLS."""


class AccessMiddleware:
    """Applies the current policy to every request, whether its path exists or not."""

    def __init__(
        self, app: ASGIApp, get_policy: Callable[[], AccessPolicy], exempt_paths: Collection[str] = ()
    ) -> None:
        """`exempt_paths` have their own authentication: users of the other paths have no access to them."""
        self._app = app
        self._exempt_paths = frozenset(exempt_paths)
        self._get_policy = get_policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request with 429 or 401, or pass it on."""
        policy = self._get_policy()
        rejection = await self._rejection(policy, scope)
        app = rejection or self._app
        await app(scope, receive, _add_headers(policy.headers, send) if policy.headers else send)

    async def _rejection(self, policy: AccessPolicy, scope: Scope) -> Response | None:
        # The rate limit comes first: it also bounds attempts to guess passwords.
        if policy.rate_limiter is not None and not policy.rate_limiter.take():
            headers = {"retry-after": str(math.ceil(1 / policy.rate_limiter.per_second))}
            return PlainTextResponse("Too many requests.\n", 429, headers)
        if policy.authenticate is None or scope["path"] in self._exempt_paths:
            return None
        try:
            if await policy.authenticate(scope["headers"]):
                return None
        except TooManyPendingChecks:
            return PlainTextResponse("Too many passwords are being checked.\n", 503, {"retry-after": "1"})
        return PlainTextResponse("Unauthorized.\n", 401, {"www-authenticate": 'Basic realm="ai-spend-exporter"'})


def _add_headers(headers: Sequence[tuple[bytes, bytes]], send: Send, *, only_missing: bool = False) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            present = {name.lower() for name, _ in message["headers"]} if only_missing else set()
            added = [(name, value) for name, value in headers if name not in present]
            message["headers"] = [*message["headers"], *added]
        await send(message)

    return send_with_headers
