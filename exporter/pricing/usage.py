"""What a day used, summed up per workspace, model, meter and tier, and how its units weigh against each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from math import lcm
from typing import NamedTuple

from exporter.model import COST, REQUESTS, TOKEN_METERS, Row
from exporter.pricing.list_prices import Rates

Kind = tuple[str, str, str]
"""Model, meter, tier: what has a price."""

Measure = Callable[[Sequence[Kind], Rates], list[int]]
"""Tells what one unit of each kind weighs, in whole numbers."""


class Use(NamedTuple):
    """Everything of one kind that one workspace used in a day."""

    workspace: str
    kind: Kind
    parts: tuple[tuple[int, str, int], ...]
    """(hour, API key, units), units above 0, in order."""

    @property
    def units(self) -> int:
        """The day's units."""
        return sum(units for _, _, units in self.parts)


def told_rows(usage: Mapping[int, Sequence[Row]]) -> Iterator[tuple[int, Row]]:
    """Yield (hour, row) for everything that can cost money; requests cannot."""
    return ((hour, row) for hour, rows in usage.items() for row in rows if row.meter != REQUESTS)


def uses_of(usage: Mapping[int, Sequence[Row]]) -> list[Use]:
    """Return a day's use (hour -> rows), in an order that does not depend on how it was told."""
    units: defaultdict[tuple[str, Kind], defaultdict[tuple[int, str], int]] = defaultdict(lambda: defaultdict(int))
    for hour, row in told_rows(usage):
        if row.value > 0 and row.meter != COST:
            units[row.workspace, (row.model, row.meter, row.tier)][hour, row.api_key] += row.value
    return [
        Use(workspace, kind, tuple((hour, key, value) for (hour, key), value in sorted(parts.items())))
        for (workspace, kind), parts in sorted(units.items())
    ]


def by_worth(kinds: Sequence[Kind], rates: Rates) -> list[int]:
    """Weigh units by their rates, in exact proportion; what has no rate weighs nothing."""
    return in_proportion([rates.rate(*kind) or Fraction(0) for kind in kinds])


def by_tokens(kinds: Sequence[Kind], _: Rates) -> list[int]:
    """Weigh tokens alike and everything else at nothing."""
    return [int(meter in TOKEN_METERS) for _, meter, _ in kinds]


def by_units(kinds: Sequence[Kind], _: Rates) -> list[int]:
    """Weigh all units alike."""
    return [1] * len(kinds)


MEASURES: tuple[Measure, ...] = (by_worth, by_tokens, by_units)
"""From the best to the one that always tells something."""

_EXACT_BITS = 512
_NEARLY = 1 << 128


def in_proportion(rates: Sequence[Fraction]) -> list[int]:
    """Return whole numbers in proportion to rates: exact, or where that takes huge numbers, to 30 digits or so."""
    scale = 1
    for denominator in {rate.denominator for rate in rates}:
        scale = lcm(scale, denominator)
        if scale.bit_length() > _EXACT_BITS:
            scale = _NEARLY
            break
    return [rate.numerator * scale // rate.denominator for rate in rates]


def weigh(kinds: Sequence[Kind], rates: Rates) -> list[int]:
    """Return what one unit of each kind weighs beside the others: by worth, else by tokens, else by units."""
    return next(weights for measure in MEASURES if any(weights := measure(kinds, rates)) or measure is by_units)


def apportion(amount: int, weights: Sequence[int]) -> list[int]:
    """Cut an amount into shares in proportion to weights (none negative, not all 0) that sum to it exactly.

    A share is less than 1 away from its proportion and has the amount's sign: a credit mirrors its charge.
    """
    sign, size, total = (-1 if amount < 0 else 1), abs(amount), sum(weights)
    shares, weighed, given = [], 0, 0
    for weight in weights:
        weighed += weight
        due = size * weighed // total
        shares.append(sign * (due - given))
        given = due
    return shares
