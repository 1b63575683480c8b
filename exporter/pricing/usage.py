"""What a day used, summed up per workspace, model, meter and tier, and how its units weigh against each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from math import lcm
from typing import NamedTuple

from exporter.model import COST, REQUESTS, TOKEN_METERS, Row
from exporter.pricing.list_prices import Rates

PriceKey = tuple[str, str, str]
"""Model, meter, tier: what has a price."""

Weighting = Callable[[Sequence[PriceKey], Rates], list[int]]
"""Tells what one unit of each kind weighs, in whole numbers."""


class DailyUsage(NamedTuple):
    """Everything of one kind that one workspace used in a day."""

    workspace: str
    price_key: PriceKey
    hourly_units: tuple[tuple[int, str, int], ...]
    """(hour, API key, units), units above 0, in order."""

    @property
    def units(self) -> int:
        """The day's units."""
        return sum(units for _, _, units in self.hourly_units)


def billable_rows(usage: Mapping[int, Sequence[Row]]) -> Iterator[tuple[int, Row]]:
    """Yield (hour, row) for everything that can cost money; requests cannot."""
    return ((hour, row) for hour, rows in usage.items() for row in rows if row.meter != REQUESTS)


def aggregate_usage(usage: Mapping[int, Sequence[Row]]) -> list[DailyUsage]:
    """Return a day's use (hour -> rows), in an order that does not depend on how it was told."""
    units: defaultdict[tuple[str, PriceKey], defaultdict[tuple[int, str], int]] = defaultdict(lambda: defaultdict(int))
    for hour, row in billable_rows(usage):
        if row.value > 0 and row.meter != COST:
            units[row.workspace, (row.model, row.meter, row.tier)][hour, row.api_key] += row.value
    return [
        DailyUsage(workspace, kind, tuple((hour, key, value) for (hour, key), value in sorted(parts.items())))
        for (workspace, kind), parts in sorted(units.items())
    ]


def rate_weights(price_keys: Sequence[PriceKey], rates: Rates) -> list[int]:
    """Weigh units by their rates, in exact proportion; what has no rate weighs nothing."""
    return integer_weights([rates.rate(*kind) or Fraction(0) for kind in price_keys])


def token_weights(price_keys: Sequence[PriceKey], _: Rates) -> list[int]:
    """Weigh tokens alike and everything else at nothing."""
    return [int(meter in TOKEN_METERS) for _, meter, _ in price_keys]


def unit_weights(price_keys: Sequence[PriceKey], _: Rates) -> list[int]:
    """Weigh all units alike."""
    return [1] * len(price_keys)


WEIGHTINGS: tuple[Weighting, ...] = (rate_weights, token_weights, unit_weights)
"""From the best to the one that always tells something."""

_MAX_EXACT_BITS = 512
_APPROXIMATE_SCALE = 1 << 128


def integer_weights(rates: Sequence[Fraction]) -> list[int]:
    """Return whole numbers in proportion to rates: exact, or where that takes huge numbers, to 30 digits or so."""
    scale = 1
    for denominator in {rate.denominator for rate in rates}:
        scale = lcm(scale, denominator)
        if scale.bit_length() > _MAX_EXACT_BITS:
            scale = _APPROXIMATE_SCALE
            break
    return [rate.numerator * scale // rate.denominator for rate in rates]


def weights(price_keys: Sequence[PriceKey], rates: Rates) -> list[int]:
    """Return what one unit of each kind weighs beside the others: by worth, else by tokens, else by units."""
    return next(
        candidate for measure in WEIGHTINGS if any(candidate := measure(price_keys, rates)) or measure is unit_weights
    )


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
