"""A stage for whole-system tests: simulated providers and this exporter over real HTTP, with a clock set by hand."""

from __future__ import annotations

import ssl
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
from prometheus_client.parser import text_string_to_metric_families

from exporter.app import App, Dependencies
from exporter.config.configuration import Account, Config, load
from exporter.demo.demo import write_config
from exporter.errors import PROBLEM_REASONS
from exporter.model import DAY, NANO, REQUESTS, TOKEN_METERS
from exporter.pricing.list_prices import list_rates
from exporter.pricing.valuer import PriceList
from exporter.providers import PROVIDERS, ProviderType
from exporter.simulator.accounts import CHAT, Member, SimAccount, Stream
from exporter.simulator.server import Simulator
from exporter.simulator.world import World, demo_world
from exporter.web import build_asgi_app
from exporter.web.server import listen
from exporter.windows import TimeRange, calendar_windows

NOON = datetime(2026, 11, 18, 12, 7, 30, tzinfo=UTC)
Totals = Counter[tuple[str, ...]]
SPEND_PREFIXES = ("ai_cost", "ai_tokens", "ai_requests", "ai_units")
_NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For plain HTTP: httpx otherwise loads all of the system's certificates for each scrape, half of its CPU time."""
Samples = dict[str, dict[frozenset[tuple[str, str]], float]]
"""Metric name -> labels -> value."""


@dataclass
class Clock:
    """A clock that stands still until it is moved."""

    now: datetime = NOON

    def __call__(self) -> datetime:
        return self.now


