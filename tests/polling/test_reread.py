"""Requests to read past days again: valid requests, the days that are read, and in which parts."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import httpx
import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter import __version__
from exporter.errors import Malformed, ProviderError, RereadRejected, Unavailable
from exporter.ledger import Coverage
from exporter.model import DAY, HOUR, NANO, Bucket, Report
from exporter.polling.poller import MAX_REREAD_FAILURES
from exporter.polling.reread import PendingReread, RereadRequest, merge_ranges, parse_request
from exporter.polling.schedule import WEEK
from exporter.providers import PROVIDERS
from exporter.providers.anthropic import Anthropic
from exporter.simulator.accounts import SimAccount
from exporter.simulator.world import World
from exporter.web.api import REREAD_PATH
from exporter.web.openapi import build_openapi_document
from exporter.windows import TimeRange
from tests.system import NOON, Clock, System, make_account, midnight, start_small_system, start_system
from tests.web_server import serve

MINUTE = timedelta(minutes=1)
TODAY = midnight(NOON)
USAGE_REPORT = Report("use", "usage", HOUR, MINUTE, 4 * HOUR, 6 * DAY, 10 * MINUTE, 365 * DAY)
BILL_REPORT = Report("bill", "bill", DAY, HOUR, 3 * DAY, 30 * DAY, 8 * HOUR, 365 * DAY)
UNLIMITED = 10_000 * DAY


def days(first: int, last: int) -> TimeRange:
    """Return the days from `first` days ago up to and including `last` days ago."""
    return TimeRange(TODAY - first * DAY, TODAY - (last - 1) * DAY)


@st.composite
def _time_ranges(draw: st.DrawFn) -> TimeRange:
    first = draw(st.integers(0, 20))
    return days(first, draw(st.integers(0, first)))


def _days_of(time_ranges: tuple[TimeRange, ...] | list[TimeRange]) -> set[datetime]:
    return {
        time_range.start + number * DAY
        for time_range in time_ranges
        for number in range((time_range.end - time_range.start) // DAY)
    }


@given(st.lists(_time_ranges()))
def test_merged_ranges_have_every_day_once(time_ranges: list[TimeRange]) -> None:
    """Merging keeps every day, leaves none twice, and leaves no two ranges that touch."""
    merged = merge_ranges(time_ranges)
    assert _days_of(merged) == _days_of(time_ranges)
    assert all(before.end < after.start for before, after in pairwise(merged))


@given(st.lists(_time_ranges(), min_size=1), st.integers(1, 40), st.sampled_from([USAGE_REPORT, BILL_REPORT]))
def test_parts_read_every_day_and_never_extend_the_coverage(
    time_ranges: list[TimeRange], max_hours: int, report: Report
) -> None:
    """However long a part may be, the parts of each range follow each other on bucket edges, within the coverage."""
    coverage = Coverage(TODAY - 10 * DAY, NOON, NOON)
    pending, parts, finished = PendingReread(), list[TimeRange](), list[TimeRange]()
    pending.add(time_ranges)
    while (part := pending.next_part(report, coverage, max_hours * HOUR)) is not None:
        assert coverage.since <= part.start < part.end <= coverage.until
        assert (part.start - TODAY) % report.width == timedelta(0)
        assert part.end - part.start <= max(report.width, max_hours * HOUR)
        parts.append(part)
        whole = pending.advance(part, coverage)
        if whole is not None:
            finished.append(whole)
    assert pending.time_ranges == ()
    expected = [
        TimeRange(max(wanted.start, coverage.since), min(wanted.end, coverage.until))
        for wanted in merge_ranges(time_ranges)
        if wanted.end > coverage.since
    ]
    assert finished == list(merge_ranges(parts)) == expected


def test_days_that_polls_have_not_reached_wait() -> None:
    """After an outage the requested days lie after the coverage: they are read once polls have reached them."""
    pending = PendingReread()
    pending.add([days(1, 1)])
    assert pending.next_part(USAGE_REPORT, Coverage(TODAY - 10 * DAY, TODAY - 2 * DAY, NOON), UNLIMITED) is None
    assert pending.time_ranges == (days(1, 1),)
    assert pending.next_part(USAGE_REPORT, Coverage(TODAY - 10 * DAY, NOON, NOON), UNLIMITED) == days(1, 1)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({}, "from is missing: give a UTC day such as from=2026-01-31"),
        ({"from": "2026-11-01"}, "to is missing"),
        ({"from": "2026-11-01", "to": ""}, "to is empty"),
        ({"from": "1.11.2026", "to": "2026-11-02"}, 'from: "1.11.2026" is not a day such as 2026-01-31'),
        ({"from": "2026-02-30", "to": "2026-11-02"}, 'from: "2026-02-30" is not a day'),
        ({"from": "20261101", "to": "2026-11-02"}, 'from: "20261101" is not a day'),
        ({"from": "2026-11-01T00:00Z", "to": "2026-11-02"}, "is not a day"),
        (
            {"from": "2026-11-01", "to": "2026-11-02", "acount": "x"},
            'unknown parameter "acount"; known: from, to, account',
        ),
    ],
)
def test_a_request_that_cannot_be_parsed_is_rejected(query: Mapping[str, str], message: str) -> None:
    """A missing, empty or unknown parameter and a text that is no day are rejected with the reason."""
    with pytest.raises(RereadRejected) as rejected:
        parse_request(query.items())
    assert rejected.value.status == 400
    assert message in str(rejected.value)


def test_a_parameter_is_given_once() -> None:
    """A repeated parameter is ambiguous, and therefore rejected."""
    with pytest.raises(RereadRejected, match="from is given twice"):
        parse_request([("from", "2026-11-01"), ("from", "2026-11-02"), ("to", "2026-11-03")])


def test_a_request_has_whole_days() -> None:
    """The last day is included."""
    request = parse_request([("from", "2026-11-01"), ("to", "2026-11-03"), ("account", "acme")])
    assert request == RereadRequest(datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 11, 3, tzinfo=UTC), "acme")
    assert request.time_range.end - request.time_range.start == 3 * DAY


@contextmanager
def start_long_system(folder: Path, *accounts: SimAccount, **defaults: str) -> Iterator[System]:
    """Run an exporter on accounts of which fifty days have been read."""
    clock = Clock()
    world = World(accounts, clock, start_time=TODAY - 52 * DAY)
    with start_system(folder, world, clock, **{"history": "50d", **defaults}) as system, system.run_exporter():
        system.poll_until_idle()
        yield system


def day_cost(system: System, day: datetime) -> int:
    """Return the cost of a UTC day of the only account, in nano-USD, as the ledger has it."""
    number = system.polled_account("solo").ledger_account.id
    (found,) = system.ledger.costs.days(number, TimeRange(day, day + DAY))
    assert found.billed
    return found.cost


def bill_of(system: System, day: datetime) -> int:
    """Return the bill of a UTC day of the only account, in nano-USD."""
    return sum(row.value for row in system.world.bill("solo", day))


def coverages(system: System, account: str = "solo") -> dict[str, Coverage | None]:
    """Return the coverage of each report of an account."""
    polled = system.polled_account(account)
    number = polled.ledger_account.id
    return {report.name: system.ledger.buckets.coverage(number, report.name) for report in polled.reports}


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_a_reread_brings_the_restatement_of_an_old_day(tmp_path: Path, provider: str) -> None:
    """A day of 45 days ago that was restated is right after it was read again; no other day and no coverage changes."""
    account = make_account("openai" if provider == "openai" else "anthropic")
    with start_long_system(tmp_path, account) as system:
        restated, other = TODAY - 45 * DAY, TODAY - 44 * DAY
        before = {day: day_cost(system, day) for day in (restated, other)}
        known = coverages(system)
        system.world.restate("solo", restated, 1.5)
        system.advance(2 * MINUTE)
        assert day_cost(system, restated) == before[restated] != bill_of(system, restated)

        plan = system.app.reread(RereadRequest(restated, restated, "solo"))
        system.poll_until_idle()

        assert [(found.account, found.provider) for found in plan.accounts] == [("solo", provider)]
        assert {days.report.name for days in plan.accounts[0].reports} == known.keys()
        assert plan.messages == ()
        assert day_cost(system, restated) == bill_of(system, restated) > before[restated]
        assert day_cost(system, other) == before[other]
        assert coverages(system) == known
        number = system.polled_account("solo").ledger_account.id
        reads = system.ledger.buckets.last_reads(number, list(known), TimeRange(restated, other + DAY))
        assert reads == {restated: system.clock.now, other: NOON}
        assert system.value("ai_account_restated_usd_total") == pytest.approx(
            (bill_of(system, restated) - before[restated]) / NANO
        )


def test_a_reread_brings_corrected_events(tmp_path: Path) -> None:
    """Usage that carries its cost is read again by the hour."""
    with start_long_system(tmp_path, make_account("cursor")) as system:
        day = TODAY - 45 * DAY
        before = day_cost(system, day)
        system.world.revise("solo", day + 3 * HOUR, 4.0)
        system.app.reread(RereadRequest(day, day))
        system.poll_until_idle()
        assert day_cost(system, day) == bill_of(system, day) > before


def test_older_bills_are_corrected_within_a_week_without_a_request(tmp_path: Path) -> None:
    """A day that was restated 45 days later is right at most a week later; each older day is requested once in it."""
    with start_long_system(tmp_path, make_account("openai"), poll_interval="6h") as system:
        restated = TODAY - 45 * DAY
        system.world.restate("solo", restated, 0.5)
        system.simulator.requests.clear()
        for _ in range(WEEK // (6 * HOUR)):
            system.advance(6 * HOUR)
        assert day_cost(system, restated) == bill_of(system, restated)
        starts = [int(served.query["start_time"]) for served in system.simulator.requests if "costs" in served.path]
        assert sum(start < (system.clock.now - 40 * DAY).timestamp() for start in starts) == 1


def test_a_weekly_read_that_was_missed_is_made_up_after_a_restart(tmp_path: Path) -> None:
    """An exporter that was stopped at its time of the week reads older bills again after its start."""
    with start_system(
        tmp_path, World([make_account("openai")], clock := Clock(), start_time=TODAY - 52 * DAY), clock, history="50d"
    ) as system:
        with system.run_exporter():
            system.poll_until_idle()
        restated = TODAY - 45 * DAY
        system.world.restate("solo", restated, 0.5)
        clock.now += WEEK
        with system.run_exporter():
            system.poll_until_idle()
            assert day_cost(system, restated) == bill_of(system, restated)


class BrokenForOldBills(Anthropic):
    """A provider with a bug that old bills meet."""

    def fetch(self, report: Report, since: datetime, until: datetime) -> Iterator[Bucket]:
        """Raise an unexpected error for bills of old days alone."""
        if report.kind == "bill" and until < TODAY - 40 * DAY:
            raise ZeroDivisionError
        return super().fetch(report, since, until)


def test_an_internal_error_of_old_days_stops_polls_only_once(tmp_path: Path) -> None:
    """After an unexpected error the waiting days are dropped, and a quarter of an hour later polls continue."""
    clock = Clock()
    world = World([make_account("anthropic")], clock, start_time=TODAY - 52 * DAY)
    with start_system(tmp_path, world, clock, history="50d") as system:
        system.providers = {**PROVIDERS, "anthropic": BrokenForOldBills}
        with system.run_exporter():
            system.poll_until_idle()
            assert system.value("ai_account_up") == 1
            system.app.reread(RereadRequest(TODAY - 45 * DAY, TODAY - 45 * DAY))
            system.poll_until_idle()
            assert system.value("ai_exporter_internal_errors_total") == 1
            system.advance(16 * MINUTE)
            assert system.value("ai_account_up") == 1
            assert system.value("ai_exporter_internal_errors_total") == 1
            assert system.exported_totals("ai_tokens_today") == system.expected_totals("today")[0]


def test_the_log_says_how_many_days_changed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each report has a line when its days have been read, with the number of days that were corrected."""
    caplog.set_level(logging.INFO)
    with start_long_system(tmp_path, make_account("anthropic")) as system:
        for day in (44, 42):
            system.world.restate("solo", TODAY - day * DAY, 1.5)
        system.app.reread(RereadRequest(TODAY - 45 * DAY, TODAY - 30 * DAY))
        system.poll_until_idle()
    finished = [record.__dict__["fields"] for record in caplog.records if "again finished" in record.message]
    days = f"{TODAY - 45 * DAY:%Y-%m-%d} to {TODAY - 30 * DAY:%Y-%m-%d}"
    assert [(fields["report"], fields["days"], fields["changed_days"]) for fields in finished] == [
        ("messages", days, 0),
        ("costs", days, 2),
    ]


