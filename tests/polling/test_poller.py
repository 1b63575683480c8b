"""The poller: one policy for each kind of error, and no account is affected by another's errors."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar, Literal

import httpx
import pytest

from exporter.ledger import Ledger
from exporter.model import DAY, HOUR, REQUESTS, Bucket, Report
from exporter.pricing.list_prices import Rates, list_rates
from exporter.providers import PROVIDERS
from exporter.providers.cursor import Cursor
from exporter.providers.openai import OpenAI
from exporter.snapshot.day_reads import find_day_reads
from tests.system import NOON, System, make_account, midnight, start_small_system

MINUTE, SECOND = timedelta(minutes=1), timedelta(seconds=1)
ProviderName = Literal["openai", "anthropic", "cursor"]


@pytest.fixture(name="system")
def _start_system(tmp_path: Path) -> Iterator[System]:
    with start_small_system(tmp_path, make_account("anthropic")) as system:
        system.poll_until_idle()
        yield system


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
def test_a_rejected_key_is_tried_once_an_hour(
    tmp_path: Path, provider: ProviderName, fault: str, reason: str, at_most: int
) -> None:
    """After a rejection the key is tried once an hour, with a second request where the first concerned only names."""
    with start_small_system(tmp_path, make_account(provider)) as system:
        system.simulator.add_fault("solo", fault)
        system.poll_until_idle()
        requests = system.count_calls("solo")
        assert 1 <= requests <= at_most
        for minutes in range(5, 60, 5):
            system.advance(5 * MINUTE)
            assert system.count_calls("solo") == requests, f"tried again after {minutes} minutes"
        for hours in range(1, 4):
            for _ in range(12):
                system.advance(5 * MINUTE)
                assert system.problems("solo") == {reason}
                assert system.value("ai_account_up", account="solo") == 0
            assert system.count_calls("solo") <= requests + hours * at_most
            assert system.value("ai_account_poll_failures_total", account="solo", reason=reason) == 1 + hours

        system.simulator.clear_faults("solo")
        for _ in range(13):
            system.advance(5 * MINUTE)
        assert system.problems("solo") == set()
        assert system.value("ai_account_up", account="solo") == 1
        # Cursor's group names are read again after six hours; its events are due once an hour.
        assert system.exported_totals("ai_tokens_today").total() > 0
        if provider != "cursor":
            assert system.exported_totals("ai_tokens_today") == system.expected_totals("today")[0]


@pytest.mark.parametrize(
    ("provider", "key"),
    [("openai", "sk-proj-demo-0000"), ("anthropic", "sk-ant-api03-demo-0000"), ("cursor", "sk-ant-admin01-demo-0000")],
)
def test_a_key_of_the_wrong_kind_is_never_sent(tmp_path: Path, provider: ProviderName, key: str) -> None:
    """A key whose prefix shows that it cannot work causes no request until there is another key."""
    with start_small_system(tmp_path, make_account(provider)) as system:
        system.key_file("solo").write_text(key)
        system.poll_until_idle()
        system.advance(DAY)
        assert system.simulator.requests == []
        assert system.problems("solo") == {"wrong_key_kind"}
        assert system.value("ai_account_up", account="solo") == 0

        system.key_file("solo").write_text(system.world.accounts["solo"].key)
        system.advance(5 * MINUTE)
        assert system.problems("solo") == set()
        assert system.value("ai_account_up", account="solo") == 1


def test_a_reload_polls_a_rejected_account_again_and_keeps_its_problem_until_then(tmp_path: Path) -> None:
    """A reload polls again, and the problem is reported until a poll has succeeded."""
    with start_small_system(tmp_path, make_account("openai")) as system:
        system.simulator.add_fault("solo", "revoked")
        system.poll_until_idle()
        requests = system.count_calls("solo")
        system.app.apply(system.config)
        assert system.problems("solo") == {"key_rejected"}
        system.poll_until_idle()
        assert system.problems("solo") == {"key_rejected"}
        assert system.count_calls("solo") > requests
        system.simulator.clear_faults("solo")
        system.app.apply(system.config)
        assert system.problems("solo") == {"key_rejected"}
        system.poll_until_idle()
        assert system.problems("solo") == set()
        assert system.app.up_to_date


def test_a_new_key_in_the_file_is_used_without_a_restart(tmp_path: Path) -> None:
    """After a rejection the file is read once per poll interval, and a working key in it ends the problem."""
    with start_small_system(tmp_path, make_account("openai")) as system:
        system.key_file("solo").write_text("sk-admin-of-yesterday")
        system.poll_until_idle()
        assert system.problems("solo") == {"key_rejected"}
        system.key_file("solo").write_text("sk-admin-of-yesterday\n")
        system.advance(55 * MINUTE)
        assert [served.status for served in system.simulator.requests] == [401]

        system.key_file("solo").write_text(system.world.accounts["solo"].key)
        system.advance(5 * MINUTE)
        assert system.problems("solo") == set()
        assert system.value("ai_account_up", account="solo") == 1
        assert system.exported_totals("ai_tokens_today") == system.expected_totals("today")[0]


def test_a_new_key_reads_reports_that_the_old_one_could_not(tmp_path: Path) -> None:
    """A key without the scope is replaced by one that has it, and the names that were rejected are read at once."""
    with start_small_system(tmp_path, make_account("openai")) as system:
        system.simulator.add_fault("solo", "missing_scope")
        system.poll_until_idle()
        system.simulator.clear_faults()
        system.simulator._keys["openai/v1", "sk-admin-with-scope"] = system.world.accounts["solo"]
        system.key_file("solo").write_text("sk-admin-with-scope")
        system.advance(5 * MINUTE)
        assert system.value("ai_account_up", account="solo") == 1
        assert system.value("ai_tokens_today", workspace="Web") is not None


def test_a_rate_limit_is_waited_for_as_requested(system: System) -> None:
    """After 429 with Retry-After no request of the account is made until that has passed, and then at once."""
    system.simulator.add_fault("solo", "rate_limited", times=1, retry_after=3900)
    system.advance(5 * MINUTE)
    requests = system.count_calls("solo")
    assert system.problems("solo") == {"rate_limited"}
    for wait in (30 * MINUTE, 34 * MINUTE, 59 * SECOND):
        system.advance(wait)
        assert system.count_calls("solo") == requests
    system.advance(2 * SECOND)
    assert system.count_calls("solo") > requests
    assert system.problems("solo") == set()
    assert system.value("ai_account_up", account="solo") == 1


@pytest.mark.parametrize("fault", ["overloaded", "server_error"])
def test_an_outage_is_waited_for_as_requested(system: System, fault: str) -> None:
    """After a 5xx with Retry-After the report is not requested until that has passed, and then at once."""
    system.simulator.add_fault("solo", fault, times=1, retry_after=3900, path="usage_report")
    system.advance(5 * MINUTE)
    requests = system.count_calls("solo", "usage_report")
    assert system.problems("solo") == {"unavailable"}
    for wait in (30 * MINUTE, 34 * MINUTE, 59 * SECOND):
        system.advance(wait)
        assert system.count_calls("solo", "usage_report") == requests
    system.advance(2 * SECOND)
    assert system.count_calls("solo", "usage_report") == requests + 1
    assert system.problems("solo") == set()


@pytest.mark.parametrize("fault", ["rate_limited", "overloaded", "server_error", "malformed"])
def test_failures_are_retried_with_growing_back_off(system: System, fault: str) -> None:
    """The back-off is 0.5, 1, 2, 4, 8, then 15 minutes, plus or minus a quarter, and starts again after a success."""

    def polls() -> int:
        return system.count_calls("solo", "usage_report")

    for _ in range(2):
        system.simulator.add_fault("solo", fault, path="usage_report")
        system.advance(5 * MINUTE)
        for pause in (0.5, 1, 2, 4, 8, 15, 15):
            requests = polls()
            system.advance(pause * 0.745 * MINUTE)
            assert polls() == requests, f"polled again within three quarters of {pause} min"
            system.advance(pause * 0.51 * MINUTE)
            assert polls() == requests + 1, f"polled {polls() - requests} times around {pause} min"
        system.simulator.clear_faults()
        system.advance(20 * MINUTE)
        assert system.problems("solo") == set()


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
def test_exported_values_stay_while_a_provider_fails(
    tmp_path: Path, provider: ProviderName, fault: str, reason: str
) -> None:
    """A failed poll changes no spend and no watermark; its reason is reported until the next success."""

    def shown() -> list[object]:
        samples = system.samples()
        mark = samples["ai_account_complete_until_timestamp_seconds"]
        return [mark, {name: series for name, series in system.spend_samples().items() if "this_hour" not in name}]

    with start_small_system(tmp_path, make_account(provider)) as system:
        system.poll_until_idle()
        before = shown()
        system.simulator.add_fault("solo", fault)
        system.advance(HOUR)
        assert system.problems("solo") == {reason}
        assert system.value("ai_account_up", account="solo") == 0
        assert shown() == before

        system.simulator.clear_faults()
        system.advance(MINUTE)
        assert system.problems("solo") == set()
        assert system.value("ai_account_up", account="solo") == 1
        assert shown() != before
        assert system.exported_totals("ai_tokens_today") == system.expected_totals("today")[0]


@pytest.mark.parametrize(("fault", "reason"), [("server_error", "unavailable"), ("malformed", "malformed")])
def test_a_report_that_fails_does_not_stop_the_others(tmp_path: Path, fault: str, reason: str) -> None:
    """While a rarely polled report keeps failing, the main report is polled on schedule."""
    with start_small_system(tmp_path, make_account("openai")) as system:
        system.poll_until_idle()
        system.simulator.add_fault("solo", fault, path="/images")
        system.advance(HOUR)
        for _ in range(4):
            system.advance(5 * MINUTE)
            assert system.exported_totals("ai_tokens_today") == system.expected_totals("today")[0]
            assert last_success(system, "completions") == system.clock.now
        assert system.problems("solo") == {reason}
        assert last_success(system, "images") == NOON
        system.simulator.clear_faults()
        system.advance(20 * MINUTE)
        assert system.problems("solo") == set()


def last_success(system: System, report: str) -> datetime | None:
    """Return when a report of the only account was last read up to the present."""
    timestamp = system.value("ai_account_last_success_timestamp_seconds", account="solo", report=report)
    return None if timestamp is None else datetime.fromtimestamp(timestamp, UTC)


def test_a_network_that_is_down_is_tried_once_per_poll(tmp_path: Path) -> None:
    """When the connection is refused, a poll ends with its first request instead of one for each of twelve reports."""
    with start_small_system(tmp_path, make_account("openai")) as system, socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        base_url = f"http://127.0.0.1:{nobody.getsockname()[1]}/v1"
        system.change_account("solo", lambda account: account.model_copy(update={"base_url": base_url}))
        for attempts in (1, 2):
            system.poll_until_idle()
            assert system.value("ai_account_api_requests_total", account="solo", code="error") == attempts
            assert system.value("ai_account_api_requests_total", account="solo") == attempts
            assert system.problems("solo") == {"unavailable"}
            system.clock.now += 40 * SECOND


def test_accounts_that_hang_do_not_delay_the_others(tmp_path: Path) -> None:
    """Of twelve accounts six get no answer: the others are complete while those six are still being polled."""
    hanging, healthy = ([make_account("anthropic", f"{kind}{n}") for n in range(6)] for kind in ("hangs", "works"))
    with start_small_system(tmp_path, *hanging, *healthy, timeout="10m") as system:
        for account in hanging:
            system.simulator.add_fault(account.name, "slow", seconds=600)
        tick_until(system, lambda: all(is_up(system, account.name) for account in healthy))
        tick_until(system, lambda: system.app.active_polls == len(hanging))
        assert not system.app.idle
        assert not any(is_up(system, account.name) for account in hanging)


def test_accounts_that_failed_hold_half_of_the_threads_at_most(tmp_path: Path) -> None:
    """With more hanging accounts than threads the other accounts are still polled at once."""
    failing, healthy = (
        [make_account("anthropic", f"{kind}{n}") for n in range(count)] for kind, count in (("a", 18), ("z", 3))
    )
    with start_small_system(tmp_path, *failing, *healthy, timeout="10m") as system:
        for account in failing:
            system.simulator.add_fault(account.name, "server_error")
        system.poll_until_idle()
        system.simulator.clear_faults()
        for account in failing:
            system.simulator.add_fault(account.name, "slow", seconds=600)
        system.clock.now += 5 * MINUTE
        polls = "ai_account_polls_total"
        tick_until(
            system,
            lambda: all(system.value(polls, account=account.name, report="messages") == 2 for account in healthy),
        )
        tick_until(system, lambda: system.app.active_polls == 8)
        assert all(is_up(system, account.name) for account in healthy)


def is_up(system: System, account: str) -> bool:
    """Return whether the newest poll of every report of an account succeeded."""
    return system.value("ai_account_up", account=account) == 1


def tick_until(system: System, condition: Callable[[], bool]) -> None:
    """Run the poller until a condition holds, without waiting for accounts that hang."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "the condition never holds"
        system.app.tick()
        threading.Event().wait(0.005)


