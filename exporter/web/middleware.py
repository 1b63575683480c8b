"""The gate before all routes: added headers, the rate limit, and who may come in."""

from __future__ import annotations

import math
import ssl
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from exporter.ratelimit import Allowance
from exporter.web.auth import Guard


@dataclass(frozen=True, slots=True)
class Terms:
    """On which terms one may come in; None: on any."""

    headers: Sequence[tuple[bytes, bytes]] = ()
    """Added to every answer."""
    allowance: Allowance | None = None
    guard: Guard | None = None
    context: ssl.SSLContext | None = None
    """Of connections with TLS; None: without it."""


class Gate:
    """Middleware that lets requests in on the present terms; every path is behind it, those that do not exist too."""

    def __init__(self, app: ASGIApp, terms: Callable[[], Terms], others: Collection[str] = ()) -> None:
        """`others` are paths with a guard of their own: what reads here cannot write there, nor the other way round."""
        self._app = app
        self._others = frozenset(others)
        self._terms = terms

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request with 429 or 401, or hand it on."""
        terms = self._terms()
        answer = await self._refusal(terms, scope) or self._app
        await answer(scope, receive, _adding(terms.headers, send) if terms.headers else send)

    async def _refusal(self, terms: Terms, scope: Scope) -> ASGIApp | None:
        if terms.allowance is not None and not terms.allowance.take():
            wait = {"retry-after": str(math.ceil(1 / terms.allowance.per_second))}
            return PlainTextResponse("Too many requests.\n", 429, wait)
        if terms.guard and scope["path"] not in self._others and not await terms.guard(scope["headers"]):
            ask = {"www-authenticate": 'Basic realm="ai-spend-exporter"'}
            return PlainTextResponse("Unauthorized.\n", 401, ask)
        return None


def _adding(headers: Sequence[tuple[bytes, bytes]], send: Send) -> Send:
    async def add(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *headers]
        await send(message)

    return add
