"""Everything that can go wrong, as one tree.

ExporterError
├─ ConfigError(problems)          every problem of a configuration, each with its place
├─ ProviderError(message)
│  ├─ KeyRejected(reason, advice) the key is of the wrong kind, refused, or lacks a scope: stop asking
│  ├─ RateLimited(retry_after)    wait as told
│  ├─ Unavailable(reached)        timeout, 5xx, 529, network: back off
│  ├─ Unsupported                 this plan or host has no such report: noted once where the report is optional
│  └─ Malformed(field)            an answer that is not what is known: keep the old buckets, raise the alarm
├─ IngestError(status, reason)    what was pushed is refused as a whole
├─ QueryRefused                   a remote read that is not understood, or asks for too much
└─ LedgerError                    the disk is wrong: this one ends the process
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

KeyRejectionReason = Literal["wrong_key_kind", "key_rejected", "missing_scope"]
PROBLEM_REASONS = ("wrong_key_kind", "key_rejected", "missing_scope", "rate_limited", "unavailable", "malformed")


class ExporterError(Exception):
    """The root of the tree; its text is for the person who must act."""


@dataclass(frozen=True, slots=True)
class ConfigProblem:
    """One thing that is wrong in a configuration, and where."""

    location: str
    """`file:line`, or just the file."""
    message: str

    def __str__(self) -> str:
        return f"{self.location}: {self.message}"


class ConfigError(ExporterError):
    """A configuration that cannot be used; tells every problem at once."""

    def __init__(self, problems: Sequence[ConfigProblem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class ProviderError(ExporterError):
    """A poll that did not succeed; `reason` is the value of the metrics' `reason` label."""

    reason: str = "malformed"


class KeyRejected(ProviderError):
    """The provider will not answer this key; asking again changes nothing until the key or the configuration does."""

    def __init__(self, reason: KeyRejectionReason, message: str, advice: str) -> None:
        self.reason = reason
        self.advice = advice
        super().__init__(message)


class RateLimited(ProviderError):
    """Too many requests; `retry_after` is in seconds, None where the provider does not say."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        self.reason = "rate_limited"
        self.retry_after = retry_after
        super().__init__(message)


class Unavailable(ProviderError):
    """No useful answer for now; `reached` tells whether any HTTP answer came at all."""

    def __init__(self, message: str, *, reached: bool) -> None:
        self.reason = "unavailable"
        self.reached = reached
        super().__init__(message)


class Unsupported(ProviderError):
    """The provider has no such thing here (404, or a plan without it)."""


class Malformed(ProviderError):
    """An answer whose shape is not the known one; `field` says what is missing or odd."""

    def __init__(self, message: str, field: str = "") -> None:
        self.field = field
        super().__init__(message)


class PushError(ExporterError):
    """A request that nothing is taken from; `status` is that of the HTTP answer."""

    def __init__(self, status: int, reason: str) -> None:
        self.status = status
        super().__init__(reason)


class QueryRejected(ExporterError):
    """Whoever asks has to ask for something else."""


class LedgerError(ExporterError):
    """The ledger's file cannot be read or written; nothing acknowledged is lost."""