class PausedProvider(Cursor):
    """A provider whose request for usage waits until the test continues."""

    started: ClassVar[threading.Event]
    released: ClassVar[threading.Event]
    closed: ClassVar[threading.Event]

    def fetch(self, report: Report, since: datetime, until: datetime) -> Iterator[Bucket]:
        """Wait, then fetch."""
        self.started.set()
        assert self.released.wait(120)
        return super().fetch(report, since, until)

    def close(self) -> None:
        """Close the connections."""
        super().close()
        self.closed.set()


@pytest.fixture(name="paused")
def _start_paused_poll(tmp_path: Path) -> Iterator[System]:
    """A system whose only account is being polled."""
    PausedProvider.started = threading.Event()
    PausedProvider.released = threading.Event()
    PausedProvider.closed = threading.Event()
    account = make_account("cursor")
    with start_small_system(tmp_path, account, providers={**PROVIDERS, "cursor": PausedProvider}) as system:
        system.app.tick()
        assert PausedProvider.started.wait(120)
        assert system.app.active_polls == 1
        try:
            yield system
        finally:
            PausedProvider.released.set()  # a failed test must not wait for the poll


def test_a_reload_during_a_poll_takes_effect_after_it(paused: System) -> None:
    """The poll under way ends as it began; the new configuration holds from the next tick on."""
    paused.change_account("solo", lambda account: account.model_copy(update={"history": 4 * DAY}))
    PausedProvider.released.set()
    paused.poll_until_idle()
    assert covered_since(paused) == midnight(NOON) - 4 * DAY


