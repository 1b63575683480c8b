"""The HTTP server of a running exporter: its socket, signals, start and stop."""

from __future__ import annotations

import contextlib
import errno
import re
import signal
import socket
import threading
from collections.abc import Callable
from typing import Protocol

import uvicorn

from exporter.errors import ExporterError, LedgerError
from exporter.web.config_reload import WebConfigReloader
from exporter.web.connection_limits import ConnectionLimits, RequestTracker, limit_connections
from exporter.web.middleware import MAX_HEADER_BYTES
from exporter.web.routes import MONITORING_PATHS, Handlers, build_asgi_app

LISTEN_BACKLOG = 2048
"""Connections that wait in the kernel to be accepted, where that allows as many; others are lost or tried again."""
ACCEPT_BATCH = 16
"""Connections that the event loop accepts before it reads from those that it has accepted.

Among thousands of silent connections, a scrape is recognized by its request before so many newer connections were
accepted that it would be closed for them, and no more files are open than the limit of connections and a batch.
"""


class Service(Protocol):
    """A service that runs beside the HTTP server: started before it, stopped after it."""

    on_fatal: Callable[[], None]
    web_config_healthy: Callable[[], bool]

    @property
    def fatal(self) -> LedgerError | None:
        """The reason why the process must exit; None if there is none."""
        ...

    def start(self) -> None:
        """Start to work."""
        ...

    def stop(self) -> None:
        """Stop all work."""
        ...


class AddressError(ExporterError):
    """An address that cannot be listened on."""


def listen(address: str) -> socket.socket:
    """Return a socket that listens on `host:port` or `:port`. Raises AddressError with advice."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
        raise AddressError(f"--web.listen-address={address}: not an address; write :10042 or 127.0.0.1:10042.")
    family = socket.AF_INET6 if ":" in host or not host else socket.AF_INET
    try:
        return _bind(family, host, int(port))
    except OSError as error:
        # On a machine without IPv6, `:port` means all IPv4 addresses.
        if not host and error.errno in _NO_IPV6:
            with contextlib.suppress(OSError):
                return _bind(socket.AF_INET, host, int(port))
        raise AddressError(f"Cannot listen on {address}: {error.strerror or error}. {_advice(port, error)}") from error
    except UnicodeError:
        raise AddressError(f"--web.listen-address={address}: no host can have this name.") from None


_NO_IPV6 = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}


def _advice(port: str, error: OSError) -> str:
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return "Give --web.listen-address an address of this machine, or none (`:10042`) for all of them."
    if error.errno in (errno.EACCES, errno.EPERM):
        return "This user may not have that port: choose one above 1023 with --web.listen-address."
    return (
        f"If another exporter runs already, stop it (`ss -ltnp 'sport = :{port}'` shows which process it is), "
        "or choose another address with --web.listen-address."
    )


def format_address(sock: socket.socket) -> str:
    """Return the address a socket listens on, such as `127.0.0.1:10042` or `[::]:10042`."""
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _bind(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    # asyncio disables Nagle's algorithm only on sockets with an explicit protocol; with it, small responses take 40 ms.
    opened = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        opened.bind((host, port))
        opened.listen(LISTEN_BACKLOG)
    except OSError:
        opened.close()
        raise
    return opened


class _Server(uvicorn.Server):
    """uvicorn's server, with a queue of connections in the kernel that is longer than the batch that it accepts."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for sock in sockets or ():
            # asyncio has set the queue's length to that of a batch.
            sock.listen(LISTEN_BACKLOG)


def create_server(
    handlers: Handlers,
    web_reloader: WebConfigReloader | None = None,
    limits: ConnectionLimits = ConnectionLimits(),  # noqa: B008 - immutable
) -> uvicorn.Server:
    """Return a server that runs until its `should_exit` is set. Without `web_reloader`: plain HTTP for everybody."""
    get_policy = web_reloader.current_policy if web_reloader else None
    get_ssl_context = web_reloader.current_ssl_context if web_reloader and web_reloader.config.tls else None
    return _Server(
        uvicorn.Config(
            RequestTracker(build_asgi_app(handlers, get_policy), MONITORING_PATHS),
            loop="asyncio",
            http=limit_connections(limits, get_ssl_context),
            ws="none",
            h11_max_incomplete_event_size=MAX_HEADER_BYTES,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_keep_alive=limits.keep_alive_timeout,
            timeout_graceful_shutdown=3,
            backlog=ACCEPT_BATCH,
        )
    )


def serve(
    app: Service,
    handlers: Handlers,
    sock: socket.socket,
    on_sighup: Callable[[], object],
    web_reloader: WebConfigReloader | None = None,
) -> None:
    """Run until SIGTERM, SIGINT or a fatal error of the ledger; SIGHUP calls `on_sighup` in a thread.

    Without `web_reloader`: plain HTTP for everybody. Raises LedgerError after the fatal error.
    """
    server = create_server(handlers, web_reloader)
    if web_reloader is not None:
        app.web_config_healthy = lambda: web_reloader.healthy

    def stop(*_: object) -> None:
        server.should_exit = True

    app.on_fatal = stop
    # While it runs, uvicorn handles SIGTERM and SIGINT itself, and raises them again after its clean shutdown: this
    # handler then makes them a normal exit, with status 0. It also covers the time before and after uvicorn runs.
    previous = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    previous[signal.SIGHUP] = signal.signal(signal.SIGHUP, lambda *_: threading.Thread(target=on_sighup).start())
    try:
        app.start()
        server.run(sockets=[sock])
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        app.stop()
    if app.fatal is not None:
        raise app.fatal
