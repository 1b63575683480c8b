"""Bill evidence: what a billed day shows about prices. The source of learned rates and of expected extra costs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any, NamedTuple

from exporter.model import TOKEN_METERS
from exporter.pricing.list_prices import PriceKey

CENT = 10_000_000
"""nano-USD: no provider rounds more coarsely."""


class PricedUsage(NamedTuple):
    """Usage of one kind in one workspace on a billed day, and the amount that the bill charged for exactly that."""

    workspace: str
    model: str
    meter: str
    tier: str
    units: int
    """Above 0."""
    nano_usd: int
    """0 where no row of the bill paid for it."""


class UnattributedLabels(NamedTuple):
    """The identity of an unattributed cost from day to day: model, tier and item as on the bill."""

    workspace: str
    model: str
    tier: str
    item: str


class UnattributedCost(NamedTuple):
    """A cost on the bill that pays for no usage."""

    workspace: str
    model: str
    tier: str
    item: str
    nano_usd: int

    @property
    def labels(self) -> UnattributedLabels:
        """Everything but the amount."""
        return UnattributedLabels(self.workspace, self.model, self.tier, self.item)


class BilledUsage(NamedTuple):
    """Units and amount that one day was billed for one price key, in all workspaces."""

    units: int
    """Above 0."""
    nano_usd: int
    rounding: int
    """nano-USD by which `nano_usd` may be off because the rows of the bill are rounded."""

    @property
    def rate(self) -> Fraction:
        """nano-USD per unit."""
        return Fraction(self.nano_usd, self.units)


@dataclass(frozen=True, slots=True)
class ModelTokens:
    """The tokens of a model on a billed day, and what they cost."""

    by_price_key: Mapping[PriceKey, BilledUsage]
    tokens: int
    cost: int
    """nano-USD."""


@dataclass(frozen=True, slots=True)
class WorkspaceEvidence:
    """The evidence of one billed day on one workspace."""

    units: dict[PriceKey, int] = field(default_factory=dict)
    costs: dict[UnattributedLabels, UnattributedCost] = field(default_factory=dict)


@dataclass(frozen=True)
class BillEvidence:
    """The evidence of one billed day; empty for a day without a bill.

    Each day's evidence is used for the rates of the seven days after it: its sums are computed once.
    """

    priced_usage: tuple[PricedUsage, ...] = ()
    unattributed_costs: tuple[UnattributedCost, ...] = ()
    rounding: int = 1
    """nano-USD to which the bill's rows are rounded, as far as they show it: a power of ten, at most a cent."""
    item_by_meter: Mapping[str, str] = field(default_factory=dict)
    """Meter -> its item on the bill where it is used without a model, such as storage."""
    volume_tiers: Mapping[str, tuple[int, Fraction]] = field(default_factory=dict)
    """Model -> tokens of a month, and the price of all further tokens relative to theirs; as known with this bill."""
    price_factors: Mapping[str, Fraction] = field(default_factory=dict)
    """Model -> the mean price of the day's tokens relative to those below its volume tier; where it is not 1."""

    @cached_property
    def by_price_key(self) -> Mapping[PriceKey, BilledUsage]:
        """The sums over workspaces: a price is the account's, and larger sums are less affected by rounding."""
        sums: dict[PriceKey, BilledUsage] = {}
        for priced in self.priced_usage:
            price_key = PriceKey(priced.model, priced.meter, priced.tier)
            units, nano_usd, rounding = sums.get(price_key, (0, 0, 0))
            # Each workspace has its own row on the bill, rounded by itself.
            sums[price_key] = BilledUsage(units + priced.units, nano_usd + priced.nano_usd, rounding + self.rounding)
        return sums

    @cached_property
    def tokens_by_model(self) -> Mapping[str, ModelTokens]:
        """Model -> its tokens of all workspaces."""
        by_model: dict[str, dict[PriceKey, BilledUsage]] = {}
        for price_key, billed in self.by_price_key.items():
            if price_key.meter in TOKEN_METERS:
                by_model.setdefault(price_key.model, {})[price_key] = billed
        return {
            model: ModelTokens(
                billed_usage,
                tokens=sum(billed.units for billed in billed_usage.values()),
                cost=sum(billed.nano_usd for billed in billed_usage.values()),
            )
            for model, billed_usage in by_model.items()
        }

    @cached_property
    def by_workspace(self) -> Mapping[str, WorkspaceEvidence]:
        """Workspace -> its part of the evidence."""
        parts: defaultdict[str, WorkspaceEvidence] = defaultdict(WorkspaceEvidence)
        for priced in self.priced_usage:
            price_key = PriceKey(priced.model, priced.meter, priced.tier)
            parts[priced.workspace].units[price_key] = priced.units
        for cost in self.unattributed_costs:
            parts[cost.workspace].costs[cost.labels] = cost
        return dict(parts)

    def to_plain(self) -> list[Any]:
        """Return lists and a mapping of str and int, fit for JSON. Lists, not mappings: the ledger holds many."""
        return [
            [list(priced) for priced in self.priced_usage],
            [list(cost) for cost in self.unattributed_costs],
            self.rounding,
            {**self.item_by_meter},
            {model: [tokens, str(factor)] for model, (tokens, factor) in self.volume_tiers.items()},
            {model: str(factor) for model, factor in self.price_factors.items()},
        ]

    @classmethod
    def from_plain(cls, plain: Sequence[Any]) -> BillEvidence:
        """Return the evidence that `to_plain` encoded; evidence of earlier versions lacks some of the last fields."""
        priced_usage, unattributed_costs, rounding, *rest = plain
        item_by_meter, volume_tiers, factors = [*rest, {}, {}, {}][:3]
        return cls(
            tuple(PricedUsage(*priced) for priced in priced_usage),
            tuple(UnattributedCost(*cost) for cost in unattributed_costs),
            rounding,
            item_by_meter,
            {model: (tokens, Fraction(factor)) for model, (tokens, factor) in volume_tiers.items()},
            {model: Fraction(factor) for model, factor in factors.items()},
        )


NO_EVIDENCE = BillEvidence()
"""The evidence of a day without a bill."""


def infer_rounding(amounts: Iterable[int]) -> int:
    """Return the largest power of ten, at most a cent, that divides every amount of a bill; 1 if all are 0."""
    nonzero = [amount for amount in amounts if amount]
    if not nonzero:
        return 1
    rounding = 1
    while rounding < CENT and all(amount % (rounding * 10) == 0 for amount in nonzero):
        rounding *= 10
    return rounding
