"""Money that no use explains, as an open day expects it from the newest billed days."""

from __future__ import annotations

import pytest

from exporter.model import Row
from exporter.pricing.bill_evidence import Lesson, Standing, Taught
from exporter.pricing.valuation import DayValue, Key, value_day
from tests.pricing.days import NO_RATES, SOME_RATES, Table, Usage

KEY = Key("w", item="fee")


def _day(units: int, nano: int, model: str = "m") -> Lesson:
    """Make the lesson of a day on which w used output and was billed a fee; 0 is nothing of it."""
    used = (Taught("w", model, "output", "", units, 5),) if units else ()
    return Lesson(used, (Standing("w", "", "", "fee", nano),) if nano else ())


def _use(*units: int, model: str = "m") -> Usage:
    """Make a day whose hours from 0 on had these units of output."""
    return {hour: [Row("output", count, "w", model)] for hour, count in enumerate(units)}


def _fee(usage: Usage, *lessons: Lesson, last_hour: int = 23, rates: Table = SOME_RATES) -> dict[int, int]:
    value = value_day(usage, None, rates, last_hour, standing=lessons)
    return {hour: nano for (hour, key), nano in value.hours.items() if key == KEY}


def test_it_grows_with_the_worth_of_what_its_workspace_uses() -> None:
    """Half the use of the newest billed day has half the money, in the hours of the use."""
    usage = _use(10, 30) | {5: [Row("output", 10**9, "v", "m")]}
    assert _fee(usage, _day(80, 600)) == {0: 75, 1: 225}


@pytest.mark.parametrize(("last_hour", "hours"), [(23, 24), (0, 1), (7, 8)])
def test_without_use_it_is_even_over_the_hours_that_have_begun(last_hour: int, hours: int) -> None:
    """Storage of a workspace that uses nothing grows with the clock to what the newest bill said."""
    assert _fee({}, _day(0, 2400), last_hour=last_hour) == dict.fromkeys(range(hours), 100)


def test_a_whole_day_has_every_nano_dollar() -> None:
    """What does not divide by 24 is all there at the day's end."""
    assert sum(_fee({}, _day(0, 1001)).values()) == 1001


def test_it_keeps_the_labels_of_the_bill() -> None:
    """Model, tier and item are told as on the bill, apart from the tokens beside it."""
    lesson = Lesson((Taught("w", "m", "output", "", 10, 5),), (Standing("w", "whisper", "t", "label", 40),))
    value = value_day(_use(10), None, SOME_RATES, standing=[lesson])
    assert value == DayValue(
        {(0, Key("w", "m")): 150_000, (0, Key("w", "whisper", "t", item="label")): 40}, billed=False, unpriced={}
    )


def test_it_is_measured_by_tokens_or_units_where_there_is_no_price() -> None:
    """A workspace whose use has no rate, or is free, still tells how busy it is."""
    assert _fee(_use(10, 10), _day(40, 600), rates=NO_RATES) == {0: 150, 1: 150}
    assert _fee(_use(10, 10), _day(40, 600), rates=Table({("m", "output"): 0})) == {0: 150, 1: 150}
    lesson = Lesson((Taught("w", "x", "images", "", 4, 5),), (Standing("w", "", "", "fee", 80),))
    assert _fee({3: [Row("images", 1, "w", "x")]}, lesson, rates=NO_RATES) == {3: 20}


def test_it_is_measured_by_what_tells_something_of_the_billed_day() -> None:
    """A day that used only what has no price is compared by tokens, though today's use has a price."""
    assert _fee(_use(10, 10), _day(40, 600, model="x")) == {0: 150, 1: 150}


def test_a_price_change_does_not_move_it() -> None:
    """Both days are weighed at the same rates: the same use has the same money."""
    for rate in (1, 20_000):
        assert _fee(_use(40), _day(40, 600), rates=Table({("m", "output"): rate})) == {0: 600}


def test_use_of_another_model_moves_it_by_worth() -> None:
    """A day in a model of twice the price counts twice."""
    rates = Table({("m", "output"): 100, ("n", "output"): 200})
    assert _fee(_use(40, model="n"), _day(40, 600), rates=rates) == {0: 1200}


def test_the_newest_day_with_use_tells_it() -> None:
    """After a weekend Monday is like Friday; a bill that no longer has the item ends it."""
    assert _fee(_use(40), Lesson(), _day(0, 0), _day(40, 600), _day(40, 900)) == {0: 600}
    assert _fee(_use(40), _day(40, 0), _day(40, 600)) == {}


def test_money_that_does_not_follow_use_is_a_fee() -> None:
    """The same amount on two days of different use is expected every day, evenly, used or not."""
    lessons = (_day(40, 2400), _day(80, 2400))
    assert _fee(_use(7), *lessons) == dict.fromkeys(range(24), 100)
    assert _fee({}, *lessons) == dict.fromkeys(range(24), 100)
    assert _fee(_use(80), _day(40, 2400), _day(0, 2400)) == dict.fromkeys(range(24), 100)


def test_money_that_follows_use_is_no_fee() -> None:
    """Amounts in step with use, or equal because the use was, stay in proportion."""
    assert _fee(_use(20), _day(40, 600), _day(80, 1200)) == {0: 300}
    assert _fee(_use(20), _day(40, 600), _day(40, 600)) == {0: 300}
    assert _fee({}, _day(40, 600), _day(80, 1200)) == {}


def test_a_fee_ends_with_the_newest_bill_without_it() -> None:
    """Storage that was deleted is not expected any more."""
    assert _fee({}, Lesson(), _day(0, 2400)) == {}
    assert _fee(_use(40), _day(40, 0), _day(80, 2400), _day(40, 2400)) == {}


def test_a_credit_is_not_promised_again() -> None:
    """One credit is a gift, two in a row are a condition."""
    assert _fee(_use(40), _day(40, -600)) == {}
    assert _fee(_use(40), _day(40, -600), _day(40, 600)) == {}
    assert _fee(_use(20), _day(40, -600), _day(40, -600)) == {0: -300}


def test_a_day_that_tells_its_money_has_no_other() -> None:
    """Where usage carries its money, nothing is added."""
    usage = {1: [Row("cost", 70, "w", "m")]}
    assert value_day(usage, None, SOME_RATES, standing=[_day(0, 2400)]).hours == {(1, Key("w", "m")): 70}


def test_a_billed_day_is_its_bill_whatever_was_expected() -> None:
    """Expectations end with the bill."""
    value = value_day(_use(40), [Row("output", 9, "w", "m")], SOME_RATES, standing=[_day(40, 600)])
    assert value.hours == {(0, Key("w", "m")): 9}