@dataclass
class System:
    """Everything running; `settle` polls until nothing is due any more."""

    folder: Path
    clock: Clock
    world: World
    simulator: Simulator
    config: Config
    app: App = field(init=False)
    url: str = field(init=False)
    _parsed_page: tuple[str, Samples] = ("", {})
    providers: Mapping[str, ProviderType] = field(default_factory=lambda: PROVIDERS)
    prices: PriceList = list_rates

    def poll_until_idle(self) -> None:
        """Tick until every account has been visited and waits for its next time."""
        deadline, quiet = time.monotonic() + 60, 0
        while quiet < 2:
            assert time.monotonic() < deadline, "the poller does not come to rest"
            self.app.tick()
            quiet = quiet + 1 if self.app.idle else 0
            threading.Event().wait(0.002)
        self.app.refresh_metrics()

    def advance(self, duration: timedelta) -> None:
        """Let time pass and poll what is due then."""
        self.clock.now += duration
        self.poll_until_idle()

    def count_calls(self, account: str, path: str = "") -> int:
        """Count the requests that a provider got for an account."""
        return sum(served.account == account and path in served.path for served in self.simulator.requests)

    def samples(self, **headers: str) -> Samples:
        """Scrape /metrics: name -> labels -> value."""
        answer = httpx.get(f"{self.url}/metrics", headers=headers, verify=_NO_CERTIFICATES)
        assert answer.status_code == 200
        ours, mark, fresh = answer.text.partition("# HELP python_gc")
        if self._parsed_page[0] != ours:
            self._parsed_page = (ours, parse_samples(ours))
        return self._parsed_page[1] | parse_samples(mark + fresh)

    def value(self, name: str, **labels: str) -> float | None:
        """Return the sum of a metric over the series with these labels; None where there is none."""
        wanted = set(labels.items())
        values = [value for series, value in self.samples().get(name, {}).items() if wanted <= series]
        return sum(values) if values else None

    def exported_totals(self, name: str, account: str = "") -> Totals:
        """Return a tokens or requests metric as exposed: (account, workspace, model, tier, meter) -> units."""
        totals: Totals = Counter()
        for series, value in self.samples().get(name, {}).items():
            labels = dict(series)
            key = tuple(labels.get(label, "") for label in ("account", "workspace", "model", "tier"))
            if account in ("", labels["account"]):
                totals[(*key, labels.get("type", REQUESTS))] += int(value)
        return +totals

    def problems(self, account: str) -> set[str]:
        """Return the reasons for which polls of an account fail at present; every reason is told, as 1 or 0."""
        told = {
            dict(one)["reason"]: on
            for one, on in self.samples()["ai_account_problem"].items()
            if _has_account(one, account)
        }
        assert tuple(sorted(told)) == tuple(sorted(PROBLEM_REASONS))
        assert set(told.values()) <= {0, 1}
        return {reason for reason, on in told.items() if on}

    def spend_samples(self, account: str = "") -> Samples:
        """Return every series of money and use, of all accounts or one."""
        shown = {name: series for name, series in self.samples().items() if name.startswith(SPEND_PREFIXES)}
        return {
            name: {one: value for one, value in series.items() if account == "" or _has_account(one, account)}
            for name, series in shown.items()
        }

    def nano_usd(self, name: str, **labels: str) -> int | None:
        """Return the sum of a money metric in whole nano-USD; None where there is no such series."""
        wanted = set(labels.items())
        values = [round(value * NANO) for one, value in self.samples().get(name, {}).items() if wanted <= one]
        return sum(values) if values else None

    def change_account(self, account: str, update: Callable[[Account], Account]) -> None:
        """Apply the configuration with one account changed."""
        accounts = tuple(update(one) if one.name == account else one for one in self.config.accounts)
        self.config = self.config.model_copy(update={"accounts": accounts})
        self.app.apply(self.config)

    def key_file(self, account: str) -> Path:
        """Return where an account's key is read from."""
        return self.folder / f"{account}.key"

    def expected_totals(self, window: str, account: str = "", *, final: bool = False) -> tuple[Totals, Totals]:
        """Return tokens and requests of a window as the simulator tells them now, or as they finally are."""
        tokens: Totals = Counter()
        requests: Totals = Counter()
        for one in self.world.accounts.values():
            if account in ("", one.name):
                span = self.window_range(window, one.name)
                read = self.world.ground_truth if final else self.world.reported_rows
                for _, row in read(one.name, span.start, span.end):
                    workspace = self._workspace_name(one.name, row.workspace)
                    key = (one.name, workspace, row.model, row.tier, row.meter)
                    if row.meter in TOKEN_METERS:
                        tokens[key] += row.value
                    elif row.meter == REQUESTS:
                        requests[key] += row.value
        return +tokens, +requests

    def window_range(self, window: str, account: str) -> TimeRange:
        """Return a window of an account by the stage's clock and the account's watermark."""
        marks = {
            dict(series)["report"]: value
            for series, value in self.samples()["ai_account_complete_until_timestamp_seconds"].items()
            if {("account", account), ("kind", "usage")} <= series
        }
        complete = min(marks.values())
        return calendar_windows(self.clock.now, datetime.fromtimestamp(complete, UTC))[window]

    def _workspace_name(self, account: str, workspace: str) -> str:
        names: Mapping[str, str] = self.world.accounts[account].workspaces
        default = {"anthropic": "default", "cursor": "unassigned"}.get(self.world.accounts[account].provider, "")
        return names.get(workspace, workspace) or default

    @contextmanager
    def run_exporter(self) -> Iterator[None]:
        """Run the exporter on the stage's ledger; entering it again is a restart."""
        self.app = App(
            self.folder / "ledger", Dependencies(self.clock, time.monotonic, {}, self.providers, self.prices)
        )
        self.app.apply(self.config)
        opened = listen("127.0.0.1:0")
        self.url = f"http://127.0.0.1:{opened.getsockname()[1]}"
        server = _ServerWithoutSignals(
            uvicorn.Config(build_asgi_app(self.app.handlers()), log_config=None, lifespan="off")
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
        thread.start()
        try:
            yield
        finally:
            server.should_exit = server.force_exit = True
            thread.join()
            self.app.stop()


def parse_samples(text: str) -> Samples:
    """Parse sample lines: metric name -> labels -> value."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
    return found


class _ServerWithoutSignals(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def make_small_world(clock: Clock) -> World:
    """Return one smaller account of each of the demo's providers."""
    cast = demo_world(clock).accounts
    return World([cast[name] for name in ("labs-openai", "research-anthropic", "acme-cursor")], clock)


@contextmanager
def start_system(
    folder: Path, world: World | None = None, clock: Clock | None = None, **defaults: str
) -> Iterator[System]:
    """Set a stage with the demo's world, or another one; `running` begins the play."""
    clock = clock or Clock()
    world = world or demo_world(clock)
    with Simulator(world) as simulator:
        path = write_config(folder, world.accounts.values(), simulator.url)
        settings = {"poll_interval": "5m", **defaults}
        text = path.read_text().replace("poll_interval: 15s", "\n  ".join(f"{k}: {v}" for k, v in settings.items()))
        path.write_text(text)
        yield System(folder, clock, world, simulator, load(path, PROVIDERS))


_ACCOUNT_TEMPLATES = {
    # Key, model, report, tiers of the two, prefix of workspaces.
    "openai": ("sk-admin-demo-{}-0000", "gpt-5-2025-08-07", "completions", ("standard", "batch"), "proj"),
    "anthropic": ("sk-ant-admin01-demo-{}-0000", "claude-sonnet-5", "messages", ("standard", "batch"), "wrkspc"),
    "cursor": ("crsr_{}0000", "claude-5-sonnet", "usage_events", ("on_demand", "included"), "group"),
}


def make_account(provider: Literal["openai", "anthropic", "cursor"], name: str = "solo") -> SimAccount:
    """Return an account of two workspaces, Web and Lab, with one steady use each."""
    key, model, kind, tiers, prefix = _ACCOUNT_TEMPLATES[provider]
    web, lab = f"{prefix}_web", f"{prefix}_lab"
    keys, people = ("key_web", "key_lab"), tuple[Member, ...]()
    if provider == "cursor":
        keys = ("", "")
        people = tuple(Member(f"user_{one}", one, f"{one}@acme.example", one) for one in (web, lab))
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
    """Run an exporter on accounts of a few days; nothing has been asked yet."""
    clock = Clock()
    world = World(accounts, clock, start_time=midnight(clock.now) - 5 * DAY)
    with start_system(folder, world, clock, **{"history": "2d", **defaults}) as it:
        it.providers, it.prices = providers, prices
        with it.run_exporter():
            yield it


def _has_account(labels: frozenset[tuple[str, str]], account: str) -> bool:
    return ("account", account) in labels


def midnight(timestamp: datetime) -> datetime:
    """Return the start of the moment's UTC day."""
    return timestamp - (timestamp - datetime(1970, 1, 1, tzinfo=UTC)) % DAY
