"""Irregular bills in the simulator: charges on single days, bills in parts, free tokens, minimum charges and tiers."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any

import pytest

from exporter.model import DAY, HOUR, NANO, TOKEN_METERS, Row
from exporter.simulator.accounts import ExtraCharge, SimAccount, Stream
from exporter.simulator.billing import MINIMUM_CHARGE_LABEL, Charge
from exporter.simulator.billing_terms import BillOutage, BillStage, FreeTokens, LineDelay, VolumeDiscount
from exporter.simulator.world import World
from tests.simulator.simulated import NOW, TODAY, Clock, open_client, sum_by_meter

YESTERDAY = TODAY - DAY
GPT, MINI = "gpt-5.4-2026-03-05", "gpt-5.4-mini-2026-03-17"


def make_world(now: datetime = NOW, **terms: Any) -> World:
    """Return the world of one account with two projects, each with a model of its own."""
    streams = (
        Stream("proj_a", GPT, load_profile="steady", daily_requests=1000.0),
        Stream("proj_b", MINI, load_profile="steady", daily_requests=1000.0),
    )
    workspaces = {"proj_a": "A", "proj_b": "B"}
    account = SimAccount("acme", "openai", "me", "sk-admin-acme", "Acme", streams, workspaces, **terms)
    return World([account], Clock(now), start_time=datetime(2026, 11, 1, tzinfo=TODAY.tzinfo))


def set_time(world: World, now: datetime) -> None:
    assert isinstance(world.clock, Clock)
    world.clock.now = now


def issued(world: World, age: timedelta) -> tuple[Charge, ...]:
    """Return yesterday's lines at a time after the end of yesterday."""
    set_time(world, TODAY + age)
    return world.issued_charges("acme", YESTERDAY)


def item_cost(rows: tuple[Row, ...], item: str) -> int:
    return sum(row.value for row in rows if item in row.item)


def tokens(world: World, day: datetime, model: str) -> int:
    rows = world.ground_truth("acme", day, day + DAY)
    return sum(row.value for _, row in rows if row.model == model and row.meter in TOKEN_METERS)


def test_a_charge_with_dates_occurs_on_them_alone() -> None:
    """A charge with dates is on the bills of these days and on no other bill."""
    world = make_world(extra_charges=(ExtraCharge("proj_a", "Purchase", 500.0, dates=frozenset({YESTERDAY.date()})),))
    costs = [item_cost(world.bill("acme", TODAY + number * DAY), "Purchase") for number in (-2, -1, 0)]
    assert costs == [0, 500 * NANO, 0]


def test_a_charge_with_a_day_share_occurs_on_about_that_share_of_the_days() -> None:
    """The days of such a charge are the same in every world and about as many as its share of days."""
    charge = ExtraCharge("proj_a", "Training", 30.0, day_share=1 / 3)
    days = [date(2026, 1, 1) + timedelta(days=number) for number in range(300)]
    assert 80 <= sum(charge.occurs_on(day) for day in days) <= 120
    assert not charge.is_daily
    world = make_world(extra_charges=(charge,))
    for number in range(10):
        day = YESTERDAY - number * DAY
        assert item_cost(world.bill("acme", day), "Training") == (30 * NANO if charge.occurs_on(day.date()) else 0)


def test_a_bill_in_two_parts_has_the_same_lines_first_every_day() -> None:
    """Half of the lines are issued in the first stage, all in the second, none before."""
    world = make_world(bill_stages=(BillStage(8 * HOUR, line_share=0.5), BillStage(20 * HOUR)))
    assert issued(world, 7 * HOUR) == ()
    first = issued(world, 8 * HOUR)
    assert not world.is_billed("acme", YESTERDAY)
    assert len(first) == 3
    day_before = world.issued_charges("acme", YESTERDAY - DAY)
    set_time(world, TODAY - DAY + 8 * HOUR)
    earlier = world.issued_charges("acme", YESTERDAY - DAY)
    assert {charge.line for charge in earlier} == {charge.line for charge in first}
    assert set(earlier) < set(day_before)
    assert issued(world, 20 * HOUR) == world.charges("acme", YESTERDAY)
    assert world.is_billed("acme", YESTERDAY)


def test_a_growing_bill_has_part_of_every_amount_and_quantity() -> None:
    """In a stage with an amount share, each line has that share of its final cost and units."""
    world = make_world(bill_stages=(BillStage(6 * HOUR, amount_share=0.6), BillStage(8 * HOUR)))
    for partial, final in zip(issued(world, 6 * HOUR), world.charges("acme", YESTERDAY), strict=True):
        assert partial.line == final.line
        assert partial.nano == pytest.approx(0.6 * final.nano, abs=1)
        assert partial.units == pytest.approx(0.6 * final.units, abs=1)


def test_a_late_line_follows_the_others() -> None:
    """A line with a delay of its own is missing until then."""
    world = make_world(line_delays=(LineDelay(f"{MINI}, output", 40 * HOUR),))
    final = world.charges("acme", YESTERDAY)
    late = {charge.line.label for charge in set(final) - set(issued(world, 39 * HOUR))}
    assert late == {f"{MINI}, output"}
    assert issued(world, 40 * HOUR) == final


