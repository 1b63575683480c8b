"""How long clients are waited for, and how many may be connected: nobody can keep others out by being slow or idle."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.h11_impl import H11Protocol


class LimitedEventLoop(asyncio.SelectorEventLoop):
    """An event loop whose servers do not wait long for the TLS handshake."""

    HANDSHAKE_TIMEOUT = 5.0
    """Seconds."""

    async def create_server(self, *args: Any, **kwargs: Any) -> asyncio.Server:
        """Create a server as asyncio does."""
        patience = self.HANDSHAKE_TIMEOUT if kwargs.get("ssl") else None
        return await super().create_server(*args, **kwargs, ssl_handshake_timeout=patience)


class LimitedProtocol(H11Protocol):
    """A connection that is cut when its client dawdles, or when others need its place."""

    HEADER_TIMEOUT = 5.0
    """Seconds for the head of a request, from the connection or from its first byte on."""
    REQUEST_TIMEOUT = 120.0
    """Seconds for a request, from its head until all of the answer is on its way, however slowly the client reads."""
    MAX_CONNECTIONS = 256
    """Connections. One more gets the place of that which has been idle the longest, strangers' first."""

    idle_since = 0.0
    """When no request was under way any more, by the loop's clock."""
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in uvicorn
        """Wait for the head of the first request."""
        super().connection_made(transport)
        self.idle_since = self.loop.time()
        self._set_deadline(self.HEADER_TIMEOUT)
        if len(self.connections) > self.MAX_CONNECTIONS:
            self._evict_connection()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        self._set_deadline(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came; the first bytes after an answer begin a head."""
        if self._deadline is None:
            self._set_deadline(self.HEADER_TIMEOUT)
        super().data_received(data)

    def handle_events(self) -> None:
        """Begin the requests whose heads are complete."""
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self._set_deadline(self.REQUEST_TIMEOUT)

    def on_response_complete(self) -> None:
        """Wait for the next request; where the connection is to be closed, for its client to read all."""
        self.idle_since = self.loop.time()
        if not self.transport.is_closing():
            self._set_deadline(None)
        super().on_response_complete()

    def timeout_keep_alive_handler(self) -> None:
        """Close what has long been idle, even if its client never reads what it was sent."""
        super().timeout_keep_alive_handler()
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    def _set_deadline(self, seconds: float | None) -> None:
        """Cut the connection in so many seconds, instead of when it was to be cut; or not at all."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if seconds is None else self.loop.call_later(seconds, self.transport.abort)

    def _evict_connection(self) -> None:
        there = [one for one in cast("set[LimitedProtocol]", self.connections) if not one.transport.is_closing()]
        if len(there) > self.MAX_CONNECTIONS:
            idle = [one for one in there if one.is_idle and one is not self] or [self]
            min(idle, key=lambda one: (one.cycle is not None, one.idle_since)).transport.abort()

    @property
    def is_idle(self) -> bool:
        """Whether no request is under way."""
        return self.cycle is None or self.cycle.response_complete
