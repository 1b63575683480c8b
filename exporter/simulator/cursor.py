"""Cursor's admin API: a team's usage events, members and billing groups."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from exporter.model import DAY, utc
from exporter.simulator.accounts import Member, SimAccount
from exporter.simulator.events import Event
from exporter.simulator.http import Answer, Call, Problem, Refused
from exporter.simulator.world import World

_HOUR_MS = 3_600_000
_LONGEST_MS = 30 * 24 * _HOUR_MS
_NANO_PER_CENT = 10_000_000
_TOKEN_FIELDS = {
    "inputTokens": "uncached_input",
    "outputTokens": "output",
    "cacheWriteTokens": "cache_write",
    "cacheReadTokens": "cache_read",
}
_REFUSALS: Mapping[Problem, tuple[int, str, str]] = {
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
class _Asked:
    """One call of one account in one world."""

    world: World
    account: SimAccount
    call: Call


def key_of(call: Call) -> str:
    """Return the user name of Basic authorization; its password stays empty."""
    encoded = call.headers.get("authorization", "").removeprefix("Basic ")
    try:
        return base64.b64decode(encoded).decode().partition(":")[0]
    except (binascii.Error, UnicodeDecodeError):
        return ""


def kind_of(key: str) -> Problem:
    """Tell another provider's key from an unknown team key."""
    return "unknown_key" if key.startswith(("crsr_", "key_")) or not key else "wrong_key"


def refuse(problem: Problem, message: str = "") -> Answer:
    """Word an error: `{"error", "message"}`."""
    status, error, usual = _REFUSALS[problem]
    return Answer(status, {"error": error, "message": message or usual})


def answer(world: World, account: SimAccount, call: Call) -> Answer:
    """Answer a call below /teams. Raises Refused."""
    route = _ROUTES.get((call.method, call.path.strip("/")))
    if route is None:
        raise Refused("not_found")
    return route(_Asked(world, account, call))


def _usage_events(asked: _Asked) -> Answer:
    start, end = _number(asked.call, "startDate"), _number(asked.call, "endDate")
    page, size = _number(asked.call, "page", 1), _number(asked.call, "pageSize", 100)
    if end < start:
        raise Refused("bad_request", "endDate must not be before startDate")
    if end - start > _LONGEST_MS:
        raise Refused("bad_request", "Date range cannot exceed 30 days")
    if not 1 <= size <= 1000 or page < 1:
        raise Refused("bad_request", "pageSize must be between 1 and 1000, page at least 1")
    events = list(_newest_first(asked, start, end))
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
        "usageEvents": [_event(event) for event in events[(page - 1) * size : page * size]],
        "period": {"startDate": start, "endDate": end},
    }
    return Answer(200, body, page)


def _newest_first(asked: _Asked, start: int, end: int) -> Iterator[Event]:
    """Yield the told events of [start, end], both inclusive milliseconds."""
    email, bot = asked.call.body.get("email"), asked.call.body.get("serviceAccountId")
    now = int(asked.world.clock().timestamp() * 1000)
    newest = min(end, now) // _HOUR_MS
    for hour in range(newest, max(start // _HOUR_MS, int(asked.world.began.timestamp()) // 3600) - 1, -1):
        events = asked.world.events(asked.account.name, hour * 3600)
        whole = start <= hour * _HOUR_MS and end >= (hour + 1) * _HOUR_MS - 1
        if whole and email is None and bot is None:
            yield from reversed(events)
        else:
            yield from (event for event in reversed(events) if start <= event.moment <= end and _by(event, email, bot))


def _by(event: Event, email: object, bot: object) -> bool:
    return email in {None, event.member.email} and bot in {None, event.member.service_account}


def _event(event: Event) -> dict[str, object]:
    bot = event.member.service_account
    told: dict[str, object] = {
        "timestamp": str(event.moment),
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
        told["tokenUsage"] = tokens | {"totalCents": event.model_nano / _NANO_PER_CENT}
    if event.fee_nano:
        told["cursorTokenFee"] = event.fee_nano / _NANO_PER_CENT
    return told


def _members(asked: _Asked) -> Answer:
    team = [
        {"id": member.id, "name": member.name, "email": member.email, "role": "member", "isRemoved": False}
        for member in asked.account.members
        if not member.service_account
    ]
    return Answer(200, {"teamMembers": team})


def _groups(asked: _Asked) -> Answer:
    account = asked.account
    if not account.groups:
        raise Refused("plan")
    begin, end = _cycle(asked)
    spent = _spending(asked, begin, end)
    groups = [_group(asked, group, name, spent) for group, name in account.workspaces.items()]
    return Answer(
        200,
        {
            "groups": groups,
            "unassignedGroup": _group(asked, "", "Unassigned", spent),
            "billingCycle": {"cycleStart": _iso(begin), "cycleEnd": _iso(end)},
        },
    )


def _cycle(asked: _Asked) -> tuple[datetime, datetime]:
    """Return the calendar month that holds the `billingCycle` parameter, or the clock."""
    now = asked.world.clock()
    try:
        day = datetime.fromisoformat(asked.call.one("billingCycle")) if "billingCycle" in asked.call.query else now
    except ValueError:
        raise Refused("bad_request", "billingCycle must be an ISO date") from None
    first = day.replace(day=1, hour=0, minute=0, second=0, microsecond=0, tzinfo=now.tzinfo)
    return first, (first + 32 * DAY).replace(day=1)


def _spending(asked: _Asked, begin: datetime, end: datetime) -> dict[tuple[str, str], int]:
    """Return (member id, date) -> nano-USD told of the cycle."""
    spent: dict[tuple[str, str], int] = {}
    for event in _newest_first(asked, int(begin.timestamp() * 1000), int(end.timestamp() * 1000) - 1):
        key = event.member.id, utc(event.moment / 1000).date().isoformat()
        spent[key] = spent.get(key, 0) + event.charged_nano
    return spent


def _group(asked: _Asked, group: str, name: str, spent: Mapping[tuple[str, str], int]) -> dict[str, object]:
    members = [member for member in asked.account.members if member.group == group]
    ids = {member.id for member in members}
    days: dict[str, int] = {}
    for (member, day), nano in spent.items():
        if member in ids:
            days[day] = days.get(day, 0) + nano
    joined = _iso(asked.world.began - 400 * DAY)
    return {
        "id": group or "group_unassigned",
        "name": name,
        "type": "BILLING",
        "directoryGroupId": None,
        "memberCount": len(members),
        "createdAt": joined,
        "updatedAt": joined,
        "spendCents": sum(days.values()) / _NANO_PER_CENT,
        "currentMembers": [_membership(member, joined, spent) for member in members],
        "formerMembers": [],
        "dailySpend": [{"date": day, "spendCents": nano / _NANO_PER_CENT} for day, nano in sorted(days.items())],
    }


def _membership(member: Member, joined: str, spent: Mapping[tuple[str, str], int]) -> dict[str, object]:
    nano = sum(amount for (who, _), amount in spent.items() if who == member.id)
    return {
        "userId": member.id,
        "name": member.name,
        "email": member.email,
        "joinedAt": joined,
        "leftAt": None,
        "spendCents": nano / _NANO_PER_CENT,
    }


def _iso(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.000Z")


def _number(call: Call, name: str, default: int | None = None) -> int:
    value = call.body.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise Refused("bad_request", f"{name} must be a whole number")
    return int(value)


_ROUTES: Mapping[tuple[str, str], Callable[[_Asked], Answer]] = {
    ("POST", "teams/filtered-usage-events"): _usage_events,
    ("GET", "teams/members"): _members,
    ("GET", "teams/groups"): _groups,
}
