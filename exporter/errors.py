"""All errors of this program, as one tree.

ExporterError
├─ ConfigError(problems)          every problem of a configuration, each with its location
├─ ProviderError(message)
│  ├─ KeyRejected(reason, advice) the key is of the wrong kind, rejected, or lacks a scope: try hourly
│  ├─ RateLimited(retry_after)    wait as long as the provider demands
│  ├─ Unavailable(reached, …)     timeout, 409, 5xx, 529, network: back off, or wait as long as the provider demands
│  ├─ Unsupported                 the plan or host has no such report: noted once where the report is optional
│  ├─ Malformed(field)            a response of an unknown format: keep the old buckets, report a problem
│  ├─ InternalError               a poll that an unexpected exception ended: a bug of this program
│  └─ StorageError                a poll whose result the ledger could not store
├─ PushError(status, reason)      a push request is rejected as a whole
├─ RereadRejected(status, reason) a request to read days again is rejected as a whole
├─ QueryRejected                  a remote read that is not understood, or would return too much
└─ LedgerError                    the ledger's file is damaged, removed or replaced: ends the process
   └─ LedgerUnavailable           the disk is full, read-only or fails: nothing is stored, and it is tried again
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

KeyRejectionReason = Literal["wrong_key_kind", "key_rejected", "missing_scope"]
PROBLEM_REASONS = (
    "wrong_key_kind",
    "key_rejected",
    "missing_scope",
    "rate_limited",
    "unavailable",
    "unsupported",
    "malformed",
    "internal_error",
    "ledger_unavailable",
)


class ExporterError(Exception):
    """The root of the tree; the message is for the person who has to act."""


@dataclass(frozen=True, slots=True)
class ConfigProblem:
    """A problem of a configuration, and its location."""

    location: str
    """`file:line`, or just the file."""
    message: str

    def __str__(self) -> str:
        return f"{self.location}: {self.message}"


class ConfigError(ExporterError):
    """A configuration that cannot be used; it lists every problem at once."""

    def __init__(self, problems: Sequence[ConfigProblem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class ProviderError(ExporterError):
    """A poll that failed; `reason` is the value of the metrics' `reason` label."""

    reason: str = "malformed"


class KeyRejected(ProviderError):
    """The provider rejects this key; a frequent retry is useless until the key or the configuration has changed."""

    def __init__(self, reason: KeyRejectionReason, message: str, advice: str) -> None:
        self.reason = reason
        self.advice = advice
        super().__init__(message)


class RateLimited(ProviderError):
    """Too many requests; `retry_after` is in seconds, None where the provider states none."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        self.reason = "rate_limited"
        self.retry_after = retry_after
        super().__init__(message)


class Unavailable(ProviderError):
    """No usable response at present; `reached` is whether there was any HTTP response.

    `retry_after` is in seconds, None where the provider states none.
    """

    def __init__(self, message: str, *, reached: bool, retry_after: float | None = None) -> None:
        self.reason = "unavailable"
        self.reached = reached
        self.retry_after = retry_after
        super().__init__(message)


class Unsupported(ProviderError):
    """The provider has no such report here (404, or a plan without it)."""

    reason = "unsupported"


class Malformed(ProviderError):
    """A response of an unknown format; `field` is the field that is missing or invalid."""

    def __init__(self, message: str, field: str = "") -> None:
        self.field = field
        super().__init__(message)


class InternalError(ProviderError):
    """A poll that an unexpected exception ended: no fault of the provider, but the account's numbers are as old."""

    reason = "internal_error"


class StorageError(ProviderError):
    """A poll or a refresh that ended because the ledger is unavailable: no fault of the provider."""

    reason = "ledger_unavailable"


class PushError(ExporterError):
    """A push request of which nothing is accepted; `status` is that of the HTTP response."""

    def __init__(self, status: int, reason: str) -> None:
        self.status = status
        super().__init__(reason)


class RereadRejected(ExporterError):
    """A request to read days again that cannot be carried out; `status` is that of the HTTP response."""

    def __init__(self, status: int, reason: str) -> None:
        self.status = status
        super().__init__(reason)


class QueryRejected(ExporterError):
    """A query that cannot be answered; the client has to change it."""


class LedgerError(ExporterError):
    """The ledger's file cannot be used any more, or not opened; nothing that was acknowledged is lost."""


class LedgerUnavailable(LedgerError):
    """The open ledger cannot be read or written at present; nothing was stored, and a later attempt may succeed.

    The disk may be full, read-only or failing: all of these end without a restart, and a process that ended because of
    them could not start again before.
    """
