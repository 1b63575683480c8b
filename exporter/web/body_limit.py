"""Limits of what a request may bring: the length of its body."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_HEADER_BYTES = 16 << 10
"""Bytes of a request's line and headers."""

DEFAULT_MAX_BODY_BYTES = 4 << 10
"""Bytes of a body that nobody reads."""


class BodyLimit:
    """Middleware that refuses with 413 what is too long: at once where its length is told, else while it comes."""

    def __init__(self, app: ASGIApp, max_bytes: Mapping[str, int]) -> None:
        """`longest` says for paths how many bytes they take; the others take LONGEST_BODY."""
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        told = dict[bytes, bytes](scope["headers"])
        if b"content-length" in told or b"transfer-encoding" in told:
            longest = self._max_bytes.get(scope["path"], DEFAULT_MAX_BODY_BYTES)
            complaint = f"The body of a request to this path may have {longest} bytes at most.\n"
            if int(told.get(b"content-length", 0)) > longest:
                await PlainTextResponse(complaint, 413)(scope, receive, send)
                return
            receive = _limit_body(receive, longest, complaint)
        await self._app(scope, receive, send)


def _limit_body(receive: Receive, max_bytes: int, detail: str) -> Receive:
    had = 0

    async def counted() -> Message:
        nonlocal had
        message = await receive()
        had += len(message.get("body", b""))
        if had > max_bytes:
            raise HTTPException(413, detail)
        return message

    return counted
