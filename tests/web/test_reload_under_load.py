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

from exporter.metrics.exposition import OPENMETRICS, TEXT
from exporter.simulator.server import Served
from tests.command import ENVIRONMENT, Exporter, Site, site, started, until
from tests.system import lone

WARMING, ROUNDS = 4, 18
"""Rounds of seven configurations, before and after what the process holds is measured for the first time."""
PAUSE = 0.06
"""Seconds between two reloads: all of them together have to last for some polls."""
SCRAPERS = 3
INTERVAL = 2
"""Seconds between two polls of a report."""
REST = 2.5
"""Seconds in which what was asked last comes to the page."""
LATEST = 6
"""Seconds after which a poll is missing: the interval, one more until the clock is looked at, and a busy machine."""

STEADY = ("acme", "beta", "crew")
"""Who has to be polled undisturbed; only the owner of the last one changes."""
RENAMED, COMING = "crew", "labs"
"""Who gets another owner, and who comes and goes."""

REPORT = "completions"
BRISK = f"""
from dataclasses import replace
from datetime import timedelta

from exporter.providers.openai import OpenAI


class Brisk(OpenAI):
    reports = tuple(replace(one, every=timedelta(seconds=1)) for one in OpenAI.reports if one.name == "{REPORT}")
"""


@dataclass(frozen=True)
class Scrape:
    """One answer of /metrics."""

    status: int
    whole: bool
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
class Play:
    """What happened."""

    it: Exporter
    config: Path
    first: Scrape
    """Before the reloads."""
    scrapes: list[list[Scrape]] = field(default_factory=list)
    """While they went on, by client and in their order."""
    after: dict[str, list[Scrape]] = field(default_factory=lambda: defaultdict(list))
    """Kind of change -> the page right after each."""
    told: list[tuple[str, str]] = field(default_factory=list)
    """What each reload had to complain of, and the line that was logged."""
    answers: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    """Kind of change -> statuses of POST /-/reload."""
    footprints: list[Footprint] = field(default_factory=list)
    served: Sequence[Served] = ()
    """What the provider was asked for accounts that never went."""
    made: Counter[str] = field(default_factory=Counter)
    """Account -> how many polls the provider has answered since the process began."""
    last: dict[str, float] = field(default_factory=dict)
    """Account -> how many polls are counted in the end."""
    _ways: Iterator[str] = field(default_factory=lambda: itertools.cycle(("post", "signal", "both")))

    def change(self, kind: str, text: str, complaint: str = "") -> None:
        """Have a configuration taken over, or refused, in one way after the other."""
        fresh = self.config.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(self.config)
        way = next(self._ways)
        if way != "post":
            self.it.send(signal.SIGHUP)
        if way != "signal":
            self.answers[kind][self.it.reload().status_code] += 1
        count = len(self.told) + (2 if way == "both" else 1)
        until("the reload", lambda: len(self._lines()) == count)
        self.told += [(complaint, line) for line in self._lines()[len(self.told) :]]
        self.after[kind].append(_scrape(self.it.client, self.it.url))
        time.sleep(PAUSE)

    def _lines(self) -> list[str]:
        return [line for line in self.it.said if "Configuration" in line and "reloaded" in line]


