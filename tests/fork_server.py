"""Runs the exporter's commands without importing it for each: a process that has imported everything forks.

Each command is a process of its own, with its own arguments, environment, working directory and standard streams, and
with the signal dispositions of a new interpreter. Only the imports are shared: without that, two thirds of the
processor time of the tests that run commands would be spent on them. `tests.command` starts an interpreter instead
where a test depends on how an interpreter starts.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MAX_REQUEST_BYTES = 1 << 17
IGNORED_BY_PYTHON = frozenset({signal.SIGPIPE, signal.SIGXFSZ})
"""Signals that every Python interpreter ignores from its start."""
UNCHANGEABLE = frozenset({signal.SIGKILL, signal.SIGSTOP})


class ForkedProcess:
    """A command that was forked, with the part of `subprocess.Popen` that tests use."""

    def __init__(self, arguments: Sequence[str], reply: socket.socket) -> None:
        """Take the connection on which the server reports the process's id, and later its exit status."""
        self.args = arguments
        self.returncode: int | None = None
        self._reply = reply
        self._lock = threading.Lock()
        self.pid = self._receive()

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal; None while the process runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit status. Raises TimeoutExpired after `timeout` seconds."""
        with self._lock:
            if self.returncode is None:
                self._reply.settimeout(timeout)
                try:
                    self.returncode = self._receive()
                except (TimeoutError, BlockingIOError):
                    raise subprocess.TimeoutExpired(list(self.args), timeout or 0) from None
                self._reply.close()
            return self.returncode

    def send_signal(self, signal_number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, signal_number)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _receive(self) -> int:
        message = self._reply.recv(64)
        assert message, "the fork server has ended"
        return int(message)


def start_process(
    arguments: Sequence[str],
    streams: Sequence[int],
    *,
    cwd: Path | str,
    env: Mapping[str, str],
    prefix: Sequence[str] = (),
) -> ForkedProcess:
    """Start `python -m exporter` with these arguments; the file descriptors become stdin, stdout and stderr.

    Processes that need a command before theirs, such as `setpriv`, come from a server that was started with it.
    """
    request = json.dumps({"arguments": list(arguments), "cwd": str(cwd), "env": dict(env)})
    with contextlib.ExitStack() as stack:
        reply, theirs = map(stack.enter_context, socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        socket.send_fds(_start_server(tuple(prefix)), [request.encode()], [*streams, theirs.fileno()])
        # Closed before the first read, so that a server that ends is noticed.
        theirs.close()
        process = ForkedProcess(arguments, reply)
        # The process closes it when it has ended.
        stack.pop_all()
        return process


@functools.cache
def _start_server(prefix: Sequence[str]) -> socket.socket:
    """Start a server for this test process, and return the socket on which it takes requests."""
    root = Path(__file__).parent.parent
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        # It ends when the last copy of our end of the socket is closed.
        server = subprocess.Popen(
            [*prefix, sys.executable, "-m", "tests.fork_server", str(theirs.fileno())],
            cwd="/",
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(root), "LANG": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
        )

    @atexit.register
    def stop() -> None:
        ours.close()
        server.wait()

    return ours


def _receive_command(control: socket.socket) -> dict[str, Any]:
    """Fork for every request; return the request in the process that has to run it, and nowhere else."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, MAX_REQUEST_BYTES, 4)
        if not message:
            os._exit(0)
        if os.fork() == 0:
            # This process waits for the command, so that the server can accept the next request.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            command = os.fork()
            if command == 0:
                control.close()
                for target, descriptor in enumerate(descriptors[:3]):
                    os.dup2(descriptor, target)
                for descriptor in descriptors:
                    os.close(descriptor)
                request: dict[str, Any] = json.loads(message)
                return request
            control.close()
            for descriptor in descriptors[:3]:
                os.close(descriptor)
            with socket.socket(fileno=descriptors[3]) as reply, contextlib.suppress(BrokenPipeError):
                reply.send(str(command).encode())
                _, status = os.waitpid(command, 0)
                reply.send(str(os.waitstatus_to_exitcode(status)).encode())
            os._exit(0)
        for descriptor in descriptors:
            os.close(descriptor)


def _reset_process(request: Mapping[str, Any]) -> None:
    """Make this process look like an interpreter that was started for the request."""
    for number in signal.valid_signals() - UNCHANGEABLE:
        signal.signal(number, signal.SIG_IGN if number in IGNORED_BY_PYTHON else signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    sys.argv[1:] = request["arguments"]


def _serve(control: socket.socket) -> None:
    """Import every command, then run those that are requested, each in a process of its own."""
    command = importlib.import_module("exporter.cli.command")
    for module in (*command.MODULES.values(), "exporter.cli.check_account", "exporter.simulator.server"):
        importlib.import_module(module)
    assert threading.active_count() == 1, "a process with threads must not fork"
    # Without this, a collection in a forked process would copy every page of the objects that exist now.
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for number in (signal.SIGINT, signal.SIGHUP):
        # Ctrl-C is for pytest: the server ends with it.
        signal.signal(number, signal.SIG_IGN)
    request = _receive_command(control)
    _reset_process(request)
    # From here the interpreter ends as it would for a command: exit status, traceback, threads that are waited for.
    command.main(prog_name="python -m exporter")


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
