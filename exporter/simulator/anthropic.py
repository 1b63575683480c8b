"""Anthropic's Admin API: messages usage, cost report, workspaces, API keys and the organization."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from exporter.model import DAY, utc
from exporter.simulator.accounts import SimAccount, Stream
from exporter.simulator.billing import Charge
from exporter.simulator.http import (
    ApiError,
    ApiResponse,
    BucketWidth,
    Call,
    ErrorKind,
    SlotPage,
    aligned_slots,
    paginate_list,
    paginate_slots,
    sum_by_labels,
)
from exporter.simulator.world import World

_DAY_SECONDS = 86400
_BUCKET_WIDTHS = {
    "1m": BucketWidth(seconds=60, default_limit=60, max_limit=1440),
    "1h": BucketWidth(seconds=3600, default_limit=24, max_limit=168),
    "1d": BucketWidth(seconds=_DAY_SECONDS, default_limit=7, max_limit=31),
}
_NANO_PER_CENT = 10_000_000
_FAST_MODE = "fast-mode-2026-02-01"

_LABELS: Mapping[str, Callable[[Stream], object]] = {
    "api_key_id": lambda stream: stream.api_key or None,
    "workspace_id": lambda stream: stream.workspace or None,
    "model": lambda stream: stream.model,
    "service_tier": lambda stream: stream.tier,
    "context_window": lambda stream: stream.context_window or "0-200k",
    "inference_geo": lambda stream: stream.region or "global",
    "account_id": lambda _stream: None,
    "service_account_id": lambda _stream: None,
}
_FILTERS = {
    "api_key_ids": "api_key_id",
    "workspace_ids": "workspace_id",
    "models": "model",
    "account_ids": "account_id",
    "service_account_ids": "service_account_id",
    "service_tiers": "service_tier",
    "context_window": "context_window",
    "inference_geos": "inference_geo",
}
_TOKEN_TYPES = {
    "uncached_input": "uncached_input_tokens",
    "output": "output_tokens",
    "cache_read": "cache_read_input_tokens",
    "cache_write_5m": "cache_creation.ephemeral_5m_input_tokens",
    "cache_write_1h": "cache_creation.ephemeral_1h_input_tokens",
}
_DESCRIPTION_LABELS: Mapping[str, Callable[[Charge], object]] = {
    "description": lambda charge: charge.line.label,
    "cost_type": lambda charge: (
        charge.line.cost_type or ("tokens" if charge.line.meter in _TOKEN_TYPES else "web_search")
    ),
    "model": lambda charge: charge.line.model or None,
    "token_type": lambda charge: _TOKEN_TYPES.get(charge.line.meter),
    "context_window": lambda charge: charge.line.context_window or None,
    "service_tier": lambda charge: charge.line.tier or None,
    "inference_geo": lambda charge: charge.line.region or None,
}
_COST_LABELS: Mapping[str, Callable[[Charge], object]] = {
    "workspace_id": lambda charge: charge.line.workspace or None,
    **_DESCRIPTION_LABELS,
}
_ERRORS: Mapping[ErrorKind, tuple[int, str, str]] = {
    "bad_request": (400, "invalid_request_error", "Invalid request."),
    "not_found": (404, "not_found_error", "Not found."),
    "unknown_key": (401, "authentication_error", "invalid x-api-key"),
    "wrong_key": (401, "authentication_error", "invalid x-api-key"),
    "revoked": (401, "authentication_error", "invalid x-api-key: the key has been revoked"),
    "expired": (401, "authentication_error", "invalid x-api-key: the key has expired"),
    "missing_scope": (403, "permission_error", "Missing scope. Got: user:profile. Needed: org:admin."),
    "plan": (403, "permission_error", "This organization has no access to this endpoint."),
    "rate_limited": (429, "rate_limit_error", "Rate limit exceeded, slow down."),
    "overloaded": (529, "overloaded_error", "Overloaded"),
    "server_error": (500, "api_error", "Internal server error"),
}


@dataclass(frozen=True, slots=True)
class _CallContext:
    """A call with its account and its world."""

    world: World
    account: SimAccount
    call: Call


def extract_key(call: Call) -> str:
    """Return the x-api-key header, or the bearer token."""
    bearer = call.headers.get("authorization", "").removeprefix("Bearer ").strip()
    return call.headers.get("x-api-key", bearer)


def classify_key(key: str) -> ErrorKind:
    """Return `wrong_key` for workspace keys and keys of other providers, else `unknown_key`."""
    return "wrong_key" if key.startswith(("sk-ant-api", "sk-proj-")) else "unknown_key"


def error_response(error_kind: ErrorKind, message: str = "") -> ApiResponse:
    """Return an error as the API does: `{"type": "error", "error": {type, message}}`."""
    status, error_type, default_message = _ERRORS[error_kind]
    error = {"type": error_type, "message": message or default_message}
    return ApiResponse(status, {"type": "error", "error": error})


def handle(world: World, account: SimAccount, call: Call) -> ApiResponse:
    """Answer a GET below /v1/organizations. Raises ApiError."""
    if "anthropic-version" not in call.headers:
        raise ApiError("bad_request", "anthropic-version: header is required")
    route = _ROUTES.get(call.path.strip("/"))
    if route is None or call.method != "GET":
        raise ApiError("not_found")
    return route(_CallContext(world, account, call))


def _usage(context: _CallContext) -> ApiResponse:
    call = context.call
    width = call.param("bucket_width", "1d")
    if width not in _BUCKET_WIDTHS:
        raise ApiError("bad_request", f"bucket_width: {width!r} is not one of {', '.join(_BUCKET_WIDTHS)}")
    bucket_width = _BUCKET_WIDTHS[width]
    group_by = call.choices("group_by", (*_LABELS, "speed"))
    if "speed" in group_by and _FAST_MODE not in call.headers.get("anthropic-beta", ""):
        raise ApiError("bad_request", f"group_by: speed needs the header anthropic-beta: {_FAST_MODE}")
    # Grouping by speed is allowed, but the published answer has no field for it.
    labels = tuple(name for name in group_by if name != "speed")
    page = _paginate(context, bucket_width.seconds, call.limit(bucket_width.default_limit, bucket_width.max_limit))
    return _page_response(page, [list(_results(context, labels, *slot)) for slot in page.slots])


def _results(context: _CallContext, group_by: Sequence[str], start: int, end: int) -> Iterator[dict[str, object]]:
    usage = context.world.usage(context.account.name, "messages", start, end)
    selected = ((stream, units) for stream, units in usage if _matches_filters(context.call, stream))
    for labels, units in sum_by_labels(selected, group_by, _LABELS):
        yield {
            "uncached_input_tokens": units.get("uncached_input", 0),
            "cache_read_input_tokens": units.get("cache_read", 0),
            "cache_creation": {
                "ephemeral_5m_input_tokens": units.get("cache_write_5m", 0),
                "ephemeral_1h_input_tokens": units.get("cache_write_1h", 0),
            },
            "output_tokens": units.get("output", 0),
            "server_tool_use": {"web_search_requests": units.get("web_searches", 0)},
            **dict.fromkeys(_LABELS),
            **labels,
        }


def _matches_filters(call: Call, stream: Stream) -> bool:
    filters = call.query.keys() & _FILTERS.keys()
    return all(_LABELS[_FILTERS[name]](stream) in call.query[name] for name in filters)


def _costs(context: _CallContext) -> ApiResponse:
    call = context.call
    if call.param("bucket_width", "1d") != "1d":
        raise ApiError("bad_request", "bucket_width: costs are only available per day, 1d")
    group_by = call.choices("group_by", ("workspace_id", "description"))
    labels: list[str] = []
    if "workspace_id" in group_by:
        labels.append("workspace_id")
    if "description" in group_by:
        labels.extend(_DESCRIPTION_LABELS)
    page = _paginate(context, _DAY_SECONDS, call.limit(7, 31))
    return _page_response(page, [list(_cost_results(context, labels, day)) for day, _ in page.slots])


def _cost_results(context: _CallContext, group_by: Sequence[str], day: int) -> Iterator[dict[str, object]]:
    name = context.account.name
    charges = [(charge, {"nano": charge.nano}) for charge in context.world.issued_charges(name, utc(day))]
    for labels, sums in sum_by_labels(charges, group_by, _COST_LABELS):
        nano = sums["nano"]
        amount = f"{nano // _NANO_PER_CENT}.{nano % _NANO_PER_CENT:07d}"
        yield {"amount": amount, "currency": "USD", **dict.fromkeys(_COST_LABELS), **labels}


def _paginate(context: _CallContext, width: int, limit: int) -> SlotPage:
    """Return a page of whole slots, from the one of `starting_at` to `ending_at` or the running slot."""
    now = int(context.world.clock().timestamp())
    start = _time_param(context.call, "starting_at")
    end = min(_time_param(context.call, "ending_at"), now) if "ending_at" in context.call.query else now
    last = -(-end // width) * width
    return paginate_slots(context.call, lambda begin: aligned_slots(begin, last, width), start - start % width, limit)


def _time_param(call: Call, name: str) -> int:
    text = call.param(name)
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ApiError("bad_request", f"{name}: expected an RFC 3339 time, got {text!r}") from None
    return int(time.replace(tzinfo=time.tzinfo or UTC).timestamp())


def _page_response(slot_page: SlotPage, results: Sequence[list[dict[str, object]]]) -> ApiResponse:
    data = [
        {"starting_at": _format_time(start), "ending_at": _format_time(end), "results": rows}
        for (start, end), rows in zip(slot_page.slots, results, strict=True)
    ]
    body = {"data": data, "has_more": slot_page.next_page is not None, "next_page": slot_page.next_page}
    return ApiResponse(200, body, slot_page.number)


def _format_time(seconds: float) -> str:
    return utc(seconds).strftime("%Y-%m-%dT%H:%M:%SZ")


def _me(context: _CallContext) -> ApiResponse:
    organization = context.account.organization
    identity = str(uuid.uuid5(uuid.NAMESPACE_DNS, organization))
    return ApiResponse(200, {"id": identity, "name": organization, "type": "organization"})


def _workspaces(context: _CallContext) -> ApiResponse:
    account, created = context.account, context.world.start_time - 300 * DAY
    include_archived = context.call.param("include_archived") == "true"
    return _list_response(
        context.call,
        [
            {
                "id": workspace,
                "type": "workspace",
                "name": name,
                "created_at": _format_time(created.timestamp()),
                "archived_at": _format_time((created + 200 * DAY).timestamp())
                if workspace in account.archived_workspaces
                else None,
                "display_color": "#6C5BB9",
                "compartment_id": workspace.replace("wrkspc_", "cmpt_"),
                "external_key_id": None,
                "tags": {},
                "data_residency": {
                    "allowed_inference_geos": "unrestricted",
                    "default_inference_geo": "global",
                    "workspace_geo": "us",
                },
            }
            for workspace, name in account.workspaces.items()
            if include_archived or workspace not in account.archived_workspaces
        ],
    )


def _api_keys(context: _CallContext) -> ApiResponse:
    account, created = context.account, _format_time((context.world.start_time - 200 * DAY).timestamp())
    return _list_response(
        context.call,
        [
            {
                "id": key,
                "type": "api_key",
                "name": account.api_keys.get(key, key),
                "workspace_id": workspace or None,
                "created_at": created,
                "created_by": {"id": "user_admin", "type": "user"},
                "expires_at": None,
                "principal": None,
                "partial_key_hint": f"sk-ant-api03-...{key[-4:]}",
                "status": "active",
            }
            for key, workspace in account.key_workspaces().items()
        ],
    )


def _list_response(call: Call, items: list[Mapping[str, object]]) -> ApiResponse:
    data, more, page = paginate_list(items, lambda item: str(item["id"]), call.param("after_id"), call.limit(20, 1000))
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return ApiResponse(200, {"data": data, "first_id": first, "last_id": last, "has_more": more}, page)


_ROUTES: Mapping[str, Callable[[_CallContext], ApiResponse]] = {
    "v1/organizations/usage_report/messages": _usage,
    "v1/organizations/cost_report": _costs,
    "v1/organizations/workspaces": _workspaces,
    "v1/organizations/api_keys": _api_keys,
    "v1/organizations/me": _me,
}
