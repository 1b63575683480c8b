"""Limits of connections: how many there may be, and how long the server waits for each client.

uvicorn has no settings for this. Two parts cooperate, both through public interfaces only: `LimitedProtocol` wraps
uvicorn's HTTP protocol as an asyncio protocol of its own (`Config(http=...)`), and the ASGI middleware
`RequestTracker` informs it when a request begins and ends. Written for uvicorn 0.54; pyproject.toml has an upper bound,
since uvicorn may change the arguments with which it constructs protocols.
"""

from __future__ import annotations

import asyncio
import functools
import operator
import ssl
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import h11
import uvicorn
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

_Phase = Literal["headers", "body", "request", "response"]
"""headers: all headers of a request; body: its complete body; request: the end of its response; response: that the
client reads the response."""

_STATE_KEY = "connection"
"""Where a request's ASGI scope has its connection: scope["state"][_STATE_KEY]."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Times are in seconds."""

    handshake_timeout: float = 5.0
    """For the TLS handshake."""
    header_timeout: float = 5.0
    """For the request line and headers, from the connection or from their first byte on."""
    body_timeout: float = 30.0
    """For the body of a request, from the end of its headers."""
    request_timeout: float = 120.0
    """For a request, from the end of its headers until the client has received the response, however slowly."""
    max_connections: int = 256
    """One more closes the connection whose client has kept the server waiting longest."""
    reserved_connections: int = 32
    """Further connections if none can be closed, since the server is busy with all of them: for monitoring only."""
    max_handshakes: int = 128
    """Unfinished TLS handshakes, of 300 KiB each, which is more than a request has; one more closes the oldest."""
    keep_alive_timeout: int = 75
    """Between two requests of a connection."""


@dataclass(slots=True)
class _Connections:
    """All open connections of a server, in the order in which they were opened."""

    limits: ConnectionLimits
    get_ssl_context: Callable[[], ssl.SSLContext] | None
    open: dict[LimitedProtocol, None] = field(default_factory=dict)

    def enforce_maximum(self, newest: LimitedProtocol) -> None:
        """Close a connection that waits for its client if there are too many.

        If the server is busy with all of them, the newest is closed once the reserved ones are used as well.
        """
        if self.get_ssl_context is not None and self._close_oldest_handshake():
            return
        # This is evaluated for every connection, also for thousands within a second: one pass, and only where needed.
        if len(self.open) <= self.limits.max_connections:
            return
        remaining = [connection for connection in self.open if not connection.closing]
        if len(remaining) <= self.limits.max_connections:
            return
        between: list[LimitedProtocol] = []
        unfinished: list[LimitedProtocol] = []
        for connection in remaining:
            if connection is not newest and connection.waits_for_client:
                (between if connection.is_between_requests else unfinished).append(connection)
        if between or unfinished:
            # From the larger of two groups, those between two requests and those in the middle of one: so neither a
            # scraper's idle connection nor its new one is the first to be closed, whatever the others do.
            victims = between if len(between) > len(unfinished) else unfinished
            min(victims, key=operator.attrgetter("waits_since")).abort()
        elif len(remaining) > self.limits.max_connections + self.limits.reserved_connections:
            newest.abort()

    def _close_oldest_handshake(self) -> bool:
        """Close the oldest connection in its TLS handshake if there are too many; return whether there were."""
        # Connections are in the order in which they were opened.
        in_handshake = [connection for connection in self.open if connection.in_handshake and not connection.closing]
        if len(in_handshake) <= self.limits.max_handshakes:
            return False
        in_handshake[0].abort()
        return True

    @property
    def only_reserved(self) -> bool:
        """Whether only reserved connections are left: all others have requests, without counting the newest one."""
        maximum = self.limits.max_connections
        # This is evaluated for every request: the usual case must not count.
        if len(self.open) <= maximum:
            return False
        return sum(not connection.idle and not connection.closing for connection in self.open) > maximum


