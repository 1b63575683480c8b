"""`python -m tests.benchmarks.restart_process FOLDER`: an exporter that starts on a ledger, until stdin is closed."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from exporter.app import App, Dependencies
from exporter.config.configuration import load
from exporter.providers import PROVIDERS
from tests.benchmarks.process import report_and_wait, resident_memory
from tests.system import NOON, Clock


def main() -> None:
    """Load the configuration, build every account's snapshot, assemble /metrics, and report what that took."""
    folder = Path(sys.argv[1])
    app = App(folder / "ledger", Dependencies(Clock(NOON), time.monotonic, {}, PROVIDERS))
    config = load(folder / "config.yaml", PROVIDERS)
    loaded = time.process_time()
    app.apply(config)
    page = b"".join(app.handlers().page().plain(b"", openmetrics=False))
    (folder / "page.txt").write_bytes(page)
    cpu = time.process_time()
    report_and_wait(
        {
            "cpu": cpu,
            "loaded": loaded,
            "resident": resident_memory(),
            "samples": sum(not line.startswith(b"#") for line in page.splitlines()),
        }
    )
    app.stop()


if __name__ == "__main__":
    main()
