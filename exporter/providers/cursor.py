"""Cursor's usage events of one team, folded into hours by billing group, model and tier; the money is chargedCents."""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import ClassVar

from exporter.errors import KeyRejected, Malformed, Unsupported
from exporter.model import COST, DAY, HOUR, NANO, REQUESTS, Bucket, Console, KeyKind, KeyRejectionRule, Report, Row
from exporter.providers.http import Client, ClientConfig, Json, paginate
from exporter.providers.parsing import (
    RawBucket,
    bool_field,
    build_buckets,
    int_field,
    list_field,
    money_field,
    object_field,
    required_field,
    str_field,
    time_field,
)
from exporter.windows import floor

_TEAM_KEY_ADVICE = "Create a team key with the admin:* scope: cursor.com/dashboard > API Keys (team admins only)."
_EVENTS_PATH, _MAX_TIME_RANGE = "/teams/filtered-usage-events", 30 * DAY
_EVENTS = Report("usage_events", "usage", HOUR, HOUR, 6 * HOUR, 3 * DAY, HOUR, 90 * DAY)
_TOKEN_FIELDS = {"inputTokens": "uncached_input", "outputTokens": "output"}
_TOKEN_FIELDS |= {"cacheWriteTokens": "cache_write", "cacheReadTokens": "cache_read"}
_Membership = tuple[datetime, datetime, str]
"""Joined, left, billing group id."""


class Cursor:
    """One Cursor team, through a team key."""

    reports: ClassVar[tuple[Report, ...]] = (_EVENTS,)
    base_url: ClassVar[str] = "https://api.cursor.com"
    console: ClassVar[Console] = Console("https://cursor.com/dashboard?tab=usage", "Seat fees are in no API.")
    key_kinds: ClassVar[tuple[KeyKind, ...]] = (
        KeyKind("crsr_", "team key"),
        KeyKind("key_", "team key"),
        KeyKind("sk-ant-", "Anthropic key", "This is an Anthropic key: give the account `provider: anthropic`."),
        KeyKind("sk-", "OpenAI key", "This is an OpenAI key: give the account `provider: openai`."),
    )
    key_rejection_rules: ClassVar[tuple[KeyRejectionRule, ...]] = (
        KeyRejectionRule(
            None,
            "missing required scope",
            "missing_scope",
            f"The key lacks the scope that is named. {_TEAM_KEY_ADVICE}",
        ),
        KeyRejectionRule(
            None, "organization key", "wrong_key_kind", f"An organization key does not work here. {_TEAM_KEY_ADVICE}"
        ),
        KeyRejectionRule(401, "team key", "wrong_key_kind", f"This is no team key. {_TEAM_KEY_ADVICE}"),
        KeyRejectionRule(401, "expired", "key_rejected", f"The key has expired. {_TEAM_KEY_ADVICE}"),
        KeyRejectionRule(401, "revoked", "key_rejected", f"The key was revoked. {_TEAM_KEY_ADVICE}"),
        KeyRejectionRule(401, "", "key_rejected", f"The key is unknown or was revoked. {_TEAM_KEY_ADVICE}"),
        KeyRejectionRule(
            403, "", "missing_scope", f"The key or the plan (Enterprise) does not allow this. {_TEAM_KEY_ADVICE}"
        ),
    )

    def __init__(self, config: ClientConfig) -> None:
        self._by_api_key = config.by_api_key
        user = b64encode(f"{config.key.reveal()}:".encode()).decode()
        self._client = Client(config, {"Authorization": f"Basic {user}"}, self.key_rejection_rules)
        self._group_names: Mapping[str, str] | None = None
        self._memberships: Mapping[str, list[_Membership]] = {}

    def fetch(self, report: Report, since: datetime, until: datetime) -> Iterator[Bucket]:
        """Tell every hour of [since, until), oldest first, after the last page arrived. Raises ProviderError."""
        return build_buckets(report, since, until, self._read_buckets(since, until))

    def names(self) -> Mapping[str, str]:
        """Billing group ids -> names, "" being no group; empty in a plan without groups. Raises ProviderError."""
        groups = self._read_groups()
        return {"": "unassigned", **groups} if groups else {}

    def verify(self) -> str:
        """Count the team's members. Raises ProviderError."""
        return f"ok, a team of {len(list_field(self._client.get('/teams/members'), 'teamMembers'))} members"

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _read_buckets(self, since: datetime, until: datetime) -> Iterator[RawBucket]:
        if self._group_names is None:
            self._read_groups()
        hours: dict[datetime, Counter[tuple[str, ...]]] = {}
        while since < until:
            end = min(since + _MAX_TIME_RANGE, until)
            for event in self._read_events(since, end):
                at = time_field(event, "timestamp")
                if since <= at < end:
                    ids, sums = self._event_labels(event, at), hours.setdefault(floor(at, HOUR), Counter())
                    sums.update({(meter, *ids): count for meter, count in _parse_meter_values(event).items()})
            since = end
        for hour, sums in hours.items():
            yield hour, hour + HOUR, [Row(meter, value, *ids) for (meter, *ids), value in sums.items()]

    def _read_events(self, since: datetime, until: datetime) -> Iterator[Json]:
        """Yield the events of [since, until): the API's range holds both of its ends, in milliseconds."""
        first, end = (int(at.timestamp() * 1000) for at in (since, until))
        span = {"startDate": first, "endDate": max(first, end - 1), "pageSize": 1000}
        totals, came, last = list[int](), 0, list[Json]()
        for page in paginate(lambda page: self._client.post(_EVENTS_PATH, span | {"page": int(page or 1)}), _next_page):
            events = list_field(page, "usageEvents")
            totals.append(int_field(page, "totalUsageEventsCount", 0))
            # Newest first: late events that came in meanwhile push as many from the last page onto this one.
            pushed = totals[-1] - totals[-2] if last else 0
            fresh = events[pushed:] if pushed > 0 and events[:pushed] == last[-pushed:] else events
            came, last = came + len(fresh), events
            yield from fresh
        if came < totals[0]:
            raise Malformed(f"only {came} of {totals[0]} events came", "totalUsageEventsCount")

    def _event_labels(self, event: Json, time: datetime) -> tuple[str, str, str, str]:
        stays = self._memberships.get(str_field(event, "userEmail").lower(), ())
        group = next((group for joined, left, group in stays if joined <= time < left), "")
        return (
            group,
            str_field(event, "model"),
            _parse_tier(event),
            str_field(event, "serviceAccountId") if self._by_api_key else "",
        )

    def _read_groups(self) -> Mapping[str, str]:
        try:
            groups = list_field(self._client.get("/teams/groups"), "groups")
        except (KeyRejected, Unsupported):
            # A plan without billing groups; a key that is refused altogether fails with the events.
            self._group_names = self._group_names or {}
            return self._group_names
        stays: dict[str, list[_Membership]] = {}
        for group in groups:
            for email, stay in _parse_memberships(group):
                stays.setdefault(email, []).append(stay)
        self._memberships, self._group_names = (
            stays,
            {str_field(one, "id"): str_field(one, "name") or "unnamed" for one in groups},
        )
        return self._group_names


