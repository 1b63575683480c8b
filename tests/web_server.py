"""Web configurations, and the HTTP server in the test's own process, on loopback, with constant pages."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import bcrypt
import yaml

from exporter.metrics.exposition import Page, Section
from exporter.web import ConnectionLimits, Handlers, WebConfigReloader
from exporter.web.server import create_server, format_address, listen

TLS = {"cert_file": "server.crt", "key_file": "server.key"}
"""The minimum of `tls_server_config`."""


@dataclass
class ManualClock:
    """A monotonic clock in seconds that stands still until a test moves it."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Move the clock."""
        self.now += seconds


class AdvanceableLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock a test can move forward, so that no test waits for a timeout."""

    _offset = 0.0

    def time(self) -> float:
        """Return the loop's time in seconds."""
        return super().time() + self._offset

    def advance(self, seconds: float) -> None:
        """Move the clock, from any thread. uvicorn wakes the loop ten times a second: then overdue timers run."""
        self._offset += seconds


def hash_password(password: str, cost: int = 4) -> str:
    """Return the bcrypt hash of a password."""
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(cost)).decode()


def write_web_config(folder: Path, **sections: object) -> Path:
    """Replace the web configuration atomically; only its owner may read it."""
    new = folder / "web.new"
    new.touch(mode=0o600)
    new.write_text(yaml.safe_dump(sections, sort_keys=False))
    return new.replace(folder / "web.yml")


def make_handlers(size: int = 1000) -> Handlers:
    """Return handlers: /metrics has `size` bytes, a remote read returns its body reversed, and / raises an error."""
    page = Page.from_sections(Section.compress(b"#" * size), Section.compress(b""), Section.compress(b""))
    return Handlers(
        page=lambda: page,
        self_metrics=lambda _: b"\n",
        landing_page=_raise_error,
        not_ready_reason=lambda: "",
        remote_read=lambda body: body[::-1],
    )


def _raise_error() -> str:
    raise ZeroDivisionError("an internal error")


@contextmanager
def serve(
    reloader: WebConfigReloader | None = None,
    handlers: Handlers | None = None,
    limits: ConnectionLimits = ConnectionLimits(),  # noqa: B008 - immutable
    sock: socket.socket | None = None,
    loop: asyncio.AbstractEventLoop | None = None,
) -> Iterator[str]:
    """Serve handlers until the block ends, on a free port or on `sock`; yield `host:port`."""
    sock = sock or listen("127.0.0.1:0")
    server = create_server(handlers or make_handlers(), reloader, limits)

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop or asyncio.SelectorEventLoop()) as runner:
            runner.run(server.serve([sock]))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield format_address(sock)
    finally:
        server.should_exit = server.force_exit = True
        thread.join()
