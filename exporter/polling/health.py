"""How an account fares: what was asked, what failed and why. Written by the poller, shown by the page and /metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

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
    """By report: why its newest poll failed."""
    pending_key_error: ProviderError | None
    """Why a changed key is not used; the previous one still is."""
    unsupported: frozenset[str]
    """Optional reports that this account does not have."""
    key_rejected: bool
    """The key was rejected: nothing is polled until it changes."""

    @property
    def current_problems(self) -> list[ProviderError]:
        """The present problems, by report's name."""
        return [self.problems[report] for report in sorted(self.problems)]


@dataclass(slots=True)
class Health:
    """Counts since the process began, and the problems that hold at present."""

    polls: Counter[str] = field(default_factory=Counter)
    """By report."""
    failures: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By report and reason."""
    requests: Counter[str] = field(default_factory=Counter)
    """By HTTP status code, or `error` where no answer came."""
    last_poll_seconds: dict[str, float] = field(default_factory=dict)
    """How long the newest poll of each report took."""
    problems: dict[str, ProviderError] = field(default_factory=dict)
    """By report: why its newest poll failed."""
    pending_key_error: ProviderError | None = None
    """Why a key that was put in the place of the working one is not used; the working one still is."""
    unsupported: dict[str, ProviderError] = field(default_factory=dict)
    """By optional report: why this account does not have it. Not a problem."""

    def snapshot(self, *, key_rejected: bool) -> HealthSnapshot:
        """Return a copy; safe while another thread records."""
        failures: Counter[str] = Counter()
        for (_, reason), count in self.failures.copy().items():
            failures[reason] += count
        return HealthSnapshot(
            polls=self.polls.copy(),
            failures=failures,
            requests=self.requests.copy(),
            last_poll_seconds=self.last_poll_seconds.copy(),
            problems=self.problems.copy(),
            pending_key_error=self.pending_key_error,
            unsupported=frozenset(self.unsupported.copy()),
            key_rejected=key_rejected,
        )

    def current_problems(self) -> list[ProviderError]:
        """Return the problems that hold now, by report's name; safe while another thread changes them."""
        problems = dict(self.problems)
        return [problems[report] for report in sorted(problems)]

    def record_failure(self, report: str, error: ProviderError) -> None:
        """Count a poll that failed and keep the reason until the report succeeds."""
        self.failures[report, error.reason] += 1
        self.problems[report] = error

    def record_success(self, report: str) -> None:
        """Forget what was wrong with a report."""
        self.problems.pop(report, None)
        self.unsupported.pop(report, None)

    def reset(self) -> None:
        """Forget what was wrong and what was refused: somebody else is asking now."""
        self.pending_key_error = None
        self.problems = {}
        self.unsupported = {}

    def mark_unsupported(self, report: str, error: ProviderError) -> bool:
        """Note that this account does not have an optional report; tell whether that is news."""
        news = report not in self.unsupported
        self.problems.pop(report, None)
        self.unsupported[report] = error
        return news
