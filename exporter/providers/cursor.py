"""Cursor: the usage events of a team, aggregated per hour by billing group, model and tier, with their cost."""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import ClassVar, NamedTuple

from exporter.errors import KeyRejected, Malformed, Unsupported
from exporter.model import RowLabels
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
    NoOptions,
    Report,
    Row,
)
from exporter.providers.http import Client, Json, paginate_by_number
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
_EVENTS_PATH = "/teams/filtered-usage-events"
_MAX_TIME_RANGE = 30 * DAY
_EVENTS_PER_PAGE = 1000
_EVENTS = Report(
    name="usage_events",
    kind="usage",
    width=HOUR,
    poll_interval=HOUR,
    overlap=6 * HOUR,
    settle_period=3 * DAY,
    lag=HOUR,
    history=90 * DAY,
)
_TOKEN_FIELDS = {
    "inputTokens": "uncached_input",
    "outputTokens": "output",
    "cacheWriteTokens": "cache_write",
    "cacheReadTokens": "cache_read",
}


class _Membership(NamedTuple):
    """One stay of a member in a billing group."""

    joined: datetime
    left: datetime
    group_id: str


class _Groups(NamedTuple):
    """The billing groups of a team."""

    names: Mapping[str, str]
    """Group ids -> names."""
    memberships: Mapping[str, list[_Membership]]
    """Lower-case e-mail addresses -> stays."""


class Cursor:
    """One Cursor team, read with a team key."""

    reports: ClassVar[tuple[Report, ...]] = (_EVENTS,)
    base_url: ClassVar[str] = "https://api.cursor.com"
    console: ClassVar[Console] = Console("https://cursor.com/dashboard?tab=usage", "Seat fees are in no API.")
    key_kinds: ClassVar[tuple[KeyKind, ...]] = (
        KeyKind("crsr_", "team key"),
        KeyKind("key_", "team key"),
    )
    key_rejection_rules: ClassVar[tuple[KeyRejectionRule, ...]] = (
        KeyRejectionRule(
            None,
            "missing required scope",
            "missing_scope",
            f"The key lacks a scope such as admin:*. {_TEAM_KEY_ADVICE}",
        ),
        KeyRejectionRule(
            None, "organization key", "wrong_key_kind", f"An organization key does not work here. {_TEAM_KEY_ADVICE}"
        ),
        KeyRejectionRule(401, "team key", "wrong_key_kind", f"This is not a team key. {_TEAM_KEY_ADVICE}"),
        KeyRejectionRule(401, "expired", "key_rejected", f"The key has expired. {_TEAM_KEY_ADVICE}"),
        KeyRejectionRule(401, "revoked", "key_rejected", f"The key was revoked. {_TEAM_KEY_ADVICE}"),
        KeyRejectionRule(401, "", "key_rejected", f"The key is unknown or was revoked. {_TEAM_KEY_ADVICE}"),
        KeyRejectionRule(
            403, "", "missing_scope", f"The key or the plan (Enterprise) does not allow this. {_TEAM_KEY_ADVICE}"
        ),
    )

    def __init__(self, client_config: ClientConfig, options: NoOptions) -> None:  # noqa: ARG002
        self._by_api_key = client_config.by_api_key
        credentials = b64encode(f"{client_config.key.reveal()}:".encode()).decode()
        self._client = Client(client_config, {"Authorization": f"Basic {credentials}"}, self.key_rejection_rules)
        self._groups: _Groups | None = None

    def fetch(self, report: Report, since: datetime, until: datetime) -> Iterator[Bucket]:
        """Yield every hour of [since, until), oldest first, after the last page has arrived. Raises ProviderError."""
        return build_buckets(report, since, until, self._read_buckets(since, until))

    def names(self) -> Mapping[str, str]:
        """Return billing group ids -> names; {} in a plan without groups. Raises ProviderError.

        The id "" is usage by members of no group.
        """
        groups = self._read_groups()
        return {"": "unassigned", **groups.names} if groups.names else {}

    def verify(self) -> str:
        """Return the number of team members. Raises ProviderError."""
        members = list_field(self._client.get("/teams/members"), "teamMembers")
        return f"ok, a team of {len(members)} members"

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _read_buckets(self, since: datetime, until: datetime) -> Iterator[RawBucket]:
        groups = self._groups or self._read_groups()
        hours: dict[datetime, dict[RowLabels, Counter[str]]] = {}
        while since < until:
            end = min(since + _MAX_TIME_RANGE, until)
            for event in self._read_events(since, end):
                time = time_field(event, "timestamp")
                if since <= time < end:
                    labels = self._event_labels(event, time, groups)
                    values = hours.setdefault(floor(time, HOUR), {}).setdefault(labels, Counter())
                    for meter, value in _parse_meter_values(event).items():
                        values[meter] += value
            since = end
        for hour, values_by_labels in hours.items():
            rows = [
                Row(meter, value, labels.workspace, labels.model, labels.tier, labels.api_key)
                for labels, values in values_by_labels.items()
                for meter, value in values.items()
            ]
            yield RawBucket(hour, hour + HOUR, rows)

    def _read_events(self, since: datetime, until: datetime) -> Iterator[Json]:
        """Yield the events of [since, until), newest first. Raises ProviderError."""
        # The API takes milliseconds and includes both ends of the range.
        first, end = (int(time.timestamp() * 1000) for time in (since, until))
        time_range = {"startDate": first, "endDate": max(first, end - 1), "pageSize": _EVENTS_PER_PAGE}

        def fetch_page(number: int) -> Json:
            return self._client.post(_EVENTS_PATH, time_range | {"page": number})

        # Equal events are legal: only their number shows whether some are missing or came twice.
        first_total: int | None = None
        largest_total = previous_total = 0
        previous_events: list[Json] = []
        received = 0
        for page in paginate_by_number(fetch_page, _has_next_page):
            events = list_field(page, "usageEvents")
            total = int_field(page, "totalUsageEventsCount")
            if first_total is None:
                first_total = previous_total = total
            largest_total = max(largest_total, total)
            # Newest first: events that arrive between two requests move as many from the end of the previous page
            # to the beginning of this one.
            shift = total - previous_total
            is_shifted = shift > 0 and events[:shift] == previous_events[-shift:]
            new_events = events[shift:] if is_shifted else events
            received += len(new_events)
            previous_total, previous_events = total, events
            yield from new_events
            # No further page can bring what is missing, and a list whose pages are empty may have no end.
            if received > largest_total or not events:
                break
        if first_total is not None and not first_total <= received <= largest_total:
            total = first_total if received < first_total else largest_total
            raise Malformed(f"{received} events came, but there are {total}", "totalUsageEventsCount")

    def _event_labels(self, event: Json, time: datetime, groups: _Groups) -> RowLabels:
        """Return the labels of an event's rows, without the meter."""
        workspace = ""
        for membership in groups.memberships.get(str_field(event, "userEmail").lower(), ()):
            if membership.joined <= time < membership.left:
                workspace = membership.group_id
                break
        return RowLabels(
            meter="",
            workspace=workspace,
            model=str_field(event, "model"),
            tier=_parse_tier(event),
            api_key=str_field(event, "serviceAccountId") if self._by_api_key else "",
        )

    def _read_groups(self) -> _Groups:
        try:
            groups = list_field(self._client.get("/teams/groups"), "groups")
        except (KeyRejected, Unsupported):
            # A plan without billing groups. A key that is rejected altogether fails when the events are read.
            self._groups = self._groups or _Groups({}, {})
            return self._groups
        names: dict[str, str] = {}
        memberships: dict[str, list[_Membership]] = {}
        for group in groups:
            names[str_field(group, "id")] = str_field(group, "name") or "unnamed"
            for email, membership in _parse_memberships(group):
                memberships.setdefault(email, []).append(membership)
        self._groups = _Groups(names, memberships)
        return self._groups


