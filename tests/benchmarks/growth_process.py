"""`python -m tests.benchmarks.growth_process FOLDER ACCOUNTS SERIES DAYS`: store, value, render; report the costs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.many_accounts import build_app, render_account
from tests.benchmarks.process import resident_memory


def main() -> None:
    """Do the steps of so many accounts of so many label sets one after the other, on an empty ledger."""
    folder, (accounts, label_sets, days) = Path(sys.argv[1]), map(int, sys.argv[2:])
    sizes = {f"account-{number}": label_sets for number in range(accounts)}
    # Loads modules and price lists, which is not part of any step.
    (folder / "warm-up").mkdir()
    warm_up = build_app(folder / "warm-up", {"account": 1}, days=1)
    render_account(warm_up, "account")
    warm_up.stop()
    before = resident_memory()
    cpu_seconds = {}

    def measure(step: str, action: Callable[[], object]) -> None:
        began = time.process_time()
        action()
        cpu_seconds[step] = time.process_time() - began

    apps = []
    measure("store and value", lambda: apps.append(build_app(folder, sizes, days=days)))
    (app,) = apps
    measure("render", lambda: [render_account(app, name) for name in sizes])
    measure("assemble", app.refresh_metrics)
    measure("render again", lambda: [render_account(app, name) for name in sizes])
    report = {
        **{f"{step}, ms": seconds * 1000 for step, seconds in cpu_seconds.items()},
        "memory, KiB": (resident_memory() - before) / 1024,
        "page, KiB": len(b"".join(app.handlers().page().plain(b"", openmetrics=False))) / 1024,
    }
    # Closing empties the write-ahead log, whose size says nothing about what is stored.
    app.stop()
    report["ledger, KiB"] = sum(file.stat().st_size for file in (folder / "ledger").iterdir()) / 1024
    sys.stdout.write(f"{json.dumps(report)}\n")


if __name__ == "__main__":
    main()
