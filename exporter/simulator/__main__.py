"""`python -m exporter.simulator`: serve the demo's accounts in a separate process until standard input ends."""

from __future__ import annotations

import argparse
import signal
import sys
from datetime import UTC, datetime

from exporter.simulator.server import Simulator
from exporter.simulator.world import demo_world, start_incident


def main() -> None:
    """Start the server, print its address, and wait for the end of standard input."""
    parser = argparse.ArgumentParser(prog="python -m exporter.simulator", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1 (default: a free port)")
    parser.add_argument("--incident", action="store_true", help="one workspace uses eight times as much as usual")
    arguments = parser.parse_args()
    # Ctrl-C in a terminal reaches the whole process group; the parent closes standard input when it ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    world = demo_world(lambda: datetime.now(UTC))
    if arguments.incident:
        start_incident(world)
    with Simulator(world, arguments.port) as simulator:
        sys.stdout.write(f"{simulator.url}\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
