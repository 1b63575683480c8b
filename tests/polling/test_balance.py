"""The balance of a prepaid account: read at its own interval, exported, and never a reason to lose usage."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import timedelta
from html import unescape
from pathlib import Path
from typing import ClassVar

import pytest

from exporter.errors import KeyRejected, Malformed, ProviderError, RateLimited, Unavailable, Unsupported
from exporter.model import DAY, NANO, Balance
from exporter.providers import PROVIDERS
from exporter.providers.openai import OpenAI
from exporter.providers.parsing import clean_balance
from exporter.simulator.world import World
from tests.system import Clock, System, make_account, midnight, start_small_system, start_system

MINUTE = timedelta(minutes=1)
BALANCE = "ai_account_balance_usd"
EXHAUSTION = "ai_account_balance_exhaustion_timestamp_seconds"


class PrepaidProvider(OpenAI):
    """An account that is paid in advance; a test sets what is left, or why it cannot be read."""

    left: ClassVar[Sequence[Balance] | ProviderError]
    reads: ClassVar[int]

    def balance(self) -> Sequence[Balance]:
        """Return what the test has set."""
        type(self).reads += 1
        if isinstance(self.left, ProviderError):
            raise self.left
        return self.left


@pytest.fixture(name="provider")
def _make_provider() -> type[PrepaidProvider]:
    PrepaidProvider.left = [Balance("prepaid", 100 * NANO), Balance("granted", 5 * NANO)]
    PrepaidProvider.reads = 0
    return PrepaidProvider


def page_text(system: System) -> str:
    """Return the landing page in words."""
    return " ".join(unescape(re.sub("<[^>]*>", " ", system.app.handlers().landing_page())).split())


def test_a_balance_is_exported_by_type(tmp_path: Path, provider: type[PrepaidProvider]) -> None:
    """Each type is a series; the time of exhaustion follows from both and from the account's cost."""
    with start_small_system(tmp_path, make_account("openai"), providers={**PROVIDERS, "openai": provider}) as system:
        system.poll_until_idle()
        assert system.value(BALANCE, type="prepaid") == 100
        assert system.value(BALANCE, type="granted") == 5
        first = system.value(EXHAUSTION)
        provider.left = [Balance("prepaid", 50 * NANO)]
        system.advance(16 * MINUTE)
        assert system.value(BALANCE) == 50
        second = system.value(EXHAUSTION)
        assert first is not None
        assert second is not None
        assert system.clock.now.timestamp() < second < first
        assert system.value("ai_account_up") == 1


def test_it_is_read_every_quarter_of_an_hour(tmp_path: Path, provider: type[PrepaidProvider]) -> None:
    """Four hours of steady polling read the balance 16 times, and a restarted exporter reads it at once."""
    clock = Clock()
    world = World([make_account("openai")], clock, start_time=midnight(clock.now) - 5 * DAY)
    with start_system(tmp_path, world, clock, history="2d") as system:
        system.providers = {**PROVIDERS, "openai": provider}
        with system.run_exporter():
            system.poll_until_idle()
            assert provider.reads == 1
            for _ in range(48):
                system.advance(5 * MINUTE)
            assert provider.reads == 17
        with system.run_exporter():
            system.poll_until_idle()
            assert provider.reads == 18
            assert system.value(BALANCE) == 105


def test_an_account_that_is_not_prepaid_has_no_balance(tmp_path: Path, provider: type[PrepaidProvider]) -> None:
    """An empty balance is none, not one of 0 USD: no alert may fire for an account that pays by invoice."""
    provider.left = []
    with start_small_system(tmp_path, make_account("openai"), providers={**PROVIDERS, "openai": provider}) as system:
        system.poll_until_idle()
        assert system.value(BALANCE) is None
        assert system.value(EXHAUSTION) is None
        assert system.value("ai_account_up") == 1


