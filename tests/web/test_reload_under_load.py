"""Two hundred reloads, valid and invalid, of an exporter that polls and is scraped meanwhile."""

from __future__ import annotations

import itertools
import re
import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from exporter.metrics.exposition import OPENMETRICS_CONTENT_TYPE, TEXT_CONTENT_TYPE
from exporter.simulator.server import LoggedRequest
from tests.command import ENVIRONMENT, ExporterProcess, Sandbox, start_exporter, start_sandbox, wait_until
from tests.system import make_account

WARMUP_ROUNDS, MIN_ROUNDS = 4, 18
"""Rounds of seven configurations, before and after the first measurement of resources."""
MAX_ROUNDS = 100
MIN_POLLS, MIN_SCRAPES = 4, 20
"""Polls of each kept account and scrapes of each client: the rounds end when there are so many."""
PAUSE = 0.06
"""Seconds between two reloads: far less than between two polls."""
SCRAPERS = 3
INTERVAL = 2
"""Seconds between two polls of a report."""

KEPT_ACCOUNTS = ("acme", "beta", "crew")
"""Accounts whose polls must not be disturbed; only the owner of the last one changes."""
RENAMED_ACCOUNT, TOGGLED_ACCOUNT = "crew", "labs"
"""The account that gets another owner, and the account that is removed and added again."""

REPORT = "completions"
FAST_PLUGIN = f"""
from dataclasses import replace
from datetime import timedelta

from exporter.providers.openai import OpenAI


class Fast(OpenAI):
    reports = tuple(
        replace(report, poll_interval=timedelta(seconds=1)) for report in OpenAI.reports if report.name == "{REPORT}"
    )
"""


@dataclass(frozen=True)
class Scrape:
    """One response of /metrics."""

    status: int
    complete: bool
    text: str

    def labels(self, metric: str, label: str, account: str = "") -> set[str]:
        """Return the values of a label of a metric, of all accounts or one."""
        return {labels[label] for labels, _ in self._samples(metric) if account in ("", labels["account"])}

    def polls(self) -> dict[str, float]:
        """Return how often each account's report was polled."""
        counts = self._samples("ai_account_polls_total")
        return {labels["account"]: value for labels, value in counts if labels["report"] == REPORT}

    def tokens(self, account: str) -> list[tuple[dict[str, str], float]]:
        """Return the token series of an account."""
        return [sample for sample in self._samples("ai_tokens_30d") if sample[0]["account"] == account]

    def _samples(self, metric: str) -> Iterator[tuple[dict[str, str], float]]:
        for labels, value in re.findall(rf"^{metric}{{(.*)}} (\S+)$", self.text, re.MULTILINE):
            yield dict(re.findall(r'(\w+)="([^"]*)"', labels)), float(value)


@dataclass(frozen=True)
class Footprint:
    """Resources of a process."""

    files: int
    threads: int
    memory: int
    """MiB."""


@dataclass
class LoadRun:
    """Everything that was observed."""

    exporter: ExporterProcess
    config: Path
    first: Scrape
    """Before the reloads."""
    scrapes: list[list[Scrape]] = field(default_factory=list)
    """During the reloads, by client and in their order."""
    scrapes_after: dict[str, list[Scrape]] = field(default_factory=lambda: defaultdict(list))
    """Kind of change -> the page immediately after each reload."""
    reload_results: list[tuple[str, str]] = field(default_factory=list)
    """The expected error of each reload, and the line that was logged."""
    answers: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    """Kind of change -> statuses of POST /-/reload."""
    rounds: int = 0
    footprints: list[Footprint] = field(default_factory=list)
    requests: Sequence[LoggedRequest] = ()
    """Requests to the provider for the kept accounts."""
    provider_polls: Counter[str] = field(default_factory=Counter)
    """Account -> polls that the provider has answered since the process began."""
    counted_polls: dict[str, float] = field(default_factory=dict)
    """Account -> polls that the exporter has counted at the end."""
    _methods: Iterator[str] = field(default_factory=lambda: itertools.cycle(("post", "signal", "both")))

    def reload(self, kind: str, text: str, error: str = "") -> None:
        """Write a configuration and reload it, by HTTP, by signal, or both, in turn."""
        new = self.config.with_suffix(".new")
        new.write_text(text)
        new.replace(self.config)
        method = next(self._methods)
        if method != "post":
            self.exporter.send_signal(signal.SIGHUP)
        if method != "signal":
            self.answers[kind][self.exporter.reload().status_code] += 1
        count = len(self.reload_results) + (2 if method == "both" else 1)
        wait_until("the reload", lambda: len(self._reload_lines()) == count)
        self.reload_results += [(error, line) for line in self._reload_lines()[len(self.reload_results) :]]
        self.scrapes_after[kind].append(_scrape(self.exporter.client, self.exporter.url))
        time.sleep(PAUSE)

    def reload_all(self, changes: Mapping[str, tuple[str, str]]) -> None:
        """Write and reload each configuration of a round."""
        for kind, (text, error) in changes.items():
            self.reload(kind, text, error)
        self.rounds += 1

    def _reload_lines(self) -> list[str]:
        messages = ("Configuration reloaded", "Reloading the configuration failed")
        return [line for line in self.exporter.stderr_lines if any(message in line for message in messages)]


