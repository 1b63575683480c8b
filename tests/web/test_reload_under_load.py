"""Two hundred reloads, good and bad ones, of an exporter that polls and is scraped all the while."""

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

WARMUP_ROUNDS, ROUNDS = 4, 18
"""Rounds of seven configurations, before and after what the process holds is measured for the first time."""
PAUSE = 0.06
"""Seconds between two reloads: all of them together have to last for some polls."""
SCRAPERS = 3
INTERVAL = 2
"""Seconds between two polls of a report."""
SETTLE_SECONDS = 2.5
"""Seconds in which what was asked last comes to the page."""
MAX_POLL_DELAY = 6
"""Seconds after which a poll is missing: the interval, one more until the clock is looked at, and a busy machine."""

KEPT_ACCOUNTS = ("acme", "beta", "crew")
"""Who has to be polled undisturbed; only the owner of the last one changes."""
RENAMED_ACCOUNT, TOGGLED_ACCOUNT = "crew", "labs"
"""Who gets another owner, and who comes and goes."""

REPORT = "completions"
FAST_PLUGIN = f"""
from dataclasses import replace
from datetime import timedelta

from exporter.providers.openai import OpenAI


class Brisk(OpenAI):
    reports = tuple(
        replace(report, poll_interval=timedelta(seconds=1)) for report in OpenAI.reports if report.name == "{REPORT}"
    )
"""


@dataclass(frozen=True)
class Scrape:
    """One answer of /metrics."""

    status: int
    complete: bool
    text: str

    def labels(self, metric: str, label: str, account: str = "") -> set[str]:
        """Return the values that a label of a metric has, of all accounts or one."""
        return {labels[label] for labels, _ in self._samples(metric) if account in ("", labels["account"])}

    def polls(self) -> dict[str, float]:
        """Return how often each account's report was polled."""
        counts = self._samples("ai_account_polls_total")
        return {labels["account"]: value for labels, value in counts if labels["report"] == REPORT}

    def tokens(self, account: str) -> list[tuple[dict[str, str], float]]:
        """Return what an account has used within thirty days."""
        return [sample for sample in self._samples("ai_tokens_30d") if sample[0]["account"] == account]

    def _samples(self, metric: str) -> Iterator[tuple[dict[str, str], float]]:
        for labels, value in re.findall(rf"^{metric}{{(.*)}} (\S+)$", self.text, re.MULTILINE):
            yield dict(re.findall(r'(\w+)="([^"]*)"', labels)), float(value)


@dataclass(frozen=True)
class Footprint:
    """What a process holds."""

    files: int
    threads: int
    memory: int
    """MiB."""


@dataclass
class LoadRun:
    """What happened."""

    exporter: ExporterProcess
    config: Path
    first: Scrape
    """Before the reloads."""
    scrapes: list[list[Scrape]] = field(default_factory=list)
    """While they went on, by client and in their order."""
    scrapes_after: dict[str, list[Scrape]] = field(default_factory=lambda: defaultdict(list))
    """Kind of change -> the page right after each."""
    reload_results: list[tuple[str, str]] = field(default_factory=list)
    """What each reload had to complain of, and the line that was logged."""
    answers: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    """Kind of change -> statuses of POST /-/reload."""
    footprints: list[Footprint] = field(default_factory=list)
    requests: Sequence[LoggedRequest] = ()
    """What the provider was asked for accounts that never went."""
    provider_polls: Counter[str] = field(default_factory=Counter)
    """Account -> how many polls the provider has answered since the process began."""
    counted_polls: dict[str, float] = field(default_factory=dict)
    """Account -> how many polls are counted in the end."""
    _methods: Iterator[str] = field(default_factory=lambda: itertools.cycle(("post", "signal", "both")))

    def reload(self, kind: str, text: str, error: str = "") -> None:
        """Have a configuration taken over, or refused, in one way after the other."""
        fresh = self.config.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(self.config)
        way = next(self._methods)
        if way != "post":
            self.exporter.send_signal(signal.SIGHUP)
        if way != "signal":
            self.answers[kind][self.exporter.reload().status_code] += 1
        count = len(self.reload_results) + (2 if way == "both" else 1)
        wait_until("the reload", lambda: len(self._reload_lines()) == count)
        self.reload_results += [(error, line) for line in self._reload_lines()[len(self.reload_results) :]]
        self.scrapes_after[kind].append(_scrape(self.exporter.client, self.exporter.url))
        time.sleep(PAUSE)

    def _reload_lines(self) -> list[str]:
        return [line for line in self.exporter.stderr_lines if "Configuration" in line and "reloaded" in line]


