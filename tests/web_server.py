"""Web configurations, and the HTTP server in the test's own process with pages that cost nothing, on loopback."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import bcrypt
import yaml

from exporter.metrics.exposition import Page, Section
from exporter.web import Entrance, Patient, Views
from exporter.web.server import http_server, listen, told_address

TLS = {"cert_file": "server.crt", "key_file": "server.key"}
"""What `tls_server_config` holds at least."""


def hashed(password: str, cost: int = 4) -> str:
    """Return what stands for a password in a web configuration."""
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(cost)).decode()


def written(folder: Path, **sections: object) -> Path:
    """Write a web configuration, whole at once, that only its owner may read."""
    fresh = folder / "web.new"
    fresh.touch(mode=0o600)
    fresh.write_text(yaml.safe_dump(sections, sort_keys=False))
    return fresh.replace(folder / "web.yml")


def views(size: int = 1000) -> Views:
    """Return views with a /metrics of so many bytes, an answer to a read that echoes it, and a broken page at /."""
    page = Page.of(Section.of(b"#" * size), Section.of(b""), Section.of(b""))
    return Views(
        page=lambda: page, tail=lambda _: b"\n", landing=_broken, ready=lambda: "", read=lambda asked: asked[::-1]
    )


def _broken() -> str:
    raise ZeroDivisionError("a defect")


@contextmanager
def serving(
    entrance: Entrance | None = None, shown: Views | None = None, protocol: type[Patient] = Patient, kept: int = 75
) -> Iterator[str]:
    """Serve some views until the block ends, idle connections kept for so many seconds; yield `host:port`."""
    opened = listen("127.0.0.1:0")
    server = http_server(shown or views(), entrance)
    server.config.http, server.config.timeout_keep_alive = protocol, kept
    thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
    thread.start()
    try:
        yield told_address(opened)
    finally:
        server.should_exit = server.force_exit = True
        thread.join()