@pytest.fixture(scope="module", name="run")
def _run_load(tmp_path_factory: pytest.TempPathFactory) -> LoadRun:
    """Run all reloads once; each test checks another aspect."""
    folder = tmp_path_factory.mktemp("reload")
    _install_plugin(folder / "plugin")
    environment = {**ENVIRONMENT, "PYTHONPATH": f"{ENVIRONMENT['PYTHONPATH']}:{folder / 'plugin'}"}
    with start_sandbox(folder, *(make_account("openai", name) for name in (*KEPT_ACCOUNTS, TOGGLED_ACCOUNT))) as here:
        changes = _changes(here)
        here.config.write_text(changes["returned"][0])
        served = here.simulator.requests
        with start_exporter(*here.flags, "--web.enable-lifecycle", env=environment) as exporter:
            exporter.wait_until_up(*KEPT_ACCOUNTS, TOGGLED_ACCOUNT)
            # When it is added again, its series must come from the ledger, not from a new poll.
            here.simulator.add_fault(TOGGLED_ACCOUNT, "server_error")
            run, before = LoadRun(exporter, here.config, _scrape(exporter.client, exporter.url)), len(served)

            def is_long_enough() -> bool:
                polls = Counter(request.account for request in served[before:])
                return all(polls[name] >= MIN_POLLS for name in KEPT_ACCOUNTS) and all(
                    len(scrapes) >= MIN_SCRAPES for scrapes in run.scrapes
                )

            with _scrape_continuously(run):
                while run.rounds < WARMUP_ROUNDS:
                    run.reload_all(changes)
                run.footprints.append(_measure_footprint(exporter.process.pid))
                while run.rounds < WARMUP_ROUNDS + MIN_ROUNDS or (not is_long_enough() and run.rounds < MAX_ROUNDS):
                    run.reload_all(changes)
                run.footprints.append(_measure_footprint(exporter.process.pid))
            run.reload("at rest", changes["returned"][0].replace(f"{INTERVAL}s", "1h"))

            def all_polls_counted() -> bool:
                run.provider_polls = Counter(request.account for request in served if REPORT in request.path)
                run.counted_polls = _scrape(exporter.client, exporter.url).polls()
                return all(run.counted_polls[name] == run.provider_polls[name] for name in KEPT_ACCOUNTS)

            wait_until("all polls counted", all_polls_counted)
            run.requests = [request for request in served[before:] if request.account in KEPT_ACCOUNTS]
            assert exporter.stop() == 0
    return run


def _install_plugin(folder: Path) -> None:
    """Install a package with a provider: OpenAI with a single report, which may be polled every second."""
    info = folder / "fast-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fast\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ai_spend_exporter.providers]\nfast = fast:Fast\n")
    (folder / "fast.py").write_text(FAST_PLUGIN)


def _changes(sandbox: Sandbox) -> dict[str, tuple[str, str]]:
    """Return a round: kind of change -> the configuration, and the error that it causes."""
    accounts = yaml.safe_load(sandbox.config.read_text())["accounts"]
    fast = [account | {"provider": "fast"} for account in accounts]
    good = _render_config(fast)
    return {
        "misspelled": (good.replace("provider: fast", "provider: fest", 1), "did you mean fast?"),
        "gone": (_render_config([account for account in fast if account["name"] != TOGGLED_ACCOUNT]), ""),
        "returned": (good, ""),
        "without a key": (good.replace("acme.key", "gone.key"), "gone.key: it does not exist"),
        "renamed": (
            _render_config(
                [account | ({"owner": "research"} if account["name"] == RENAMED_ACCOUNT else {}) for account in fast]
            ),
            "",
        ),
        "half": (f"{good}- name: 'half", "the quote that is opened here is never closed"),
        "renamed back": (good, ""),
    }


def _render_config(accounts: Sequence[Mapping[str, Any]]) -> str:
    defaults = {"poll_interval": f"{INTERVAL}s", "history": "2d"}
    return yaml.safe_dump({"defaults": defaults, "accounts": [dict(account) for account in accounts]}, sort_keys=False)


def _scrape(client: httpx.Client, url: str, accept: str = TEXT_CONTENT_TYPE) -> Scrape:
    response = client.get(f"{url}/metrics", headers={"accept": accept}, timeout=60)
    has_end_marker = response.text.endswith("# EOF\n")
    complete = "\nprocess_open_fds " in response.text and has_end_marker == (accept is OPENMETRICS_CONTENT_TYPE)
    return Scrape(response.status_code, complete and response.headers["content-type"] == accept, response.text)


@contextmanager
def _scrape_continuously(run: LoadRun) -> Iterator[None]:
    """Scrape /metrics with several clients, in both formats, until the block ends."""
    stop, url = threading.Event(), run.exporter.url

    def scrape(into: list[Scrape]) -> None:
        with httpx.Client() as client:
            accepts = itertools.cycle((TEXT_CONTENT_TYPE, OPENMETRICS_CONTENT_TYPE))
            while not stop.wait(0.05):
                into.append(_scrape(client, url, next(accepts)))

    run.scrapes = [[] for _ in range(SCRAPERS)]
    with ThreadPoolExecutor(SCRAPERS) as pool:
        clients = [pool.submit(scrape, into) for into in run.scrapes]
        try:
            yield
        finally:
            stop.set()
        for client in clients:
            client.result()


