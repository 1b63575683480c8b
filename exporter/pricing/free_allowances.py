"""Free daily allowances: tokens of a model that a provider does not bill, up to a number per UTC day.

Bills do not state an allowance. It shows where the cost of a model falls to 0 before its tokens do: the points (tokens,
cost) of several days lie on a line that meets the axis at the free tokens. All tokens of the model share the allowance
in the proportion in which the day used them, so on each day the same share of every meter is billed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from exporter.model import TOKEN_METERS
from exporter.pricing.bill_evidence import BillEvidence, ModelTokens
from exporter.pricing.list_prices import PriceKey
from exporter.pricing.usage import DayUsage

_MIN_USAGE_LEVELS = 3
"""Two days always lie on a line; a third of another size confirms it."""
_MIN_LEVEL_DIFFERENCE = Fraction(5, 100)
"""Days whose usage differs by less of the largest are one level."""
_MAX_DEVIATION = Fraction(1, 100)
"""How far, of the largest cost, a day may lie beside the line."""
_MIN_FREE_SHARE = Fraction(2, 100)
"""The share of the smallest day's tokens that is free at least: less is noise of the mix."""

BillableShares = Mapping[tuple[int, str], Fraction]
"""Hour 0..23 and model -> the share of the tokens that costs money; 1 where it is absent."""


@dataclass(frozen=True, slots=True)
class FreeAllowance:
    """The tokens of a model that are free on each UTC day, and the prices of all others."""

    tokens: Fraction
    rates: Mapping[PriceKey, Fraction]
    """nano-USD per token."""

    def billed_share(self, tokens: int) -> Fraction:
        """Return the share of a day's tokens that is billed."""
        return max(Fraction(0), 1 - self.tokens / tokens) if tokens else Fraction(0)


def learn_allowances(evidence: Sequence[BillEvidence]) -> dict[str, FreeAllowance]:
    """Return model -> the free allowance that the newest billed days of an account show; most accounts have none."""
    days_by_model: defaultdict[str, list[ModelTokens]] = defaultdict(list)
    for day in evidence:
        for model, model_tokens in day.tokens_by_model.items():
            days_by_model[model].append(model_tokens)
    allowances = {}
    for model, days in days_by_model.items():
        allowance = _fit(days) if len(days) >= _MIN_USAGE_LEVELS else None
        if allowance is not None:
            allowances[model] = allowance
    return allowances


def billable_shares(usage: DayUsage, allowances: Mapping[str, FreeAllowance]) -> BillableShares:
    """Return which share of each hour's tokens costs money: the first tokens of the day are free, in all workspaces."""
    if not allowances:
        return {}
    tokens_by_hour: defaultdict[tuple[int, str], int] = defaultdict(int)
    for labels, hours, values in usage.billable:
        if labels.model in allowances and labels.meter in TOKEN_METERS:
            for hour, tokens in zip(hours, values, strict=True):
                tokens_by_hour[hour, labels.model] += tokens
    remaining = {model: allowance.tokens for model, allowance in allowances.items()}
    shares = {}
    for (hour, model), tokens in sorted(tokens_by_hour.items()):
        free = min(remaining[model], Fraction(tokens))
        remaining[model] -= free
        if free:
            shares[hour, model] = 1 - free / tokens
    return shares


def _fit(days: Sequence[ModelTokens]) -> FreeAllowance | None:
    """Return the allowance if the days lie on a line that does not meet the origin; None otherwise."""
    paid = sorted((day for day in days if day.cost > 0), key=lambda day: day.tokens)
    if not paid or _count_levels([day.tokens for day in paid]) < _MIN_USAGE_LEVELS:
        return None
    smallest, largest = paid[0], paid[-1]
    # The key with most of the cost has the most exact amounts.
    price_key = max(largest.by_price_key, key=lambda key: (largest.by_price_key[key].nano_usd, key))
    if price_key not in smallest.by_price_key:
        return None
    low = smallest.by_price_key[price_key].rate * smallest.tokens
    high = largest.by_price_key[price_key].rate * largest.tokens
    rate = (high - low) / (largest.tokens - smallest.tokens)
    if rate <= 0:
        return None
    free_tokens = largest.tokens - high / rate
    if free_tokens < _MIN_FREE_SHARE * smallest.tokens:
        return None
    allowance = FreeAllowance(free_tokens, _rates_beyond(days, free_tokens))
    for day in days:
        share = allowance.billed_share(day.tokens)
        expected = sum(
            (share * billed.units * allowance.rates.get(key, Fraction(0)) for key, billed in day.by_price_key.items()),
            Fraction(0),
        )
        if abs(day.cost - expected) > _MAX_DEVIATION * largest.cost:
            return None
    return allowance


def _rates_beyond(days: Sequence[ModelTokens], free_tokens: Fraction) -> dict[PriceKey, Fraction]:
    """Return the price of each key from all days together, given the free tokens of a day."""
    billed_units: defaultdict[PriceKey, Fraction] = defaultdict(Fraction)
    nano_usd: defaultdict[PriceKey, int] = defaultdict(int)
    for day in days:
        share = FreeAllowance(free_tokens, {}).billed_share(day.tokens)
        for key, billed in day.by_price_key.items():
            billed_units[key] += share * billed.units
            nano_usd[key] += billed.nano_usd
    return {key: nano_usd[key] / units for key, units in billed_units.items() if units}


def _count_levels(sorted_tokens: Sequence[int]) -> int:
    # Integers: this runs for every model of every valued day, and comparing fractions takes ten times as long.
    min_difference, scale = _MIN_LEVEL_DIFFERENCE.numerator * sorted_tokens[-1], _MIN_LEVEL_DIFFERENCE.denominator
    levels, level = 1, sorted_tokens[0]
    for tokens in sorted_tokens:
        if (tokens - level) * scale >= min_difference:
            levels, level = levels + 1, tokens
    return levels
