"""Real Prometheus and Alertmanager servers: Debian 12's, and today's out of .tools/ (`.ci/tools` puts it there)."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from tests.command import free_port, wait_until
from tests.paths import ROOT

BIN_DIRS: Mapping[str, Path] = {"debian": Path("/usr/bin"), "today": ROOT / ".tools" / "usr" / "bin"}
VERSIONS = tuple(BIN_DIRS)
UNUSED_ADDRESS = "127.0.0.1:9"
"""Where nothing listens."""

LabelSet = frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Prometheus:
    """A running server."""

    url: str
    process: subprocess.Popen[bytes]

    def call_api(self, path: str, **parameters: str | float) -> dict[str, Any]:
        """Return the whole answer of its API, which has to be a success."""
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=30)
        told: dict[str, Any] = answer.json()
        assert told["status"] == "success", told
        return told

    def query(self, expression: str, time: datetime) -> dict[LabelSet, float]:
        """Return labels -> value at a time."""
        told = self.call_api("query", query=expression, time=time.timestamp())
        assert not told.get("warnings"), told["warnings"]
        return {frozenset(one["metric"].items()): float(one["value"][1]) for one in told["data"]["result"]}

    def query_daily(self, expression: str, first: datetime, days: int) -> dict[LabelSet, dict[datetime, float]]:
        """Return labels -> UTC day -> value, evaluated at the midnights with which the days begin."""
        last = first + timedelta(days=days - 1)
        told = self.call_api("query_range", query=expression, start=first.timestamp(), end=last.timestamp(), step="1d")
        assert not told.get("warnings"), told["warnings"]
        return {
            frozenset(one["metric"].items()): {datetime.fromtimestamp(at, UTC): float(v) for at, v in one["values"]}
            for one in told["data"]["result"]
        }


def run_promtool(version: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run promtool."""
    command = [str(BIN_DIRS[version] / "promtool"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def write_prometheus_config(
    folder: Path, exporter: str, alertmanager: str = UNUSED_ADDRESS, *, rules: bool = False
) -> Path:
    """Write the repository's own prometheus.yml with these addresses; with its rules, their patience shortened."""
    path = folder / "prometheus.yml"
    hurried = {
        "ai-spend-exporter:10042": exporter,
        "alertmanager:9093": alertmanager,
        "scrape_interval: 15s": "scrape_interval: 1s",
        "evaluation_interval: 15s": "evaluation_interval: 1s",
    }
    _rewrite(ROOT / "prometheus" / "prometheus.yml", path, hurried)
    if rules:
        (folder / "rules").mkdir()
        for file in (ROOT / "prometheus" / "rules").glob("*.yml"):
            text = re.sub(r"for: (30s|1m|2m)$", "for: 3s", file.read_text(), flags=re.MULTILINE)
            (folder / "rules" / file.name).write_text(text.replace("keep_firing_for: 30m", "keep_firing_for: 3s"))
    return path


def _rewrite(source: Path, target: Path, changes: Mapping[str, str]) -> None:
    text = source.read_text()
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    target.write_text(text)


@contextmanager
def start_alertmanager(version: str, folder: Path, webhook_address: str) -> Iterator[str]:
    """Run Alertmanager on the repository's own alertmanager.yml, its patience shortened; yield its address."""
    config, address = folder / "alertmanager.yml", f"127.0.0.1:{free_port()}"
    hurried = {
        "notices:10043": webhook_address,
        "group_wait: 30s": "group_wait: 2s",
        "group_wait: 10s": "group_wait: 1s",
    }
    _rewrite(ROOT / "prometheus" / "alertmanager.yml", config, hurried | {"group_interval: 5m": "group_interval: 2s"})
    command = [
        str(BIN_DIRS[version] / "prometheus-alertmanager"),
        f"--config.file={config}",
        f"--storage.path={folder / f'alertmanager-{version}'}",
        "--cluster.listen-address=",
        f"--web.listen-address={address}",
    ]
    with _run_server(command, folder / f"alertmanager-{version}.log", f"http://{address}"):
        yield address


@contextmanager
def _run_server(command: Sequence[str], log: Path, url: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the block ends, which begins when it is ready."""
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream)

    def ready() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return httpx.get(f"{url}/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    try:
        wait_until(f"{log.stem} ready", ready)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def start_prometheus(version: str, folder: Path, config: Path, data: Path | None = None) -> Iterator[Prometheus]:
    """Run a server on a configuration until the block ends; its data, unless given, begins empty."""
    address = f"127.0.0.1:{free_port()}"
    command = [
        str(BIN_DIRS[version] / "prometheus"),
        f"--config.file={config}",
        f"--storage.tsdb.path={data or folder / f'data-{version}'}",
        "--storage.tsdb.retention.time=100y",
        "--rules.alert.resend-delay=1s",
        f"--web.listen-address={address}",
    ]
    with _run_server(command, folder / f"prometheus-{version}.log", f"http://{address}") as process:
        yield Prometheus(f"http://{address}", process)
