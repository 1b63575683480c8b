"""Usage of a day, aggregated per workspace, model, meter and tier, and the weights that divide a cost among it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import accumulate
from math import lcm
from operator import lt, sub
from typing import NamedTuple

from exporter.model import COST, REQUESTS, TOKEN_METERS, Row, RowLabels
from exporter.pricing.list_prices import PriceKey, Rates

Weighting = Callable[[Sequence[PriceKey], Rates], list[int]]
"""Price keys and rates -> the weight of one unit of each key: whole numbers, so that shares of a cost stay exact."""


LAST_HOUR = 23
"""Of a UTC day."""


class UsageKey(NamedTuple):
    """The usage that a row of a bill can pay for: a price key in a workspace."""

    workspace: str
    price_key: PriceKey


class UsageSeries(NamedTuple):
    """The usage of a day with equal labels; hours and values are parallel.

    An hour occurs more than once where a report has several rows with these labels: each row is priced by itself.
    """

    labels: RowLabels
    hours: Sequence[int]
    """0..23"""
    values: Sequence[int]
    """Units; nano-USD for meter `cost`."""


@dataclass(frozen=True)
class DayUsage:
    """What usage reports contain of a day, by labels.

    By labels and not by the hour: a day has a few sets of labels, and a value of each in every hour. What depends on
    the labels, such as the rate, is then found once instead of 24 times: a factor of three for a valuation.
    """

    series: Sequence[UsageSeries]

    @classmethod
    def from_rows(cls, rows_by_hour: Mapping[int, Iterable[Row]]) -> DayUsage:
        """Return the usage of rows: hour 0..23 -> rows."""
        hours: defaultdict[RowLabels, list[int]] = defaultdict(list)
        values: defaultdict[RowLabels, list[int]] = defaultdict(list)
        for hour, rows in rows_by_hour.items():
            for row in rows:
                labels = RowLabels(row.meter, row.workspace, row.model, row.tier, row.api_key, row.item)
                hours[labels].append(hour)
                values[labels].append(row.value)
        return cls([UsageSeries(labels, hours[labels], values[labels]) for labels in hours])

    @cached_property
    def billable(self) -> Sequence[UsageSeries]:
        """Everything that can cost money. Requests cannot: no provider bills them by number."""
        return [series for series in self.series if series.labels.meter != REQUESTS]

    @cached_property
    def by_key(self) -> Sequence[DailyUsage]:
        """The usage sorted by key, so that the order of rows does not matter.

        Rows of meter `cost` are not usage; rows without units are left out, for nothing can be allocated to them.
        """
        series_by_key: defaultdict[UsageKey, list[UsageSeries]] = defaultdict(list)
        for series in self.billable:
            labels = series.labels
            if labels.meter != COST and any(value > 0 for value in series.values):
                key = UsageKey(labels.workspace, PriceKey(labels.model, labels.meter, labels.tier))
                series_by_key[key].append(series)
        return [_sum_series(key, all_series) for key, all_series in sorted(series_by_key.items())]


@dataclass(frozen=True)
class DailyUsage:
    """All usage of one key in a day. The sequences are parallel and sorted, each hour and API key once."""

    key: UsageKey
    hours: Sequence[int]
    """0..23"""
    api_keys: Sequence[str]
    hourly_units: Sequence[int]
    """Above 0."""

    @property
    def workspace(self) -> str:
        """The workspace of the key."""
        return self.key.workspace

    @property
    def price_key(self) -> PriceKey:
        """The price key of the key."""
        return self.key.price_key

    @cached_property
    def units(self) -> int:
        """The units of the whole day, above 0."""
        return sum(self.hourly_units)


def to_day_usage(usage: DayUsage | Mapping[int, Iterable[Row]]) -> DayUsage:
    """Return usage by labels; rows by the hour (0..23) are arranged."""
    return usage if isinstance(usage, DayUsage) else DayUsage.from_rows(usage)


def _sum_series(key: UsageKey, all_series: Sequence[UsageSeries]) -> DailyUsage:
    """Sum the series of a key by hour and API key."""
    first = all_series[0]
    is_sorted = all(map(lt, first.hours, first.hours[1:]))
    if len(all_series) == 1 and is_sorted and min(first.values) > 0:
        # Nearly every key: nothing has to be summed or sorted.
        return DailyUsage(key, first.hours, [first.labels.api_key] * len(first.hours), first.values)
    units: defaultdict[tuple[int, str], int] = defaultdict(int)
    for series in all_series:
        for hour, value in zip(series.hours, series.values, strict=True):
            if value > 0:
                units[hour, series.labels.api_key] += value
    ordered = sorted(units.items())
    return DailyUsage(
        key,
        [hour for (hour, _), _ in ordered],
        [api_key for (_, api_key), _ in ordered],
        [value for _, value in ordered],
    )


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
    magnitude, total_weight = abs(amount), sum(weights)
    cumulative_shares = [magnitude * cumulative // total_weight for cumulative in accumulate(weights)]
    if amount < 0:
        cumulative_shares = [-share for share in cumulative_shares]
    return [*cumulative_shares[:1], *map(sub, cumulative_shares[1:], cumulative_shares)]
