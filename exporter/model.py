"""The vocabulary: what providers tell, as frozen values. Imports nothing of ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import ClassVar, Literal, NamedTuple, Protocol

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
NANO = 1_000_000_000

COST = "cost"
REQUESTS = "requests"

TOKEN_METERS = frozenset(
    {
        "uncached_input",
        "cache_read",
        "cache_write",  # a write whose lifetime the provider does not tell
        "cache_write_5m",
        "cache_write_1h",
        "output",
        "audio_input",
        "audio_cache_read",
        "audio_output",
        "image_input",
        "image_cache_read",
        "image_output",
    }
)
"""Disjoint: the sum over these is every token, each counted once."""

UNIT_METERS = frozenset({"images", "seconds", "characters", "web_searches", "file_searches", "sessions", "bytes"})
"""Counted things that are neither tokens nor requests."""

GAUGE_METERS = frozenset({"bytes"})
"""Stocks, not flows: over a window their largest hour is told, because a sum of levels means nothing."""


@dataclass(frozen=True, slots=True)
class Row:
    """One number of a bucket: units of `meter`, or nano-USD for `cost`; ids as the provider gives them."""

    meter: str
    value: int
    workspace: str = ""
    model: str = ""
    tier: str = ""
    api_key: str = ""
    item: str = ""


class RowLabels(NamedTuple):
    """What identifies a row within its bucket: everything but its value."""

    meter: str
    workspace: str = ""
    model: str = ""
    tier: str = ""
    api_key: str = ""
    item: str = ""


@dataclass(frozen=True, slots=True)
class Bucket:
    """All that a report said about one slot of time; a slot without use has no rows and is told all the same."""

    report: str
    start: datetime
    end: datetime
    rows: tuple[Row, ...]


COST_INCLUDED = "paid"
"""The item of a pushed row whose money was pushed with it: a COST row, or tokens that are not to be priced again."""


@dataclass(frozen=True, slots=True)
class UsageEvent:
    """Something used at one moment, as a source pushed it."""

    provider: str
    time: datetime
    rows: tuple[Row, ...]
    id: str = ""
    """The source's own name for it, which it never gives to another one; empty where it has none."""


@dataclass(frozen=True, slots=True)
class ChangeEvent:
    """Something that was done to a system, such as a deployment, and may change what is spent."""

    title: str
    time: datetime
    service: str = ""
    account: str = ""
    link: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """One thing that a provider can be asked, as data."""

    name: str
    kind: Literal["usage", "bill"]
    width: timedelta
    poll_interval: timedelta
    """How often asking makes sense; a longer `poll_interval` wins."""
    overlap: timedelta
    """Re-read on every poll."""
    settle_period: timedelta
    """Re-read once a day: how long the provider still revises."""
    lag: timedelta
    """A bucket is complete this long after its end."""
    history: timedelta
    """How far back it answers."""
    optional: bool = False
    """Not in every plan: a refusal is noted once and the account stays up."""


class Provider(Protocol):
    """One account at one provider. Never sleeps, retries, logs, counts, reads the clock or touches the disk."""

    reports: ClassVar[tuple[Report, ...]]
    key_kinds: ClassVar[tuple[KeyKind, ...]]

    def fetch(self, report: Report, since: datetime, until: datetime) -> Iterator[Bucket]:
        """Tell every bucket that starts in [since, until), empty ones included, oldest first or newest first.

        `since` lies on a bucket's edge; `until` is at most now. Every page is read before the first bucket
        is told, so half a span is never told. Raises ProviderError.
        """
        ...

    def names(self) -> Mapping[str, str]:
        """Workspace and API key ids -> names as people gave them. Raises ProviderError."""
        ...

    def verify(self) -> str:
        """Make one cheap call and say in a few words whose key this is. Raises ProviderError."""
        ...

    def close(self) -> None:
        """Close the connections; nothing is asked afterwards."""
        ...


@dataclass(frozen=True, slots=True)
class KeyKind:
    """What a key's prefix says about it; `advice` is empty where this kind is the right one."""

    prefix: str
    name: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class KeyRejectionRule:
    """How a provider words a refused key: a status and a token of the answer's text -> reason and advice."""

    status: int | None
    """None matches any status from 400 to 499."""
    substring: str
    """Searched in the answer's text without regard to case; empty matches any text."""
    reason: Literal["wrong_key_kind", "key_rejected", "missing_scope"]
    advice: str


@dataclass(frozen=True, slots=True)
class Console:
    """Where a provider shows people the same figures, and what of the spend its API leaves out."""

    url: str
    excluded: str = ""
    """A sentence for whoever compares; empty where nothing is known to be missing."""


KEY_PREFIX_PATTERN = "(?:sk-|crsr_|key_)"
"""Regular expression for the first characters of the providers' API keys, for finding keys in text that is shown."""


class Secret:
    """A string that does not show itself: `repr`, `str` and formatting give `<secret>`."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text, for the one place that sends it."""
        return self._text

    def __repr__(self) -> str:
        return "<secret>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> tuple[type[Secret], tuple[str]]:
        return Secret, ("<secret>",)


def utc(seconds: float) -> datetime:
    """Seconds since the epoch -> a UTC time."""
    return datetime.fromtimestamp(seconds, tz=UTC)
