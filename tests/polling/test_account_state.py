"""The state of an account that threads share: nothing is lost between them, and views do not change."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest

from exporter.config.configuration import Account
from exporter.errors import KeyRejected, Malformed, RateLimited
from exporter.model import DAY
from exporter.polling.account_state import AccountConfig, AccountState, Crosscheck, PolledAccount
from exporter.polling.connection import build_account_config
from exporter.polling.schedule import NAMES_REPORT
from exporter.providers.openai import OpenAI

THREADS, CALLS = 8, 500
REJECTION = KeyRejected("key_rejected", "answered 401", "Replace the key.")


@pytest.fixture(name="account")
def _make_polled_account() -> PolledAccount:
    configured = Account(
        name="acme",
        provider="openai",
        api_key_env="KEY",
        poll_interval=timedelta(minutes=5),
        history=DAY,
        max_series=100,
        timeout=timedelta(seconds=30),
    )
    return PolledAccount(build_account_config(configured, {configured.provider: OpenAI}, 1, {}, lambda: 0.0))


def test_requests_are_taken_once(account: PolledAccount) -> None:
    """A poll takes all that was requested before it began; a later request is for the next poll."""
    assert not account.poll_requested
    changed = replace(account.config, poll_settings=replace(account.config.poll_settings, history=2 * DAY))
    account.reconfigure(changed)
    account.on_hour_change()
    assert account.poll_requested

    requests = account.take_requests()
    assert requests.config is changed
    assert (requests.configuration_changed, requests.hour_changed, requests.retry_rejected_key) == (True, True, False)
    account.retry_rejected_key()
    requests = account.take_requests()
    assert (requests.configuration_changed, requests.hour_changed, requests.retry_rejected_key) == (False, False, True)
    assert not account.poll_requested


def test_a_retry_is_urgent_only_for_a_rejected_key(account: PolledAccount) -> None:
    """A reload does not poll an account before its time unless its key was rejected."""
    account.retry_rejected_key()
    assert not account.poll_requested
    account.reject_key(REJECTION, count=True)
    assert account.poll_requested


def test_a_view_does_not_change(account: PolledAccount) -> None:
    """A view is the account at one moment, whatever is recorded afterwards."""
    account.record_poll("completions")
    account.record_failure("completions", RateLimited("answered 429"))
    view = account.view()
    account.record_poll("completions")
    account.record_success("completions")
    account.mark_unsupported("images")
    account.set_crosschecks((Crosscheck("gateway", (2,), "events"),))
    account.reject_key(REJECTION, count=True)

    assert view.health.polls == {"completions": 1}
    assert view.health.failures == {"rate_limited": 1}
    assert [str(problem) for problem in view.health.current_problems] == ["answered 429"]
    assert view.reports == OpenAI.reports
    assert view.polled_reports == (NAMES_REPORT, *OpenAI.reports)
    assert view.crosschecks == ()
    assert not view.health.key_rejected

    newest = account.view()
    assert newest.health.failures == {"rate_limited": 1, "key_rejected": 1}
    assert newest.health.current_problems == [REJECTION]
    assert "images" not in [report.name for report in newest.reports]
    assert newest.crosschecks[0].source == "gateway"


def test_another_key_removes_what_was_wrong_with_the_one_before(account: PolledAccount) -> None:
    """Problems and unsupported reports belong to a key; the counts belong to the account and stay."""
    account.mark_unsupported("images")
    account.set_pending_key_error(Malformed("no JSON"))
    account.reject_key(REJECTION, count=True)
    account.accept_key()
    health = account.health
    assert (health.problems, health.unsupported, health.pending_key_error) == ({}, frozenset(), None)
    assert not health.key_rejected
    assert health.failures == {"key_rejected": 1}


def test_counts_of_many_threads_add_up(account: PolledAccount) -> None:
    """Threads that record at the same time, and others that read meanwhile, lose nothing."""

    def record(_: int) -> None:
        for _ in range(CALLS):
            account.record_poll("completions")
            account.record_request("200")
            account.record_failure("completions", RateLimited("answered 429"))
            health = account.view().health
            assert health.polls["completions"] >= health.failures["rate_limited"]

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(record, range(THREADS)))
    health = account.health
    assert health.polls == {"completions": THREADS * CALLS}
    assert health.requests == {"200": THREADS * CALLS}
    assert health.failures == {"rate_limited": THREADS * CALLS}


def test_an_account_of_pushed_events_polls_nothing(account: PolledAccount) -> None:
    """It has reports like any other account, and none of them is polled."""
    pushed = AccountState(AccountConfig(account.account, account.ledger_account)).view()
    assert pushed.reports == OpenAI.reports
    assert pushed.polled_reports == ()
