"""Jobs that run at an interval, timed by a monotonic clock: no change of the system's time delays or repeats them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta


@dataclass(slots=True)
class _Job:
    run: Callable[[], object]
    interval: float
    """Seconds."""
    due_at: float
    """By the monotonic clock."""


class Jobs:
    """Runs jobs one after the other in the thread that calls `run_due`."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._jobs: list[_Job] = []

    def add(self, interval: timedelta, run: Callable[[], object]) -> None:
        """Add a job; it is due at once, and then at an interval."""
        self._jobs.append(_Job(run, interval.total_seconds(), self._monotonic()))

    def run_due(self, on_error: Callable[[Exception], None]) -> None:
        """Run every job that is due. An error of one is passed to `on_error` and does not stop the others."""
        for job in self._jobs:
            if self._monotonic() < job.due_at:
                continue
            # From the start of this run, and before it: a job that takes longer than its interval, or fails, is due
            # again later, and runs that were missed while the process was suspended are not made up for.
            job.due_at = self._monotonic() + job.interval
            try:
                job.run()
            except Exception as error:  # noqa: BLE001 - the caller decides; the other jobs must go on
                on_error(error)
