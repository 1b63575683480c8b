"""Rates learned from an account's own bills, and rates inferred where bills have no evidence."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest

from exporter.pricing.bill_evidence import CENT, BillEvidence, PricedUsage
from exporter.pricing.learned_rates import NegotiatedPrice, learned_rates
from tests.pricing.days import RateTable

LIST_PRICES = RateTable(
    {
        ("m", "output"): 1000,
        ("m", "output", "batch"): 500,
        ("m", "output", "standard_long_context"): 1500,
        ("m", "uncached_input"): 200,
        ("n", "output"): 3000,
        ("free", "output"): 0,
    }
)


def _evidence(*usage: tuple[str, str, str, int, int], rounding: int = 1, workspace: str = "w") -> BillEvidence:
    """Make the evidence of (model, meter, tier, units, nano-USD)."""
    return BillEvidence(
        tuple(PricedUsage(workspace, *labels_and_amounts) for labels_and_amounts in usage), rounding=rounding
    )


def _output_evidence(units: int, nano: int, rounding: int = 1) -> BillEvidence:
    return _evidence(("m", "output", "standard", units, nano), rounding=rounding)


def _rate(
    *evidence: BillEvidence,
    model: str = "m",
    meter: str = "output",
    tier: str = "standard",
    negotiated: tuple[NegotiatedPrice, ...] = (),
) -> Fraction | None:
    return learned_rates(evidence, LIST_PRICES, negotiated).rate(model, meter, tier)


# --- learned ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("evidence", "rate"),
    [
        pytest.param([_output_evidence(10**6, 830 * 10**6)], Fraction(830), id="17 % less than list"),
        pytest.param(
            [_output_evidence(100, 120_000), _output_evidence(10**9, 10**12)],
            Fraction(1200),
            id="dearer: the newest alone",
        ),
        pytest.param(
            [_output_evidence(100, 101_000), _output_evidence(10**9, 10**12)], Fraction(1010), id="even by 1 %"
        ),
        pytest.param(
            [_output_evidence(3, 2500), _output_evidence(3, 2501)], Fraction(5001, 6), id="pooled against rounding"
        ),
        pytest.param(
            [_output_evidence(1, 100), _output_evidence(1, 100), _output_evidence(1, 90)],
            Fraction(100),
            id="pooled up to a change",
        ),
        pytest.param(
            [_output_evidence(1, 100), _output_evidence(1, 90), _output_evidence(1, 100)],
            Fraction(100),
            id="not beyond a change",
        ),
        pytest.param([_output_evidence(10, 0), _output_evidence(10, 10_000)], Fraction(0), id="free from now on"),
        pytest.param([_output_evidence(10, 10_000), _output_evidence(10, 0)], Fraction(1000), id="no longer free"),
        pytest.param([BillEvidence(), _output_evidence(10, 8000)], Fraction(800), id="a day that teaches nothing"),
        pytest.param([_output_evidence(10, -5), _output_evidence(10, 8000)], Fraction(800), id="credited below zero"),
        pytest.param(
            [_output_evidence(20_000, 2 * CENT, CENT), _output_evidence(10**7, 930 * CENT, CENT)],
            Fraction(932 * CENT, 10**7 + 20_000),
            id="few tokens, whole cents: older days are more exact",
        ),
        pytest.param(
            [_output_evidence(5, 0, CENT), _output_evidence(10**7, 930 * CENT, CENT)],
            Fraction(930 * CENT, 10**7 + 5),
            id="a handful of tokens is not free because it is less than a cent",
        ),
        pytest.param(
            [_output_evidence(50_000, 10 * CENT, CENT), _output_evidence(10**7, 930 * CENT, CENT)],
            Fraction(2000),
            id="few tokens at a price that no rounding explains",
        ),
        pytest.param(
            [_output_evidence(5000, 5 * CENT, CENT), _output_evidence(10_000, 11 * CENT, CENT)],
            Fraction(10_000),
            id="whole cents, but as much use as before: the newest alone",
        ),
        pytest.param(
            [_output_evidence(5, 0), _output_evidence(10**7, 930 * CENT)],
            Fraction(0),
            id="few tokens, billed to the nano-dollar: free",
        ),
    ],
)
def test_the_newest_bill_decides(evidence: list[BillEvidence], rate: Fraction) -> None:
    """A price is the newest day's; older days make it more exact as long as they were billed at the same price."""
    assert _rate(*evidence) == rate


def test_workspaces_are_taken_together() -> None:
    """The rate is learned from all workspaces together."""
    evidence = BillEvidence(
        (PricedUsage("v", "m", "output", "batch", 10, 3000), PricedUsage("w", "m", "output", "batch", 30, 13_000))
    )
    assert _rate(evidence, tier="batch") == 400