@pytest.fixture(scope="module", name="run")
def _run_load(tmp_path_factory: pytest.TempPathFactory) -> LoadRun:
    """Play it once; each test looks at something else that happened."""
    folder = tmp_path_factory.mktemp("reload")
    _install_plugin(folder / "brisk")
    environment = {**ENVIRONMENT, "PYTHONPATH": f"{ENVIRONMENT['PYTHONPATH']}:{folder / 'brisk'}"}
    with start_sandbox(folder, *(make_account("openai", name) for name in (*KEPT_ACCOUNTS, TOGGLED_ACCOUNT))) as here:
        changes = _changes(here)
        here.config.write_text(changes["returned"][0])
        served = here.simulator.requests
        with start_exporter(*here.flags, "--web.enable-lifecycle", env=environment) as it:
            it.wait_until_up(*KEPT_ACCOUNTS, TOGGLED_ACCOUNT)
            # What is shown of it when it returns is remembered, and not read anew.
            here.simulator.add_fault(TOGGLED_ACCOUNT, "server_error")
            run, before = LoadRun(it, here.config, _scrape(it.client, it.url)), len(served)
            with _scrape_continuously(run):
                for rounds in (WARMUP_ROUNDS, ROUNDS):
                    for kind, (text, complaint) in itertools.chain(*[changes.items()] * rounds):
                        run.reload(kind, text, complaint)
                    run.footprints.append(_measure_footprint(it.process.pid))
            run.reload("at rest", changes["returned"][0].replace(f"{INTERVAL}s", "1h"))
            time.sleep(SETTLE_SECONDS)
            run.counted_polls = _scrape(it.client, it.url).polls()
            run.provider_polls = Counter(one.account for one in served if REPORT in one.path)
            run.requests = [one for one in served[before:] if one.account in KEPT_ACCOUNTS]
            assert it.stop() == 0
    return run


def _install_plugin(folder: Path) -> None:
    """Make a package that adds a provider: ours, with one report, which may be asked every second."""
    info = folder / "brisk-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: brisk\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ai_spend_exporter.providers]\nbrisk = brisk:Brisk\n")
    (folder / "brisk.py").write_text(FAST_PLUGIN)


def _changes(sandbox: Sandbox) -> dict[str, tuple[str, str]]:
    """Return a round: kind of change -> the configuration, and what is wrong with it."""
    accounts = yaml.safe_load(sandbox.config.read_text())["accounts"]
    brisk = [one | {"provider": "brisk"} for one in accounts]
    good = _render_config(brisk)
    return {
        "misspelled": (good.replace("provider: brisk", "provider: brsk", 1), "did you mean brisk?"),
        "gone": (_render_config([one for one in brisk if one["name"] != TOGGLED_ACCOUNT]), ""),
        "returned": (good, ""),
        "without a key": (good.replace("acme.key", "gone.key"), "gone.key: it does not exist"),
        "renamed": (
            _render_config([one | {"owner": "research"} if one["name"] == RENAMED_ACCOUNT else one for one in brisk]),
            "",
        ),
        "half": (f"{good}- name: 'half", "a quote is opened here and never closed"),
        "renamed back": (good, ""),
    }


def _render_config(accounts: Sequence[Mapping[str, Any]]) -> str:
    defaults = {"poll_interval": f"{INTERVAL}s", "history": "2d"}
    return yaml.safe_dump({"defaults": defaults, "accounts": [dict(one) for one in accounts]}, sort_keys=False)


def _scrape(client: httpx.Client, url: str, accept: str = TEXT_CONTENT_TYPE) -> Scrape:
    answer = client.get(f"{url}/metrics", headers={"accept": accept}, timeout=10)
    whole = "\nprocess_open_fds " in answer.text and answer.text.endswith("# EOF\n") == (
        accept is OPENMETRICS_CONTENT_TYPE
    )
    return Scrape(answer.status_code, whole and answer.headers["content-type"] == accept, answer.text)


@contextmanager
def _scrape_continuously(run: LoadRun) -> Iterator[None]:
    """Have several clients ask for /metrics again and again, in both formats, until the block ends."""
    enough, url = threading.Event(), run.exporter.url

    def scrape(into: list[Scrape]) -> None:
        with httpx.Client() as client:
            accepts = itertools.cycle((TEXT_CONTENT_TYPE, OPENMETRICS_CONTENT_TYPE))
            while not enough.wait(0.05):
                into.append(_scrape(client, url, next(accepts)))

    run.scrapes = [[] for _ in range(SCRAPERS)]
    with ThreadPoolExecutor(SCRAPERS) as pool:
        clients = [pool.submit(scrape, into) for into in run.scrapes]
        try:
            yield
        finally:
            enough.set()
        for client in clients:
            client.result()