@pytest.fixture(scope="module", name="play")
def _play(tmp_path_factory: pytest.TempPathFactory) -> Play:
    """Play it once; each test looks at something else that happened."""
    folder = tmp_path_factory.mktemp("reload")
    _plug_in(folder / "brisk")
    environment = {**ENVIRONMENT, "PYTHONPATH": f"{ENVIRONMENT['PYTHONPATH']}:{folder / 'brisk'}"}
    with site(folder, *(lone("openai", name) for name in (*STEADY, COMING))) as here:
        changes = _changes(here)
        here.config.write_text(changes["returned"][0])
        served = here.simulator.requests
        with started(*here.flags, "--web.enable-lifecycle", env=environment) as it:
            it.until_up(*STEADY, COMING)
            # What is shown of it when it returns is remembered, and not read anew.
            here.simulator.fault(COMING, "server_error")
            play, before = Play(it, here.config, _scrape(it.client, it.url)), len(served)
            with _scraping(play):
                for rounds in (WARMING, ROUNDS):
                    for kind, (text, complaint) in itertools.chain(*[changes.items()] * rounds):
                        play.change(kind, text, complaint)
                    play.footprints.append(_footprint(it.process.pid))
            play.change("at rest", changes["returned"][0].replace(f"{INTERVAL}s", "1h"))
            time.sleep(REST)
            play.last = _scrape(it.client, it.url).polls()
            play.made = Counter(one.account for one in served if REPORT in one.path)
            play.served = [one for one in served[before:] if one.account in STEADY]
            assert it.end() == 0
    return play


def _plug_in(folder: Path) -> None:
    """Make a package that adds a provider: ours, with one report, which may be asked every second."""
    info = folder / "brisk-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: brisk\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ai_spend_exporter.providers]\nbrisk = brisk:Brisk\n")
    (folder / "brisk.py").write_text(BRISK)


def _changes(here: Site) -> dict[str, tuple[str, str]]:
    """Return a round: kind of change -> the configuration, and what is wrong with it."""
    accounts = yaml.safe_load(here.config.read_text())["accounts"]
    brisk = [one | {"provider": "brisk"} for one in accounts]
    good = _text(brisk)
    return {
        "misspelled": (good.replace("provider: brisk", "provider: brsk", 1), "did you mean brisk?"),
        "gone": (_text([one for one in brisk if one["name"] != COMING]), ""),
        "returned": (good, ""),
        "without a key": (good.replace("acme.key", "gone.key"), "gone.key: it does not exist"),
        "renamed": (_text([one | {"owner": "research"} if one["name"] == RENAMED else one for one in brisk]), ""),
        "half": (f"{good}- name: 'half", "a quote is opened here and never closed"),
        "renamed back": (good, ""),
    }


def _text(accounts: Sequence[Mapping[str, Any]]) -> str:
    defaults = {"poll_interval": f"{INTERVAL}s", "history": "2d"}
    return yaml.safe_dump({"defaults": defaults, "accounts": [dict(one) for one in accounts]}, sort_keys=False)


def _scrape(client: httpx.Client, url: str, accept: str = TEXT) -> Scrape:
    answer = client.get(f"{url}/metrics", headers={"accept": accept}, timeout=10)
    whole = "\nprocess_open_fds " in answer.text and answer.text.endswith("# EOF\n") == (accept is OPENMETRICS)
    return Scrape(answer.status_code, whole and answer.headers["content-type"] == accept, answer.text)


@contextmanager
def _scraping(play: Play) -> Iterator[None]:
    """Have several clients ask for /metrics again and again, in both formats, until the block ends."""
    enough, url = threading.Event(), play.it.url

    def scrape(into: list[Scrape]) -> None:
        with httpx.Client() as client:
            accepts = itertools.cycle((TEXT, OPENMETRICS))
            while not enough.wait(0.05):
                into.append(_scrape(client, url, next(accepts)))

    play.scrapes = [[] for _ in range(SCRAPERS)]
    with ThreadPoolExecutor(SCRAPERS) as pool:
        clients = [pool.submit(scrape, into) for into in play.scrapes]
        try:
            yield
        finally:
            enough.set()
        for client in clients:
            client.result()


def _footprint(number: int) -> Footprint:
    """Return the least that a process holds within a second: a poll or a scrape has some of each for a moment."""
    proc, taken = Path(f"/proc/{number}"), []
    for _ in range(20):
        pages = int((proc / "statm").read_text().split()[1])
        taken.append((len([*(proc / "fd").iterdir()]), len([*(proc / "task").iterdir()]), pages * 4096 >> 20))
        time.sleep(0.05)
    return Footprint(*map(min, zip(*taken, strict=True)))


