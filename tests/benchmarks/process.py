"""Processes of their own for the two sides, so that neither shares an interpreter with the other or with the client."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.paths import ROOT

ProcessInfo = Mapping[str, float]
"""Facts that a process reports when it is ready, among them its `port`."""


@contextmanager
def run_process(module: str, *arguments: str) -> Iterator[ProcessInfo]:
    """Run a side until the block ends; yield the facts that it reports when it is ready."""
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as running:
        assert running.stdout is not None
        line = running.stdout.readline()
        assert line, f"{module} did not start"
        info: ProcessInfo = json.loads(line)
        yield info
        # Leaving the block closes its standard input, which ends it, and waits.


def report_and_wait(info: ProcessInfo) -> None:
    """Report that this side is ready, and return when the benchmark is over."""
    sys.stdout.write(f"{json.dumps(info)}\n")
    sys.stdout.flush()
    sys.stdin.read()


def resident_memory() -> int:
    """Return the bytes of memory that this process holds now."""
    found = re.search(r"^VmRSS:\s*(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024