def _measure_footprint(pid: int) -> Footprint:
    """Return the minimum of a process's resources within a second: polls and scrapes need some for a moment."""
    proc, samples = Path(f"/proc/{pid}"), []
    for _ in range(20):
        pages = int((proc / "statm").read_text().split()[1])
        samples.append((len([*(proc / "fd").iterdir()]), len([*(proc / "task").iterdir()]), pages * 4096 >> 20))
        time.sleep(0.05)
    return Footprint(*map(min, zip(*samples, strict=True)))


def test_every_reload_is_logged(run: LoadRun) -> None:
    """Each of two hundred reloads is logged once; an invalid one with its error, and answered with 500."""
    assert len(run.reload_results) >= 200
    for error, line in run.reload_results:
        assert "Reloading the configuration failed" in line if error else 'msg="Configuration reloaded"' in line
        assert error in line
    for kind, answers in run.answers.items():
        assert set(answers) == {500 if kind in ("misspelled", "without a key", "half") else 200}


def test_a_rejected_configuration_changes_nothing(run: LoadRun) -> None:
    """After an invalid one /metrics has the accounts and owners of the previous one, and the failure."""
    for kind, before in (("misspelled", "renamed back"), ("without a key", "returned"), ("half", "renamed")):
        for page in run.scrapes_after[kind]:
            assert "\nai_exporter_config_last_reload_successful 0.0\n" in page.text
            for label in ("account", "owner"):
                assert page.labels("ai_account_info", label) == run.scrapes_after[before][0].labels(
                    "ai_account_info", label
                )


def test_no_scrape_fails_or_is_partial(run: LoadRun) -> None:
    """Every scrape is complete and has usage of exactly the accounts that it lists."""
    seen = set()
    for page in itertools.chain(*run.scrapes):
        assert (page.status, page.complete) == (200, True)
        listed = frozenset(page.labels("ai_account_info", "account"))
        assert page.labels("ai_tokens_30d", "account") == listed
        seen.add(listed)
    assert seen == {frozenset(KEPT_ACCOUNTS), frozenset({*KEPT_ACCOUNTS, TOGGLED_ACCOUNT})}
    assert min(map(len, run.scrapes)) >= MIN_SCRAPES


@pytest.mark.parametrize("account", KEPT_ACCOUNTS)
def test_kept_accounts_are_polled_without_interruption(run: LoadRun, account: str) -> None:
    """Reloads neither repeat nor postpone polls, and cause no other requests.

    A reload that restarted the schedule would allow no poll at all: reloads come more often than polls are due.
    """
    requests = [request for request in run.requests if request.account == account]
    assert {request.path.rpartition("/")[2] for request in requests} == {REPORT}
    times = [int(request.query["end_time"]) for request in requests]
    assert len(times) >= MIN_POLLS
    assert min(later - earlier for earlier, later in itertools.pairwise(times)) >= INTERVAL


def test_counters_of_kept_accounts_never_decrease(run: LoadRun) -> None:
    """The number of polls never decreases between scrapes, and at the end equals the number of requests."""
    for pages in run.scrapes:
        for earlier, later in itertools.pairwise(
            [run.first.polls(), *(page.polls() for page in pages), run.counted_polls]
        ):
            assert all(earlier[name] <= later[name] for name in KEPT_ACCOUNTS)
    assert {name: run.counted_polls[name] for name in KEPT_ACCOUNTS} == {
        name: run.provider_polls[name] for name in KEPT_ACCOUNTS
    }


def test_a_removed_account_disappears_and_returns_with_its_history(run: LoadRun) -> None:
    """A removed account has no series; added again it has all that it had, although its provider is down."""
    known = run.first.tokens(TOGGLED_ACCOUNT)
    assert known
    for page in run.scrapes_after["gone"]:
        assert f'account="{TOGGLED_ACCOUNT}"' not in page.text
    for page in run.scrapes_after["returned"]:
        assert page.tokens(TOGGLED_ACCOUNT) == known
    assert run.provider_polls[TOGGLED_ACCOUNT] >= 4


def test_a_new_owner_is_exported_at_once(run: LoadRun) -> None:
    """Immediately after the reload the account has its new owner, and no other."""
    for kind, owner in (("renamed", "research"), ("renamed back", "platform")):
        owners = [page.labels("ai_account_info", "owner", RENAMED_ACCOUNT) for page in run.scrapes_after[kind]]
        assert owners == [{owner}] * run.rounds


def test_reloads_leak_no_resources(run: LoadRun) -> None:
    """After many more reloads the process has no more open files, threads or memory, within a small margin."""
    before, after = run.footprints
    assert after.files <= before.files + 8
    assert after.threads <= before.threads + 2
    assert after.memory <= before.memory + 8