class LimitedProtocol(asyncio.Protocol):
    """A connection with limits around uvicorn's HTTP protocol, which gets every event that asyncio reports."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        connections: _Connections,
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """`connections` is bound in advance; the other arguments are those that uvicorn gives to its protocols."""
        self._loop = _loop or asyncio.get_running_loop()
        self._connections = connections
        self._limits = connections.limits
        self._http = H11Protocol(config, server_state, {**app_state, _STATE_KEY: self}, self._loop)
        self._transport: asyncio.Transport | None = None
        self._serving = False
        """Whether uvicorn's protocol has the transport: at once, or after the TLS handshake."""
        self._early_data = b""
        """Received before the handshake was reported as complete."""
        self._handshake: asyncio.Task[None] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._waiting_for: _Phase | None = None
        """What the deadline is for; None: there is no deadline."""
        self._active_requests = 0
        self._has_incomplete_body = False
        """Whether a part of the body of the running request has not arrived yet."""
        self._had_request = False
        self._phase_start = 0.0
        """Time of the event loop at which the running request began or the last one ended, or the connection began."""
        self._request_deadline = 0.0

    @property
    def idle(self) -> bool:
        """Whether no request is being processed."""
        return self._active_requests == 0

    @property
    def in_handshake(self) -> bool:
        """Whether the TLS handshake has not ended."""
        return not self._serving

    @property
    def only_reserved(self) -> bool:
        """Whether the server is so busy that this connection may only be used for monitoring."""
        return self._connections.only_reserved

    @property
    def waits_for_client(self) -> bool:
        """Whether the server can do nothing for this connection until its client sends or reads something."""
        return self.idle or self._has_incomplete_body or self._has_unread_response()

    @property
    def is_between_requests(self) -> bool:
        """Whether the last request is answered and the next has not begun."""
        return self.idle and self._had_request

    @property
    def waits_since(self) -> float:
        """Time of the event loop from which on the connection waits for its client, if it does."""
        return self._phase_start

    @property
    def closing(self) -> bool:
        """Whether the connection is closed, or will be when its buffer is empty."""
        return self._transport is None or self._transport.is_closing()

    def abort(self) -> None:
        """Close the connection without waiting for the client."""
        # At once, not when the event loop calls connection_lost: many others may be opened before.
        self._connections.open.pop(self, None)
        if self._transport is not None:
            self._transport.abort()

    # asyncio's events

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the TLS handshake, or wait for the first request."""
        self._transport = cast("asyncio.Transport", transport)
        self._connections.open[self] = None
        self._phase_start = self._loop.time()
        if self._connections.get_ssl_context is None:
            self._serve(self._transport)
        else:
            # TLS starts here and not in the listening server, because only so each connection gets the current
            # certificate, and a handshake its own timeout.
            context = self._connections.get_ssl_context()
            self._handshake = self._loop.create_task(self._start_tls(self._transport, context))
        self._connections.enforce_maximum(self)

    def data_received(self, data: bytes) -> None:
        """Pass the data on; the first data after a response begins the next request's headers."""
        if not self._serving:
            self._early_data += data
            return
        if self.idle and self._waiting_for != "headers":
            self._wait_for("headers", self._limits.header_timeout)
        self._pass_on(data)

    def eof_received(self) -> None:
        """Let the transport close itself."""
        if self._serving:
            self._http.eof_received()

    def pause_writing(self) -> None:
        """Pass the event on."""
        if self._serving:
            self._http.pause_writing()

    def resume_writing(self) -> None:
        """Pass the event on."""
        if self._serving:
            self._http.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._forget()
        if self._serving:
            self._http.connection_lost(exc)

    # RequestTracker's events

    def request_started(self, *, has_body: bool) -> None:
        """The headers of a request are complete."""
        self._had_request = True
        self._active_requests += 1
        self._phase_start = self._loop.time()
        self._request_deadline = self._phase_start + self._limits.request_timeout
        self._has_incomplete_body = has_body
        if has_body:
            self._wait_for("body", self._limits.body_timeout)
        else:
            self._wait_for("request", self._limits.request_timeout)

    def body_received(self) -> None:
        """The body of the request is complete."""
        self._has_incomplete_body = False
        if self._waiting_for == "body":
            self._wait_for("request", self._request_deadline - self._loop.time())

    def request_finished(self) -> None:
        """The response is sent, as far as the client has read it; the transport buffers the remaining bytes."""
        self._active_requests -= 1
        self._has_incomplete_body = False
        self._phase_start = self._loop.time()
        if self._waiting_for in ("body", "request") and self.idle:
            self._waiting_for = "response"
            if self._response_is_read():
                self._wait_for(None)

    # Internals

    async def _start_tls(self, transport: asyncio.Transport, context: ssl.SSLContext) -> None:
        try:
            encrypted = await self._loop.start_tls(
                transport, self, context, server_side=True, ssl_handshake_timeout=self._limits.handshake_timeout
            )
        except OSError:  # Includes SSLError, timeouts and lost connections: the client's fault, not worth a log line.
            encrypted = None
        # A client that disconnects during its handshake makes start_tls return None, or a transport that is closed.
        if encrypted is None or encrypted.is_closing():
            transport.abort()
            self._forget()
        else:
            self._serve(encrypted)

    def _serve(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._serving = True
        self._wait_for("headers", self._limits.header_timeout)
        self._http.connection_made(transport)
        if self._early_data:
            early_data, self._early_data = self._early_data, b""
            self._pass_on(early_data)

    def _pass_on(self, data: bytes) -> None:
        try:
            self._http.data_received(data)
        except h11.LocalProtocolError:
            # A body that turns out to be invalid after the response: uvicorn tries to answer with 400 nevertheless.
            self.abort()

    def _forget(self) -> None:
        self._wait_for(None)
        self._connections.open.pop(self, None)

    def _has_unread_response(self) -> bool:
        return self._transport is not None and self._transport.get_write_buffer_size() > 0

    def _response_is_read(self) -> bool:
        # A transport that is closing waits for its client too, without any limit of its own.
        return not self.closing and not self._has_unread_response()

    def _wait_for(self, phase: _Phase | None, seconds: float = 0) -> None:
        """Replace the deadline by one in so many seconds; None: have no deadline."""
        if self._deadline is not None:
            self._deadline.cancel()
        # A request can begin after its client has disconnected: then there is no connection to limit.
        if phase is None or self not in self._connections.open:
            self._waiting_for, self._deadline = None, None
        else:
            self._waiting_for, self._deadline = phase, self._loop.call_later(seconds, self._on_deadline)

    def _on_deadline(self) -> None:
        phase, self._waiting_for, self._deadline = self._waiting_for, None, None
        if phase != "response" or not self._response_is_read():
            self.abort()


class RequestTracker:
    """Middleware that informs a connection when a request begins, and when its body and its response are complete.

    If only reserved connections are left, requests for other paths than those of monitoring are answered with 503.
    """

    def __init__(self, app: ASGIApp, monitoring_paths: Collection[str] = ()) -> None:
        """`app` must get the requests of LimitedProtocols only."""
        self._app = app
        self._monitoring_paths = frozenset(monitoring_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        connection: LimitedProtocol = scope["state"].pop(_STATE_KEY)

        async def tracked_send(message: Message) -> None:
            try:
                await send(message)
            except h11.LocalProtocolError:
                if not connection.closing:
                    raise
                # The body arrived with the head and is invalid: uvicorn has answered with 400 before this response, and
                # takes it for an error that no response is complete until the connection is closed.
                await _wait_for_disconnect(receive)
            # The end of the response counts, not the end of `app`: the client may send its next request in between.
            # Without that message, after an error, uvicorn closes the connection.
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                connection.request_finished()

        has_body = has_request_body(scope)

        async def tracked_receive() -> Message:
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body", False):
                connection.body_received()
            return message

        connection.request_started(has_body=has_body)
        if scope["path"] not in self._monitoring_paths and connection.only_reserved:
            headers = {"connection": "close", "retry-after": "1"}
            await PlainTextResponse("Too many requests at a time.\n", 503, headers)(scope, receive, tracked_send)
            return
        await self._app(scope, tracked_receive if has_body else receive, tracked_send)


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def has_request_body(scope: Scope) -> bool:
    """Return whether a request has a body that is not empty."""
    headers = dict[bytes, bytes](scope["headers"])
    return b"transfer-encoding" in headers or int(headers.get(b"content-length", 0)) > 0


def limit_connections(
    limits: ConnectionLimits, get_ssl_context: Callable[[], ssl.SSLContext] | None
) -> type[asyncio.Protocol]:
    """Return what `uvicorn.Config(http=...)` takes; the connections of one server share their limits.

    `get_ssl_context` is called for each connection; None: plain HTTP.
    """
    protocol = functools.partial(LimitedProtocol, connections=_Connections(limits, get_ssl_context))
    # uvicorn declares a class, and only calls it.
    return cast("type[asyncio.Protocol]", protocol)
