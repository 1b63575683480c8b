"""Provider calls, counted at the simulator over real HTTP, beside the minimum that the limits allow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from exporter.model import HOUR
from exporter.polling.schedule import reread_time
from exporter.simulator.world import World
from tests.benchmarks.minimum_calls import (
    EVENTS_ENDPOINT,
    HISTORY,
    MAIN_INTERVAL,
    CallCounts,
    MinimumCalls,
    make_accounts,
)
from tests.system import Clock, System, start_system


class CallCounter:
    """An exporter with an account of each provider; every duration gives the calls made, and the minimum."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._minimum = MinimumCalls(system.world)

    def run_first_poll(self) -> tuple[CallCounts, CallCounts]:
        """Read everything for the first time."""
        self._system.poll_until_idle()
        self._minimum.add_first_poll()
        return self._take_counts()

    def run_steady_polling(self, duration: timedelta) -> tuple[CallCounts, CallCounts]:
        """Let time pass in steps of the main poll; events are read once an hour, at any time of the hour."""
        event_reads = 0
        for _ in range(duration // MAIN_INTERVAL):
            before = self._system.count_calls("cursor", EVENTS_ENDPOINT)
            self._system.advance(MAIN_INTERVAL)
            if self._system.count_calls("cursor", EVENTS_ENDPOINT) > before:
                event_reads += 1
                self._minimum.add_hourly_events()
        for provider, polled in self._system.app.polled_accounts.items():
            # Each account has its own time of the week.
            now = self._system.clock.now
            if reread_time(polled.config.poll_settings, now) > now - duration:
                self._minimum.add_weekly_reread(provider)
        assert event_reads == duration // HOUR, f"Cursor's events were read {event_reads} times in {duration}"
        self._minimum.add_steady_polling(duration)
        return self._take_counts()

    def _take_counts(self) -> tuple[CallCounts, CallCounts]:
        assert {served.status for served in self._system.simulator.requests} == {200}
        made = Counter((served.account, served.path.rpartition("/")[2]) for served in self._system.simulator.requests)
        self._system.simulator.requests.clear()
        minimum, self._minimum.calls = self._minimum.calls, Counter()
        return made, +minimum


@contextmanager
def start_call_counter(folder: Path) -> Iterator[CallCounter]:
    """Run a small exporter from its first second."""
    clock = Clock()
    with (
        start_system(folder, World(make_accounts(), clock), clock, history=f"{HISTORY.days}d") as system,
        system.run_exporter(),
    ):
        yield CallCounter(system)
