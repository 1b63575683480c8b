"""The value types that all folders share: meters, rows, buckets, reports, events, secrets. Imports none of ours."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
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


class Row(NamedTuple):
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


def row_labels(row: Row) -> RowLabels:
    """Return everything of a row but its value."""
    return RowLabels(row.meter, row.workspace, row.model, row.tier, row.api_key, row.item)


def to_row(labels: RowLabels, value: int) -> Row:
    """Return the row with these labels."""
    return Row(labels.meter, value, labels.workspace, labels.model, labels.tier, labels.api_key, labels.item)


class Bucket:
    """Everything that a report contains about one time slot; a slot without usage is a bucket without rows. Immutable.

    A bucket is made from rows, or from its totals by labels, and gives both. The totals are what is stored: a bucket
    that is polled has no rows, because making thousands of them takes longer than everything else.
    """

    __slots__ = ("_rows", "_totals", "digest", "end", "report", "start")

    def __init__(self, report: str, start: datetime, end: datetime, rows: Iterable[Row]) -> None:
        self.report = report
        self.start = start
        self.end = end
        self.digest: bytes = b""
        """Identifies the content as the provider sent it; empty where that is not known."""
        self._rows: tuple[Row, ...] | None = tuple(rows)
        self._totals: Mapping[RowLabels, int] | None = None

    @classmethod
    def from_totals(
        cls, report: str, start: datetime, end: datetime, totals: Mapping[RowLabels, int], digest: bytes = b""
    ) -> Bucket:
        """Return the bucket with these totals, which must not change afterwards."""
        bucket = cls(report, start, end, ())
        bucket.digest = digest
        bucket._rows = None
        bucket._totals = totals
        return bucket

    @property
    def is_summed(self) -> bool:
        """Whether it was made from totals."""
        return self._rows is None

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows; those of a bucket from totals are sorted by their labels."""
        if self._rows is not None:
            return self._rows
        return tuple(to_row(labels, value) for labels, value in sorted(self.totals.items()))

    @property
    def totals(self) -> Mapping[RowLabels, int]:
        """Labels -> value; rows with equal labels are added up."""
        if self._totals is not None:
            return self._totals
        totals: dict[RowLabels, int] = {}
        for row in self._rows or ():
            labels = row_labels(row)
            totals[labels] = totals.get(labels, 0) + row.value
        return totals

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Bucket):
            return NotImplemented
        return (self.report, self.start, self.end, self.rows) == (other.report, other.start, other.end, other.rows)

    def __hash__(self) -> int:
        return hash((self.report, self.start, self.end))

    def __repr__(self) -> str:
        return f"Bucket({self.report!r}, {self.start!r}, {self.end!r}, {self.rows!r})"


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
    kind: Literal["usage", "bill", "names", "balance"]
    """`usage` counts tokens, requests and other units; `bill` is cost as the provider charges it. `names` and `balance`
    are the poller's own: a provider offers usage and bills."""
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
    lists_empty_buckets: bool = False
    """The provider documents a bucket for every slot, also for a slot without usage: where a bucket is missing, the
    answer is incomplete. Otherwise a missing bucket is an empty bucket."""

    def __post_init__(self) -> None:
        """Reject a report that cannot be scheduled or stored."""
        if not self.name:
            raise ValueError("a report has no name")
        if self.kind not in ("usage", "bill", "names", "balance"):
            raise ValueError(f"report {self.name}: the kind {self.kind!r} is neither usage nor bill")
        if self.width not in (HOUR, DAY):
            raise ValueError(f"report {self.name}: the width {self.width} is neither an hour nor a day")
        if self.poll_interval < MIN_POLL_INTERVAL:
            raise ValueError(f"report {self.name}: the poll interval {self.poll_interval} is shorter than a second")
        if min(self.overlap, self.settle_period, self.lag, self.history) < timedelta(0):
            raise ValueError(f"report {self.name}: a duration is negative")


class Balance(NamedTuple):
    """A part of the money that an account has at its provider for usage to come; the parts are disjoint."""

    type: Literal["prepaid", "granted"]
    """`prepaid` was paid in advance; `granted` was given by the provider, such as trial credits."""
    value: int
    """nano-USD that are left; negative where more was used than there was."""


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


MAX_TEXT_LENGTH = 256
"""Characters of a label or name: providers' own are far shorter."""
_TEXT_DIGEST_SIZE = 4
_UNSAFE_CHARACTERS = re.compile(
    "["
    "\\x00-\\x1f\\x7f-\\x9f"  # control characters: SQLite and terminals end or misread a text at some of them
    "\\u2028\\u2029"  # line separators: a line of the log or of /metrics would become two
    "\\u202a-\\u202e\\u2066-\\u2069"  # direction of writing: a text would be displayed in another order
    "\\ud800-\\udfff"  # halves of surrogate pairs: no encoding has them
    "\\ufeff\\ufffe\\uffff"  # byte order marks, and code points that are no characters
    "]"
)


def escape_text(text: str) -> str:
    """Return a text in which characters that cannot be stored or displayed are written as `\\uXXXX`.

    Escaping, unlike removal, keeps texts apart that differ only in such a character. The result can be encoded in
    UTF-8. A text without such characters is returned unchanged.
    """
    # Nearly all texts: of ASCII, only control characters are unsafe, and only these are not printable.
    if text.isascii() and text.isprintable():
        return text
    return _UNSAFE_CHARACTERS.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def clean_text(text: str) -> str:
    """Return a label or name from outside the process: escaped, and of at most MAX_TEXT_LENGTH characters.

    A longer text ends with a digest of the whole, so that two texts with the same beginning remain different.
    """
    text = escape_text(text)
    if len(text) <= MAX_TEXT_LENGTH:
        return text
    digest = blake2b(text.encode(), digest_size=_TEXT_DIGEST_SIZE).hexdigest()
    return f"{text[: MAX_TEXT_LENGTH - len(digest) - 1]}…{digest}"


KEY_PREFIX_PATTERN = "(?:sk-|crsr_|key_|xai-)"
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
