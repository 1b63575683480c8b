"""Thousands of connections that send little or nothing: scrapes are answered meanwhile."""

from __future__ import annotations

import asyncio
import http.client
import os
import ssl
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.certificates import CertificateAuthority
from tests.command import ExporterProcess, start_exporter, wait_until
from tests.faults.machine import measure_slowness
from tests.faults.results import Results
from tests.web.test_limits import GET, connect
from tests.web_server import serve

ATTACK = """
import resource, socket, sys, time

host, port, count, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
kinds = [bytes.fromhex(data) for data in sys.argv[5].split(",")]
limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
began, opened = time.monotonic(), []

def send(number):
    try:
        opened[number].send(kinds[number % len(kinds)])
    except OSError:
        pass  # the server has closed it already, or has not accepted it yet

for number in range(count):
    wait = began + number * seconds / count - time.monotonic()
    if wait > 0:
        time.sleep(wait)
    opened.append(socket.socket())
    opened[-1].setblocking(False)
    opened[-1].connect_ex((host, port))
    if number >= 10:
        send(number - 10)
for number in range(max(0, count - 10), count):
    send(number)
print("opened", flush=True)
sys.stdin.read()
"""
"""Opens connections and sends the beginning of something; keeps them until stdin is closed."""

HEAD = b" HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\nx"
KINDS = {
    "silent": b"",
    "slow head": b"GET /metrics HT",
    "slow body": b"POST /api/v1/read" + HEAD,
    "slow push": b"POST /api/v1/ai/usage/events" + HEAD,
    "slow reader": b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
}
HANDSHAKE = {"unfinished handshake": b"\x16\x03\x01\x02\x00\x01", "silent": b""}
MAX_SERVER_SECONDS = 1.0
"""CPU time that the server may use for anything between the beginning and the end of a scrape, on a machine of the
reference speed: on such a machine with nothing else to do, a scrape takes less than that.
"""


@dataclass
class Scraper:
    """Scrapes on a new and on a kept connection until it is stopped."""

    exporter: ExporterProcess
    port: int
    context: ssl.SSLContext | None
    pause: float
    stop: threading.Event = field(default_factory=threading.Event)
    seconds: list[float] = field(default_factory=list)
    server_seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def run(self, *, keep: bool) -> None:
        """Scrape again and again."""
        kept = self._connect() if keep else None
        while not self.stop.wait(self.pause):
            began, cpu = time.monotonic(), read_cpu_seconds(self.exporter.process.pid)
            connection = kept or self._connect()
            try:
                connection.request("GET", "/metrics", headers={} if keep else {"connection": "close"})
                response = connection.getresponse()
                response.read()
                assert response.status == 200
            except (OSError, http.client.HTTPException, AssertionError) as error:
                self.failures.append(f"{'kept' if keep else 'new'} connection: {error!r}")
            self.seconds.append(time.monotonic() - began)
            self.server_seconds.append(read_cpu_seconds(self.exporter.process.pid) - cpu)
            if kept is None:
                connection.close()
        if kept is not None:
            kept.close()

    def _connect(self) -> http.client.HTTPConnection:
        if self.context is None:
            return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=60, context=self.context)


