"""Keys that change while accounts are polled: a new one is verified before it replaces one that works."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.system import Stage, lone, play

POLL = timedelta(minutes=5)
NEW = "sk-admin-of-tomorrow"


@pytest.fixture
def it(tmp_path: Path) -> Iterator[Stage]:
    """One OpenAI account, read and well."""
    with play(tmp_path, lone("openai")) as stage:
        stage.settle()
        stage.simulator.requests.clear()
        yield stage


def _accept(it: Stage, key: str) -> None:
    it.simulator._keys["openai/v1", key] = it.world.accounts["solo"]


def _revoke(it: Stage, key: str) -> None:
    del it.simulator._keys["openai/v1", key]


def _refused(it: Stage) -> int:
    return sum(served.status == 401 for served in it.simulator.requests)


def _well(it: Stage, problems: set[str]) -> None:
    """The account is read as it was before, whatever its next key lacks."""
    it.simulator.requests.clear()
    it.later(POLL)
    assert it.problems("solo") == problems
    assert it.value("ai_account_up", account="solo") == 1
    assert it.calls("solo", "usage/completions") > 0


def test_a_new_key_takes_over_from_one_that_works(it: Stage) -> None:
    """A new key that the provider accepts is used from the next poll on; the old one may be revoked then."""
    old = it.key_file("solo").read_text()
    _accept(it, NEW)
    it.key_file("solo").write_text(NEW)
    it.later(POLL)
    _revoke(it, old)
    _well(it, set())
    assert _refused(it) == 0
    assert it.value("ai_account_poll_failures_total", account="solo") == 0


def test_a_new_key_that_is_refused_does_not_replace_one_that_works(it: Stage) -> None:
    """It is tried once and told; the old one goes on. After a reload, or when it has changed, it is tried again."""
    it.key_file("solo").write_text(NEW)
    it.later(POLL)
    _well(it, {"key_rejected"})
    it.later(12 * POLL)
    assert _refused(it) == 0

    it.app.apply(it.config)
    it.later(POLL)
    assert _refused(it) == 1
    _accept(it, NEW)
    it.app.apply(it.config)
    _well(it, set())


def test_the_landing_page_tells_of_a_new_key_that_is_refused(it: Stage) -> None:
    """It names the account, what is wrong with the key and what to do, and that the old one still works."""
    it.key_file("solo").write_text(NEW)
    it.later(POLL)
    page = it.app.views().landing()
    assert "New key not used" in page
    assert "answered 401" in page
    assert "Create an admin key" in page
    assert "The key before it still works here." in page
    assert NEW not in page


def test_a_new_key_of_the_wrong_kind_is_never_sent(it: Stage) -> None:
    """Where the prefix tells that the new key cannot work, the old one goes on and no request is made with the new."""
    it.key_file("solo").write_text("sk-ant-api03-of-somebody")
    it.later(POLL)
    _well(it, {"wrong_key_kind"})
    assert _refused(it) == 0


def test_a_new_key_that_cannot_be_judged_is_tried_at_the_next_poll(it: Stage) -> None:
    """Where the provider is in trouble as the key changes, the old one stays, and the new one is tried again."""
    old = it.key_file("solo").read_text()
    _accept(it, NEW)
    it.simulator.fault("solo", "server_error")
    it.key_file("solo").write_text(NEW)
    it.later(POLL)
    assert "unavailable" in it.problems("solo")
    it.simulator.clear()
    it.later(timedelta(hours=1))
    _revoke(it, old)
    _well(it, set())


def test_a_key_file_that_is_gone_is_told_and_not_missed(it: Stage) -> None:
    """Without its key's file an account is read on with the key that was read before; back again, nothing is wrong."""
    key = it.key_file("solo").read_text()
    it.key_file("solo").unlink()
    it.later(POLL)
    _well(it, {"key_rejected"})
    assert "it does not exist" in it.app.views().landing()
    it.key_file("solo").write_text(key)
    it.later(POLL)
    _well(it, set())


def test_the_old_key_back_in_its_place_ends_the_problem(it: Stage) -> None:
    """Who puts the working key back is told nothing more."""
    old = it.key_file("solo").read_text()
    it.key_file("solo").write_text(NEW)
    it.later(POLL)
    it.key_file("solo").write_text(old)
    it.later(POLL)
    _well(it, set())


def test_when_the_old_key_ends_the_refused_one_is_told(it: Stage) -> None:
    """Once the key that worked is revoked too, the account is down, and what is told is of the key in the file."""
    old = it.key_file("solo").read_text()
    it.key_file("solo").write_text(NEW)
    it.later(POLL)
    _revoke(it, old)
    it.later(POLL)
    assert it.value("ai_account_up", account="solo") == 0
    assert it.problems("solo") == {"key_rejected"}
    _accept(it, NEW)
    it.app.apply(it.config)
    it.later(POLL)
    _well(it, set())