def _parse_memberships(group: Json) -> Iterator[tuple[str, _Membership]]:
    """Yield (lower-case e-mail address, membership) of a group's current and former members."""
    group_id = str_field(group, "id")
    for name in ("currentMembers", "formerMembers"):
        members = list_field(group, name) if name in group else []
        for member in members:
            joined = time_field(member, "joinedAt") if member.get("joinedAt") else datetime.min.replace(tzinfo=UTC)
            left = time_field(member, "leftAt") if member.get("leftAt") else datetime.max.replace(tzinfo=UTC)
            yield str_field(member, "email").lower(), _Membership(joined, left, group_id)


def _parse_meter_values(event: Json) -> dict[str, int]:
    """Return meter -> value of one event: one request, its tokens, and its cost where it has one."""
    tokens = object_field(event, "tokenUsage")
    values = {REQUESTS: 1}
    for name, meter in _TOKEN_FIELDS.items():
        values[meter] = int_field(tokens, name, 0)
    if event.get("chargedCents") is not None or bool_field(event, "isChargeable"):
        values[COST] = money_field(event, "chargedCents", NANO // 100)
    return values


def _parse_tier(event: Json) -> str:
    """Return how an event is charged; its kind comes as a constant or as text, depending on the API's version."""
    kind = str_field(event, "kind").lower().replace("_", " ").removeprefix("usage event kind ").replace("-", " ")
    if kind.startswith("included"):
        return "included"
    if "not charged" in kind:
        return "not_charged"
    if bool_field(event, "isChargeable") or kind.startswith(("usage based", "on demand")):
        return "on_demand"
    return "other"


def _has_next_page(page: Json) -> bool:
    return required_field(object_field(page, "pagination"), "hasNextPage", bool)
