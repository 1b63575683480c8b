"""OpenAI's organization API: usage by kind, costs, projects and their API keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from exporter.model import DAY, NANO, utc
from exporter.simulator.accounts import SimAccount, Stream
from exporter.simulator.billing import Charge
from exporter.simulator.http import Answer, Call, Problem, Refused, aligned, grouped, listed, walk_slots
from exporter.simulator.openai_rows import KINDS, SIZES, Kind
from exporter.simulator.world import World

_DAY_SECONDS = 86400
_WIDTHS = {"1m": (60, 60, 1440), "1h": (3600, 24, 168), "1d": (_DAY_SECONDS, 7, 31)}
"""Bucket width -> (seconds, default limit, largest limit)."""

_LABELS: Mapping[str, Callable[[Stream], object]] = {
    "project_id": lambda stream: stream.workspace or None,
    "user_id": lambda stream: f"user-{stream.api_key.removeprefix('key_')}" if stream.api_key else None,
    "api_key_id": lambda stream: stream.api_key or None,
    "model": lambda stream: stream.model,
    "batch": lambda stream: stream.tier == "batch",
    "service_tier": lambda stream: "default" if stream.tier in {"standard", "batch"} else stream.tier,
    "source": lambda _stream: "image.generation",
    "size": lambda _stream: SIZES[0],
    "vector_store_id": lambda stream: f"vs_{stream.workspace.removeprefix('proj_')}",
    "context_level": lambda _stream: "medium",
}
_FILTERS = {
    "project_ids": "project_id",
    "user_ids": "user_id",
    "api_key_ids": "api_key_id",
    "models": "model",
    "batch": "batch",
    "sources": "source",
    "sizes": "size",
    "vector_store_ids": "vector_store_id",
    "context_levels": "context_level",
}
_COST_LABELS: Mapping[str, Callable[[Charge], object]] = {
    "project_id": lambda charge: charge.line.workspace or None,
    "line_item": lambda charge: charge.line.label,
    "api_key_id": lambda charge: charge.line.api_key or None,
}
_REFUSALS: Mapping[Problem, tuple[int, str, str | None, str]] = {
    "bad_request": (400, "invalid_request_error", None, "Invalid request."),
    "not_found": (404, "invalid_request_error", None, "Unknown request URL or object."),
    "unknown_key": (401, "invalid_request_error", "invalid_api_key", "Incorrect API key provided: sk-****."),
    "revoked": (401, "invalid_request_error", "invalid_api_key", "Incorrect API key provided: it has been revoked."),
    "expired": (401, "invalid_request_error", "invalid_api_key", "Incorrect API key provided: it has expired."),
    "wrong_key": (403, "invalid_request_error", None, "Insufficient permissions. Missing scopes: api.usage.read."),
    "missing_scope": (
        403,
        "insufficient_permissions",
        None,
        "Insufficient permissions. Missing scopes: api.usage.read.",
    ),
    "plan": (403, "invalid_request_error", None, "This organization has no access to this endpoint."),
    "rate_limited": (429, "requests", "rate_limit_exceeded", "Rate limit reached, slow down."),
    "overloaded": (529, "server_error", None, "The engine is overloaded, try again later."),
    "server_error": (500, "server_error", None, "The server had an error while processing the request."),
}


@dataclass(frozen=True, slots=True)
class _Asked:
    """One call of one account in one world."""

    world: World
    account: SimAccount
    call: Call


def key_of(call: Call) -> str:
    """Return the bearer token."""
    return call.headers.get("authorization", "").removeprefix("Bearer ").strip()


def kind_of(key: str) -> Problem:
    """Tell a key of another kind (project, service account, plain) from an unknown admin key."""
    return "wrong_key" if key.startswith("sk-") and not key.startswith("sk-admin-") else "unknown_key"


def refuse(problem: Problem, message: str = "") -> Answer:
    """Word an error: `{"error": {message, type, param, code}}`."""
    status, kind, code, usual = _REFUSALS[problem]
    return Answer(status, {"error": {"message": message or usual, "type": kind, "param": None, "code": code}})


def answer(world: World, account: SimAccount, call: Call) -> Answer:
    """Answer a GET below /organization. Raises Refused."""
    asked = _Asked(world, account, call)
    match (call.method, *call.path.strip("/").split("/")):
        case ("GET", "organization", "usage", kind) if kind in KINDS:
            return _usage(asked, KINDS[kind])
        case ("GET", "organization", "costs"):
            return _costs(asked)
        case ("GET", "organization", "projects"):
            return _projects(asked)
        case ("GET", "organization", "projects", project, "api_keys") if project in account.workspaces:
            return _api_keys(asked, project)
    raise Refused("not_found")


def _usage(asked: _Asked, kind: Kind) -> Answer:
    call = asked.call
    width = call.one("bucket_width", "1d")
    if width not in _WIDTHS:
        raise Refused("bad_request", f"bucket_width: {width!r} is not one of {', '.join(_WIDTHS)}")
    seconds, default, most = _WIDTHS[width]
    by = call.choices("group_by", kind.groups)
    start, end = _range(asked)
    walk = walk_slots(call, lambda begin: aligned(begin, end, seconds), start - start % 60, call.limit(default, most))
    buckets = [(slot, list(_results(asked, kind, by, *slot))) for slot in walk.slots]
    return _page(buckets, walk.next_page, walk.number)


def _range(asked: _Asked) -> tuple[int, int]:
    """Return (start, end) in epoch seconds, the end at most now."""
    now = int(asked.world.clock().timestamp())
    start, end = asked.call.whole("start_time"), asked.call.whole("end_time", now)
    if end <= start and "end_time" in asked.call.query:
        raise Refused("bad_request", "end_time: must be after start_time")
    return start, min(end, now)


def _results(asked: _Asked, kind: Kind, by: tuple[str, ...], start: int, end: int) -> Iterator[dict[str, object]]:
    use = asked.world.use(asked.account.name, kind.path, start, end)
    chosen = ((stream, units) for stream, units in use if _wanted(asked.call, stream))
    nulls = dict.fromkeys(kind.groups)
    for labels, units in grouped(chosen, by, _LABELS):
        fields = kind.fields(units, details=asked.account.details)
        yield {"object": kind.object, **fields, **nulls, **labels}


def _wanted(call: Call, stream: Stream) -> bool:
    filters = call.query.keys() & _FILTERS.keys()
    return all(str(_LABELS[_FILTERS[name]](stream)).lower() in _lowered(call.query[name]) for name in filters)


def _lowered(values: tuple[str, ...]) -> set[str]:
    return {value.lower() for value in values}


def _costs(asked: _Asked) -> Answer:
    call = asked.call
    if call.one("bucket_width", "1d") != "1d":
        raise Refused("bad_request", "bucket_width: costs are told by day, 1d")
    by = call.choices("group_by", _COST_LABELS)
    start, end = _range(asked)
    last = -(-end // _DAY_SECONDS) * _DAY_SECONDS
    walk = walk_slots(
        call, lambda begin: aligned(begin, last, _DAY_SECONDS), start - start % _DAY_SECONDS, call.limit(7, 180)
    )
    buckets = [((day, day + _DAY_SECONDS), list(_bill(asked, by, day))) for day, _ in walk.slots]
    return _page(buckets, walk.next_page, walk.number)


def _bill(asked: _Asked, by: tuple[str, ...], day: int) -> Iterator[dict[str, object]]:
    account, call = asked.account, asked.call
    if not asked.world.billed(account.name, utc(day)):
        return
    charges = [
        (charge, {"nano": charge.nano, "units": charge.units})
        for charge in asked.world.charges(account.name, utc(day))
        if charge.line.workspace in call.query.get("project_ids", (charge.line.workspace,))
        and charge.line.api_key in call.query.get("api_key_ids", (charge.line.api_key,))
    ]
    units = {charge.line.label: charge.line.unit for charge, _ in charges}
    for labels, sums in grouped(charges, by, _COST_LABELS):
        unit = units.get(str(labels.get("line_item")), "")
        nulls = dict.fromkeys(_COST_LABELS)
        quantity = sums["units"] / 2**30 if unit == "gibibyte_hours" else sums["units"]
        yield {
            "object": "organization.costs.result",
            "amount": {"value": _dollars(account, sums["nano"]), "currency": "usd"},
            **nulls,
            **labels,
            "quantity": quantity if quantity and "line_item" in labels else None,
            "quantity_unit": unit or None,
        }


def _dollars(account: SimAccount, nano: int) -> float | str:
    # A double holds every whole number of nano-USD below nine million dollars, so its repr loses none.
    return nano / NANO if account.amount_as == "number" else f"{nano // NANO}.{nano % NANO:09d}"


def _page(buckets: list[tuple[tuple[int, int], list[dict[str, object]]]], next_page: str | None, page: int) -> Answer:
    data = [
        {"object": "bucket", "start_time": start, "end_time": end, "results": results}
        for (start, end), results in buckets
    ]
    body = {"object": "page", "data": data, "has_more": next_page is not None, "next_page": next_page}
    return Answer(200, body, page)


def _projects(asked: _Asked) -> Answer:
    account, created = asked.account, int((asked.world.began - 400 * DAY).timestamp())
    shown = asked.call.one("include_archived") == "true"
    projects: list[Mapping[str, object]] = [
        {
            "id": project,
            "object": "organization.project",
            "name": name,
            "created_at": created,
            "archived_at": created + 300 * _DAY_SECONDS if project in account.archived else None,
            "status": "archived" if project in account.archived else "active",
        }
        for project, name in account.workspaces.items()
        if shown or project not in account.archived
    ]
    return _list(asked.call, projects)


def _api_keys(asked: _Asked, project: str) -> Answer:
    created = int((asked.world.began - 200 * DAY).timestamp())
    describe = partial(_api_key, created=created)
    account = asked.account
    owned = [key for key, workspace in account.key_workspaces().items() if workspace == project]
    return _list(asked.call, [describe(key, account.api_keys.get(key, key)) for key in owned])


def _api_key(key: str, name: str, created: int) -> Mapping[str, object]:
    owner = {"id": f"svc_{key}", "name": name, "created_at": created, "role": "member"}
    return {
        "object": "organization.project.api_key",
        "redacted_value": f"sk-svcacct-...{key[-4:]}",
        "name": name,
        "created_at": created,
        "last_used_at": None,
        "id": key,
        "owner_project_access": "active",
        "owner": {"type": "service_account", "service_account": owner},
    }


def _list(call: Call, items: list[Mapping[str, object]]) -> Answer:
    data, more, page = listed(items, lambda item: str(item["id"]), call.one("after"), call.limit(20, 100))
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return Answer(200, {"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": more}, page)
