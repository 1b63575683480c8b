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

from exporter.errors import QueryRefused
from exporter.history.remote_read_protocol import LONGEST_REQUEST
from exporter.metrics.exposition import OPENMETRICS, TEXT, Page
from exporter.web.body_limit import Bodies
from exporter.web.middleware import Gate, Terms
from exporter.web.push_routes import LONGEST, Desk, push_routes

READ = "/api/v1/read"

AT_ONCE = 1 << 18
"""Bytes handed to the server at once: for a slow client it holds a few of these, not a copy of the whole page."""

READS_AT_ONCE = 2
"""Remote reads answered at the same time; each may hold as many samples as its limit allows."""


@dataclass(frozen=True, slots=True)
class Views:
    """What the routes show; each is called anew for every request."""

    page: Callable[[], Page]
    tail: Callable[[bool], bytes]
    """Metrics about ourselves, fresh; True for OpenMetrics, then with its end mark."""
    landing: Callable[[], str]
    ready: Callable[[], str]
    """Empty when ready, else what is missing."""
    read: Callable[[bytes], bytes]
    """Answer a remote read; raises QueryRefused."""
    desk: Desk | None = None
    """For those who push; None where nobody does."""
    reload: Callable[[], str] | None = None
    """Load the configuration again; empty when it was taken over, else every problem. None: not allowed over HTTP."""


def build(views: Views, terms: Callable[[], Terms] | None = None) -> ASGIApp:
    """Return the ASGI application; `terms` are asked at every request on which terms it may come in, None: on any."""
    pushed = push_routes(views.desk) if views.desk else []
    limited = Bodies(Starlette(routes=[*_shown(views), *_done(views), *pushed]), {READ: LONGEST_REQUEST, **LONGEST})
    return limited if terms is None else Gate(limited, terms, others=LONGEST)


def _shown(views: Views) -> list[Route]:
    async def metrics(request: Request) -> Response:
        openmetrics = prefers_openmetrics(request.headers.get("accept", ""))
        tail, page = views.tail(openmetrics), views.page()
        headers = {"content-type": OPENMETRICS if openmetrics else TEXT, "vary": "Accept, Accept-Encoding"}
        if accepts_gzip(request.headers.get("accept-encoding", "")):
            headers["content-encoding"] = "gzip"
            return Pieces(page.gzipped(tail, openmetrics=openmetrics), headers)
        return Pieces(page.plain(tail, openmetrics=openmetrics), headers)

    async def landing(_: Request) -> Response:
        # It reads the ledger: a scrape must not wait for it.
        return HTMLResponse(await run_in_threadpool(views.landing), headers={"cache-control": "no-store"})

    async def healthy(_: Request) -> Response:
        return PlainTextResponse("ai-spend-exporter is healthy.\n")

    async def ready(_: Request) -> Response:
        missing = views.ready()
        return PlainTextResponse(f"{missing or 'ai-spend-exporter is ready.'}\n", status_code=503 if missing else 200)

    return [
        Route("/", landing),
        Route("/metrics", metrics),
        Route("/-/healthy", healthy),
        Route("/-/ready", ready),
    ]


def _done(views: Views) -> list[Route]:
    reads = CapacityLimiter(READS_AT_ONCE)

    async def read(request: Request) -> Response:
        try:
            body = await to_thread.run_sync(views.read, await request.body(), limiter=reads)
        except QueryRefused as error:
            return PlainTextResponse(f"Remote read refused: {error}.\n", status_code=400)
        return Pieces([body], {"content-type": "application/x-protobuf", "content-encoding": "snappy"})

    async def reload(_: Request) -> Response:
        if views.reload is None:
            return PlainTextResponse("Start with --web.enable-lifecycle to allow this.\n", status_code=403)
        problems = await run_in_threadpool(views.reload)
        return PlainTextResponse(f"{problems or 'Configuration reloaded.'}\n", status_code=500 if problems else 200)

    return [Route(READ, read, methods=["POST"]), Route("/-/reload", reload, methods=["POST", "PUT"])]


class Pieces(Response):
    """A body in pieces that already exist, sent one after the other without being joined."""

    def __init__(self, pieces: Sequence[bytes], headers: dict[str, str]) -> None:
        super().__init__(headers={**headers, "content-length": str(sum(map(len, pieces)))})
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """Send the head and the pieces; a HEAD request gets the head."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        pieces = [] if scope["method"] == "HEAD" else self._pieces
        for piece in pieces:
            for start in range(0, len(piece), AT_ONCE):
                await send({"type": "http.response.body", "body": piece[start : start + AT_ONCE], "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def prefers_openmetrics(accept: str) -> bool:
    """Tell whether an Accept header ranks OpenMetrics above the text format; at equal rank it does."""
    rank = _ranks(accept)
    wanted = rank.get("application/openmetrics-text", 0.0)
    return wanted > 0 and wanted >= rank.get("text/plain", 0.0)


def accepts_gzip(accept_encoding: str) -> bool:
    """Tell whether an Accept-Encoding header allows gzip."""
    rank = _ranks(accept_encoding)
    return rank.get("gzip", rank.get("*", 0.0)) > 0


def _ranks(header: str) -> dict[str, float]:
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
