"""What the simulated providers told is what /metrics shows, to the unit, whatever happens on the way."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from exporter.model import DAY, HOUR
from tests.stage import Stage, midnight, stage

MINUTE = timedelta(minutes=1)
WINDOWS = ("last_hour", "today", "month", "30d")


@pytest.fixture(name="it")
def _stage(tmp_path: Path) -> Iterator[Stage]:
    with stage(tmp_path) as it, it.running():
        it.settle()
        yield it


def assert_equal_to_the_simulator(it: Stage) -> None:
    """Compare every window of tokens and requests, series by series."""
    for window in WINDOWS:
        tokens, requests = it.told(window)
        assert it.shown(f"ai_tokens_{window}") == tokens, window
        assert it.shown(f"ai_requests_{window}") == requests, window


def test_after_the_backfill_every_total_is_the_simulators(it: Stage) -> None:
    """Thirty days of past are on the first page: each series of each window, for each account."""
    assert it.samples()["ai_account_up"].keys()
    assert set(it.samples()["ai_account_up"].values()) == {1}
    assert sum(it.told("30d")[0].values()) > 10**9
    assert_equal_to_the_simulator(it)


def test_late_minutes_are_added_when_they_are_told(it: Stage) -> None:
    """What an hour lacked when it was first read arrives with a later poll, and in the end everything is the truth."""
    before = it.told("today", "acme-openai")
    hours = (it.clock.now - midnight(it.clock.now)) // HOUR
    for _ in range(4 * 12):
        it.later(5 * MINUTE)
        if it.clock.now.minute == 12:  # the hourly reports were read just now
            assert_equal_to_the_simulator(it)
    day = midnight(it.clock.now)

    def units(read: str) -> int:
        rows = getattr(it.world, read)("acme-openai", day, day + hours * HOUR)
        return sum(row.value for _, row in rows)

    assert sum(before[0].values()) < units("truth")
    assert units("visible") == units("truth")
    assert_equal_to_the_simulator(it)


def test_a_revision_within_the_settle_period_is_read_within_a_day(it: Stage) -> None:
    """Hours that the provider corrects days later, up or down, are right after the next deep read."""
    it.world.revise("acme-openai", midnight(it.clock.now) - 3 * DAY + 5 * HOUR, 0.5)
    it.world.revise("acme-anthropic", midnight(it.clock.now) - 2 * DAY + 9 * HOUR, 1.5)
    tokens, _ = it.told("30d")
    assert it.shown("ai_tokens_30d") != tokens

    it.later(DAY)

    assert_equal_to_the_simulator(it)


def test_a_restart_repeats_no_request_that_the_ledger_answers(tmp_path: Path) -> None:
    """After a restart the page is complete before anything is asked, and nothing is asked before it is due."""
    with stage(tmp_path) as it:
        with it.running():
            it.settle()
            before = it.samples()
        assert len(it.simulator.requests) > 100
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
            assert_equal_to_the_simulator(it)


@pytest.mark.parametrize(
    ("account", "path", "page"),
    [("acme-openai", "completions", 3), ("acme-anthropic", "usage_report", 4), ("acme-cursor", "events", 2)],
)
def test_a_page_that_fails_half_way_stores_nothing(tmp_path: Path, account: str, path: str, page: int) -> None:
    """Pages before the failing one are not kept, other accounts are untouched, and the next poll has it all."""
    with stage(tmp_path) as it, it.running():
        it.simulator.fault(account, "server_error", times=1, path=path, page=page)
        it.settle()
        assert it.value("ai_account_up", account=account) == 0
        assert it.value("ai_account_problem", account=account, reason="unavailable") == 1
        main = {"acme-openai": "completions", "acme-anthropic": "messages", "acme-cursor": "usage_events"}[account]
        assert it.value("ai_account_last_success_timestamp_seconds", account=account, report=main) is None
        assert all(it.value("ai_account_up", account=one) == 1 for one in it.world.accounts if one != account)

        it.later(2 * MINUTE)
        assert it.value("ai_account_up", account=account) == 1
        assert_equal_to_the_simulator(it)
