"""What a billed day teaches: how much of everything was used and what was paid for it, and what was paid besides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, NamedTuple

CENT = 10_000_000
"""nano-USD: no provider rounds more coarsely."""


class PricedUsage(NamedTuple):
    """One kind of use by one workspace, and what of the bill paid for exactly that."""

    workspace: str
    model: str
    meter: str
    tier: str
    units: int
    """Above 0."""
    nano_usd: int
    """nano-USD; 0 where nothing of the bill paid for it."""


class UnattributedCost(NamedTuple):
    """Money that no use explains; model, tier and item as on the bill."""

    workspace: str
    model: str
    tier: str
    item: str
    nano_usd: int


@dataclass(frozen=True, slots=True)
class BillEvidence:
    """What one billed day teaches; a day without a bill or without use and money teaches nothing."""

    priced_usage: tuple[PricedUsage, ...] = ()
    unattributed_costs: tuple[UnattributedCost, ...] = ()
    rounding: int = 1
    """nano-USD to which the bill's rows are rounded, as far as they show it: a power of ten, at most a cent."""
    item_by_meter: Mapping[str, str] = field(default_factory=dict)
    """Meter -> what the bill calls it where it is used without a model, as storage is."""

    def to_plain(self) -> list[Any]:
        """Return lists and a mapping of str and int, fit for JSON."""
        taught, standing = ([list(one) for one in some] for some in (self.priced_usage, self.unattributed_costs))
        return [taught, standing, self.rounding, {**self.item_by_meter}]

    @classmethod
    def from_plain(cls, plain: Sequence[Any]) -> BillEvidence:
        """Return the lesson that `plain` told."""
        taught, standing, rounding, *called = plain
        return cls(
            tuple(PricedUsage(*one) for one in taught),
            tuple(UnattributedCost(*one) for one in standing),
            rounding,
            *called,
        )


NO_EVIDENCE = BillEvidence()
"""What a day without a bill teaches."""


def infer_rounding(amounts: Iterable[int]) -> int:
    """Return the largest power of ten, at most a cent, that divides every amount of a bill."""
    told = [amount for amount in amounts if amount]
    powers = takewhile(lambda power: all(amount % power == 0 for amount in told), (10**n for n in range(1, 8)))
    return max(powers, default=1) if told else 1
