"""5,000 durable events a second from four clients while being scraped, beside the plainest server that keeps them."""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from exporter.ledger import Ledger
from exporter.ledger.events import EVENTS_REPORT_NAME
from exporter.model import DAY, REQUESTS, utc
from exporter.windows import TimeRange
from tests.benchmarks.process import report_and_wait, run_process
from tests.command import ExporterProcess, start_exporter
from tests.paths import ROOT

CLIENTS, SIZE, RATE, SECONDS = 4, 300, 5000, 10
BATCHES = RATE * SECONDS // SIZE // CLIENTS
"""Of each client."""
MAX_SECONDS = 0.25
MAX_SCRAPE_RATIO = 3
PATH, TOKEN = "/api/v1/ai/usage/events/batch", "gateway-token-71e9d2c4"
DAYS, MODELS, WORKSPACES, LATE_SHARE = 34, 20, 10, 0.02
"""Labels, and the share of events that come late: they fall on any of so many days."""


@dataclass
class MeasuredServer:
    """A server, the duration of each batch from its due time to its acknowledgement, and the CPU time."""

    name: str
    seconds: list[float] = field(default_factory=list)
    duration: float = 0.0
    cpu_seconds: float = 0.0

    def push(self, port: int, pid: int) -> None:
        """Let clients in a process of their own push to it."""
        before, command = read_cpu_seconds(pid), [sys.executable, "-m", __name__, "clients", str(port)]
        output = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
        self.cpu_seconds = read_cpu_seconds(pid) - before
        report = json.loads(output)
        self.seconds, self.duration = report["seconds"], report["took"]

    @property
    def events(self) -> int:
        """The number of acknowledged events."""
        return len(self.seconds) * SIZE

    @property
    def p99(self) -> float:
        """The 99th percentile of a batch, in seconds."""
        return quantiles(self.seconds, n=100)[-1]

    def format_row(self) -> str:
        """Return a line of the table."""
        times = f"median {median(self.seconds) * 1000:6.1f} ms, p99 {self.p99 * 1000:6.1f} ms"
        cost = f"{self.cpu_seconds / self.events * 1e6:5.0f} us of CPU an event"
        return f"  {self.name:<22}{self.events / self.duration:7.0f} events/s  {times}  {cost}"


def test_five_thousand_durable_events_a_second_while_being_scraped(tmp_path: Path) -> None:
    """Every batch is acknowledged, 99 of 100 within 250 ms, is there after kill -9, and scrapes stay as fast."""
    ours, plain = MeasuredServer("here"), MeasuredServer("a row per event")
    with start_configured_exporter(tmp_path) as exporter:
        with scrape_continuously(exporter) as meanwhile:
            ours.push(int(exporter.url.rpartition(":")[2]), exporter.process.pid)
        with scrape_continuously(exporter) as at_rest:
            time.sleep(5)
        exporter.stop(signal.SIGKILL)
    with run_process(__name__, "plain", str(tmp_path / "plain.db")) as info:
        plain.push(int(info["port"]), int(info["pid"]))
    print(f"\n  {RATE:,} events/s wanted, in batches of {SIZE} from {CLIENTS} clients, for {SECONDS} s")
    print(ours.format_row(), plain.format_row(), sep="\n")
    print(f"  CPU time an event: {ours.cpu_seconds / plain.cpu_seconds:.1f} times the plain server's")
    print(f"  /metrics while pushing {describe_durations(meanwhile)}; at rest {describe_durations(at_rest)}")
    assert count_stored_events(tmp_path / "ledger") == ours.events == plain.events == BATCHES * CLIENTS * SIZE
    assert ours.events / ours.duration >= RATE * 0.99
    assert ours.p99 < MAX_SECONDS
    assert median(meanwhile) < median(at_rest) * MAX_SCRAPE_RATIO


@contextmanager
def start_configured_exporter(folder: Path) -> Iterator[ExporterProcess]:
    """Run an exporter with a single source."""
    (folder / "token").touch(mode=0o600)
    (folder / "token").write_text(TOKEN)
    (folder / "config.yaml").write_text("ingest: {sources: [{name: gateway, token_file: token}]}\n")
    with start_exporter(f"--config.file={folder / 'config.yaml'}", f"--storage.path={folder / 'ledger'}") as exporter:
        yield exporter