def test_in_an_outage_all_bills_are_empty() -> None:
    """In an outage the costs of every day are answered without lines, and with all of them afterwards."""
    world = make_world(bill_outages=(BillOutage(TODAY + 12 * HOUR, TODAY + 20 * HOUR),))
    params = {"start_time": int((TODAY - 3 * DAY).timestamp()), "group_by[]": ["project_id", "line_item"]}
    with open_client(world) as caller:
        for hour, has_lines in ((11, True), (12, False), (20, True)):
            set_time(world, TODAY + hour * HOUR)
            days = caller.fetch_all_pages("acme", "/organization/costs", params)[:3]
            assert [bool(day["results"]) for day in days] == [has_lines] * 3, hour


@pytest.mark.parametrize(("share", "unassigned"), [(0.5, 3), (1.0, 6)])
def test_unassigned_lines_have_no_project(share: float, unassigned: int) -> None:
    """A share of the lines has `project_id` null in an answer that is grouped by project; their sum is unchanged."""
    world = make_world(unassigned_line_share=share)
    params = {"start_time": int(YESTERDAY.timestamp()), "limit": 1, "group_by[]": ["project_id", "line_item"]}
    with open_client(world) as caller:
        rows = caller.fetch_all_pages("acme", "/organization/costs", params)[0]["results"]
    assert len([row for row in rows if row["project_id"] is None]) == unassigned
    assert len(rows) == 6
    billed = sum(row.value for row in make_world().bill("acme", YESTERDAY))
    assert sum(row.value for row in world.bill("acme", YESTERDAY)) == billed


def test_a_minimum_charge_raises_a_small_bill() -> None:
    """A day below the minimum is billed the minimum; a day above it, or without usage, is billed its usage."""
    usage = sum(row.value for row in make_world().bill("acme", YESTERDAY))
    minimum = usage / NANO + 5
    bill = make_world(minimum_charge_usd=minimum).bill("acme", YESTERDAY)
    assert item_cost(bill, MINIMUM_CHARGE_LABEL) == pytest.approx(5 * NANO, abs=1)
    assert make_world(minimum_charge_usd=1.0).bill("acme", YESTERDAY) == make_world().bill("acme", YESTERDAY)
    assert make_world(minimum_charge_usd=minimum).bill("acme", datetime(2026, 10, 1, tzinfo=TODAY.tzinfo)) == ()


def test_free_tokens_are_not_billed_and_not_in_the_quantity() -> None:
    """The billed quantity of a model is its tokens of the day without the free ones; other models are unchanged."""
    world = make_world(free_tokens=(FreeTokens(MINI, 1_000_000),))
    params = {"start_time": int(YESTERDAY.timestamp()), "limit": 1, "group_by[]": ["line_item"]}
    with open_client(world) as caller:
        rows = caller.fetch_all_pages("acme", "/organization/costs", params)[0]["results"]
    quantities = {model: sum(row["quantity"] for row in rows if model in row["line_item"]) for model in (GPT, MINI)}
    assert quantities[GPT] == tokens(world, YESTERDAY, GPT)
    assert quantities[MINI] == pytest.approx(tokens(world, YESTERDAY, MINI) - 1_000_000, abs=3)
    billed, full = world.bill("acme", YESTERDAY), make_world().bill("acme", YESTERDAY)
    share = 1 - 1_000_000 / tokens(world, YESTERDAY, MINI)
    assert item_cost(billed, MINI) == pytest.approx(share * item_cost(full, MINI), rel=1e-5)
    assert item_cost(billed, GPT) == item_cost(full, GPT)
    everything_free = make_world(free_tokens=(FreeTokens(MINI, 10**9),))
    assert item_cost(everything_free.bill("acme", YESTERDAY), MINI) == 0


def test_a_volume_tier_lowers_the_price_within_the_month() -> None:
    """Tokens beyond the month's volume cost less, in the month alone, and their quantity is unchanged."""
    probe = make_world()
    before = sum(tokens(probe, YESTERDAY - number * DAY, GPT) for number in range(1, YESTERDAY.day))
    volume = before + tokens(probe, YESTERDAY, GPT) // 2
    world = make_world(volume_discounts=(VolumeDiscount("gpt-5.4-2*", volume, 0.5),))

    def price_factor(day: datetime) -> float:
        return item_cost(world.bill("acme", day), GPT) / item_cost(probe.bill("acme", day), GPT)

    assert price_factor(YESTERDAY - DAY) == 1
    assert price_factor(YESTERDAY) == pytest.approx(0.75, abs=0.001)
    assert price_factor(TODAY) == pytest.approx(0.5)
    assert price_factor(datetime(2026, 12, 1, tzinfo=TODAY.tzinfo)) == 1
    assert item_cost(world.bill("acme", TODAY), MINI) == item_cost(probe.bill("acme", TODAY), MINI)
    units = [charge.units for charge in world.charges("acme", TODAY)]
    assert units == [charge.units for charge in probe.charges("acme", TODAY)]


def test_prompt_usage_is_reported_at_once() -> None:
    """All usage until now is reported, in the running hour too."""
    world = make_world(prompt_usage=True)
    span = ("acme", TODAY, NOW)
    reported, truth = sum_by_meter(world.reported_rows(*span)), sum_by_meter(world.ground_truth(*span))
    assert reported == truth
    params = {"start_time": int(TODAY.timestamp()), "end_time": int(NOW.timestamp()), "limit": 1}
    with open_client(world) as caller:
        (day,) = caller.fetch_all_pages("acme", "/organization/usage/completions", params)
    assert sum(result["output_tokens"] for result in day["results"]) == truth["output"]
