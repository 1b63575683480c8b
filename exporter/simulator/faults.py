"""Faults that can be enabled for an account, and their effect on an answer."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

from exporter.simulator.http import ApiResponse, ErrorKind

_ERROR_KINDS: tuple[ErrorKind, ...] = (
    "rate_limited",
    "overloaded",
    "server_error",
    "revoked",
    "expired",
    "missing_scope",
    "wrong_key",
)
ERROR_FAULTS: Mapping[str, ErrorKind] = {kind: kind for kind in _ERROR_KINDS}
"""Faults that replace the answer with an error of the provider."""

FAULT_KINDS = frozenset({*ERROR_FAULTS, "slow", "truncated", "malformed", "mistyped", "html", "empty", "shortened"})


@dataclass(slots=True)
class Fault:
    """An enabled fault: its effect, the calls that it applies to, and how often."""

    account: str
    kind: str
    times: int | None = None
    """The number of answers that it affects; None is unlimited."""
    path: str = ""
    """Only calls with this text in their path."""
    page: int | None = None
    """Only this page of a list, counted from 1."""
    retry_after: int | None = None
    seconds: float = 0
    """Delay of the answer."""

    def __post_init__(self) -> None:
        """Reject an unknown kind."""
        if self.kind not in FAULT_KINDS:
            raise ValueError(f"fault {self.kind!r} is none of {', '.join(sorted(FAULT_KINDS))}")

    def matches(self, account: str, path: str, page: int) -> bool:
        """Return whether the fault applies to this call."""
        return self.account == account and self.path in path and self.page in {None, page} and self.times != 0


class Faults:
    """The enabled faults; may be changed from any thread while the server runs."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> None:
        """Enable a fault; of several that match a call, the oldest applies."""
        with self._lock:
            self._faults.append(fault)

    def clear(self, account: str | None = None) -> None:
        """Disable the faults of one account, or all faults."""
        with self._lock:
            self._faults = [fault for fault in self._faults if account not in {None, fault.account}]

    def take(self, account: str, path: str, page: int) -> Fault | None:
        """Return the fault that applies to this call, and count it as used once."""
        with self._lock:
            fault = next((fault for fault in self._faults if fault.matches(account, path, page)), None)
            if fault is not None and fault.times is not None:
                fault.times -= 1
            return fault


def remove_list(response: ApiResponse) -> ApiResponse:
    """Return the answer without its top-level lists, so that a required field is missing."""
    body = response.body if isinstance(response.body, dict) else {}
    kept = {name: value for name, value in body.items() if not isinstance(value, list)}
    return ApiResponse(response.status, kept, response.page, response.headers)


def shorten_lists(response: ApiResponse, keep: float) -> ApiResponse:
    """Return the answer with the first part of its top-level lists, as if the list ended there."""
    body = response.body if isinstance(response.body, dict) else {}
    kept = {name: value[: int(len(value) * keep)] if isinstance(value, list) else value for name, value in body.items()}
    end = {name: value for name, value in {"has_more": False, "next_page": None}.items() if name in body}
    return ApiResponse(response.status, {**kept, **end}, response.page, response.headers)


def replace_integers(response: ApiResponse) -> ApiResponse:
    """Return the answer with a string in place of every whole number, so that fields have another type."""
    return ApiResponse(response.status, _replace_integers_in(response.body), response.page, response.headers)


def _replace_integers_in(value: object) -> object:
    if isinstance(value, dict):
        return {name: _replace_integers_in(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_replace_integers_in(inner) for inner in value]
    return "many" if isinstance(value, int) and not isinstance(value, bool) else value
