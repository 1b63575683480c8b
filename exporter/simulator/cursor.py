"""Cursor's Admin API: usage events, members and billing groups of a team."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from exporter.model import DAY, utc
from exporter.simulator.accounts import Member, SimAccount
from exporter.simulator.events import CursorEvent
from exporter.simulator.http import ApiError, ApiResponse, Call, ErrorKind
from exporter.simulator.world import World

_HOUR_MS = 3_600_000
_MAX_RANGE_MS = 30 * 24 * _HOUR_MS
_NANO_PER_CENT = 10_000_000
_TOKEN_FIELDS = {
    "inputTokens": "uncached_input",
    "outputTokens": "output",
    "cacheWriteTokens": "cache_write",
    "cacheReadTokens": "cache_read",
}
_ERRORS: Mapping[ErrorKind, tuple[int, str, str]] = {
    "bad_request": (400, "Bad Request", "Invalid request"),
    "not_found": (404, "Not Found", "No such endpoint"),
    "unknown_key": (401, "Unauthorized", "Invalid API key"),
    "wrong_key": (401, "Unauthorized", "Invalid API key: a team key is required"),
    "revoked": (401, "Unauthorized", "Invalid API key: it has been revoked"),
    "expired": (401, "Unauthorized", "Invalid API key: it has expired"),
    "missing_scope": (401, "Unauthorized", "API key is missing required scope: admin:*"),
    "plan": (403, "Forbidden", "Billing groups are part of the Enterprise plan"),
    "rate_limited": (429, "Too Many Requests", "Rate limit exceeded, try again in a minute"),
    "overloaded": (529, "Overloaded", "Try again later"),
    "server_error": (500, "Internal Server Error", "Something went wrong"),
}


@dataclass(frozen=True, slots=True)
class _CallContext:
    """A call with its account and its world."""

    world: World
    account: SimAccount
    call: Call


def extract_key(call: Call) -> str:
    """Return the user name of the Basic authorization; the password is empty."""
    encoded = call.headers.get("authorization", "").removeprefix("Basic ")
    try:
        return base64.b64decode(encoded).decode().partition(":")[0]
    except (binascii.Error, UnicodeDecodeError):
        return ""


def classify_key(key: str) -> ErrorKind:
    """Return `wrong_key` for keys of other providers, else `unknown_key`."""
    return "unknown_key" if key.startswith(("crsr_", "key_")) or not key else "wrong_key"


def error_response(error_kind: ErrorKind, message: str = "") -> ApiResponse:
    """Return an error as the API does: `{"error", "message"}`."""
    status, error, default_message = _ERRORS[error_kind]
    return ApiResponse(status, {"error": error, "message": message or default_message})


def handle(world: World, account: SimAccount, call: Call) -> ApiResponse:
    """Answer a call below /teams. Raises ApiError."""
    route = _ROUTES.get((call.method, call.path.strip("/")))
    if route is None:
        raise ApiError("not_found")
    return route(_CallContext(world, account, call))


def _usage_events(context: _CallContext) -> ApiResponse:
    start, end = _int_param(context.call, "startDate"), _int_param(context.call, "endDate")
    page, size = _int_param(context.call, "page", 1), _int_param(context.call, "pageSize", 100)
    if end < start:
        raise ApiError("bad_request", "endDate must not be before startDate")
    if end - start > _MAX_RANGE_MS:
        raise ApiError("bad_request", "Date range cannot exceed 30 days")
    if not 1 <= size <= 1000 or page < 1:
        raise ApiError("bad_request", "pageSize must be between 1 and 1000, page at least 1")
    events = _events_newest_first(context, start, end)
    pages = -(-len(events) // size)
    body = {
        "totalUsageEventsCount": len(events),
        "pagination": {
            "numPages": pages,
            "currentPage": page,
            "pageSize": size,
            "hasNextPage": page < pages,
            "hasPreviousPage": page > 1,
        },
        "usageEvents": [_render_event(event) for event in events[(page - 1) * size : page * size]],
        "period": {"startDate": start, "endDate": end},
    }
    return ApiResponse(200, body, page)


def _events_newest_first(context: _CallContext, start: int, end: int) -> list[CursorEvent]:
    """Return the reported events of [start, end], in epoch milliseconds, both inclusive."""
    email, bot = context.call.body.get("email"), context.call.body.get("serviceAccountId")
    events: list[CursorEvent] = []
    for hour in _hours_newest_first(context, start, end):
        hour_events = context.world.events(context.account.name, hour * 3600)
        is_whole_hour = start <= hour * _HOUR_MS and end >= (hour + 1) * _HOUR_MS - 1
        if is_whole_hour and email is None and bot is None:
            events.extend(reversed(hour_events))
        else:
            events.extend(
                event
                for event in reversed(hour_events)
                if start <= event.time_ms <= end and _matches_user(event, email, bot)
            )
    return events


def _hours_newest_first(context: _CallContext, start: int, end: int) -> range:
    """Return the hours since the epoch, up to now, that [start, end], in epoch milliseconds, touches."""
    now = int(context.world.clock().timestamp() * 1000)
    oldest = max(start // _HOUR_MS, int(context.world.start_time.timestamp()) // 3600)
    return range(min(end, now) // _HOUR_MS, oldest - 1, -1)


def _matches_user(event: CursorEvent, email: object, service_account: object) -> bool:
    return email in {None, event.member.email} and service_account in {None, event.member.service_account}


def _render_event(event: CursorEvent) -> dict[str, object]:
    bot = event.member.service_account
    fields: dict[str, object] = {
        "timestamp": str(event.time_ms),
        "userEmail": event.member.email,
        **({"serviceAccountId": bot, "serviceAccountName": event.member.name} if bot else {}),
        "model": event.model,
        "kind": event.kind,
        "maxMode": False,
        "requestsCosts": 0 if event.tier == "not_charged" else 1,
        "isTokenBasedCall": bool(event.tokens),
        "isChargeable": event.tier == "on_demand",
        "isHeadless": bool(bot),
        "chargedCents": event.charged_nano / _NANO_PER_CENT,
    }
    if event.tokens:
        tokens: dict[str, object] = {name: event.tokens.get(meter, 0) for name, meter in _TOKEN_FIELDS.items()}
        fields["tokenUsage"] = tokens | {"totalCents": event.model_nano / _NANO_PER_CENT}
    if event.fee_nano:
        fields["cursorTokenFee"] = event.fee_nano / _NANO_PER_CENT
    return fields


def _members(context: _CallContext) -> ApiResponse:
    team = [
        {"id": member.id, "name": member.name, "email": member.email, "role": "member", "isRemoved": False}
        for member in context.account.members
        if not member.service_account
    ]
    return ApiResponse(200, {"teamMembers": team})


def _groups(context: _CallContext) -> ApiResponse:
    account = context.account
    if not account.has_billing_groups:
        raise ApiError("plan")
    begin, end = _billing_cycle(context)
    spent = _cost_by_member_day(context, begin, end)
    groups = [_render_group(context, group, name, spent) for group, name in account.workspaces.items()]
    return ApiResponse(
        200,
        {
            "groups": groups,
            "unassignedGroup": _render_group(context, "", "Unassigned", spent),
            "billingCycle": {"cycleStart": _format_time(begin), "cycleEnd": _format_time(end)},
        },
    )


def _billing_cycle(context: _CallContext) -> tuple[datetime, datetime]:
    """Return the calendar month of the `billingCycle` parameter, or the current one."""
    now = context.world.clock()
    try:
        day = (
            datetime.fromisoformat(context.call.param("billingCycle")) if "billingCycle" in context.call.query else now
        )
    except ValueError:
        raise ApiError("bad_request", "billingCycle must be an ISO date") from None
    first = day.replace(day=1, hour=0, minute=0, second=0, microsecond=0, tzinfo=now.tzinfo)
    return first, (first + 32 * DAY).replace(day=1)


def _cost_by_member_day(context: _CallContext, begin: datetime, end: datetime) -> dict[tuple[str, str], int]:
    """Return (member id, date) -> reported nano-USD of the cycle, which begins and ends at midnight UTC."""
    spent: dict[tuple[str, str], int] = {}
    for hour in _hours_newest_first(context, int(begin.timestamp() * 1000), int(end.timestamp() * 1000) - 1):
        date = utc(hour * 3600).date().isoformat()
        for event in context.world.events(context.account.name, hour * 3600):
            key = event.member.id, date
            spent[key] = spent.get(key, 0) + event.charged_nano
    return spent


def _render_group(
    context: _CallContext, group: str, name: str, costs: Mapping[tuple[str, str], int]
) -> dict[str, object]:
    members = [member for member in context.account.members if member.group == group]
    ids = {member.id for member in members}
    days: dict[str, int] = {}
    for (member, day), nano in costs.items():
        if member in ids:
            days[day] = days.get(day, 0) + nano
    joined = _format_time(context.world.start_time - 400 * DAY)
    return {
        "id": group or "group_unassigned",
        "name": name,
        "type": "BILLING",
        "directoryGroupId": None,
        "memberCount": len(members),
        "createdAt": joined,
        "updatedAt": joined,
        "spendCents": sum(days.values()) / _NANO_PER_CENT,
        "currentMembers": [_render_membership(member, joined, costs) for member in members],
        "formerMembers": [],
        "dailySpend": [{"date": day, "spendCents": nano / _NANO_PER_CENT} for day, nano in sorted(days.items())],
    }


def _render_membership(member: Member, joined: str, costs: Mapping[tuple[str, str], int]) -> dict[str, object]:
    nano = sum(amount for (member_id, _), amount in costs.items() if member_id == member.id)
    return {
        "userId": member.id,
        "name": member.name,
        "email": member.email,
        "joinedAt": joined,
        "leftAt": None,
        "spendCents": nano / _NANO_PER_CENT,
    }


def _format_time(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z")


def _int_param(call: Call, name: str, default: int | None = None) -> int:
    value = call.body.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise ApiError("bad_request", f"{name} must be a whole number")
    return int(value)


_ROUTES: Mapping[tuple[str, str], Callable[[_CallContext], ApiResponse]] = {
    ("POST", "teams/filtered-usage-events"): _usage_events,
    ("GET", "teams/members"): _members,
    ("GET", "teams/groups"): _groups,
}
