"""DeepSeek: what is left of the money that was paid or granted in advance. Its API reports no usage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from exporter.errors import Malformed, Unsupported
from exporter.model import NANO
from exporter.providers.base import (
    Balance,
    Bucket,
    ClientConfig,
    Console,
    KeyKind,
    KeyRejectionRule,
    Report,
)
from exporter.providers.http import Client, Json
from exporter.providers.parsing import list_field, money_field, str_field

_KEY_ADVICE = "Create an API key: platform.deepseek.com > API keys."


class DeepSeekOptions(BaseModel):
    """The account's `options` in the configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    usd_per_cny: Decimal | None = Field(default=None, gt=0, le=1)
    """USD of one CNY, for an account that pays in CNY; a balance in CNY cannot be read without it."""


class DeepSeek:
    """One DeepSeek account, read with an ordinary API key: there is no key that can only read."""

    reports: ClassVar[tuple[Report, ...]] = ()
    base_url: ClassVar[str] = "https://api.deepseek.com"
    console: ClassVar[Console] = Console("https://platform.deepseek.com/usage", "Its usage is in no API.")
    options_model: ClassVar[type[BaseModel]] = DeepSeekOptions
    key_kinds: ClassVar[tuple[KeyKind, ...]] = (KeyKind("sk-", "API key"),)
    key_rejection_rules: ClassVar[tuple[KeyRejectionRule, ...]] = (
        KeyRejectionRule(401, "", "key_rejected", f"The key is unknown or was deleted. {_KEY_ADVICE}"),
        KeyRejectionRule(403, "", "key_rejected", f"The key may not read the balance. {_KEY_ADVICE}"),
    )

    def __init__(self, client_config: ClientConfig, options: DeepSeekOptions) -> None:
        headers = {"Authorization": f"Bearer {client_config.key.reveal()}"}
        self._client = Client(client_config, headers, self.key_rejection_rules)
        self._usd_per_cny = options.usd_per_cny

    def fetch(self, report: Report, since: datetime, until: datetime) -> Iterator[Bucket]:  # noqa: ARG002
        """Raise Unsupported: there are no reports."""
        raise Unsupported("DeepSeek has no usage report")

    def names(self) -> Mapping[str, str]:
        """Return no names; makes no request."""
        return {}

    def balance(self) -> Sequence[Balance]:
        """Return what is left of paid and granted money, all currencies together. Raises ProviderError."""
        return tuple(
            balance
            for info in list_field(self._client.get("/user/balance"), "balance_infos")
            for balance in self._parse_balances(info)
        )

    def verify(self) -> str:
        """Read the balance. Raises ProviderError."""
        self.balance()
        return "ok, an account with a balance"

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _parse_balances(self, info: Json) -> Iterator[Balance]:
        currency = str_field(info, "currency")
        factors = {"USD": Decimal(1), "CNY": self._usd_per_cny}
        if currency not in factors:
            raise Malformed(f"the balance is in {currency or 'no currency'}, not in USD or CNY", "currency")
        paid, granted = (money_field(info, name, NANO) for name in ("topped_up_balance", "granted_balance"))
        factor = factors[currency]
        if factor is None:
            if not paid and not granted:
                return
            raise Malformed("the balance is in CNY: set options.usd_per_cny to the USD of one CNY", "currency")
        yield Balance("prepaid", round(paid * factor))
        yield Balance("granted", round(granted * factor))
