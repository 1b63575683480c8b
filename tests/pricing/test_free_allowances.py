"""Free daily tokens are learned from bills: they cost nothing before the bill either, in the hours of their usage."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import pytest

from exporter.model import Row
from exporter.pricing.bill_evidence import BillEvidence, PricedUsage
from exporter.pricing.free_allowances import learn_allowances
from exporter.pricing.learned_rates import learned_rates
from exporter.pricing.list_prices import PriceKey
from exporter.pricing.valuation import CostLabels, value_day
from tests.pricing.days import NO_RATES, Usage

OUTPUT, INPUT = PriceKey("m", "output", ""), PriceKey("m", "uncached_input", "")
OUTPUT_RATE, INPUT_RATE = 1000, 200
FREE = 600


def _evidence(output: int, uncached_input: int, free: int = FREE, factor: Fraction = Fraction(1)) -> BillEvidence:
    """Return the evidence of a day whose first tokens were free, in proportion to all, in two workspaces."""
    share = max(Fraction(0), 1 - Fraction(free, output + uncached_input))
    rows = [("output", output, OUTPUT_RATE), ("uncached_input", uncached_input, INPUT_RATE)]
    return BillEvidence(
        tuple(
            PricedUsage(workspace, "m", meter, "", units * part // 4, round(units * part * rate * share * factor / 4))
            for workspace, part in (("v", 1), ("w", 3))
            for meter, units, rate in rows
        )
    )


DAYS = [_evidence(400, 1200), _evidence(800, 1600), _evidence(400, 1600), _evidence(80, 320), _evidence(600, 2000)]


def test_an_allowance_is_learned_from_days_of_different_size() -> None:
    """Free tokens and prices follow from bills that fall to 0 before the usage does, days entirely free included."""
    allowance = learn_allowances(DAYS)["m"]
    assert allowance.tokens == pytest.approx(FREE, rel=1e-3)
    assert allowance.rates == {OUTPUT: pytest.approx(OUTPUT_RATE, rel=1e-3), INPUT: pytest.approx(INPUT_RATE, rel=1e-3)}
    assert learned_rates(DAYS, NO_RATES).rate(*OUTPUT) == allowance.rates[OUTPUT]


@pytest.mark.parametrize(
    "days",
    [
        DAYS[:2],
        [_evidence(400, 1200), _evidence(404, 1212), _evidence(800, 2400)],
        [_evidence(units, 3 * units, free=0) for units in (400, 500, 700, 900)],
        [
            _evidence(units, 3 * units, free=0, factor=factor)
            for units, factor in ((400, Fraction(1)), (500, Fraction(1)), (700, Fraction(6, 5)), (900, Fraction(6, 5)))
        ],
    ],
    ids=["two days", "two levels", "no free tokens", "price change"],
)
def test_no_allowance_is_learned_without_clear_evidence(days: Sequence[BillEvidence]) -> None:
    """Two levels of usage lie on any line, days in proportion need none, and a price change is not a line."""
    assert learn_allowances(days) == {}


def _usage(*output: int) -> Usage:
    return {hour: [Row("output", count, "w", "m"), Row("requests", 1, "w", "m")] for hour, count in enumerate(output)}


def test_the_first_tokens_of_the_day_cost_nothing() -> None:
    """The morning is free; an hour in which the allowance ends costs its remaining share."""
    rates = learned_rates(DAYS, NO_RATES)
    value = value_day(_usage(400, 400, 400), None, rates, evidence=DAYS)
    hours = {hour: nano for (hour, _), nano in value.hours.items()}
    assert hours == pytest.approx({0: 0, 1: 200 * OUTPUT_RATE, 2: 400 * OUTPUT_RATE}, rel=2e-3)


def test_a_billed_day_has_its_cost_in_the_hours_of_the_estimate() -> None:
    """The bill is allocated to the tokens beyond the allowance, and sums to the nano-dollar."""
    rates = learned_rates(DAYS, NO_RATES)
    bill = [Row("output", 600 * OUTPUT_RATE + 1, "w", "m")]
    value = value_day(_usage(400, 400, 400), bill, rates, evidence=DAYS)
    assert sum(value.hours.values()) == bill[0].value
    assert {hour: nano for (hour, _), nano in value.hours.items()} == pytest.approx(
        {0: 0, 1: 200 * OUTPUT_RATE, 2: 400 * OUTPUT_RATE}, rel=2e-3, abs=1
    )


def test_a_bill_for_a_day_within_the_allowance_is_allocated_nevertheless() -> None:
    """Where all tokens should have been free, the bill is right and the allowance is not."""
    value = value_day(_usage(100, 300), [Row("output", 400, "w", "m")], NO_RATES, evidence=DAYS)
    assert value.hours == {(0, CostLabels("w", "m")): 100, (1, CostLabels("w", "m")): 300}