@pytest.mark.parametrize("error", [Unavailable("503", reached=True), Malformed("no amount", "balance")])
def test_the_last_balance_stays_while_it_cannot_be_read(
    tmp_path: Path, provider: type[PrepaidProvider], error: ProviderError
) -> None:
    """A failure is a problem of the account; usage is polled, and the balance is back with the next success."""
    with start_small_system(tmp_path, make_account("openai"), providers={**PROVIDERS, "openai": provider}) as system:
        system.poll_until_idle()
        left, provider.left = provider.left, error
        system.advance(16 * MINUTE)
        assert system.value(BALANCE) == 105
        assert system.problems("solo") == {error.reason}
        polls = system.value("ai_account_polls_total", report="completions")
        provider.left = left
        system.advance(16 * MINUTE)
        assert system.problems("solo") == set()
        assert (system.value("ai_account_polls_total", report="completions") or 0) > (polls or 0)


@pytest.mark.parametrize("error", [KeyRejected("missing_scope", "403", "Add the scope."), Unsupported("404")])
def test_a_key_that_may_not_read_it_is_no_problem(
    tmp_path: Path, provider: type[PrepaidProvider], error: ProviderError
) -> None:
    """Without permission, or where the plan has no balance, the series ends, and it is tried again after a day."""
    with start_small_system(tmp_path, make_account("openai"), providers={**PROVIDERS, "openai": provider}) as system:
        system.poll_until_idle()
        left, provider.left = provider.left, error
        system.advance(16 * MINUTE)
        assert system.value(BALANCE) is None
        assert system.problems("solo") == set()
        reads, provider.left = provider.reads, left
        system.advance(DAY - 20 * MINUTE)
        assert provider.reads == reads
        system.advance(30 * MINUTE)
        assert system.value(BALANCE) == 105


def test_a_rate_limit_of_the_balance_delays_nothing_else(tmp_path: Path, provider: type[PrepaidProvider]) -> None:
    """Usage is polled on while only the balance is limited."""
    provider.left = RateLimited("429", 3600)
    with start_small_system(tmp_path, make_account("openai"), providers={**PROVIDERS, "openai": provider}) as system:
        system.poll_until_idle()
        polls = system.value("ai_account_polls_total", report="completions") or 0
        system.advance(10 * MINUTE)
        assert (system.value("ai_account_polls_total", report="completions") or 0) > polls
        assert provider.reads == 1


def test_a_clock_that_is_set_back_does_not_delay_it(tmp_path: Path, provider: type[PrepaidProvider]) -> None:
    """The balance is read at once after a step back, and then at its interval."""
    with start_small_system(tmp_path, make_account("openai"), providers={**PROVIDERS, "openai": provider}) as system:
        system.poll_until_idle()
        system.advance(-3 * timedelta(hours=1))
        reads = provider.reads
        system.advance(16 * MINUTE)
        assert provider.reads == reads + 1


def test_the_landing_page_has_an_alert(tmp_path: Path, provider: type[PrepaidProvider]) -> None:
    """A balance that lasts for hours is a warning, one that is used up critical, and a large one nothing."""
    provider.left = [Balance("prepaid", 10**6 * NANO)]
    with start_small_system(tmp_path, make_account("openai"), providers={**PROVIDERS, "openai": provider}) as system:
        system.poll_until_idle()
        assert "alance" not in page_text(system).partition("Accounts")[0]
        provider.left = [Balance("prepaid", NANO // 100)]
        system.advance(16 * MINUTE)
        text = page_text(system)
        assert "▲ 1 low balance" in text
        assert "Balance low: solo owner platform · runs out Nov 18 " in text
        assert "$0.01 left at Nov 18 12:23 UTC. Then the provider may reject requests." in text
        provider.left = [Balance("prepaid", -2 * NANO)]
        system.advance(16 * MINUTE)
        text = page_text(system)
        assert "✖ 1 exhausted balance" in text
        assert "AIBalanceExhausted" in text


@pytest.mark.parametrize("part", [("credit", 1), ("prepaid", 1.5), ("prepaid", 10**17), ("prepaid", "1")])
def test_an_unusable_balance_of_a_plug_in_is_malformed(part: tuple[str, object]) -> None:
    """A type that is not known, and an amount that is not a whole number or out of range, are Malformed."""
    with pytest.raises(Malformed):
        clean_balance([Balance(*part)])  # type: ignore[arg-type]


def test_parts_of_one_type_are_added() -> None:
    """Two parts of one type would be two series with equal labels."""
    assert clean_balance([Balance("granted", 1), Balance("granted", 2)]) == (Balance("granted", 3),)
