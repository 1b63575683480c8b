"""`python -m tests.benchmarks.exporter_process FOLDER`: this exporter with 100,000 series, until stdin is closed."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from statistics import median

import uvicorn

from exporter.app import App
from exporter.model import HOUR
from exporter.web import build_asgi_app
from exporter.web.server import listen
from tests.benchmarks.many_accounts import SERIES_PER_LABEL_SET, build_app, refresh_metrics, render_account
from tests.benchmarks.process import report_and_wait, resident_memory
from tests.system import NOON, Clock

SERIES = 100_000
ACCOUNTS = 50


def main() -> None:
    """Fill a ledger, assemble /metrics, report the duration, and serve."""
    clock = Clock(NOON)
    names = [f"team-{number:02d}" for number in range(ACCOUNTS)]
    size = -(-SERIES // SERIES_PER_LABEL_SET // ACCOUNTS)
    app = build_app(Path(sys.argv[1]), dict.fromkeys(names, size), clock)
    for name in names:
        render_account(app, name)
    refresh_metrics(app)
    refreshed = _measure_refresh(app, clock, names[0])
    listening = listen("127.0.0.1:0")
    # As in exporter.web.server, without the timer that polls.
    config = uvicorn.Config(
        build_asgi_app(app.handlers()), log_config=None, access_log=False, lifespan="off", server_header=False
    )
    threading.Thread(target=uvicorn.Server(config).run, kwargs={"sockets": [listening]}, daemon=True).start()
    report_and_wait({"port": listening.getsockname()[1], "refresh": refreshed, "resident": resident_memory()})


def _measure_refresh(app: App, clock: Clock, account: str) -> float:
    """Return the median duration in seconds of assembling /metrics after a change of a single account."""
    durations = []
    for now in (NOON + HOUR, NOON) * 4:
        clock.now = now
        render_account(app, account)
        durations.append(refresh_metrics(app))
    return median(durations)


if __name__ == "__main__":
    main()