@contextmanager
def scrape_continuously(exporter: ExporterProcess) -> Iterator[list[float]]:
    """Scrape four times a second until the block ends; yield the seconds that each scrape took."""
    seconds, stop = list[float](), threading.Event()

    def scrape() -> None:
        while not stop.wait(0.25):
            began = time.perf_counter()
            assert exporter.get().status_code == 200
            seconds.append(time.perf_counter() - began)

    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(scrape)
        try:
            yield seconds
        finally:
            stop.set()
        work.result()


def describe_durations(seconds: list[float]) -> str:
    """Return the median and the maximum of durations as text."""
    return f"median {median(seconds) * 1000:.1f} ms, slowest {max(seconds) * 1000:.1f} ms"


def read_cpu_seconds(pid: int) -> float:
    """Return the seconds of CPU that a process has used so far."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def count_stored_events(folder: Path) -> int:
    """Count the events in a ledger."""
    ledger = Ledger(folder, read_only=True)
    number = ledger.buckets.find_account("gateway", "vllm")
    assert number is not None
    units = ledger.buckets.units(
        number, [EVENTS_REPORT_NAME], TimeRange(utc(time.time()) - (DAYS + 1) * DAY, utc(time.time()))
    )
    ledger.close()
    return sum(value for labels, value in units.items() if labels[0] == REQUESTS)


def run_clients(port: int) -> Mapping[str, Any]:
    """Push at the wanted rate; return the seconds of each batch, and of all of them together."""
    began = time.monotonic() + 0.2
    with ThreadPoolExecutor(CLIENTS) as pool:
        by_client = pool.map(lambda number: list(_push_batches(port, number, began)), range(CLIENTS))
        seconds = [duration for durations in by_client for duration in durations]
    return {"seconds": seconds, "took": time.monotonic() - began}


def _push_batches(port: int, number: int, began: float) -> Iterator[float]:
    connection, chance = http.client.HTTPConnection("127.0.0.1", port), random.Random(number)
    head = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"}
    for batch in range(BATCHES):
        body = json.dumps({"events": [_make_event(f"{number}-{batch}-{index}", chance) for index in range(SIZE)]})
        # A batch that had to wait for the previous batch is late, and counts as slow.
        due = began + (batch * CLIENTS + number) * SIZE / RATE
        time.sleep(max(0.0, due - time.monotonic()))
        connection.request("POST", PATH, body, head)
        answer = connection.getresponse()
        body_text = answer.read()
        assert answer.status == 202, body_text
        yield time.monotonic() - due
    connection.close()


def _make_event(name: str, rng: random.Random) -> Mapping[str, object]:
    ago = rng.random() * DAYS * DAY.total_seconds() if rng.random() < LATE_SHARE else 0.0
    return {
        "id": name,
        "provider": "vllm",
        "model": f"model-{rng.randrange(MODELS)}",
        "workspace": f"team-{rng.randrange(WORKSPACES)}",
        "timestamp": time.time() - ago,
        "promptTokens": rng.randrange(10_000),
        "completionTokens": rng.randrange(1000),
        "costUsd": 0.0125,
    }


def run_reference_server(path: str) -> None:
    """Serve the simplest implementation: a row per event, a transaction per batch, no validation."""
    db, lock = sqlite3.connect(path, isolation_level=None, check_same_thread=False), threading.Lock()
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("CREATE TABLE event (id PRIMARY KEY, provider, model, workspace, at, input, output, usd)")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with lock, db:
                db.execute("BEGIN")
                rows = [tuple(event.values()) for event in body["events"]]
                db.executemany("INSERT OR IGNORE INTO event VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
            self.send_response(202)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    report_and_wait({"port": server.server_port, "pid": os.getpid()})


ROLES: Mapping[str, Callable[[str], object]] = {
    "clients": lambda port: print(json.dumps(run_clients(int(port)))),
    "plain": run_reference_server,
}

if __name__ == "__main__":
    ROLES[sys.argv[1]](sys.argv[2])
