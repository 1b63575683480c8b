"""Who spends: accounts, their members and the steady streams of use that make up their spend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from fnmatch import fnmatchcase
from math import prod
from typing import Literal

Mix = tuple[tuple[str, float], ...]
"""What one request uses on average: (meter, units)."""

CHAT: Mix = (("uncached_input", 1500.0), ("cache_read", 2200.0), ("output", 380.0))

REPORT_LABELS: Mapping[str, frozenset[str]] = {
    "completions": frozenset({"model", "tier", "api_key"}),
    "embeddings": frozenset({"model", "api_key"}),
    "moderations": frozenset({"model", "api_key"}),
    "images": frozenset({"model", "api_key"}),
    "audio_speeches": frozenset({"model", "api_key"}),
    "audio_transcriptions": frozenset({"model", "api_key"}),
    "vector_stores": frozenset(),
    "code_interpreter_sessions": frozenset(),
    "file_search_calls": frozenset({"api_key"}),
    "web_search_calls": frozenset({"model", "api_key"}),
    "messages": frozenset({"model", "tier", "api_key"}),
    "usage_events": frozenset({"model", "tier", "api_key"}),
}
"""Each kind of use and what its report can tell beside the workspace."""

REPORTS_WITH_REQUESTS = frozenset(
    {
        "completions",
        "embeddings",
        "moderations",
        "images",
        "audio_speeches",
        "audio_transcriptions",
        "usage_events",
    }
)
"""Kinds whose report counts requests that no other report counts."""


@dataclass(frozen=True, slots=True)
class PriceChange:
    """From a UTC day on, models whose name matches the glob cost `factor` times as much."""

    since: date
    factor: float
    model: str = "*"


@dataclass(frozen=True, slots=True)
class ExtraCharge:
    """Money on every day's bill that no report of use explains."""

    workspace: str
    label: str
    """The line's text on the bill."""
    usd_per_day: float = 0.0
    """Per day, whatever is used."""
    usage_cost_share: float = 0.0
    """Of what the workspace's use costs on that day."""
    cost_type: str = ""
    """Anthropic's cost type: `code_execution` or `session_usage`."""


@dataclass(frozen=True, slots=True)
class Stream:
    """One steady use by one workspace of one model."""

    workspace: str
    """An id; empty is Anthropic's default workspace, or no billing group at Cursor."""
    model: str
    tier: str = "standard"
    """`standard`, `batch`, `flex`, `priority`; at Cursor `included` or `on_demand`."""
    api_key: str = ""
    report: str = "completions"
    """The report that tells it: one of `KIND_LABELS`."""
    daily_requests: float = 1000.0
    """Requests on an average weekday."""
    mix: Mix = CHAT
    """Empty at Cursor: a call that is not priced by tokens."""
    load_profile: Literal["office", "nightly", "steady"] = "office"
    context_window: str = ""
    """Anthropic's context window: `0-200k` unless said."""
    region: str = ""
    """Anthropic's inference geography: `global` unless said."""
    billed_model: str = ""
    """The model's name on the bill, where it differs."""
    since: date | None = None
    """The first UTC day of use, where it is later than the world's."""
    weekday_factors: tuple[float, ...] = ()
    """Seven factors of the size, Monday first, on top of the shape; 0 is a day without use."""
    long_context_share: float = 0.0
    """The part of the tokens that is billed at long-context prices though the use does not tell it."""

    def __post_init__(self) -> None:
        """Refuse a kind that no provider reports."""
        if self.report not in REPORT_LABELS:
            raise ValueError(f"kind {self.report!r} is none of {', '.join(REPORT_LABELS)}")
        if len(self.weekday_factors) not in (0, 7):
            raise ValueError(f"weekdays: seven factors or none, not {len(self.weekday_factors)}")

    def labels(self) -> tuple[str, str, str, str]:
        """Return (workspace, model, tier, api_key) as the report can tell them; empty where it cannot."""
        told = REPORT_LABELS[self.report]
        tier = f"{self.tier}_long_context" if self.context_window == "200k-1M" else self.tier
        return (
            self.workspace,
            self.model if "model" in told else "",
            tier if "tier" in told else "",
            self.api_key if "api_key" in told else "",
        )


@dataclass(frozen=True, slots=True)
class Member:
    """One person or service account of a Cursor team."""

    id: str
    name: str
    email: str
    group: str = ""
    service_account: str = ""
    """The service account's id; empty for a person."""


@dataclass(frozen=True, slots=True)
class SimAccount:
    """One key of one organisation at one provider, and everything that it will be told."""

    name: str
    provider: Literal["openai", "anthropic", "cursor"]
    owner: str
    key: str
    organization: str
    streams: tuple[Stream, ...]
    workspaces: Mapping[str, str] = field(default_factory=dict)
    """Workspace id -> name; Cursor: billing group id -> name."""
    archived_workspaces: frozenset[str] = frozenset()
    """Ids of archived workspaces; their use and bills go on being told."""
    api_keys: Mapping[str, str] = field(default_factory=dict)
    """API key id -> name; keys that only streams name are called by their id."""
    members: tuple[Member, ...] = ()
    discount: float = 0.0
    """Negotiated share off the list price: 0.1 is ten per cent less."""
    amount_format: Literal["number", "string"] = "number"
    """How OpenAI spells `amount.value` for this account."""
    bill_delay: timedelta = timedelta(hours=6)
    """A day's bill appears this long after the day's end."""
    token_details: bool = True
    """False: OpenAI's older rows of completions, without the detail fields."""
    has_billing_groups: bool = True
    """False: a Cursor plan without billing groups."""
    price_changes: tuple[PriceChange, ...] = ()
    """Not at Cursor, nor are the extras."""
    extra_charges: tuple[ExtraCharge, ...] = ()

    def key_workspaces(self) -> dict[str, str]:
        """Return each API key's id -> the workspace it belongs to, in the order of the streams."""
        return {stream.api_key: stream.workspace for stream in self.streams if stream.api_key}

    def price_factor(self, model: str, day: date) -> float:
        """Return by what a model's list price is multiplied on a UTC day, the discount aside."""
        changes = self.price_changes
        return prod(one.factor for one in changes if one.since <= day and fnmatchcase(model, one.model))
