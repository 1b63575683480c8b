"""The evidence of a billed day: units and amounts of each kind of usage, and unattributed costs."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given

from exporter.model import Row
from exporter.pricing.bill_evidence import (
    CENT,
    NO_EVIDENCE,
    BillEvidence,
    PricedUsage,
    UnattributedCost,
    infer_rounding,
)
from exporter.pricing.valuation import CostLabels, value_day
from tests.pricing.days import BILL, DAY_USAGE, NO_RATES, RATES, SOME_RATES, RateTable, Usage, no_deadline


def _bill_evidence(usage: Usage, bill: list[Row], rates: RateTable = NO_RATES) -> BillEvidence:
    return value_day(usage, bill, rates).bill_evidence


def test_evidence_has_units_and_cost_by_model_meter_and_tier() -> None:
    """The hours and keys of a kind are added up; requests are no use."""
    usage = {
        1: [Row("output", 10, "w", "m", "standard", "k1"), Row("requests", 3, "w", "m", "standard", "k1")],
        2: [Row("output", 20, "w", "m", "standard", "k2"), Row("cache_write_1h", 5, "w", "m", "batch")],
    }
    bill = [Row("output", 601, "w", "m", "standard"), Row("cache_write_1h", 40, "w", "m", "batch")]
    assert _bill_evidence(usage, bill) == BillEvidence(
        (PricedUsage("w", "m", "cache_write_1h", "batch", 5, 40), PricedUsage("w", "m", "output", "standard", 30, 601))
    )


def test_a_row_for_several_tiers_is_shared_by_value() -> None:
    """A row without a tier over standard and batch usage yields batch at half the standard rate, as listed."""
    usage = {1: [Row("output", 10, "w", "m", "standard"), Row("output", 40, "w", "m", "batch")]}
    evidence = _bill_evidence(usage, [Row("output", 900, "w", "m")], SOME_RATES)
    assert [(item.tier, item.units, item.nano_usd) for item in evidence.priced_usage] == [
        ("batch", 40, 600),
        ("standard", 10, 300),
    ]


def test_a_row_for_several_models_is_shared_by_value_where_all_have_a_rate() -> None:
    """A single line for all images is split by their list prices, and by their number where a model has no price."""
    usage = {1: [Row("images", 1, "w", "big"), Row("images", 2, "w", "small")]}
    bill = [Row("images", 600, "w", item="Image models")]
    rates = RateTable({("big", "images"): 40, ("small", "images"): 10})
    assert [item.nano_usd for item in _bill_evidence(usage, bill, rates).priced_usage] == [400, 200]
    assert [item.nano_usd for item in _bill_evidence(usage, bill, RateTable({("big", "images"): 40})).priced_usage] == [
        200,
        400,
    ]


def test_use_that_nothing_paid_for_is_free() -> None:
    """Priority tokens that are in the usage and never on the bill are evidence of a rate of 0."""
    usage = {1: [Row("output", 10, "w", "m", "standard"), Row("output", 40, "w", "m", "priority")]}
    bill = [Row("output", 70, "w", "m", "standard"), Row("cost", 9, "w", item="Session Runtime Usage")]
    evidence = _bill_evidence(usage, bill, SOME_RATES)
    assert [(item.tier, item.nano_usd) for item in evidence.priced_usage] == [("priority", 0), ("standard", 70)]
    assert evidence.unattributed_costs == (UnattributedCost("w", "", "", "Session Runtime Usage", 9),)


def test_a_model_of_another_name_is_not_recorded_as_free() -> None:
    """Money for a model that nobody used pays for the tokens of its workspace that no other row names."""
    usage = {
        1: [Row("output", 10, "w", "ft:m:acme::1"), Row("uncached_input", 30, "w", "ft:m:acme::1")],
        2: [Row("output", 30, "w", "ft:m:acme::1"), Row("output", 5, "w", "m"), Row("output", 5, "v", "x")],
    }
    bill = [Row("output", 400, "w", "ft-m"), Row("uncached_input", 90, "w", "ft-m"), Row("output", 50, "w", "m")]
    value = value_day(usage, bill, NO_RATES)
    tuned = CostLabels("w", "ft:m:acme::1")
    assert value.hours == {(1, tuned): 190, (2, tuned): 300, (2, CostLabels("w", "m")): 50}
    assert [item.nano_usd for item in value.bill_evidence.priced_usage if item.workspace == "w"] == [400, 90, 50]
    assert value.bill_evidence.unattributed_costs == ()


def test_a_model_of_another_name_does_not_pay_for_what_is_free() -> None:
    """Usage that is known to be free stays free; the cost keeps the model of the bill."""
    usage = {1: [Row("uncached_input", 10, "w", "moderation")]}
    evidence = _bill_evidence(
        usage, [Row("uncached_input", 8, "w", "y")], RateTable({("moderation", "uncached_input"): 0})
    )
    assert evidence == BillEvidence(
        (PricedUsage("w", "moderation", "uncached_input", "", 10, 0),), (UnattributedCost("w", "y", "", "", 8),)
    )


def test_what_no_usage_explains_is_unattributed_cost() -> None:
    """Storage, sessions and fees are summed by their labels; they raise no rate of tokens."""
    usage = {1: [Row("output", 10, "w", "m")]}
    bill = [
        Row("output", 50, "w", "m"),
        Row("bytes", 7, "w", item="Vector storage"),
        Row("cost", 3, "w", item="fee"),
        Row("sessions", 4, "w", item="fee"),
        Row("bytes", 9, "archive", item="Vector storage"),
    ]
    assert _bill_evidence(usage, bill) == BillEvidence(
        (PricedUsage("w", "m", "output", "", 10, 50),),
        (
            UnattributedCost("archive", "", "", "Vector storage", 9),
            UnattributedCost("w", "", "", "Vector storage", 7),
            UnattributedCost("w", "", "", "fee", 7),
        ),
    )


def test_counted_units_have_their_own_rate() -> None:
    """Storage and sessions that usage reports are not unattributed: they have a rate per unit (and hour of storage)."""
    usage = {hour: [Row("bytes", 100, "w")] for hour in range(24)} | {
        3: [Row("bytes", 100, "w"), Row("sessions", 2, "w")]
    }
    evidence = _bill_evidence(
        usage, [Row("bytes", 4801, "w", item="Vector storage"), Row("sessions", 60, "w", item="code")]
    )
    assert evidence.priced_usage == (
        PricedUsage("w", "", "bytes", "", 2400, 4801),
        PricedUsage("w", "", "sessions", "", 2, 60),
    )
    assert evidence.item_by_meter == {"bytes": "Vector storage", "sessions": "code"}


@pytest.mark.parametrize("bill", [None, []])
def test_without_a_bill_there_is_no_evidence(bill: list[Row] | None) -> None:
    """An open day yields no evidence, and neither does an empty bill: its usage was not free."""
    assert value_day({1: [Row("output", 10, "w", "m")]}, bill, SOME_RATES).bill_evidence == NO_EVIDENCE


def test_a_day_without_usage_and_cost_is_no_evidence() -> None:
    """A row of nothing leaves no trace."""
    assert _bill_evidence({}, [Row("output", 0, "w", "m")]) == NO_EVIDENCE


@pytest.mark.parametrize(
    ("amounts", "rounding"),
    [([], 1), ([0], 1), ([5 * CENT, -CENT, 0], CENT), ([10**12], CENT), ([1200, 30], 10), ([CENT, CENT + 1], 1)],
)
def test_a_bills_rounding_is_seen_in_its_amounts(amounts: list[int], rounding: int) -> None:
    """The largest power of ten up to a cent that divides all amounts."""
    assert infer_rounding(amounts) == rounding


@no_deadline
@given(DAY_USAGE, BILL, RATES)
def test_every_billed_amount_is_priced_usage_or_unattributed_cost(
    usage: Usage, bill: list[Row], rates: RateTable
) -> None:
    """Priced usage and unattributed costs sum to the bill, of each workspace if rows state it, to the nano-USD."""
    evidence = _bill_evidence(usage, bill, rates)
    priced = sum(item.nano_usd for item in evidence.priced_usage)
    unattributed = sum(item.nano_usd for item in evidence.unattributed_costs)
    assert priced + unattributed == sum(row.value for row in bill)
    for workspace in {row.workspace for row in bill if all(row.workspace for row in bill)}:
        priced = sum(item.nano_usd for item in evidence.priced_usage if item.workspace == workspace)
        unattributed = sum(item.nano_usd for item in evidence.unattributed_costs if item.workspace == workspace)
        assert priced + unattributed == sum(row.value for row in bill if row.workspace == workspace)


@no_deadline
@given(DAY_USAGE, BILL, RATES)
def test_bill_evidence_survives_json(usage: Usage, bill: list[Row], rates: RateTable) -> None:
    """Evidence is unchanged after it was encoded as JSON and decoded."""
    evidence = _bill_evidence(usage, bill, rates)
    assert BillEvidence.from_plain(json.loads(json.dumps(evidence.to_plain()))) == evidence
    assert BillEvidence.from_plain(json.loads(json.dumps(evidence.to_plain()[:3]))) == replace(
        evidence, item_by_meter={}
    )
