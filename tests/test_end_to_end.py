"""/metrics has exactly the usage that the simulated providers report, through restarts, failures and revisions."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from exporter.model import DAY, HOUR
from exporter.windows import TimeRange
from tests.system import NOON, Clock, System, make_small_world, midnight, start_system

MINUTE = timedelta(minutes=1)
ALL_WINDOWS = ("last_hour", "today", "month", "30d")


@pytest.fixture(name="system")
def _start_system(tmp_path: Path) -> Iterator[System]:
    clock = Clock()
    with start_system(tmp_path, make_small_world(clock), clock, history="3d") as system, system.run_exporter():
        system.poll_until_idle()
        yield system


def assert_equal_to_the_simulator(
    system: System, windows: tuple[str, ...] = ("last_hour", "today"), accounts: Collection[str] = ()
) -> None:
    """Compare windows of tokens and requests, series by series, of all accounts or some."""
    for window in windows:
        for account in accounts or system.world.accounts:
            tokens, requests = system.expected_totals(window, account)
            assert system.exported_totals(f"ai_tokens_{window}", account) == tokens, (window, account)
            assert system.exported_totals(f"ai_requests_{window}", account) == requests, (window, account)


def test_late_minutes_are_added_when_they_are_reported(system: System) -> None:
    """Usage missing from an hour when it was first read is added by a later poll, until it is complete."""
    before = system.expected_totals("today", "labs-openai")
    hours = (system.clock.now - midnight(system.clock.now)) // HOUR
    for _ in range(4 * 12):
        system.advance(5 * MINUTE)
        # Compared right after a poll: the less frequent reports are polled at 10 past, Cursor's at the full hour.
        if system.clock.now.minute == 12:
            assert_equal_to_the_simulator(
                system, accounts=[name for name in system.world.accounts if name != "acme-cursor"]
            )
        if system.clock.now.minute == 2:
            assert_equal_to_the_simulator(system, accounts=["acme-cursor"])
    day = midnight(system.clock.now)

    def units(read: str) -> int:
        rows = getattr(system.world, read)("labs-openai", day, day + hours * HOUR)
        return sum(row.value for _, row in rows)

    assert sum(before[0].values()) < units("ground_truth")
    assert units("reported_rows") == units("ground_truth")


def test_a_revision_within_the_settle_period_is_read_within_a_day(system: System) -> None:
    """Hours that the provider corrects days later, up or down, are right after the next complete refresh."""
    day = midnight(system.clock.now) - 2 * DAY
    hours = {"labs-openai": (day + 5 * HOUR, 0.5), "research-anthropic": (day + 9 * HOUR, 1.5)}
    for account, (hour, factor) in hours.items():
        system.world.revise(account, hour, factor)
    assert any(
        _stored_units(system, account, hour) != _visible_units(system, account, hour)
        for account, (hour, _) in hours.items()
    )

    system.advance(DAY)

    for account, (hour, _) in hours.items():
        assert _stored_units(system, account, hour) == _visible_units(system, account, hour)
    assert_equal_to_the_simulator(system)


def _stored_units(system: System, account: str, hour: datetime) -> int:
    ledger_account = system.polled_account(account).ledger_account
    reports = [report.name for report in ledger_account.usage_reports]
    units = system.ledger.buckets.units(ledger_account.id, reports, TimeRange(hour, hour + HOUR))
    return sum(units.values())


def _visible_units(system: System, account: str, hour: datetime) -> int:
    return sum(row.value for _, row in system.world.reported_rows(account, hour, hour + HOUR))


def test_a_restart_repeats_no_request_that_the_ledger_answers(tmp_path: Path) -> None:
    """After a restart /metrics is complete before the first request, and no request is made before it is due."""
    clock = Clock(NOON + 10 * MINUTE)
    with start_system(tmp_path, make_small_world(clock), clock, history="3d") as system:
        with system.run_exporter():
            system.poll_until_idle()
            before = system.samples()
        assert len(system.simulator.requests) > 20
        system.simulator.requests.clear()
        with system.run_exporter():
            again = system.samples()
            spend = [name for name in before if name.startswith(("ai_cost", "ai_tokens", "ai_requests", "ai_units"))]
            assert {name: again[name] for name in spend} == {name: before[name] for name in spend}
            system.poll_until_idle()
            assert system.simulator.requests == []
            system.advance(5 * MINUTE)
            assert {served.path for served in system.simulator.requests if served.account == "labs-openai"} == {
                "/openai/v1/organization/usage/completions"
            }
            assert_equal_to_the_simulator(system, accounts=["research-anthropic"])


@pytest.mark.parametrize(
    ("account", "path", "page", "history"),
    [
        ("labs-openai", "completions", 2, "9d"),
        ("research-anthropic", "usage_report", 3, "16d"),
        ("acme-cursor", "events", 2, "2d"),
    ],
)
def test_a_page_that_fails_half_way_stores_nothing(
    tmp_path: Path, account: str, path: str, page: int, history: str
) -> None:
    """Pages before a failing page are not stored, other accounts are not affected, the next poll reads everything."""
    clock = Clock()
    with start_system(tmp_path, make_small_world(clock), clock, history=history) as system, system.run_exporter():
        system.simulator.add_fault(account, "server_error", times=1, path=path, page=page)
        system.poll_until_idle()
        assert system.value("ai_account_up", account=account) == 0
        assert system.value("ai_account_problem", account=account, reason="unavailable") == 1
        main = {"labs-openai": "completions", "research-anthropic": "messages", "acme-cursor": "usage_events"}[account]
        assert system.value("ai_account_last_success_timestamp_seconds", account=account, report=main) is None
        others = [name for name in system.world.accounts if name != account]
        assert all(system.value("ai_account_up", account=name) == 1 for name in others)

        system.advance(2 * MINUTE)
        assert system.value("ai_account_up", account=account) == 1
        # All reports of the account are due at this time.
        system.advance((53 if account == "acme-cursor" else 63) * MINUTE)
        assert_equal_to_the_simulator(system, ALL_WINDOWS[:2], [account])
