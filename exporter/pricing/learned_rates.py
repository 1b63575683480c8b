"""Rates learned from an account's own bills: they carry discounts, uplifts and price changes by themselves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fnmatch import fnmatchcase
from fractions import Fraction

from exporter.model import NANO
from exporter.pricing.bill_evidence import Lesson
from exporter.pricing.list_prices import Rates
from exporter.pricing.usage import Kind

ALIKE = Fraction(5, 1000)
"""Two days that differ by no more were billed at one price."""
_TINY = Fraction(1, 100)
_HIGHEST_DISCOUNT = Fraction(2)


@dataclass(frozen=True, slots=True)
class Agreed:
    """A price that an account has agreed on with its provider: it wins over what bills teach."""

    model: str
    """A glob, such as `claude-*`."""
    meter: str
    tier: str
    """Empty for every tier."""
    usd_per_million: Decimal

    def fits(self, model: str, meter: str, tier: str) -> bool:
        """Tell whether this is the price of it."""
        return meter == self.meter and self.tier in ("", tier) and fnmatchcase(model, self.model)

    @property
    def rate(self) -> Fraction:
        """nano-USD per unit."""
        return Fraction(self.usd_per_million) * NANO / 1_000_000


def learned_rates(lessons: Sequence[Lesson], listed: Rates, agreed: Sequence[Agreed] = ()) -> Rates:
    """Return what a unit costs an account, from what its newest billed days teach, newest first.

    The first that answers wins: a price that is agreed (the first that fits); the newest lesson of that model, meter
    and tier, with older ones as far as they agree; the same meter's learned rate in another tier, times the list
    prices' ratio; the list price times the discount of that model, else of the account. Without a list price: None.
    """
    return _LearnedRates([_evidence(lesson) for lesson in lessons], listed, agreed)


@dataclass(frozen=True, slots=True)
class _Evidence:
    """What one day was billed for one kind of use, in all workspaces."""

    units: int
    nano: int
    rounding: int
    """nano-USD by which `nano` may be off because the bill's rows are rounded."""

    @property
    def rate(self) -> Fraction:
        return Fraction(self.nano, self.units)


_Day = dict[Kind, _Evidence]


def _evidence(lesson: Lesson) -> _Day:
    sums: defaultdict[Kind, list[int]] = defaultdict(lambda: [0, 0, 0])
    for _, model, meter, tier, units, nano in lesson.taught:
        total = sums[model, meter, tier]
        total[0] += units
        total[1] += nano
        total[2] += lesson.rounding
    # What was credited below zero says nothing of a price.
    return {kind: _Evidence(*total) for kind, total in sums.items() if total[1] >= 0}


def _pooled(told: Iterator[_Evidence]) -> Fraction:
    """Return the newest day's rate, made more exact by the older days that were billed at the same price."""
    newest = like = next(told)
    units, nano = newest.units, newest.nano
    for older in told:
        if abs(older.rate - like.rate) > ALIKE * like.rate:
            if like is not newest or not _drowned(newest, older):
                break
            like = older
        units, nano = units + older.units, nano + older.nano
    return Fraction(nano, units)


def _drowned(newest: _Evidence, older: _Evidence) -> bool:
    """Tell whether a rate of a handful of units differs from an older one by no more than its bill's rounding."""
    return newest.units < _TINY * older.units and abs(newest.nano - older.rate * newest.units) <= newest.rounding


class _LearnedRates:
    def __init__(self, days: Sequence[_Day], listed: Rates, agreed: Sequence[Agreed]) -> None:
        self._days, self._listed, self._agreed = days, listed, agreed
        self._learned = {
            kind: _pooled(day[kind] for day in days if kind in day)
            for kind in dict.fromkeys(k for d in days for k in d)
        }
        self._tiers: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
        for model, meter, tier in self._learned:
            self._tiers[model, meter].append(tier)
        self._answers: dict[Kind, Fraction | None] = {}
        self._discounts: dict[str | None, Fraction | None] = {}

    def rate(self, model: str, meter: str, tier: str) -> Fraction | None:
        """Return nano-USD per unit; None where no price is known."""
        kind = (model, meter, tier)
        if kind not in self._answers:
            agreed = next((one.rate for one in self._agreed if one.fits(*kind)), None)
            learned = self._learned.get(kind) if agreed is None else agreed
            self._answers[kind] = self._inferred(*kind) if learned is None else learned
        return self._answers[kind]

    def _inferred(self, model: str, meter: str, tier: str) -> Fraction | None:
        """Return the list price as this account is likely to pay it."""
        listed = self._listed.rate(model, meter, tier)
        if listed is None:
            return None
        # Of several tiers the standard one first: the others are priced from it.
        for other in sorted(self._tiers.get((model, meter), ()), key=lambda one: (one not in ("standard", ""), one)):
            learned, beside = self._learned[model, meter, other], self._listed.rate(model, meter, other)
            if learned and beside:
                return learned * listed / beside
        return listed * (self._discount(model) or self._discount(None) or 1)

    def _discount(self, model: str | None) -> Fraction | None:
        """Return billed / list price on the newest day that tells it of a model, or of all (None)."""
        if model not in self._discounts:
            told = (_discount(day, self._listed, model) for day in self._days)
            self._discounts[model] = next((found for found in told if found is not None), None)
        return self._discounts[model]


def _discount(day: _Day, listed: Rates, model: str | None) -> Fraction | None:
    billed, worth = 0, Fraction(0)
    for kind, told in day.items():
        price = listed.rate(*kind) if told.nano and model in (None, kind[0]) else None
        if price:
            billed, worth = billed + told.nano, worth + price * told.units
    return min(billed / worth, _HIGHEST_DISCOUNT) if worth else None
