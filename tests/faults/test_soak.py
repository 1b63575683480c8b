"""Simulated weeks with faults at random, pushes, reloads and scrapes: nothing grows, and totals equal the truth.

The long form begins with all the days that the exporter keeps in memory. A ledger that still fills would make memory
grow for five simulated weeks, and hide a leak behind a growth that ends.
"""

from __future__ import annotations

import os
import random
import signal
import statistics
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal, NamedTuple

import httpx

from exporter.model import DAY, HOUR
from exporter.simulator.accounts import SimAccount
from exporter.simulator.faults import FAULT_KINDS
from exporter.windows import DAYS_EXPORTED, calendar_windows, floor
from tests.command import wait_until
from tests.faults.accounts_system import AccountsSystem, Totals, start_accounts
from tests.faults.memory import count_thread_arenas
from tests.faults.results import Results
from tests.system import make_account

TOKEN = "gateway-token-5f7f0c11"
STEP = 2 * HOUR
SHORT_STEPS = 15
REQUEST_SECONDS = 600
"""Seconds after which a request or a reload has failed: far more than a busy machine needs."""
MAX_GROWTH = 0.05
"""Of memory and descriptors, from the first to the last step of the second half."""
MAX_THREADS = 6
"""Threads by which their number may grow in that time."""
MAX_ATTEMPTS = 5
"""At letting time pass until every account is up and exact."""


class Usage(NamedTuple):
    """The resources of a process at a time."""

    time: float
    """Seconds of the monotonic clock."""
    resident_bytes: int
    descriptors: int
    threads: int


@dataclass
class Soak:
    """A running exporter, and counts of the faults, reloads and pushes so far."""

    system: AccountsSystem
    process: int
    chosen: random.Random
    faults: int = 0
    reloads: int = 0
    scrape_seconds: list[float] = field(default_factory=list)
    pushed_tokens: Counter[datetime] = field(default_factory=Counter)
    """By UTC day."""
    usage: list[Usage] = field(default_factory=list)

    def step(self, number: int, pause: float) -> None:
        """Let some hours pass, with faults, a push, scrapes and at times a reload."""
        # All that lengthened the waits is past after a step: no fault lasts for longer than one.
        self.system.simulator.clear_faults()
        for account in self.chosen.sample(sorted(self.system.world.accounts), 2):
            kind = self.chosen.choice(sorted(FAULT_KINDS))
            times = self.chosen.choice([1, 2, None])
            self.system.simulator.add_fault(account, kind, times, seconds=0.2 if kind == "slow" else 0)
            self.faults += 1
        self.system.advance(STEP)
        self.push(number)
        for _ in range(2):
            threading.Event().wait(pause / 2)
            began = time.monotonic()
            assert self.system.scrape(), "a scrape failed"
            self.scrape_seconds.append(time.monotonic() - began)
        if number % 6 == 5:
            self.reload()
        # The log of the simulator, which is in this process, needs no memory of the exporter's.
        self.system.simulator.requests.clear()
        self.usage.append(measure(self.process))

    def push(self, number: int) -> None:
        """Push a batch of events of the present hour, twice: the second time, all are duplicates."""
        now = self.system.clock.now.isoformat()
        events = [
            {"provider": "vllm", "model": "m", "timestamp": now, "id": f"{number}-{index}", "promptTokens": index + 1}
            for index in range(20)
        ]
        for outcome in ("accepted", "duplicate"):
            response = httpx.post(
                f"{self.system.url}/api/v1/ai/usage/events/batch",
                json={"events": events},
                headers={"authorization": f"Bearer {TOKEN}"},
                timeout=REQUEST_SECONDS,
            )
            assert response.status_code == 202, response.text
            assert response.json()[outcome] == len(events)
        self.pushed_tokens[floor(self.system.clock.now, DAY)] += sum(range(1, 21))

    def reload(self) -> None:
        """Change the configuration and reload it."""
        config = self.system.sandbox.config
        text = config.read_text()
        changed = text.replace("poll_interval: 5m", "poll_interval: 6m")
        config.write_text(changed if changed != text else text.replace("poll_interval: 6m", "poll_interval: 5m"))
        # A signal, and not a request: on a busy machine, hundreds of accounts take longer than a request may.
        os.kill(self.process, signal.SIGHUP)
        wait_until("the reload", lambda: self._count_reloads() > self.reloads, REQUEST_SECONDS)
        self.reloads += 1

    def _count_reloads(self) -> int:
        return self.system.launcher.log.read_text().count("Configuration reloaded")

    def expected_tokens(self) -> int:
        """Return the pushed tokens of the 30 days that are exported."""
        window = calendar_windows(self.system.clock.now, None)["30d"]
        return sum(tokens for day, tokens in self.pushed_tokens.items() if window.start <= day < window.end)

    def check_totals(self, pause: float, timeout: float) -> None:
        """Let time pass without faults until every account is up and exact."""
        self.system.simulator.clear_faults()
        # A key that was rejected is tried again after a reload.
        self.reload()
        for attempt in range(1, MAX_ATTEMPTS + 1):
            # An account that failed waits for its back-off, at most 15 minutes, or as long as its provider said.
            for _ in range(3):
                self.system.advance(timedelta(minutes=20))
                threading.Event().wait(pause)
            expected = self.system.true_totals()

            def is_exact(expected: Totals = expected) -> bool:
                return is_complete(self.system) and self.system.stored_totals() == expected

            # The time stands still now. On a busy machine an answer may come too late even so, and its account waits
            # until the next attempt.
            with suppress(AssertionError) if attempt < MAX_ATTEMPTS else nullcontext():
                wait_until("exact totals", is_exact, timeout / MAX_ATTEMPTS)
                break
        wait_until("pushed totals", lambda: _pushed_tokens(self.system) == self.expected_tokens(), timeout)


