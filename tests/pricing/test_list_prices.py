"""List prices per unit, against the providers' published prices."""

from __future__ import annotations

import time
import timeit
from datetime import UTC, datetime, timedelta, timezone
from fractions import Fraction

import pytest
from genai_prices import Usage, calc_price

from exporter.pricing.list_prices import list_rates

DAY = datetime(2026, 11, 20, tzinfo=UTC)
SPRING = datetime(2026, 3, 1, tzinfo=UTC)

PER_MILLION_USD = [
    ("anthropic", "claude-sonnet-4-5", "uncached_input", "", "3"),
    ("anthropic", "claude-sonnet-4-5", "cache_write", "", "3.75"),
    ("anthropic", "claude-sonnet-4-5", "cache_write_5m", "standard", "3.75"),
    ("anthropic", "claude-sonnet-4-5", "cache_write_1h", "standard", "6"),
    ("anthropic", "claude-sonnet-4-5", "cache_read", "standard", "0.30"),
    ("anthropic", "claude-sonnet-4-5", "output", "standard", "15"),
    ("anthropic", "claude-sonnet-4-5-20250929", "output", "batch", "7.5"),
    ("anthropic", "claude-sonnet-4-5", "cache_write_1h", "batch", "3"),
    ("anthropic", "claude-sonnet-4-5", "uncached_input", "standard_long_context", "6"),
    ("anthropic", "claude-sonnet-4-5", "output", "standard_long_context", "22.5"),
    ("anthropic", "claude-sonnet-4-5", "output", "batch_long_context", "11.25"),
    ("anthropic", "claude-opus-5", "output", "fast", "50"),
    ("anthropic", "claude-sonnet-4-5", "web_searches", "", "10000"),
    ("openai", "gpt-5", "uncached_input", "", "1.25"),
    ("openai", "gpt-5-2025-08-07", "output", "", "10"),
    ("openai", "gpt-5", "cache_read", "", "0.125"),
    ("openai", "gpt-5", "uncached_input", "batch", "0.625"),
    ("openai", "gpt-5", "output", "priority", "20"),
    ("openai", "gpt-5", "output", "flex", "5"),
    ("openai", "gpt-4o", "cache_read", "batch", "1.25"),
    ("openai", "gpt-4o-realtime-preview", "audio_input", "", "40"),
    ("openai", "gpt-4o-realtime-preview", "audio_output", "", "80"),
    ("openai", "gpt-image-1", "image_input", "", "10"),
    ("openai", "whisper-1", "seconds", "", "100"),
    ("openai", "tts-1", "characters", "", "15"),
    ("openai", "gpt-5", "file_searches", "", "2500"),
]


def _rate(provider: str, model: str, meter: str, tier: str, day: datetime = DAY) -> Fraction | None:
    return list_rates(provider, day).rate(model, meter, tier)


def _nano_per_unit(usd_per_million: str) -> Fraction:
    return Fraction(usd_per_million) * 1000


@pytest.mark.parametrize(("provider", "model", "meter", "tier", "usd"), PER_MILLION_USD)
def test_a_rate_is_the_published_price(provider: str, model: str, meter: str, tier: str, usd: str) -> None:
    """The rate of a unit is the published price, exactly."""
    assert _rate(provider, model, meter, tier) == _nano_per_unit(usd)


@pytest.mark.parametrize(
    ("provider", "model", "meter"),
    [
        ("anthropic", "no-such-model", "output"),
        ("anthropic", "", "output"),
        ("no-such-provider", "gpt-5", "output"),
        ("openai", "gpt-5", "images"),
        ("openai", "gpt-5", "no-such-meter"),
        ("openai", "gpt-5", "characters"),
        ("openai", "text-embedding-3-small", "output"),
    ],
)
def test_what_is_not_listed_has_no_rate(provider: str, model: str, meter: str) -> None:
    """An unknown provider, model or meter has no rate, and neither has a meter that the model is not sold by."""
    assert _rate(provider, model, meter, "") is None
    assert _rate(provider, model, meter, "batch") is None


def test_a_listed_price_of_zero_is_a_price() -> None:
    """Usage that is listed as free has the rate 0."""
    assert _rate("openai", "omni-moderation-latest", "uncached_input", "") == 0
    assert _rate("openai", "omni-moderation-latest", "uncached_input", "batch") == 0


@pytest.mark.parametrize(("tier", "usd"), [("batch", "7.5"), ("batch_long_context", "11.25")])
def test_a_batch_is_half_price_on_days_before_tiers_were_listed(tier: str, usd: str) -> None:
    """A tier's discount holds on days from before the day on which the table begins to list it."""
    assert _rate("anthropic", "claude-sonnet-4-5", "output", tier, SPRING) == _nano_per_unit(usd)


def test_an_older_day_has_its_own_price_and_the_tier_its_share_of_it() -> None:
    """An older day has the price of that day, and its tiers in proportion."""
    assert _rate("openai", "gpt-5.6-luna", "output", "", SPRING) == _nano_per_unit("6")
    assert _rate("openai", "gpt-5.6-luna", "output", "") == _nano_per_unit("1.2")
    assert _rate("openai", "gpt-5.6-luna", "output", "batch", SPRING) == _nano_per_unit("3")


def test_a_tier_without_a_price_of_its_own_has_the_standard_price() -> None:
    """A tier that the model's prices do not know costs what standard costs."""
    assert _rate("anthropic", "claude-sonnet-4-5", "output", "priority") == _nano_per_unit("15")


def test_the_day_is_the_utc_day() -> None:
    """A time in another zone is priced by the UTC day that it falls on."""
    west = timezone(timedelta(hours=-8))
    assert list_rates("openai", datetime(2026, 11, 19, 20, tzinfo=west)) == list_rates("openai", DAY)


def test_a_known_rate_is_looked_up_fast() -> None:
    """A known rate is looked up at least 20 times as fast as genai-prices calculates a price."""
    rates = list_rates("openai", DAY)
    rates.rate("gpt-5", "output", "batch")

    def calculate() -> object:
        return calc_price(Usage(input_tokens=1000, output_tokens=1000), "gpt-5", provider_id="openai")

    calculation = min(timeit.repeat(calculate, timer=time.process_time, number=500, repeat=3))
    lookup = min(timeit.repeat(lambda: rates.rate("gpt-5", "output", "batch"), timer=time.process_time, number=10_000))
    assert 20 * lookup / 10_000 < calculation / 500
