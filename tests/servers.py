"""Real Prometheus servers: Debian 12's, and today's out of .tools/ (`.ci/tools` puts it there)."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from tests.command import ROOT, free_port, until

PLACES: Mapping[str, Path] = {"debian": Path("/usr/bin"), "today": ROOT / ".tools" / "usr" / "bin"}
VERSIONS = tuple(PLACES)
NOWHERE = "127.0.0.1:9"
"""Where nothing listens."""

Series = frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Prometheus:
    """A running server."""

    url: str
    process: subprocess.Popen[bytes]

    def ask(self, path: str, **parameters: str | float) -> dict[str, Any]:
        """Return the whole answer of its API, which has to be a success."""
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=30)
        told: dict[str, Any] = answer.json()
        assert told["status"] == "success", told
        return told

    def query(self, expression: str, at: datetime) -> dict[Series, float]:
        """Return labels -> value at a time."""
        told = self.ask("query", query=expression, time=at.timestamp())
        assert not told.get("warnings"), told["warnings"]
        return {frozenset(one["metric"].items()): float(one["value"][1]) for one in told["data"]["result"]}

    def daily(self, expression: str, first: datetime, days: int) -> dict[Series, dict[datetime, float]]:
        """Return labels -> UTC day -> value, evaluated at the midnights with which the days begin."""
        last = first + timedelta(days=days - 1)
        told = self.ask("query_range", query=expression, start=first.timestamp(), end=last.timestamp(), step="1d")
        assert not told.get("warnings"), told["warnings"]
        return {
            frozenset(one["metric"].items()): {datetime.fromtimestamp(at, UTC): float(v) for at, v in one["values"]}
            for one in told["data"]["result"]
        }


def promtool(version: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run promtool."""
    command = [str(PLACES[version] / "promtool"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def configuration(folder: Path, exporter: str) -> Path:
    """Write the repository's own prometheus.yml with the address of an exporter in it, without Alertmanager."""
    text = (ROOT / "prometheus" / "prometheus.yml").read_text()
    assert "localhost:10042" in text
    path = folder / "prometheus.yml"
    fast = text.replace("scrape_interval: 15s", "scrape_interval: 1s")
    path.write_text(fast.replace("localhost:10042", exporter).replace("localhost:9093", NOWHERE))
    return path


@contextmanager
def prometheus(version: str, folder: Path, config: Path, data: Path | None = None) -> Iterator[Prometheus]:
    """Run a server on a configuration until the block ends; its data, unless given, begins empty."""
    address = f"127.0.0.1:{free_port()}"
    log = folder / f"prometheus-{version}.log"
    command = [
        str(PLACES[version] / "prometheus"),
        f"--config.file={config}",
        f"--storage.tsdb.path={data or folder / f'data-{version}'}",
        "--storage.tsdb.retention.time=100y",
        f"--web.listen-address={address}",
    ]
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream)

    def ready() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return httpx.get(f"http://{address}/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    try:
        until("Prometheus ready", ready)
        yield Prometheus(f"http://{address}", process)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
