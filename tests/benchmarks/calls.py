"""Provider calls, counted at the simulator over real HTTP, beside the fewest that the limits allow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from exporter.model import HOUR
from exporter.simulator.world import World
from tests.benchmarks.minimum_calls import EVENTS, HISTORY, MAIN_EVERY, Calls, Fewest, accounts
from tests.system import Clock, Stage, stage


class Counted:
    """An exporter at work on one account of each provider; every stretch of time gives (asked, the fewest)."""

    def __init__(self, it: Stage) -> None:
        self._it = it
        self._fewest = Fewest(it.world)

    def first_poll(self) -> tuple[Calls, Calls]:
        """Read everything for the first time."""
        self._it.settle()
        self._fewest.first_poll()
        return self._taken()

    def steady(self, passed: timedelta) -> tuple[Calls, Calls]:
        """Let time pass in steps of the main poll; the events' hourly turn is wherever in the hour it is taken."""
        turns = 0
        for _ in range(passed // MAIN_EVERY):
            before = self._it.calls("cursor", EVENTS)
            self._it.later(MAIN_EVERY)
            if self._it.calls("cursor", EVENTS) > before:
                turns += 1
                self._fewest.hourly_events()
        assert turns == passed // HOUR, f"Cursor's events were read {turns} times in {passed}"
        self._fewest.steady(passed)
        return self._taken()

    def _taken(self) -> tuple[Calls, Calls]:
        assert {served.status for served in self._it.simulator.requests} == {200}
        asked = Counter((served.account, served.path.rpartition("/")[2]) for served in self._it.simulator.requests)
        self._it.simulator.requests.clear()
        fewest, self._fewest.calls = self._fewest.calls, Counter()
        return asked, +fewest


@contextmanager
def counted(folder: Path) -> Iterator[Counted]:
    """Run a small exporter from its first second."""
    clock = Clock()
    with stage(folder, World(accounts(), clock), clock, history=f"{HISTORY.days}d") as it, it.running():
        yield Counted(it)
