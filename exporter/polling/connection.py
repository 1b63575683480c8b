"""Builds the configuration of a polled account from its entry in the configuration file and its provider's class."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from hashlib import blake2b

from exporter.config.configuration import Account
from exporter.config.keys import diagnose
from exporter.model import Secret
from exporter.polling.account_state import PolledAccountConfig, RequestObserver
from exporter.polling.schedule import UNLIMITED, WEEK, PollSettings
from exporter.pricing.learned_rates import NegotiatedPrice
from exporter.pricing.valuer import LedgerAccount
from exporter.providers import ProviderType, create_provider, known_key_kinds
from exporter.providers.base import Provider
from exporter.providers.http import ClientConfig

MAX_POLL_OFFSET = 120
"""Seconds over which accounts that are due at the same time of the hour are spread."""


def build_account_config(
    account: Account,
    providers: Mapping[str, ProviderType],
    account_number: int,
    environ: Mapping[str, str],
    monotonic: Callable[[], float],
    hourly_retention: timedelta = UNLIMITED,
) -> PolledAccountConfig:
    """Return the configuration of an account; `account_number` is its number in the ledger.

    `hourly_retention` is how long the ledger keeps hours.
    """
    provider_type = providers[account.provider]
    prices = tuple(map(NegotiatedPrice.from_config, account.prices))
    # From the name: the same after every restart, so that accounts stay spread.
    digest = int.from_bytes(blake2b(account.name.encode(), digest_size=4).digest())
    poll_settings = PollSettings(
        poll_interval=account.poll_interval,
        history=account.history,
        offset=timedelta(seconds=digest % MAX_POLL_OFFSET),
        reread_offset=timedelta(seconds=digest % int(WEEK.total_seconds())),
        hourly_retention=hourly_retention,
    )

    def connect(key: Secret, observe: RequestObserver) -> Provider:
        rejection = diagnose(key, known_key_kinds(account.provider, providers))
        if rejection is not None:
            raise rejection
        client_config = ClientConfig(
            key=key,
            base_url=account.base_url or provider_type.base_url,
            by_api_key="api_key" in account.labels,
            observe=observe,
            timeout=account.timeout.total_seconds(),
            monotonic=monotonic,
        )
        return create_provider(provider_type, client_config, account.options)

    return PolledAccountConfig(
        account=account,
        ledger_account=LedgerAccount(account_number, account.provider, provider_type.reports, prices),
        poll_settings=poll_settings,
        read_key=lambda: account.api_key.read(environ),
        has_balance=hasattr(provider_type, "balance"),
        connect=connect,
    )
