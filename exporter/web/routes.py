"""The routes. /metrics hands over bytes that were rendered when the data changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from anyio import CapacityLimiter, to_thread
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from exporter.errors import QueryRejected
from exporter.history.remote_read_protocol import MAX_REQUEST_BYTES
from exporter.metrics.exposition import OPENMETRICS_CONTENT_TYPE, TEXT_CONTENT_TYPE, Page
from exporter.web.body_limit import BodyLimit
from exporter.web.middleware import AccessMiddleware, AccessPolicy
from exporter.web.push_routes import MAX_BODY_BYTES, PushHandlers, build_push_routes

REMOTE_READ_PATH = "/api/v1/read"

CHUNK_BYTES = 1 << 18
"""Bytes handed to the server at once: for a slow client it holds a few of these, not a copy of the whole page."""

MAX_CONCURRENT_READS = 2
"""Remote reads answered at the same time; each may hold as many samples as its limit allows."""


@dataclass(frozen=True, slots=True)
class Handlers:
    """What the routes show; each is called anew for every request."""

    page: Callable[[], Page]
    self_metrics: Callable[[bool], bytes]
    """Metrics about ourselves, fresh; True for OpenMetrics, then with its end mark."""
    landing_page: Callable[[], str]
    not_ready_reason: Callable[[], str]
    """Empty when ready, else what is missing."""
    remote_read: Callable[[bytes], bytes]
    """Answer a remote read; raises QueryRefused."""
    push: PushHandlers | None = None
    """For those who push; None where nobody does."""
    reload: Callable[[], str] | None = None
    """Load the configuration again; empty when it was taken over, else every problem. None: not allowed over HTTP."""


def build_asgi_app(handlers: Handlers, get_policy: Callable[[], AccessPolicy] | None = None) -> ASGIApp:
    """Return the ASGI application; `terms` are asked at every request on which terms it may come in, None: on any."""
    pushed = build_push_routes(handlers.push) if handlers.push else []
    limited = BodyLimit(
        Starlette(routes=[*_monitoring_routes(handlers), *_action_routes(handlers), *pushed]),
        {REMOTE_READ_PATH: MAX_REQUEST_BYTES, **MAX_BODY_BYTES},
    )
    return limited if get_policy is None else AccessMiddleware(limited, get_policy, exempt_paths=MAX_BODY_BYTES)


def _monitoring_routes(handlers: Handlers) -> list[Route]:
    async def metrics(request: Request) -> Response:
        openmetrics = prefers_openmetrics(request.headers.get("accept", ""))
        tail, page = handlers.self_metrics(openmetrics), handlers.page()
        headers = {
            "content-type": OPENMETRICS_CONTENT_TYPE if openmetrics else TEXT_CONTENT_TYPE,
            "vary": "Accept, Accept-Encoding",
        }
        if accepts_gzip(request.headers.get("accept-encoding", "")):
            headers["content-encoding"] = "gzip"
            return SegmentedResponse(page.gzipped(tail, openmetrics=openmetrics), headers)
        return SegmentedResponse(page.plain(tail, openmetrics=openmetrics), headers)

    async def landing(_: Request) -> Response:
        # It reads the ledger: a scrape must not wait for it.
        return HTMLResponse(await run_in_threadpool(handlers.landing_page), headers={"cache-control": "no-store"})

    async def healthy(_: Request) -> Response:
        return PlainTextResponse("ai-spend-exporter is healthy.\n")

    async def ready(_: Request) -> Response:
        missing = handlers.not_ready_reason()
        return PlainTextResponse(f"{missing or 'ai-spend-exporter is ready.'}\n", status_code=503 if missing else 200)

    return [
        Route("/", landing),
        Route("/metrics", metrics),
        Route("/-/healthy", healthy),
        Route("/-/ready", ready),
    ]


def _action_routes(handlers: Handlers) -> list[Route]:
    reads = CapacityLimiter(MAX_CONCURRENT_READS)

    async def read(request: Request) -> Response:
        try:
            body = await to_thread.run_sync(handlers.remote_read, await request.body(), limiter=reads)
        except QueryRejected as error:
            return PlainTextResponse(f"Remote read refused: {error}.\n", status_code=400)
        return SegmentedResponse([body], {"content-type": "application/x-protobuf", "content-encoding": "snappy"})

    async def reload(_: Request) -> Response:
        if handlers.reload is None:
            return PlainTextResponse("Start with --web.enable-lifecycle to allow this.\n", status_code=403)
        problems = await run_in_threadpool(handlers.reload)
        return PlainTextResponse(f"{problems or 'Configuration reloaded.'}\n", status_code=500 if problems else 200)

    return [Route(REMOTE_READ_PATH, read, methods=["POST"]), Route("/-/reload", reload, methods=["POST", "PUT"])]


class SegmentedResponse(Response):
    """A body in pieces that already exist, sent one after the other without being joined."""

    def __init__(self, segments: Sequence[bytes], headers: dict[str, str]) -> None:
        super().__init__(headers={**headers, "content-length": str(sum(map(len, segments)))})
        self._segments = segments

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """Send the head and the pieces; a HEAD request gets the head."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        pieces = [] if scope["method"] == "HEAD" else self._segments
        for piece in pieces:
            for start in range(0, len(piece), CHUNK_BYTES):
                await send(
                    {"type": "http.response.body", "body": piece[start : start + CHUNK_BYTES], "more_body": True}
                )
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def prefers_openmetrics(accept: str) -> bool:
    """Tell whether an Accept header ranks OpenMetrics above the text format; at equal rank it does."""
    rank = _quality_values(accept)
    wanted = rank.get("application/openmetrics-text", 0.0)
    return wanted > 0 and wanted >= rank.get("text/plain", 0.0)


def accepts_gzip(accept_encoding: str) -> bool:
    """Tell whether an Accept-Encoding header allows gzip."""
    rank = _quality_values(accept_encoding)
    return rank.get("gzip", rank.get("*", 0.0)) > 0


def _quality_values(header: str) -> dict[str, float]:
    """`a;q=0.5, b` -> {a: 0.5, b: 1.0}; of one name told twice the higher, an unreadable q as 0."""
    ranks: dict[str, float] = {}
    for part in header.split(","):
        name, *parameters = (word.strip().lower() for word in part.split(";"))
        quality = next((one[2:] for one in parameters if one.startswith("q=")), "1")
        try:
            rank = float(quality)
        except ValueError:
            rank = 0.0
        ranks[name] = max(rank, ranks.get(name, 0.0))
    return ranks
