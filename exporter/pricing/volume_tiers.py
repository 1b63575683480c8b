"""Volume tiers: beyond a number of tokens of a model in a month, each further token has a lower price.

Bills do not state the tier. Consecutive billed days of a month show it: two at the old price, one between, on which the
volume was reached, and one at the new price. A price change takes effect at midnight and has no day between.
What was learned is kept with the evidence of every later bill, so that the next month begins at the old price. A bill
at another price than the tier leads to expect ends it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import NamedTuple

from exporter.model import TOKEN_METERS
from exporter.pricing.bill_evidence import BillEvidence, PricedUsage
from exporter.pricing.learned_rates import PRICE_TOLERANCE
from exporter.pricing.list_prices import PriceKey, Rates
from exporter.pricing.usage import DayUsage

_MIN_PRICE_CHANGE = Fraction(2, 100)
"""A smaller difference of two days' prices may be a product of rounding."""
_MAX_DEVIATION = Fraction(1, 100)
"""How far the prices of a model's meters may differ from a common factor."""
_MIN_SHARE_BETWEEN = Fraction(2, 100)
"""The day on which the volume is reached has at least this share of its tokens at each of the two prices."""
_MAX_DENOMINATOR = 10**9

PriceFactors = Mapping[tuple[int, str], Fraction]
"""Hour 0..23 and model -> price relative to the one below the tier; 1 where it is absent."""


class VolumeTier(NamedTuple):
    """The price of a model's tokens beyond a volume per month."""

    tokens: int
    """Tokens of a UTC month that have the price below the tier."""
    factor: Fraction
    """The price of all others, relative to it."""


def price_factors(
    usage: DayUsage, tiers: Mapping[str, VolumeTier], month_tokens: Mapping[str, int]
) -> dict[tuple[int, str], Fraction]:
    """Return the price factor of every hour of a day; `month_tokens` are those of the month before it, by model."""
    tokens_by_hour: defaultdict[tuple[int, str], int] = defaultdict(int)
    for labels, hours, values in usage.billable:
        if labels.model in tiers and labels.meter in TOKEN_METERS:
            for hour, tokens in zip(hours, values, strict=True):
                tokens_by_hour[hour, labels.model] += tokens
    volume = dict(month_tokens)
    factors = {}
    for (hour, model), tokens in sorted(tokens_by_hour.items()):
        tier = tiers[model]
        below = min(tokens, max(0, tier.tokens - volume.get(model, 0)))
        volume[model] = volume.get(model, 0) + tokens
        if below < tokens:
            factors[hour, model] = (below + tier.factor * (tokens - below)) / tokens
    return factors


def day_factor(tier: VolumeTier, tokens: int, month_tokens: int) -> Fraction:
    """Return the mean price factor of a day with so many tokens, after `month_tokens` of the month."""
    below = min(tokens, max(0, tier.tokens - month_tokens))
    return (below + tier.factor * (tokens - below)) / tokens if tokens else Fraction(1)


def without_tiers(evidence: BillEvidence) -> BillEvidence:
    """Return the evidence as if every token had had the price below its model's tier."""
    if not evidence.price_factors:
        return evidence
    return replace(evidence, priced_usage=tuple(_without_factor(priced, evidence) for priced in evidence.priced_usage))


def learn_tier(
    newest: BillEvidence, between: BillEvidence, before: Sequence[BillEvidence], model: str
) -> Fraction | None:
    """Return the factor of the price that a model's tokens have from the day between on; None without a tier.

    The days are consecutive days of one month, newest first, and no tier of the model is known. The price of the days
    before has to be steady: otherwise it changes for another reason.
    """
    if not _has_lower_price(newest, before[0], model):
        return None
    old, mixed, new = (_token_prices(day, model) for day in (before[0], between, newest))
    for day in before[1:]:
        prices = _token_prices(day, model)
        if prices.keys() != old.keys() or any(abs(prices[key] / old[key] - 1) > PRICE_TOLERANCE for key in old):
            return None
    common = old.keys() & mixed.keys() & new.keys()
    factors = [new[key] / old[key] for key in common if old[key]]
    if not factors:
        return None
    factor = factors[0]
    if factor > 1 - _MIN_PRICE_CHANGE or any(abs(other - factor) > _MAX_DEVIATION for other in factors):
        return None
    shares = [_share_below(old[key], mixed[key], new[key]) for key in common if old[key]]
    if any(abs(share - shares[0]) > 10 * _MAX_DEVIATION for share in shares):
        return None
    is_between = _MIN_SHARE_BETWEEN <= shares[0] <= 1 - _MIN_SHARE_BETWEEN
    return factor.limit_denominator(_MAX_DENOMINATOR) if is_between else None


def _has_lower_price(newest: BillEvidence, oldest: BillEvidence, model: str) -> bool:
    """Return whether any of a model's prices has fallen enough for a tier; without a fraction, as nearly none has."""
    new, old = newest.tokens_by_model.get(model), oldest.tokens_by_model.get(model)
    if new is None or old is None:
        return False
    max_ratio = 1 - _MIN_PRICE_CHANGE
    return any(
        new.by_price_key[key].nano_usd * billed.units * max_ratio.denominator
        <= billed.nano_usd * new.by_price_key[key].units * max_ratio.numerator
        for key, billed in old.by_price_key.items()
        if key in new.by_price_key
    )


def tier_from_crossing(
    factor: Fraction, between: BillEvidence, oldest: BillEvidence, model: str, month_tokens: int
) -> VolumeTier:
    """Return the tier whose volume was reached on the day between, after `month_tokens` of its month."""
    old, mixed = _token_prices(oldest, model), _token_prices(between, model)
    key = next(iter(sorted(old.keys() & mixed.keys())))
    share = _share_below(old[key], mixed[key], old[key] * factor)
    return VolumeTier(month_tokens + round(share * tokens_of(between, model)), factor)


def is_contradicted(billed: BillEvidence, model: str, rates: Rates) -> bool:
    """Return whether a bill, without its tiers, has another price than was learned: then the tier was none."""
    prices = _token_prices(without_tiers(billed), model)
    for key, price in prices.items():
        expected = rates.rate(*key)
        if expected and abs(price / expected - 1) > _MIN_PRICE_CHANGE:
            return True
    return False


def tokens_of(evidence: BillEvidence, model: str) -> int:
    """Return the tokens of a model on a billed day."""
    model_tokens = evidence.tokens_by_model.get(model)
    return 0 if model_tokens is None else model_tokens.tokens


def _without_factor(priced: PricedUsage, evidence: BillEvidence) -> PricedUsage:
    factor = evidence.price_factors.get(priced.model)
    if factor is None or priced.meter not in TOKEN_METERS:
        return priced
    return priced._replace(nano_usd=round(priced.nano_usd / factor))


def _token_prices(evidence: BillEvidence, model: str) -> dict[PriceKey, Fraction]:
    """Return nano-USD per token of each price key of a model that was billed."""
    model_tokens = evidence.tokens_by_model.get(model)
    if model_tokens is None:
        return {}
    return {key: billed.rate for key, billed in model_tokens.by_price_key.items() if billed.nano_usd > 0}


def _share_below(old: Fraction, mixed: Fraction, new: Fraction) -> Fraction:
    """Return the share of a day's tokens that had the old price."""
    return (mixed - new) / (old - new) if old != new else Fraction(0)
