"""`python -m tests.benchmarks.serving_process FOLDER SERIES ACCOUNTS`: an exporter, and its page as a static file.

Both listen in the same process, on a port of their own, on the same server. The line `poll` on stdin has accounts
rendered one after the other, as polls that find changes do; `rest` ends that. Each line is confirmed by one on stdout.
"""

from __future__ import annotations

import json
import sys
import threading
from itertools import cycle
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from exporter.app import App
from exporter.model import HOUR
from exporter.web import build_asgi_app
from exporter.web.connection_limits import ConnectionLimits, RequestTracker, limit_connections
from exporter.web.server import listen
from tests.benchmarks.many_accounts import SERIES_PER_LABEL_SET, build_app, refresh_metrics, render_account
from tests.benchmarks.process import resident_memory
from tests.system import NOON, Clock


class Polls:
    """Renders accounts one after the other in a thread, as long as it is not paused."""

    def __init__(self, app: App, clock: Clock, accounts: list[str]) -> None:
        self._app, self._clock, self._accounts = app, clock, accounts
        self._running = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def set_running(self, running: bool) -> None:
        """Start or pause."""
        if running:
            self._running.set()
        else:
            self._running.clear()

    def _run(self) -> None:
        for number, account in enumerate(cycle(self._accounts)):
            self._running.wait()
            self._clock.now = NOON + (number % 2) * HOUR
            render_account(self._app, account)
            refresh_metrics(self._app)


def main() -> None:
    """Fill a ledger, assemble /metrics, report the ports, and serve."""
    clock = Clock(NOON)
    accounts = [f"team-{number:02d}" for number in range(int(sys.argv[3]))]
    label_sets = -(-int(sys.argv[2]) // SERIES_PER_LABEL_SET // len(accounts))
    app = build_app(Path(sys.argv[1]), dict.fromkeys(accounts, label_sets), clock)
    for account in accounts:
        render_account(app, account)
    refresh_metrics(app)
    handlers = app.handlers()
    self_metrics, page = handlers.self_metrics(False), handlers.page()
    files = Path(sys.argv[1]) / "files"
    for encoding, render in (("identity", page.plain), ("gzip", page.gzipped)):
        (files / encoding).mkdir(parents=True)
        (files / encoding / "metrics").write_bytes(b"".join(render(self_metrics, openmetrics=False)))
    info = {
        "port": _serve(build_asgi_app(handlers)),
        "file_port": _serve(Starlette(routes=[Mount("/", StaticFiles(directory=files))])),
        "resident": resident_memory(),
    }
    polls = Polls(app, clock, accounts)
    _report(json.dumps(info))
    for line in sys.stdin:
        polls.set_running(line.strip() == "poll")
        _report(line.strip())


def _serve(asgi_app: ASGIApp) -> int:
    """Serve an application as a running exporter does; return the port."""
    listening = listen("127.0.0.1:0")
    config = uvicorn.Config(
        RequestTracker(asgi_app, ()),
        http=limit_connections(ConnectionLimits(), None),
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
    )
    threading.Thread(target=uvicorn.Server(config).run, kwargs={"sockets": [listening]}, daemon=True).start()
    port: int = listening.getsockname()[1]
    return port


def _report(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
