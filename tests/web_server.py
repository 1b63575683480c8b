"""Web configurations, and the HTTP server in the test's own process with pages that cost nothing, on loopback."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import bcrypt
import yaml

from exporter.metrics.exposition import Page, Section
from exporter.web import Handlers, LimitedProtocol, WebConfigReloader
from exporter.web.server import create_server, format_address, listen

TLS = {"cert_file": "server.crt", "key_file": "server.key"}
"""What `tls_server_config` holds at least."""


def hash_password(password: str, cost: int = 4) -> str:
    """Return what stands for a password in a web configuration."""
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(cost)).decode()


def write_web_config(folder: Path, **sections: object) -> Path:
    """Write a web configuration, whole at once, that only its owner may read."""
    fresh = folder / "web.new"
    fresh.touch(mode=0o600)
    fresh.write_text(yaml.safe_dump(sections, sort_keys=False))
    return fresh.replace(folder / "web.yml")


def make_handlers(size: int = 1000) -> Handlers:
    """Return views with a /metrics of so many bytes, an answer to a read that echoes it, and a broken page at /."""
    page = Page.from_sections(Section.compress(b"#" * size), Section.compress(b""), Section.compress(b""))
    return Handlers(
        page=lambda: page,
        self_metrics=lambda _: b"\n",
        landing_page=_raise_error,
        not_ready_reason=lambda: "",
        remote_read=lambda asked: asked[::-1],
    )


def _raise_error() -> str:
    raise ZeroDivisionError("a defect")


@contextmanager
def serve(
    reloader: WebConfigReloader | None = None,
    handlers: Handlers | None = None,
    protocol: type[LimitedProtocol] = LimitedProtocol,
    keep_alive_seconds: int = 75,
) -> Iterator[str]:
    """Serve some views until the block ends, idle connections kept for so many seconds; yield `host:port`."""
    opened = listen("127.0.0.1:0")
    server = create_server(handlers or make_handlers(), reloader)
    server.config.http, server.config.timeout_keep_alive = protocol, keep_alive_seconds
    thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
    thread.start()
    try:
        yield format_address(opened)
    finally:
        server.should_exit = server.force_exit = True
        thread.join()
