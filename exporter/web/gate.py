"""The gate before all routes: added headers, the rate limit, and who may come in."""

from __future__ import annotations

import math
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from exporter.web.auth import Guard
from exporter.web.limits import Bucket


@dataclass(frozen=True, slots=True)
class Terms:
    """On which terms one may come in; None: on any."""

    headers: Sequence[tuple[bytes, bytes]] = ()
    """Added to every answer."""
    bucket: Bucket | None = None
    guard: Guard | None = None
    context: ssl.SSLContext | None = None
    """Of connections with TLS; None: without it."""


class Gate:
    """Middleware that lets requests in on the present terms; every path is behind it, those that do not exist too."""

    def __init__(self, app: ASGIApp, terms: Callable[[], Terms]) -> None:
        self._app = app
        self._terms = terms

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request with 429 or 401, or hand it on."""
        terms = self._terms()
        answer = await self._refusal(terms, scope) or self._app
        await answer(scope, receive, _adding(terms.headers, send) if terms.headers else send)

    async def _refusal(self, terms: Terms, scope: Scope) -> ASGIApp | None:
        if terms.bucket is not None and not terms.bucket.take():
            wait = {"retry-after": str(math.ceil(terms.bucket.interval))}
            return PlainTextResponse("Too many requests.\n", 429, wait)
        if terms.guard is not None and not await terms.guard(scope["headers"]):
            ask = {"www-authenticate": 'Basic realm="ai-spend-exporter"'}
            return PlainTextResponse("Unauthorized.\n", 401, ask)
        return None


def _adding(headers: Sequence[tuple[bytes, bytes]], send: Send) -> Send:
    async def add(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *headers]
        await send(message)

    return add
