"""`python -m exporter.simulator`: the demo's world as a process of its own; ends when its standard input does."""

from __future__ import annotations

import argparse
import signal
import sys
from datetime import UTC, datetime

from exporter.simulator.server import Simulator
from exporter.simulator.world import demo_world, start_incident


def main() -> None:
    """Serve, print the address, and wait for the end of standard input."""
    parser = argparse.ArgumentParser(prog="python -m exporter.simulator", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="where to listen on 127.0.0.1 (default: a free port)")
    parser.add_argument("--incident", action="store_true", help="a workspace uses eight times as much since two hours")
    asked = parser.parse_args()
    # Ctrl-C in a terminal reaches the whole group: whoever started us closes our input when it has ended itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    world = demo_world(lambda: datetime.now(UTC))
    if asked.incident:
        start_incident(world)
    with Simulator(world, asked.port) as simulator:
        sys.stdout.write(f"{simulator.url}\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
