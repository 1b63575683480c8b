"""Runs Chromium without a window, driven over the DevTools protocol on two pipes: no driver and no port is needed."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

PROGRAMS = ("chromium-headless-shell", "chromium", "google-chrome")
"""The first that is installed is used; see `.ci/tools`."""
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--hide-scrollbars",
)

MAX_SECONDS = 120
"""Without an answer, after which a test fails: far more than a busy machine needs."""
STOP_TIMEOUT = 30
"""Seconds that the browser has to end before it is killed."""


@dataclass
class Tab:
    """One page of a running browser."""

    commands: IO[bytes]
    messages: int
    """Descriptor of the pipe that the browser writes its answers and events to."""
    session: str = ""
    _number: int = 0
    _received: bytearray = field(default_factory=bytearray)
    _events: list[dict[str, Any]] = field(default_factory=list)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self._number += 1
        command = {"id": self._number, "method": method, "params": parameters}
        if self.session:
            command["sessionId"] = self.session
        self.commands.write(json.dumps(command).encode() + b"\0")
        self.commands.flush()
        while (message := self._receive()).get("id") != self._number:
            self._events.append(message)
        assert "error" not in message, message
        result: dict[str, Any] = message["result"]
        return result

    def _receive(self) -> dict[str, Any]:
        """Return the next answer or event."""
        while b"\0" not in self._received:
            readable, _, _ = select.select([self.messages], [], [], MAX_SECONDS)
            assert readable, f"the browser has not answered for {MAX_SECONDS} s"
            data = os.read(self.messages, 1 << 16)
            assert data, "the browser has ended"
            self._received += data
        text, _, self._received = self._received.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        return message

    def open(self, url: str, width: int, height: int, scheme: str) -> None:
        """Open a page in a window of this size and wait until it is loaded; `scheme` is light or dark."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self._events.clear()
        loader = self.call("Page.navigate", url=url)["loaderId"]
        # Events of the page before may still arrive: only those of this loader count.
        while not any(_is_load(event, loader) for event in self._events):
            self._events.append(self._receive())

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression; promises are awaited. The page's own policy does not apply."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def save_screenshot(self, path: Path, *, whole_page: bool = False) -> None:
        """Save a picture of the window, or of the whole page, as PNG."""
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole_page)
        path.write_bytes(base64.b64decode(answer["data"]))


def _is_load(event: dict[str, Any], loader: str) -> bool:
    parameters = event.get("params", {})
    return (
        event.get("method") == "Page.lifecycleEvent"
        and parameters["name"] == "load"
        and parameters["loaderId"] == loader
    )


@contextmanager
def start_chromium(folder: Path) -> Iterator[Tab]:
    """Run a browser with an empty profile until the block ends; yield its only tab."""
    program = next((found for name in PROGRAMS if (found := shutil.which(name))), None)
    assert program is not None, f"none of {', '.join(PROGRAMS)} is installed: run .ci/tools"
    command_read, command_write = os.pipe()
    message_read, message_write = os.pipe()
    arguments = [program, *FLAGS, "--remote-debugging-pipe", f"--user-data-dir={folder / 'profile'}", "about:blank"]
    # Chromium reads commands from descriptor 3 and writes messages to descriptor 4.
    shell = f'exec "$@" 3<&{command_read} 4>&{message_write}'
    with (folder / "chromium.log").open("wb") as log:
        process = subprocess.Popen(
            ["/bin/bash", "-c", shell, "bash", *arguments],
            pass_fds=(command_read, message_write),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    os.close(command_read)
    os.close(message_write)
    with os.fdopen(command_write, "wb") as commands, os.fdopen(message_read, "rb"):
        try:
            tab = Tab(commands, message_read)
            (target,) = (
                info["targetId"] for info in tab.call("Target.getTargets")["targetInfos"] if info["type"] == "page"
            )
            tab.session = tab.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            tab.call("Page.enable")
            tab.call("Page.setLifecycleEventsEnabled", enabled=True)
            yield tab
        finally:
            _stop(process, commands)


def _stop(process: subprocess.Popen[bytes], commands: IO[bytes]) -> None:
    """End the browser and its helpers. Debian's program is a script, so the browser is a child of the process."""
    with contextlib.suppress(OSError):  # the browser has ended by itself
        commands.write(b'{"id": 0, "method": "Browser.close"}\0')
        commands.flush()
    try:
        process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
