"""Learned rates: prices inferred from an account's own bills, so that discounts and price changes are followed.

A price is the newest billed day's: amount / units. That quotient is inexact where few units were billed in rounded
amounts, so older days are pooled with it as long as they were billed at the same price. The first older day with
another price ends the pool: it is from before a price change.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fnmatch import fnmatchcase
from fractions import Fraction

from exporter.config.configuration import Price
from exporter.model import NANO
from exporter.pricing.bill_evidence import BilledUsage, BillEvidence
from exporter.pricing.free_allowances import FreeAllowance, learn_allowances
from exporter.pricing.list_prices import PriceKey, Rates

PRICE_TOLERANCE = Fraction(5, 1000)
"""Two days whose rates differ by at most this ratio were billed at one price."""
_MAX_ROUNDED_USAGE_SHARE = Fraction(1, 100)
"""Below this share of another day's units, a day's rate may be a product of its bill's rounding."""
_MAX_PRICE_RATIO = Fraction(2)
"""A bill of more than twice the list price is no uplift that would apply to other usage too."""


@dataclass(frozen=True, slots=True)
class NegotiatedPrice:
    """A price that an account negotiated with its provider; it takes precedence over learned rates."""

    model: str
    """A glob, such as `claude-*`."""
    meter: str
    tier: str
    """Empty for every tier."""
    usd_per_million: Decimal

    @classmethod
    def from_config(cls, price: Price) -> NegotiatedPrice:
        """Return a price as the configuration has it."""
        return cls(price.model, price.meter, price.tier, price.usd_per_million)

    def matches(self, model: str, meter: str, tier: str) -> bool:
        """Return whether this price applies to the usage."""
        return meter == self.meter and self.tier in ("", tier) and fnmatchcase(model, self.model)

    @property
    def rate(self) -> Fraction:
        """nano-USD per unit."""
        return Fraction(self.usd_per_million) * NANO / 1_000_000


def learned_rates(
    evidence: Sequence[BillEvidence], list_prices: Rates, negotiated_prices: Sequence[NegotiatedPrice] = ()
) -> Rates:
    """Return an account's rates, from the evidence of its newest billed days, newest first.

    For each model, meter and tier the first of these that exists: the first negotiated price that matches; the learned
    rate; the learned rate of the same model and meter in another tier, times the ratio of the list prices; the list
    price times the discount of the model, else of the account. None without a list price.
    """
    allowances = learn_allowances(evidence)
    return _AccountRates([_billed_day(day) for day in evidence], allowances, list_prices, negotiated_prices)


_BilledDay = Mapping[PriceKey, BilledUsage]


def _billed_day(evidence: BillEvidence) -> _BilledDay:
    # Credits that exceed the charges are no evidence of a price.
    return {price_key: billed for price_key, billed in evidence.by_price_key.items() if billed.nano_usd >= 0}


def _pooled_rate(newest_first: Sequence[BilledUsage]) -> Fraction:
    """Return the newest day's rate, made more exact by the older days that were billed at the same price."""
    newest, *older_days = newest_first
    reference = newest  # the day whose rate the older days are compared with
    units, nano_usd = newest.units, newest.nano_usd
    for older in older_days:
        if not _have_equal_price(older, reference):
            # A difference ends the pool, unless the newest rate is only a rounded one of very few units. Then the
            # older, more exact day becomes the reference, once: `reference is newest` cannot hold again.
            if reference is not newest or not _differs_by_rounding_only(newest, older):
                break
            reference = older
        units += older.units
        nano_usd += older.nano_usd
    return Fraction(nano_usd, units)


def _have_equal_price(older: BilledUsage, reference: BilledUsage) -> bool:
    """Return whether the rates differ by at most the tolerance, relative to the reference.

    Both rates are multiplied by both numbers of units: products of integers take a tenth of the time of fractions.
    """
    older_amount, reference_amount = older.nano_usd * reference.units, reference.nano_usd * older.units
    difference = abs(older_amount - reference_amount) * PRICE_TOLERANCE.denominator
    return difference <= PRICE_TOLERANCE.numerator * reference_amount


def _differs_by_rounding_only(newest: BilledUsage, older: BilledUsage) -> bool:
    """Return whether few units at the older day's rate could have been billed as the newest day was."""
    has_few_units = newest.units < _MAX_ROUNDED_USAGE_SHARE * older.units
    expected_nano_usd = older.rate * newest.units
    return has_few_units and abs(newest.nano_usd - expected_nano_usd) <= newest.rounding


