"""HTTP: what is served, to whom, and within which limits."""

from __future__ import annotations

from exporter.web.config_reload import Entrance
from exporter.web.connection_limits import Loop, Patient
from exporter.web.routes import Views, accepts_gzip, build, prefers_openmetrics

__all__ = ["Entrance", "Loop", "Patient", "Views", "accepts_gzip", "build", "prefers_openmetrics"]
