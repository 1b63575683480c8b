"""The simulated list prices, similar to the published ones, in nano-USD per unit."""

from __future__ import annotations

from collections.abc import Mapping

from exporter.simulator.accounts import Stream

_TIER_FACTORS = {"batch": 0.5, "flex": 0.5, "priority": 2.0}
_REGION_FACTORS = {"us": 1.1}
_LONG_CONTEXT_FACTORS = {"output": 1.5}
_LONG_CONTEXT_INPUT_FACTOR = 2.0

_PER_MILLION_TOKENS = 1000.0
"""USD per million tokens -> nano-USD per token."""


def _gpt_prices(uncached: float, cached: float, output: float, write: float = 0.0) -> dict[str, float]:
    prices = {"uncached_input": uncached, "cache_read": cached, "output": output, "cache_write": write or uncached}
    return {meter: usd * _PER_MILLION_TOKENS for meter, usd in prices.items()}


def _claude_prices(uncached: float, output: float) -> dict[str, float]:
    shares = {"uncached_input": 1.0, "cache_read": 0.1, "cache_write_5m": 1.25, "cache_write_1h": 2.0}
    prices = {meter: uncached * share for meter, share in shares.items()} | {"output": output}
    # Cursor does not report the lifetime of a cache write.
    prices["cache_write"] = prices["cache_write_5m"]
    return {meter: usd * _PER_MILLION_TOKENS for meter, usd in prices.items()}


def _add_prices(base: Mapping[str, float], **usd: float) -> dict[str, float]:
    return {**base, **{meter: price * _PER_MILLION_TOKENS for meter, price in usd.items()}}


_MODEL_PRICES: Mapping[str, Mapping[str, float]] = {
    "gpt-5.6-sol": _gpt_prices(4.0, 0.4, 20.0, 5.0),
    "gpt-5.6-terra": _gpt_prices(2.0, 0.2, 12.0, 2.5),
    "gpt-5.6-luna": _gpt_prices(0.2, 0.02, 1.2, 0.25),
    "gpt-5.5-2026-04-23": _gpt_prices(5.0, 0.5, 30.0),
    "gpt-5.4-2026-03-05": _gpt_prices(2.5, 0.25, 15.0),
    "gpt-5.4-mini-2026-03-17": _gpt_prices(0.75, 0.075, 4.5),
    "gpt-5.4-nano-2026-03-17": _gpt_prices(0.2, 0.02, 1.25),
    "gpt-5-2025-08-07": _gpt_prices(1.25, 0.125, 10.0),
    "gpt-5-mini-2025-08-07": _gpt_prices(0.25, 0.025, 2.0),
    "gpt-4.1-2025-04-14": _gpt_prices(2.0, 0.5, 8.0),
    "gpt-4o-2024-08-06": _gpt_prices(2.5, 1.25, 10.0),
    "gpt-4o-mini-2024-07-18": _gpt_prices(0.15, 0.075, 0.6),
    "gpt-audio-mini-2025-12-15": _add_prices(
        _gpt_prices(0.6, 0.6, 2.4), audio_input=10.0, audio_cache_read=0.3, audio_output=20.0
    ),
    "gpt-image-2": _add_prices(_gpt_prices(5.0, 1.25, 10.0), image_input=8.0, image_cache_read=2.0, image_output=30.0),
    "text-embedding-3-small": _gpt_prices(0.02, 0.02, 0.0),
    "text-embedding-3-large": _gpt_prices(0.13, 0.13, 0.0),
    "omni-moderation-latest": _gpt_prices(0.0, 0.0, 0.0),
    "claude-opus-5": _claude_prices(5.0, 25.0),
    "claude-opus-4-6": _claude_prices(5.0, 25.0),
    "claude-sonnet-5": _claude_prices(2.0, 10.0),
    "claude-sonnet-4-6": _claude_prices(3.0, 15.0),
    "claude-sonnet-4-5-20250929": _claude_prices(3.0, 15.0),
    "claude-haiku-4-5-20251001": _claude_prices(1.0, 5.0),
    # Two models that no public price list contains.
    "claude-nova-1": _claude_prices(4.0, 20.0),
    "gpt-nova": _gpt_prices(3.0, 0.3, 18.0),
    "claude-4.6-sonnet": _claude_prices(3.0, 15.0),
    "claude-5-sonnet": _claude_prices(2.0, 10.0),
    "gpt-5.4": _gpt_prices(2.5, 0.25, 15.0),
    "composer-2": _gpt_prices(0.5, 0.2, 2.5),
    "default": _gpt_prices(1.25, 0.25, 6.0, 1.25),
}

_UNIT_PRICES: Mapping[str, float] = {
    "web_searches": 10_000_000.0,
    "file_searches": 2_500_000.0,
    "sessions": 30_000_000.0,
    "images": 40_000_000.0,
    "seconds": 100_000.0,
    "characters": 30_000.0,
    "bytes": 100_000_000.0 / 24 / 2**30,
}
"""Prices that do not depend on the model; `bytes` are priced per hour of storage."""

CALL_PRICE_NANO = 40_000_000
"""Cursor's price of a call that is not priced by tokens."""
TOKEN_FEE_NANO = 250.0
"""Cursor's fee per token of a model of another company."""


def stream_costs(stream: Stream, usage: Mapping[str, int]) -> dict[str, int]:
    """Return meter -> nano-USD of a stream's usage, for providers that report money by the hour."""
    costs = {meter: round(count * nano_per_unit(stream.model, meter, stream.tier)) for meter, count in usage.items()}
    return {meter: nano for meter, nano in costs.items() if nano}


def nano_per_unit(model: str, meter: str, tier: str = "standard", context_window: str = "", region: str = "") -> float:
    """Return the list price of one unit; unknown models have the price of gpt-5.4-mini."""
    if meter in _UNIT_PRICES:
        return _UNIT_PRICES[meter]
    prices = _MODEL_PRICES.get(model, _MODEL_PRICES["gpt-5.4-mini-2026-03-17"])
    longer = _LONG_CONTEXT_FACTORS.get(meter, _LONG_CONTEXT_INPUT_FACTOR) if context_window == "200k-1M" else 1.0
    return prices.get(meter, 0.0) * _TIER_FACTORS.get(tier, 1.0) * _REGION_FACTORS.get(region, 1.0) * longer
