"""Runs real Prometheus and Alertmanager servers: Debian 12's, and current releases in .tools/ (see `.ci/tools`)."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from tests.command import free_port, wait_until
from tests.paths import ROOT

BIN_DIRS: Mapping[str, Path] = {"debian": Path("/usr/bin"), "today": ROOT / ".tools" / "usr" / "bin"}
VERSIONS = tuple(BIN_DIRS)
UNUSED_ADDRESS = "127.0.0.1:9"
"""An address where nothing listens."""

LabelSet = frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Prometheus:
    """A running server."""

    url: str
    process: subprocess.Popen[bytes]
    client: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=30))
    """Shared by all calls: creating a client loads all CA certificates, which takes longer than most queries."""

    def call_api(self, path: str, **parameters: str | float) -> dict[str, Any]:
        """Return the response of a successful API call, with its warnings."""
        answer: dict[str, Any] = self.client.get(f"{self.url}/api/v1/{path}", params=parameters).json()
        assert answer["status"] == "success", answer
        return answer

    def query(self, expression: str, time: datetime) -> dict[LabelSet, float]:
        """Return labels -> value at a time. Fails on warnings."""
        answer = self.call_api("query", query=expression, time=time.timestamp())
        assert not answer.get("warnings"), answer["warnings"]
        return {frozenset(sample["metric"].items()): float(sample["value"][1]) for sample in answer["data"]["result"]}

    def query_daily(self, expression: str, first: datetime, days: int) -> dict[LabelSet, dict[datetime, float]]:
        """Return labels -> UTC day -> value, evaluated at the start of each day. Fails on warnings."""
        last = first + timedelta(days=days - 1)
        answer = self.call_api(
            "query_range", query=expression, start=first.timestamp(), end=last.timestamp(), step="1d"
        )
        assert not answer.get("warnings"), answer["warnings"]
        return {
            frozenset(series["metric"].items()): {
                datetime.fromtimestamp(timestamp, UTC): float(value) for timestamp, value in series["values"]
            }
            for series in answer["data"]["result"]
        }


def run_promtool(version: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run promtool of a version to its end."""
    command = [str(BIN_DIRS[version] / "promtool"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def write_prometheus_config(
    folder: Path, exporter: str, alertmanager: str = UNUSED_ADDRESS, *, rules: bool = False
) -> Path:
    """Write the repository's prometheus.yml with these addresses and short intervals.

    With `rules`, the alert rules are copied too, with short durations.
    """
    path = folder / "prometheus.yml"
    changes = {
        "ai-spend-exporter:10042": exporter,
        "alertmanager:9093": alertmanager,
        "scrape_interval: 15s": "scrape_interval: 1s",
        "evaluation_interval: 15s": "evaluation_interval: 1s",
    }
    _rewrite(ROOT / "prometheus" / "prometheus.yml", path, changes)
    if rules:
        (folder / "rules").mkdir()
        for file in (ROOT / "prometheus" / "rules").glob("*.yml"):
            text = re.sub(r"for: (30s|1m|2m)$", "for: 3s", file.read_text(), flags=re.MULTILINE)
            # An hour becomes a second: alerts that hold longer than others, and inhibit these, still do.
            text = re.sub(r"keep_firing_for: (\d+)h$", r"keep_firing_for: \1s", text, flags=re.MULTILINE)
            (folder / "rules" / file.name).write_text(text)
    return path


def _rewrite(source: Path, target: Path, changes: Mapping[str, str]) -> None:
    text = source.read_text()
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    target.write_text(text)


@contextmanager
def start_alertmanager(
    version: str, folder: Path, webhook_address: str, more_changes: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Run Alertmanager on the repository's alertmanager.yml with short waiting times; yield its address."""
    config, address = folder / "alertmanager.yml", f"127.0.0.1:{free_port()}"
    shutil.copytree(ROOT / "prometheus" / "templates", folder / "templates", dirs_exist_ok=True)
    changes = {
        **(more_changes or {}),
        "notices:10043": webhook_address,
        "group_wait: 30s": "group_wait: 2s",
        "group_wait: 10s": "group_wait: 1s",
        "group_wait: 10m": "group_wait: 2s",
        "group_interval: 5m": "group_interval: 2s",
    }
    _rewrite(ROOT / "prometheus" / "alertmanager.yml", config, changes)
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
    """Run a server; enter the block when it is ready, and stop the server when the block ends."""
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream)

    def ready() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return client.get(f"{url}/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    try:
        with httpx.Client() as client:
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
    """Run Prometheus on a configuration until the block ends, with an empty database unless `data` is given."""
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
        server = Prometheus(f"http://{address}", process)
        with server.client:
            yield server
