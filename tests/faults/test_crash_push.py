"""The exporter is killed repeatedly while clients push: every acknowledged event is counted once."""

from __future__ import annotations

import random
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from exporter.ledger import Ledger, LedgerLocation
from exporter.ledger.events import EVENTS_REPORT_NAME
from exporter.model import COST, DAY, HOUR, NANO, REQUESTS
from exporter.windows import floor
from tests.command import ExporterProcess, free_port, start_exporter, wait_until
from tests.faults.launcher import Launcher, start_launcher
from tests.faults.results import Results

MIN_KILLS = 14
MAX_KILLS = 50
"""The short form ends before, as soon as every client has met each kind of interruption."""
BATCH_SIZE = 40
"""Events in a batch."""
MAX_LIFETIME = 0.06
"""Seconds: each process is killed up to this long after its first response; a batch takes some milliseconds."""
TOKEN = "gateway-token-30c6e7f1"
PROVIDERS = ("bedrock", "vllm")
TOKENS = "uncached_input"

Sums = Counter[tuple[str, datetime, str]]
"""Provider, hour, meter -> units or nano-USD."""


@dataclass
class PushClient:
    """Pushes batches, each unchanged until it is acknowledged, and keeps a log."""

    name: str
    url: str
    has_event_ids: bool
    """Whether each event has an id; otherwise each request has an idempotency key."""
    start: datetime
    """The events are from this hour and those before it."""
    log: list[dict[str, Any]] = field(default_factory=list)
    """Every acknowledged event."""
    unanswered: int = 0
    """Requests without a response although there was a connection."""
    duplicates: int = 0
    """Events that had been stored although their response never arrived."""

    def push(self, stop: threading.Event) -> None:
        """Push until `stop` is set and the current batch is acknowledged."""
        number = 0
        with httpx.Client(headers={"authorization": f"Bearer {TOKEN}"}, timeout=60) as http:
            while not stop.is_set():
                number += 1
                events = [self._make_event(number * BATCH_SIZE + index) for index in range(BATCH_SIZE)]
                headers = {} if self.has_event_ids else {"idempotency-key": f"{self.name}-{number}"}
                self._push_batch(http, events, headers)

    def _push_batch(self, http: httpx.Client, events: list[dict[str, Any]], headers: dict[str, str]) -> None:
        end = time.monotonic() + 60
        while (response := self._post(http, events, headers)) is None:
            assert time.monotonic() < end, "no exporter responds"
            threading.Event().wait(0.01)
        result = response.json()
        # Batches are atomic: all of its events are new, or none is.
        assert response.status_code == 202, response.text
        assert (result["accepted"], result["duplicate"]) in ((BATCH_SIZE, 0), (0, BATCH_SIZE))
        self.duplicates += result["duplicate"]
        self.log += events

    def _post(self, http: httpx.Client, events: list[dict[str, Any]], headers: dict[str, str]) -> httpx.Response | None:
        try:
            return http.post(f"{self.url}/api/v1/ai/usage/events/batch", json={"events": events}, headers=headers)
        except httpx.ConnectError:
            return None
        except httpx.TransportError:
            self.unanswered += 1
            return None

    def _make_event(self, number: int) -> dict[str, Any]:
        # No two events have the same value: a lost event and one that is counted twice cannot cancel each other out.
        value = 2 * number + self.has_event_ids
        event = {
            "provider": PROVIDERS[number % 2],
            "model": f"{self.name}-model",
            "timestamp": (self.start - timedelta(hours=number % 30)).isoformat(),
            "promptTokens": value,
            "costUsd": f"{value / 1000:.3f}",
        }
        return event | {"id": f"{self.name}-{number}"} if self.has_event_ids else event


def sum_events(events: list[dict[str, Any]]) -> Sums:
    """Return the sums of events, each counted once."""
    sums: Sums = Counter()
    for event in events:
        provider, hour = event["provider"], floor(datetime.fromisoformat(event["timestamp"]), HOUR)
        sums[provider, hour, TOKENS] += event["promptTokens"]
        sums[provider, hour, REQUESTS] += 1
        sums[provider, hour, COST] += int(Decimal(event["costUsd"]) * NANO)
    return sums


