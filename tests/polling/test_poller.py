"""The poller: one policy for each kind of error, and nobody is harmed by another's."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import pytest

from exporter.model import DAY, HOUR, REQUESTS, Bucket, Report
from exporter.providers import PROVIDERS
from exporter.providers.cursor import Cursor
from exporter.providers.openai import OpenAI
from tests.system import NOON, Stage, lone, midnight, play

MINUTE, SECOND = timedelta(minutes=1), timedelta(seconds=1)
ProviderName = Literal["openai", "anthropic", "cursor"]


@pytest.fixture(name="it")
def _stage(tmp_path: Path) -> Iterator[Stage]:
    with play(tmp_path, lone("anthropic")) as it:
        it.settle()
        yield it


@pytest.mark.parametrize(
    ("provider", "fault", "reason", "at_most"),
    [
        ("openai", "revoked", "key_rejected", 1),
        ("openai", "expired", "key_rejected", 1),
        ("openai", "missing_scope", "missing_scope", 2),
        ("openai", "wrong_key", "missing_scope", 2),
        ("anthropic", "revoked", "key_rejected", 1),
        ("anthropic", "expired", "key_rejected", 1),
        ("anthropic", "missing_scope", "missing_scope", 2),
        ("cursor", "revoked", "key_rejected", 2),
        ("cursor", "expired", "key_rejected", 2),
        ("cursor", "missing_scope", "missing_scope", 2),
        ("cursor", "wrong_key", "wrong_key_kind", 2),
    ],
)
def test_a_refused_key_is_not_used_again(
    tmp_path: Path, provider: ProviderName, fault: str, reason: str, at_most: int
) -> None:
    """A refusal ends all asking at once (where names alone may be refused, with the next request), for ever."""
    with play(tmp_path, lone(provider)) as it:
        it.simulator.fault("solo", fault)
        it.settle()
        asked = it.calls("solo")
        assert 1 <= asked <= at_most
        for _ in range(5):
            it.later(7 * HOUR)
        assert it.calls("solo") == asked
        assert it.problems("solo") == {reason}
        assert it.value("ai_account_up", account="solo") == 0
        assert it.value("ai_account_poll_failures_total", account="solo", reason=reason) == 1


@pytest.mark.parametrize(
    ("provider", "key"),
    [("openai", "sk-proj-demo-0000"), ("anthropic", "sk-ant-api03-demo-0000"), ("cursor", "sk-ant-admin01-demo-0000")],
)
def test_a_key_of_the_wrong_kind_is_never_sent(tmp_path: Path, provider: ProviderName, key: str) -> None:
    """Where the prefix tells that a key cannot work, no request is made until another key is there."""
    with play(tmp_path, lone(provider)) as it:
        it.key_file("solo").write_text(key)
        it.settle()
        it.later(DAY)
        assert it.simulator.requests == []
        assert it.problems("solo") == {"wrong_key_kind"}
        assert it.value("ai_account_up", account="solo") == 0

        it.key_file("solo").write_text(it.world.accounts["solo"].key)
        it.later(5 * MINUTE)
        assert it.problems("solo") == set()
        assert it.value("ai_account_up", account="solo") == 1


def test_a_reload_asks_a_rejected_account_again_and_keeps_its_problem_until_then(tmp_path: Path) -> None:
    """A reload makes no problem vanish that is still there; one that was mended at the provider ends with it."""
    with play(tmp_path, lone("openai")) as it:
        it.simulator.fault("solo", "revoked")
        it.settle()
        asked = it.calls("solo")
        it.app.apply(it.config)
        assert it.problems("solo") == {"key_rejected"}
        it.settle()
        assert it.problems("solo") == {"key_rejected"}
        assert it.calls("solo") > asked
        it.simulator.clear("solo")
        it.app.apply(it.config)
        assert it.problems("solo") == {"key_rejected"}
        it.settle()
        assert it.problems("solo") == set()
        assert it.app.complete


def test_a_new_key_in_the_file_is_taken_without_a_restart(tmp_path: Path) -> None:
    """After a rejection the file is looked at once per poll interval, and another key in it ends the problem."""
    with play(tmp_path, lone("openai")) as it:
        it.key_file("solo").write_text("sk-admin-of-yesterday")
        it.settle()
        assert it.problems("solo") == {"key_rejected"}
        it.key_file("solo").write_text("sk-admin-of-yesterday\n")
        it.later(HOUR)
        assert [served.status for served in it.simulator.requests] == [401]

        it.key_file("solo").write_text(it.world.accounts["solo"].key)
        it.later(5 * MINUTE)
        assert it.problems("solo") == set()
        assert it.value("ai_account_up", account="solo") == 1
        assert it.shown("ai_tokens_today") == it.told("today")[0]


def test_a_new_key_is_asked_what_the_old_one_was_refused(tmp_path: Path) -> None:
    """A key without the scope is replaced by one that has it: the names, refused first, are there at once too."""
    with play(tmp_path, lone("openai")) as it:
        it.simulator.fault("solo", "missing_scope")
        it.settle()
        it.simulator.clear()
        it.simulator._keys["openai/v1", "sk-admin-with-scope"] = it.world.accounts["solo"]
        it.key_file("solo").write_text("sk-admin-with-scope")
        it.later(5 * MINUTE)
        assert it.value("ai_account_up", account="solo") == 1
        assert it.value("ai_tokens_today", workspace="Web") is not None


def test_a_rate_limit_is_waited_for_as_told(it: Stage) -> None:
    """After 429 with Retry-After nothing of the account is asked until that has passed, and then at once."""
    it.simulator.fault("solo", "rate_limited", times=1, retry_after=3900)
    it.later(5 * MINUTE)
    asked = it.calls("solo")
    assert it.problems("solo") == {"rate_limited"}
    for wait in (30 * MINUTE, 34 * MINUTE, 59 * SECOND):
        it.later(wait)
        assert it.calls("solo") == asked
    it.later(2 * SECOND)
    assert it.calls("solo") > asked
    assert it.problems("solo") == set()
    assert it.value("ai_account_up", account="solo") == 1


@pytest.mark.parametrize("fault", ["rate_limited", "overloaded", "server_error", "malformed"])
def test_failures_are_repeated_with_growing_pauses(it: Stage, fault: str) -> None:
    """Half a minute, one, two, four, eight, then a quarter of an hour, each give or take a quarter; then anew."""

    def visits() -> int:
        return it.calls("solo", "usage_report")

    for _ in range(2):
        it.simulator.fault("solo", fault, path="usage_report")
        it.later(5 * MINUTE)
        for pause in (0.5, 1, 2, 4, 8, 15, 15):
            asked = visits()
            it.later(pause * 0.745 * MINUTE)
            assert visits() == asked, f"asked again within three quarters of {pause} min"
            it.later(pause * 0.51 * MINUTE)
            assert visits() == asked + 1, f"asked {visits() - asked} times around {pause} min"
        it.simulator.clear()
        it.later(20 * MINUTE)
        assert it.problems("solo") == set()


@pytest.mark.parametrize(
    ("provider", "fault", "reason"),
    [
        ("anthropic", "rate_limited", "rate_limited"),
        ("anthropic", "overloaded", "unavailable"),
        ("openai", "server_error", "unavailable"),
        ("openai", "malformed", "malformed"),
        ("cursor", "malformed", "malformed"),
        ("cursor", "mistyped", "malformed"),
        ("anthropic", "truncated", "malformed"),
        ("cursor", "html", "malformed"),
    ],
)
def test_what_was_told_stays_while_a_provider_fails(
    tmp_path: Path, provider: ProviderName, fault: str, reason: str
) -> None:
    """A failed poll changes no number and no watermark; it tells its reason, and the next success takes that away."""

    def shown() -> list[object]:
        samples = it.samples()
        mark = samples["ai_account_complete_until_timestamp_seconds"]
        return [mark, {name: series for name, series in it.spend().items() if "this_hour" not in name}]

    with play(tmp_path, lone(provider)) as it:
        it.settle()
        before = shown()
        it.simulator.fault("solo", fault)
        it.later(HOUR)
        assert it.problems("solo") == {reason}
        assert it.value("ai_account_up", account="solo") == 0
        assert shown() == before

        it.simulator.clear()
        it.later(MINUTE)
        assert it.problems("solo") == set()
        assert it.value("ai_account_up", account="solo") == 1
        assert shown() != before
        assert it.shown("ai_tokens_today") == it.told("today")[0]


@pytest.mark.parametrize(("fault", "reason"), [("server_error", "unavailable"), ("malformed", "malformed")])
def test_a_report_that_fails_does_not_stop_the_others(tmp_path: Path, fault: str, reason: str) -> None:
    """While a rare report fails again and again, the main one is read as ever."""
    with play(tmp_path, lone("openai")) as it:
        it.settle()
        it.simulator.fault("solo", fault, path="/images")
        it.later(HOUR)
        for _ in range(4):
            it.later(5 * MINUTE)
            assert it.shown("ai_tokens_today") == it.told("today")[0]
            assert last_success(it, "completions") == it.clock.now
        assert it.problems("solo") == {reason}
        assert last_success(it, "images") == NOON
        it.simulator.clear()
        it.later(20 * MINUTE)
        assert it.problems("solo") == set()


def last_success(it: Stage, report: str) -> datetime | None:
    """Return when a report of the lone account was read up to the present."""
    told = it.value("ai_account_last_success_timestamp_seconds", account="solo", report=report)
    return None if told is None else datetime.fromtimestamp(told, UTC)


def test_a_network_that_is_down_is_tried_once_per_visit(tmp_path: Path) -> None:
    """Where nobody listens, a visit ends with its first attempt instead of one for each of twelve reports."""
    with play(tmp_path, lone("openai")) as it, socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        base_url = f"http://127.0.0.1:{nobody.getsockname()[1]}/v1"
        it.change("solo", lambda account: replace(account, base_url=base_url))
        for attempts in (1, 2):
            it.settle()
            assert it.value("ai_account_api_requests_total", account="solo", code="error") == attempts
            assert it.value("ai_account_api_requests_total", account="solo") == attempts
            assert it.problems("solo") == {"unavailable"}
            it.clock.now += 40 * SECOND


@pytest.mark.parametrize("seconds", [3.0, 60.0])
def test_accounts_that_hang_do_not_delay_the_others(tmp_path: Path, seconds: float) -> None:
    """Of twelve accounts six answer late or never: the others are complete long before."""
    sick, well = ([lone("anthropic", f"{kind}{n}") for n in range(6)] for kind in ("sick", "well"))
    with play(tmp_path, *sick, *well, timeout="30s") as it:
        for account in sick:
            it.simulator.fault(account.name, "slow", seconds=seconds)
        began = time.monotonic()
        tick_until(it, lambda: all(up(it, account.name) for account in well))
        assert time.monotonic() - began < 3
        assert not it.app.idle
        assert not any(up(it, account.name) for account in sick)


def test_accounts_that_failed_hold_half_of_the_threads_at_most(tmp_path: Path) -> None:
    """With more hanging accounts than threads the others are read at once all the same."""
    sick, well = ([lone("anthropic", f"{kind}{n}") for n in range(count)] for kind, count in (("a", 18), ("z", 3)))
    with play(tmp_path, *sick, *well, timeout="30s") as it:
        for account in sick:
            it.simulator.fault(account.name, "server_error")
        it.settle()
        it.simulator.clear()
        for account in sick:
            it.simulator.fault(account.name, "slow", seconds=60)
        it.clock.now += 5 * MINUTE
        tick_until(it, lambda: all(it.app._members[account.name].health.polls["messages"] == 2 for account in well))
        tick_until(it, lambda: len(it.app._poller._busy) == 8)
        assert all(up(it, account.name) for account in well)


def up(it: Stage, account: str) -> bool:
    """Tell whether the newest poll of every report of an account succeeded."""
    return it.app._members[account].up(it.app._ledger)


def tick_until(it: Stage, done: Callable[[], bool]) -> None:
    """Let the poller work, without waiting for those that hang."""
    deadline = time.monotonic() + 20
    while not done():
        assert time.monotonic() < deadline, "it never comes"
        it.app.tick()
        threading.Event().wait(0.005)


class Defective(Cursor):
    """A provider with a defect."""

    def fetch(self, report: Report, since: datetime, until: datetime) -> Iterator[Bucket]:  # noqa: ARG002
        """Break."""
        raise ZeroDivisionError


def test_a_defect_in_one_account_is_counted_and_harms_no_other(tmp_path: Path) -> None:
    """An error that nobody foresaw is counted; that account rests for a quarter of an hour, the others go on."""
    accounts = (lone("cursor", "odd"), lone("anthropic"))
    with play(tmp_path, *accounts, providers={**PROVIDERS, "cursor": Defective}) as it:
        for minutes, defects in ((0, 1), (5, 1), (5, 1), (6, 2)):
            it.later(minutes * MINUTE)
            assert it.value("ai_exporter_defects_total") == defects
            assert it.value("ai_account_up", account="odd") == 0
            assert it.value("ai_account_up", account="solo") == 1
        assert it.shown("ai_tokens_today", "solo") == it.told("today", "solo")[0]


class WithoutImages(OpenAI):
    """An OpenAI whose images are at no known address."""

    def fetch(self, report: Report, since: datetime, until: datetime) -> Iterator[Bucket]:
        """Ask for something that answers 404 where images are wanted."""
        if report.name == "images":
            self._client.get("/organization/usage/no_images")
        return super().fetch(report, since, until)


@pytest.mark.parametrize("status", [403, 404])
def test_a_report_outside_of_the_plan_is_no_problem(tmp_path: Path, status: int) -> None:
    """An optional report that is refused or unknown is asked again a day later; the account is up and complete."""
    kind = WithoutImages if status == 404 else OpenAI
    with play(tmp_path, lone("openai"), providers={**PROVIDERS, "openai": kind}) as it:
        it.simulator.fault("solo", "missing_scope", path="/images")
        it.settle()

        def refused() -> int:
            return sum("images" in served.path and served.status == status for served in it.simulator.requests)

        assert refused() == 1
        for _ in range(23):
            it.later(HOUR)
        assert refused() == 1
        assert it.problems("solo") == set()
        assert it.value("ai_account_up", account="solo") == 1
        assert it.shown("ai_tokens_last_hour") == it.told("last_hour")[0]
        assert it.value("ai_account_complete_until_timestamp_seconds", report="images") is None
        it.later(2 * HOUR)
        assert refused() == 2


@pytest.fixture(name="busy")
def _busy(tmp_path: Path) -> Iterator[Stage]:
    """A team whose first walk has more pages than its provider ever gives in a row."""
    small = lone("cursor")
    streams = (replace(small.streams[0], size=15_000, mix=()), small.streams[1])
    with play(tmp_path, replace(small, streams=streams), history="1d") as it:
        it.simulator.fault("solo", "rate_limited", page=21)
        it.settle()
        assert it.problems("solo") == {"rate_limited"}
        assert it.calls("solo", "events") == 21
        it.later(MINUTE)
        yield it


def test_a_walk_that_meets_a_rate_limit_is_cut_in_halves(busy: Stage) -> None:
    """What cannot be read in one go is read in pieces, on that day and on later ones, without losing a request."""
    it = busy
    for passed in (timedelta(0), DAY, HOUR, HOUR):
        it.later(passed)
        assert it.problems("solo") == set()
        assert covered_since(it) == midnight(NOON) - DAY
        told = it.world.visible("solo", midnight(NOON) - DAY, it.clock.now)
        assert it.value("ai_requests_30d") == sum(row.value for _, row in told if row.meter == REQUESTS)


def test_a_deep_read_in_pieces_is_done_once_a_day(busy: Stage) -> None:
    """After a walk was cut, an hourly poll reads the last hours only: the pieces of a deep read count as one."""
    busy.later(DAY)
    busy.later(HOUR)
    for _ in range(2):
        busy.simulator.requests.clear()
        busy.later(HOUR)
        asked = [int(served.query["startDate"]) for served in busy.simulator.requests]
        assert min(asked) > (busy.clock.now - 9 * HOUR).timestamp() * 1000


def covered_since(it: Stage) -> datetime:
    """Return from when on the lone account's first report is covered without a gap."""
    member = it.app._members["solo"]
    coverage = it.app._ledger.buckets.coverage(member.book.number, member.book.reports[0].name)
    assert coverage is not None
    return coverage.since
