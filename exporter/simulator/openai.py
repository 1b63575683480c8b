"""OpenAI's organization API: usage reports, costs, projects and their API keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from exporter.model import DAY, NANO, utc
from exporter.simulator.accounts import SimAccount, Stream
from exporter.simulator.billing import Charge
from exporter.simulator.http import (
    ApiError,
    ApiResponse,
    BucketWidth,
    Call,
    ErrorKind,
    aligned_slots,
    paginate_list,
    paginate_slots,
    sum_by_labels,
)
from exporter.simulator.openai_rows import IMAGE_SIZES, USAGE_REPORTS, UsageReport
from exporter.simulator.world import World

_DAY_SECONDS = 86400
_BUCKET_WIDTHS = {
    "1m": BucketWidth(seconds=60, default_limit=60, max_limit=1440),
    "1h": BucketWidth(seconds=3600, default_limit=24, max_limit=168),
    "1d": BucketWidth(seconds=_DAY_SECONDS, default_limit=7, max_limit=31),
}

_LABELS: Mapping[str, Callable[[Stream], object]] = {
    "project_id": lambda stream: stream.workspace or None,
    "user_id": lambda stream: f"user-{stream.api_key.removeprefix('key_')}" if stream.api_key else None,
    "api_key_id": lambda stream: stream.api_key or None,
    "model": lambda stream: stream.model,
    "batch": lambda stream: stream.tier == "batch",
    "service_tier": lambda stream: "default" if stream.tier in {"standard", "batch"} else stream.tier,
    "source": lambda _stream: "image.generation",
    "size": lambda _stream: IMAGE_SIZES[0],
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
_ERRORS: Mapping[ErrorKind, tuple[int, str, str | None, str]] = {
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
class _CallContext:
    """A call with its account and its world."""

    world: World
    account: SimAccount
    call: Call


def extract_key(call: Call) -> str:
    """Return the bearer token."""
    return call.headers.get("authorization", "").removeprefix("Bearer ").strip()


def classify_key(key: str) -> ErrorKind:
    """Return `wrong_key` for project, service account and personal keys, else `unknown_key`."""
    return "wrong_key" if key.startswith("sk-") and not key.startswith("sk-admin-") else "unknown_key"


def error_response(error_kind: ErrorKind, message: str = "") -> ApiResponse:
    """Return an error as the API does: `{"error": {message, type, param, code}}`."""
    status, error_type, code, default_message = _ERRORS[error_kind]
    error = {"message": message or default_message, "type": error_type, "param": None, "code": code}
    return ApiResponse(status, {"error": error})


def handle(world: World, account: SimAccount, call: Call) -> ApiResponse:
    """Answer a GET below /organization. Raises ApiError."""
    context = _CallContext(world, account, call)
    match (call.method, *call.path.strip("/").split("/")):
        case ("GET", "organization", "usage", report) if report in USAGE_REPORTS:
            return _usage(context, USAGE_REPORTS[report])
        case ("GET", "organization", "costs"):
            return _costs(context)
        case ("GET", "organization", "projects"):
            return _projects(context)
        case ("GET", "organization", "projects", project, "api_keys") if project in account.workspaces:
            return _api_keys(context, project)
    raise ApiError("not_found")


def _usage(context: _CallContext, report: UsageReport) -> ApiResponse:
    call = context.call
    width = call.param("bucket_width", "1d")
    if width not in _BUCKET_WIDTHS:
        raise ApiError("bad_request", f"bucket_width: {width!r} is not one of {', '.join(_BUCKET_WIDTHS)}")
    bucket_width = _BUCKET_WIDTHS[width]
    group_by = call.choices("group_by", report.group_by)
    start, end = _time_range(context)
    page = paginate_slots(
        call,
        lambda begin: aligned_slots(begin, end, bucket_width.seconds),
        start - start % 60,
        call.limit(bucket_width.default_limit, bucket_width.max_limit),
    )
    buckets = [(slot, list(_results(context, report, group_by, *slot))) for slot in page.slots]
    return _page_response(buckets, page.next_page, page.number)


def _time_range(context: _CallContext) -> tuple[int, int]:
    """Return (start, end) in epoch seconds, the end at most now."""
    now = int(context.world.clock().timestamp())
    start, end = context.call.int_param("start_time"), context.call.int_param("end_time", now)
    if end <= start and "end_time" in context.call.query:
        raise ApiError("bad_request", "end_time: must be after start_time")
    return start, min(end, now)


def _results(
    context: _CallContext, report: UsageReport, group_by: tuple[str, ...], start: int, end: int
) -> Iterator[dict[str, object]]:
    usage = context.world.usage(context.account.name, report.path, start, end)
    selected = ((stream, units) for stream, units in usage if _matches_filters(context.call, stream))
    nulls = dict.fromkeys(report.group_by)
    for labels, units in sum_by_labels(selected, group_by, _LABELS):
        fields = report.fields(units, details=context.account.token_details)
        yield {"object": report.object_name, **fields, **nulls, **labels}


def _matches_filters(call: Call, stream: Stream) -> bool:
    filters = call.query.keys() & _FILTERS.keys()
    return all(str(_LABELS[_FILTERS[name]](stream)).lower() in _lowercase(call.query[name]) for name in filters)


def _lowercase(values: tuple[str, ...]) -> set[str]:
    return {value.lower() for value in values}


def _costs(context: _CallContext) -> ApiResponse:
    call = context.call
    if call.param("bucket_width", "1d") != "1d":
        raise ApiError("bad_request", "bucket_width: costs are only available per day, 1d")
    group_by = call.choices("group_by", _COST_LABELS)
    start, end = _time_range(context)
    last = -(-end // _DAY_SECONDS) * _DAY_SECONDS
    page = paginate_slots(
        call, lambda begin: aligned_slots(begin, last, _DAY_SECONDS), start - start % _DAY_SECONDS, call.limit(7, 180)
    )
    buckets = [((day, day + _DAY_SECONDS), list(_cost_results(context, group_by, day))) for day, _ in page.slots]
    return _page_response(buckets, page.next_page, page.number)


def _cost_results(context: _CallContext, group_by: tuple[str, ...], day: int) -> Iterator[dict[str, object]]:
    account, call = context.account, context.call
    charges = [
        (charge, {"nano": charge.nano, "units": charge.units})
        for charge in context.world.issued_charges(account.name, utc(day))
        if charge.line.workspace in call.query.get("project_ids", (charge.line.workspace,))
        and charge.line.api_key in call.query.get("api_key_ids", (charge.line.api_key,))
    ]
    units = {charge.line.label: charge.line.unit for charge, _ in charges}
    for labels, sums in sum_by_labels(charges, group_by, _COST_LABELS):
        unit = units.get(str(labels.get("line_item")), "")
        nulls = dict.fromkeys(_COST_LABELS)
        quantity = sums["units"] / 2**30 if unit == "gibibyte_hours" else sums["units"]
        yield {
            "object": "organization.costs.result",
            "amount": {"value": _format_amount(account, sums["nano"]), "currency": "usd"},
            **nulls,
            **labels,
            "quantity": quantity if quantity and "line_item" in labels else None,
            "quantity_unit": unit or None,
        }


def _format_amount(account: SimAccount, nano: int) -> float | str:
    # A double represents every whole number of nano-USD below nine million dollars exactly.
    return nano / NANO if account.amount_format == "number" else f"{nano // NANO}.{nano % NANO:09d}"


def _page_response(
    buckets: list[tuple[tuple[int, int], list[dict[str, object]]]], next_page: str | None, page: int
) -> ApiResponse:
    data = [
        {"object": "bucket", "start_time": start, "end_time": end, "results": results}
        for (start, end), results in buckets
    ]
    body = {"object": "page", "data": data, "has_more": next_page is not None, "next_page": next_page}
    return ApiResponse(200, body, page)


def _projects(context: _CallContext) -> ApiResponse:
    account, created = context.account, int((context.world.start_time - 400 * DAY).timestamp())
    include_archived = context.call.param("include_archived") == "true"
    projects: list[Mapping[str, object]] = [
        {
            "id": project,
            "object": "organization.project",
            "name": name,
            "created_at": created,
            "archived_at": created + 300 * _DAY_SECONDS if project in account.archived_workspaces else None,
            "status": "archived" if project in account.archived_workspaces else "active",
        }
        for project, name in account.workspaces.items()
        if include_archived or project not in account.archived_workspaces
    ]
    return _list_response(context.call, projects)


def _api_keys(context: _CallContext, project: str) -> ApiResponse:
    created = int((context.world.start_time - 200 * DAY).timestamp())
    describe = partial(_render_api_key, created=created)
    account = context.account
    owned = [key for key, workspace in account.key_workspaces().items() if workspace == project]
    return _list_response(context.call, [describe(key, account.api_keys.get(key, key)) for key in owned])


def _render_api_key(key: str, name: str, created: int) -> Mapping[str, object]:
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


def _list_response(call: Call, items: list[Mapping[str, object]]) -> ApiResponse:
    data, more, page = paginate_list(items, lambda item: str(item["id"]), call.param("after"), call.limit(20, 100))
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return ApiResponse(
        200, {"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": more}, page
    )
