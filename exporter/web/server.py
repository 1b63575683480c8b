"""The HTTP server around a running exporter: sockets, signals, and an end that is clean."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Protocol

import uvicorn

from exporter.errors import ExporterError, LedgerError
from exporter.web import Handlers, LimitedEventLoop, LimitedProtocol, WebConfigReloader, build_asgi_app
from exporter.web.body_limit import MAX_HEADER_BYTES


class Service(Protocol):
    """What runs beside the HTTP server: started before it, stopped after it."""

    on_fatal: Callable[[], None]
    web_config_healthy: Callable[[], bool]

    @property
    def fatal(self) -> LedgerError | None:
        """Why the process has to end; None while it need not."""
        ...

    def start(self) -> None:
        """Begin to work."""
        ...

    def stop(self) -> None:
        """End all work."""
        ...


class AddressError(ExporterError):
    """The address to listen on cannot be had."""


def listen(address: str) -> socket.socket:
    """Open `host:port` or `:port`. Raises AddressError with what to do."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
        raise AddressError(f"--web.listen-address={address}: not an address; write :10042 or 127.0.0.1:10042.")
    family = socket.AF_INET6 if ":" in host or not host else socket.AF_INET
    try:
        return _bind(family, host, int(port))
    except OSError as error:
        # A machine without IPv6 still has all of IPv4.
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
    """Return where a socket listens, as it is written in an address: `127.0.0.1:10042`, `[::]:10042`."""
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _bind(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    # asyncio turns Nagle's delay off only where the protocol is said: without it a small answer takes 40 ms.
    opened = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        opened.bind((host, port))
        opened.listen(128)
    except OSError:
        opened.close()
        raise
    return opened


class _Server(uvicorn.Server):
    """A server whose signals are ours: SIGTERM is a clean end with status 0, not an end by signal."""

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        with asyncio.Runner(loop_factory=LimitedEventLoop) as runner:
            runner.run(self.serve(sockets))

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def create_server(handlers: Handlers, web_reloader: WebConfigReloader | None = None) -> uvicorn.Server:
    """Return a server that runs until its `should_exit` is set."""
    terms, context = (web_reloader.current_policy, web_reloader.ssl_context) if web_reloader else (None, None)
    return _Server(
        uvicorn.Config(
            build_asgi_app(handlers, terms),
            http=LimitedProtocol,
            ws="none",
            ssl_context_factory=(lambda *_: context) if context else None,
            h11_max_incomplete_event_size=MAX_HEADER_BYTES,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=3,
        )
    )


def serve(
    app: Service,
    handlers: Handlers,
    sock: socket.socket,
    on_sighup: Callable[[], object],
    web_reloader: WebConfigReloader | None = None,
) -> None:
    """Poll and answer until SIGTERM, SIGINT or a broken ledger; SIGHUP calls `on_hangup`. Ends what it began.

    `entrance` says who may come in, and how; None: everybody, by plain HTTP. Raises LedgerError where the ledger broke.
    """
    server = create_server(handlers, web_reloader)
    if web_reloader is not None:
        app.web_config_healthy = lambda: web_reloader.healthy

    def end(*_: object) -> None:
        server.should_exit = True

    app.on_fatal = end
    previous = {one: signal.signal(one, end) for one in (signal.SIGTERM, signal.SIGINT)}
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
