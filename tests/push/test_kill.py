"""Killed fifty times while others push: what was acknowledged is counted once, however often it was sent."""

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

from exporter.ledger import Ledger
from exporter.ledger.events import EVENTS_REPORT_NAME
from exporter.model import COST, DAY, HOUR, NANO, REQUESTS
from exporter.windows import floor
from tests.command import ExporterProcess, free_port, start_exporter, wait_until

KILLS = 50
BATCH_SIZE = 40
"""Events in a batch."""
MAX_LIFETIME = 0.06
"""Seconds from the first answer of a process to its end, at most; a batch takes some milliseconds."""
TOKEN = "gateway-token-30c6e7f1"
PROVIDERS = ("bedrock", "vllm")
TOKENS = "uncached_input"

Sums = Counter[tuple[str, datetime, str]]
"""Provider, hour, meter -> units or nano-USD."""


@dataclass
class PushClient:
    """Pushes batch after batch, each again in the same words until it is acknowledged, and keeps a log."""

    name: str
    url: str
    has_event_ids: bool
    """Whether each event has an id; else the request has a key."""
    began: datetime
    log: list[dict[str, Any]] = field(default_factory=list)
    """Every event that was acknowledged."""
    unanswered: int = 0
    """Requests that got no answer, of those that had a connection."""
    duplicates: int = 0
    """Events that had been counted although their answer never came."""

    def push(self, stop: threading.Event) -> None:
        """Push until it is told to stop, and then until the batch under way is acknowledged."""
        number = 0
        with httpx.Client(headers={"authorization": f"Bearer {TOKEN}"}, timeout=10) as http:
            while not stop.is_set():
                number += 1
                events = [self._make_event(number * BATCH_SIZE + place) for place in range(BATCH_SIZE)]
                self._push_batch(
                    http, events, {} if self.has_event_ids else {"idempotency-key": f"{self.name}-{number}"}
                )

    def _push_batch(self, http: httpx.Client, events: list[dict[str, Any]], key: dict[str, str]) -> None:
        end = time.monotonic() + 20
        while (answer := self._post(http, events, key)) is None:
            assert time.monotonic() < end, "nobody answers"
            threading.Event().wait(0.01)
        told = answer.json()
        # Nothing is ever stored in half: a batch is new, or it was there.
        assert answer.status_code == 202, answer.text
        assert (told["accepted"], told["duplicate"]) in ((BATCH_SIZE, 0), (0, BATCH_SIZE))
        self.duplicates += told["duplicate"]
        self.log += events

    def _post(self, http: httpx.Client, events: list[dict[str, Any]], key: dict[str, str]) -> httpx.Response | None:
        try:
            return http.post(f"{self.url}/api/v1/ai/usage/events/batch", json={"events": events}, headers=key)
        except httpx.ConnectError:
            return None
        except httpx.TransportError:
            self.unanswered += 1
            return None

    def _make_event(self, number: int) -> dict[str, Any]:
        """No two events are worth the same, so that one lost and one counted twice cannot make up for each other."""
        worth = 2 * number + self.has_event_ids
        told = {
            "provider": PROVIDERS[number % 2],
            "model": f"{self.name}-model",
            "timestamp": (self.began - timedelta(hours=number % 30)).isoformat(),
            "promptTokens": worth,
            "costUsd": f"{worth / 1000:.3f}",
        }
        return told | {"id": f"{self.name}-{number}"} if self.has_event_ids else told


def sum_events(events: list[dict[str, Any]]) -> Sums:
    """Sum up events as they were sent, each once."""
    sums: Sums = Counter()
    for event in events:
        provider, hour = event["provider"], floor(datetime.fromisoformat(event["timestamp"]), HOUR)
        sums[provider, hour, TOKENS] += event["promptTokens"]
        sums[provider, hour, REQUESTS] += 1
        sums[provider, hour, COST] += int(Decimal(event["costUsd"]) * NANO)
    return sums


def stored_sums(folder: Path, began: datetime) -> Sums:
    """Sum up what the ledger holds."""
    sums: Sums = Counter()
    ledger = Ledger(folder, read_only=True)
    for provider in PROVIDERS:
        number = ledger.buckets.find_account("gateway", provider)
        assert number is not None
        for day in (floor(began, DAY) - ago * DAY for ago in range(3)):
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


def run_and_kill(flags: Sequence[str], client: PushClient, work: Future[None], seconds: float) -> None:
    """Run a process on the ledger, and kill it so long after it acknowledged something of this client."""
    before = len(client.log)
    with start_exporter(*flags) as it:
        wait_until("a batch acknowledged", lambda: len(client.log) > before or work.done())
        assert not work.done(), work.exception()
        threading.Event().wait(seconds)
        assert it.stop(signal.SIGKILL) == -signal.SIGKILL


def write_config(folder: Path, port: int) -> Sequence[str]:
    """Write a configuration with one source and nobody to poll; return the flags of `run`."""
    (folder / "token").touch(mode=0o600)
    (folder / "token").write_text(TOKEN)
    (folder / "config.yaml").write_text("ingest: {sources: [{name: gateway, token_file: token}]}\n")
    storage = f"--storage.path={folder / 'ledger'}"
    return f"--config.file={folder / 'config.yaml'}", storage, f"--web.listen-address=127.0.0.1:{port}"


def test_every_acknowledged_event_is_counted_once_through_fifty_kills(tmp_path: Path) -> None:
    """With ids or a key per request, after kill -9 amid batches: the clients' log, the ledger and /metrics agree."""
    port, began, chance, stop = free_port(), datetime.now(UTC), random.Random(8), threading.Event()
    flags = write_config(tmp_path, port)
    clients = [PushClient(name, f"http://127.0.0.1:{port}", name == "ids", began) for name in ("ids", "keys")]
    with ThreadPoolExecutor(len(clients)) as pool:
        work = [pool.submit(client.push, stop) for client in clients]
        try:
            for number in range(KILLS):
                run_and_kill(flags, clients[number % 2], work[number % 2], chance.uniform(0, MAX_LIFETIME))
        finally:
            stop.set()
        with start_exporter(*flags) as it:
            for one in work:
                one.result()
            events = [event for client in clients for event in client.log]
            truth = sum_events(events)
            sums = [sum_meter(truth, REQUESTS), sum_meter(truth, TOKENS), sum_meter(truth, COST) / NANO]
            # What came while its account was being valued has its money a second after its tokens.
            wait_until("all of it on /metrics", lambda: exported_totals(it) == pytest.approx(sums, rel=1e-12))
            assert stored_sums(tmp_path / "ledger", began) == truth
    # Every kill cut somebody off, and some of them after the batch was kept and before that was told.
    assert sum(client.unanswered for client in clients) >= KILLS
    assert all(client.duplicates for client in clients)
