"""HTTP: what is served, to whom, and within which limits."""

from __future__ import annotations

from exporter.web.config_reload import WebConfigReloader
from exporter.web.connection_limits import LimitedEventLoop, LimitedProtocol
from exporter.web.routes import Handlers, accepts_gzip, build_asgi_app, prefers_openmetrics

__all__ = [
    "Handlers",
    "LimitedEventLoop",
    "LimitedProtocol",
    "WebConfigReloader",
    "accepts_gzip",
    "build_asgi_app",
    "prefers_openmetrics",
]
