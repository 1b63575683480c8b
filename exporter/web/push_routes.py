"""The routes for those who push: usage events and changes, each with the bearer token of a configured source."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from anyio import CapacityLimiter, to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from exporter.errors import IngestError
from exporter.push.parse import Refused
from exporter.push.service import Taken

EVENT, BATCH, CHANGES = "/api/v1/ai/usage/events", "/api/v1/ai/usage/events/batch", "/api/v1/ai/changes"
SUMMARY, DOCUMENT = "/api/v1/ai/usage/summary", "/api/v1/openapi.json"

LONGEST = {EVENT: 16 << 10, BATCH: 1 << 20, CHANGES: 16 << 10}
"""Bytes of the bodies that these paths take."""

_KEY = re.compile("[!-~]{0,255}")

AT_ONCE = 8
"""Requests that are taken at the same time; a summary is made one at a time, and keeps none of them waiting."""


@dataclass(frozen=True, slots=True)
class Desk:
    """What pushed requests are handed to; each may raise IngestError."""

    owner: Callable[[str], str | None]
    """Whose bearer token this is."""
    take: Callable[[str, bytes, str, bool], Taken]
    """Source, body, key of the request, whether it is a batch."""
    note: Callable[[bytes], None]
    """Keep a change."""
    summary: Callable[[str], Mapping[str, Any]]
    """`days` as it was asked for -> what was spent in them."""
    document: Callable[[], Mapping[str, Any]]
    """This API, described."""


def push_routes(desk: Desk) -> list[Route]:
    """Return the routes."""
    limiter, reading = CapacityLimiter(AT_ONCE), CapacityLimiter(1)

    async def one(request: Request) -> Response:
        return _single(await _taken(request, batch=False))

    async def batch(request: Request) -> Response:
        return _several(await _taken(request, batch=True))

    async def _taken(request: Request, *, batch: bool) -> Taken:
        source, key = _source(request, desk), request.headers.get("idempotency-key", "")
        if not _KEY.fullmatch(key):
            raise IngestError(422, "Idempotency-Key: expected at most 255 characters, without spaces and within ASCII")
        body = await request.body()
        return await to_thread.run_sync(desk.take, source, body, key, batch, limiter=limiter)

    async def changes(request: Request) -> Response:
        _source(request, desk)
        await to_thread.run_sync(desk.note, await request.body(), limiter=limiter)
        return JSONResponse({"status": "accepted"}, 202)

    async def summary(request: Request) -> Response:
        told = await to_thread.run_sync(desk.summary, request.query_params.get("days", "30"), limiter=reading)
        return JSONResponse(told, headers={"cache-control": "no-store"})

    async def document(_: Request) -> Response:
        return JSONResponse(desk.document())

    return [
        Route(EVENT, _answered(one), methods=["POST"]),
        Route(BATCH, _answered(batch), methods=["POST"]),
        Route(CHANGES, _answered(changes), methods=["POST"]),
        Route(SUMMARY, _answered(summary)),
        Route(DOCUMENT, document),
    ]


def _answered(route: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        try:
            return await route(request)
        except IngestError as error:
            headers = {401: {"www-authenticate": "Bearer"}, 429: {"retry-after": "1"}}.get(error.status)
            return JSONResponse({"error": str(error)}, error.status, headers)

    return answer


def _source(request: Request, desk: Desk) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    source = desk.owner(token.strip()) if scheme.lower() == "bearer" else None
    if source is None:
        raise IngestError(401, "this needs `Authorization: Bearer TOKEN` with the token of a configured source")
    return source


def _single(taken: Taken) -> Response:
    for refused in taken.refused:
        return JSONResponse({"error": refused.reason}, 409 if refused.conflict else 422)
    return JSONResponse({"status": "accepted" if taken.accepted else "repeated"}, 202)


def _several(taken: Taken) -> Response:
    told = {"accepted": taken.accepted, "repeated": taken.repeated, "refused": list(map(_plain, taken.refused))}
    return JSONResponse(told, 207 if taken.refused else 202)


def _plain(refused: Refused) -> dict[str, Any]:
    return {"index": refused.index, "status": 409 if refused.conflict else 422, "reason": refused.reason}
