"""An exporter watched for hours of its own time: what Prometheus would have scraped, and what the rules make of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

from exporter.backtest.promtool import AlertEpisode, find_alert_episodes
from exporter.backtest.promtool_series import STEP, PromtoolSeries
from exporter.metrics.exposition import format_labels
from exporter.model import DAY
from exporter.simulator.accounts import SimAccount
from exporter.simulator.world import World
from tests.paths import ROOT
from tests.servers import BIN_DIRS
from tests.system import Clock, System, make_account, midnight, start_system

RULES = sorted((ROOT / "prometheus" / "rules").glob("*.yml"))
TARGET_LABELS = {"job": "ai-spend", "instance": "film"}
TARGET_SERIES = {"up": "1", "process_start_time_seconds": "0"}


@dataclass
class Timelapse:
    """Pages of an exporter, one every four minutes of its own time."""

    system: System
    _running: ExitStack
    start: datetime = field(init=False)
    steps: int = 0
    _series: dict[str, PromtoolSeries] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Begin now."""
        self.start = self.system.clock.now

    def advance(self, duration: timedelta, *, polled: bool = True, scraped: bool = True) -> None:
        """Let time pass and take a page at every step; the exporter may be away, and its poller asleep."""
        for _ in range(duration // STEP):
            self._record_scrape(self.system if scraped else None)
            self.system.clock.now += STEP
            if polled:
                self.system.poll_until_idle()

    def restart(self, downtime: timedelta) -> None:
        """Stop the exporter, let some time pass, and start it on what it knew."""
        self._running.close()
        self.advance(downtime, polled=False, scraped=False)
        self._running.enter_context(self.system.run_exporter())
        self.system.poll_until_idle()

    def evaluate_rules(self) -> list[AlertEpisode]:
        """Return what the rules make of it."""
        return find_alert_episodes(
            BIN_DIRS["debian"] / "promtool", RULES, self._series.values(), self.start, self.steps
        )

    def fired_alerts(self) -> set[tuple[str, str]]:
        """Return what fired: name of the alert, and account or budget."""
        return {(one.alert, one.labels.get("account", one.labels.get("budget", ""))) for one in self.evaluate_rules()}

    def _record_scrape(self, system: System | None) -> None:
        told = (
            {self._format_series(name, TARGET_LABELS): value for name, value in TARGET_SERIES.items()} if system else {}
        )
        for name, series in (system.samples() if system else {}).items():
            for labels, value in series.items() if name.startswith("ai_") else ():
                # promtool's clock begins at 0 where the film does.
                shown = value - self.start.timestamp() if "timestamp" in name else value
                told[self._format_series(name, dict(labels) | TARGET_LABELS)] = f"{shown:.9f}".rstrip("0").rstrip(".")
        for text in told.keys() - self._series.keys():
            self._series[text] = PromtoolSeries(text)
            self._series[text].add_constant(self.steps, None)
        for text, course in self._series.items():
            course.add_constant(1, told.get(text))
        self.steps += 1

    @staticmethod
    def _format_series(name: str, labels: dict[str, str]) -> str:
        return f"{name}{{{format_labels(sorted(labels), [labels[one] for one in sorted(labels)])}}}"


def increase_spend(account: SimAccount, owner: str = "platform", weekdays: Sequence[float] = ()) -> SimAccount:
    """Return an account that spends some dollars an hour."""
    streams = (
        replace(one, daily_requests=one.daily_requests * 300, weekday_factors=tuple(weekdays))
        for one in account.streams
    )
    return replace(account, owner=owner, streams=tuple(streams))


@contextmanager
def start_timelapse(folder: Path, now: datetime, *accounts: SimAccount) -> Iterator[Timelapse]:
    """Watch an exporter that has read three weeks of these accounts, from a moment on."""
    clock = Clock(now)
    world = World(
        accounts or [increase_spend(make_account("openai", "acme"))], clock, start_time=midnight(now) - 25 * DAY
    )
    with start_system(folder, world, clock, history="20d", poll_interval="20m") as it, ExitStack() as running:
        running.enter_context(it.run_exporter())
        it.poll_until_idle()
        yield Timelapse(it, running)
