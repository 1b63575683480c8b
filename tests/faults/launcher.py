"""Starts and kills real exporters, one after the other, at a time of day that the test sets."""

from __future__ import annotations

import atexit
import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tests.command import ENVIRONMENT
from tests.faults.system_calls import SystemCallFailure

LAUNCHER = """
import json, os, signal, sys
from datetime import UTC, datetime, timedelta

import exporter.cli.command
from tests.faults.system_calls import SystemCallFailure, fail_system_calls

request = {}

def now():
    # The only function that reads the clock. Without a file, it is the machine's.
    try:
        with open(request["clock_file"]) as file:
            return datetime.fromisoformat(file.read())
    except FileNotFoundError:
        return datetime.now(UTC)

exporter.cli.command.now = now

import exporter.cli.run
import exporter.app
from exporter.cli import main

# Looked at more often than once a second, so that hours of the simulated clock take less time.
exporter.app.TICK_INTERVAL = timedelta(seconds=0.05)

for line in sys.stdin:
    process = os.fork()
    if process == 0:
        request = json.loads(line)
        sys.stderr = open(request["log"], "a", buffering=1)
        if request["failure"] is not None:
            failure = SystemCallFailure(*request["failure"])
            signal.signal(signal.SIGUSR1, lambda *_: fail_system_calls(failure))
        main(request["arguments"])
    print(process, flush=True)
    print(os.waitpid(process, 0)[1], flush=True)
"""
"""Runs one exporter after the other: JSON requests on stdin; process id and exit status on stdout.

The exporters are forks of a process that has imported everything, since importing takes longer than all the rest. A
request has the arguments of the command, the file with the time of day, the file to which stderr is appended, and the
system calls that fail from SIGUSR1 on.
"""


@dataclass
class Launcher:
    """Starts exporters, one at a time."""

    process: subprocess.Popen[str]
    clock_file: Path
    log: Path
    """The file of the exporters' stderr."""
    running: int | None = None
    """The process id of the exporter that has been started and not been waited for."""

    def set_clock(self, now: datetime) -> None:
        """Set the time of day of exporters that run and of those that are started; until then, it is the machine's."""
        new = self.clock_file.with_suffix(".new")
        new.write_text(now.isoformat())
        new.replace(self.clock_file)

    def start(self, flags: Sequence[str], failure: SystemCallFailure | None = None) -> int:
        """Start an exporter; return its process id. `failure` begins when the process gets SIGUSR1."""
        request = {
            "arguments": ["run", *flags],
            "clock_file": str(self.clock_file),
            "log": str(self.log),
            "failure": failure,
        }
        self._write(json.dumps(request))
        self.running = self._read()
        return self.running

    def kill(self, process: int) -> int:
        """Kill the exporter; return its exit status."""
        os.kill(process, signal.SIGKILL)
        return self.wait()

    def wait(self) -> int:
        """Wait for the end of the exporter; return its exit status."""
        status = os.waitstatus_to_exitcode(self._read())
        self.running = None
        return status

    def _write(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def _read(self) -> int:
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())


@contextmanager
def start_launcher(folder: Path) -> Iterator[Launcher]:
    """Yield a launcher whose clock and log are files of `folder`; at the end, kill the exporter that still runs."""
    launcher = Launcher(_start_interpreter(), folder / "clock", folder / "stderr")
    try:
        yield launcher
    finally:
        if launcher.running is not None:
            launcher.kill(launcher.running)


@functools.cache
def _start_interpreter() -> subprocess.Popen[str]:
    """Start the process from which all exporters of this test process are forked; it ends with this process."""
    command = [sys.executable, "-c", LAUNCHER]
    process = subprocess.Popen(
        command,
        env=ENVIRONMENT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    atexit.register(process.communicate)
    return process
