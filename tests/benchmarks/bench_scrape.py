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

from tests.benchmarks.crowd import crowd, hang
from tests.benchmarks.ours import SERIES
from tests.benchmarks.process import Facts, process
from tests.benchmarks.theirs import THEIR_OWN

RUNS = 9
WANTED = 100
"""How many times faster than prometheus_client a scrape has to be."""
ENCODINGS = ("identity", "gzip")
Samples = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


@dataclass
class Side:
    """One server, and how long each of its scrapes took, by encoding."""

    facts: Facts
    seconds: dict[str, list[float]] = field(default_factory=lambda: {encoding: [] for encoding in ENCODINGS})
    sizes: dict[str, int] = field(default_factory=dict)

    def scrape(self, encoding: str) -> bytes:
        """Take the whole body over a connection of its own, as it was sent."""
        began = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", int(self.facts["port"]))
        connection.request("GET", "/metrics", headers={"Accept-Encoding": encoding, "Connection": "close"})
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        self.seconds[encoding].append(time.perf_counter() - began)
        self.sizes[encoding] = len(body)
        assert answer.status == 200
        assert answer.getheader("content-encoding", "identity") == encoding
        return body


def test_a_scrape_is_a_hundred_times_faster_than_prometheus_clients(tmp_path: Path) -> None:
    """Both sides tell the same 100,000 samples; ours hands over what was rendered when the data changed."""
    page = tmp_path / "page.txt"
    with process("tests.benchmarks.ours", str(tmp_path)) as told:
        ours = Side(told)
        page.write_bytes(ours.scrape("identity"))
        with process("tests.benchmarks.theirs", str(page)) as told_too:
            theirs = Side(told_too)
            samples = _samples(ours.scrape("identity"))
            assert len(samples) >= SERIES
            assert _samples(gzip.decompress(ours.scrape("gzip"))) == samples
            assert _samples(theirs.scrape("identity")) == samples
            for encoding in ENCODINGS:
                ratio = _race(ours, theirs, encoding)
                assert ratio >= WANTED, f"{encoding}: only {ratio:.0f} times faster"
    print(_tell(ours, len(samples)))


def test_rendering_an_account_takes_no_longer_than_a_share_of_its_poll(tmp_path: Path) -> None:
    """An account of 1,000 combinations is rendered anew in less than a second: a small part of a five-minute round."""
    sizes = {"hundred": 100, "thousand": 1000}
    app = crowd(tmp_path, sizes)
    took = {name: median(hang(app, name) for _ in range(5)) for name in sizes}
    app.stop()
    for name, seconds in took.items():
        print(f"  Board.hang, {sizes[name]:>5} combinations, 30 days {seconds * 1000:10.1f} ms")
    assert took["thousand"] < 1


def _samples(body: bytes) -> Samples:
    """Return what a page tells: name and labels -> value, without what each process tells of itself."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
        if not family.name.startswith(THEIR_OWN)
    }


def _race(ours: Side, theirs: Side, encoding: str) -> float:
    """Scrape in turns; print the medians and return how many times faster ours was."""
    for side in (ours, theirs):
        side.scrape(encoding)
        side.seconds[encoding].clear()
    for _ in range(RUNS):
        for side in (ours, theirs):
            side.scrape(encoding)
    mine, other = median(ours.seconds[encoding]), median(theirs.seconds[encoding])
    print(
        f"\n  {encoding:<9} ours {mine * 1000:8.2f} ms {ours.sizes[encoding]:>11,} bytes"
        f"   prometheus_client {other * 1000:9.1f} ms {theirs.sizes[encoding]:>11,} bytes   {other / mine:6.0f} x",
        end="",
    )
    return other / mine


def _tell(ours: Side, samples: int) -> str:
    facts = ours.facts
    return (
        f"\n  {samples:,} samples; Board.refresh after a change {facts['refresh'] * 1000:.0f} ms;"
        f" resident {facts['resident'] / 2**20:.0f} MiB"
    )
