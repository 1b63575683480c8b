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

from exporter.errors import PushError
from exporter.push.parse import Rejected
from exporter.push.service import Accepted

EVENT_PATH, BATCH_PATH, CHANGES_PATH = "/api/v1/ai/usage/events", "/api/v1/ai/usage/events/batch", "/api/v1/ai/changes"
SUMMARY_PATH, OPENAPI_PATH = "/api/v1/ai/usage/summary", "/api/v1/openapi.json"

MAX_BODY_BYTES = {EVENT_PATH: 16 << 10, BATCH_PATH: 1 << 20, CHANGES_PATH: 16 << 10}
"""Bytes of the bodies that these paths take."""

_IDEMPOTENCY_KEY = re.compile("[!-~]{0,255}")

MAX_CONCURRENT_PUSHES = 8
"""Requests that are taken at the same time; a summary is made one at a time, and keeps none of them waiting."""


@dataclass(frozen=True, slots=True)
class PushHandlers:
    """What pushed requests are handed to; each may raise IngestError."""

    find_source: Callable[[str], str | None]
    """Whose bearer token this is."""
    accept_events: Callable[[str, bytes, str, bool], Accepted]
    """Source, body, key of the request, whether it is a batch."""
    record_change: Callable[[bytes], None]
    """Keep a change."""
    summarize: Callable[[str], Mapping[str, Any]]
    """`days` as it was asked for -> what was spent in them."""
    build_openapi_document: Callable[[], Mapping[str, Any]]
    """This API, described."""


def build_push_routes(handlers: PushHandlers) -> list[Route]:
    """Return the routes."""
    limiter, reading = CapacityLimiter(MAX_CONCURRENT_PUSHES), CapacityLimiter(1)

    async def one(request: Request) -> Response:
        return _event_response(await _taken(request, batch=False))

    async def batch(request: Request) -> Response:
        return _batch_response(await _taken(request, batch=True))

    async def _taken(request: Request, *, batch: bool) -> Accepted:
        source, key = _authenticate(request, handlers), request.headers.get("idempotency-key", "")
        if not _IDEMPOTENCY_KEY.fullmatch(key):
            raise PushError(422, "Idempotency-Key: expected at most 255 characters, without spaces and within ASCII")
        body = await request.body()
        return await to_thread.run_sync(handlers.accept_events, source, body, key, batch, limiter=limiter)

    async def changes(request: Request) -> Response:
        _authenticate(request, handlers)
        await to_thread.run_sync(handlers.record_change, await request.body(), limiter=limiter)
        return JSONResponse({"status": "accepted"}, 202)

    async def summary(request: Request) -> Response:
        told = await to_thread.run_sync(handlers.summarize, request.query_params.get("days", "30"), limiter=reading)
        return JSONResponse(told, headers={"cache-control": "no-store"})

    async def document(_: Request) -> Response:
        return JSONResponse(handlers.build_openapi_document())

    return [
        Route(EVENT_PATH, _handle_push_errors(one), methods=["POST"]),
        Route(BATCH_PATH, _handle_push_errors(batch), methods=["POST"]),
        Route(CHANGES_PATH, _handle_push_errors(changes), methods=["POST"]),
        Route(SUMMARY_PATH, _handle_push_errors(summary)),
        Route(OPENAPI_PATH, document),
    ]


def _handle_push_errors(route: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        try:
            return await route(request)
        except PushError as error:
            headers = {401: {"www-authenticate": "Bearer"}, 429: {"retry-after": "1"}}.get(error.status)
            return JSONResponse({"error": str(error)}, error.status, headers)

    return answer


def _authenticate(request: Request, handlers: PushHandlers) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    source = handlers.find_source(token.strip()) if scheme.lower() == "bearer" else None
    if source is None:
        raise PushError(401, "this needs `Authorization: Bearer TOKEN` with the token of a configured source")
    return source


def _event_response(result: Accepted) -> Response:
    for refused in result.rejected:
        return JSONResponse({"error": refused.reason}, 409 if refused.conflict else 422)
    return JSONResponse({"status": "accepted" if result.accepted else "duplicate"}, 202)


def _batch_response(result: Accepted) -> Response:
    told = {
        "accepted": result.accepted,
        "duplicate": result.duplicates,
        "rejected": list(map(_format_rejection, result.rejected)),
    }
    return JSONResponse(told, 207 if result.rejected else 202)


def _format_rejection(rejected: Rejected) -> dict[str, Any]:
    return {"index": rejected.index, "status": 409 if rejected.conflict else 422, "reason": rejected.reason}
