"""DeepSeek's API, as far as it concerns money: the balance."""

from __future__ import annotations

from collections.abc import Mapping

from exporter.simulator.accounts import SimAccount
from exporter.simulator.http import ApiError, ApiResponse, Call, ErrorKind
from exporter.simulator.world import World

_ERRORS: Mapping[ErrorKind, tuple[int, str]] = {
    "bad_request": (400, "Invalid request"),
    "not_found": (404, "Not found"),
    "unknown_key": (401, "Authentication Fails (no such user)"),
    "wrong_key": (401, "Authentication Fails (no such user)"),
    "revoked": (401, "Authentication Fails (the key was deleted)"),
    "expired": (401, "Authentication Fails (the key has expired)"),
    "missing_scope": (403, "Forbidden"),
    "plan": (403, "Forbidden"),
    "rate_limited": (429, "Rate limit reached"),
    "overloaded": (529, "Server overloaded"),
    "server_error": (500, "Server error"),
}


def extract_key(call: Call) -> str:
    """Return the bearer token."""
    return call.headers.get("authorization", "").removeprefix("Bearer ")


def classify_key(key: str) -> ErrorKind:  # noqa: ARG001
    """Return `unknown_key`: the API does not distinguish."""
    return "unknown_key"


def error_response(error_kind: ErrorKind, message: str = "") -> ApiResponse:
    """Return an error as the API does."""
    status, default_message = _ERRORS[error_kind]
    return ApiResponse(status, {"error": {"message": message or default_message, "type": "error"}})


def handle(world: World, account: SimAccount, call: Call) -> ApiResponse:  # noqa: ARG001
    """Answer a call. Raises ApiError."""
    if (call.method, call.path.strip("/")) != ("GET", "user/balance"):
        raise ApiError("not_found")
    total = account.prepaid_usd + account.granted_usd
    info = {
        "currency": "USD",
        "total_balance": f"{total:.2f}",
        "granted_balance": f"{account.granted_usd:.2f}",
        "topped_up_balance": f"{account.prepaid_usd:.2f}",
    }
    return ApiResponse(200, {"is_available": total > 0, "balance_infos": [info]})
