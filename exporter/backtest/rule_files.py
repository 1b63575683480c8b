"""The configuration of Prometheus and Alertmanager that comes along: beside the package, or in it once installed."""

from __future__ import annotations

from pathlib import Path


def find_prometheus_folder() -> Path:
    """Return the folder with prometheus.yml, alertmanager.yml and the rules."""
    package = Path(__file__).parents[1]
    return next(path for path in (package / "stack" / "prometheus", package.parent / "prometheus") if path.is_dir())
