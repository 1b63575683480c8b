"""xAI's management API: usage in USD as time series, and the prepaid balance of a team."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from exporter.model import DAY, HOUR, NANO
from exporter.simulator.accounts import SimAccount
from exporter.simulator.http import ApiError, ApiResponse, Call, ErrorKind
from exporter.simulator.rates import stream_costs
from exporter.simulator.world import World

TEAM = "team-acme"
MAX_POINTS = 20_000
"""Data points of an answer; with more, the answer is cut and says so."""
_TOKEN_KINDS = {
    "uncached_input": "prompt text tokens",
    "cache_read": "cached prompt text tokens",
    "output": "completion text tokens",
}
_ERRORS: Mapping[ErrorKind, tuple[int, str]] = {
    "bad_request": (400, "Invalid request"),
    "not_found": (404, "Not found"),
    "unknown_key": (401, "Invalid bearer token"),
    "wrong_key": (401, "Not a management key"),
    "revoked": (401, "The key has been revoked"),
    "expired": (401, "The key has expired"),
    "missing_scope": (403, "The key lacks the permission to read billing"),
    "plan": (403, "Not part of the plan"),
    "rate_limited": (429, "Too many requests"),
    "overloaded": (529, "Overloaded"),
    "server_error": (500, "Internal error"),
}


def extract_key(call: Call) -> str:
    """Return the bearer token."""
    return call.headers.get("authorization", "").removeprefix("Bearer ")


def classify_key(key: str) -> ErrorKind:
    """Return `wrong_key` for keys of other providers, else `unknown_key`."""
    return "unknown_key" if key.startswith("xai-token-") or not key else "wrong_key"


def error_response(error_kind: ErrorKind, message: str = "") -> ApiResponse:
    """Return an error in the format of gRPC's gateway: `{"code", "message"}`."""
    status, default_message = _ERRORS[error_kind]
    return ApiResponse(status, {"code": status, "message": message or default_message, "details": []})


def handle(world: World, account: SimAccount, call: Call) -> ApiResponse:
    """Answer a call below /v1/billing. Raises ApiError."""
    prefix, _, rest = call.path.strip("/").partition("/teams/")
    team, _, endpoint = rest.partition("/")
    if prefix != "v1/billing":
        raise ApiError("not_found")
    if team != TEAM:
        raise ApiError("not_found", "team not found")
    if (call.method, endpoint) == ("POST", "usage"):
        return _usage(world, account, call)
    if (call.method, endpoint) == ("GET", "prepaid/balance"):
        return _balance(world, account)
    raise ApiError("not_found")


def _usage(world: World, account: SimAccount, call: Call) -> ApiResponse:
    request = call.body.get("analyticsRequest")
    if not isinstance(request, dict) or request.get("timeUnit") != "TIME_UNIT_HOUR":
        raise ApiError("bad_request", "timeUnit is not a TimeUnit")
    group_by = request.get("groupBy")
    if group_by not in (["description"], ["description", "api_key_id"]):
        raise ApiError("bad_request", "groupBy has an unknown field")
    start, end = (_parse_time(request, name) for name in ("startTime", "endTime"))
    if start < world.clock() - 91 * DAY:
        raise ApiError("bad_request", "usage is kept for 90 days")
    series: dict[tuple[str, ...], dict[datetime, int]] = {}
    hour = start.replace(minute=0, second=0)
    hours = []
    while hour <= end and hour <= world.clock():
        hours.append(hour)
        for stream, units in world.usage(account.name, "xai_usage", *_epochs(hour)):
            for meter, nano in stream_costs(stream, units).items():
                description = f"{stream.model} {_TOKEN_KINDS[meter]}"
                group = (description, stream.api_key)[: len(group_by)]
                points = series.setdefault(group, {})
                points[hour] = points.get(hour, 0) + nano
        hour += HOUR
    is_cut = len(series) * len(hours) > MAX_POINTS
    shown = hours[: MAX_POINTS // max(1, len(series))]
    body = {
        "timeSeries": [
            {
                "group": list(group),
                "groupLabels": [group[0], *(account.api_keys.get(key, key) for key in group[1:])],
                "dataPoints": [
                    {"timestamp": f"{time:%Y-%m-%dT%H:%M:%SZ}", "values": [_usd(points.get(time, 0))]} for time in shown
                ],
            }
            for group, points in series.items()
        ],
        "limitReached": is_cut,
    }
    return ApiResponse(200, body)


def _usd(nano: int) -> float:
    return nano / NANO if nano else 0


def _balance(world: World, account: SimAccount) -> ApiResponse:
    """Return the balance in cents: what is left is negative."""
    if not account.prepaid_usd:
        return ApiResponse(200, {"changes": [], "total": {}})
    bought = round(account.prepaid_usd * 100)
    left = bought - world.reported_cost(account.name) * 100 // NANO
    changes = [{"changeOrigin": "PURCHASE", "amount": {"val": str(-bought)}}]
    return ApiResponse(200, {"changes": changes, "total": {"val": str(-left)}})


def _parse_time(request: Mapping[str, object], name: str) -> datetime:
    time_range = request.get("timeRange")
    try:
        text = time_range[name] if isinstance(time_range, dict) else ""
        return datetime.strptime(str(text), "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
    except (KeyError, ValueError):
        raise ApiError("bad_request", f"{name} is not a time") from None


def _epochs(hour: datetime) -> tuple[int, int]:
    return int(hour.timestamp()), int((hour + timedelta(hours=1)).timestamp())
