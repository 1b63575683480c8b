"""What the simulated providers told is what /metrics shows, to the unit, whatever happens on the way."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from exporter.model import DAY, HOUR
from exporter.windows import Span
from tests.system import NOON, Clock, Stage, midnight, small_world, stage

MINUTE = timedelta(minutes=1)
ALL_WINDOWS = ("last_hour", "today", "month", "30d")


@pytest.fixture(name="it")
def _stage(tmp_path: Path) -> Iterator[Stage]:
    clock = Clock()
    with stage(tmp_path, small_world(clock), clock, history="3d") as it, it.running():
        it.settle()
        yield it


def assert_equal_to_the_simulator(
    it: Stage, windows: tuple[str, ...] = ("last_hour", "today"), accounts: Collection[str] = ()
) -> None:
    """Compare windows of tokens and requests, series by series, of all accounts or some."""
    for window in windows:
        for account in accounts or it.world.accounts:
            tokens, requests = it.told(window, account)
            assert it.shown(f"ai_tokens_{window}", account) == tokens, (window, account)
            assert it.shown(f"ai_requests_{window}", account) == requests, (window, account)


def test_late_minutes_are_added_when_they_are_told(it: Stage) -> None:
    """What an hour lacked when it was first read arrives with a later poll, and in the end everything is the truth."""
    before = it.told("today", "labs-openai")
    hours = (it.clock.now - midnight(it.clock.now)) // HOUR
    for _ in range(4 * 12):
        it.later(5 * MINUTE)
        # Compared right after they were read: the rarer reports at 10 past, Cursor's at the full hour.
        if it.clock.now.minute == 12:
            assert_equal_to_the_simulator(it, accounts=[one for one in it.world.accounts if one != "acme-cursor"])
        if it.clock.now.minute == 2:
            assert_equal_to_the_simulator(it, accounts=["acme-cursor"])
    day = midnight(it.clock.now)

    def units(read: str) -> int:
        rows = getattr(it.world, read)("labs-openai", day, day + hours * HOUR)
        return sum(row.value for _, row in rows)

    assert sum(before[0].values()) < units("truth")
    assert units("visible") == units("truth")


def test_a_revision_within_the_settle_period_is_read_within_a_day(it: Stage) -> None:
    """Hours that the provider corrects days later, up or down, are right after the next deep read."""
    day = midnight(it.clock.now) - 2 * DAY
    hours = {"labs-openai": (day + 5 * HOUR, 0.5), "research-anthropic": (day + 9 * HOUR, 1.5)}
    for account, (hour, factor) in hours.items():
        it.world.revise(account, hour, factor)
    assert any(_stored(it, account, hour) != _visible(it, account, hour) for account, (hour, _) in hours.items())

    it.later(DAY)

    for account, (hour, _) in hours.items():
        assert _stored(it, account, hour) == _visible(it, account, hour)
    assert_equal_to_the_simulator(it)


def _stored(it: Stage, account: str, hour: datetime) -> int:
    book = it.app._members[account].book
    reports = [report.name for report in book.usage]
    return sum(it.app._ledger.buckets.units(book.number, reports, Span(hour, hour + HOUR)).values())


def _visible(it: Stage, account: str, hour: datetime) -> int:
    return sum(row.value for _, row in it.world.visible(account, hour, hour + HOUR))


def test_a_restart_repeats_no_request_that_the_ledger_answers(tmp_path: Path) -> None:
    """After a restart the page is complete before anything is asked, and nothing is asked before it is due."""
    clock = Clock(NOON + 10 * MINUTE)
    with stage(tmp_path, small_world(clock), clock, history="3d") as it:
        with it.running():
            it.settle()
            before = it.samples()
        assert len(it.simulator.requests) > 20
        it.simulator.requests.clear()
        with it.running():
            again = it.samples()
            spend = [name for name in before if name.startswith(("ai_cost", "ai_tokens", "ai_requests", "ai_units"))]
            assert {name: again[name] for name in spend} == {name: before[name] for name in spend}
            it.settle()
            assert it.simulator.requests == []
            it.later(5 * MINUTE)
            assert {served.path for served in it.simulator.requests if served.account == "labs-openai"} == {
                "/openai/v1/organization/usage/completions"
            }
            assert_equal_to_the_simulator(it, accounts=["research-anthropic"])


@pytest.mark.parametrize(
    ("account", "path", "page"),
    [("labs-openai", "completions", 2), ("research-anthropic", "usage_report", 3), ("acme-cursor", "events", 2)],
)
def test_a_page_that_fails_half_way_stores_nothing(tmp_path: Path, account: str, path: str, page: int) -> None:
    """Pages before the failing one are not kept, other accounts are untouched, and the next poll has it all."""
    clock = Clock()
    with stage(tmp_path, small_world(clock), clock, history="20d") as it, it.running():
        it.simulator.fault(account, "server_error", times=1, path=path, page=page)
        it.settle()
        assert it.value("ai_account_up", account=account) == 0
        assert it.value("ai_account_problem", account=account, reason="unavailable") == 1
        main = {"labs-openai": "completions", "research-anthropic": "messages", "acme-cursor": "usage_events"}[account]
        assert it.value("ai_account_last_success_timestamp_seconds", account=account, report=main) is None
        assert all(it.value("ai_account_up", account=one) == 1 for one in it.world.accounts if one != account)

        it.later(2 * MINUTE)
        assert it.value("ai_account_up", account=account) == 1
        it.later((53 if account == "acme-cursor" else 63) * MINUTE)  # everything of it is read at this very moment
        assert_equal_to_the_simulator(it, ALL_WINDOWS[:2], [account])
