"""The exporter's clock is set back or forward, the process is suspended, months and summer time begin and end."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from exporter.model import DAY, HOUR
from exporter.polling.jobs import Jobs
from exporter.providers import PROVIDERS
from exporter.providers.anthropic import Anthropic
from tests.polling.clocks import WrongClock, run_wrong_clock_system, start_wrong_clock_system
from tests.system import System, make_account

MINUTE = timedelta(minutes=1)


def assert_exact(system: System) -> None:
    """Compare the tokens of today and of 30 days with the simulator's."""
    for window in ("today", "30d"):
        expected, _ = system.expected_totals(window)
        assert system.exported_totals(f"ai_tokens_{window}") == expected, window


def run_for(system: System, duration: timedelta, step: timedelta = 5 * MINUTE) -> None:
    """Let time pass in steps."""
    for _ in range(duration // step):
        system.advance(step)


def last_success(system: System) -> datetime:
    """Return when usage was last read."""
    value = system.value("ai_account_last_success_timestamp_seconds", account="solo", report="messages")
    assert value is not None
    return datetime.fromtimestamp(value, UTC)


@pytest.mark.parametrize("error", [2 * MINUTE, HOUR, 6 * HOUR, 40 * HOUR, 400 * DAY], ids=str)
def test_polls_go_on_after_a_clock_that_was_ahead_is_set_right(tmp_path: Path, error: timedelta) -> None:
    """After a clock that was ahead is set back, accounts are polled within minutes and every total is exact."""
    with run_wrong_clock_system(tmp_path, make_account("anthropic")) as (system, clock):
        system.poll_until_idle()
        clock.error = error
        run_for(system, 3 * HOUR)
        clock.error = timedelta(0)
        run_for(system, 20 * MINUTE)
        assert system.value("ai_account_up", account="solo") == 1
        assert clock.now - last_success(system) <= 5 * MINUTE
        assert_exact(system)


@pytest.mark.parametrize("error", [30 * MINUTE, 6 * HOUR, 400 * DAY], ids=str)
def test_polls_go_on_after_a_restart_with_a_clock_that_was_set_right(tmp_path: Path, error: timedelta) -> None:
    """A ledger that was written while the clock was ahead is cut back to the present by the next process."""
    with start_wrong_clock_system(tmp_path, make_account("anthropic")) as (system, clock):
        clock.error = error
        with system.run_exporter():
            system.poll_until_idle()
            run_for(system, 2 * HOUR)
        clock.error = timedelta(0)
        with system.run_exporter():
            system.poll_until_idle()
            assert last_success(system) == clock.now
            run_for(system, 10 * MINUTE)
            assert_exact(system)


def test_usage_is_read_again_for_as_long_as_the_clock_was_ahead(tmp_path: Path) -> None:
    """Usage of days before those that daily refreshes read is complete too, though the clock was ahead for a week."""
    with run_wrong_clock_system(tmp_path, make_account("anthropic"), history="20d") as (system, clock):
        system.poll_until_idle()
        clock.error = 12 * DAY
        run_for(system, 9 * DAY, 6 * HOUR)
        clock.error = timedelta(0)
        run_for(system, 30 * MINUTE)
        assert_exact(system)


class WithoutEmptyBuckets(Anthropic):
    """A provider whose answers may leave buckets out: an answer without those of the future looks complete."""

    reports = tuple(replace(report, lists_empty_buckets=False) for report in Anthropic.reports)


def test_usage_is_read_again_though_the_process_ends_before(tmp_path: Path) -> None:
    """Where the process ends between the end of the clock's error and the reading again, the next process does it."""
    with start_wrong_clock_system(tmp_path, make_account("anthropic"), history="20d") as (system, clock):
        system.providers = {**PROVIDERS, "anthropic": WithoutEmptyBuckets}
        with system.run_exporter():
            system.poll_until_idle()
            clock.error = 12 * DAY
            run_for(system, 9 * DAY, 6 * HOUR)
            clock.error = timedelta(0)
            # Nothing can be read again before the end of this process.
            system.simulator.add_fault("solo", "server_error")
            run_for(system, 5 * MINUTE)
        system.simulator.clear_faults()
        for _ in range(2):
            # The first of two further processes ends after a part of it.
            with system.run_exporter():
                system.app.tick()
                run_for(system, 15 * MINUTE)
        with system.run_exporter():
            run_for(system, 30 * MINUTE)
            assert_exact(system)
            assert system.ledger.buckets.pending_rereads(ledger_number(system)) == {}


def ledger_number(system: System) -> int:
    """Return the number of the account in the ledger."""
    number = system.ledger.buckets.find_account("solo", "anthropic")
    assert number is not None
    return number


@pytest.mark.parametrize("step", [HOUR, 6 * HOUR, 3 * DAY], ids=str)
def test_a_clock_that_falls_behind_stops_no_polls(tmp_path: Path, step: timedelta) -> None:
    """After a right clock is set back, the account is still polled on schedule, and is exact once it is right again."""
    with run_wrong_clock_system(tmp_path, make_account("anthropic")) as (system, clock):
        system.poll_until_idle()
        clock.error = -step
        calls = system.count_calls("solo", "usage_report")
        run_for(system, HOUR)
        assert system.count_calls("solo", "usage_report") - calls >= 11
        clock.error = timedelta(0)
        run_for(system, 10 * MINUTE)
        assert_exact(system)


def test_a_rate_limit_lasts_as_long_as_requested_though_the_clock_is_set_back(tmp_path: Path) -> None:
    """Retry-After is waited for neither shorter nor longer when the clock is set back meanwhile."""
    with run_wrong_clock_system(tmp_path, make_account("anthropic")) as (system, clock):
        clock.error = 6 * HOUR
        system.poll_until_idle()
        system.simulator.add_fault("solo", "rate_limited", times=1, retry_after=3000)
        system.advance(5 * MINUTE)
        calls = system.count_calls("solo")
        clock.error = timedelta(0)
        run_for(system, 45 * MINUTE)
        assert system.count_calls("solo") == calls
        run_for(system, 10 * MINUTE)
        assert system.count_calls("solo") > calls
        assert system.problems("solo") == set()


def test_a_suspended_process_polls_at_once(tmp_path: Path) -> None:
    """After hours for which the process was suspended, the first tick polls, and nothing is missing."""
    with run_wrong_clock_system(tmp_path, make_account("anthropic")) as (system, clock):
        system.poll_until_idle()
        clock.suspended += 31 * HOUR
        system.advance(31 * HOUR)
        assert last_success(system) == clock.now
        assert_exact(system)


@pytest.mark.parametrize(
    "start",
    [
        datetime(2026, 10, 31, 20, 7, tzinfo=UTC),
        datetime(2026, 12, 31, 20, 7, tzinfo=UTC),
        datetime(2028, 2, 28, 20, 7, tzinfo=UTC),
        datetime(2028, 2, 29, 20, 7, tzinfo=UTC),
    ],
    ids=lambda start: f"{start:%Y-%m-%d}",
)
def test_totals_are_exact_over_the_end_of_a_month(tmp_path: Path, start: datetime) -> None:
    """Today, the month and 30 days are exact before and after midnight at the end of months and on a leap day."""
    with run_wrong_clock_system(tmp_path, make_account("anthropic"), start=start) as (system, _):
        system.poll_until_idle()
        for _ in range(8):
            system.advance(HOUR)
            assert_exact(system)
            expected, _ = system.expected_totals("month")
            assert system.exported_totals("ai_tokens_month") == expected


@pytest.fixture(name="timezone")
def _set_timezone(request: pytest.FixtureRequest) -> Iterator[str]:
    before = os.environ.get("TZ")
    os.environ["TZ"] = request.param
    time.tzset()
    yield request.param
    del os.environ["TZ"]
    if before is not None:
        os.environ["TZ"] = before
    time.tzset()


@pytest.mark.parametrize(
    ("timezone", "change"),
    [
        ("Europe/Berlin", datetime(2026, 10, 25, 1, tzinfo=UTC)),
        ("Europe/Berlin", datetime(2026, 3, 29, 1, tzinfo=UTC)),
        ("America/New_York", datetime(2026, 11, 1, 6, tzinfo=UTC)),
        ("America/New_York", datetime(2026, 3, 8, 7, tzinfo=UTC)),
        ("Australia/Lord_Howe", datetime(2026, 4, 4, 15, tzinfo=UTC)),
        ("Australia/Lord_Howe", datetime(2026, 10, 3, 15, 30, tzinfo=UTC)),
    ],
    indirect=["timezone"],
)
def test_summer_time_delays_no_poll(tmp_path: Path, timezone: str, change: datetime) -> None:
    """In the hours in which summer time begins or ends, polls are on schedule and every total is exact."""
    assert time.tzname, timezone
    before, after = (change + offset for offset in (-MINUTE, MINUTE))
    assert before.astimezone().utcoffset() != after.astimezone().utcoffset()
    start = change - HOUR - 7 * MINUTE
    with run_wrong_clock_system(tmp_path, make_account("anthropic"), start=start) as (system, clock):
        system.poll_until_idle()
        for _ in range(26):
            system.advance(5 * MINUTE)
            assert last_success(system) == clock.now
        assert_exact(system)


def test_retention_deletes_nothing_while_the_clock_is_years_ahead(tmp_path: Path) -> None:
    """With a clock that is ten years ahead nothing is deleted or rolled up; with the right clock old hours are."""
    with run_wrong_clock_system(tmp_path, make_account("anthropic")) as (system, clock):
        system.poll_until_idle()
        expected, _ = system.expected_totals("30d")
        clock.error = 3650 * DAY
        system.app.apply_retention()
        clock.error = timedelta(0)
        system.app.apply_retention()
        run_for(system, 10 * MINUTE)
        assert expected
        assert_exact(system)


def test_jobs_are_timed_by_the_monotonic_clock() -> None:
    """A job runs at once and then at its interval; an error stops neither it nor the others."""
    clock, runs, errors = WrongClock(), list[str](), list[Exception]()
    jobs = Jobs(clock.monotonic)

    def fail() -> None:
        runs.append("failing")
        raise ValueError("broken")

    jobs.add(10 * MINUTE, fail)
    jobs.add(MINUTE, lambda: runs.append("minute"))
    with pytest.raises(ValueError, match="positive"):
        jobs.add(timedelta(0), fail)
    for _ in range(21):
        jobs.run_due(errors.append)
        # A second more: each run begins a moment after the time was read.
        clock.now += MINUTE + timedelta(seconds=1)
        clock.error -= HOUR
    assert runs.count("minute") == 21
    assert runs.count("failing") == len(errors) == 3
