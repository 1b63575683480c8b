"""Money that no use explains, as an open day expects it from the newest billed days."""

from __future__ import annotations

import pytest

from exporter.model import Row
from exporter.pricing.bill_evidence import BillEvidence, PricedUsage, UnattributedCost
from exporter.pricing.valuation import CostLabels, DayValuation, value_day
from tests.pricing.days import NO_RATES, SOME_RATES, RateTable, Usage

KEY = CostLabels("w", item="fee")


def _evidence(units: int, nano: int, model: str = "m") -> BillEvidence:
    """Make the evidence of a day on which w used output and was billed a fee; 0 is neither."""
    used = (PricedUsage("w", model, "output", "", units, 5),) if units else ()
    return BillEvidence(used, (UnattributedCost("w", "", "", "fee", nano),) if nano else ())


def _usage(*units: int, model: str = "m") -> Usage:
    """Make a day whose hours from 0 on had these units of output."""
    return {hour: [Row("output", count, "w", model)] for hour, count in enumerate(units)}


def _estimate_fee(
    usage: Usage, *evidence: BillEvidence, last_hour: int = 23, rates: RateTable = SOME_RATES
) -> dict[int, int]:
    value = value_day(usage, None, rates, last_hour, evidence=evidence)
    return {hour: nano for (hour, key), nano in value.hours.items() if key == KEY}


def test_unattributed_cost_grows_with_the_value_of_its_workspaces_usage() -> None:
    """Half the usage of the newest billed day has half the cost, in the hours of the usage."""
    usage = _usage(10, 30) | {5: [Row("output", 10**9, "v", "m")]}
    assert _estimate_fee(usage, _evidence(80, 600)) == {0: 75, 1: 225}


@pytest.mark.parametrize(("last_hour", "hours"), [(23, 24), (0, 1), (7, 8)])
def test_without_use_it_is_even_over_the_hours_that_have_begun(last_hour: int, hours: int) -> None:
    """Storage of a workspace that uses nothing grows with the clock to the amount of the newest bill."""
    assert _estimate_fee({}, _evidence(0, 2400), last_hour=last_hour) == dict.fromkeys(range(hours), 100)


def test_a_whole_day_has_every_nano_dollar() -> None:
    """An amount that does not divide by 24 is complete at the day's end."""
    assert sum(_estimate_fee({}, _evidence(0, 1001)).values()) == 1001


def test_unattributed_cost_keeps_the_labels_of_the_bill() -> None:
    """Model, tier and item are those of the bill, separate from the tokens beside it."""
    evidence = BillEvidence(
        (PricedUsage("w", "m", "output", "", 10, 5),), (UnattributedCost("w", "whisper", "t", "label", 40),)
    )
    value = value_day(_usage(10), None, SOME_RATES, evidence=[evidence])
    assert value == DayValuation(
        {CostLabels("w", "m"): {0: 150_000}, CostLabels("w", "whisper", "t", item="label"): {0: 40}},
        billed=False,
        unpriced_tokens={},
    )


def test_unpriced_usage_is_weighted_by_tokens_or_units() -> None:
    """Usage without a rate, or that is free, is weighted by tokens, else by units."""
    assert _estimate_fee(_usage(10, 10), _evidence(40, 600), rates=NO_RATES) == {0: 150, 1: 150}
    assert _estimate_fee(_usage(10, 10), _evidence(40, 600), rates=RateTable({("m", "output"): 0})) == {0: 150, 1: 150}
    evidence = BillEvidence((PricedUsage("w", "x", "images", "", 4, 5),), (UnattributedCost("w", "", "", "fee", 80),))
    assert _estimate_fee({3: [Row("images", 1, "w", "x")]}, evidence, rates=NO_RATES) == {3: 20}


def test_usage_is_weighted_by_what_the_billed_day_has() -> None:
    """A day that used only what has no price is compared by tokens, though today's use has a price."""
    assert _estimate_fee(_usage(10, 10), _evidence(40, 600, model="x")) == {0: 150, 1: 150}


def test_a_price_change_does_not_change_unattributed_cost() -> None:
    """Both days are weighed at the same rates: the same usage has the same cost."""
    for rate in (1, 20_000):
        assert _estimate_fee(_usage(40), _evidence(40, 600), rates=RateTable({("m", "output"): rate})) == {0: 600}


def test_usage_of_another_model_changes_unattributed_cost_by_value() -> None:
    """A day in a model of twice the price counts twice."""
    rates = RateTable({("m", "output"): 100, ("n", "output"): 200})
    assert _estimate_fee(_usage(40, model="n"), _evidence(40, 600), rates=rates) == {0: 1200}