def _measure_footprint(pid: int) -> Footprint:
    """Return the least that a process holds within a second: a poll or a scrape has some of each for a moment."""
    proc, taken = Path(f"/proc/{pid}"), []
    for _ in range(20):
        pages = int((proc / "statm").read_text().split()[1])
        taken.append((len([*(proc / "fd").iterdir()]), len([*(proc / "task").iterdir()]), pages * 4096 >> 20))
        time.sleep(0.05)
    return Footprint(*map(min, zip(*taken, strict=True)))


def test_every_reload_is_logged(run: LoadRun) -> None:
    """Each of two hundred reloads is logged once, and a bad one, answered with 500, with what is wrong."""
    assert len(run.reload_results) >= 200
    for complaint, line in run.reload_results:
        assert "not reloaded" in line if complaint else 'msg="Configuration reloaded"' in line
        assert complaint in line
    for kind, answers in run.answers.items():
        assert set(answers) == {500 if kind in ("misspelled", "without a key", "half") else 200}


def test_a_rejected_configuration_changes_nothing(run: LoadRun) -> None:
    """After a bad one the page shows the accounts and owners of the good one before it, and that it was refused."""
    for kind, before in (("misspelled", "renamed back"), ("without a key", "returned"), ("half", "renamed")):
        for page in run.scrapes_after[kind]:
            assert "\nai_exporter_config_last_reload_successful 0.0\n" in page.text
            for label in ("account", "owner"):
                assert page.labels("ai_account_info", label) == run.scrapes_after[before][0].labels(
                    "ai_account_info", label
                )


def test_no_scrape_fails_or_is_partial(run: LoadRun) -> None:
    """Every scrape is a whole page that shows the use of exactly the accounts that it lists."""
    seen = set()
    for page in itertools.chain(*run.scrapes):
        assert (page.status, page.complete) == (200, True)
        listed = frozenset(page.labels("ai_account_info", "account"))
        assert page.labels("ai_tokens_30d", "account") == listed
        seen.add(listed)
    assert seen == {frozenset(KEPT_ACCOUNTS), frozenset({*KEPT_ACCOUNTS, TOGGLED_ACCOUNT})}
    assert min(map(len, run.scrapes)) > 50


@pytest.mark.parametrize("account", KEPT_ACCOUNTS)
def test_kept_accounts_are_polled_without_interruption(run: LoadRun, account: str) -> None:
    """No poll is lost or comes early, whatever changes about others or about the owner, and nothing else is asked."""
    asked = [one for one in run.requests if one.account == account]
    assert {one.path.rpartition("/")[2] for one in asked} == {REPORT}
    moments = [int(one.query["end_time"]) for one in asked]
    pauses = {later - earlier for earlier, later in itertools.pairwise(moments)}
    assert len(moments) >= 4
    assert min(pauses) >= INTERVAL
    assert max(pauses) <= MAX_POLL_DELAY


def test_counters_of_kept_accounts_never_decrease(run: LoadRun) -> None:
    """From one scrape to the next the number of polls never falls, and at the end as many as were asked for."""
    for pages in run.scrapes:
        for earlier, later in itertools.pairwise(
            [run.first.polls(), *(page.polls() for page in pages), run.counted_polls]
        ):
            assert all(earlier[name] <= later[name] for name in KEPT_ACCOUNTS)
    assert {name: run.counted_polls[name] for name in KEPT_ACCOUNTS} == {
        name: run.provider_polls[name] for name in KEPT_ACCOUNTS
    }


def test_a_removed_account_disappears_and_returns_with_its_history(run: LoadRun) -> None:
    """A removed account has no series left; back again it shows all that it had, though nothing can be read anew."""
    known = run.first.tokens(TOGGLED_ACCOUNT)
    assert known
    for page in run.scrapes_after["gone"]:
        assert f'account="{TOGGLED_ACCOUNT}"' not in page.text
    for page in run.scrapes_after["returned"]:
        assert page.tokens(TOGGLED_ACCOUNT) == known
    assert run.provider_polls[TOGGLED_ACCOUNT] >= 4


def test_a_new_owner_is_shown_at_once(run: LoadRun) -> None:
    """Right after the reload the account has its new owner, and no other one."""
    for kind, owner in (("renamed", "research"), ("renamed back", "platform")):
        shown = [page.labels("ai_account_info", "owner", RENAMED_ACCOUNT) for page in run.scrapes_after[kind]]
        assert shown == [{owner}] * (WARMUP_ROUNDS + ROUNDS)


def test_reloads_leak_no_resources(run: LoadRun) -> None:
    """After a hundred and sixty more reloads the process has no more open files, threads or memory than before."""
    before, after = run.footprints
    assert after.files <= before.files + 8
    assert after.threads <= before.threads + 2
    assert after.memory <= before.memory + 8
