"""The whole system for tests: simulated providers and this exporter over real HTTP, with a clock set by hand."""

from __future__ import annotations

import functools
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import httpx
import uvicorn

from exporter.app import App, Dependencies
from exporter.config.configuration import Account, Config, load
from exporter.demo.demo import write_config
from exporter.errors import PROBLEM_REASONS
from exporter.ledger import Ledger, LedgerLocation
from exporter.model import DAY, NANO, REQUESTS, TOKEN_METERS
from exporter.polling.account_state import PolledAccount
from exporter.polling.poller import Poller
from exporter.pricing.list_prices import list_rates
from exporter.pricing.valuer import PriceList
from exporter.providers import PROVIDERS, ProviderType
from exporter.simulator.accounts import CHAT, Member, SimAccount, Stream
from exporter.simulator.server import Simulator
from exporter.simulator.world import World, demo_world
from exporter.ui.links import PageLinks
from exporter.web import build_asgi_app
from exporter.web.server import listen
from exporter.windows import TimeRange, calendar_windows

_SERIES = re.compile(r"(\w+)(?:\{(.*)\})?")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_ESCAPED = {r"\\": "\\", r"\"": '"', r"\n": "\n"}
NOON = datetime(2026, 11, 18, 12, 7, 30, tzinfo=UTC)
MAX_POLL_SECONDS = 300
"""Seconds after which a test gives up: far more than a busy machine needs."""
Totals = Counter[tuple[str, ...]]
SPEND_PREFIXES = ("ai_cost", "ai_tokens", "ai_requests", "ai_units")
Samples = dict[str, dict[frozenset[tuple[str, str]], float]]
"""Metric name -> labels -> value."""


@dataclass
class Clock:
    """A clock that stands still until it is moved."""

    now: datetime = NOON

    def __call__(self) -> datetime:
        return self.now

    def monotonic(self) -> float:
        """Return seconds that pass only when the clock is moved."""
        return self.now.timestamp()


