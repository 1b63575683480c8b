"""Cursor's usage events of one team, folded into hours by billing group, model and tier; the money is chargedCents."""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import ClassVar

from exporter.errors import KeyRejected, Malformed, Unsupported
from exporter.model import COST, DAY, HOUR, NANO, REQUESTS, Bucket, Console, KeyKind, Refusal, Report, Row
from exporter.providers.http import Access, Client, Json, walk
from exporter.providers.parsing import Told, buckets, field, flag, items, moment, money, part, text, whole
from exporter.windows import floor

_TEAM_KEY = "Create a team key with the admin:* scope: cursor.com/dashboard > API Keys (team admins only)."
_PATH, _LONGEST_RANGE = "/teams/filtered-usage-events", 30 * DAY
_EVENTS = Report("usage_events", "usage", HOUR, HOUR, 6 * HOUR, 3 * DAY, HOUR, 90 * DAY)
_TOKENS = {"inputTokens": "uncached_input", "outputTokens": "output"}
_TOKENS |= {"cacheWriteTokens": "cache_write", "cacheReadTokens": "cache_read"}
_Stay = tuple[datetime, datetime, str]
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
    refusals: ClassVar[tuple[Refusal, ...]] = (
        Refusal(None, "missing required scope", "missing_scope", f"The key lacks the scope that is named. {_TEAM_KEY}"),
        Refusal(None, "organization key", "wrong_key_kind", f"An organization key does not work here. {_TEAM_KEY}"),
        Refusal(401, "team key", "wrong_key_kind", f"This is no team key. {_TEAM_KEY}"),
        Refusal(401, "expired", "key_rejected", f"The key has expired. {_TEAM_KEY}"),
        Refusal(401, "revoked", "key_rejected", f"The key was revoked. {_TEAM_KEY}"),
        Refusal(401, "", "key_rejected", f"The key is unknown or was revoked. {_TEAM_KEY}"),
        Refusal(403, "", "missing_scope", f"The key or the plan (Enterprise) does not allow this. {_TEAM_KEY}"),
    )

    def __init__(self, access: Access) -> None:
        self._by_key = access.api_keys
        user = b64encode(f"{access.key.reveal()}:".encode()).decode()
        self._client = Client(access, {"Authorization": f"Basic {user}"}, self.refusals)
        self._groups: Mapping[str, str] | None = None
        self._stays: Mapping[str, list[_Stay]] = {}

    def fetch(self, report: Report, since: datetime, until: datetime) -> Iterator[Bucket]:
        """Tell every hour of [since, until), oldest first, after the last page arrived. Raises ProviderError."""
        return buckets(report, since, until, self._told(since, until))

    def names(self) -> Mapping[str, str]:
        """Billing group ids -> names, "" being no group; empty in a plan without groups. Raises ProviderError."""
        groups = self._read_groups()
        return {"": "unassigned", **groups} if groups else {}

    def verify(self) -> str:
        """Count the team's members. Raises ProviderError."""
        return f"ok, a team of {len(items(self._client.get('/teams/members'), 'teamMembers'))} members"

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _told(self, since: datetime, until: datetime) -> Iterator[Told]:
        if self._groups is None:
            self._read_groups()
        hours: dict[datetime, Counter[tuple[str, ...]]] = {}
        while since < until:
            end = min(since + _LONGEST_RANGE, until)
            for event in self._events(since, end):
                at = moment(event, "timestamp")
                if since <= at < end:
                    ids, sums = self._ids(event, at), hours.setdefault(floor(at, HOUR), Counter())
                    sums.update({(meter, *ids): count for meter, count in _counts(event).items()})
            since = end
        for hour, sums in hours.items():
            yield hour, hour + HOUR, [Row(meter, value, *ids) for (meter, *ids), value in sums.items()]

    def _events(self, since: datetime, until: datetime) -> Iterator[Json]:
        """Yield the events of [since, until): the API's range holds both of its ends, in milliseconds."""
        first, end = (int(at.timestamp() * 1000) for at in (since, until))
        span = {"startDate": first, "endDate": max(first, end - 1), "pageSize": 1000}
        totals, came, last = list[int](), 0, list[Json]()
        for page in walk(lambda page: self._client.post(_PATH, span | {"page": int(page or 1)}), _next_page):
            events = items(page, "usageEvents")
            totals.append(whole(page, "totalUsageEventsCount", 0))
            # Newest first: late events that came in meanwhile push as many from the last page onto this one.
            pushed = totals[-1] - totals[-2] if last else 0
            fresh = events[pushed:] if pushed > 0 and events[:pushed] == last[-pushed:] else events
            came, last = came + len(fresh), events
            yield from fresh
        if came < totals[0]:
            raise Malformed(f"only {came} of {totals[0]} events came", "totalUsageEventsCount")

    def _ids(self, event: Json, at: datetime) -> tuple[str, str, str, str]:
        stays = self._stays.get(text(event, "userEmail").lower(), ())
        group = next((group for joined, left, group in stays if joined <= at < left), "")
        return group, text(event, "model"), _tier(event), text(event, "serviceAccountId") if self._by_key else ""

    def _read_groups(self) -> Mapping[str, str]:
        try:
            groups = items(self._client.get("/teams/groups"), "groups")
        except (KeyRejected, Unsupported):
            # A plan without billing groups; a key that is refused altogether fails with the events.
            self._groups = self._groups or {}
            return self._groups
        stays: dict[str, list[_Stay]] = {}
        for group in groups:
            for email, stay in _stays(group):
                stays.setdefault(email, []).append(stay)
        self._stays, self._groups = stays, {text(one, "id"): text(one, "name") or "unnamed" for one in groups}
        return self._groups


def _stays(group: Json) -> Iterator[tuple[str, _Stay]]:
    for name in ("currentMembers", "formerMembers"):
        for member in items(group, name) if name in group else ():
            joined = moment(member, "joinedAt") if member.get("joinedAt") else datetime.min.replace(tzinfo=UTC)
            left = moment(member, "leftAt") if member.get("leftAt") else datetime.max.replace(tzinfo=UTC)
            yield text(member, "email").lower(), (joined, left, text(group, "id"))


def _counts(event: Json) -> dict[str, int]:
    tokens = part(event, "tokenUsage")
    counts = {REQUESTS: 1} | {meter: whole(tokens, name, 0) for name, meter in _TOKENS.items()}
    if event.get("chargedCents") is not None or flag(event, "isChargeable"):
        counts[COST] = money(event, "chargedCents", NANO // 100)
    return counts


def _tier(event: Json) -> str:
    kind = text(event, "kind").lower().replace("_", " ").removeprefix("usage event kind ").replace("-", " ")
    if kind.startswith("included"):
        return "included"
    if "not charged" in kind:
        return "not_charged"
    return "on_demand" if flag(event, "isChargeable") or kind.startswith(("usage based", "on demand")) else "other"


def _next_page(page: Json) -> str:
    pagination = part(page, "pagination")
    return str(whole(pagination, "currentPage") + 1) if field(pagination, "hasNextPage", bool) else ""