def stored_sums(location: LedgerLocation, start: datetime) -> Sums:
    """Return the sums of the rows in the ledger."""
    sums: Sums = Counter()
    ledger = Ledger(location, read_only=True)
    for provider in PROVIDERS:
        number = ledger.buckets.find_account("gateway", provider)
        assert number is not None
        for day in (floor(start, DAY) - ago * DAY for ago in range(3)):
            for hour, rows in ledger.buckets.rows(number, EVENTS_REPORT_NAME, day).items():
                for row in rows:
                    sums[provider, day + hour * HOUR, row.meter] += row.value
    ledger.close()
    return sums


def sum_meter(sums: Sums, meter_name: str) -> int:
    """Return the sum of a meter over all providers and hours."""
    return sum(value for (_, _, meter), value in sums.items() if meter == meter_name)


def exported_totals(exporter: ExporterProcess) -> Sequence[float]:
    """Return requests, tokens and USD of the source on /metrics."""
    page = exporter.get().text
    names = ("ai_requests_30d", "ai_tokens_30d", "ai_cost_30d_usd")
    found = [re.findall(rf'^{name}{{.*\baccount="gateway".*}} (.+)$', page, re.MULTILINE) for name in names]
    return [sum(map(float, samples)) for samples in found]


def run_and_kill(
    launcher: Launcher, flags: Sequence[str], client: PushClient, work: Future[None], seconds: float
) -> None:
    """Run an exporter, and kill it this long after it has acknowledged an event of the client."""
    acknowledged = len(client.log)
    process = launcher.start(flags)
    try:
        wait_until("a batch acknowledged", lambda: len(client.log) > acknowledged or work.done(), timeout=60)
        assert not work.done(), work.exception()
        threading.Event().wait(seconds)
    finally:
        assert launcher.kill(process) == -signal.SIGKILL


def write_config(folder: Path, port: int) -> Sequence[str]:
    """Write a configuration with one source and no polled account; return the flags of `run`."""
    (folder / "token").touch(mode=0o600)
    (folder / "token").write_text(TOKEN)
    (folder / "config.yaml").write_text("ingest: {sources: [{name: gateway, token_file: token}]}\n")
    storage = f"--storage.path={folder / 'ledger'}"
    return f"--config.file={folder / 'config.yaml'}", storage, f"--web.listen-address=127.0.0.1:{port}"


def test_every_acknowledged_event_is_counted_once_through_kills(
    tmp_path: Path, results: Results, *, long: bool
) -> None:
    """With ids or idempotency keys, after kill -9 amid batches, clients' logs, the ledger and /metrics agree."""
    port, start, random_source, stop = free_port(), datetime.now(UTC), random.Random(8), threading.Event()
    flags = write_config(tmp_path, port)
    clients = [PushClient(name, f"http://127.0.0.1:{port}", name == "ids", start) for name in ("ids", "keys")]
    kills = 0

    def has_enough_kills() -> bool:
        # Some kills come after a batch was stored and before its response, which no test can arrange.
        is_enough = not long and kills >= MIN_KILLS and all(client.duplicates for client in clients)
        return is_enough or kills >= MAX_KILLS

    with ThreadPoolExecutor(len(clients)) as pool:
        work = [pool.submit(client.push, stop) for client in clients]
        try:
            with start_launcher(tmp_path) as launcher:
                while not has_enough_kills():
                    lifetime = random_source.uniform(0, MAX_LIFETIME)
                    run_and_kill(launcher, flags, clients[kills % 2], work[kills % 2], lifetime)
                    kills += 1
        finally:
            stop.set()
        with start_exporter(*flags) as exporter:
            for future in work:
                future.result()
            events = [event for client in clients for event in client.log]
            expected = sum_events(events)
            totals = [sum_meter(expected, REQUESTS), sum_meter(expected, TOKENS), sum_meter(expected, COST) / NANO]
            # Events that arrive while their account is being valued have their cost with the next refresh.
            wait_until(
                "all events on /metrics",
                lambda: exported_totals(exporter) == pytest.approx(totals, rel=1e-12),
                timeout=60,
            )
            assert stored_sums(tmp_path / "ledger", start) == expected
    # Every kill interrupted a request, and some of them after the batch was stored and before its response.
    assert sum(client.unanswered for client in clients) >= kills
    assert all(client.duplicates for client in clients)
    events_acknowledged = sum(len(client.log) for client in clients)
    results.add("crash", "push", f"{kills} kills, {events_acknowledged} events acknowledged, 0 lost, 0 counted twice")
