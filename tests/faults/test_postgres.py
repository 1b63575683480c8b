"""An exporter whose ledger is in PostgreSQL, which is killed, and whose server crashes: nothing is lost or doubled."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from exporter.ledger import LedgerLocation
from exporter.ledger.postgres_store import RETRY_SECONDS
from exporter.model import COST, DAY, HOUR, NANO, REQUESTS
from exporter.simulator.world import World
from tests.command import ExporterProcess, free_port, start_exporter, wait_until
from tests.faults.accounts_system import start_accounts
from tests.faults.launcher import start_launcher
from tests.faults.results import Results
from tests.faults.test_crash_polling import ACCOUNTS, run_and_kill, run_to_the_end
from tests.faults.test_crash_push import (
    TOKEN,
    TOKENS,
    PushClient,
    exported_totals,
    stored_sums,
    sum_events,
    sum_meter,
    write_config,
)
from tests.faults.test_crash_push import run_and_kill as push_and_kill
from tests.postgres import PostgresServer, start_postgres
from tests.system import NOON, Clock, midnight, start_system

EVENT_TIME = datetime.now(UTC)
MAX_LIFETIME = 0.2
"""Seconds: each exporter is killed up to this long after its first response."""


@pytest.fixture(name="server", scope="module")
def _start_server() -> Iterator[PostgresServer]:
    """A server that stores what it acknowledges."""
    with start_postgres(settings=()) as server:
        yield server


def read_page(url: str) -> Sequence[str]:
    """Return the lines of /metrics that do not depend on the process or the machine."""
    varying = ("python_", "process_", "ai_exporter_ledger_bytes", "ai_exporter_build_info", "ai_account_poll_duration")
    lines = httpx.get(f"{url}/metrics", timeout=60).text.splitlines()
    return [line for line in lines if not line.startswith(varying)]


def test_metrics_are_those_of_sqlite(tmp_path: Path, server: PostgresServer) -> None:
    """After a first poll, later polls and a restart, every line of /metrics is the same with either database."""
    pages = list[list[Sequence[str]]]()
    locations: Sequence[LedgerLocation] = (tmp_path / "ledger", server.new_location())
    for number, location in enumerate(locations):
        (tmp_path / str(number)).mkdir()
        clock, read = Clock(), list[Sequence[str]]()
        world = World(ACCOUNTS, clock, start_time=midnight(NOON) - 5 * DAY)
        with start_system(tmp_path / str(number), world, clock, history="2d") as system:
            system.location = location
            with system.run_exporter():
                system.poll_until_idle()
                read.append(read_page(system.url))
                system.advance(30 * HOUR)
                read.append(read_page(system.url))
            with system.run_exporter():
                system.poll_until_idle()
                read.append(read_page(system.url))
        pages.append(read)
    in_sqlite, in_postgres = pages
    assert len(in_sqlite[-1]) > 200
    for postgres_lines, sqlite_lines in zip(in_postgres, in_sqlite, strict=True):
        assert postgres_lines == sqlite_lines


def test_polls_that_are_killed_lose_and_double_nothing(
    tmp_path: Path, server: PostgresServer, results: Results, *, long: bool, seed: int
) -> None:
    """After kills of the exporter amid its polls, and crashes of the server between, totals are the truth."""
    chosen, kills = random.Random(seed), 40 if long else 4
    with start_accounts(tmp_path, *ACCOUNTS) as system:
        location = server.new_location()
        expected, seconds = run_to_the_end(system, "undisturbed")
        for number in range(kills):
            run_and_kill(system, chosen.uniform(0, seconds), location)
            if number % 2:
                server.restart()
        samples, _ = run_to_the_end(system, location)
        assert system.stored_totals(location) == system.true_totals()
        assert samples == expected
    results.add("crash", "polls on PostgreSQL", f"{kills} kills, {kills // 2} crashes of the server, 0 differences")


class PatientClient(PushClient):
    """Sends a batch again when the exporter answers that the ledger is unavailable."""

    rejected: int = 0

    def wait_for_batch(self, work: Future[None]) -> None:
        """Wait until another batch is acknowledged, or the work has failed."""
        acknowledged = len(self.log)
        wait_until("a batch acknowledged", lambda: len(self.log) > acknowledged or work.done())

    def _post(self, http: httpx.Client, events: list[dict[str, Any]], headers: dict[str, str]) -> httpx.Response | None:
        response = super()._post(http, events, headers)
        if response is not None and response.status_code == 503:
            self.rejected += 1
            return None
        return response


def test_every_acknowledged_event_is_counted_once(
    tmp_path: Path, server: PostgresServer, results: Results, *, long: bool
) -> None:
    """While the exporter is killed and the server crashes amid batches, every acknowledged event is stored once."""
    port, start, chosen, stop = free_port(), datetime.now(UTC), random.Random(8), threading.Event()
    location = server.new_location()
    config, _, address = write_config(tmp_path, port)
    flags = (config, f"--storage.url={location.url}", address)
    client = PatientClient("ids", f"http://127.0.0.1:{port}", has_event_ids=True, start=start)
    rounds = 20 if long else 2
    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(client.push, stop)
        try:
            with start_launcher(tmp_path) as launcher:
                for _ in range(rounds):
                    push_and_kill(launcher, flags, client, work, chosen.uniform(0, MAX_LIFETIME))
            with start_exporter(*flags) as exporter:
                for _ in range(rounds):
                    client.wait_for_batch(work)
                    server.restart()
                client.wait_for_batch(work)
                stop.set()
                work.result()
                expected = sum_events(client.log)
                totals = [sum_meter(expected, REQUESTS), sum_meter(expected, TOKENS), sum_meter(expected, COST) / NANO]
                wait_until(
                    "all events on /metrics", lambda: exported_totals(exporter) == pytest.approx(totals, rel=1e-12)
                )
                assert stored_sums(location, start) == expected
        finally:
            stop.set()
    assert client.unanswered >= rounds
    results.add(
        "crash",
        "push on PostgreSQL",
        f"{rounds} kills, {rounds} crashes of the server, {len(client.log)} events acknowledged,"
        f" {client.rejected} batches rejected, 0 lost, 0 counted twice",
    )


def test_pages_are_served_while_the_database_is_down(tmp_path: Path, server: PostgresServer) -> None:
    """While the server is stopped, pages are served and /-/ready says why; afterwards pushes are accepted again."""
    location = server.new_location()
    config, _, _ = write_config(tmp_path, 0)
    with start_exporter(config, f"--storage.url={location.url}") as exporter:
        assert push(exporter, 1) == 202
        wait_until("the event on /metrics", lambda: exported_totals(exporter)[0] == 1)
        assert exporter.get("/-/ready").status_code == 200
        server.stop()
        try:
            assert push(exporter, 2) == 503
            wait_until("not ready", lambda: exporter.get("/-/ready").status_code == 503)
            assert "The ledger postgresql://" in exporter.get("/-/ready").text
            assert exporter.get("/-/healthy").status_code == 200
            assert exported_totals(exporter)[0] == 1
            assert exporter.get("/").status_code == 200
            # Longer than the time between two attempts to connect.
            threading.Event().wait(RETRY_SECONDS + 1)
            assert push(exporter, 2) == 503
            assert exporter.value("ai_exporter_ledger_bytes") != ""
        finally:
            server.start()
        wait_until("ready", lambda: exporter.get("/-/ready").status_code == 200)
        assert push(exporter, 2) == 202
        assert push(exporter, 1) == 202
        wait_until("both events on /metrics", lambda: exported_totals(exporter)[0] == 2)
        assert exporter.process.poll() is None
        exporter.wait_for_log("Connected to the ledger's database again")
        assert exporter.stop() == 0
    assert sum("Connected to the ledger's database again" in line for line in exporter.stderr_lines) == 1


def push(exporter: ExporterProcess, number: int) -> int:
    """Push an event; return the status."""
    event = {"provider": "vllm", "model": "m", "promptTokens": 3, "id": f"event-{number}"}
    event["timestamp"] = EVENT_TIME.isoformat()
    headers = {"authorization": f"Bearer {TOKEN}"}
    return httpx.post(f"{exporter.url}/api/v1/ai/usage/events", json=event, headers=headers, timeout=60).status_code