def test_the_newest_day_with_usage_decides() -> None:
    """After a weekend Monday is like Friday; a bill that no longer has the item ends it."""
    assert _estimate_fee(_usage(40), BillEvidence(), _evidence(0, 0), _evidence(40, 600), _evidence(40, 900)) == {
        0: 600
    }
    assert _estimate_fee(_usage(40), _evidence(40, 0), _evidence(40, 600)) == {}


def test_money_that_does_not_follow_use_is_a_fee() -> None:
    """The same amount on two days of different use is expected every day, evenly, used or not."""
    evidence = (_evidence(40, 2400), _evidence(80, 2400))
    assert _estimate_fee(_usage(7), *evidence) == dict.fromkeys(range(24), 100)
    assert _estimate_fee({}, *evidence) == dict.fromkeys(range(24), 100)
    assert _estimate_fee(_usage(80), _evidence(40, 2400), _evidence(0, 2400)) == dict.fromkeys(range(24), 100)


def test_money_that_follows_use_is_no_fee() -> None:
    """Amounts in step with use, or equal because the use was, stay in proportion."""
    assert _estimate_fee(_usage(20), _evidence(40, 600), _evidence(80, 1200)) == {0: 300}
    assert _estimate_fee(_usage(20), _evidence(40, 600), _evidence(40, 600)) == {0: 300}
    assert _estimate_fee({}, _evidence(40, 600), _evidence(80, 1200)) == {}


def test_a_fee_ends_with_the_newest_bill_without_it() -> None:
    """Storage that was deleted is not expected any more."""
    assert _estimate_fee({}, BillEvidence(), _evidence(0, 2400)) == {}
    assert _estimate_fee(_usage(40), _evidence(40, 0), _evidence(80, 2400), _evidence(40, 2400)) == {}


def test_a_credit_is_expected_only_after_several() -> None:
    """A single credit shows no condition of the contract; two of two do."""
    assert _estimate_fee(_usage(40), _evidence(40, -600)) == {}
    assert _estimate_fee(_usage(40), _evidence(40, -600), _evidence(40, 600)) == {}
    assert _estimate_fee(_usage(20), _evidence(40, -600), _evidence(40, -600)) == {0: -300}


@pytest.mark.parametrize("nano", [2400, -2400])
@pytest.mark.parametrize("billed_days", [{0}, {0, 3}, {0, 3, 5}])
def test_a_cost_of_fewer_than_half_of_the_days_is_not_expected(nano: int, billed_days: set[int]) -> None:
    """Neither a setup fee, nor training jobs on a third of the days, nor a goodwill credit is repeated."""
    evidence = [_evidence(40 + day, nano if day in billed_days else 0) for day in range(7)]
    assert _estimate_fee(_usage(40), *evidence) == {}
    unused = [_evidence(0, nano if day in billed_days else 0) for day in range(7)]
    assert _estimate_fee({}, *unused) == {}


def test_an_amount_of_a_single_day_is_not_expected() -> None:
    """Among three days that have a cost, the median day decides: an exceptional amount changes no later day."""
    fees = [_evidence(40, 9600), _evidence(80, 2400), _evidence(40, 2400), _evidence(60, 2400)]
    assert _estimate_fee(_usage(40), *fees) == dict.fromkeys(range(24), 100)
    in_proportion = [_evidence(40, 9600), _evidence(80, 1200), _evidence(40, 600)]
    assert _estimate_fee(_usage(20), *in_proportion) == {0: 300}


def _allocate_fee(units: Usage, *evidence: BillEvidence, nano: int = 2400) -> tuple[dict[int, int], str | None]:
    bill = [Row("output", 400, "w", "m"), Row("cost", nano, "w", item="fee")]
    value = value_day(units, bill, SOME_RATES, evidence=evidence)
    assert sum(value.hours.values()) == 400 + nano
    return {hour: nano for (hour, key), nano in value.hours.items() if key == KEY}, value.fixed_costs.get(KEY)


def test_a_fee_lies_in_the_same_hours_before_and_after_its_bill() -> None:
    """A scale tier in a workspace with varying usage is even over the day, expected or billed."""
    evidence = [_evidence(units, 2400) for units in (40, 80, 50, 70)]
    usage = _usage(5, 30, 1)
    even = dict.fromkeys(range(24), 100)
    assert _estimate_fee(usage, *evidence) == even
    assert _allocate_fee(usage, *evidence) == (even, "recurring")


def test_a_usage_based_cost_lies_in_the_same_hours_before_and_after_its_bill() -> None:
    """Session runtime follows the hours of the workspace's usage, expected or billed."""
    evidence = [_evidence(units, 60 * units) for units in (40, 80, 50, 70)]
    usage = _usage(10, 30)
    assert _estimate_fee(usage, *evidence) == {0: 600, 1: 1800}
    assert _allocate_fee(usage, *evidence) == ({0: 600, 1: 1800}, None)