class _AccountRates:
    """`Rates` of one account. Rates are looked up once per row of usage, so each is computed once."""

    def __init__(
        self,
        days: Sequence[_BilledDay],
        allowances: Mapping[str, FreeAllowance],
        list_prices: Rates,
        negotiated_prices: Sequence[NegotiatedPrice],
    ) -> None:
        self._days = days
        self._list_prices = list_prices
        self._negotiated_prices = negotiated_prices
        # Where a part of each day is free, amount / units is no price.
        self._learned_rates = _learn_rates(days)
        for allowance in allowances.values():
            self._learned_rates.update(allowance.rates)
        self._learned_tiers: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
        for price_key in self._learned_rates:
            self._learned_tiers[price_key.model, price_key.meter].append(price_key.tier)
        self._rate_cache: dict[PriceKey, Fraction | None] = {}
        self._price_ratios: dict[str | None, Fraction | None] = {}

    def rate(self, model: str, meter: str, tier: str) -> Fraction | None:
        """Return nano-USD per unit; None where no price is known."""
        price_key = PriceKey(model, meter, tier)
        if price_key not in self._rate_cache:
            self._rate_cache[price_key] = self._find_rate(price_key)
        return self._rate_cache[price_key]

    def _find_rate(self, price_key: PriceKey) -> Fraction | None:
        for negotiated in self._negotiated_prices:
            if negotiated.matches(*price_key):
                return negotiated.rate
        learned = self._learned_rates.get(price_key)
        return self._infer_rate(price_key) if learned is None else learned

    def _infer_rate(self, price_key: PriceKey) -> Fraction | None:
        """Return the list price as this account is likely to pay it."""
        list_price = self._list_prices.rate(*price_key)
        if list_price is None:
            return None
        other_tiers = self._learned_tiers.get((price_key.model, price_key.meter), ())
        for other_tier in sorted(other_tiers, key=_tier_order):
            other_key = price_key._replace(tier=other_tier)
            learned = self._learned_rates[other_key]
            other_list_price = self._list_prices.rate(*other_key)
            # A free tier has no ratio to others: priority tokens that are never billed do not make batches free.
            if learned and other_list_price:
                return learned * list_price / other_list_price
        return list_price * (self._price_ratio(price_key.model) or self._price_ratio(None) or 1)

    def _price_ratio(self, model: str | None) -> Fraction | None:
        """Return billed / list price on the newest day that has both for a model, or for the account (None)."""
        if model not in self._price_ratios:
            ratios = (_day_price_ratio(day, self._list_prices, model) for day in self._days)
            self._price_ratios[model] = next((ratio for ratio in ratios if ratio is not None), None)
        return self._price_ratios[model]


def _learn_rates(days: Sequence[_BilledDay]) -> dict[PriceKey, Fraction]:
    """Return the pooled rate of every price key that any day was billed for; days are newest first."""
    billed_by_key: defaultdict[PriceKey, list[BilledUsage]] = defaultdict(list)
    for day in days:
        for price_key, billed in day.items():
            billed_by_key[price_key].append(billed)
    return {price_key: _pooled_rate(newest_first) for price_key, newest_first in billed_by_key.items()}


def _tier_order(tier: str) -> tuple[bool, str]:
    """Sort the standard tier first: providers define the others relative to it."""
    return tier not in ("standard", ""), tier


def _day_price_ratio(day: _BilledDay, list_prices: Rates, model: str | None) -> Fraction | None:
    """Return billed / list price of a day, weighted by cost; None where nothing was billed that has a list price.

    Usage that was billed at 0 or is free by list says nothing about a discount, and is left out of both sums.
    """
    billed_nano_usd, list_nano_usd = 0, Fraction(0)
    for price_key, billed in day.items():
        if not billed.nano_usd or model not in (None, price_key.model):
            continue
        list_price = list_prices.rate(*price_key)
        if list_price:
            billed_nano_usd += billed.nano_usd
            list_nano_usd += list_price * billed.units
    if not list_nano_usd:
        return None
    return min(billed_nano_usd / list_nano_usd, _MAX_PRICE_RATIO)
