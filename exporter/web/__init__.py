"""The HTTP server: routes, authentication, TLS, and limits."""

from __future__ import annotations

from exporter.web.config_reload import WebConfigReloader
from exporter.web.connection_limits import ConnectionLimits
from exporter.web.routes import Handlers, accepts_gzip, build_asgi_app, prefers_openmetrics

__all__ = [
    "ConnectionLimits",
    "Handlers",
    "WebConfigReloader",
    "accepts_gzip",
    "build_asgi_app",
    "prefers_openmetrics",
]
