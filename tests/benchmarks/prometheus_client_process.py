"""`python -m tests.benchmarks.prometheus_client_process PAGE`: prometheus_client with one page's series."""

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
"""What prometheus_client tells about its process: on both sides by the same collectors, with values of their own."""


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
    """Hold a family's samples; a counter too as a gauge, which is no slower and tells nothing beside its value."""
    first = family.samples[0]
    held = Gauge(first.name, family.documentation, tuple(first.labels), registry=registry)
    for sample in family.samples:
        one = held.labels(**sample.labels) if sample.labels else held
        one.set(sample.value)


if __name__ == "__main__":
    main()
