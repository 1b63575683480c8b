"""The clock of a real process is set back and forward, the process is suspended: polls continue, totals are exact."""

from __future__ import annotations

import os
import signal
from datetime import timedelta
from pathlib import Path

import pytest

from exporter.model import HOUR
from tests.command import wait_until
from tests.faults.accounts_system import AccountsSystem, start_accounts
from tests.faults.results import Results
from tests.system import make_account

MINUTE = timedelta(minutes=1)


def wait_until_exact(system: AccountsSystem) -> None:
    """Wait until every account is up at the present time, and compare its totals with the truth."""
    system.wait_until_up()
    wait_until("exact totals", lambda: system.stored_totals() == system.true_totals(), timeout=30)


@pytest.mark.parametrize("error", [10 * MINUTE, 6 * HOUR, 40 * HOUR, -6 * HOUR], ids=str)
def test_a_process_polls_after_its_clock_was_wrong(tmp_path: Path, results: Results, error: timedelta) -> None:
    """With a clock that is wrong for some hours and then right, before and after a restart, every total is exact."""
    with start_accounts(tmp_path, make_account("anthropic", "labs")) as system:
        process = system.launcher.start(system.flags())
        system.wait_until_up()
        for _ in range(3):
            system.clock.now += HOUR
            system.launcher.set_clock(system.clock.now + error)
            if error > timedelta(0):
                wait_until("a poll", lambda: _last_success(system) > system.clock.now.timestamp(), timeout=30)
        # At the next start the clock is still wrong, then it is set right.
        system.launcher.kill(process)
        process = system.launcher.start(system.flags())
        wait_until("a page", system.scrape)
        system.set_time(system.clock.now + 20 * MINUTE)
        wait_until_exact(system)
        for _ in range(3):
            system.advance(HOUR)
            wait_until_exact(system)
        system.launcher.kill(process)
    results.add("clock", f"wrong by {error / HOUR:+.1f} hours", "polls continue at once, 0 differences")


def _last_success(system: AccountsSystem) -> float:
    return max(system.scrape().get("ai_account_last_success_timestamp_seconds", {}).values(), default=0.0)


def test_a_process_that_was_suspended_polls_at_once(tmp_path: Path, results: Results) -> None:
    """After SIGSTOP, thirty hours and SIGCONT every account is polled, and every total is exact."""
    with start_accounts(tmp_path, make_account("anthropic", "labs"), make_account("cursor", "crew")) as system:
        process = system.launcher.start(system.flags())
        system.wait_until_up()
        os.kill(process, signal.SIGSTOP)
        system.advance(30 * HOUR)
        os.kill(process, signal.SIGCONT)
        wait_until_exact(system)
        assert system.launcher.kill(process) == -signal.SIGKILL
    results.add("clock", "suspended for 30 hours", "polled at once, 0 differences")
