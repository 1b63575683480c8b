"""What a unit costs: the lookup that valuation asks, and list prices as one answer to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple, Protocol

from genai_prices import Usage, calc_price

from exporter.model import NANO


class Rates(Protocol):
    """Tells what one unit costs."""

    def rate(self, model: str, meter: str, tier: str) -> Fraction | None:
        """Return nano-USD per unit of `meter`, exact; None where no price is known. A rate of 0 is a price."""
        ...


def list_rates(provider: str, day: datetime) -> Rates:
    """Return the published prices of a UTC day; `provider` is an id of genai-prices, an unknown one has no prices."""
    return _ListRates(provider, day.astimezone(UTC).date())


@dataclass(frozen=True, slots=True)
class _ListRates:
    provider: str
    day: date

    def rate(self, model: str, meter: str, tier: str) -> Fraction | None:
        return _list_rate(self.provider, model, meter, tier, self.day)


class _MeterMapping(NamedTuple):
    """How genai-prices counts a meter: `names` from the widest to the narrowest, as usage fields and as price keys."""

    names: tuple[str, ...]
    usage_field: str = "{}_tokens"
    price_field: str = "{}_mtok"


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

# Divisible by the seconds of an hour, so that a price per hour stays exact. The small request is below every
# long-context threshold: those reprice the whole request, so a real bucket's total would double its price.
_SHORT_REQUEST_UNITS = 3_600
_LONG_REQUEST_UNITS = 3_600_000

_LONG_CONTEXT_SUFFIX = "_long_context"
_TIER_PRICES_SINCE = date(2026, 10, 15)
"""genai-prices dates most tier prices from 12 to 14 October 2026; before, it silently answers the standard price."""


@lru_cache(maxsize=2**17)
def _list_rate(provider: str, model: str, meter: str, tier: str, day: date) -> Fraction | None:
    if meter not in _METER_MAPPINGS:
        return None
    size = _LONG_REQUEST_UNITS if tier.endswith(_LONG_CONTEXT_SUFFIX) else _SHORT_REQUEST_UNITS
    standard = _price(provider, model, meter, day, size)
    tier = tier.removesuffix(_LONG_CONTEXT_SUFFIX)
    if standard is None or tier in ("", "standard"):
        return standard
    told = _price(provider, model, meter, day, size, tier)
    if told != standard or day >= _TIER_PRICES_SINCE:
        return told
    standard_later = _price(provider, model, meter, _TIER_PRICES_SINCE, size)
    told_later = _price(provider, model, meter, _TIER_PRICES_SINCE, size, tier)
    return standard * told_later / standard_later if told_later is not None and standard_later else standard


def _price(provider: str, model: str, meter: str, day: date, units: int, tier: str = "") -> Fraction | None:
    """Ask for one request of `size` units and return nano-USD per unit; None where the meter has no price."""
    probe = _METER_MAPPINGS[meter]
    counts = {probe.usage_field.format(name): units for name in probe.names}
    if probe.names[0] == "output":
        counts["input_tokens"] = units  # the input decides whether a request is long
    try:
        told = calc_price(
            Usage(**counts),
            model,
            provider_id=provider,
            genai_request_timestamp=datetime.combine(day, time(), UTC),
            # A tier is known under one of these keys, by provider and model; one without a variant is ignored.
            price_context=dict.fromkeys(("processing", "service_tier", "speed"), tier) if tier else None,
        )
    except LookupError:
        return None
    listed = {key for key, price in vars(told.model_price).items() if price is not None}
    if listed and listed.isdisjoint(probe.price_field.format(name) for name in probe.names):
        return None  # not sold by this meter; a model listed without any price is free
    parts = {"input": told.input_price, "output": told.output_price}
    return Fraction(parts.get(probe.names[0], told.total_price)) * NANO / units
