"""An exporter whose clock can be wrong, beside providers whose clock is right."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from exporter.model import DAY
from exporter.simulator.accounts import SimAccount
from exporter.simulator.world import World
from tests.system import NOON, Clock, System, midnight, start_system


@dataclass
class WrongClock(Clock):
    """A clock that is ahead of the providers' by `error`; `now` is the right time."""

    error: timedelta = timedelta(0)
    suspended: timedelta = timedelta(0)
    """Time for which the process was suspended, which a monotonic clock does not count."""

    def __call__(self) -> datetime:
        return self.now + self.error

    def monotonic(self) -> float:
        """Return seconds that pass with the right time only."""
        return (self.now - self.suspended).timestamp()


@contextmanager
def start_wrong_clock_system(
    folder: Path, *accounts: SimAccount, start: datetime = NOON, **defaults: str
) -> Iterator[tuple[System, WrongClock]]:
    """Start a simulator and write a configuration; the exporter, which `run_exporter` starts, has a clock of its own.

    The accounts have usage since five days before `start`.
    """
    clock = WrongClock(start)
    world = World(accounts, lambda: clock.now, start_time=midnight(start) - 5 * DAY)
    with start_system(folder, world, clock, **{"history": "9d", **defaults}) as system:
        yield system, clock


@contextmanager
def run_wrong_clock_system(
    folder: Path, *accounts: SimAccount, start: datetime = NOON, **defaults: str
) -> Iterator[tuple[System, WrongClock]]:
    """The same with the exporter running; no request has been made yet."""
    with start_wrong_clock_system(folder, *accounts, start=start, **defaults) as (system, clock), system.run_exporter():
        yield system, clock
