"""The gate before all routes: added headers, the rate limit, and who may come in."""

from __future__ import annotations

import math
import ssl
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from exporter.ratelimit import TokenBucket
from exporter.web.auth import AuthCheck


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """On which terms one may come in; None: on any."""

    headers: Sequence[tuple[bytes, bytes]] = ()
    """Added to every answer."""
    rate_limiter: TokenBucket | None = None
    authenticate: AuthCheck | None = None
    ssl_context: ssl.SSLContext | None = None
    """Of connections with TLS; None: without it."""


class AccessMiddleware:
    """Middleware that lets requests in on the present terms; every path is behind it, those that do not exist too."""

    def __init__(
        self, app: ASGIApp, get_policy: Callable[[], AccessPolicy], exempt_paths: Collection[str] = ()
    ) -> None:
        """`others` are paths with a guard of their own: what reads here cannot write there, nor the other way round."""
        self._app = app
        self._exempt_paths = frozenset(exempt_paths)
        self._get_policy = get_policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request with 429 or 401, or hand it on."""
        terms = self._get_policy()
        answer = await self._check_access(terms, scope) or self._app
        await answer(scope, receive, _add_headers(terms.headers, send) if terms.headers else send)

    async def _check_access(self, policy: AccessPolicy, scope: Scope) -> ASGIApp | None:
        if policy.rate_limiter is not None and not policy.rate_limiter.take():
            wait = {"retry-after": str(math.ceil(1 / policy.rate_limiter.per_second))}
            return PlainTextResponse("Too many requests.\n", 429, wait)
        if (
            policy.authenticate
            and scope["path"] not in self._exempt_paths
            and not await policy.authenticate(scope["headers"])
        ):
            ask = {"www-authenticate": 'Basic realm="ai-spend-exporter"'}
            return PlainTextResponse("Unauthorized.\n", 401, ask)
        return None


def _add_headers(headers: Sequence[tuple[bytes, bytes]], send: Send) -> Send:
    async def add(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *headers]
        await send(message)

    return add