def test_the_same_request_twice_is_read_once(tmp_path: Path) -> None:
    """Requests that come before the first was carried out are merged."""
    with start_long_system(tmp_path, make_account("anthropic")) as system:
        system.simulator.requests.clear()
        for first in (40, 38, 40):
            system.app.reread(RereadRequest(TODAY - first * DAY, TODAY - 37 * DAY))
        system.poll_until_idle()
        assert system.count_calls("solo", "usage_report") == system.count_calls("solo", "cost_report") == 1
        assert not system.polled_account("solo").reread_requested


def test_a_long_request_is_read_in_parts_between_polls(tmp_path: Path) -> None:
    """Hours are requested a week at a time, and every poll that becomes due takes place."""
    with start_long_system(tmp_path, make_account("anthropic")) as system:
        system.simulator.requests.clear()
        system.app.reread(RereadRequest(TODAY - 50 * DAY, TODAY))
        system.poll_until_idle()
        requests = [served for served in system.simulator.requests if "usage_report" in served.path]
        assert len(requests) == 8
        assert {served.status for served in system.simulator.requests} == {200}
        number = system.polled_account("solo").ledger_account.id
        reads = system.ledger.buckets.last_reads(number, ["messages", "costs"], TimeRange(TODAY - 50 * DAY, NOON))
        assert len(reads) == 51
        assert system.exported_totals("ai_tokens_today") == system.expected_totals("today")[0]