def test_every_reload_is_told(play: Play) -> None:
    """Each of two hundred reloads is logged once, and a bad one, answered with 500, with what is wrong."""
    assert len(play.told) >= 200
    for complaint, line in play.told:
        assert "not reloaded" in line if complaint else 'msg="Configuration reloaded"' in line
        assert complaint in line
    for kind, answers in play.answers.items():
        assert set(answers) == {500 if kind in ("misspelled", "without a key", "half") else 200}


def test_a_refused_configuration_changes_nothing(play: Play) -> None:
    """After a bad one the page shows the accounts and owners of the good one before it, and that it was refused."""
    for kind, before in (("misspelled", "renamed back"), ("without a key", "returned"), ("half", "renamed")):
        for page in play.after[kind]:
            assert "\nai_exporter_config_last_reload_successful 0.0\n" in page.text
            for label in ("account", "owner"):
                assert page.labels("ai_account_info", label) == play.after[before][0].labels("ai_account_info", label)


def test_no_scrape_fails_or_is_half(play: Play) -> None:
    """Every scrape is a whole page that shows the use of exactly the accounts that it lists."""
    seen = set()
    for page in itertools.chain(*play.scrapes):
        assert (page.status, page.whole) == (200, True)
        listed = frozenset(page.labels("ai_account_info", "account"))
        assert page.labels("ai_tokens_30d", "account") == listed
        seen.add(listed)
    assert seen == {frozenset(STEADY), frozenset({*STEADY, COMING})}
    assert min(map(len, play.scrapes)) > 50


@pytest.mark.parametrize("account", STEADY)
def test_who_stays_is_polled_as_if_nothing_happened(play: Play, account: str) -> None:
    """No poll is lost or comes early, whatever changes about others or about the owner, and nothing else is asked."""
    asked = [one for one in play.served if one.account == account]
    assert {one.path.rpartition("/")[2] for one in asked} == {REPORT}
    moments = [int(one.query["end_time"]) for one in asked]
    pauses = {later - earlier for earlier, later in itertools.pairwise(moments)}
    assert len(moments) >= 4
    assert min(pauses) >= INTERVAL
    assert max(pauses) <= LATEST


def test_counters_of_who_stays_never_go_down(play: Play) -> None:
    """From one scrape to the next the number of polls never falls, and at the end as many as were asked for."""
    for pages in play.scrapes:
        for earlier, later in itertools.pairwise([play.first.polls(), *(page.polls() for page in pages), play.last]):
            assert all(earlier[name] <= later[name] for name in STEADY)
    assert {name: play.last[name] for name in STEADY} == {name: play.made[name] for name in STEADY}


def test_who_is_removed_is_gone_and_who_returns_has_its_history(play: Play) -> None:
    """A removed account has no series left; back again it shows all that it had, though nothing can be read anew."""
    known = play.first.tokens(COMING)
    assert known
    for page in play.after["gone"]:
        assert f'account="{COMING}"' not in page.text
    for page in play.after["returned"]:
        assert page.tokens(COMING) == known
    assert play.made[COMING] >= 4


def test_a_new_owner_is_shown_at_once(play: Play) -> None:
    """Right after the reload the account has its new owner, and no other one."""
    for kind, owner in (("renamed", "research"), ("renamed back", "platform")):
        shown = [page.labels("ai_account_info", "owner", RENAMED) for page in play.after[kind]]
        assert shown == [{owner}] * (WARMING + ROUNDS)


def test_reloads_leave_nothing_behind(play: Play) -> None:
    """After a hundred and sixty more reloads the process has no more open files, threads or memory than before."""
    before, after = play.footprints
    assert after.files <= before.files + 8
    assert after.threads <= before.threads + 2
    assert after.memory <= before.memory + 8