@dataclass
class System:
    """A simulator, a configuration and an exporter; `poll_until_idle` polls until nothing is due."""

    folder: Path
    clock: Clock
    world: World
    simulator: Simulator
    config: Config
    app: App = field(init=False)
    url: str = field(init=False)
    client: httpx.Client = field(init=False)
    """Shared by all scrapes: creating a client and connecting it takes longer than a scrape of a small page."""
    providers: Mapping[str, ProviderType] = field(default_factory=lambda: PROVIDERS)
    prices: PriceList = list_rates
    page_links: PageLinks = field(default_factory=PageLinks)
    location: LedgerLocation | None = None
    """Where the ledger is, if not in the folder."""

    def poll_until_idle(self) -> None:
        """Tick until no account is due, then assemble /metrics."""
        deadline, idle_ticks = time.monotonic() + MAX_POLL_SECONDS, 0
        # The tick after the first idle tick starts nothing either: reports that a finished poll makes due were polled.
        while idle_ticks < 2:
            assert time.monotonic() < deadline, "accounts are still due"
            self.app.tick()
            if self.app.idle:
                idle_ticks += 1
                threading.Event().wait(0.002)
            else:
                idle_ticks = 0
                # Not a loop of short waits: each of them would take the interpreter from the threads that poll.
                poller_of(self.app).wait_until_idle(timeout=1)
        self.app.refresh_metrics()

    def polled_account(self, name: str) -> PolledAccount:
        """Return the poller's state of an account."""
        return polled_account(self.app, name)

    @property
    def ledger(self) -> Ledger:
        """The exporter's ledger."""
        return ledger_of(self.app)

    def advance(self, duration: timedelta) -> None:
        """Move the clock and poll the reports that are due then."""
        self.clock.now += duration
        self.poll_until_idle()

    def count_calls(self, account: str, path: str = "") -> int:
        """Count the requests that a provider received for an account."""
        return sum(served.account == account and path in served.path for served in self.simulator.requests)

    def samples(self, **headers: str) -> Samples:
        """Scrape /metrics and return name -> labels -> value."""
        response = self.client.get(f"{self.url}/metrics", headers=headers)
        assert response.status_code == 200
        return parse_samples(response.text)

    def value(self, name: str, **labels: str) -> float | None:
        """Return the sum of a metric over the series with these labels; None without such a series."""
        wanted = set(labels.items())
        values = [value for series, value in self.samples().get(name, {}).items() if wanted <= series]
        return sum(values) if values else None

    def exported_totals(self, name: str, account: str = "") -> Totals:
        """Return a tokens or requests metric as exported: (account, workspace, model, tier, meter) -> units."""
        totals: Totals = Counter()
        for series, value in self.samples().get(name, {}).items():
            labels = dict(series)
            key = tuple(labels.get(label, "") for label in ("account", "workspace", "model", "tier"))
            if account in ("", labels["account"]):
                totals[(*key, labels.get("type", REQUESTS))] += int(value)
        return +totals

    def problems(self, account: str) -> set[str]:
        """Return the reasons for which polls of an account fail now; every reason is exported, as 1 or 0."""
        values = {
            dict(labels)["reason"]: value
            for labels, value in self.samples()["ai_account_problem"].items()
            if _has_account(labels, account)
        }
        assert tuple(sorted(values)) == tuple(sorted(PROBLEM_REASONS))
        assert set(values.values()) <= {0, 1}
        return {reason for reason, value in values.items() if value}

    def spend_samples(self, account: str = "") -> Samples:
        """Return every series of cost and usage, of all accounts or a single account."""
        return {
            name: {labels: value for labels, value in series.items() if account == "" or _has_account(labels, account)}
            for name, series in self.samples().items()
            if name.startswith(SPEND_PREFIXES)
        }

    def nano_usd(self, name: str, **labels: str) -> int | None:
        """Return the sum of a cost metric in whole nano-USD; None without such a series."""
        wanted = set(labels.items())
        values = [round(value * NANO) for series, value in self.samples().get(name, {}).items() if wanted <= series]
        return sum(values) if values else None

    def change_account(self, account: str, update: Callable[[Account], Account]) -> None:
        """Apply the configuration with a single account changed."""
        accounts = tuple(
            update(configured) if configured.name == account else configured for configured in self.config.accounts
        )
        self.config = self.config.model_copy(update={"accounts": accounts})
        self.app.apply(self.config)

    def key_file(self, account: str) -> Path:
        """Return where an account's key is read from."""
        return self.folder / f"{account}.key"

    def expected_totals(self, window: str, account: str = "", *, final: bool = False) -> tuple[Totals, Totals]:
        """Return tokens and requests of a window as the simulator reports them now, or as they finally are."""
        tokens: Totals = Counter()
        requests: Totals = Counter()
        read = self.world.ground_truth if final else self.world.reported_rows
        for name in [account] if account else self.world.accounts:
            time_range = self.window_range(window, name)
            for _, row in read(name, time_range.start, time_range.end):
                key = (name, self.workspace_name(name, row.workspace), row.model, row.tier, row.meter)
                if row.meter in TOKEN_METERS:
                    tokens[key] += row.value
                elif row.meter == REQUESTS:
                    requests[key] += row.value
        return +tokens, +requests

    def window_range(self, window: str, account: str) -> TimeRange:
        """Return a window of an account by the system's clock and the account's watermark."""
        watermarks = {
            dict(series)["report"]: value
            for series, value in self.samples()["ai_account_complete_until_timestamp_seconds"].items()
            if {("account", account), ("kind", "usage")} <= series
        }
        complete = min(watermarks.values())
        return calendar_windows(self.clock.now, datetime.fromtimestamp(complete, UTC))[window]

    def workspace_name(self, account: str, workspace: str) -> str:
        """Return a workspace's name as exported, from its id in the simulated account."""
        names: Mapping[str, str] = self.world.accounts[account].workspaces
        default = {"anthropic": "default", "cursor": "unassigned"}.get(self.world.accounts[account].provider, "")
        return names.get(workspace, workspace) or default

    @contextmanager
    def run_exporter(self) -> Iterator[None]:
        """Run the exporter on the system's ledger; entering the context again is a restart."""
        # Durations are measured by the same clock: none of them depends on the machine's speed.
        dependencies = Dependencies(
            self.clock, self.clock.monotonic, {}, self.providers, self.prices, page_links=self.page_links
        )
        self.app = App(self.location or self.folder / "ledger", dependencies)
        self.app.apply(self.config)
        listening = listen("127.0.0.1:0")
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        # A connection between two scrapes stays open however long the machine takes for the time between them.
        config = uvicorn.Config(
            build_asgi_app(self.app.handlers()), log_config=None, lifespan="off", timeout_keep_alive=MAX_POLL_SECONDS
        )
        server = _ServerWithoutSignals(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            with httpx.Client(timeout=60) as self.client:
                yield
        finally:
            server.should_exit = server.force_exit = True
            thread.join()
            self.app.stop()


# No other function under tests/ needs to know the private members of the application that these return.


def polled_account(app: App, name: str) -> PolledAccount:
    """Return the poller's state of an account."""
    return app.polled_accounts[name]


def ledger_of(app: App) -> Ledger:
    """Return the ledger that an application writes to."""
    return app.ledger


def poller_of(app: App) -> Poller:
    """Return the poller of an application."""
    return app._poller


def parse_samples(text: str) -> Samples:
    """Return the samples of a page in Prometheus's text format, which have no timestamps.

    Its format is verified by promtool and prometheus_client's parser in tests of their own. Here the labels of a series
    are parsed once, however often it is scraped.
    """
    samples: Samples = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            series, _, value = line.rpartition(" ")
            name, labels = _parse_series(series)
            samples.setdefault(name, {})[labels] = float(value)
    return samples


@functools.lru_cache(maxsize=100_000)
def _parse_series(series: str) -> tuple[str, frozenset[tuple[str, str]]]:
    found = _SERIES.fullmatch(series)
    assert found, series
    labels = _LABEL.findall(found[2] or "")
    assert ",".join(f'{name}="{value}"' for name, value in labels) == (found[2] or ""), series
    return found[1], frozenset((name, _unescape(value)) for name, value in labels)


def _unescape(value: str) -> str:
    return re.sub(r"\\.", lambda escaped: _ESCAPED[escaped[0]], value)


class _ServerWithoutSignals(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def make_small_world(clock: Clock) -> World:
    """Return the smaller account of each of the demo's providers."""
    accounts = demo_world(clock).accounts
    return World([accounts[name] for name in ("labs-openai", "research-anthropic", "acme-cursor")], clock)


@contextmanager
def start_system(
    folder: Path, world: World | None = None, clock: Clock | None = None, **defaults: str
) -> Iterator[System]:
    """Start the simulator and write a configuration for the demo's accounts, or those of another world.

    `run_exporter` starts the exporter.
    """
    clock = clock or Clock()
    world = world or demo_world(clock)
    with Simulator(world) as simulator:
        path = write_config(folder, world.accounts.values(), simulator.url)
        settings = {"poll_interval": "5m", **defaults}
        lines = "\n  ".join(f"{name}: {value}" for name, value in settings.items())
        path.write_text(path.read_text().replace("poll_interval: 15s", lines))
        yield System(folder, clock, world, simulator, load(path, PROVIDERS))


_ACCOUNT_TEMPLATES = {
    # Key, model, report, tiers of the two, prefix of workspaces.
    "openai": ("sk-admin-demo-{}-0000", "gpt-5-2025-08-07", "completions", ("standard", "batch"), "proj"),
    "anthropic": ("sk-ant-admin01-demo-{}-0000", "claude-sonnet-5", "messages", ("standard", "batch"), "wrkspc"),
    "cursor": ("crsr_{}0000", "claude-5-sonnet", "usage_events", ("on_demand", "included"), "group"),
}


def make_account(provider: Literal["openai", "anthropic", "cursor"], name: str = "solo") -> SimAccount:
    """Return an account of two workspaces, Web and Lab, with steady usage of a single model."""
    key, model, kind, tiers, prefix = _ACCOUNT_TEMPLATES[provider]
    web, lab = f"{prefix}_web", f"{prefix}_lab"
    keys, people = ("key_web", "key_lab"), tuple[Member, ...]()
    if provider == "cursor":
        keys = ("", "")
        people = tuple(Member(f"user_{group}", group, f"{group}@acme.example", group) for group in (web, lab))
    return SimAccount(
        name=name,
        provider=provider,
        owner="platform",
        key=key.format(name),
        organization="Acme",
        streams=(
            Stream(web, model, tiers[0], keys[0], kind, 200, CHAT, "steady"),
            Stream(lab, model, tiers[1], keys[1], kind, 100, CHAT, "steady"),
        ),
        workspaces={web: "Web", lab: "Lab"},
        api_keys={} if provider == "cursor" else {"key_web": "web-production", "key_lab": "lab-notebook"},
        members=people,
    )


@contextmanager
def start_small_system(
    folder: Path,
    *accounts: SimAccount,
    providers: Mapping[str, ProviderType] = PROVIDERS,
    prices: PriceList = list_rates,
    **defaults: str,
) -> Iterator[System]:
    """Run an exporter on accounts with a few days of usage; no request has been made yet."""
    clock = Clock()
    world = World(accounts, clock, start_time=midnight(clock.now) - 5 * DAY)
    with start_system(folder, world, clock, **{"history": "2d", **defaults}) as system:
        system.providers, system.prices = providers, prices
        with system.run_exporter():
            yield system


def _has_account(labels: frozenset[tuple[str, str]], account: str) -> bool:
    return ("account", account) in labels


def midnight(timestamp: datetime) -> datetime:
    """Return the start of the UTC day."""
    return timestamp - (timestamp - datetime(1970, 1, 1, tzinfo=UTC)) % DAY
