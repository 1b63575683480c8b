"""Simulated providers, and the flags and results of real exporters that poll them at a time that the test sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import httpx

from exporter.ledger import Ledger, PostgresLocation
from exporter.model import DAY, HOUR, REQUESTS, TOKEN_METERS
from exporter.providers import PROVIDERS
from exporter.simulator.accounts import SimAccount
from exporter.simulator.server import Simulator
from exporter.simulator.world import World
from exporter.windows import TimeRange
from tests.command import Sandbox, free_port, wait_until
from tests.faults.launcher import Launcher, start_launcher
from tests.system import NOON, Clock, Samples, midnight, parse_samples

Totals = Counter[tuple[str, str, str]]
"""Account, model, meter -> units."""
SCRAPE_SECONDS = 300
"""Seconds after which a scrape has failed: far more than a busy machine needs."""


@dataclass
class AccountsSystem:
    """Providers, and exporters that are started by hand, all by one clock."""

    sandbox: Sandbox
    world: World
    simulator: Simulator
    clock: Clock
    launcher: Launcher
    url: str
    start: datetime
    """The first day of the usage that the exporters read."""

    def set_time(self, now: datetime) -> None:
        """Set the time of the providers and of the exporters."""
        self.clock.now = now
        self.launcher.set_clock(now)

    def advance(self, duration: timedelta) -> None:
        """Move the time of the providers and of the exporters."""
        self.set_time(self.clock.now + duration)

    def flags(self, ledger: str | PostgresLocation = "ledger") -> Sequence[str]:
        """Return the flags of `run` with a ledger of this name, or in a database."""
        storage = f"path={self.sandbox.folder / ledger}" if isinstance(ledger, str) else f"url={ledger.url}"
        return (
            f"--config.file={self.sandbox.config}",
            f"--storage.{storage}",
            f"--web.listen-address={self.url.removeprefix('http://')}",
            "--web.enable-lifecycle",
        )

    def scrape(self) -> Samples:
        """Return /metrics; nothing where no exporter answers yet."""
        with suppress(httpx.TransportError):
            response = httpx.get(f"{self.url}/metrics", timeout=SCRAPE_SECONDS)
            assert response.status_code == 200
            return parse_samples(response.text)
        return {}

    def wait_until_up(self) -> None:
        """Wait until every account is up at the present time."""
        now = self.clock.now.timestamp()

        def is_up() -> bool:
            samples = self.scrape()
            up, successes = samples.get("ai_account_up", {}), samples.get("ai_account_last_success_timestamp_seconds")
            return (
                len(up) == len(self.world.accounts) == sum(up.values())
                and successes is not None
                and all(abs(time - now) < 2 * HOUR.total_seconds() for time in successes.values())
            )

        wait_until("every account up", is_up)

    def stored_totals(self, ledger: str | PostgresLocation = "ledger") -> Totals:
        """Return the tokens and requests of the ledger."""
        totals: Totals = Counter()
        location = self.sandbox.folder / ledger if isinstance(ledger, str) else ledger
        opened = Ledger(location, read_only=True)
        for name, account in self.world.accounts.items():
            number = opened.buckets.find_account(name, account.provider)
            if number is not None:
                reports = [report.name for report in PROVIDERS[account.provider].reports if report.kind == "usage"]
                units = opened.buckets.units(number, reports, TimeRange(self.start, self.clock.now + DAY))
                for labels, value in units.items():
                    if labels.meter in TOKEN_METERS or labels.meter == REQUESTS:
                        totals[name, labels.model, labels.meter] += value
        opened.close()
        return +totals

    def true_totals(self) -> Totals:
        """Return the tokens and requests that the providers report now."""
        totals: Totals = Counter()
        for name in self.world.accounts:
            for _, row in self.world.reported_rows(name, self.start, self.clock.now + DAY):
                if row.meter in TOKEN_METERS or row.meter == REQUESTS:
                    totals[name, row.model, row.meter] += row.value
        return +totals


@contextmanager
def start_accounts(folder: Path, *accounts: SimAccount, days: int = 2) -> Iterator[AccountsSystem]:
    """Start the providers of accounts, and a launcher of exporters that read this many past days of usage."""
    clock = Clock(NOON)
    world = World(accounts, clock, start_time=midnight(NOON) - (days + 1) * DAY)
    with Simulator(world) as simulator, start_launcher(folder) as launcher:
        sandbox = Sandbox(folder, simulator, folder / "config.yaml", "5m")
        sandbox.config.write_text(sandbox.config.read_text().replace("history: 2d", f"history: {days}d"))
        url = f"http://127.0.0.1:{free_port()}"
        system = AccountsSystem(sandbox, world, simulator, clock, launcher, url, midnight(NOON) - days * DAY)
        system.set_time(NOON)
        yield system
