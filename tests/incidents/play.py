"""Plays pasts through the whole exporter, and evaluates the alert rules over what was scraped.

The poller reads the recorded provider on a clock that is set forward; ledger, valuation, snapshots and /metrics are
those of a running exporter. Every page is kept as Prometheus would have scraped it, and promtool evaluates the rules
once over the whole past.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from exporter.app import App, Dependencies
from exporter.backtest.promtool import AlertEpisode, find_alert_episodes
from exporter.backtest.promtool_series import PromtoolSeries
from exporter.config.configuration import load
from exporter.model import HOUR
from exporter.windows import slots
from tests.incidents.pasts import ListPrices, PastAccount
from tests.incidents.recorded_provider import KEY_PREFIX, PROVIDER, recorded_provider
from tests.paths import ROOT
from tests.servers import BIN_DIRS
from tests.system import Clock, poller_of

RULES = sorted((ROOT / "prometheus" / "rules").glob("*.yml"))
STEP = timedelta(minutes=10)
"""Between two evaluations. /metrics changes with a poll only, so each page is evaluated at least twice."""
EVERY_20_MINUTES = (2, 22, 42)
"""Minutes of an hour at which accounts are polled."""
AFTER_AND_BEFORE_THE_HOUR = (12, 52)
"""The same where hardly anything happens: once the hour before is complete, and when the running hour nearly is."""
_TARGET = 'job="ai-spend",instance="incidents"'
_TARGET_SERIES = {f"up{{{_TARGET}}}": "1", f"process_start_time_seconds{{{_TARGET}}}": "0"}
_SAMPLE = re.compile(r"^(ai_\w+?)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
HISTORY = "30d"
_ACCOUNT_LABEL = re.compile(r'[{,](?:account="(?P<account>[^"]*)"|budget="(?P<budget>[^"]*)")')
ACCOUNTS_PER_RUN = 12
MAX_POLL_SECONDS = 300


@dataclass(frozen=True, slots=True)
class BudgetConfig:
    """A budget of one account; its name begins with the account's."""

    account: str
    limit_usd: float
    suffix: str = "month"
    nearly_spent_ratio: float | None = None

    @property
    def name(self) -> str:
        """The label `budget`."""
        return f"{self.account}-{self.suffix}"

    def document(self) -> dict[str, Any]:
        """Return the budget's entry in the configuration file."""
        ratio = self.nearly_spent_ratio
        return {
            "name": self.name,
            "owner": "platform",
            "period": "month",
            "limit_usd": round(self.limit_usd, 2),
            "match": {"account": self.account},
            **({} if ratio is None else {"alerts": {"nearly_spent_ratio": ratio}}),
        }


@dataclass(frozen=True, slots=True)
class PlayedPast:
    """The alerts of a past."""

    start: datetime
    end: datetime
    episodes: Sequence[AlertEpisode]

    def of_account(self, name: str) -> list[AlertEpisode]:
        """Return the alerts of an account and of its budgets, oldest first."""
        return [
            episode
            for episode in self.episodes
            if episode.labels.get("account") == name or episode.labels.get("budget", "").rpartition("-")[0] == name
        ]


@dataclass(frozen=True, slots=True)
class ScrapedPast:
    """What Prometheus would have scraped from the first poll on."""

    start: datetime
    end: datetime
    first_poll: datetime
    steps: int
    series: Mapping[str, PromtoolSeries]
    """Name and labels -> the values of all steps."""


