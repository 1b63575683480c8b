"""The ASGI application and its monitoring routes. /metrics sends bytes that were rendered when the data changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anyio import CapacityLimiter, to_thread
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from exporter.errors import LedgerError, QueryRejected, RereadRejected
from exporter.history.remote_read_protocol import MAX_REQUEST_BYTES
from exporter.metrics.exposition import OPENMETRICS_CONTENT_TYPE, TEXT_CONTENT_TYPE, Page
from exporter.polling.reread import RereadPlan, RereadRequest, parse_request
from exporter.push.service import PushService
from exporter.web.api import MAX_PUSH_BODY_BYTES, REREAD_PATH, ErrorResponse, RereadResponse, json_response
from exporter.web.middleware import AccessMiddleware, AccessPolicy, BodyLimit, RequestCheck
from exporter.web.push_routes import build_push_routes

REMOTE_READ_PATH = "/api/v1/read"

MONITORING_PATHS = ("/metrics", "/-/healthy", "/-/ready")
"""Paths that are answered however many other requests there are."""

CHUNK_BYTES = 1 << 18
"""Bytes handed to the server at once: for a slow client it buffers a few of these, not a copy of the whole page."""

MAX_CONCURRENT_READS = 2
"""Remote reads processed at the same time; each may hold as many samples in memory as its limit allows."""


@dataclass(frozen=True, slots=True)
class Handlers:
    """The functions behind the routes; they are called for every request."""

    page: Callable[[], Page]
    self_metrics: Callable[[bool], bytes]
    """The exporter's own metrics, current; True: in OpenMetrics format, with its end marker."""
    landing_page: Callable[[], str]
    not_ready_reason: Callable[[], str]
    """Empty when ready."""
    remote_read: Callable[[bytes], bytes]
    """Body of a remote read -> body of its response; raises QueryRejected."""
    reload: Callable[[], str] | None = None
    """Load and apply the configuration; return every problem, empty if there is none. None: not allowed over HTTP."""
    reread: Callable[[RereadRequest], RereadPlan] | None = None
    """Have past days read again; raises RereadRejected and LedgerError. None: not allowed over HTTP."""
    push: PushService | None = None
    """None: the JSON API is not served."""
    summarize: Callable[[int], Mapping[str, Any]] = lambda _: {}
    """Number of days -> summary of the JSON API; may raise LedgerError."""
    on_ledger_error: Callable[[LedgerError], None] = lambda _: None
    """Called if the ledger fails while a request of the JSON API is processed."""


def build_asgi_app(handlers: Handlers, get_policy: Callable[[], AccessPolicy] | None = None) -> ASGIApp:
    """Return the ASGI application. `get_policy` is called for every request; None: all requests are allowed."""
    routes = [*_monitoring_routes(handlers), *_action_routes(handlers)]
    if handlers.push is not None:
        routes += build_push_routes(handlers.push, handlers.summarize, handlers.on_ledger_error)
    starlette = Starlette(routes=routes)
    # A redirect from `/metrics/` would repeat the Host header, whatever it is, as the address of the target.
    starlette.router.redirect_slashes = False
    app: ASGIApp = BodyLimit(starlette, {REMOTE_READ_PATH: MAX_REQUEST_BYTES, **MAX_PUSH_BODY_BYTES})
    if get_policy is not None:
        # Pushes have their own authentication, by bearer token.
        app = AccessMiddleware(app, get_policy, exempt_paths=MAX_PUSH_BODY_BYTES)
    return RequestCheck(app)


def _monitoring_routes(handlers: Handlers) -> list[Route]:
    async def metrics(request: Request) -> Response:
        openmetrics = prefers_openmetrics(request.headers.get("accept", ""))
        self_metrics, page = handlers.self_metrics(openmetrics), handlers.page()
        headers = {
            "content-type": OPENMETRICS_CONTENT_TYPE if openmetrics else TEXT_CONTENT_TYPE,
            "vary": "Accept, Accept-Encoding",
        }
        if accepts_gzip(request.headers.get("accept-encoding", "")):
            headers["content-encoding"] = "gzip"
            return SegmentedResponse(page.gzipped(self_metrics, openmetrics=openmetrics), headers)
        return SegmentedResponse(page.plain(self_metrics, openmetrics=openmetrics), headers)

    async def landing(_: Request) -> Response:
        # In a thread, since it reads the ledger: scrapes must not wait for it.
        return HTMLResponse(await run_in_threadpool(handlers.landing_page), headers={"cache-control": "no-store"})

    async def healthy(_: Request) -> Response:
        return PlainTextResponse("ai-spend-exporter is healthy.\n")

    async def ready(_: Request) -> Response:
        reason = handlers.not_ready_reason()
        return PlainTextResponse(f"{reason or 'ai-spend-exporter is ready.'}\n", status_code=503 if reason else 200)

    return [
        Route("/", landing),
        Route("/metrics", metrics),
        Route("/-/healthy", healthy),
        Route("/-/ready", ready),
    ]


