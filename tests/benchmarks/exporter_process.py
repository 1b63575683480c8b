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
from tests.benchmarks.many_accounts import NOW, SERIES_PER_LABEL_SET, build_app, refresh_metrics, render_account
from tests.benchmarks.process import report_and_wait, resident_memory

SERIES = 100_000
ACCOUNTS = 50


def main() -> None:
    """Fill a ledger, put the page together, tell what that took, and serve it."""
    names = [f"team-{number:02d}" for number in range(ACCOUNTS)]
    app = build_app(Path(sys.argv[1]), dict.fromkeys(names, -(-SERIES // SERIES_PER_LABEL_SET // ACCOUNTS)))
    for name in names:
        render_account(app, name)
    refresh_metrics(app)
    refreshed = _measure_refresh(app, names[0])
    opened = listen("127.0.0.1:0")
    # As exporter.web.server does it, without the timer that polls.
    config = uvicorn.Config(
        build_asgi_app(app.handlers()), log_config=None, access_log=False, lifespan="off", server_header=False
    )
    threading.Thread(target=uvicorn.Server(config).run, kwargs={"sockets": [opened]}, daemon=True).start()
    report_and_wait({"port": opened.getsockname()[1], "refresh": refreshed, "resident": resident_memory()})


def _measure_refresh(app: App, account: str) -> float:
    """Return the usual seconds from a change of one account to the page that shows it."""
    took = []
    for now in (NOW + HOUR, NOW) * 4:
        render_account(app, account, now)
        took.append(refresh_metrics(app))
    return median(took)


if __name__ == "__main__":
    main()
