"""Anthropic: token usage per hour and cost per day of a Claude Console organization."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import ClassVar, NamedTuple

import msgspec

from exporter.errors import Malformed
from exporter.model import RowLabels, clean_text
from exporter.providers.base import (
    COST,
    DAY,
    HOUR,
    NANO,
    Bucket,
    ClientConfig,
    Console,
    KeyKind,
    KeyRejectionRule,
    NoOptions,
    Report,
    Row,
)
from exporter.providers.bucket_pages import BucketLayout, Count, ResultFormat, object_parser, read_bucket_pages
from exporter.providers.http import Client, Json
from exporter.providers.parsing import (
    RawBucket,
    StoredBuckets,
    build_buckets,
    count_slots,
    money_field,
    page_items,
    require_unique,
    str_field,
)

_ADMIN_KEY_ADVICE = "Create an admin key: platform.claude.com > Settings > Admin keys (admin role only)."
_API_VERSION = "2023-06-01"
_OAUTH_TOKEN = KeyKind("sk-ant-oat01-", "OAuth access token")
_MESSAGES = Report(
    name="messages",
    kind="usage",
    width=HOUR,
    poll_interval=timedelta(minutes=1),
    overlap=6 * HOUR,
    settle_period=6 * DAY,
    lag=timedelta(minutes=10),
    history=365 * DAY,
    lists_empty_buckets=True,
)
_COSTS = Report(
    name="costs",
    kind="bill",
    width=DAY,
    poll_interval=HOUR,
    overlap=3 * DAY,
    settle_period=30 * DAY,
    lag=8 * HOUR,
    history=365 * DAY,
    lists_empty_buckets=True,
)


class _Endpoint(NamedTuple):
    """How one report is requested."""

    path: str
    bucket_width: str
    max_buckets: int
    """Buckets per page, by the published reference."""
    group_by: tuple[str, ...]


_ENDPOINTS = {
    _MESSAGES.name: _Endpoint(
        "usage_report/messages", "1h", 168, ("workspace_id", "model", "service_tier", "context_window")
    ),
    _COSTS.name: _Endpoint("cost_report", "1d", 31, ("workspace_id", "description")),
}

_LAYOUT = BucketLayout("starting_at", "ending_at", time_unit=None)
_TOKEN_TYPE_METERS = {
    "uncached_input_tokens": "uncached_input",
    "cache_read_input_tokens": "cache_read",
    "output_tokens": "output",
    "cache_creation.ephemeral_5m_input_tokens": "cache_write_5m",
    "cache_creation.ephemeral_1h_input_tokens": "cache_write_1h",
}
"""Token types of the bill, which are the names of the fields of usage -> their meters."""


class Anthropic:
    """One Claude Console organization, read with an admin key."""

    reports: ClassVar[tuple[Report, ...]] = (_MESSAGES, _COSTS)
    base_url: ClassVar[str] = "https://api.anthropic.com"
    console: ClassVar[Console] = Console(
        "https://platform.claude.com/cost", "The priority tier is never in the cost report: its tokens show no cost."
    )
    key_kinds: ClassVar[tuple[KeyKind, ...]] = (
        KeyKind("sk-ant-admin", "admin key"),
        _OAUTH_TOKEN,
        KeyKind(
            "sk-ant-api01-",
            "Enterprise analytics key",
            f"An analytics key cannot read Console usage. {_ADMIN_KEY_ADVICE}",
        ),
        KeyKind(
            "sk-ant-api03-",
            "workspace key",
            f"A workspace key cannot read the organization's usage. {_ADMIN_KEY_ADVICE}",
        ),
        KeyKind("sk-ant-", "Anthropic key"),
    )
    key_rejection_rules: ClassVar[tuple[KeyRejectionRule, ...]] = (
        KeyRejectionRule(
            403, "needed:", "missing_scope", f"The key lacks a scope such as org:admin. {_ADMIN_KEY_ADVICE}"
        ),
        KeyRejectionRule(403, "role", "missing_scope", f"The key's owner lacks the admin role. {_ADMIN_KEY_ADVICE}"),
        KeyRejectionRule(
            None, "ip address", "key_rejected", "Add this host's address: Console > Settings > IP allowlist."
        ),
        KeyRejectionRule(
            None, "allowlist", "key_rejected", "Add this host's address: Console > Settings > IP allowlist."
        ),
        KeyRejectionRule(401, "expired", "key_rejected", f"The key or token has expired. {_ADMIN_KEY_ADVICE}"),
        KeyRejectionRule(401, "revoked", "key_rejected", f"The key was revoked. {_ADMIN_KEY_ADVICE}"),
        KeyRejectionRule(401, "admin", "wrong_key_kind", f"This is not an admin key. {_ADMIN_KEY_ADVICE}"),
        KeyRejectionRule(
            401, "", "key_rejected", f"The key is unknown, revoked, expired or not an admin key. {_ADMIN_KEY_ADVICE}"
        ),
        KeyRejectionRule(403, "", "missing_scope", f"The key may not read usage and costs. {_ADMIN_KEY_ADVICE}"),
    )

    def __init__(self, client_config: ClientConfig, options: NoOptions) -> None:  # noqa: ARG002
        key = client_config.key.reveal()
        is_oauth_token = key.startswith(_OAUTH_TOKEN.prefix)
        auth = {"Authorization": f"Bearer {key}"} if is_oauth_token else {"x-api-key": key}
        headers = auth | {"anthropic-version": _API_VERSION}
        self._by_api_key = client_config.by_api_key
        self._client = Client(client_config, headers, self.key_rejection_rules)
        self.stored_buckets = StoredBuckets()

    def fetch(self, report: Report, since: datetime, until: datetime) -> Iterator[Bucket]:
        """Yield every bucket of [since, until), oldest first, after the last page has arrived. Raises ProviderError.

        Buckets equal to those in `stored_buckets` are left out.
        """
        return build_buckets(report, since, until, self._read_buckets(report, since, until), self.stored_buckets)

    def names(self) -> Mapping[str, str]:
        """Return workspace ids -> names, and API key ids -> names where usage is grouped by key. Raises ProviderError.

        The default workspace has the id "".
        """
        objects = list(self._list_objects("workspaces", ("include_archived", "true")))
        if self._by_api_key:
            objects += self._list_objects("api_keys")
        names = {"": "default"}
        for obj in objects:
            id_, name = str_field(obj, "id"), str_field(obj, "name")
            if id_ and name:
                names[id_] = name
        return names

    def verify(self) -> str:
        """Return the name of the key's organization. Raises ProviderError."""
        organization = self._client.get("/v1/organizations/me")
        return f"ok, organization {str_field(organization, 'name')}"

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _read_buckets(self, report: Report, since: datetime, until: datetime) -> Iterator[RawBucket]:
        endpoint = _ENDPOINTS[report.name]
        group_by = list(endpoint.group_by)
        if report.kind == "usage" and self._by_api_key:
            group_by.append("api_key_id")
        buckets = count_slots(report, since, until)
        # No ending_at: the reference and recorded answers disagree on whether the bucket that ends there is included.
        params = [
            ("starting_at", f"{since:%Y-%m-%dT%H:%M:%SZ}"),
            ("bucket_width", endpoint.bucket_width),
            ("limit", str(min(endpoint.max_buckets, buckets))),
            *(("group_by[]", label) for label in group_by),
        ]
        path = f"/v1/organizations/{endpoint.path}"
        parse = object_parser(_parse_bill) if report.kind == "bill" else _MESSAGES_FORMAT.parser()
        for page in read_bucket_pages(self._client, path, params, _LAYOUT, parse, max_pages=buckets):
            yield from page
            if page and page[-1].end >= until:
                return

    def _list_objects(self, resource: str, *params: tuple[str, str]) -> Iterator[Json]:
        path = f"/v1/organizations/{resource}"
        for page in self._client.pages(
            path, [("limit", "1000"), *params], cursor_param="after_id", cursor_field="last_id"
        ):
            yield from page_items(page, "data")


