"""The ledger's disk is full, fails, or cannot be read for a while: nothing acknowledged is lost, /metrics answers."""

from __future__ import annotations

import ctypes
import os
import random
import resource
import shutil
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import pytest

from exporter.errors import LedgerError
from exporter.ledger import Ledger
from exporter.ledger.events import EVENTS_REPORT_NAME
from exporter.model import DAY, HOUR, Bucket, Row
from exporter.windows import TimeRange, floor
from tests.command import (
    ANY_PORT_FLAG,
    ExporterProcess,
    free_port,
    run_command,
    start_exporter,
    unprivileged_prefix,
    wait_until,
)
from tests.faults.accounts_system import AccountsSystem, start_accounts
from tests.faults.launcher import start_launcher
from tests.faults.results import Results
from tests.faults.system_calls import FAILURES, can_fail_system_calls
from tests.system import NOON, SPEND_PREFIXES, make_account, parse_samples

TOKEN = "gateway-token-81d0f3a6"
BATCH_PATH = "/api/v1/ai/usage/events/batch"
DISK_BYTES = 4 << 20
PAGE_BYTES = 4096
"""Of the ledger's file."""
_MNT_DETACH = 2
"""Flag of umount2: also where a process still has files there."""
_libc = ctypes.CDLL(None, use_errno=True)


def mount_small_disk(folder: Path) -> bool:
    """Mount a file system of DISK_BYTES in memory, where this user may; return whether it is mounted."""
    options = f"size={DISK_BYTES}".encode()
    return bool(_libc.mount(b"none", os.fsencode(folder), b"tmpfs", 0, options) == 0)


@dataclass
class Push:
    """Pushes events of one request each, and counts those that were acknowledged."""

    system: AccountsSystem
    sent: int = 0
    acknowledged: int = 0

    def send(self) -> httpx.Response:
        """Push an event with a model of its own."""
        self.sent += 1
        event = {
            "provider": "vllm",
            "model": f"model-{self.sent}",
            "timestamp": self.system.clock.now.isoformat(),
            "promptTokens": 1,
            "id": str(self.sent),
        }
        headers = {"authorization": f"Bearer {TOKEN}"}
        response = httpx.post(self.system.url + BATCH_PATH, json=[event], headers=headers, timeout=60)
        if response.status_code == 202:
            self.acknowledged += 1
        return response


