"""The simulated accounts: their members, their usage as steady streams, and their prices and bills."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from fnmatch import fnmatchcase
from math import prod
from typing import Literal, NamedTuple

from exporter.simulator.billing_terms import (
    BillOutage,
    BillStage,
    FreeTokens,
    LineDelay,
    VolumeDiscount,
    identity_rank,
)

Mix = tuple[tuple[str, float], ...]
"""The average usage of one request: (meter, units)."""

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
    "xai_usage": frozenset({"model", "api_key"}),
    "openrouter_usage": frozenset({"model", "tier", "api_key"}),
}
"""Report -> the labels that it has besides the workspace."""

REPORTS_WITH_REQUESTS = frozenset(
    {
        "completions",
        "embeddings",
        "moderations",
        "images",
        "audio_speeches",
        "audio_transcriptions",
        "usage_events",
        "openrouter_usage",
    }
)
"""Reports that count requests which no other report counts."""


class StreamLabels(NamedTuple):
    """The labels of usage as a report has them; a label that the report lacks is empty."""

    workspace: str
    model: str
    tier: str
    api_key: str


@dataclass(frozen=True, slots=True)
class PriceChange:
    """From the UTC day `since`, models that match the glob cost `factor` times as much."""

    since: date
    factor: float
    model: str = "*"


@dataclass(frozen=True, slots=True)
class ExtraCharge:
    """A line on the bill for which there is no usage: on every day, unless `dates` or `day_share` is given."""

    workspace: str
    label: str
    """The text of the line."""
    usd_per_day: float = 0.0
    """Fixed part, independent of usage."""
    usage_cost_share: float = 0.0
    """Share of the cost of the workspace's usage on that day."""
    cost_type: str = ""
    """Anthropic's cost type: `code_execution` or `session_usage`."""
    dates: frozenset[date] = frozenset()
    """The only UTC days with this charge, such as the day of a one-off purchase; empty for every day."""
    day_share: float = 1.0
    """The share of the UTC days with this charge, chosen by its label and the date, such as days with training jobs."""

    @property
    def is_daily(self) -> bool:
        """Whether every day has this charge."""
        return not self.dates and self.day_share >= 1.0

    def occurs_on(self, day: date) -> bool:
        """Return whether the bill of a UTC day has this charge."""
        if self.dates and day not in self.dates:
            return False
        return self.day_share >= 1.0 or identity_rank(self.label, day.isoformat()) < self.day_share


@dataclass(frozen=True, slots=True)
class Stream:
    """Steady usage of one model by one workspace."""

    workspace: str
    """The id; "" is Anthropic's default workspace, or no billing group at Cursor."""
    model: str
    tier: str = "standard"
    """`standard`, `batch`, `flex`, `priority`; at Cursor `included` or `on_demand`."""
    api_key: str = ""
    report: str = "completions"
    """The report that contains it: a key of REPORT_LABELS."""
    daily_requests: float = 1000.0
    """Requests on an average weekday."""
    mix: Mix = CHAT
    """Empty for Cursor calls that are not priced by tokens."""
    load_profile: Literal["office", "nightly", "steady"] = "office"
    context_window: str = ""
    """Anthropic's context window; "" is `0-200k`."""
    region: str = ""
    """Anthropic's inference geography; "" is `global`."""
    billed_model: str = ""
    """The model's id on the bill; "" where it is the same."""
    since: date | None = None
    """The first UTC day with usage; None is the first day of the simulation."""
    weekday_factors: tuple[float, ...] = ()
    """Seven factors of `daily_requests`, Monday first, in addition to the load profile; 0 is a day without usage."""
    long_context_share: float = 0.0
    """Share of the tokens that is billed at long-context prices, although the usage report does not show it."""

    def __post_init__(self) -> None:
        """Reject an unknown report and an incomplete list of weekdays."""
        if self.report not in REPORT_LABELS:
            raise ValueError(f"report {self.report!r} is none of {', '.join(REPORT_LABELS)}")
        if len(self.weekday_factors) not in (0, 7):
            raise ValueError(f"weekday_factors: expected seven or none, got {len(self.weekday_factors)}")

    def labels(self) -> StreamLabels:
        """Return the labels of the stream's rows."""
        available = REPORT_LABELS[self.report]
        tier = f"{self.tier}_long_context" if self.context_window == "200k-1M" else self.tier
        return StreamLabels(
            workspace=self.workspace,
            model=self.model if "model" in available else "",
            tier=tier if "tier" in available else "",
            api_key=self.api_key if "api_key" in available else "",
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
    """One organisation at one provider, with its admin key, its usage and its bills."""

    name: str
    provider: Literal["openai", "anthropic", "cursor", "xai", "deepseek", "openrouter"]
    owner: str
    key: str
    organization: str
    streams: tuple[Stream, ...]
    workspaces: Mapping[str, str] = field(default_factory=dict)
    """Workspace id -> name; Cursor: billing group id -> name."""
    archived_workspaces: frozenset[str] = frozenset()
    """Ids of archived workspaces; their usage and bills continue."""
    api_keys: Mapping[str, str] = field(default_factory=dict)
    """API key id -> name; a key that appears only in a stream is named by its id."""
    members: tuple[Member, ...] = ()
    discount: float = 0.0
    """Negotiated discount on list prices: 0.1 is ten per cent."""
    amount_format: Literal["number", "string"] = "number"
    """The JSON type of OpenAI's `amount.value` for this account."""
    bill_delay: timedelta = timedelta(hours=6)
    """Time from the end of a day to its bill, where it has no stages."""
    bill_stages: tuple[BillStage, ...] = ()
    """The stages in which a bill is issued, oldest first; empty where it is issued at once."""
    line_delays: tuple[LineDelay, ...] = ()
    """Lines that are issued later than the stages say; the first glob that matches applies."""
    bill_outages: tuple[BillOutage, ...] = ()
    """Time ranges in which the provider answers without bills."""
    unassigned_line_share: float = 0.0
    """The share of the bill's lines without a workspace (OpenAI: `project_id` null), chosen by their identity."""
    minimum_charge_usd: float = 0.0
    """The smallest bill of a day with usage; the difference to the usage is a line without a workspace."""
    free_tokens: tuple[FreeTokens, ...] = ()
    """Free daily tokens; like the other terms of bills, ignored for Cursor."""
    volume_discounts: tuple[VolumeDiscount, ...] = ()
    """Prices that decrease with the volume of the month."""
    prompt_usage: bool = False
    """True: usage is reported as soon as it has happened, instead of minutes and hours later."""
    token_details: bool = True
    """False for OpenAI's older completions results, which have no detail fields."""
    has_billing_groups: bool = True
    """False for a Cursor plan without billing groups."""
    price_changes: tuple[PriceChange, ...] = ()
    """Ignored for Cursor, as are `extra_charges`."""
    extra_charges: tuple[ExtraCharge, ...] = ()
    prepaid_usd: float = 0.0
    """What was paid in advance before the first usage; at xAI the cost of usage is taken from it."""
    granted_usd: float = 0.0
    """What DeepSeek has granted."""
    options: Mapping[str, str] = field(default_factory=dict)
    """The account's `options` in the configuration."""

    def key_workspaces(self) -> dict[str, str]:
        """Return API key id -> workspace id, in the order of the streams."""
        return {stream.api_key: stream.workspace for stream in self.streams if stream.api_key}

    def price_factor(self, model: str, day: date) -> float:
        """Return the factor of a model's list price on a UTC day, without the discount."""
        effective = (change for change in self.price_changes if change.since <= day)
        return prod(change.factor for change in effective if fnmatchcase(model, change.model))
