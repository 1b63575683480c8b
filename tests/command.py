"""`python -m exporter` as a user runs it: separate processes, real files, real signals, real HTTP."""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryFile
from typing import TextIO

import httpx
import yaml

from exporter.demo.demo import write_config
from exporter.model import DAY
from exporter.simulator.accounts import SimAccount
from exporter.simulator.server import Simulator
from exporter.simulator.world import World
from tests.fork_server import ForkedProcess, start_process
from tests.paths import ROOT
from tests.system import midnight

COMMAND = (sys.executable, "-m", "exporter")
ENVIRONMENT = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "LANG": "C.UTF-8"}
MIN_PORT = 10_000
"""The lowest port of `free_port`; well-known services have lower ports."""
ANY_PORT_FLAG = "--web.listen-address=127.0.0.1:0"
TIMEOUT = 120.0
"""Seconds after which a test gives up: far more than a busy machine needs, so that no result depends on its speed."""


def run_command(
    *arguments: str,
    cwd: Path | str = "/",
    env: Mapping[str, str] = ENVIRONMENT,
    prefix: Sequence[str] = (),
    stdin: str = "",
    new_interpreter: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end.

    It is forked from a process that has imported the exporter already, unless `new_interpreter` is set or a Python
    variable in `env` requires an interpreter of its own.
    """
    if new_interpreter or not _can_fork(env):
        command = [*prefix, *COMMAND, *arguments]
        return subprocess.run(
            command, cwd=cwd, env=env, input=stdin, capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
    with TemporaryFile("w+") as given, TemporaryFile("w+") as stdout, TemporaryFile("w+") as stderr:
        given.write(stdin)
        given.seek(0)
        streams = (given.fileno(), stdout.fileno(), stderr.fileno())
        process = start_process(arguments, streams, cwd=cwd, env=env, prefix=prefix)
        try:
            status = process.wait(TIMEOUT)
        finally:
            process.kill()
            process.wait()
        stdout.seek(0)
        stderr.seek(0)
        return subprocess.CompletedProcess(arguments, status, stdout.read(), stderr.read())


def _can_fork(env: Mapping[str, str]) -> bool:
    """Return whether a forked process is the same as a new interpreter: no Python variable differs from the usual."""

    def python_variables(given: Mapping[str, str]) -> dict[str, str]:
        return {name: value for name, value in given.items() if name.startswith("PYTHON")}

    return python_variables(env) == python_variables(ENVIRONMENT)


def free_port() -> int:
    """Return a port of loopback on which nothing listens now, and that the kernel assigns to no other socket.

    A test may start servers on it one after the other; a port of the range that the kernel assigns from could go to a
    server or a connection of another test meanwhile.
    """
    first_assigned = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.SystemRandom().randrange(MIN_PORT, first_assigned) if first_assigned > MIN_PORT else 0
        with suppress(OSError), socket.create_server(("127.0.0.1", port)) as listening:
            return int(listening.getsockname()[1])


def wait_until(description: str, condition: Callable[[], object], timeout: float = TIMEOUT) -> None:
    """Wait until a condition is true; fail with its description after `timeout` seconds."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"{description} did not happen within {timeout} s"
        threading.Event().wait(0.02)


@dataclass
class ExporterProcess:
    """A running exporter, its address, and the lines that it has written so far."""

    process: subprocess.Popen[str] | ForkedProcess
    stderr_lines: list[str] = field(default_factory=list)
    stdout_lines: list[str] = field(default_factory=list)
    client: httpx.Client = field(default_factory=httpx.Client)

    @property
    def url(self) -> str:
        """The address where the exporter listens, from its log."""
        return "http://" + next(filter(None, map(_listen_address, self.stderr_lines)))

    def get(self, path: str = "/metrics", **headers: str) -> httpx.Response:
        """GET a page."""
        return self.client.get(self.url + path, headers=headers, timeout=TIMEOUT)

    def reload(self) -> httpx.Response:
        """POST /-/reload."""
        return self.client.post(f"{self.url}/-/reload", timeout=TIMEOUT)

    def accounts(self, name: str = "ai_account_info", value: str = ".*") -> set[str]:
        """Return the accounts that have a sample of a metric with this value, a regular expression."""
        return set(re.findall(rf'^{name}{{.*\baccount="([^"]+)".*}} {value}$', self.get().text, re.MULTILINE))

    def value(self, name: str) -> str:
        """Return the value of a metric without labels; empty without such a metric."""
        found = re.search(rf"^{name} (.*)$", self.get().text, re.MULTILINE)
        return found[1] if found else ""

    def wait_until_up(self, *accounts: str) -> None:
        """Wait until every report of these accounts has been read."""
        wait_until(f"{accounts} up", lambda: set(accounts) <= self.accounts("ai_account_up", "1"))

    def wait_for_log(self, text: str, times: int = 1) -> None:
        """Wait for lines on stderr that contain a text."""
        wait_until(f"{text!r} in the log", lambda: sum(text in line for line in self.stderr_lines) >= times)

    def send_signal(self, signal_number: int) -> None:
        """Send a signal."""
        self.process.send_signal(signal_number)

    def stop(self, signal_number: int = signal.SIGTERM, timeout: float = TIMEOUT) -> int:
        """Send a signal and return the status with which the process ends."""
        self.send_signal(signal_number)
        return self.process.wait(timeout)


def _listen_address(line: str) -> str:
    found = re.search(r'(?:msg=Listening address=|"msg": "Listening", "address": ")([^\s"]+)', line)
    return found[1] if found else ""


@contextmanager
def start_exporter(
    *arguments: str,
    cwd: Path | str = "/",
    env: Mapping[str, str] = ENVIRONMENT,
    prefix: Sequence[str] = (),
    new_interpreter: bool = False,
) -> Iterator[ExporterProcess]:
    """Start `run` on a free port, wait until it listens, and kill it at the end unless it has ended."""
    process, stdout, stderr = _start_run(arguments, cwd, env, prefix, new_interpreter=new_interpreter)
    exporter = ExporterProcess(process)
    pipes = ((stderr, exporter.stderr_lines), (stdout, exporter.stdout_lines))
    readers = [threading.Thread(target=lines.extend, args=(iter(pipe.readline, ""),)) for pipe, lines in pipes]
    for reader in readers:
        reader.start()
    try:
        wait_until("listening", lambda: any(map(_listen_address, exporter.stderr_lines)) or process.poll() is not None)
        assert process.poll() is None, exporter.stderr_lines
        yield exporter
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        for reader in readers:
            reader.join()
        exporter.client.close()
        stderr.close()
        stdout.close()


def _start_run(
    arguments: Sequence[str], cwd: Path | str, env: Mapping[str, str], prefix: Sequence[str], *, new_interpreter: bool
) -> tuple[subprocess.Popen[str] | ForkedProcess, TextIO, TextIO]:
    """Start `run`; return the process, and its stdout and stderr to read from."""
    (stdout_end, stdout), (stderr_end, stderr) = os.pipe(), os.pipe()
    try:
        if new_interpreter or not _can_fork(env):
            command = [*prefix, *COMMAND, "run", ANY_PORT_FLAG, *arguments]
            process: subprocess.Popen[str] | ForkedProcess = subprocess.Popen(
                command, cwd=cwd, env=env, text=True, stdout=stdout, stderr=stderr
            )
        else:
            with Path(os.devnull).open() as nothing:
                streams = (nothing.fileno(), stdout, stderr)
                process = start_process(["run", ANY_PORT_FLAG, *arguments], streams, cwd=cwd, env=env, prefix=prefix)
    finally:
        os.close(stdout)
        os.close(stderr)
    return process, os.fdopen(stdout_end), os.fdopen(stderr_end)


@dataclass
class Sandbox:
    """A folder with a configuration of simulated accounts, and the simulator of their providers."""

    folder: Path
    simulator: Simulator
    config: Path
    poll_interval: str

    def __post_init__(self) -> None:
        """Write the configuration of all accounts."""
        self.write_accounts(*self.simulator.world.accounts)

    def write_accounts(self, *names: str) -> None:
        """Write a configuration of these accounts only."""
        accounts = [self.simulator.world.accounts[name] for name in names]
        document = yaml.safe_load(write_config(self.folder, accounts, self.simulator.url).read_text())
        document["defaults"] = {"poll_interval": self.poll_interval, "history": "2d"}
        text = yaml.safe_dump(document, sort_keys=False)
        # Replaced atomically, as by an editor or a mounted ConfigMap.
        new = self.folder / "config.new"
        new.write_text(text)
        new.replace(self.config)

    @property
    def flags(self) -> tuple[str, str]:
        """The flags of every command that reads the configuration and the ledger."""
        return f"--config.file={self.config}", f"--storage.path={self.folder / 'ledger'}"


@contextmanager
def start_sandbox(folder: Path, *accounts: SimAccount, poll_interval: str = "5m") -> Iterator[Sandbox]:
    """Simulate the providers of some accounts that have usage since three days ago."""

    def now() -> datetime:
        return datetime.now(UTC)

    with Simulator(World(accounts, now, start_time=midnight(now()) - 3 * DAY)) as simulator:
        yield Sandbox(folder, simulator, folder / "config.yaml", poll_interval)


def unprivileged_prefix() -> list[str]:
    """Return the command that drops root's capabilities before it runs another; empty for other users."""
    return ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
