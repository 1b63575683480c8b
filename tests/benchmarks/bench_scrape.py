"""A scrape of 100,000 series beside prometheus_client's own exposition of the same series: ratios in one run."""

from __future__ import annotations

import gzip
import http.client
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from prometheus_client.parser import text_string_to_metric_families

from tests.benchmarks.exporter_process import SERIES
from tests.benchmarks.many_accounts import SERIES_PER_LABEL_SET, build_app, render_account
from tests.benchmarks.process import ProcessInfo, run_process
from tests.benchmarks.prometheus_client_process import PROCESS_PREFIXES

RUNS = 7
MIN_SPEEDUP = 100
"""How many times faster than prometheus_client a scrape has to be."""
ENCODINGS = ("identity", "gzip")
Samples = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


@dataclass
class MeasuredServer:
    """A server and the duration of each of its scrapes, by encoding."""

    name: str
    info: ProcessInfo
    seconds: dict[str, list[float]] = field(default_factory=lambda: {encoding: [] for encoding in ENCODINGS})
    sizes: dict[str, int] = field(default_factory=dict)

    def scrape(self, encoding: str) -> bytes:
        """Take the whole body over a connection of its own, as it was sent."""
        began = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", int(self.info["port"]))
        connection.request("GET", "/metrics", headers={"Accept-Encoding": encoding, "Connection": "close"})
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        self.seconds[encoding].append(time.perf_counter() - began)
        self.sizes[encoding] = len(body)
        assert answer.status == 200
        assert answer.getheader("content-encoding", "identity") == encoding
        return body

    def ratio(self, other: MeasuredServer, encoding: str) -> float:
        """Return how many times faster this side is than the other side."""
        return median(other.seconds[encoding]) / median(self.seconds[encoding])

    def format_row(self, encoding: str) -> str:
        """Return a line of the table."""
        usual, size = median(self.seconds[encoding]) * 1000, self.sizes[encoding]
        return f"  {encoding:<10}{self.name:<19}{usual:10.2f} ms{size:>13,} bytes"


def test_a_scrape_is_a_hundred_times_faster_than_prometheus_clients(tmp_path: Path) -> None:
    """Both sides serve the same 100,000 samples; ours serves a page that was rendered when the data changed."""
    page = tmp_path / "page.txt"
    with run_process("tests.benchmarks.exporter_process", str(tmp_path)) as info:
        ours = MeasuredServer("ours", info)
        page.write_bytes(ours.scrape("identity"))
        with run_process("tests.benchmarks.prometheus_client_process", str(page)) as client_info:
            theirs = MeasuredServer("prometheus_client", client_info)
            samples = _parse_samples(ours.scrape("identity"))
            assert len(samples) >= SERIES
            assert _parse_samples(gzip.decompress(ours.scrape("gzip"))) == samples
            assert _parse_samples(theirs.scrape("identity")) == samples
            for encoding in ENCODINGS:
                _scrape_in_turns(ours, theirs, encoding)
    print(f"\n  /metrics with {len(samples):,} samples, medians of {RUNS} scrapes in turns")
    for encoding in ENCODINGS:
        print(
            ours.format_row(encoding),
            f"{theirs.format_row(encoding)} {ours.ratio(theirs, encoding):6.0f} times",
            sep="\n",
        )
    for side in (ours, theirs):
        print(f"  resident  {side.name:<19}{side.info['resident'] / 2**20:10.0f} MiB")
    print(f"  MetricsCache.refresh after a change of one account {ours.info['refresh'] * 1000:7.1f} ms")
    for encoding in ENCODINGS:
        assert ours.ratio(theirs, encoding) >= MIN_SPEEDUP, encoding


def test_an_account_is_rendered_in_a_fraction_of_a_second(tmp_path: Path) -> None:
    """An account of a thousand combinations and thirty days is rendered in less than a second."""
    sizes = {"small": 100, "large": 1000}
    app = build_app(tmp_path, sizes)
    took = {name: median(render_account(app, name) for _ in range(7)) for name in sizes}
    app.stop()
    print()
    for name, size in sizes.items():
        lines = f"{size:>5} combinations ({size * SERIES_PER_LABEL_SET:,} lines)"
        print(f"  MetricsCache.update of an account with {lines:<32}{took[name] * 1000:7.1f} ms")
    assert took["large"] < 1


def _parse_samples(body: bytes) -> Samples:
    """Return the samples of a page: name and labels -> value, without metrics about the process."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
        if not family.name.startswith(PROCESS_PREFIXES)
    }


def _scrape_in_turns(ours: MeasuredServer, theirs: MeasuredServer, encoding: str) -> None:
    """Scrape in turns, after one scrape each that does not count."""
    for run in range(-1, RUNS):
        for side in (ours, theirs):
            side.scrape(encoding)
            if run < 0:
                side.seconds[encoding].clear()
