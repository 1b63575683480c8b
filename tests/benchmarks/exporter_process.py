"""`python -m tests.benchmarks.exporter_process FOLDER`: this exporter with 100,000 series, until stdin is closed."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from statistics import median

import uvicorn

from exporter.app import App
from exporter.model import HOUR
from exporter.web import build
from exporter.web.server import listen
from tests.benchmarks.many_accounts import LINES, NOW, crowd, hang, refresh
from tests.benchmarks.process import resident, tell_and_wait

SERIES = 100_000
ACCOUNTS = 50


def main() -> None:
    """Fill a ledger, put the page together, tell what that took, and serve it."""
    names = [f"team-{number:02d}" for number in range(ACCOUNTS)]
    app = crowd(Path(sys.argv[1]), dict.fromkeys(names, -(-SERIES // LINES // ACCOUNTS)))
    for name in names:
        hang(app, name)
    refresh(app)
    refreshed = _refresh_after_a_change(app, names[0])
    opened = listen("127.0.0.1:0")
    # As exporter.web.server does it, without the timer that polls.
    config = uvicorn.Config(build(app.views()), log_config=None, access_log=False, lifespan="off", server_header=False)
    threading.Thread(target=uvicorn.Server(config).run, kwargs={"sockets": [opened]}, daemon=True).start()
    tell_and_wait({"port": opened.getsockname()[1], "refresh": refreshed, "resident": resident()})


def _refresh_after_a_change(app: App, account: str) -> float:
    """Return the usual seconds from a change of one account to the page that shows it."""
    took = []
    for now in (NOW + HOUR, NOW) * 4:
        hang(app, account, now)
        took.append(refresh(app))
    return median(took)


if __name__ == "__main__":
    main()
