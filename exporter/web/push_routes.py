"""Routes of the JSON API: pushed usage events and change events, the summary, and the OpenAPI document."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from anyio import CapacityLimiter, to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from exporter import __version__
from exporter.errors import LedgerError, LedgerUnavailable, PushError
from exporter.push.parse import decode_body
from exporter.push.service import Accepted, PushService
from exporter.ui.summary import parse_days
from exporter.web.api import (
    BATCH_PATH,
    CHANGES_PATH,
    DEFAULT_SUMMARY_DAYS,
    EVENT_PATH,
    MAX_PUSH_BODY_BYTES,
    OPENAPI_PATH,
    SUMMARY_PATH,
    BatchResponse,
    ErrorResponse,
    RejectedEvent,
    StatusResponse,
    SummaryResponse,
    json_response,
)
from exporter.web.openapi import build_openapi_document

MAX_CONCURRENT_PUSHES = 8
MAX_CONCURRENT_SUMMARIES = 1
"""Separate from pushes: a summary reads much, and must not delay them."""

_LEDGER_FAILED = "the ledger cannot be read or written; nothing of this request was stored"
_LEDGER_RETRY_SECONDS = "30"
_IDEMPOTENCY_KEY = re.compile("[!-~]{0,255}")

Endpoint = Callable[[Request], Awaitable[Response]]


def build_push_routes(
    push: PushService,
    summarize: Callable[[int], Mapping[str, Any]],
    on_ledger_error: Callable[[LedgerError], None],
) -> list[Route]:
    """Return the routes of the JSON API.

    `summarize` returns the summary of a number of days; its fields are those of SummaryResponse. `on_ledger_error` is
    called if the ledger cannot be read or written; the client gets 503, and learns from the log of this process why.
    """
    push_limiter, summary_limiter = CapacityLimiter(MAX_CONCURRENT_PUSHES), CapacityLimiter(MAX_CONCURRENT_SUMMARIES)

    async def event(request: Request) -> Response:
        return _event_response(await accept_events(request, batch=False))

    async def batch(request: Request) -> Response:
        return _batch_response(await accept_events(request, batch=True))

    async def accept_events(request: Request, *, batch: bool) -> Accepted:
        source = _authenticate(request, push)
        idempotency_key = request.headers.get("idempotency-key", "")
        if not _IDEMPOTENCY_KEY.fullmatch(idempotency_key):
            raise PushError(422, "Idempotency-Key: expected at most 255 printable ASCII characters without spaces")
        decode = await _receive_body(request)
        return await to_thread.run_sync(
            lambda: push.accept_events(source, decode(), idempotency_key, batch=batch), limiter=push_limiter
        )

    async def change(request: Request) -> Response:
        _authenticate(request, push)
        decode = await _receive_body(request)
        await to_thread.run_sync(lambda: push.record_change(decode()), limiter=push_limiter)
        return json_response(StatusResponse(status="accepted"), 202)

    async def summary(request: Request) -> Response:
        days = parse_days(request.query_params.get("days", str(DEFAULT_SUMMARY_DAYS)))
        values = await to_thread.run_sync(summarize, days, limiter=summary_limiter)
        return json_response(SummaryResponse.model_validate(values), headers={"cache-control": "no-store"})

    async def openapi(_: Request) -> Response:
        return JSONResponse(build_openapi_document(__version__))

    def route(path: str, endpoint: Endpoint, *methods: str) -> Route:
        return Route(path, _handle_errors(endpoint, on_ledger_error), methods=methods)

    return [
        route(EVENT_PATH, event, "POST"),
        route(BATCH_PATH, batch, "POST"),
        route(CHANGES_PATH, change, "POST"),
        route(SUMMARY_PATH, summary, "GET"),
        Route(OPENAPI_PATH, openapi),
    ]


def _handle_errors(endpoint: Endpoint, on_ledger_error: Callable[[LedgerError], None]) -> Endpoint:
    """Return the endpoint with its PushErrors and LedgerErrors translated into responses."""

    async def respond(request: Request) -> Response:
        try:
            return await endpoint(request)
        except PushError as error:
            headers = {401: {"www-authenticate": "Bearer"}, 429: {"retry-after": "1"}}.get(error.status)
            return json_response(ErrorResponse(error=str(error)), error.status, headers)
        except LedgerError as error:
            # The callback ends the process, unless the ledger is only unavailable at present.
            on_ledger_error(error)
            headers = {"retry-after": _LEDGER_RETRY_SECONDS} if isinstance(error, LedgerUnavailable) else None
            return json_response(ErrorResponse(error=_LEDGER_FAILED), 503, headers)

    return respond


def _authenticate(request: Request, push: PushService) -> str:
    """Return the source whose bearer token the request has. Raises PushError."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    source = push.authenticate(token.strip()) if scheme.lower() == "bearer" else None
    if source is None:
        raise PushError(401, "this needs `Authorization: Bearer TOKEN` with the token of a configured source")
    return source


async def _receive_body(request: Request) -> Callable[[], bytes]:
    """Wait for the body. Return the function that decodes it, which takes time and belongs into a thread."""
    body = await request.body()
    encoding = ", ".join(request.headers.getlist("content-encoding"))
    return lambda: decode_body(body, encoding, MAX_PUSH_BODY_BYTES[request.scope["path"]])


def _event_response(result: Accepted) -> Response:
    if result.rejected:
        (rejected,) = result.rejected
        return json_response(ErrorResponse(error=rejected.reason), _rejection_status(conflict=rejected.conflict))
    return json_response(StatusResponse(status="accepted" if result.accepted else "duplicate"), 202)


def _batch_response(result: Accepted) -> Response:
    rejected = [
        RejectedEvent(index=event.index, status=_rejection_status(conflict=event.conflict), reason=event.reason)
        for event in result.rejected
    ]
    response = BatchResponse(accepted=result.accepted, duplicate=result.duplicates, rejected=rejected)
    return json_response(response, 207 if rejected else 202)


def _rejection_status(*, conflict: bool) -> int:
    return 409 if conflict else 422