def _parse_memberships(group: Json) -> Iterator[tuple[str, _Membership]]:
    for name in ("currentMembers", "formerMembers"):
        for member in list_field(group, name) if name in group else ():
            joined = time_field(member, "joinedAt") if member.get("joinedAt") else datetime.min.replace(tzinfo=UTC)
            left = time_field(member, "leftAt") if member.get("leftAt") else datetime.max.replace(tzinfo=UTC)
            yield str_field(member, "email").lower(), (joined, left, str_field(group, "id"))


def _parse_meter_values(event: Json) -> dict[str, int]:
    tokens = object_field(event, "tokenUsage")
    counts = {REQUESTS: 1} | {meter: int_field(tokens, name, 0) for name, meter in _TOKEN_FIELDS.items()}
    if event.get("chargedCents") is not None or bool_field(event, "isChargeable"):
        counts[COST] = money_field(event, "chargedCents", NANO // 100)
    return counts


def _parse_tier(event: Json) -> str:
    kind = str_field(event, "kind").lower().replace("_", " ").removeprefix("usage event kind ").replace("-", " ")
    if kind.startswith("included"):
        return "included"
    if "not charged" in kind:
        return "not_charged"
    return (
        "on_demand" if bool_field(event, "isChargeable") or kind.startswith(("usage based", "on demand")) else "other"
    )


def _next_page(page: Json) -> str:
    pagination = object_field(page, "pagination")
    return str(int_field(pagination, "currentPage") + 1) if required_field(pagination, "hasNextPage", bool) else ""
