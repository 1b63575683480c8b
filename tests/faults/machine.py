"""How fast this machine is now, for limits of CPU time."""

from __future__ import annotations

import json
import statistics
import time

REFERENCE_SECONDS = 0.02
"""CPU time of the reference work on a machine of speed 1."""


def measure_slowness() -> float:
    """Return by how much a fixed piece of work in Python takes longer than REFERENCE_SECONDS: at least 1."""

    def work() -> float:
        began = time.thread_time()
        json.loads(json.dumps([{"name": f"value {number}", "number": number} for number in range(9000)]))
        return time.thread_time() - began

    return max(1.0, statistics.median(work() for _ in range(5)) / REFERENCE_SECONDS)
