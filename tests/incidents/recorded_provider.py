"""A provider plug-in whose accounts are `PastAccount`s: it returns what was reported by the clock's time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, ClassVar

from exporter.errors import KeyRejected, Unavailable
from exporter.providers import ProviderType
from exporter.providers.base import DAY, HOUR, Bucket, ClientConfig, KeyKind, Report
from exporter.windows import slots
from tests.incidents.pasts import PastAccount

PROVIDER = "recorded"
KEY_PREFIX = "rec-admin-"
USAGE = Report(
    name="usage",
    kind="usage",
    width=HOUR,
    poll_interval=timedelta(minutes=1),
    overlap=6 * HOUR,
    settle_period=3 * DAY,
    lag=timedelta(minutes=10),
    history=180 * DAY,
)
COSTS = Report(
    name="costs",
    kind="bill",
    width=DAY,
    poll_interval=HOUR,
    overlap=3 * DAY,
    settle_period=7 * DAY,
    lag=8 * HOUR,
    history=180 * DAY,
)


def recorded_provider(accounts: Mapping[str, PastAccount], clock: Callable[[], datetime]) -> ProviderType:
    """Return the class of a provider with these accounts by name; a key is KEY_PREFIX and the account's name."""

    class RecordedProvider:
        """One account of the provider."""

        reports: ClassVar[tuple[Report, ...]] = (USAGE, COSTS)
        base_url: ClassVar[str] = "https://api.recorded.example"
        key_kinds: ClassVar[tuple[KeyKind, ...]] = (KeyKind(KEY_PREFIX, "admin key"),)

        def __init__(self, client_config: ClientConfig, options: Any) -> None:  # noqa: ARG002 - of the interface
            self._account = accounts[client_config.key.reveal().removeprefix(KEY_PREFIX)]

        def fetch(self, report: Report, since: datetime, until: datetime) -> Iterator[Bucket]:
            """Yield the buckets of a time range. Raises ProviderError."""
            self._fail(clock())
            read = self._account.reported_usage if report is USAGE else self._account.reported_bill
            for start in slots(since, until, report.width):
                yield Bucket(report.name, start, start + report.width, tuple(read(start, clock())))

        def names(self) -> Mapping[str, str]:
            """Return no names: ids are names here. Raises ProviderError."""
            self._fail(clock())
            return {}

        def verify(self) -> str:
            """Return the account's name. Raises ProviderError."""
            self._fail(clock())
            return f"ok, {self._account.name}"

        def close(self) -> None:
            """Do nothing: there is no connection."""

        def _fail(self, now: datetime) -> None:
            unavailable, revoked_at = self._account.unavailable, self._account.key_revoked_at
            if unavailable is not None and unavailable[0] <= now < unavailable[1]:
                raise Unavailable("the provider answers 503", reached=True)
            if revoked_at is not None and now >= revoked_at:
                raise KeyRejected("key_rejected", "the key is revoked", "Create another key.")

    return RecordedProvider
