"""Keys that change while accounts are polled: a new one is verified before it replaces one that works."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.system import System, make_account, start_small_system

POLL = timedelta(minutes=5)
NEW_KEY = "sk-admin-of-tomorrow"


@pytest.fixture(name="system")
def _start_system(tmp_path: Path) -> Iterator[System]:
    """An OpenAI account that has been polled without any problem."""
    with start_small_system(tmp_path, make_account("openai")) as system:
        system.poll_until_idle()
        system.simulator.requests.clear()
        yield system


def _accept_key(system: System, key: str) -> None:
    system.simulator._keys["openai/v1", key] = system.world.accounts["solo"]


def _revoke_key(system: System, key: str) -> None:
    del system.simulator._keys["openai/v1", key]


def _count_rejections(system: System) -> int:
    return sum(served.status == 401 for served in system.simulator.requests)


def _assert_healthy(system: System, problems: set[str]) -> None:
    """Poll once more, and expect success with the key in use, besides these problems of the pending key."""
    system.simulator.requests.clear()
    system.advance(POLL)
    assert system.problems("solo") == problems
    assert system.value("ai_account_up", account="solo") == 1
    assert system.count_calls("solo", "usage/completions") > 0


def test_a_new_key_takes_over_from_one_that_works(system: System) -> None:
    """A new key that the provider accepts is used from the next poll on; the old one may be revoked then."""
    old = system.key_file("solo").read_text()
    _accept_key(system, NEW_KEY)
    system.key_file("solo").write_text(NEW_KEY)
    system.advance(POLL)
    _revoke_key(system, old)
    _assert_healthy(system, set())
    assert _count_rejections(system) == 0
    assert system.value("ai_account_poll_failures_total", account="solo") == 0


def test_a_rejected_new_key_does_not_replace_a_working_one(system: System) -> None:
    """It is tried once and reported, and the working key stays in use; a reload or another key causes a new try."""
    system.key_file("solo").write_text(NEW_KEY)
    system.advance(POLL)
    _assert_healthy(system, {"key_rejected"})
    system.advance(12 * POLL)
    assert _count_rejections(system) == 0

    system.app.apply(system.config)
    system.advance(POLL)
    assert _count_rejections(system) == 1
    _accept_key(system, NEW_KEY)
    system.app.apply(system.config)
    _assert_healthy(system, set())


def test_the_landing_page_shows_a_rejected_new_key(system: System) -> None:
    """The page shows the account, the error of the new key, the advice, and that the previous key still works."""
    system.key_file("solo").write_text(NEW_KEY)
    system.advance(POLL)
    page = system.app.handlers().landing_page()
    assert "New key rejected" in page
    assert "answered 401" in page
    assert "Create an admin key" in page
    assert "The previous key is still in use." in page
    assert NEW_KEY not in page


def test_a_new_key_of_the_wrong_kind_is_never_sent(system: System) -> None:
    """A new key whose prefix shows that it cannot work causes no request, and the previous key stays in use."""
    system.key_file("solo").write_text("sk-ant-api03-of-somebody")
    system.advance(POLL)
    _assert_healthy(system, {"wrong_key_kind"})
    assert _count_rejections(system) == 0


def test_a_new_key_that_cannot_be_judged_is_tried_at_the_next_poll(system: System) -> None:
    """When the provider is unavailable as the key changes, the old key stays and the new one is tried again."""
    old = system.key_file("solo").read_text()
    _accept_key(system, NEW_KEY)
    system.simulator.add_fault("solo", "server_error")
    system.key_file("solo").write_text(NEW_KEY)
    system.advance(POLL)
    assert "unavailable" in system.problems("solo")
    system.simulator.clear_faults()
    system.advance(timedelta(hours=1))
    _revoke_key(system, old)
    _assert_healthy(system, set())


def test_a_missing_key_file_is_reported_and_polling_continues(system: System) -> None:
    """Without its key file an account is polled with the key that was read before, and the problem is reported."""
    key = system.key_file("solo").read_text()
    system.key_file("solo").unlink()
    system.advance(POLL)
    _assert_healthy(system, {"key_rejected"})
    assert "it does not exist" in system.app.handlers().landing_page()
    system.key_file("solo").write_text(key)
    system.advance(POLL)
    _assert_healthy(system, set())


def test_restoring_the_old_key_ends_the_problem(system: System) -> None:
    """When the working key is restored in the file, no problem is reported any more."""
    old = system.key_file("solo").read_text()
    system.key_file("solo").write_text(NEW_KEY)
    system.advance(POLL)
    system.key_file("solo").write_text(old)
    system.advance(POLL)
    _assert_healthy(system, set())


def test_when_the_old_key_ends_the_rejected_one_is_reported(system: System) -> None:
    """Once the working key is revoked too, the account is down, and the problem is that of the key in the file."""
    old = system.key_file("solo").read_text()
    system.key_file("solo").write_text(NEW_KEY)
    system.advance(POLL)
    _revoke_key(system, old)
    system.advance(POLL)
    assert system.value("ai_account_up", account="solo") == 0
    assert system.problems("solo") == {"key_rejected"}
    _accept_key(system, NEW_KEY)
    system.app.apply(system.config)
    system.advance(POLL)
    _assert_healthy(system, set())