def test_an_account_removed_during_its_poll_is_closed_after_it(paused: System) -> None:
    """The poll under way ends, its provider is closed, and the account is not polled again."""
    paused.app.apply(paused.config.model_copy(update={"accounts": ()}))
    assert not PausedProvider.closed.is_set()
    PausedProvider.released.set()
    paused.poll_until_idle()
    assert PausedProvider.closed.wait(120)
    assert covered_since(paused) == midnight(NOON) - 2 * DAY
    paused.simulator.requests.clear()
    paused.advance(HOUR)
    assert paused.simulator.requests == []
    assert paused.value("ai_exporter_internal_errors_total") == 0


class BrokenProvider(Cursor):
    """A provider with a bug."""

    def fetch(self, report: Report, since: datetime, until: datetime) -> Iterator[Bucket]:  # noqa: ARG002
        """Raise an unexpected error."""
        raise ZeroDivisionError


def test_an_internal_error_in_one_account_is_counted_and_harms_no_other(tmp_path: Path) -> None:
    """An unexpected error is counted; the account is polled again after 15 minutes, and the others are not affected."""
    accounts = (make_account("cursor", "odd"), make_account("anthropic"))
    with start_small_system(tmp_path, *accounts, providers={**PROVIDERS, "cursor": BrokenProvider}) as system:
        for minutes, defects in ((0, 1), (5, 1), (5, 1), (6, 2)):
            system.advance(minutes * MINUTE)
            assert system.value("ai_exporter_internal_errors_total") == defects
            assert system.problems("odd") == {"internal_error"}
            failures = system.value("ai_account_poll_failures_total", account="odd", reason="internal_error")
            assert failures == defects
            assert system.value("ai_account_up", account="odd") == 0
            assert system.value("ai_account_up", account="solo") == 1
        assert system.exported_totals("ai_tokens_today", "solo") == system.expected_totals("today", "solo")[0]