def test_tiers_meters_and_models_are_learned_apart() -> None:
    """Batch and one-hour writes, long context, and a model without a list price each have their own price."""
    usage = [
        ("m", "output", "standard", 10, 8300),
        ("m", "output", "batch", 10, 4100),
        ("m", "output", "standard_long_context", 10, 12_000),
        ("m", "cache_write_1h", "batch", 10, 777),
        ("nova", "output", "standard", 10, 123),
    ]
    rates = learned_rates([_evidence(*usage)], LIST_PRICES)
    for model, meter, tier, units, nano in usage:
        assert rates.rate(model, meter, tier) == Fraction(nano, units)


def test_a_late_bill_prices_every_open_day_alike() -> None:
    """However many days ago the newest bill was, its rate is the rate."""
    assert _rate(_output_evidence(10, 8300), _output_evidence(10, 10_000)) == 830


# --- inferred ---------------------------------------------------------------------------------------------------------


def test_without_bills_the_list_price_applies() -> None:
    """A new account pays list prices; unlisted models have none; a price of zero is a price."""
    assert _rate() == 1000
    assert _rate(tier="batch") == 500
    assert _rate(model="nova") is None
    assert _rate(model="free") == 0


@pytest.mark.parametrize("tier", ["batch", "standard_long_context"])
def test_the_first_use_of_a_tier_is_priced_from_another_tier(tier: str) -> None:
    """The ratio of the list prices is applied to the learned rate of another tier, of the standard tier first."""
    evidence = _evidence(("m", "output", "standard", 10, 8300), ("m", "output", "priority", 10, 30_000))
    listed = LIST_PRICES.rate("m", "output", tier)
    assert listed is not None
    assert _rate(evidence, tier=tier) == listed * Fraction(83, 100)


def test_a_tier_that_is_free_prices_no_other() -> None:
    """Priority tokens that are never billed do not make batches free."""
    evidence = _evidence(("m", "output", "priority", 10, 0), ("m", "uncached_input", "standard", 10, 1000))
    assert _rate(evidence, tier="batch") == 250


def test_the_first_use_of_a_meter_has_its_models_discount() -> None:
    """A model's own discount is nearer than the account's, and older evidence of it too."""
    newest = _evidence(("n", "output", "standard", 10, 15_000))
    older = _evidence(("m", "uncached_input", "standard", 10, 1800))
    assert _rate(newest, older) == 900


def test_a_new_model_has_the_accounts_discount() -> None:
    """It is billed / list price of the newest day with both, weighted by cost, without free and unlisted usage."""
    newest = _evidence(
        ("m", "output", "standard", 10, 9000),
        ("m", "uncached_input", "standard", 50, 5000),
        ("m", "output", "priority", 10**9, 0),
        ("nova", "output", "standard", 10, 10**12),
    )
    older = _evidence(("m", "output", "standard", 10, 1))
    assert _rate(newest, older, model="n") == 3000 * Fraction(7, 10)
    assert _rate(_evidence(("nova", "output", "standard", 10, 10**12)), newest, model="n") == 2100


@pytest.mark.parametrize(("nano", "rate"), [(50_000, 6000), (20_000, 6000), (19_000, 5700), (10, 3)])
def test_a_discount_is_kept_sane(nano: int, rate: int) -> None:
    """One odd bill makes nothing else dearer than twice its list price."""
    assert _rate(_output_evidence(10, nano), model="n") == rate


@pytest.mark.parametrize("percent", [1, 50, 83, 120])
def test_a_discount_scales_all_rates(percent: int) -> None:
    """Learned or inferred, every rate is that part of its list price."""
    rates = learned_rates([_output_evidence(100, 1000 * percent)], LIST_PRICES)
    for model, meter, tier in [("m", "output", "standard"), ("m", "output", "batch"), ("m", "uncached_input", "batch")]:
        listed = LIST_PRICES.rate(model, meter, tier)
        assert listed is not None
        assert rates.rate(model, meter, tier) == listed * Fraction(percent, 100)
    assert rates.rate("n", "output", "") == 30 * percent


# --- agreed -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "meter", "tier", "rate"),
    [
        ("claude-opus-5", "output", "batch", 6000),
        ("claude-opus-5", "output", "standard", 12_500),
        ("claude-opus-5", "output", "", 12_500),
        ("claude-haiku", "output", "batch", 4000),
        ("claude-opus-5", "cache_read", "batch", None),
        ("m", "output", "standard", 830),
    ],
)
def test_a_negotiated_price_wins(model: str, meter: str, tier: str, rate: int | None) -> None:
    """The first match by glob, meter and tier takes precedence over learned rates; other usage is unaffected."""
    agreed = (
        NegotiatedPrice("claude-opus-*", "output", "batch", Decimal(6)),
        NegotiatedPrice("claude-opus-*", "output", "", Decimal("12.50")),
        NegotiatedPrice("claude-*", "output", "", Decimal(4)),
    )
    evidence = _evidence(("claude-opus-5", "output", "batch", 10, 10), ("m", "output", "standard", 10, 8300))
    assert _rate(evidence, model=model, meter=meter, tier=tier, negotiated=agreed) == rate
