"""Metered AI: usage and cost per day of an organization."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import ClassVar
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field

from exporter.providers.base import (
    COST,
    DAY,
    HOUR,
    NANO,
    REQUESTS,
    Bucket,
    ClientConfig,
    Console,
    KeyKind,
    KeyRejectionRule,
    Report,
    Row,
)
from exporter.providers.http import Client, Json
from exporter.providers.parsing import (
    RawBucket,
    build_buckets,
    int_field,
    list_field,
    money_field,
    str_field,
    time_field,
)

USAGE = Report(
    name="usage",
    kind="usage",
    width=DAY,
    poll_interval=HOUR,
    overlap=2 * DAY,
    settle_period=7 * DAY,
    lag=3 * HOUR,
    history=90 * DAY,
)
COSTS = Report(
    name="costs",
    kind="bill",
    width=DAY,
    poll_interval=HOUR,
    overlap=2 * DAY,
    settle_period=30 * DAY,
    lag=8 * HOUR,
    history=90 * DAY,
)
ROWS_PER_PAGE = 100
KEY_ADVICE = "Create an admin key: metered.example > Organization > Keys."
USAGE_FIELDS = {"input_tokens": "uncached_input", "output_tokens": "output", "requests": REQUESTS}


class MeteredOptions(BaseModel):
    """The account's `options` in the configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    organization: str = Field(default="me", min_length=1)
    """The id of the organization; `me` means the organization of the key."""


class Metered:
    """One organization at Metered AI, read with an admin key."""

    reports: ClassVar[tuple[Report, ...]] = (USAGE, COSTS)
    base_url: ClassVar[str] = "https://api.metered.example"
    console: ClassVar[Console] = Console("https://metered.example/usage")
    options_model: ClassVar[type[BaseModel]] = MeteredOptions
    key_kinds: ClassVar[tuple[KeyKind, ...]] = (
        KeyKind("mtr-admin-", "admin key"),
        KeyKind("mtr-", "inference key", f"An inference key cannot read usage. {KEY_ADVICE}"),
    )
    key_rejection_rules: ClassVar[tuple[KeyRejectionRule, ...]] = (
        KeyRejectionRule(401, "", "key_rejected", f"The key is wrong, revoked or expired. {KEY_ADVICE}"),
        KeyRejectionRule(403, "", "missing_scope", f"The key may not read usage. {KEY_ADVICE}"),
    )

    def __init__(self, client_config: ClientConfig, options: MeteredOptions) -> None:
        headers = {"Authorization": f"Bearer {client_config.key.reveal()}"}
        self._client = Client(client_config, headers, self.key_rejection_rules)
        self._path = f"/v1/organizations/{quote(options.organization, safe='')}"

    def fetch(self, report: Report, since: datetime, until: datetime) -> Iterator[Bucket]:
        """Yield every day that starts in [since, until), oldest first. Raises ProviderError."""
        return build_buckets(report, since, until, self._read_days(report, since, until))

    def names(self) -> Mapping[str, str]:
        """Return workspace ids -> names. Raises ProviderError."""
        workspaces = self._read_list("workspaces", [])
        return {str_field(workspace, "id"): str_field(workspace, "name") for workspace in workspaces}

    def verify(self) -> str:
        """Return the organization's name. Raises ProviderError."""
        return f"ok, organization {str_field(self._client.get(self._path), 'name')}"

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _read_days(self, report: Report, since: datetime, until: datetime) -> Iterator[RawBucket]:
        # The API includes the end date; `until` itself is excluded.
        last = until - timedelta(microseconds=1)
        params = [("start_date", f"{since:%Y-%m-%d}"), ("end_date", f"{last:%Y-%m-%d}")]
        days: dict[datetime, list[Row]] = {}
        for entry in self._read_list(report.name, params):
            rows = days.setdefault(time_field(entry, "date"), [])
            rows.extend(_parse_usage(entry) if report.kind == "usage" else _parse_cost(entry))
        for day, rows in days.items():
            yield RawBucket(day, day + DAY, rows)

    def _read_list(self, name: str, params: list[tuple[str, str]]) -> Iterator[Json]:
        pages = self._client.offset_pages(
            f"{self._path}/{name}", params, "data", limit=ROWS_PER_PAGE, total_field="total"
        )
        for page in pages:
            yield from list_field(page, "data")


def _parse_usage(entry: Json) -> Iterator[Row]:
    for name, meter in USAGE_FIELDS.items():
        value = int_field(entry, name)
        if value:
            yield Row(meter, value, workspace=str_field(entry, "workspace"), model=str_field(entry, "model"))


def _parse_cost(entry: Json) -> Iterator[Row]:
    value = money_field(entry, "usd", NANO)
    yield Row(COST, value, workspace=str_field(entry, "workspace"), item=str_field(entry, "item"))