def test_a_request_waits_for_a_rate_limit(tmp_path: Path) -> None:
    """A rate limit is waited for as requested, and then the days are read; the failure is counted."""
    with start_long_system(tmp_path, make_account("anthropic")) as system:
        restated = TODAY - 45 * DAY
        system.world.restate("solo", restated, 1.5)
        system.simulator.add_fault("solo", "rate_limited", times=1, retry_after=600)
        system.app.reread(RereadRequest(restated, restated))
        system.poll_until_idle()
        requests = system.count_calls("solo")
        system.advance(9 * MINUTE)
        assert system.count_calls("solo") == requests
        assert system.value("ai_account_poll_failures_total", reason="rate_limited") == 1
        assert day_cost(system, restated) != bill_of(system, restated)
        system.advance(2 * MINUTE)
        assert day_cost(system, restated) == bill_of(system, restated)


class FailingForOldBills(Anthropic):
    """A provider that fails for old bills."""

    error: ClassVar[ProviderError | None]

    def fetch(self, report: Report, since: datetime, until: datetime) -> Iterator[Bucket]:
        """Fail for bills of old days alone."""
        if self.error is not None and report.kind == "bill" and until < TODAY - 40 * DAY:
            raise self.error
        return super().fetch(report, since, until)


@pytest.mark.parametrize("error", [Unavailable("answered 500", reached=True), Malformed("no JSON")])
def test_days_that_cannot_be_read_stop_no_poll_and_are_given_up(
    tmp_path: Path, error: ProviderError, caplog: pytest.LogCaptureFixture
) -> None:
    """Failures to read old bills are counted and logged; polls continue, after enough failures days are given up."""
    FailingForOldBills.error = error
    clock = Clock()
    world = World([make_account("anthropic")], clock, start_time=TODAY - 52 * DAY)
    with start_system(tmp_path, world, clock, history="50d", poll_interval="20m") as system:
        system.providers = {**PROVIDERS, "anthropic": FailingForOldBills}
        with system.run_exporter():
            system.poll_until_idle()
            system.app.reread(RereadRequest(TODAY - 45 * DAY, TODAY - 45 * DAY))
            for _ in range(MAX_REREAD_FAILURES + 3):
                system.advance(20 * MINUTE)
                assert system.value("ai_account_up") == 1
            assert system.value("ai_account_poll_failures_total", account="solo") == MAX_REREAD_FAILURES
            assert system.exported_totals("ai_tokens_today") == system.expected_totals("today")[0]
    failures = [record.message for record in caplog.records if "Reading days again failed" in record.message]
    assert len(failures) == MAX_REREAD_FAILURES
    assert "for the last time" in failures[-1]


