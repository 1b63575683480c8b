"""The plug-in interface: everything that a provider implements, and every type that it needs for that.

docs/providers.md explains step by step how to add a provider. The value types are defined in `exporter.model`,
because folders below this one use them too, and ClientConfig in `exporter.providers.http`; import all of them from
here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, Protocol, runtime_checkable

from exporter.config.schema import NoOptions
from exporter.model import (
    COST,
    DAY,
    GAUGE_METERS,
    HOUR,
    NANO,
    REQUESTS,
    TOKEN_METERS,
    UNIT_METERS,
    Balance,
    Bucket,
    Console,
    KeyKind,
    KeyRejectionRule,
    Report,
    Row,
    Secret,
)
from exporter.providers.http import ClientConfig

__all__ = [
    "COST",
    "DAY",
    "GAUGE_METERS",
    "HOUR",
    "NANO",
    "REQUESTS",
    "TOKEN_METERS",
    "UNIT_METERS",
    "Balance",
    "Bucket",
    "ClientConfig",
    "Console",
    "KeyKind",
    "KeyRejectionRule",
    "NoOptions",
    "Provider",
    "ProviderType",
    "ProviderWithBalance",
    "Report",
    "Row",
    "Secret",
]


class Provider(Protocol):
    """One account at one provider, connected with one key.

    A provider never sleeps, retries, logs, counts, reads the clock or touches the disk: the poller does that for all
    providers. It is called by one thread at a time, except for `close`. Every failure is a ProviderError
    (`exporter.errors`); `exporter.providers.http.Client` and `exporter.providers.parsing` raise them.

    Attributes are optional: with `stored_buckets: StoredBuckets` of `exporter.providers.parsing`, `fetch` leaves out
    buckets that have not changed since they were stored; what is added to `ambiguities: Ambiguities` is logged once.
    """

    reports: ClassVar[tuple[Report, ...]]
    key_kinds: ClassVar[tuple[KeyKind, ...]]

    def fetch(self, report: Report, since: datetime, until: datetime) -> Iterator[Bucket]:
        """Yield one bucket for every slot that starts in [since, until), slots without usage included.

        If the report lists empty buckets (`Report.lists_empty_buckets`), a slot whose bucket did not arrive is
        Malformed; only slots that end within the report's lag before `until` may be left out.
        `parsing.build_buckets` does that.

        The order is oldest first or newest first. `since` is the start of a slot; `until` is at most now, so the
        last slot may still be running. All pages must have arrived before the first bucket is yielded, so that a
        failed page never leaves half of a time range in the ledger. Raises ProviderError.
        """
        ...

    def names(self) -> Mapping[str, str]:
        """Return the ids of workspaces and API keys -> their names. Raises ProviderError."""
        ...

    def verify(self) -> str:
        """Make one inexpensive request and return `ok, ` and the key's owner in a few words. Raises ProviderError."""
        ...

    def close(self) -> None:
        """Close the connections, possibly from another thread while a request is running; no call follows."""
        ...


@runtime_checkable
class ProviderWithBalance(Protocol):
    """The optional part of Provider for accounts that are paid in advance."""

    def balance(self) -> Sequence[Balance]:
        """Return what is left of the money that was paid or granted in advance; empty for an account that has none.

        Called at an interval of its own, like `names`. Raises ProviderError; for a key that may not read the balance,
        KeyRejected with the reason `missing_scope`, which concerns the balance alone.
        """
        ...


class ProviderType(Protocol):
    """A provider class, from the table of providers or from an entry point.

    Two attributes are optional: `console: ClassVar[Console]` is the provider's own page with the same figures, and
    `options_model: ClassVar[type[BaseModel]]` validates the account's `options` in the configuration (NoOptions where
    it is absent).
    """

    @property
    def reports(self) -> tuple[Report, ...]:
        """All reports; the first is the main usage report, which is polled most often.

        Empty for a provider that reports only a balance.
        """
        ...

    @property
    def key_kinds(self) -> tuple[KeyKind, ...]:
        """All types of keys that the provider issues, also those that cannot read usage; the longest prefix matches."""
        ...

    @property
    def base_url(self) -> str:
        """The published address of the API; `base_url` of an account replaces it."""
        ...

    def __call__(self, client_config: ClientConfig, options: Any) -> Provider:
        """Construct the provider for one account, without a request.

        `client_config` has the key, the base URL and the timeout: pass it to `exporter.providers.http.Client`.
        `options` is an instance of the class's `options_model`.
        """
        ...
