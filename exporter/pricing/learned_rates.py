"""Rates learned from an account's own bills: they carry discounts, uplifts and price changes by themselves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fnmatch import fnmatchcase
from fractions import Fraction

from exporter.model import NANO
from exporter.pricing.bill_evidence import BillEvidence
from exporter.pricing.list_prices import Rates
from exporter.pricing.usage import PriceKey

PRICE_TOLERANCE = Fraction(5, 1000)
"""Two days that differ by no more were billed at one price."""
_MAX_ROUNDED_USAGE_SHARE = Fraction(1, 100)
_MAX_PRICE_RATIO = Fraction(2)


@dataclass(frozen=True, slots=True)
class NegotiatedPrice:
    """A price that an account has agreed on with its provider: it wins over what bills teach."""

    model: str
    """A glob, such as `claude-*`."""
    meter: str
    tier: str
    """Empty for every tier."""
    usd_per_million: Decimal

    def matches(self, model: str, meter: str, tier: str) -> bool:
        """Tell whether this is the price of it."""
        return meter == self.meter and self.tier in ("", tier) and fnmatchcase(model, self.model)

    @property
    def rate(self) -> Fraction:
        """nano-USD per unit."""
        return Fraction(self.usd_per_million) * NANO / 1_000_000


def learned_rates(
    evidence: Sequence[BillEvidence], list_prices: Rates, negotiated_prices: Sequence[NegotiatedPrice] = ()
) -> Rates:
    """Return what a unit costs an account, from what its newest billed days teach, newest first.

    The first that answers wins: a price that is agreed (the first that fits); the newest lesson of that model, meter
    and tier, with older ones as far as they agree; the same meter's learned rate in another tier, times the list
    prices' ratio; the list price times the discount of that model, else of the account. Without a list price: None.
    """
    return _LearnedRates([_billed_day(lesson) for lesson in evidence], list_prices, negotiated_prices)


@dataclass(frozen=True, slots=True)
class _BilledUsage:
    """What one day was billed for one kind of use, in all workspaces."""

    units: int
    nano_usd: int
    rounding: int
    """nano-USD by which `nano` may be off because the bill's rows are rounded."""

    @property
    def rate(self) -> Fraction:
        return Fraction(self.nano_usd, self.units)


_BilledDay = dict[PriceKey, _BilledUsage]


def _billed_day(evidence: BillEvidence) -> _BilledDay:
    sums: defaultdict[PriceKey, list[int]] = defaultdict(lambda: [0, 0, 0])
    for _, model, meter, tier, units, nano in evidence.priced_usage:
        total = sums[model, meter, tier]
        total[0] += units
        total[1] += nano
        total[2] += evidence.rounding
    # What was credited below zero says nothing of a price.
    return {kind: _BilledUsage(*total) for kind, total in sums.items() if total[1] >= 0}


def _pooled_rate(newest_first: Iterator[_BilledUsage]) -> Fraction:
    """Return the newest day's rate, made more exact by the older days that were billed at the same price."""
    newest = like = next(newest_first)
    units, nano = newest.units, newest.nano_usd
    for older in newest_first:
        if abs(older.rate - like.rate) > PRICE_TOLERANCE * like.rate:
            if like is not newest or not _within_rounding(newest, older):
                break
            like = older
        units, nano = units + older.units, nano + older.nano_usd
    return Fraction(nano, units)


def _within_rounding(newest: _BilledUsage, older: _BilledUsage) -> bool:
    """Tell whether a rate of a handful of units differs from an older one by no more than its bill's rounding."""
    return (
        newest.units < _MAX_ROUNDED_USAGE_SHARE * older.units
        and abs(newest.nano_usd - older.rate * newest.units) <= newest.rounding
    )


class _LearnedRates:
    def __init__(
        self, days: Sequence[_BilledDay], list_prices: Rates, negotiated_prices: Sequence[NegotiatedPrice]
    ) -> None:
        self._days, self._list_prices, self._negotiated_prices = days, list_prices, negotiated_prices
        self._learned_rates = {
            kind: _pooled_rate(day[kind] for day in days if kind in day)
            for kind in dict.fromkeys(k for d in days for k in d)
        }
        self._tiers: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
        for model, meter, tier in self._learned_rates:
            self._tiers[model, meter].append(tier)
        self._rate_cache: dict[PriceKey, Fraction | None] = {}
        self._price_ratios: dict[str | None, Fraction | None] = {}

    def rate(self, model: str, meter: str, tier: str) -> Fraction | None:
        """Return nano-USD per unit; None where no price is known."""
        kind = (model, meter, tier)
        if kind not in self._rate_cache:
            agreed = next((one.rate for one in self._negotiated_prices if one.matches(*kind)), None)
            learned = self._learned_rates.get(kind) if agreed is None else agreed
            self._rate_cache[kind] = self._infer_rate(*kind) if learned is None else learned
        return self._rate_cache[kind]

    def _infer_rate(self, model: str, meter: str, tier: str) -> Fraction | None:
        """Return the list price as this account is likely to pay it."""
        listed = self._list_prices.rate(model, meter, tier)
        if listed is None:
            return None
        # Of several tiers the standard one first: the others are priced from it.
        for other in sorted(self._tiers.get((model, meter), ()), key=lambda one: (one not in ("standard", ""), one)):
            learned, beside = self._learned_rates[model, meter, other], self._list_prices.rate(model, meter, other)
            if learned and beside:
                return learned * listed / beside
        return listed * (self._price_ratio(model) or self._price_ratio(None) or 1)

    def _price_ratio(self, model: str | None) -> Fraction | None:
        """Return billed / list price on the newest day that tells it of a model, or of all (None)."""
        if model not in self._price_ratios:
            told = (_day_price_ratio(day, self._list_prices, model) for day in self._days)
            self._price_ratios[model] = next((found for found in told if found is not None), None)
        return self._price_ratios[model]


def _day_price_ratio(day: _BilledDay, list_prices: Rates, model: str | None) -> Fraction | None:
    billed, worth = 0, Fraction(0)
    for kind, told in day.items():
        price = list_prices.rate(*kind) if told.nano_usd and model in (None, kind[0]) else None
        if price:
            billed, worth = billed + told.nano_usd, worth + price * told.units
    return min(billed / worth, _MAX_PRICE_RATIO) if worth else None