def scrape_past(
    accounts: Sequence[PastAccount],
    budgets: Sequence[BudgetConfig],
    start: datetime,
    end: datetime,
    folder: Path,
    poll_minutes: Sequence[int] = EVERY_20_MINUTES,
) -> ScrapedPast:
    """Poll the accounts from `start` to `end`, both hours, and return every page.

    The exporter starts with the first poll, which reads HISTORY.
    """
    first_poll = start + timedelta(minutes=poll_minutes[0])
    clock = Clock(first_poll)
    providers = {PROVIDER: recorded_provider({account.name: account for account in accounts}, clock)}
    config = load(_write_config(accounts, budgets, folder), providers)
    dependencies = Dependencies(clock, clock.monotonic, {}, providers, lambda _provider, _day: ListPrices())
    rules = "".join(path.read_text() for path in RULES)
    scraped = frozenset(re.findall(r"\bai_\w+", rules))
    series: dict[str, PromtoolSeries] = {}
    steps = 0
    app = App(folder / "ledger", dependencies)
    try:
        app.apply(config)
        poll_times = (hour + timedelta(minutes=minute) for hour in slots(start, end, HOUR) for minute in poll_minutes)
        for poll_time, next_poll in pairwise((*poll_times, end + timedelta(minutes=poll_minutes[0]))):
            clock.now = poll_time
            _poll_until_idle(app)
            samples = _scrape(app, scraped, first_poll)
            for selector in samples.keys() - series.keys():
                series[selector] = PromtoolSeries(selector)
                series[selector].add_constant(steps, None)
            count = (next_poll - poll_time) // STEP
            for selector, values in series.items():
                values.add_constant(count, samples.get(selector))
            steps += count
        assert app.internal_errors == 0
    finally:
        app.stop()
    return ScrapedPast(start, end, first_poll, steps, series)


def evaluate_rules(past: ScrapedPast, accounts: Sequence[PastAccount]) -> PlayedPast:
    """Return every alert that fired.

    A few accounts at a time: promtool stops a query that loads more than ten thousand samples.
    """
    episodes: list[AlertEpisode] = []
    promtool = BIN_DIRS["debian"] / "promtool"
    for first in range(0, len(accounts), ACCOUNTS_PER_RUN):
        names = {account.name for account in accounts[first : first + ACCOUNTS_PER_RUN]}
        series = [values for selector, values in past.series.items() if _concerns(selector, names)]
        episodes += find_alert_episodes(promtool, RULES, series, past.first_poll, past.steps, STEP)
    return PlayedPast(past.start, past.end, sorted(episodes, key=lambda episode: episode.since))


def _concerns(selector: str, accounts: Collection[str]) -> bool:
    """Return whether a series is of one of these accounts, of its budgets, or of none in particular."""
    found = _ACCOUNT_LABEL.search(selector)
    if found is None:
        return True
    return (found["account"] or found["budget"].rpartition("-")[0]) in accounts


def _write_config(accounts: Sequence[PastAccount], budgets: Sequence[BudgetConfig], folder: Path) -> Path:
    entries = []
    for account in accounts:
        key = folder / f"{account.name}.key"
        key.write_text(f"{KEY_PREFIX}{account.name}")
        entries.append({"name": account.name, "provider": PROVIDER, "owner": "platform", "api_key_file": str(key)})
    document = {
        "defaults": {"poll_interval": "20m", "history": HISTORY},
        "accounts": entries,
        "budgets": [budget.document() for budget in budgets],
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def _poll_until_idle(app: App) -> None:
    idle_ticks = 0
    while idle_ticks < 2:
        app.tick()
        if app.idle:
            idle_ticks += 1
        else:
            idle_ticks = 0
            assert poller_of(app).wait_until_idle(timeout=MAX_POLL_SECONDS)
    app.refresh_metrics()


def _scrape(app: App, scraped: frozenset[str], first_poll: datetime) -> dict[str, str]:
    """Return the series that rules use, as Prometheus would store them: name and labels -> value."""
    handlers = app.handlers()
    self_metrics = handlers.self_metrics(False)
    page = b"".join(handlers.page().plain(self_metrics, openmetrics=False)).decode()
    samples = dict(_TARGET_SERIES)
    for name, labels, text in _SAMPLE.findall(page):
        if name not in scraped:
            continue
        value = text
        if "_timestamp_seconds" in name:
            # promtool's clock is 0 at the first step.
            value = f"{float(text) - first_poll.timestamp():.3f}"
        samples[f"{name}{{{labels}{',' if labels else ''}{_TARGET}}}"] = value
    return samples
