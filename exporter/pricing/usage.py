"""Usage of a day, aggregated per workspace, model, meter and tier, and the weights that divide a cost among it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import lcm
from typing import NamedTuple

from exporter.model import COST, REQUESTS, TOKEN_METERS, Row
from exporter.pricing.list_prices import PriceKey, Rates

Weighting = Callable[[Sequence[PriceKey], Rates], list[int]]
"""Price keys and rates -> the weight of one unit of each key: whole numbers, so that shares of a cost stay exact."""


LAST_HOUR = 23
"""Of a UTC day."""


class UsageKey(NamedTuple):
    """The usage that a row of a bill can pay for: a price key in a workspace."""

    workspace: str
    price_key: PriceKey


class HourlyUnits(NamedTuple):
    """Units that one API key used in one hour of a day."""

    hour: int
    """0..23"""
    api_key: str
    units: int
    """Above 0."""


@dataclass(frozen=True, slots=True)
class DailyUsage:
    """All usage of one key in a day."""

    key: UsageKey
    hourly_units: tuple[HourlyUnits, ...]
    """Sorted, each hour and API key once."""

    @property
    def workspace(self) -> str:
        """The workspace of the key."""
        return self.key.workspace

    @property
    def price_key(self) -> PriceKey:
        """The price key of the key."""
        return self.key.price_key

    @property
    def units(self) -> int:
        """The units of the whole day, above 0."""
        return sum(hourly.units for hourly in self.hourly_units)


def billable_rows(usage: Mapping[int, Sequence[Row]]) -> Iterator[tuple[int, Row]]:
    """Yield (hour, row) for everything that can cost money. Requests cannot: no provider bills them by number."""
    for hour, rows in usage.items():
        for row in rows:
            if row.meter != REQUESTS:
                yield hour, row


def aggregate_usage(usage: Mapping[int, Sequence[Row]]) -> list[DailyUsage]:
    """Return the usage of a day (hour 0..23 -> rows), sorted by key, so that the order of rows does not matter.

    Rows of meter `cost` are not usage; rows without units are left out, for nothing can be allocated to them.
    """
    units_by_key: defaultdict[UsageKey, defaultdict[tuple[int, str], int]] = defaultdict(lambda: defaultdict(int))
    for hour, row in billable_rows(usage):
        if row.value > 0 and row.meter != COST:
            key = UsageKey(row.workspace, PriceKey(row.model, row.meter, row.tier))
            units_by_key[key][hour, row.api_key] += row.value
    return [
        DailyUsage(key, tuple(HourlyUnits(hour, api_key, units) for (hour, api_key), units in sorted(hourly.items())))
        for key, hourly in sorted(units_by_key.items())
    ]


def rate_weights(price_keys: Sequence[PriceKey], rates: Rates) -> list[int]:
    """Weigh units by their rates, in exact proportion; units without a rate weigh 0."""
    return integer_weights([rates.rate(*price_key) or Fraction(0) for price_key in price_keys])


def token_weights(price_keys: Sequence[PriceKey], _: Rates) -> list[int]:
    """Weigh every token 1 and every other unit 0."""
    return [int(price_key.meter in TOKEN_METERS) for price_key in price_keys]


def unit_weights(price_keys: Sequence[PriceKey], _: Rates) -> list[int]:
    """Weigh every unit 1."""
    return [1] * len(price_keys)


WEIGHTINGS: tuple[Weighting, ...] = (rate_weights, token_weights, unit_weights)
"""In order of preference. The last never yields only zeros, so a cost can always be divided."""

_MAX_EXACT_BITS = 512
_APPROXIMATE_SCALE = 1 << 128


def integer_weights(rates: Sequence[Fraction]) -> list[int]:
    """Return whole numbers in proportion to rates.

    Exact as long as the common denominator has at most 512 bits. Many learned rates (amount / units) can have a far
    larger one, which would make every following multiplication slow; then precision is limited to 2**-128.
    """
    scale = 1
    for denominator in {rate.denominator for rate in rates}:
        scale = lcm(scale, denominator)
        if scale.bit_length() > _MAX_EXACT_BITS:
            scale = _APPROXIMATE_SCALE
            break
    return [rate.numerator * scale // rate.denominator for rate in rates]


def weights(price_keys: Sequence[PriceKey], rates: Rates) -> list[int]:
    """Return the weight of one unit of each key, by the first weighting that is not 0 for all of them."""
    for weighting in WEIGHTINGS:
        candidate = weighting(price_keys, rates)
        if any(candidate):
            return candidate
    return unit_weights(price_keys, rates)


def apportion(amount: int, weights: Sequence[int]) -> list[int]:
    """Divide an amount into shares in proportion to weights (none negative, not all 0) that sum to it exactly.

    Each share is the difference of two consecutive rounded cumulative sums. So rounding errors do not add up: a share
    is less than 1 away from its exact value, and a weight of 0 has a share of 0. The magnitude is divided and the sign
    restored: a credit has the mirrored shares of its charge and cancels it.
    """
    sign = -1 if amount < 0 else 1
    magnitude, total_weight = abs(amount), sum(weights)
    shares: list[int] = []
    cumulative_weight = cumulative_share = 0
    for weight in weights:
        cumulative_weight += weight
        due = magnitude * cumulative_weight // total_weight
        shares.append(sign * (due - cumulative_share))
        cumulative_share = due
    return shares
