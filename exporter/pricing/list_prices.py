"""List prices, from genai-prices, as rates per unit.

genai-prices has no table of rates: it prices a request. So a rate is the price of a probe request with a known number
of units of one meter, divided by that number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple, Protocol

from genai_prices import Usage, calc_price

from exporter.model import NANO


class PriceKey(NamedTuple):
    """Everything that a price depends on."""

    model: str
    meter: str
    tier: str


class Rates(Protocol):
    """A source of prices per unit."""

    def rate(self, model: str, meter: str, tier: str) -> Fraction | None:
        """Return nano-USD per unit of `meter`, exact; None without a known price. 0 is a price: the usage is free."""
        ...


def list_rates(provider: str, day: datetime) -> Rates:
    """Return the published prices of a UTC day; `provider` is an id of genai-prices, an unknown id has no prices."""
    return _ListRates(provider, day.astimezone(UTC).date())


@dataclass(frozen=True, slots=True)
class _ListRates:
    provider: str
    day: date

    def rate(self, model: str, meter: str, tier: str) -> Fraction | None:
        return _list_rate(self.provider, model, meter, tier, self.day)


class _MeterMapping(NamedTuple):
    """The fields of genai-prices that a meter of this exporter corresponds to."""

    names: tuple[str, ...]
    """From the widest to the narrowest. Its counts include each other: a cached token is an input token as well."""
    usage_field: str = "{}_tokens"
    """Format of a name as a field of `Usage`."""
    price_field: str = "{}_mtok"
    """Format of a name as a field of a model's price."""


_METER_MAPPINGS: Mapping[str, _MeterMapping] = {
    "uncached_input": _MeterMapping(("input",)),
    "cache_read": _MeterMapping(("input", "cache_read")),
    "cache_write": _MeterMapping(("input", "cache_write")),
    "cache_write_5m": _MeterMapping(("input", "cache_write", "cache_write_5m")),
    "cache_write_1h": _MeterMapping(("input", "cache_write", "cache_write_1h")),
    "output": _MeterMapping(("output",)),
    "audio_input": _MeterMapping(("input", "input_audio")),
    "audio_cache_read": _MeterMapping(("input", "cache_read", "input_audio", "cache_audio_read")),
    "audio_output": _MeterMapping(("output", "output_audio")),
    "image_input": _MeterMapping(("input", "input_image")),
    "image_cache_read": _MeterMapping(("input", "cache_read", "input_image", "cache_image_read")),
    "image_output": _MeterMapping(("output", "output_image")),
    "web_searches": _MeterMapping(("web_searches",), "{}", "{}_kcount"),
    "file_searches": _MeterMapping(("storage_searches",), "{}", "{}_kcount"),
    "characters": _MeterMapping(("input",), "{}_characters", "{}_mchars"),
    "seconds": _MeterMapping(("audio", "input_audio"), "{}_seconds", "{}_hours"),
}

# Units of a probe request. Both are divisible by the seconds of an hour, so that a price per hour stays exact. Prices
# above a long-context threshold apply to the whole request: the short probe is below every threshold, the long probe
# above every threshold. The units of a real bucket are the sum of many requests and would be priced as long context.
_SHORT_REQUEST_UNITS = 3_600
_LONG_REQUEST_UNITS = 3_600_000

_LONG_CONTEXT_SUFFIX = "_long_context"
_TIER_PRICES_SINCE = date(2026, 10, 15)
"""genai-prices has most tier prices from 12 to 14 October 2026 on; for earlier days it returns the standard price."""


@lru_cache(maxsize=2**17)
def _list_rate(provider: str, model: str, meter: str, tier: str, day: date) -> Fraction | None:
    if meter not in _METER_MAPPINGS:
        return None
    units = _LONG_REQUEST_UNITS if tier.endswith(_LONG_CONTEXT_SUFFIX) else _SHORT_REQUEST_UNITS
    standard = _price_per_unit(provider, model, meter, day, units)
    tier = tier.removesuffix(_LONG_CONTEXT_SUFFIX)
    if standard is None or tier in ("", "standard"):
        return standard
    of_tier = _price_per_unit(provider, model, meter, day, units, tier)
    if of_tier != standard or day >= _TIER_PRICES_SINCE:
        return of_tier
    # The standard price may stand for a missing tier price: assume the ratio between the two as first published.
    standard_later = _price_per_unit(provider, model, meter, _TIER_PRICES_SINCE, units)
    of_tier_later = _price_per_unit(provider, model, meter, _TIER_PRICES_SINCE, units, tier)
    if of_tier_later is None or not standard_later:
        return standard
    return standard * of_tier_later / standard_later


def _price_per_unit(provider: str, model: str, meter: str, day: date, units: int, tier: str = "") -> Fraction | None:
    """Price a probe request of `units` and return nano-USD per unit; None where the meter has no price."""
    mapping = _METER_MAPPINGS[meter]
    is_output = mapping.names[0] == "output"
    counts = {mapping.usage_field.format(name): units for name in mapping.names}
    if is_output:
        counts["input_tokens"] = units  # long context is decided by the input, so the probe needs some
    try:
        calculation = calc_price(
            Usage(**counts),
            model,
            provider_id=provider,
            genai_request_timestamp=datetime.combine(day, time(), UTC),
            # The key of a tier depends on provider and model; keys without a variant are ignored.
            price_context=dict.fromkeys(("processing", "service_tier", "speed"), tier) if tier else None,
        )
    except LookupError:
        return None
    priced_fields = {field for field, price in vars(calculation.model_price).items() if price is not None}
    meter_fields = {mapping.price_field.format(name) for name in mapping.names}
    if priced_fields and not priced_fields & meter_fields:
        return None  # not sold by this meter; a model listed without any price is free
    if is_output:
        price = calculation.output_price
    elif mapping.names[0] == "input":
        price = calculation.input_price
    else:
        price = calculation.total_price
    return Fraction(price) * NANO / units