def test_an_internal_error_after_successful_polls_is_exported(tmp_path: Path) -> None:
    """Where valuation fails, the account is down with a problem, its numbers stand, and it recovers by itself."""
    broken = False

    def prices(provider: str, day: datetime) -> Rates:
        if broken:
            raise ZeroDivisionError
        return list_rates(provider, day)

    with start_small_system(tmp_path, make_account("anthropic"), prices=prices) as system:
        system.poll_until_idle()
        assert system.value("ai_account_up") == 1
        before = system.exported_totals("ai_tokens_today")
        broken = True
        system.advance(HOUR)
        assert system.problems("solo") == {"internal_error"}
        assert system.value("ai_account_up") == 0
        assert system.value("ai_account_poll_failures_total", reason="internal_error") == 1
        assert system.exported_totals("ai_tokens_today") >= before
        page = httpx.get(system.url).text
        assert "internal error of this exporter" in page
        assert "report the error with its log" in page
        broken = False
        system.advance(16 * MINUTE)
        assert system.problems("solo") == set()
        assert system.value("ai_account_up") == 1
        assert system.exported_totals("ai_tokens_today") == system.expected_totals("today")[0]


def test_an_account_that_cannot_be_exported_is_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where building the account's numbers fails, the previous ones stand, and the problem is exported beside them."""
    with start_small_system(tmp_path, make_account("anthropic")) as system:
        system.poll_until_idle()
        before = system.exported_totals("ai_tokens_today")
        with monkeypatch.context() as patch:
            # The real builder with a bug in a part of it.
            patch.setattr("exporter.snapshot.builder.find_day_reads", lambda *_: 1 // 0)
            system.advance(5 * MINUTE)
        assert system.problems("solo") == {"internal_error"}
        assert system.value("ai_account_up") == 0
        assert system.exported_totals("ai_tokens_today") == before
        system.advance(16 * MINUTE)
        assert system.problems("solo") == set()
        assert system.exported_totals("ai_tokens_today") == system.expected_totals("today")[0]


def test_an_account_that_cannot_be_exported_ends_no_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where building the numbers of one account fails at the start, the others are exported, and it is counted."""
    accounts = (make_account("openai", "odd"), make_account("anthropic"))
    with start_small_system(tmp_path, *accounts) as system:
        system.poll_until_idle()
        totals = system.exported_totals("ai_tokens_today", "solo")
        with monkeypatch.context() as patch:
            # The real builder with a bug that concerns one account.
            patch.setattr(
                "exporter.snapshot.builder.find_day_reads",
                lambda view, *arguments: find_day_reads(view, *arguments) if view.account.name == "solo" else 1 // 0,
            )
            system.app.apply(system.config.model_copy(update={"accounts": ()}))
            system.app.apply(system.config)
            assert system.value("ai_exporter_internal_errors_total") == 1
            assert system.exported_totals("ai_tokens_today", "solo") == totals
        system.advance(5 * MINUTE)
        assert system.value("ai_account_up", account="odd") == 1


class WithoutImages(OpenAI):
    """OpenAI without an endpoint for images."""

    def fetch(self, report: Report, since: datetime, until: datetime) -> Iterator[Bucket]:
        """Request a path that answers 404 instead of that of images."""
        if report.name == "images":
            self._client.get("/organization/usage/no_images")
        return super().fetch(report, since, until)


@pytest.mark.parametrize("status", [403, 404])
def test_a_report_outside_of_the_plan_is_no_problem(tmp_path: Path, status: int) -> None:
    """An optional report that is rejected or unknown is tried again a day later; the account is up and complete."""
    kind = WithoutImages if status == 404 else OpenAI
    with start_small_system(tmp_path, make_account("openai"), providers={**PROVIDERS, "openai": kind}) as system:
        system.simulator.add_fault("solo", "missing_scope", path="/images")
        system.poll_until_idle()

        def rejections() -> int:
            return sum("images" in served.path and served.status == status for served in system.simulator.requests)

        assert rejections() == 1
        for _ in range(23):
            system.advance(HOUR)
        assert rejections() == 1
        assert system.problems("solo") == set()
        assert system.value("ai_account_up", account="solo") == 1
        assert system.exported_totals("ai_tokens_last_hour") == system.expected_totals("last_hour")[0]
        assert system.value("ai_account_complete_until_timestamp_seconds", report="images") is None
        system.advance(2 * HOUR)
        assert rejections() == 2


@pytest.fixture(name="large_account")
def _start_large_account(tmp_path: Path) -> Iterator[System]:
    """A team whose first poll takes more pages than its rate limit allows."""
    small = make_account("cursor")
    streams = (replace(small.streams[0], daily_requests=15_000, mix=()), small.streams[1])
    with start_small_system(tmp_path, replace(small, streams=streams), history="1d") as system:
        system.simulator.add_fault("solo", "rate_limited", page=21)
        system.poll_until_idle()
        assert system.problems("solo") == {"rate_limited"}
        assert system.count_calls("solo", "events") == 21
        system.advance(MINUTE)
        yield system


def test_a_refresh_that_meets_a_rate_limit_is_halved(large_account: System) -> None:
    """A time range that meets the rate limit is read in parts, on that day and later, and no request is missing."""
    system = large_account
    for passed in (timedelta(0), DAY, HOUR, HOUR):
        system.advance(passed)
        assert system.problems("solo") == set()
        assert covered_since(system) == midnight(NOON) - DAY
        reported = system.world.reported_rows("solo", midnight(NOON) - DAY, system.clock.now)
        assert system.value("ai_requests_30d") == sum(row.value for _, row in reported if row.meter == REQUESTS)


def test_a_partial_refresh_is_done_once_a_day(large_account: System) -> None:
    """After a refresh in parts, an hourly poll reads the last hours only: the parts count as one refresh."""
    large_account.advance(DAY)
    large_account.advance(HOUR)
    for _ in range(2):
        large_account.simulator.requests.clear()
        large_account.advance(HOUR)
        starts = [int(served.query["startDate"]) for served in large_account.simulator.requests]
        assert min(starts) > (large_account.clock.now - 9 * HOUR).timestamp() * 1000


def covered_since(system: System) -> datetime:
    """Return the start of the stored coverage of the only account's first report."""
    (account,) = system.config.accounts
    with closing(Ledger(system.folder / "ledger", read_only=True)) as ledger:
        number = ledger.buckets.find_account(account.name, account.provider)
        assert number is not None
        coverage = ledger.buckets.coverage(number, system.providers[account.provider].reports[0].name)
    assert coverage is not None
    return coverage.since