def test_days_wait_for_the_network(tmp_path: Path) -> None:
    """A connection that cannot be made, however often, is no reason to give up: the days may still be readable."""
    FailingForOldBills.error = Unavailable("connection refused", reached=False)
    clock = Clock()
    world = World([make_account("anthropic")], clock, start_time=TODAY - 52 * DAY)
    with start_system(tmp_path, world, clock, history="50d", poll_interval="20m") as system:
        system.providers = {**PROVIDERS, "anthropic": FailingForOldBills}
        with system.run_exporter():
            system.poll_until_idle()
            restated = TODAY - 45 * DAY
            world.restate("solo", restated, 1.5)
            system.app.reread(RereadRequest(restated, restated))
            for _ in range(MAX_REREAD_FAILURES + 3):
                system.advance(20 * MINUTE)
            assert day_cost(system, restated) != bill_of(system, restated)
            FailingForOldBills.error = None
            system.advance(20 * MINUTE)
            assert day_cost(system, restated) == bill_of(system, restated)


def test_many_requested_accounts_leave_threads_for_polls(tmp_path: Path) -> None:
    """While past days of twelve accounts are read again, at most half of the threads work on them."""
    accounts = [make_account("anthropic", f"a{number}") for number in range(12)]
    with start_small_system(tmp_path, *accounts, history="4d") as system:
        system.poll_until_idle()
        for account in accounts:
            system.simulator.add_fault(account.name, "slow", seconds=600)
        system.app.reread(RereadRequest(TODAY - 2 * DAY, TODAY - 2 * DAY))
        for _ in range(20):
            system.app.tick()
        assert system.app.active_polls == 8


