"""Faults that can be switched on for an account, and what they do to an answer."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

from exporter.simulator.http import Answer, Problem

_REFUSING: tuple[Problem, ...] = (
    "rate_limited",
    "overloaded",
    "server_error",
    "revoked",
    "expired",
    "missing_scope",
    "wrong_key",
)
REFUSALS: Mapping[str, Problem] = {problem: problem for problem in _REFUSING}
"""Faults that replace the answer by the provider's own error."""

KINDS = frozenset({*REFUSALS, "slow", "truncated", "malformed", "mistyped", "html"})


@dataclass(slots=True)
class Fault:
    """One switched-on fault: what happens to which calls of an account, and how often."""

    account: str
    kind: str
    times: int | None = None
    """How many answers it spoils; None is until cleared."""
    path: str = ""
    """Only calls whose path contains this."""
    page: int | None = None
    """Only this page of a walk, from 1."""
    retry_after: int | None = None
    seconds: float = 0
    """How long to wait before the answer."""

    def __post_init__(self) -> None:
        """Refuse a kind that nobody knows."""
        if self.kind not in KINDS:
            raise ValueError(f"fault {self.kind!r} is none of {', '.join(sorted(KINDS))}")

    def hits(self, account: str, path: str, page: int) -> bool:
        """Tell whether the fault is meant for this call."""
        return self.account == account and self.path in path and self.page in {None, page} and self.times != 0


class Faults:
    """The faults that are switched on; safe to change while the server runs."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> None:
        """Switch a fault on; of several that match a call, the oldest strikes."""
        with self._lock:
            self._faults.append(fault)

    def clear(self, account: str | None = None) -> None:
        """Switch the faults of one account off, or all of them."""
        with self._lock:
            self._faults = [fault for fault in self._faults if account not in {None, fault.account}]

    def take(self, account: str, path: str, page: int) -> Fault | None:
        """Return the fault that strikes this call, and count the stroke."""
        with self._lock:
            fault = next((fault for fault in self._faults if fault.hits(account, path, page)), None)
            if fault is not None and fault.times is not None:
                fault.times -= 1
            return fault


def without_list(answer: Answer) -> Answer:
    """Return the answer without the list that it is about: a required field is missing."""
    body = answer.body if isinstance(answer.body, dict) else {}
    kept = {name: value for name, value in body.items() if not isinstance(value, list)}
    return Answer(answer.status, kept, answer.page, answer.headers)


def with_text_for_numbers(answer: Answer) -> Answer:
    """Return the answer with every whole number spelled as words: the fields are there, of another type."""
    return Answer(answer.status, _mistyped(answer.body), answer.page, answer.headers)


def _mistyped(value: object) -> object:
    if isinstance(value, dict):
        return {name: _mistyped(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_mistyped(inner) for inner in value]
    return "many" if isinstance(value, int) and not isinstance(value, bool) else value