def measure(process: int) -> Usage:
    """Return the present resources of a process."""
    folder = Path("/proc") / str(process)
    status = dict(line.split(":\t", 1) for line in (folder / "status").read_text().splitlines() if ":\t" in line)
    resident_bytes = int(status["VmRSS"].split()[0]) * 1024
    return Usage(time.monotonic(), resident_bytes, len(list((folder / "fd").iterdir())), int(status["Threads"]))


class Trend(NamedTuple):
    """How a value changes over time, by a straight line through its measurements."""

    growth: float
    """From the first to the last measurement, relative to their mean."""
    per_hour: float


def trend(seconds: Sequence[float], values: Sequence[float]) -> Trend:
    """Return how values that were measured at these times change."""
    slope, _ = statistics.linear_regression(seconds, values)
    return Trend(slope * (seconds[-1] - seconds[0]) / statistics.mean(values), slope * 3600)


def make_accounts(count: int) -> Sequence[SimAccount]:
    """Return accounts of all providers in turn."""
    providers: Sequence[Literal["openai", "anthropic", "cursor"]] = ("openai", "anthropic", "cursor")
    names = [(providers[number % 3], f"{providers[number % 3]}-{number}") for number in range(count)]
    return [make_account(provider, name) for provider, name in names]


def test_weeks_of_faults_leave_nothing_behind(
    tmp_path: Path, results: Results, soak_accounts: int, soak_seconds: float, *, long: bool, seed: int
) -> None:
    """After weeks with faults, pushes, reloads and scrapes all totals are exact, no scrape failed, nothing grew."""
    accounts = make_accounts(soak_accounts)
    # So that the polls of a step end before the next one: the simulator answers from this process.
    pause = max(0.6, 0.03 * soak_accounts) if long else 0.2
    with start_accounts(tmp_path, *accounts, days=DAYS_EXPORTED - 1 if long else 2) as system:
        (tmp_path / "token").touch(mode=0o600)
        (tmp_path / "token").write_text(TOKEN)
        with system.sandbox.config.open("a") as config:
            config.write("ingest: {sources: [{name: gateway, token_file: token}]}\n")
        process = system.launcher.start(system.flags())
        # More accounts take longer, and each look at them takes time from them.
        timeout = 300 + 10 * len(accounts)
        wait_until("every account read", lambda: is_complete(system), timeout)
        soak, steps, began = Soak(system, process, random.Random(seed)), 0, time.monotonic()
        while time.monotonic() < began + soak_seconds if long else steps < SHORT_STEPS:
            soak.step(steps, pause)
            steps += 1
        soak.check_totals(pause, timeout)
        # Memory that is free in one of several arenas is not used by the threads of the others.
        assert count_thread_arenas(process) == 0
        assert system.launcher.kill(process) == -signal.SIGKILL
        assert "internal error" not in system.launcher.log.read_text()
    second_half = soak.usage[len(soak.usage) // 2 :]
    times = [usage.time for usage in second_half]
    memory = trend(times, [usage.resident_bytes for usage in second_half])
    descriptors = trend(times, [usage.descriptors for usage in second_half])
    threads = trend(times, [usage.threads for usage in second_half])
    figures = (
        f"{len(accounts)} accounts, {steps * STEP / timedelta(days=1):.0f} days in {times[-1] - began:.0f} s, "
        f"{soak.faults} faults, {soak.reloads} reloads, {len(soak.scrape_seconds)} scrapes, 0 failed, "
        f"longest {max(soak.scrape_seconds):.2f} s, 0 differences; second half: "
        f"memory {memory.growth:+.1%} ({memory.per_hour / 1e6:+.1f} MB/h) of "
        f"{second_half[-1].resident_bytes / 1e6:.0f} MB, "
        f"descriptors {_format_trend(descriptors, [usage.descriptors for usage in second_half])}, "
        f"threads {_format_trend(threads, [usage.threads for usage in second_half])}"
    )
    results.add("soak", "all at random", figures)
    if long:
        assert memory.growth < MAX_GROWTH, soak.usage
        assert descriptors.growth < MAX_GROWTH, soak.usage
        # How many of the threads of a pool exist varies with the work of the moment.
        assert threads.growth * statistics.mean(usage.threads for usage in second_half) < MAX_THREADS, soak.usage


def _format_trend(measured: Trend, values: Sequence[int]) -> str:
    return f"{min(values)} to {max(values)} ({measured.growth:+.1%}, {measured.per_hour:+.1f}/h)"


def is_complete(system: AccountsSystem) -> bool:
    """Return whether every polled account is up."""
    up = [value for labels, value in system.scrape().get("ai_account_up", {}).items() if _is_polled(labels)]
    return len(up) == len(system.world.accounts) == sum(up)


def _is_polled(labels: frozenset[tuple[str, str]]) -> bool:
    return ("account", "gateway") not in labels


def _pushed_tokens(system: AccountsSystem) -> float:
    series = system.scrape().get("ai_tokens_30d", {})
    return sum(value for labels, value in series.items() if not _is_polled(labels))
