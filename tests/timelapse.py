"""An exporter watched for hours of its own time: what Prometheus would have scraped, and what the rules make of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

from exporter.backtest.promtool import Episode, fired
from exporter.backtest.promtool_series import STEP, Course
from exporter.metrics.exposition import labelled
from exporter.model import DAY
from exporter.simulator.accounts import SimAccount
from exporter.simulator.world import World
from tests.paths import ROOT
from tests.servers import PLACES
from tests.system import Clock, Stage, lone, midnight, stage

RULES = sorted((ROOT / "prometheus" / "rules").glob("*.yml"))
SCRAPED = {"job": "ai-spend", "instance": "film"}
WELL = {"up": "1", "process_start_time_seconds": "0"}


@dataclass
class Film:
    """Pages of an exporter, one every four minutes of its own time."""

    it: Stage
    _running: ExitStack
    start: datetime = field(init=False)
    steps: int = 0
    _courses: dict[str, Course] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Begin now."""
        self.start = self.it.clock.now

    def roll(self, length: timedelta, *, polled: bool = True, scraped: bool = True) -> None:
        """Let time pass and take a page at every step; the exporter may be away, and its poller asleep."""
        for _ in range(length // STEP):
            self._take(self.it if scraped else None)
            self.it.clock.now += STEP
            if polled:
                self.it.settle()

    def restart(self, away: timedelta) -> None:
        """Stop the exporter, let some time pass, and start it on what it knew."""
        self._running.close()
        self.roll(away, polled=False, scraped=False)
        self._running.enter_context(self.it.running())
        self.it.settle()

    def fired(self) -> list[Episode]:
        """Return what the rules make of it."""
        return fired(PLACES["debian"] / "promtool", RULES, self._courses.values(), self.start, self.steps)

    def names(self) -> set[tuple[str, str]]:
        """Return what fired: name of the alert, and account or budget."""
        return {(one.alert, one.labels.get("account", one.labels.get("budget", ""))) for one in self.fired()}

    def _take(self, it: Stage | None) -> None:
        told = {self._text(name, SCRAPED): value for name, value in WELL.items()} if it else {}
        for name, series in (it.samples() if it else {}).items():
            for labels, value in series.items() if name.startswith("ai_") else ():
                # promtool's clock begins at 0 where the film does.
                shown = value - self.start.timestamp() if "timestamp" in name else value
                told[self._text(name, dict(labels) | SCRAPED)] = f"{shown:.9f}".rstrip("0").rstrip(".")
        for text in told.keys() - self._courses.keys():
            self._courses[text] = Course(text)
            self._courses[text].stay(self.steps, None)
        for text, course in self._courses.items():
            course.stay(1, told.get(text))
        self.steps += 1

    @staticmethod
    def _text(name: str, labels: dict[str, str]) -> str:
        return f"{name}{{{labelled(sorted(labels), [labels[one] for one in sorted(labels)])}}}"


def busy(account: SimAccount, owner: str = "platform", weekdays: Sequence[float] = ()) -> SimAccount:
    """Return an account that spends some dollars an hour."""
    streams = (replace(one, size=one.size * 300, weekdays=tuple(weekdays)) for one in account.streams)
    return replace(account, owner=owner, streams=tuple(streams))


@contextmanager
def filmed(folder: Path, now: datetime, *accounts: SimAccount) -> Iterator[Film]:
    """Watch an exporter that has read three weeks of these accounts, from a moment on."""
    clock = Clock(now)
    world = World(accounts or [busy(lone("openai", "acme"))], clock, began=midnight(now) - 25 * DAY)
    with stage(folder, world, clock, history="20d", poll_interval="20m") as it, ExitStack() as running:
        running.enter_context(it.running())
        it.settle()
        yield Film(it, running)
