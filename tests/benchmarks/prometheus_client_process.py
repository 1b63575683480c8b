"""`python -m tests.benchmarks.prometheus_client_process PAGE`: prometheus_client with a page's series."""

from __future__ import annotations

import sys
from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    Gauge,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    start_http_server,
)
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.benchmarks.process import report_and_wait, resident_memory

PROCESS_PREFIXES = ("process_", "python_")
"""Metrics of prometheus_client about the process: the same collectors on both sides, with different values."""


def main() -> None:
    """Hold the same families, labels and values, and serve them as prometheus_client does."""
    registry = CollectorRegistry()
    for family in text_string_to_metric_families(Path(sys.argv[1]).read_text()):
        if not family.name.startswith(PROCESS_PREFIXES):
            _register(registry, family)
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    server, _ = start_http_server(0, "127.0.0.1", registry)
    report_and_wait({"port": server.server_port, "resident": resident_memory()})


def _register(registry: CollectorRegistry, family: Metric) -> None:
    """Hold a family's samples; a counter too as a gauge, which is no slower and has no sample beside its value."""
    first = family.samples[0]
    held = Gauge(first.name, family.documentation, tuple(first.labels), registry=registry)
    for sample in family.samples:
        child = held.labels(**sample.labels) if sample.labels else held
        child.set(sample.value)


if __name__ == "__main__":
    main()