def test_a_one_time_charge_is_even_over_its_day() -> None:
    """A charge that earlier bills do not have is spread over its day and marked, so that no hour looks like a spike."""
    evidence = [_evidence(units, 0) for units in (40, 80, 50)]
    assert _allocate_fee(_usage(10, 30), *evidence) == (dict.fromkeys(range(24), 100), "one_time")


def test_a_one_time_credit_makes_no_idle_hour_negative() -> None:
    """A credit that earlier bills do not have follows the usage that it is for."""
    evidence = [_evidence(units, 0) for units in (40, 80, 50)]
    assert _allocate_fee(_usage(10, 30), *evidence, nano=-40) == ({0: -10, 1: -30}, "one_time")


def test_an_expected_fee_is_marked_as_fixed() -> None:
    """The fixed costs of an open day are known too: signals and forecasts leave them out of usage."""
    fees = value_day(_usage(4), None, SOME_RATES, evidence=[_evidence(units, 2400) for units in (40, 80)])
    assert fees.fixed_costs == {KEY: "recurring"}
    sessions = value_day(_usage(4), None, SOME_RATES, evidence=[_evidence(units, 60 * units) for units in (40, 80)])
    assert sessions.fixed_costs == {}


def test_a_day_with_reported_cost_has_no_unattributed_cost() -> None:
    """Where usage reports its cost, nothing is added."""
    usage = {1: [Row("cost", 70, "w", "m")]}
    assert value_day(usage, None, SOME_RATES, evidence=[_evidence(0, 2400)]).hours == {(1, CostLabels("w", "m")): 70}


def test_a_billed_day_is_its_bill_whatever_was_expected() -> None:
    """Expectations end with the bill."""
    value = value_day(_usage(40), [Row("output", 9, "w", "m")], SOME_RATES, evidence=[_evidence(40, 600)])
    assert value.hours == {(0, CostLabels("w", "m")): 9}


MINIMUM = CostLabels(item="minimum")


def _minimum_evidence(usage_cost: int, minimum: int = 1000) -> BillEvidence:
    """Return the evidence of a day whose bill was raised to a minimum where its usage cost less."""
    difference = max(0, minimum - usage_cost)
    return BillEvidence(
        (PricedUsage("w", "m", "output", "", usage_cost // 10, usage_cost),),
        (UnattributedCost("", "", "", "minimum", difference),) if difference else (),
    )


def _estimate_minimum(usage_cost: int, *evidence: BillEvidence, last_hour: int = 23) -> int:
    rates = RateTable({("m", "output"): 10})
    value = value_day(_usage(usage_cost // 10), None, rates, last_hour, evidence=evidence)
    return sum(nano for (_, key), nano in value.hours.items() if key == MINIMUM)


def test_a_minimum_charge_raises_a_whole_day_to_the_minimum() -> None:
    """Two bills with the same total show it, although most days are above it; a higher day has no difference."""
    evidence = [_minimum_evidence(cost) for cost in (1500, 700, 1100, 1300, 400, 1200)]
    assert _estimate_minimum(650, *evidence) == 350
    assert _estimate_minimum(1650, *evidence) == 0
    assert _estimate_minimum(0, *evidence) == 0


def test_a_minimum_charge_is_as_usual_while_the_day_is_open() -> None:
    """The final difference is not known before the day ends: the median of three days is expected, hour by hour."""
    evidence = [_minimum_evidence(cost) for cost in (760, 700, 400)]
    assert _estimate_minimum(100, *evidence, last_hour=11) == 150


@pytest.mark.parametrize("costs", [(700, 1100, 1300), (700, 400, 900, 1300)])
def test_no_minimum_charge_without_clear_evidence(costs: tuple[int, ...]) -> None:
    """One raised bill shows no minimum, nor do bills that are lower without that row."""
    evidence = [_minimum_evidence(cost, minimum=1000 if cost != 900 else 0) for cost in costs]
    assert _estimate_minimum(650, *evidence) != 350


def test_a_minimum_charge_is_even_and_fixed_on_its_bill() -> None:
    """The difference lies in all hours of the day, so that it never looks like a spike."""
    evidence = [_minimum_evidence(cost) for cost in (700, 400, 1200)]
    bill = [Row("output", 520, "w", "m"), Row("cost", 480, item="minimum")]
    value = value_day(_usage(52), bill, SOME_RATES, evidence=evidence)
    assert {hour: nano for (hour, key), nano in value.hours.items() if key == MINIMUM} == dict.fromkeys(range(24), 20)
    assert value.fixed_costs == {MINIMUM: "recurring"}