def test_a_request_reaches_no_further_than_the_history(tmp_path: Path) -> None:
    """Days that were never read are skipped with a message, and the coverage stays as it is."""
    with start_small_system(tmp_path, make_account("openai"), make_account("cursor", "crew")) as system:
        system.poll_until_idle()
        known = coverages(system)
        plan = system.app.reread(RereadRequest(TODAY - 92 * DAY, TODAY))
        system.poll_until_idle()
        assert {days.time_range for account in plan.accounts for days in account.reports} == {days(2, 0)}
        skipped = f"days before {TODAY - 2 * DAY:%Y-%m-%d} are skipped: they were never read"
        assert [message.partition(";")[0] for message in plan.messages] == [f"solo: {skipped}", f"crew: {skipped}"]
        assert coverages(system) == known


def test_a_request_reaches_no_further_than_the_provider(tmp_path: Path) -> None:
    """Days that the provider does not keep any more are skipped with a message."""
    with start_long_system(tmp_path, make_account("cursor")) as system:
        system.clock.now += 45 * DAY
        system.poll_until_idle()
        plan = system.app.reread(RereadRequest(midnight(system.clock.now) - 92 * DAY, midnight(system.clock.now)))
        (account,) = plan.accounts
        assert account.reports[0].time_range.start == midnight(system.clock.now) - 90 * DAY
        assert "are skipped: the provider keeps 90 days" in plan.messages[0]


@pytest.fixture(name="system", scope="module")
def _start_system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    accounts = (make_account("openai", "acme"), make_account("cursor", "crew"))
    with start_small_system(tmp_path_factory.mktemp("reread"), *accounts) as system:
        system.poll_until_idle()
        yield system


@pytest.fixture(name="address", scope="module")
def _serve_routes(system: System) -> Iterator[str]:
    with serve(handlers=system.app.handlers(lambda: "")) as address:
        yield f"http://{address}/-/reread"