def _parse_bill(results: Sequence[Json]) -> Iterator[Row]:
    for result in require_unique(results, "results"):
        workspace, model = str_field(result, "workspace_id"), str_field(result, "model")
        tier = _tier(str_field(result, "service_tier"), str_field(result, "context_window"))
        item = str_field(result, "description")
        yield Row(_billed_meter(result), _parse_amount(result), workspace, model, tier, item=item)


def _tier(service_tier: str, context_window: str) -> str:
    return f"{service_tier or 'standard'}_long_context" if context_window == "200k-1M" else service_tier


class _CacheCreation(msgspec.Struct, gc=False):
    """Tokens that were written to the cache, by their lifetime."""

    ephemeral_5m_input_tokens: Count | None = None
    ephemeral_1h_input_tokens: Count | None = None


class _ServerToolUse(msgspec.Struct, gc=False):
    """Uses of tools that run at the provider."""

    web_search_requests: Count | None = None


class _MessagesResult(msgspec.Struct):
    """Usage of a combination of labels."""

    uncached_input_tokens: Count
    cache_read_input_tokens: Count
    output_tokens: Count
    workspace_id: str | None = None
    model: str | None = None
    service_tier: str | None = None
    context_window: str | None = None
    api_key_id: str | None = None
    cache_creation: _CacheCreation | None = None
    server_tool_use: _ServerToolUse | None = None


_MESSAGES_METERS = ("uncached_input", "cache_read", "output", "cache_write_5m", "cache_write_1h", "web_searches")


def _messages_labels(result: _MessagesResult) -> RowLabels:
    return RowLabels(
        "",
        clean_text(result.workspace_id or ""),
        clean_text(result.model or ""),
        _tier(clean_text(result.service_tier or ""), clean_text(result.context_window or "")),
        clean_text(result.api_key_id or ""),
    )


def _messages_values(result: _MessagesResult) -> tuple[int, ...]:
    """Return the values of _MESSAGES_METERS."""
    writes, tools = result.cache_creation, result.server_tool_use
    return (
        result.uncached_input_tokens,
        result.cache_read_input_tokens,
        result.output_tokens,
        (writes.ephemeral_5m_input_tokens or 0) if writes is not None else 0,
        (writes.ephemeral_1h_input_tokens or 0) if writes is not None else 0,
        (tools.web_search_requests or 0) if tools is not None else 0,
    )


_MESSAGES_FORMAT = ResultFormat(
    _MessagesResult,
    ("workspace_id", "model", "service_tier", "context_window", "api_key_id"),
    _messages_labels,
    _MESSAGES_METERS,
    _messages_values,
)


def _billed_meter(result: Json) -> str:
    if str_field(result, "cost_type") == "web_search":
        return "web_searches"
    return _TOKEN_TYPE_METERS.get(str_field(result, "token_type"), COST)


def _parse_amount(result: Json) -> int:
    if str_field(result, "currency").upper() != "USD":
        raise Malformed("an amount is in a currency other than USD", "currency")
    return money_field(result, "amount", NANO // 100)
