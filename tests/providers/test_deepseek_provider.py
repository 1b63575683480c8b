"""DeepSeek: the contract of a provider that reports only a balance, and its currencies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

import pytest

from exporter.errors import Malformed, ProviderError
from exporter.model import NANO, Balance, Secret
from exporter.providers import create_provider
from exporter.providers.base import ClientConfig
from exporter.providers.deepseek import DeepSeek, DeepSeekOptions
from exporter.providers.testing import ContractApi, ProviderContract, Reply, start_canned_server
from exporter.simulator.accounts import SimAccount
from exporter.simulator.server import Simulator
from exporter.simulator.world import World
from tests.providers.contract import NOW, SimulatedApi
from tests.system import start_small_system

ACCOUNT = SimAccount(
    name="acme-deepseek",
    provider="deepseek",
    owner="platform",
    key="sk-" + "0123456789abcdef" * 2,
    organization="Acme",
    streams=(),
    prepaid_usd=12.34,
    granted_usd=5,
)


class TestDeepSeekContract(ProviderContract):
    """An account with paid and granted money."""

    provider_type = DeepSeek
    now = NOW
    is_paged = False
    key_rejections: ClassVar = {kind: frozenset({"key_rejected"}) for kind in ("revoked", "expired", "missing_scope")}

    @pytest.fixture
    def api(self) -> Iterator[ContractApi]:
        """Simulate the account."""
        with Simulator(World([ACCOUNT], lambda: NOW)) as simulator:
            yield SimulatedApi(simulator, ACCOUNT.name)

    @contextmanager
    def slow_api(self, api: ContractApi) -> Iterator[ContractApi]:
        """Use the simulator of the test, which no other test shares."""
        yield api

    def expected_balance(self, api: ContractApi) -> Iterable[Balance]:
        """Return the money of the simulated account."""
        del api
        return [Balance("prepaid", 12_340_000_000), Balance("granted", 5 * NANO)]

    @pytest.mark.parametrize("fault", ["truncated", "malformed", "html"])
    def test_malformed_answers(self, api: ContractApi, fault: str) -> None:
        """Truncated JSON, a missing list and web pages are Malformed; amounts are texts, so words are tested below."""
        api.add_fault(fault)
        assert isinstance(self.fetch_error(api), Malformed)


def make_info(currency: str, paid: object, granted: object = "0.00") -> dict[str, Any]:
    """Return the balance in one currency."""
    return {"currency": currency, "total_balance": "0", "granted_balance": granted, "topped_up_balance": paid}


def read_balance(*infos: dict[str, Any], usd_per_cny: str | None = None) -> tuple[Balance, ...]:
    """Return the balance from an answer."""
    options = DeepSeekOptions(usd_per_cny=None if usd_per_cny is None else Decimal(usd_per_cny))
    answer = Reply({"is_available": True, "balance_infos": list(infos)})
    with (
        start_canned_server(lambda _: answer) as server,
        closing(create_provider(DeepSeek, ClientConfig(Secret("sk-1"), server.url), options)) as provider,
    ):
        assert isinstance(provider, DeepSeek)
        return tuple(provider.balance())


def test_cny_are_converted_at_the_configured_rate() -> None:
    """Both currencies of an account count; a balance may be negative."""
    assert read_balance(make_info("CNY", "-100.00", "7.10"), make_info("USD", "1.5"), usd_per_cny="0.14") == (
        Balance("prepaid", -14 * NANO),
        Balance("granted", 994_000_000),
        Balance("prepaid", 1_500_000_000),
        Balance("granted", 0),
    )


def test_a_currency_without_money_needs_no_rate() -> None:
    """An empty balance in CNY beside one in USD is left out."""
    assert read_balance(make_info("CNY", "0.00"), make_info("USD", "2.00")) == (
        Balance("prepaid", 2 * NANO),
        Balance("granted", 0),
    )


@pytest.mark.parametrize(
    ("info", "message"),
    [
        (make_info("CNY", "1.00"), r"the balance is in CNY: set options\.usd_per_cny to the USD of one CNY"),
        (make_info("EUR", "1.00"), "the balance is in EUR, not in USD or CNY"),
        (make_info("USD", "much"), "topped_up_balance is not an amount"),
        (make_info("USD", None), "topped_up_balance is missing"),
    ],
)
def test_amounts_that_cannot_be_used_are_malformed(info: dict[str, Any], message: str) -> None:
    """CNY without a rate, another currency and words for amounts each have their own message."""
    with pytest.raises(ProviderError, match=message) as caught:
        read_balance(info)
    assert isinstance(caught.value, Malformed)


def test_an_account_with_only_a_balance_is_up(tmp_path: Path) -> None:
    """The exporter shows the balance, and no cost, of an account without reports; its page and its reads work."""
    with start_small_system(tmp_path, ACCOUNT) as system:
        system.poll_until_idle()
        assert system.value("ai_account_up") == 1
        assert system.value("ai_account_balance_usd", type="prepaid") == 12.34
        assert system.value("ai_account_balance_usd", type="granted") == 5
        assert "acme-deepseek" in system.app.handlers().landing_page()
        assert system.app.internal_errors == 0
        system.simulator.add_fault("acme-deepseek", "revoked")
        system.advance(16 * (NOW - NOW.replace(minute=21)))
        assert system.problems("acme-deepseek") == {"key_rejected"}
        system.simulator.clear_faults("acme-deepseek")
        system.advance(70 * (NOW - NOW.replace(minute=21)))
        assert system.value("ai_account_up") == 1
