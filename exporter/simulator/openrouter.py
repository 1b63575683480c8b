"""OpenRouter's API: analytics by the hour, activity of closed days, workspaces, credits and the key itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from exporter.model import DAY, HOUR, NANO
from exporter.simulator.accounts import SimAccount, Stream
from exporter.simulator.http import ApiError, ApiResponse, Call, ErrorKind
from exporter.simulator.world import World

REPORT = "openrouter_usage"
_METRICS: Mapping[str, Callable[[Mapping[str, int]], int]] = {
    "request_count": lambda units: units.get("requests", 0),
    "tokens_prompt": lambda units: units.get("uncached_input", 0) + units.get("cache_read", 0),
    "tokens_cached": lambda units: units.get("cache_read", 0),
    "tokens_completion": lambda units: units.get("output", 0),
}
_ERRORS: Mapping[ErrorKind, tuple[int, str]] = {
    "bad_request": (400, "Invalid request"),
    "not_found": (404, "Not found"),
    "unknown_key": (401, "User not found"),
    "wrong_key": (403, "Only management keys can fetch activity for an account"),
    "revoked": (401, "The key was revoked"),
    "expired": (401, "The key has expired"),
    "missing_scope": (403, "Forbidden"),
    "plan": (403, "Forbidden"),
    "rate_limited": (429, "Rate limit exceeded"),
    "overloaded": (529, "Provider overloaded"),
    "server_error": (500, "Internal server error"),
}


def extract_key(call: Call) -> str:
    """Return the bearer token."""
    return call.headers.get("authorization", "").removeprefix("Bearer ")


def classify_key(key: str) -> ErrorKind:
    """Return `wrong_key` for keys that can only make requests to models, else `unknown_key`."""
    return "wrong_key" if key.startswith("sk-or-v1-inference") else "unknown_key"


def error_response(error_kind: ErrorKind, message: str = "") -> ApiResponse:
    """Return an error as the API does: `{"error": {"code", "message"}}`."""
    status, default_message = _ERRORS[error_kind]
    return ApiResponse(status, {"error": {"code": status, "message": message or default_message}})


def handle(world: World, account: SimAccount, call: Call) -> ApiResponse:
    """Answer a call. Raises ApiError."""
    route = _ROUTES.get((call.method, call.path.strip("/")))
    if route is None:
        raise ApiError("not_found")
    return ApiResponse(200, {"data": route(world, account, call)})


def _key(_world: World, account: SimAccount, _call: Call) -> object:
    return {"label": f"{account.name} exporter", "is_management_key": True, "usage": 0, "limit": None}


def _credits(world: World, account: SimAccount, _call: Call) -> object:
    used = sum(
        charge.nano
        for day in _closed_days(world)
        if day >= world.start_time
        for charge in world.issued_charges(account.name, day)
    )
    return {"total_credits": account.prepaid_usd, "total_usage": used / NANO}


def _workspaces(_world: World, account: SimAccount, _call: Call) -> object:
    return [{"id": id_, "name": name, "slug": name.lower()} for id_, name in account.workspaces.items()]


def _meta(_world: World, _account: SimAccount, _call: Call) -> object:
    metrics = [{"name": name, "display_format": "number", "is_rate": False} for name in _METRICS]
    return {
        "metrics": [{"name": "latency_p50", "display_format": "latency", "is_rate": True}, *metrics],
        "dimensions": [{"name": name} for name in ("model", "workspace", "provider", "api_key_id", "country")],
        "granularities": ["minute", "hour", "day", "week", "month"],
    }


def _query(world: World, account: SimAccount, call: Call) -> object:
    body = call.body
    metrics, dimensions, time_range = body.get("metrics"), body.get("dimensions", []), body.get("time_range")
    limit = body.get("limit", 1000)
    if not isinstance(metrics, list) or not set(metrics) <= set(_METRICS) or body.get("granularity") != "hour":
        raise ApiError("bad_request", "metrics: unknown name")
    if not isinstance(dimensions, list) or not isinstance(time_range, dict) or not isinstance(limit, int):
        raise ApiError("bad_request")
    rows = []
    for hour in _hours(world, time_range):
        start = int(hour.timestamp())
        for stream, units in world.usage(account.name, REPORT, start, start + 3600):
            labels = _labels(account, stream)
            counts = {name: _METRICS[name](units) for name in metrics}
            rows.append({"date": f"{hour:%Y-%m-%dT%H:%M:%SZ}", **{name: labels[name] for name in dimensions}, **counts})
    merged = _merge(rows, ["date", *dimensions])
    return {
        "data": merged[:limit],
        "metadata": {"query_time_ms": 3, "row_count": min(len(merged), limit), "truncated": len(merged) > limit},
        "warnings": [],
    }


def _hours(world: World, time_range: Mapping[str, object]) -> list[datetime]:
    try:
        start, end = (datetime.fromisoformat(str(time_range[name])) for name in ("start", "end"))
    except (KeyError, ValueError):
        raise ApiError("bad_request", "time_range: expected ISO 8601 with seconds") from None
    hour = max(start, world.start_time).replace(minute=0, second=0)
    hours = []
    while hour < min(end, world.clock()):
        hours.append(hour)
        hour += HOUR
    return hours


def _labels(account: SimAccount, stream: Stream) -> Mapping[str, str]:
    """Return the labels as the analytics has them: the name of the workspace."""
    return {
        "model": stream.model,
        "workspace": account.workspaces.get(stream.workspace, stream.workspace),
        "provider": stream.tier,
        "api_key_id": account.api_keys.get(stream.api_key, stream.api_key),
        "country": "DE",
    }


def _merge(rows: list[dict[str, object]], labels: list[str]) -> list[dict[str, object]]:
    """Add up rows with equal labels."""
    merged: dict[tuple[object, ...], dict[str, object]] = {}
    for row in rows:
        key = tuple(row[name] for name in labels)
        known = merged.get(key)
        if known is None:
            merged[key] = dict(row)
        else:
            for name, value in row.items():
                if name not in labels:
                    known[name] = int(str(known[name])) + int(str(value))
    return list(merged.values())


def _activity(world: World, account: SimAccount, call: Call) -> object:
    days = _closed_days(world)
    if call.param("date"):
        days = [day for day in days if f"{day:%Y-%m-%d}" == call.param("date")]
        if not days:
            raise ApiError("bad_request", "date: expected one of the last 30 completed UTC days")
    by_workspace = call.param("group_by") == "workspace"
    return [
        {
            "date": f"{day:%Y-%m-%d}",
            "model": charge.line.model,
            "model_permaslug": charge.line.model,
            "endpoint_id": "e-1",
            "provider_name": charge.line.tier,
            "requests": 1,
            "prompt_tokens": charge.units,
            "cached_tokens": 0,
            "completion_tokens": 0,
            "reasoning_tokens": 0,
            "usage": charge.nano / NANO,
            "byok_usage_inference": 0,
            **({"workspace_id": charge.line.workspace} if by_workspace else {}),
        }
        for day in days
        for charge in world.issued_charges(account.name, day)
    ]


def _closed_days(world: World) -> list[datetime]:
    today = world.clock().replace(hour=0, minute=0, second=0, microsecond=0)
    return [today - number * DAY for number in range(30, 0, -1)]


BILL_DELAY = timedelta(minutes=30)
"""Time from the end of a day to its activity."""

_ROUTES: Mapping[tuple[str, str], Callable[[World, SimAccount, Call], object]] = {
    ("GET", "key"): _key,
    ("GET", "credits"): _credits,
    ("GET", "workspaces"): _workspaces,
    ("GET", "analytics/meta"): _meta,
    ("POST", "analytics/query"): _query,
    ("GET", "activity"): _activity,
}
