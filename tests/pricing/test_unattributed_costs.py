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
    """Storage of a workspace that uses nothing grows with the clock to what the newest bill said."""
    assert _estimate_fee({}, _evidence(0, 2400), last_hour=last_hour) == dict.fromkeys(range(hours), 100)


def test_a_whole_day_has_every_nano_dollar() -> None:
    """What does not divide by 24 is all there at the day's end."""
    assert sum(_estimate_fee({}, _evidence(0, 1001)).values()) == 1001


def test_unattributed_cost_keeps_the_labels_of_the_bill() -> None:
    """Model, tier and item are those of the bill, separate from the tokens beside it."""
    evidence = BillEvidence(
        (PricedUsage("w", "m", "output", "", 10, 5),), (UnattributedCost("w", "whisper", "t", "label", 40),)
    )
    value = value_day(_usage(10), None, SOME_RATES, evidence=[evidence])
    assert value == DayValuation(
        {(0, CostLabels("w", "m")): 150_000, (0, CostLabels("w", "whisper", "t", item="label")): 40},
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


def test_a_credit_is_not_promised_again() -> None:
    """One credit is a gift, two in a row are a condition."""
    assert _estimate_fee(_usage(40), _evidence(40, -600)) == {}
    assert _estimate_fee(_usage(40), _evidence(40, -600), _evidence(40, 600)) == {}
    assert _estimate_fee(_usage(20), _evidence(40, -600), _evidence(40, -600)) == {0: -300}


def test_a_day_with_reported_cost_has_no_unattributed_cost() -> None:
    """Where usage reports its cost, nothing is added."""
    usage = {1: [Row("cost", 70, "w", "m")]}
    assert value_day(usage, None, SOME_RATES, evidence=[_evidence(0, 2400)]).hours == {(1, CostLabels("w", "m")): 70}


def test_a_billed_day_is_its_bill_whatever_was_expected() -> None:
    """Expectations end with the bill."""
    value = value_day(_usage(40), [Row("output", 9, "w", "m")], SOME_RATES, evidence=[_evidence(40, 600)])
    assert value.hours == {(0, CostLabels("w", "m")): 9}