@contextmanager
def fail_writes(process: int) -> Iterator[None]:
    """Let every write of a process to a file fail: the kernel limits the sizes of its files to nothing."""
    soft, hard = resource.prlimit(process, resource.RLIMIT_FSIZE)
    resource.prlimit(process, resource.RLIMIT_FSIZE, (0, hard))
    yield
    resource.prlimit(process, resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def fill_disk(folder: Path) -> Iterator[None]:
    """Fill a disk to its last byte."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 12))
    yield
    filler.unlink()


@contextmanager
def start_disk_system(folder: Path) -> Iterator[AccountsSystem]:
    """Start the providers of an account, and configure a source beside it."""
    with start_accounts(folder, make_account("anthropic", "labs")) as system:
        (folder / "token").touch(mode=0o600)
        (folder / "token").write_text(TOKEN)
        with system.sandbox.config.open("a") as config:
            config.write("ingest: {sources: [{name: gateway, token_file: token}]}\n")
        yield system


@contextmanager
def run_exporter(system: AccountsSystem) -> Iterator[int]:
    """Run an exporter; yield its process id, and kill it at the end. Nothing else may have ended it."""
    process = system.launcher.start(system.flags())
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        assert system.launcher.wait() == -signal.SIGKILL


def account_value(system: AccountsSystem, name: str, **labels: str) -> float | None:
    """Return a sample of /metrics."""
    wanted = set(labels.items())
    return next((value for series, value in system.scrape().get(name, {}).items() if wanted <= series), None)


def spend(system: AccountsSystem) -> Mapping[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return cost and usage of 30 days of the polled account, by metric and labels; other windows end with the hour."""
    return {
        (name, labels): value
        for name, series in system.scrape().items()
        if name.startswith(SPEND_PREFIXES) and "_30d" in name
        for labels, value in series.items()
        if ("account", "labs") in labels
    }


def stored_events(folder: Path, system: AccountsSystem) -> int:
    """Return the number of tokens of the source in the ledger: one for each event."""
    ledger = Ledger(folder, read_only=True)
    number = ledger.buckets.find_account("gateway", "vllm")
    assert number is not None
    time_range = TimeRange(system.start, system.clock.now + DAY)
    units = ledger.buckets.units(number, [EVENTS_REPORT_NAME], time_range)
    ledger.close()
    return sum(value for labels, value in units.items() if labels.meter == "uncached_input")


def check_fault(system: AccountsSystem, fault: Callable[[], AbstractContextManager[None]], push: Push) -> None:
    """Check what holds while the ledger cannot be written, and after that."""
    assert push.send().status_code == 202
    before = spend(system)
    assert before
    with fault():
        for _ in range(5):
            response = push.send()
            assert response.status_code == 503, response.text
            assert "nothing of this request was stored" in response.json()["error"]
            assert response.headers["retry-after"]
        # The change of the hour makes both accounts due.
        system.advance(HOUR)
        wait_until(
            "the problem of the account",
            lambda: account_value(system, "ai_account_problem", account="labs", reason="ledger_unavailable") == 1,
        )
        wait_until("the source down", lambda: account_value(system, "ai_account_up", account="gateway") == 0)
        assert account_value(system, "ai_account_up", account="labs") == 0
        assert spend(system) == before
        for path in ("/", "/-/healthy", "/-/ready"):
            response = httpx.get(system.url + path, timeout=60)
            assert response.status_code == 200, (path, response.text)
        assert "Everything stored so far is kept" in httpx.get(system.url, timeout=60).text
    assert push.send().status_code == 202
    system.advance(timedelta(minutes=20))
    wait_until("recovery", lambda: account_value(system, "ai_account_up", account="labs") == 1)
    wait_until("recovery of the source", lambda: account_value(system, "ai_account_up", account="gateway") == 1)
    wait_until("exact totals", lambda: system.stored_totals() == system.true_totals())


@pytest.mark.parametrize("fault", ["full", "failing"])
def test_a_disk_that_fails_for_a_while_loses_nothing(
    tmp_path: Path, results: Results, fault: str, *, long: bool
) -> None:
    """Pushes get 503, accounts report it beside their old numbers, and the same process recovers afterwards."""
    folder = tmp_path / "ledger"
    folder.mkdir()
    # Without the right to mount, the kernel's limit of the sizes of files stands in for the full disk.
    is_mounted = fault == "full" and mount_small_disk(folder)
    try:
        with start_disk_system(tmp_path) as system, run_exporter(system) as process:
            wait_until("the account up", lambda: account_value(system, "ai_account_up", account="labs") == 1)
            push = Push(system)
            for _ in range(8 if long else 1):
                check_fault(system, lambda: fill_disk(folder) if is_mounted else fail_writes(process), push)
            assert stored_events(folder, system) == push.acknowledged
            os.kill(process, signal.SIGKILL)
            assert stored_events(folder, system) == push.acknowledged
    finally:
        if is_mounted:
            _libc.umount2(os.fsencode(folder), _MNT_DETACH)
    figures = f"{push.sent} pushes, {push.acknowledged} acknowledged and stored, others 503; recovered without restart"
    results.add("disk", fault, figures)


@dataclass
class Source:
    """Pushes numbered events to an exporter, and knows which of them were acknowledged."""

    url: str
    began: float = field(default_factory=time.time)
    """The time of all events: an event that is sent again is the same."""
    acknowledged: set[int] = field(default_factory=set)

    def push(self, number: int) -> httpx.Response:
        """Push an event of one request; its number is its id."""
        event = {"provider": "vllm", "model": "m", "timestamp": self.began, "promptTokens": 1, "id": str(number)}
        headers = {"authorization": f"Bearer {TOKEN}"}
        response = httpx.post(self.url + BATCH_PATH, json=[event], headers=headers, timeout=60)
        if response.status_code == 202:
            self.acknowledged.add(number)
        return response

    def count_requests(self) -> float:
        """Return the requests of the source on /metrics; 0 where no exporter answers."""
        with suppress(httpx.TransportError):
            page = httpx.get(f"{self.url}/metrics", timeout=60).text
            return sum(parse_samples(page).get("ai_requests_30d", {}).values())
        return 0

    def is_served(self) -> bool:
        """Return whether an exporter answers."""
        with suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/-/ready", timeout=60).status_code == 200
        return False


def begin_failure(process: int) -> None:
    """Let the system calls fail for which the process was started, or, without that filter, all writes to files."""
    if can_fail_system_calls():
        os.kill(process, signal.SIGUSR1)
        status = Path(f"/proc/{process}/status")
        wait_until("the filter", lambda: "Seccomp:\t2" in status.read_text())
    else:
        _, hard = resource.prlimit(process, resource.RLIMIT_FSIZE)
        resource.prlimit(process, resource.RLIMIT_FSIZE, (0, hard))


@pytest.mark.parametrize("name", FAILURES)
def test_a_system_call_that_fails_loses_nothing_acknowledged(tmp_path: Path, results: Results, name: str) -> None:
    """Pushes that the disk does not store get 503, pages are served, and after a kill every event is counted once."""
    url = f"http://127.0.0.1:{free_port()}"
    flags = (*write_source(tmp_path), f"--web.listen-address={url.removeprefix('http://')}")
    source, before, during = Source(url), range(3), range(3, 8)
    with start_launcher(tmp_path) as launcher:
        process = launcher.start(flags, FAILURES[name])
        wait_until("the exporter", source.is_served)
        assert [source.push(number).status_code for number in before] == [202] * len(before)
        wait_until("the numbers", lambda: source.count_requests() == len(before))
        begin_failure(process)
        for number in during:
            response = source.push(number)
            # What SQLite has read before, it need not read again.
            assert response.status_code == 503 or (name == "reads fail" and response.status_code == 202), response.text
            assert response.status_code == 202 or response.headers["retry-after"]
        for path in ("/metrics", "/", "/-/healthy", "/-/ready"):
            assert httpx.get(url + path, timeout=60).status_code == 200, path
        assert source.count_requests() >= len(before)
        assert launcher.kill(process) == -signal.SIGKILL, "the process ended by itself"
        acknowledged = set(source.acknowledged)
        process = launcher.start(flags)
        wait_until("the next exporter", source.is_served)
        # An event that was not acknowledged may have been stored: its source sends it again, and it is a duplicate.
        for number in (*before, *during):
            answer = source.push(number).json()
            assert answer["duplicate"] if number in acknowledged else answer["accepted"] + answer["duplicate"] == 1
        wait_until("all numbers", lambda: source.count_requests() == len(before) + len(during))
        launcher.kill(process)
    figures = f"{len(before) + len(during)} pushes, {len(acknowledged)} acknowledged, all stored once"
    results.add("disk", name, figures)


def write_source(folder: Path) -> Sequence[str]:
    """Write a configuration of one source; return the flags of `run`."""
    (folder / "token").touch(mode=0o600)
    (folder / "token").write_text(TOKEN)
    (folder / "config.yaml").write_text("ingest: {sources: [{name: gateway, token_file: token}]}\n")
    return f"--config.file={folder / 'config.yaml'}", f"--storage.path={folder / 'ledger'}"


def push_event(exporter: ExporterProcess, event_id: str) -> int:
    """Push an event of one token; return the status of the answer."""
    event = {"provider": "vllm", "model": "m", "timestamp": time.time(), "promptTokens": 1, "id": event_id}
    headers = {"authorization": f"Bearer {TOKEN}"}
    return httpx.post(exporter.url + BATCH_PATH, json=[event], headers=headers, timeout=60).status_code


def test_a_start_on_a_failing_disk_ends_with_advice(tmp_path: Path, *, long: bool) -> None:
    """Where the ledger cannot be written at the start, the process ends with status 1, and nothing stored is lost."""
    flags, pushed = write_source(tmp_path), 0
    # A ledger that was closed has no write-ahead log.
    for signal_number in (signal.SIGKILL, signal.SIGTERM) if long else (signal.SIGKILL,):
        with start_exporter(*flags) as exporter:
            pushed += 1
            assert push_event(exporter, f"event-{pushed}") == 202
            exporter.stop(signal_number)
        result = run_command("run", ANY_PORT_FLAG, *flags, prefix=["prlimit", "--fsize=4096:"])
        assert result.returncode == 1
        assert "Check the disk (space, quota, mount). Everything stored so far is kept." in result.stderr
    with start_exporter(*flags) as exporter:
        wait_until("all events", lambda: pushed_requests(exporter) == pushed)


def pushed_requests(exporter: ExporterProcess) -> float:
    """Return the requests of the source on /metrics."""
    series = parse_samples(exporter.get().text).get("ai_requests_30d", {})
    return sum(series.values())


def test_a_folder_that_cannot_be_read_for_a_while_loses_nothing(tmp_path: Path) -> None:
    """Without access to the folder, pages and metrics are served; pushes that are acknowledged are stored."""
    flags = write_source(tmp_path)
    folder = tmp_path / "ledger"
    with start_exporter(*flags, prefix=unprivileged_prefix()) as exporter:
        statuses = [push_event(exporter, "first")]
        folder.chmod(0)
        try:
            for number in range(5):
                statuses.append(push_event(exporter, f"second-{number}"))
                for path in ("/metrics", "/", "/-/healthy", "/-/ready"):
                    assert exporter.get(path).status_code == 200, path
        finally:
            folder.chmod(0o700)
        statuses.append(push_event(exporter, "last"))
        assert statuses[0] == statuses[-1] == 202
        assert set(statuses) <= {202, 503}
        wait_until("all acknowledged events", lambda: pushed_requests(exporter) == statuses.count(202))


def test_a_damaged_page_is_an_error_of_the_ledger_or_of_an_account(
    tmp_path: Path, results: Results, *, long: bool
) -> None:
    """Whichever page is damaged, reads and writes either work or end with an exception, and none waits or crashes."""
    original = tmp_path / "original"
    ledger = Ledger(original)
    number = ledger.buckets.register_account("labs", "anthropic")
    hours = [NOON.replace(minute=0, second=0) - index * HOUR for index in range(48)]
    for hour in hours:
        rows = [Row("output", index, "w", f"model-{index}", "", "", "") for index in range(1, 60)]
        ledger.buckets.put(
            number, "messages", TimeRange(hour, hour + HOUR), [Bucket("messages", hour, hour + HOUR, tuple(rows))]
        )
    ledger.close()
    content = (original / "ledger.db").read_bytes()
    page_count = len(content) // PAGE_BYTES
    outcomes = Counter[str]()
    random_source = random.Random(16)
    for page in range(page_count) if long else random_source.sample(range(page_count), 20):
        folder = tmp_path / f"page-{page}"
        folder.mkdir()
        start = page * PAGE_BYTES + random_source.choice((0, 100, PAGE_BYTES // 2, PAGE_BYTES - 300))
        damaged = content[:start] + random_source.randbytes(300) + content[start + 300 :]
        (folder / "ledger.db").write_bytes(damaged)
        outcomes[use_ledger(folder, number, hours)] += 1
        shutil.rmtree(folder)
    results.add("disk", "damaged pages", ", ".join(f"{kind}: {count}" for kind, count in sorted(outcomes.items())))
    # A change within a value cannot be noticed: SQLite has no checksums.
    assert set(outcomes) <= {"works", "LedgerError", "LedgerUnavailable", "account error"}, outcomes
    assert outcomes["LedgerError"], outcomes


def use_ledger(folder: Path, number: int, hours: Sequence[datetime]) -> str:
    """Read everything of a ledger and write to it; return how that ended."""
    try:
        ledger = Ledger(folder)
        try:
            ledger.hours.labels(number, ["messages"])
            for hour in hours[::24]:
                ledger.buckets.rows(number, "messages", floor(hour, DAY))
                ledger.hours.units(number, ["messages"], floor(hour, DAY))
            bucket = Bucket("messages", hours[0], hours[0] + HOUR, (Row("output", 1, "w", "new", "", "", ""),))
            ledger.buckets.put(number, "messages", TimeRange(hours[0], hours[0] + HOUR), [bucket])
        finally:
            ledger.close()
    except LedgerError as error:
        return type(error).__name__ if "ledger.db" in str(error) else str(error)
    except (ArithmeticError, LookupError, TypeError, ValueError, sqlite3.Error):
        # Values of a wrong kind: they end the poll of the account, which is reported as an internal error.
        return "account error"
    return "works"
