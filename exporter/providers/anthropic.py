"""Anthropic's usage and cost reports of a Console organization: hours of tokens, days of money."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import ClassVar

from exporter.errors import Malformed
from exporter.model import COST, DAY, HOUR, NANO, Bucket, Console, KeyKind, Refusal, Report, Row
from exporter.providers.http import Access, Client, Json
from exporter.providers.parsing import Told, buckets, items, moment, money, part, text, whole

_ADMIN_KEY = "Create an admin key: platform.claude.com > Settings > Admin keys (admin role only)."
_VERSION = "2023-06-01"
_LAG, _YEAR = timedelta(minutes=10), 365 * DAY
_MESSAGES = Report("messages", "usage", HOUR, timedelta(minutes=1), 6 * HOUR, 6 * DAY, _LAG, _YEAR)
_COSTS = Report("costs", "bill", DAY, HOUR, 3 * DAY, 30 * DAY, 8 * HOUR, _YEAR)

_TOKENS = {
    "uncached_input_tokens": "uncached_input",
    "cache_read_input_tokens": "cache_read",
    "output_tokens": "output",
}
_WRITES = {"ephemeral_5m_input_tokens": "cache_write_5m", "ephemeral_1h_input_tokens": "cache_write_1h"}
_PAID_FOR = _TOKENS | {f"cache_creation.{name}": meter for name, meter in _WRITES.items()}


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
            "sk-ant-api01-", "Enterprise analytics key", f"An analytics key cannot read Console usage. {_ADMIN_KEY}"
        ),
        KeyKind(
            "sk-ant-api03-", "workspace key", f"A workspace key cannot read the organization's usage. {_ADMIN_KEY}"
        ),
        KeyKind("sk-ant-", "Anthropic key"),
        KeyKind("sk-", "OpenAI key", "This is an OpenAI key: give the account `provider: openai`."),
        KeyKind("crsr_", "Cursor key", "This is a Cursor key: give the account `provider: cursor`."),
    )
    refusals: ClassVar[tuple[Refusal, ...]] = (
        Refusal(403, "needed:", "missing_scope", f"The key lacks the scope that is named. {_ADMIN_KEY}"),
        Refusal(403, "role", "missing_scope", f"The key's owner lacks the admin role. {_ADMIN_KEY}"),
        Refusal(None, "ip address", "key_rejected", "Add this host's address: Console > Settings > IP allowlist."),
        Refusal(None, "allowlist", "key_rejected", "Add this host's address: Console > Settings > IP allowlist."),
        Refusal(401, "expired", "key_rejected", f"The key or token has expired. {_ADMIN_KEY}"),
        Refusal(401, "revoked", "key_rejected", f"The key was revoked. {_ADMIN_KEY}"),
        Refusal(401, "admin", "wrong_key_kind", f"This is no admin key. {_ADMIN_KEY}"),
        Refusal(401, "", "key_rejected", f"The key is unknown, revoked, expired or no admin key. {_ADMIN_KEY}"),
        Refusal(403, "", "missing_scope", f"The key may not read usage and costs. {_ADMIN_KEY}"),
    )

    def __init__(self, access: Access) -> None:
        key = access.key.reveal()
        token = key.startswith("sk-ant-oat01-")
        auth = {"Authorization": f"Bearer {key}"} if token else {"x-api-key": key}
        self._by_key = access.api_keys
        self._client = Client(access, auth | {"anthropic-version": _VERSION}, self.refusals)

    def fetch(self, report: Report, since: datetime, until: datetime) -> Iterator[Bucket]:
        """Tell every bucket of [since, until), oldest first, after the last page arrived. Raises ProviderError."""
        return buckets(report, since, until, self._told(report, since, until))

    def names(self) -> Mapping[str, str]:
        """Workspace ids -> names, the default workspace's id being ""; API key ids too where usage is told by key."""
        found = {"": "default"}
        listed = list(self._listed("workspaces", ("include_archived", "true")))
        if self._by_key:
            listed += self._listed("api_keys")
        return found | {text(one, "id"): text(one, "name") for one in listed if text(one, "id") and text(one, "name")}

    def verify(self) -> str:
        """Ask whose key this is. Raises ProviderError."""
        return f"ok, organization {text(self._client.get('/v1/organizations/me'), 'name')}"

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _told(self, report: Report, since: datetime, until: datetime) -> Iterator[Told]:
        if report.kind == "bill":
            path, width, most, groups = "cost_report", "1d", 31, ["workspace_id", "description"]
        else:
            path, width, most = "usage_report/messages", "1h", 168
            groups = ["workspace_id", "model", "service_tier", "context_window"]
            groups += ["api_key_id"] if self._by_key else []
        limit = min(most, -((since - until) // report.width))
        # No ending_at: whether a bucket that ends at it is told is documented one way and recorded the other.
        params = [("starting_at", f"{since:%Y-%m-%dT%H:%M:%SZ}"), ("bucket_width", width), ("limit", f"{limit}")]
        params += [("group_by[]", group) for group in groups]
        for page in self._client.pages(f"/v1/organizations/{path}", params):
            end = since
            for slot in items(page, "data"):
                start, end = moment(slot, "starting_at"), moment(slot, "ending_at")
                yield start, end, [row for result in items(slot, "results") for row in _rows(report, result)]
            if end >= until:
                return

    def _listed(self, what: str, *params: tuple[str, str]) -> Iterator[Json]:
        path = f"/v1/organizations/{what}"
        for page in self._client.pages(path, [("limit", "1000"), *params], send="after_id", take="last_id"):
            yield from items(page, "data")


def _rows(report: Report, result: Json) -> Iterator[Row]:
    workspace, model, tier = text(result, "workspace_id"), text(result, "model"), text(result, "service_tier")
    if text(result, "context_window") == "200k-1M":
        tier = f"{tier or 'standard'}_long_context"
    if report.kind == "bill":
        yield Row(_paid_for(result), _nano(result), workspace, model, tier, item=text(result, "description"))
        return
    for meter, value in _counts(result).items():
        if value:
            yield Row(meter, value, workspace, model, tier, text(result, "api_key_id"))


def _counts(result: Json) -> dict[str, int]:
    counts = {meter: whole(result, name) for name, meter in _TOKENS.items()}
    writes = part(result, "cache_creation")
    counts |= {meter: whole(writes, name, 0) for name, meter in _WRITES.items()}
    counts["web_searches"] = whole(part(result, "server_tool_use"), "web_search_requests", 0)
    return counts


def _paid_for(result: Json) -> str:
    if text(result, "cost_type") == "web_search":
        return "web_searches"
    return _PAID_FOR.get(text(result, "token_type"), COST)


def _nano(result: Json) -> int:
    if text(result, "currency").upper() != "USD":
        raise Malformed("an amount is in another currency than USD", "currency")
    return money(result, "amount", NANO // 100)
