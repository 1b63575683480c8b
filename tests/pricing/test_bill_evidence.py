"""What a billed day teaches: units and money of each kind of use, and money that no use explains."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given

from exporter.model import Row
from exporter.pricing.bill_evidence import CENT, NOTHING, Lesson, Standing, Taught, rounding_of
from exporter.pricing.valuation import Key, value_day
from tests.pricing.days import BILL, NO_RATES, RATES, SOME_RATES, USAGE, Table, Usage, at_any_speed


def _lesson(usage: Usage, bill: list[Row], rates: Table = NO_RATES) -> Lesson:
    return value_day(usage, bill, rates).lesson


def test_units_and_money_are_taught_by_model_meter_and_tier() -> None:
    """The hours and keys of a kind are added up; requests are no use."""
    usage = {
        1: [Row("output", 10, "w", "m", "standard", "k1"), Row("requests", 3, "w", "m", "standard", "k1")],
        2: [Row("output", 20, "w", "m", "standard", "k2"), Row("cache_write_1h", 5, "w", "m", "batch")],
    }
    bill = [Row("output", 601, "w", "m", "standard"), Row("cache_write_1h", 40, "w", "m", "batch")]
    assert _lesson(usage, bill) == Lesson(
        (Taught("w", "m", "cache_write_1h", "batch", 5, 40), Taught("w", "m", "output", "standard", 30, 601))
    )


def test_a_row_for_several_tiers_is_shared_by_worth() -> None:
    """A plain line over standard and batch use, batch at half price, teaches batch at half of standard."""
    usage = {1: [Row("output", 10, "w", "m", "standard"), Row("output", 40, "w", "m", "batch")]}
    lesson = _lesson(usage, [Row("output", 900, "w", "m")], SOME_RATES)
    assert [(one.tier, one.units, one.nano) for one in lesson.taught] == [("batch", 40, 600), ("standard", 10, 300)]


def test_a_row_for_several_models_is_shared_by_worth_where_all_have_a_rate() -> None:
    """One line for all images goes by what they list at, and by their number where one has no price."""
    usage = {1: [Row("images", 1, "w", "big"), Row("images", 2, "w", "small")]}
    bill = [Row("images", 600, "w", item="Image models")]
    rates = Table({("big", "images"): 40, ("small", "images"): 10})
    assert [one.nano for one in _lesson(usage, bill, rates).taught] == [400, 200]
    assert [one.nano for one in _lesson(usage, bill, Table({("big", "images"): 40})).taught] == [200, 400]


def test_use_that_nothing_paid_for_is_free() -> None:
    """Priority tokens that are in the usage and never on the bill are taught with 0, whatever else is billed."""
    usage = {1: [Row("output", 10, "w", "m", "standard"), Row("output", 40, "w", "m", "priority")]}
    bill = [Row("output", 70, "w", "m", "standard"), Row("cost", 9, "w", item="Session Runtime Usage")]
    lesson = _lesson(usage, bill, SOME_RATES)
    assert [(one.tier, one.nano) for one in lesson.taught] == [("priority", 0), ("standard", 70)]
    assert lesson.standing == (Standing("w", "", "", "Session Runtime Usage", 9),)


def test_a_model_of_another_name_is_not_taught_as_free() -> None:
    """Money for a model that nobody used pays for the tokens of its workspace that no other row names."""
    usage = {
        1: [Row("output", 10, "w", "ft:m:acme::1"), Row("uncached_input", 30, "w", "ft:m:acme::1")],
        2: [Row("output", 30, "w", "ft:m:acme::1"), Row("output", 5, "w", "m"), Row("output", 5, "v", "x")],
    }
    bill = [Row("output", 400, "w", "ft-m"), Row("uncached_input", 90, "w", "ft-m"), Row("output", 50, "w", "m")]
    value = value_day(usage, bill, NO_RATES)
    tuned = Key("w", "ft:m:acme::1")
    assert value.hours == {(1, tuned): 190, (2, tuned): 300, (2, Key("w", "m")): 50}
    assert [one.nano for one in value.lesson.taught if one.workspace == "w"] == [400, 90, 50]
    assert value.lesson.standing == ()


def test_a_model_of_another_name_does_not_pay_for_what_is_free() -> None:
    """What is known to cost nothing stays free; the money is told of its own model instead."""
    usage = {1: [Row("uncached_input", 10, "w", "moderation")]}
    lesson = _lesson(usage, [Row("uncached_input", 8, "w", "y")], Table({("moderation", "uncached_input"): 0}))
    assert lesson == Lesson((Taught("w", "moderation", "uncached_input", "", 10, 0),), (Standing("w", "y", "", "", 8),))


def test_what_no_use_explains_is_standing_money() -> None:
    """Storage, sessions and fees are told by their labels and added up; no token is made dearer by them."""
    usage = {1: [Row("output", 10, "w", "m")]}
    bill = [
        Row("output", 50, "w", "m"),
        Row("bytes", 7, "w", item="Vector storage"),
        Row("cost", 3, "w", item="fee"),
        Row("sessions", 4, "w", item="fee"),
        Row("bytes", 9, "archive", item="Vector storage"),
    ]
    assert _lesson(usage, bill) == Lesson(
        (Taught("w", "m", "output", "", 10, 50),),
        (
            Standing("archive", "", "", "Vector storage", 9),
            Standing("w", "", "", "Vector storage", 7),
            Standing("w", "", "", "fee", 7),
        ),
    )


def test_counted_units_teach_their_own_rate() -> None:
    """Storage and sessions that usage tells are no standing money: they are taught per unit (and hour of storage)."""
    usage = {hour: [Row("bytes", 100, "w")] for hour in range(24)} | {
        3: [Row("bytes", 100, "w"), Row("sessions", 2, "w")]
    }
    lesson = _lesson(usage, [Row("bytes", 4801, "w", item="Vector storage"), Row("sessions", 60, "w", item="code")])
    assert lesson.taught == (Taught("w", "", "bytes", "", 2400, 4801), Taught("w", "", "sessions", "", 2, 60))
    assert lesson.called == {"bytes": "Vector storage", "sessions": "code"}


@pytest.mark.parametrize("bill", [None, []])
def test_without_a_bill_nothing_is_taught(bill: list[Row] | None) -> None:
    """An open day teaches nothing, and neither does an empty bill: its use was not free."""
    assert value_day({1: [Row("output", 10, "w", "m")]}, bill, SOME_RATES).lesson == NOTHING


def test_a_day_without_use_and_money_teaches_nothing() -> None:
    """A row of nothing leaves no trace."""
    assert _lesson({}, [Row("output", 0, "w", "m")]) == NOTHING


@pytest.mark.parametrize(
    ("amounts", "rounding"),
    [([], 1), ([0], 1), ([5 * CENT, -CENT, 0], CENT), ([10**12], CENT), ([1200, 30], 10), ([CENT, CENT + 1], 1)],
)
def test_a_bills_rounding_is_seen_in_its_amounts(amounts: list[int], rounding: int) -> None:
    """The largest power of ten up to a cent that divides all amounts."""
    assert rounding_of(amounts) == rounding


@at_any_speed
@given(USAGE, BILL, RATES)
def test_everything_that_is_billed_is_taught_or_standing(usage: Usage, bill: list[Row], rates: Table) -> None:
    """What is taught and what stands beside it sum to the bill of each workspace, to the nano-dollar."""
    lesson = _lesson(usage, bill, rates)
    for workspace in {row.workspace for row in bill}:
        taught = sum(one.nano for one in lesson.taught if one.workspace == workspace)
        standing = sum(one.nano for one in lesson.standing if one.workspace == workspace)
        assert taught + standing == sum(row.value for row in bill if row.workspace == workspace)


@at_any_speed
@given(USAGE, BILL, RATES)
def test_a_lesson_survives_json(usage: Usage, bill: list[Row], rates: Table) -> None:
    """Written as plain lists and read back, a lesson is the same."""
    lesson = _lesson(usage, bill, rates)
    assert Lesson.of(json.loads(json.dumps(lesson.plain()))) == lesson
    assert Lesson.of(json.loads(json.dumps(lesson.plain()[:3]))) == replace(lesson, called={})