def read_cpu_seconds(process: int) -> float:
    """Return the CPU time of a process so far, in steps of ten milliseconds."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def attack(port: int, count: int, seconds: float, kinds: Sequence[bytes]) -> Iterator[None]:
    """Open so many connections within so many seconds, and keep them; yield when all are opened."""
    data = ",".join(kind.hex() for kind in kinds)
    command = [sys.executable, "-I", "-S", "-c", ATTACK, "127.0.0.1", str(port), str(count), str(seconds), data]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            assert process.stdout.readline() == "opened\n"
            yield
        finally:
            process.stdin.close()


def scrape_during(
    scraper: Scraper, kept: Sequence[bool], begin_attack: Callable[[], AbstractContextManager[None]]
) -> None:
    """Scrape before, during and after an attack, in a thread for each kind of connection: kept or new."""
    threads = [threading.Thread(target=scraper.run, kwargs={"keep": keep}) for keep in kept]
    for thread in threads:
        thread.start()
    try:
        wait_until("first scrapes", lambda: len(scraper.seconds) >= 4)
        with begin_attack():
            enough = len(scraper.seconds) + 6
            wait_until("scrapes after the last connection", lambda: len(scraper.seconds) >= enough)
    finally:
        scraper.stop.set()
        for thread in threads:
            thread.join()


def write_flags(folder: Path) -> tuple[str, str]:
    """Write a configuration with a source and no polled account; return the flags of `run`."""
    (folder / "token").touch(mode=0o600)
    (folder / "token").write_text("gateway-token-7ad05e91")
    (folder / "config.yaml").write_text("ingest: {sources: [{name: gateway, token_file: token}]}\n")
    return f"--config.file={folder / 'config.yaml'}", f"--storage.path={folder / 'ledger'}"


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_scrapes_are_answered_beside_thousands_of_connections(
    tmp_path: Path, results: Results, *, tls: bool, long: bool
) -> None:
    """However fast connections are opened that stay incomplete, no scrape fails, and none waits for all of them."""
    count, max_server_seconds = 2000 if long else 400, MAX_SERVER_SECONDS * measure_slowness()
    kinds = HANDSHAKE if tls else KINDS
    attacks = {"all kinds": list(kinds.values())}
    if long:
        attacks |= {name: [data] for name, data in kinds.items()}
    flags: Sequence[str] = write_flags(tmp_path)
    context = None
    with ExitStack() as stack:
        if tls:
            authority = CertificateAuthority(tmp_path)
            authority.sign("server")
            (tmp_path / "web.yml").write_text("tls_server_config: {cert_file: server.crt, key_file: server.key}\n")
            flags = (*flags, f"--web.config.file={tmp_path / 'web.yml'}")
            context = ssl.create_default_context(cafile=str(authority.file))
        exporter = stack.enter_context(start_exporter(*flags))
        port = int(exporter.url.rpartition(":")[2])
        for name, data in attacks.items():
            # A handshake takes several round trips, in which more than the limit of newer ones may begin: no new
            # connection is promised beside an attacker who is faster than that.
            for seconds in (1.5,) if tls else (1.5, 0.0) if long else (0.0,):
                scraper = Scraper(exporter, port, context, 0.02)
                # A client that waits for its turn on a busy machine is slower than any handshake.
                kept = (True,) if tls and not long else (True, False)
                scrape_during(scraper, kept, partial(attack, port, count, seconds, data))
                assert not scraper.failures, (name, seconds, scraper.failures)
                # Beside 2,000 complete requests at once, a scrape waits until they are answered.
                if seconds or not long:
                    assert max(scraper.server_seconds) <= max_server_seconds, (name, scraper.server_seconds)
                p99 = statistics.quantiles(scraper.seconds, n=100)[-1]
                figures = (
                    f"{count} connections in {seconds} s: {len(scraper.seconds)} scrapes, 0 failed, p99 {p99:.2f} s, "
                    f"at most {max(scraper.server_seconds):.2f} s of the server's CPU time"
                )
                results.add("clients", f"{name}{' (TLS)' if tls else ''}, {seconds} s", figures)
        assert not [line for line in exporter.stderr_lines if "level=error" in line]


def test_a_scrape_is_answered_among_connections_that_were_opened_at_once() -> None:
    """A request that has arrived is read before so many silent connections are accepted that it has to go."""
    loop, blocked, released = asyncio.SelectorEventLoop(), threading.Event(), threading.Event()

    def block() -> None:
        blocked.set()
        released.wait()

    with serve(loop=loop) as address, ExitStack() as stack:
        assert httpx.get(f"http://{address}/metrics").status_code == 200
        loop.call_soon_threadsafe(block)
        blocked.wait()
        try:
            scrape = stack.enter_context(connect(address))
            scrape.sendall(GET)
            for _ in range(600):
                stack.enter_context(connect(address))
        finally:
            released.set()
        assert scrape.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
