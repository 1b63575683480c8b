"""/metrics beside the same bytes as a static file on the same server, by size, encoding and connections."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import median

import pytest

from tests.benchmarks.results import write_results
from tests.paths import ROOT

SIZES = (1_000, 10_000, 100_000)
ENCODINGS = ("identity", "gzip")
CONNECTIONS = (1, 8)
ROUNDS = 12
"""Of requests per connection, ours and the file in turns."""
MAX_RATIO = 1.5
SELF_METRICS_SECONDS = 0.0015
"""Allowed for the exporter's own metrics, which are collected at every scrape; of a large page they are nothing."""


@dataclass(frozen=True, slots=True)
class Case:
    """How /metrics is requested."""

    encoding: str
    connections: int
    is_kept_alive: bool
    is_polling: bool


@dataclass(frozen=True, slots=True)
class Result:
    """Medians in seconds of a case."""

    case: Case
    size_bytes: int
    exporter_seconds: float
    file_seconds: float

    @property
    def ratio(self) -> float:
        """Return how many times longer the exporter takes than a static file does."""
        return self.exporter_seconds / self.file_seconds

    def format_row(self) -> str:
        """Return a line of the table."""
        case = self.case
        connections = f"{case.connections} {'kept' if case.is_kept_alive else 'new'}"
        load = "polling" if case.is_polling else "at rest"
        return (
            f"  {case.encoding:<9}{connections:<8}{load:<9}{self.size_bytes:>12,}"
            f"{self.exporter_seconds * 1000:9.2f} ms{self.file_seconds * 1000:9.2f} ms{self.ratio:7.2f}"
        )


class ServingProcess:
    """The process of `tests.benchmarks.serving_process`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        info = json.loads(self._read_line())
        self.port, self.file_port, self.resident = info["port"], info["file_port"], info["resident"]

    def set_polling(self, polling: bool) -> None:
        """Start or pause polls that change accounts."""
        assert self._process.stdin is not None
        self._process.stdin.write("poll\n" if polling else "rest\n")
        self._process.stdin.flush()
        self._read_line()

    def _read_line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the process has ended"
        return line


@contextmanager
def start_serving_process(folder: Path, series: int, accounts: int = 10) -> Iterator[ServingProcess]:
    """Serve so many series until the block ends."""
    command = [sys.executable, "-m", "tests.benchmarks.serving_process", str(folder), str(series), str(accounts)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        yield ServingProcess(process)


def measure(server: ServingProcess, case: Case, rounds: int = ROUNDS) -> Result:
    """Request /metrics and the file in turns, over all connections at the same time; return the medians."""
    server.set_polling(case.is_polling)
    sizes = set[int]()
    exporter, file = (server.port, "/metrics"), (server.file_port, f"/{case.encoding}/metrics")
    seconds: dict[tuple[int, str], list[float]] = {exporter: [], file: []}
    with ThreadPoolExecutor(case.connections) as pool:
        for number in range(rounds + 1):
            # By turns, so that both meet the same load of the machine.
            for port, path in seconds:
                requests = 3 if case.is_kept_alive else 1
                works = [pool.submit(_request, port, path, case, requests) for _ in range(case.connections)]
                for work in works:
                    durations, size = work.result()
                    sizes.add(size)
                    if number > 0:  # The first round warms up.
                        seconds[port, path] += durations
    server.set_polling(False)
    return Result(case, max(sizes), median(seconds[exporter]), median(seconds[file]))


def _request(port: int, path: str, case: Case, requests: int) -> tuple[Sequence[float], int]:
    """Return the duration of each request over a connection, and the size of the last body."""
    durations = []
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    for _ in range(requests):
        began = time.perf_counter()
        connection.request("GET", path, headers={"Accept-Encoding": case.encoding})
        response = connection.getresponse()
        size = len(response.read())
        durations.append(time.perf_counter() - began)
        assert response.status == 200
    connection.close()
    # A kept connection's first request includes connecting, which is measured by the others.
    return durations[1:] if case.is_kept_alive else durations, size


def all_cases() -> Iterator[Case]:
    """Yield every way in which /metrics is requested."""
    for polling, encoding, connections, kept in product((False, True), ENCODINGS, CONNECTIONS, (True, False)):
        yield Case(encoding, connections, kept, polling)


@pytest.mark.parametrize("series", SIZES)
def test_a_scrape_takes_little_longer_than_a_static_file(tmp_path: Path, series: int) -> None:
    """At most 1.5 times as long, at every size; a kept connection is as fast as a new connection."""
    with start_serving_process(tmp_path, series) as server:
        results = [measure(server, case) for case in all_cases()]
    print(f"\n  /metrics with {series:,} series, medians: exporter, static file, ratio")
    for result in results:
        print(result.format_row())
    write_results(f"serving_{series}", results)
    for result in results:
        assert result.exporter_seconds <= MAX_RATIO * result.file_seconds + SELF_METRICS_SECONDS, result.format_row()
    by_case = {result.case: result for result in results}
    for case, result in by_case.items():
        if case.is_kept_alive:
            new = by_case[replace(case, is_kept_alive=False)]
            # A delayed acknowledgement would add 40 ms to either.
            assert abs(result.exporter_seconds - new.exporter_seconds) < 0.02 + new.exporter_seconds / 2
