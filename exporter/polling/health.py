"""The health of an account as one immutable value: counts since the process began, and the current problems."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from exporter.errors import ProviderError


@dataclass(frozen=True, slots=True)
class HealthSnapshot:
    """An account's health at one moment."""

    polls: Mapping[str, int]
    """By report."""
    failures: Mapping[str, int]
    """By reason."""
    requests: Mapping[str, int]
    """By HTTP status code, or `error` where no answer came."""
    last_poll_seconds: Mapping[str, float]
    """By report."""
    problems: Mapping[str, ProviderError]
    """By report: why its newest poll failed. `key` and `internal error` stand for failures of the whole account."""
    pending_key_error: ProviderError | None
    """Why a changed key is not used; the previous one still is."""
    unsupported: frozenset[str]
    """Optional reports that this account does not have."""
    key_rejected: bool
    """The key was rejected: only one attempt an hour is made until it is accepted or changes."""

    @property
    def current_problems(self) -> list[ProviderError]:
        """The present problems, by report's name."""
        return [self.problems[report] for report in sorted(self.problems)]