def test_the_answer_lists_the_days_that_are_read(system: System, address: str) -> None:
    """The answer has status 202 and the accounts, their reports and the days that will be read."""
    first, last = f"{TODAY - 2 * DAY:%Y-%m-%d}", f"{TODAY - DAY:%Y-%m-%d}"
    answer = httpx.post(address, params={"from": first, "to": last, "account": "crew", "provider": "cursor"})
    assert answer.status_code == 202
    report = {"report": "usage_events", "kind": "usage", "from": first, "to": last}
    assert answer.json() == {
        "from": first,
        "to": last,
        "accounts": [{"provider": "cursor", "account": "crew", "reports": [report]}],
        "messages": [],
    }
    jsonschema.validate(answer.json(), _response_schema())
    assert system.polled_account("crew").reread_requested
    assert not system.polled_account("acme").reread_requested
    system.poll_until_idle()
    every = httpx.post(address, params={"from": first, "to": last}).json()
    assert [account["account"] for account in every["accounts"]] == ["acme", "crew"]
    system.poll_until_idle()


def _response_schema() -> Mapping[str, Any]:
    document = build_openapi_document(__version__)
    content = document["paths"][REREAD_PATH]["post"]["responses"]["202"]["content"]
    return {**content["application/json"]["schema"], "components": document["components"]}


@pytest.mark.parametrize(
    ("query", "status", "message"),
    [
        ("from=2026-11-17", 400, "to is missing"),
        ("from=2026-11-17&to=2026-11-16", 400, "from=2026-11-17 is after to=2026-11-16"),
        ("from=2026-11-17&to=2026-11-19", 400, "to=2026-11-19 is in the future: today is 2026-11-18 (UTC)"),
        ("from=2026-11-17&to=9999-12-31", 400, "is in the future"),
        (
            "from=2026-08-16&to=2026-11-17",
            400,
            "the ledger keeps hours for 93 days, so the oldest day that can be read",
        ),
        ("from=2026-11-01&to=2026-11-02", 400, "nothing can be read again: acme: days before 2026-11-16 are skipped"),
        ("from=2026-11-17&to=2026-11-17&account=acm", 404, 'no polled account "acm"; did you mean acme?'),
        ("from=2026-11-17&to=2026-11-17&provider=mistral", 404, 'no polled account has the provider "mistral"'),
        ("from=2026-11-17&to=2026-11-17&account=acme&provider=cursor", 404, "the provider of acme is openai"),
    ],
)
def test_a_rejected_request_has_a_reason(address: str, query: str, status: int, message: str) -> None:
    """Days and accounts that cannot be read are answered with 400 or 404 and the reason."""
    answer = httpx.post(f"{address}?{query}")
    assert answer.status_code == status
    assert message in answer.json()["error"]


def test_without_the_lifecycle_flag_nothing_is_read(system: System) -> None:
    """Where a reload over HTTP is not allowed, reading days again is not allowed either."""
    with serve(handlers=system.app.handlers()) as address:
        answer = httpx.post(f"http://{address}/-/reread?from=2026-11-17&to=2026-11-17")
        reload = httpx.post(f"http://{address}/-/reload")
    assert answer.status_code == reload.status_code == 403
    assert "--web.enable-lifecycle" in answer.text
    assert not system.polled_account("acme").reread_requested


def test_a_rejected_key_delays_the_request(tmp_path: Path) -> None:
    """The answer reports that the key is rejected; the days are read once the provider accepts it."""
    with start_long_system(tmp_path, make_account("openai")) as system:
        system.simulator.add_fault("solo", "revoked")
        system.advance(5 * MINUTE)
        restated = TODAY - 45 * DAY
        system.world.restate("solo", restated, 1.5)
        plan = system.app.reread(RereadRequest(restated, restated))
        assert plan.messages == ("solo: its key is rejected; the days are read again once the key works",)
        system.advance(HOUR)
        assert day_cost(system, restated) != bill_of(system, restated)
        system.simulator.clear_faults("solo")
        system.app.apply(system.config)
        system.poll_until_idle()
        assert day_cost(system, restated) == bill_of(system, restated)


def test_a_request_survives_a_reload(tmp_path: Path) -> None:
    """A reload of the configuration between request and poll loses no day."""
    with start_long_system(tmp_path, make_account("openai")) as system:
        restated = TODAY - 45 * DAY
        system.world.restate("solo", restated, 1.5)
        system.app.reread(RereadRequest(restated, restated))
        system.change_account("solo", lambda account: account.model_copy(update={"owner": "other"}))
        system.poll_until_idle()
        assert day_cost(system, restated) == bill_of(system, restated)
