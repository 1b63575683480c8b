"""The value types that all folders share: meters, rows, buckets, reports, events, secrets. Imports none of ours."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
NANO = 1_000_000_000

COST = "cost"
REQUESTS = "requests"

TOKEN_METERS = frozenset(
    {
        "uncached_input",
        "cache_read",
        "cache_write",  # a write whose lifetime the provider does not report
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
"""Disjoint: their sum is the number of all tokens, each counted once."""

UNIT_METERS = frozenset({"images", "seconds", "characters", "web_searches", "file_searches", "sessions", "bytes"})
"""Counted things that are neither tokens nor requests."""

GAUGE_METERS = frozenset({"bytes"})
"""Levels, not flows: a window shows their largest hour, because a sum of levels has no meaning."""


@dataclass(frozen=True, slots=True)
class Row:
    """One value of a bucket: units of `meter`, or nano-USD for `cost`. Ids are those of the provider."""

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
    """Everything that a report contains about one time slot; a slot without usage is a bucket without rows."""

    report: str
    start: datetime
    end: datetime
    rows: tuple[Row, ...]


COST_INCLUDED = "paid"
"""The item of a pushed row whose cost was pushed with it: a COST row, or tokens that must not be priced again."""


@dataclass(frozen=True, slots=True)
class UsageEvent:
    """Usage at one time, as a source pushed it."""

    provider: str
    time: datetime
    rows: tuple[Row, ...]
    id: str = ""
    """The source's own unique id of the event; empty where it has none."""
    content: str = ""
    """What the source sent, in a form that is the same for equal events and independent of the configuration."""


@dataclass(frozen=True, slots=True)
class ChangeEvent:
    """A change to a system, such as a deployment, that may change its cost."""

    title: str
    time: datetime
    service: str = ""
    account: str = ""
    link: str = ""


MIN_POLL_INTERVAL = timedelta(seconds=1)
"""No report is polled more often: a plug-in cannot turn the poller into a request loop."""


@dataclass(frozen=True, slots=True)
class Report:
    """One report of a provider's API, as data: what it contains, how wide its buckets are and when to read it.

    Both widths are legal for both kinds. Raises ValueError for a width, kind or duration that cannot be polled.
    """

    name: str
    """Unique within the provider; stored in the ledger, so a renamed report loses its past."""
    kind: Literal["usage", "bill", "names"]
    """`usage` counts tokens, requests and other units; `bill` is cost as the provider charges it. `names` is the
    poller's own: a provider offers usage and bills."""
    width: timedelta
    """The width of a bucket: HOUR or DAY."""
    poll_interval: timedelta
    """How often to read it; a longer `poll_interval` in the configuration takes precedence."""
    overlap: timedelta
    """How far back every poll reads again, because the newest buckets still grow."""
    settle_period: timedelta
    """How far back one read per day reaches: as long as the provider still revises."""
    lag: timedelta
    """A bucket is complete this long after its end."""
    history: timedelta
    """How far back the provider answers."""
    optional: bool = False
    """Not part of every plan: a rejection is recorded once and the account stays up."""

    def __post_init__(self) -> None:
        """Reject a report that cannot be scheduled or stored."""
        if not self.name:
            raise ValueError("a report has no name")
        if self.kind not in ("usage", "bill", "names"):
            raise ValueError(f"report {self.name}: the kind {self.kind!r} is neither usage nor bill")
        if self.width not in (HOUR, DAY):
            raise ValueError(f"report {self.name}: the width {self.width} is neither an hour nor a day")
        if self.poll_interval < MIN_POLL_INTERVAL:
            raise ValueError(f"report {self.name}: the poll interval {self.poll_interval} is shorter than a second")
        if min(self.overlap, self.settle_period, self.lag, self.history) < timedelta(0):
            raise ValueError(f"report {self.name}: a duration is negative")


@dataclass(frozen=True, slots=True)
class KeyKind:
    """A type of key that a provider issues, recognised by its prefix."""

    prefix: str
    name: str
    """The type in the provider's words, such as `project key`."""
    advice: str = ""
    """What to do with a key of this type; empty where the type can read usage and costs."""


@dataclass(frozen=True, slots=True)
class KeyRejectionRule:
    """How a provider rejects a key: a status and a part of the answer's text -> reason and advice."""

    status: int | None
    """None matches any status from 400 to 499."""
    substring: str
    """Searched in the answer's text, ignoring case; empty matches any text."""
    reason: Literal["wrong_key_kind", "key_rejected", "missing_scope"]
    advice: str


@dataclass(frozen=True, slots=True)
class Console:
    """The page on which a provider shows the same figures, and the spend that its API excludes."""

    url: str
    excluded: str = ""
    """One sentence for a reader who compares both; empty where nothing is known to be missing."""


KEY_PREFIX_PATTERN = "(?:sk-|crsr_|key_)"
"""Regular expression for the first characters of the providers' API keys, for finding keys in text that is shown."""


class Secret:
    """A string that is never printed: `repr`, `str` and formatting give `<secret>`."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text, for the code that sends it."""
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