def _action_routes(handlers: Handlers) -> list[Route]:
    read_limiter = CapacityLimiter(MAX_CONCURRENT_READS)

    async def read(request: Request) -> Response:
        try:
            body = await to_thread.run_sync(handlers.remote_read, await request.body(), limiter=read_limiter)
        except QueryRejected as error:
            return PlainTextResponse(f"Remote read refused: {error}.\n", status_code=400)
        except LedgerError as error:
            handlers.on_ledger_error(error)
            return PlainTextResponse("The ledger cannot be read.\n", status_code=503)
        return SegmentedResponse([body], {"content-type": "application/x-protobuf", "content-encoding": "snappy"})

    async def reload(_: Request) -> Response:
        if handlers.reload is None:
            return PlainTextResponse("Start with --web.enable-lifecycle to allow this.\n", status_code=403)
        problems = await run_in_threadpool(handlers.reload)
        return PlainTextResponse(f"{problems or 'Configuration reloaded.'}\n", status_code=500 if problems else 200)

    async def reread(request: Request) -> Response:
        if handlers.reread is None:
            return json_response(ErrorResponse(error="start with --web.enable-lifecycle to allow this"), 403)
        try:
            parsed = parse_request(request.query_params.multi_items())
            plan = await run_in_threadpool(handlers.reread, parsed)
        except RereadRejected as error:
            return json_response(ErrorResponse(error=str(error)), error.status)
        except LedgerError as error:
            handlers.on_ledger_error(error)
            return json_response(ErrorResponse(error="the ledger cannot be read"), 503)
        return json_response(RereadResponse.from_plan(plan), 202)

    return [
        Route(REMOTE_READ_PATH, read, methods=["POST"]),
        Route("/-/reload", reload, methods=["POST", "PUT"]),
        Route(REREAD_PATH, reread, methods=["POST"]),
    ]


class SegmentedResponse(Response):
    """A response whose body consists of existing byte strings, sent one after the other without joining them."""

    def __init__(self, segments: Sequence[bytes], headers: dict[str, str]) -> None:
        super().__init__(headers={**headers, "content-length": str(sum(map(len, segments)))})
        self._segments = segments

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """Send the headers and, unless the method is HEAD, the segments in chunks."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        segments = [] if scope["method"] == "HEAD" else self._segments
        for segment in segments:
            for start in range(0, len(segment), CHUNK_BYTES):
                chunk = segment[start : start + CHUNK_BYTES]
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def prefers_openmetrics(accept: str) -> bool:
    """Return whether an Accept header ranks OpenMetrics at least as high as the text format."""
    quality = _quality_values(accept)
    openmetrics = quality.get("application/openmetrics-text", 0.0)
    return openmetrics > 0 and openmetrics >= quality.get("text/plain", 0.0)


def accepts_gzip(accept_encoding: str) -> bool:
    """Return whether an Accept-Encoding header allows gzip."""
    quality = _quality_values(accept_encoding)
    return quality.get("gzip", quality.get("*", 0.0)) > 0


def _quality_values(header: str) -> dict[str, float]:
    """Parse `a;q=0.5, b` into {a: 0.5, b: 1.0}; a repeated name has its highest value, an invalid value counts as 0."""
    qualities: dict[str, float] = {}
    for part in header.split(","):
        name, *parameters = (word.strip().lower() for word in part.split(";"))
        text = next((parameter[2:] for parameter in parameters if parameter.startswith("q=")), "1")
        try:
            quality = float(text)
        except ValueError:
            quality = 0.0
        qualities[name] = max(quality, qualities.get(name, 0.0))
    return qualities
