"""Metrics about ourselves: the small tail of the page that is fresh on every scrape."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector

from exporter import __version__
from exporter.logs import log_event
from exporter.metrics.families import BUILD_INFO, SELF_FAMILIES, Family

ValuesByLabels = Mapping[tuple[str, ...], float]
"""Label values -> value."""

ValueReaders = Mapping[Family, Callable[[], float | ValuesByLabels]]
"""Family -> reads its present value. A family whose reader fails is left out of the page."""

logger = logging.getLogger(__name__)


class SelfMetrics:
    """process_*, python_* and the families of OWN_FAMILIES."""

    def __init__(self, readers: ValueReaders) -> None:
        self._registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)
        self._collector = _SelfCollector(readers)
        self._registry.register(self._collector)

    @property
    def failures(self) -> int:
        """How often a family could not be read although it could before."""
        return self._collector.failures

    def render(self, *, openmetrics: bool) -> bytes:
        """Render them; OpenMetrics with the mark that ends the page."""
        write = generate_openmetrics if openmetrics else generate_latest
        rendered: bytes = write(self._registry)
        return rendered


class _SelfCollector(Collector):
    def __init__(self, readers: ValueReaders) -> None:
        self._readers = readers
        self._failing: set[Family] = set()
        self.failures = 0

    def collect(self) -> Iterator[Metric]:
        """Build the families from the present values."""
        for family in SELF_FAMILIES:
            if family is BUILD_INFO:
                info = GaugeMetricFamily(family.name, family.help, labels=family.labels)
                info.add_metric([__version__, platform.python_version()], 1)
                yield info
                continue
            value = self._read(family)
            if value is None:
                continue
            kind = CounterMetricFamily if family.type == "counter" else GaugeMetricFamily
            metric = kind(family.name, family.help, labels=family.labels)
            values_by_labels = value if isinstance(value, Mapping) else {(): value}
            for labels, number in values_by_labels.items():
                metric.add_metric(labels, number)
            if metric.samples:
                yield metric

    def _read(self, family: Family) -> float | ValuesByLabels | None:
        """Return a family's value; None where it cannot be read, e.g. because the ledger's folder cannot be."""
        try:
            value = self._readers[family]()
        except Exception as error:  # noqa: BLE001 - one metric about ourselves must not hide those of every account
            # Readers use the disk and the ledger, each with errors of its own. Whatever it is, it is counted and logged
            # once per failure, not once per scrape; the family is absent until the failure ends.
            if family not in self._failing:
                self._failing.add(family)
                self.failures += 1
                log_event(
                    logger, "error", "A metric about the exporter cannot be read", metric=family.name, error=error
                )
            return None
        self._failing.discard(family)
        return value
