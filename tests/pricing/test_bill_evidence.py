"""What a billed day teaches: units and money of each kind of use, and money that no use explains."""

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
    """A plain line over standard and batch use, batch at half price, teaches batch at half of standard."""
    usage = {1: [Row("output", 10, "w", "m", "standard"), Row("output", 40, "w", "m", "batch")]}
    lesson = _bill_evidence(usage, [Row("output", 900, "w", "m")], SOME_RATES)
    assert [(one.tier, one.units, one.nano_usd) for one in lesson.priced_usage] == [
        ("batch", 40, 600),
        ("standard", 10, 300),
    ]


def test_a_row_for_several_models_is_shared_by_value_where_all_have_a_rate() -> None:
    """One line for all images goes by what they list at, and by their number where one has no price."""
    usage = {1: [Row("images", 1, "w", "big"), Row("images", 2, "w", "small")]}
    bill = [Row("images", 600, "w", item="Image models")]
    rates = RateTable({("big", "images"): 40, ("small", "images"): 10})
    assert [one.nano_usd for one in _bill_evidence(usage, bill, rates).priced_usage] == [400, 200]
    assert [one.nano_usd for one in _bill_evidence(usage, bill, RateTable({("big", "images"): 40})).priced_usage] == [
        200,
        400,
    ]


def test_use_that_nothing_paid_for_is_free() -> None:
    """Priority tokens that are in the usage and never on the bill are taught with 0, whatever else is billed."""
    usage = {1: [Row("output", 10, "w", "m", "standard"), Row("output", 40, "w", "m", "priority")]}
    bill = [Row("output", 70, "w", "m", "standard"), Row("cost", 9, "w", item="Session Runtime Usage")]
    lesson = _bill_evidence(usage, bill, SOME_RATES)
    assert [(one.tier, one.nano_usd) for one in lesson.priced_usage] == [("priority", 0), ("standard", 70)]
    assert lesson.unattributed_costs == (UnattributedCost("w", "", "", "Session Runtime Usage", 9),)


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
    assert [one.nano_usd for one in value.bill_evidence.priced_usage if one.workspace == "w"] == [400, 90, 50]
    assert value.bill_evidence.unattributed_costs == ()


def test_a_model_of_another_name_does_not_pay_for_what_is_free() -> None:
    """What is known to cost nothing stays free; the money is told of its own model instead."""
    usage = {1: [Row("uncached_input", 10, "w", "moderation")]}
    lesson = _bill_evidence(
        usage, [Row("uncached_input", 8, "w", "y")], RateTable({("moderation", "uncached_input"): 0})
    )
    assert lesson == BillEvidence(
        (PricedUsage("w", "moderation", "uncached_input", "", 10, 0),), (UnattributedCost("w", "y", "", "", 8),)
    )


def test_what_no_usage_explains_is_unattributed_cost() -> None:
    """Storage, sessions and fees are told by their labels and added up; no token is made dearer by them."""
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
    """Storage and sessions that usage tells are no standing money: they are taught per unit (and hour of storage)."""
    usage = {hour: [Row("bytes", 100, "w")] for hour in range(24)} | {
        3: [Row("bytes", 100, "w"), Row("sessions", 2, "w")]
    }
    lesson = _bill_evidence(
        usage, [Row("bytes", 4801, "w", item="Vector storage"), Row("sessions", 60, "w", item="code")]
    )
    assert lesson.priced_usage == (
        PricedUsage("w", "", "bytes", "", 2400, 4801),
        PricedUsage("w", "", "sessions", "", 2, 60),
    )
    assert lesson.item_by_meter == {"bytes": "Vector storage", "sessions": "code"}


@pytest.mark.parametrize("bill", [None, []])
def test_without_a_bill_there_is_no_evidence(bill: list[Row] | None) -> None:
    """An open day teaches nothing, and neither does an empty bill: its use was not free."""
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
    """What is taught and what stands beside it sum to the bill of each workspace, to the nano-dollar."""
    lesson = _bill_evidence(usage, bill, rates)
    for workspace in {row.workspace for row in bill}:
        taught = sum(one.nano_usd for one in lesson.priced_usage if one.workspace == workspace)
        standing = sum(one.nano_usd for one in lesson.unattributed_costs if one.workspace == workspace)
        assert taught + standing == sum(row.value for row in bill if row.workspace == workspace)


@no_deadline
@given(DAY_USAGE, BILL, RATES)
def test_bill_evidence_survives_json(usage: Usage, bill: list[Row], rates: RateTable) -> None:
    """Written as plain lists and read back, a lesson is the same."""
    lesson = _bill_evidence(usage, bill, rates)
    assert BillEvidence.from_plain(json.loads(json.dumps(lesson.to_plain()))) == lesson
    assert BillEvidence.from_plain(json.loads(json.dumps(lesson.to_plain()[:3]))) == replace(lesson, item_by_meter={})
