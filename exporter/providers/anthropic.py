"""Anthropic's usage and cost reports of a Console organization: hours of tokens, days of money."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import ClassVar

from exporter.errors import Malformed
from exporter.model import COST, DAY, HOUR, NANO, Bucket, Console, KeyKind, KeyRejectionRule, Report, Row
from exporter.providers.http import Client, ClientConfig, Json
from exporter.providers.parsing import (
    RawBucket,
    build_buckets,
    int_field,
    list_field,
    money_field,
    object_field,
    str_field,
    time_field,
)

_ADMIN_KEY_ADVICE = "Create an admin key: platform.claude.com > Settings > Admin keys (admin role only)."
_API_VERSION = "2023-06-01"
_LAG, _YEAR = timedelta(minutes=10), 365 * DAY
_MESSAGES = Report("messages", "usage", HOUR, timedelta(minutes=1), 6 * HOUR, 6 * DAY, _LAG, _YEAR)
_COSTS = Report("costs", "bill", DAY, HOUR, 3 * DAY, 30 * DAY, 8 * HOUR, _YEAR)

_TOKEN_FIELDS = {
    "uncached_input_tokens": "uncached_input",
    "cache_read_input_tokens": "cache_read",
    "output_tokens": "output",
}
_CACHE_WRITE_FIELDS = {"ephemeral_5m_input_tokens": "cache_write_5m", "ephemeral_1h_input_tokens": "cache_write_1h"}
_TOKEN_TYPE_METERS = _TOKEN_FIELDS | {f"cache_creation.{name}": meter for name, meter in _CACHE_WRITE_FIELDS.items()}


class Anthropic:
    """One Claude Console organization, through an admin key."""

    reports: ClassVar[tuple[Report, ...]] = (_MESSAGES, _COSTS)
    base_url: ClassVar[str] = "https://api.anthropic.com"
    console: ClassVar[Console] = Console(
        "https://platform.claude.com/cost", "The priority tier is never in the cost report: its tokens show no cost."
    )
    key_kinds: ClassVar[tuple[KeyKind, ...]] = (
        KeyKind("sk-ant-admin", "admin key"),
        KeyKind("sk-ant-oat01-", "OAuth access token"),
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
        KeyKind("sk-", "OpenAI key", "This is an OpenAI key: give the account `provider: openai`."),
        KeyKind("crsr_", "Cursor key", "This is a Cursor key: give the account `provider: cursor`."),
    )
    key_rejection_rules: ClassVar[tuple[KeyRejectionRule, ...]] = (
        KeyRejectionRule(
            403, "needed:", "missing_scope", f"The key lacks the scope that is named. {_ADMIN_KEY_ADVICE}"
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
        KeyRejectionRule(401, "admin", "wrong_key_kind", f"This is no admin key. {_ADMIN_KEY_ADVICE}"),
        KeyRejectionRule(
            401, "", "key_rejected", f"The key is unknown, revoked, expired or no admin key. {_ADMIN_KEY_ADVICE}"
        ),
        KeyRejectionRule(403, "", "missing_scope", f"The key may not read usage and costs. {_ADMIN_KEY_ADVICE}"),
    )

    def __init__(self, config: ClientConfig) -> None:
        key = config.key.reveal()
        token = key.startswith("sk-ant-oat01-")
        auth = {"Authorization": f"Bearer {key}"} if token else {"x-api-key": key}
        self._by_api_key = config.by_api_key
        self._client = Client(config, auth | {"anthropic-version": _API_VERSION}, self.key_rejection_rules)

    def fetch(self, report: Report, since: datetime, until: datetime) -> Iterator[Bucket]:
        """Tell every bucket of [since, until), oldest first, after the last page arrived. Raises ProviderError."""
        return build_buckets(report, since, until, self._read_buckets(report, since, until))

    def names(self) -> Mapping[str, str]:
        """Workspace ids -> names, the default workspace's id being ""; API key ids too where usage is told by key."""
        found = {"": "default"}
        listed = list(self._list_objects("workspaces", ("include_archived", "true")))
        if self._by_api_key:
            listed += self._list_objects("api_keys")
        return found | {
            str_field(one, "id"): str_field(one, "name")
            for one in listed
            if str_field(one, "id") and str_field(one, "name")
        }

    def verify(self) -> str:
        """Ask whose key this is. Raises ProviderError."""
        return f"ok, organization {str_field(self._client.get('/v1/organizations/me'), 'name')}"

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _read_buckets(self, report: Report, since: datetime, until: datetime) -> Iterator[RawBucket]:
        if report.kind == "bill":
            path, width, most, groups = "cost_report", "1d", 31, ["workspace_id", "description"]
        else:
            path, width, most = "usage_report/messages", "1h", 168
            groups = ["workspace_id", "model", "service_tier", "context_window"]
            groups += ["api_key_id"] if self._by_api_key else []
        limit = min(most, -((since - until) // report.width))
        # No ending_at: whether a bucket that ends at it is told is documented one way and recorded the other.
        params = [("starting_at", f"{since:%Y-%m-%dT%H:%M:%SZ}"), ("bucket_width", width), ("limit", f"{limit}")]
        params += [("group_by[]", group) for group in groups]
        for page in self._client.pages(f"/v1/organizations/{path}", params):
            end = since
            for slot in list_field(page, "data"):
                start, end = time_field(slot, "starting_at"), time_field(slot, "ending_at")
                yield start, end, [row for result in list_field(slot, "results") for row in _parse_rows(report, result)]
            if end >= until:
                return

    def _list_objects(self, resource: str, *params: tuple[str, str]) -> Iterator[Json]:
        path = f"/v1/organizations/{resource}"
        for page in self._client.pages(
            path, [("limit", "1000"), *params], cursor_param="after_id", cursor_field="last_id"
        ):
            yield from list_field(page, "data")


def _parse_rows(report: Report, result: Json) -> Iterator[Row]:
    workspace, model, tier = (
        str_field(result, "workspace_id"),
        str_field(result, "model"),
        str_field(result, "service_tier"),
    )
    if str_field(result, "context_window") == "200k-1M":
        tier = f"{tier or 'standard'}_long_context"
    if report.kind == "bill":
        yield Row(
            _billed_meter(result), _parse_amount(result), workspace, model, tier, item=str_field(result, "description")
        )
        return
    for meter, value in _parse_meter_values(result).items():
        if value:
            yield Row(meter, value, workspace, model, tier, str_field(result, "api_key_id"))


def _parse_meter_values(result: Json) -> dict[str, int]:
    counts = {meter: int_field(result, name) for name, meter in _TOKEN_FIELDS.items()}
    writes = object_field(result, "cache_creation")
    counts |= {meter: int_field(writes, name, 0) for name, meter in _CACHE_WRITE_FIELDS.items()}
    counts["web_searches"] = int_field(object_field(result, "server_tool_use"), "web_search_requests", 0)
    return counts


def _billed_meter(result: Json) -> str:
    if str_field(result, "cost_type") == "web_search":
        return "web_searches"
    return _TOKEN_TYPE_METERS.get(str_field(result, "token_type"), COST)


def _parse_amount(result: Json) -> int:
    if str_field(result, "currency").upper() != "USD":
        raise Malformed("an amount is in another currency than USD", "currency")
    return money_field(result, "amount", NANO // 100)
