"""Runs an exporter through hours of simulated time, and evaluates the rules over the pages that it served."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

import httpx

from exporter.backtest.promtool import AlertEpisode, find_alert_episodes
from exporter.backtest.promtool_series import STEP, PromtoolSeries
from exporter.model import DAY
from exporter.simulator.accounts import SimAccount
from exporter.simulator.world import World
from tests.paths import ROOT
from tests.servers import BIN_DIRS
from tests.system import Clock, System, make_account, midnight, start_system

RULES = sorted((ROOT / "prometheus" / "rules").glob("*.yml"))
TARGET_LABELS = 'job="ai-spend",instance="timelapse"'
TARGET_SERIES = {f"up{{{TARGET_LABELS}}}": "1", f"process_start_time_seconds{{{TARGET_LABELS}}}": "0"}
"""Series that Prometheus adds to a scrape, and their values."""


@dataclass
class Timelapse:
    """An exporter on a simulated clock, scraped once every `STEP` (four minutes) of that clock."""

    system: System
    _running: ExitStack
    """Stops the exporter when closed."""
    _client: httpx.Client
    start: datetime = field(init=False)
    """The time of the first scrape."""
    steps: int = 0
    _series: dict[str, PromtoolSeries] = field(default_factory=dict)
    """Name and labels -> the values of all steps."""

    def __post_init__(self) -> None:
        """Start at the system's present time."""
        self.start = self.system.clock.now

    def advance(self, duration: timedelta, *, polled: bool = True, scraped: bool = True) -> None:
        """Let time pass and scrape at every step, optionally without polls or with a stopped exporter."""
        for _ in range(duration // STEP):
            self._record_samples(self._scrape() if scraped else {})
            self.system.clock.now += STEP
            if polled:
                self.system.poll_until_idle()

    def restart(self, downtime: timedelta) -> None:
        """Stop the exporter, let some time pass, and start it again on the same ledger."""
        self._running.close()
        self.advance(downtime, polled=False, scraped=False)
        self._running.enter_context(self.system.run_exporter())
        self.system.poll_until_idle()

    def evaluate_rules(self) -> list[AlertEpisode]:
        """Return every alert that fired. Runs promtool over all steps, which takes seconds: call it once."""
        return find_alert_episodes(
            BIN_DIRS["debian"] / "promtool", RULES, self._series.values(), self.start, self.steps
        )

    def _scrape(self) -> dict[str, str]:
        """Return the exporter's own series as Prometheus would store them: name and labels -> value."""
        answer = self._client.get(f"{self.system.url}/metrics")
        assert answer.status_code == 200
        samples = dict(TARGET_SERIES)
        for line in answer.text.splitlines():
            if not line.startswith("ai_"):
                continue
            series, _, text = line.rpartition(" ")
            name, _, labels = series.partition("{")
            value = float(text)
            if "timestamp" in name:
                # promtool's clock is 0 at the first step.
                value -= self.start.timestamp()
            separator = "," if labels else ""
            selector = f"{name}{{{labels.removesuffix('}')}{separator}{TARGET_LABELS}}}"
            samples[selector] = f"{value:.9f}".rstrip("0").rstrip(".")
        return samples

    def _record_samples(self, samples: dict[str, str]) -> None:
        """Append one step to every series; a series without a sample is absent in that step."""
        for selector in samples.keys() - self._series.keys():
            series = PromtoolSeries(selector)
            series.add_constant(self.steps, None)
            self._series[selector] = series
        for selector, series in self._series.items():
            series.add_constant(1, samples.get(selector))
        self.steps += 1


def alert_subjects(episodes: Sequence[AlertEpisode]) -> set[tuple[str, str]]:
    """Return the names of alerts that fired, each with its account or budget."""
    return {(episode.alert, episode.labels.get("account", episode.labels.get("budget", ""))) for episode in episodes}


def increase_spend(account: SimAccount, owner: str = "platform", weekdays: Sequence[float] = ()) -> SimAccount:
    """Return an account that spends some dollars an hour."""
    streams = (
        replace(stream, daily_requests=stream.daily_requests * 300, weekday_factors=tuple(weekdays))
        for stream in account.streams
    )
    return replace(account, owner=owner, streams=tuple(streams))


@contextmanager
def start_timelapse(folder: Path, now: datetime, *accounts: SimAccount) -> Iterator[Timelapse]:
    """Run an exporter that has polled three weeks of these accounts, from a given time on."""
    clock = Clock(now)
    world = World(
        accounts or [increase_spend(make_account("openai", "acme"))], clock, start_time=midnight(now) - 25 * DAY
    )
    with (
        httpx.Client(timeout=30) as client,
        start_system(folder, world, clock, history="20d", poll_interval="20m") as system,
        ExitStack() as running,
    ):
        running.enter_context(system.run_exporter())
        system.poll_until_idle()
        yield Timelapse(system, running, client)
