"""Jobs that run at an interval, timed by a monotonic clock: no change of the system's time delays or repeats them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import schedule


class Jobs:
    """Runs jobs one after the other in the thread that calls `run_due`.

    The schedule package compares local times, which are set forward and back: at the end of summer time every job would
    wait for an hour. So the times at which jobs are due are moved with every such change.
    """

    def __init__(self, monotonic: Callable[[], float], local_time: Callable[[], datetime] = datetime.now) -> None:
        """`local_time` is the time that the schedule package reads, without a time zone."""
        self._monotonic = monotonic
        self._local_time = local_time
        self._scheduler = schedule.Scheduler()
        self._errors: list[Exception] = []
        self._last = (monotonic(), local_time())

    def add(self, interval: timedelta, run: Callable[[], object]) -> None:
        """Add a job; it is due at once, and then at an interval above 0."""
        if interval <= timedelta(0):
            raise ValueError(f"interval: expected a positive duration, got {interval}")
        self._follow_monotonic_clock()
        # Documented as an int, but added as `timedelta(seconds=…)`: an interval of 0 would never end.
        seconds: Any = interval.total_seconds()
        job = self._scheduler.every(seconds).seconds.do(self._run, run)
        _, job.next_run = self._last

    def run_due(self, on_error: Callable[[Exception], None]) -> None:
        """Run every job that is due. An error of one is passed to `on_error` and does not stop the others.

        Runs that were missed while the process was suspended are not made up for.
        """
        self._follow_monotonic_clock()
        self._scheduler.run_pending()
        errors, self._errors = self._errors, []
        for error in errors:
            on_error(error)

    def _run(self, run: Callable[[], object]) -> None:
        try:
            run()
        except Exception as error:  # noqa: BLE001 - a job's bug must not end the timer, which runs the other jobs
            # Not swallowed: `run_due` passes it to its caller, which counts and logs it, or ends the process.
            self._errors.append(error)

    def _follow_monotonic_clock(self) -> None:
        """Move all due times by as much as local time has changed beside the monotonic clock."""
        monotonic, local_time = self._monotonic(), self._local_time()
        last_monotonic, last_local_time = self._last
        change = local_time - last_local_time - timedelta(seconds=monotonic - last_monotonic)
        self._last = (monotonic, local_time)
        for job in self._scheduler.jobs:
            if job.next_run is not None:
                job.next_run += change
