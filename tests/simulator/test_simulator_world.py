"""The simulated world: deterministic usage, late reports, corrections and bills."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from genai_prices import Usage, calc_price

from exporter.model import DAY, HOUR, TOKEN_METERS, UNIT_METERS
from exporter.simulator.world import SimAccount, Stream, World, demo_world
from tests.simulator.simulated import NOW, TODAY, Clock, sum_by_meter

ACCOUNTS = list(demo_world(Clock()).accounts)


def make_one_stream_world(clock: Clock, tier: str = "standard") -> World:
    use = Stream("proj_a", "gpt-5.4-2026-03-05", tier)
    return World([SimAccount("a", "openai", "me", "sk-admin-a", "A", (use,))], clock)


@pytest.mark.parametrize("account", ACCOUNTS)
def test_same_seed_gives_the_same_usage(account: str) -> None:
    """Two worlds with equal seeds and clocks have equal rows; another seed differs."""
    first, second, other = (list(demo_world(Clock(), seed).ground_truth(account, TODAY, NOW)) for seed in (7, 7, 8))
    assert first == second
    assert first != other


@pytest.mark.parametrize("account", ACCOUNTS)
def test_all_usage_is_visible_three_hours_later(account: str) -> None:
    """Three hours after the end of an hour the provider reports all of its usage."""
    world = demo_world(Clock())
    settled = NOW.replace(minute=0, second=0) - 3 * HOUR
    assert list(world.reported_rows(account, TODAY, settled)) == list(world.ground_truth(account, TODAY, settled))


@pytest.mark.parametrize("account", ACCOUNTS)
def test_visible_usage_only_grows(account: str) -> None:
    """While an hour is reported, no value decreases or exceeds the ground truth."""
    clock, hour = Clock(), TODAY + 9 * HOUR
    world, seen = demo_world(clock), Counter[tuple[str, ...]]()
    for minutes in range(1, 200, 7):
        clock.now = hour + timedelta(minutes=minutes)
        reported, truth = (
            Counter[tuple[str, ...]](
                {(row.meter, row.workspace, row.model, row.tier, row.api_key): row.value for _, row in rows}
            )
            for rows in (
                world.reported_rows(account, hour, hour + HOUR),
                world.ground_truth(account, hour, hour + HOUR),
            )
        )
        assert seen <= reported <= truth
        seen = reported


def test_late_minutes_are_a_few_per_cent() -> None:
    """Ten minutes after the end of an hour, three to six per cent of its usage are missing."""
    clock, hour = Clock(), TODAY + 9 * HOUR
    world = demo_world(clock)
    clock.now = hour + HOUR + timedelta(minutes=10)
    span = ("acme-openai", hour, hour + HOUR)
    reported, truth = (
        sum_by_meter(world.reported_rows(*span))["output"],
        sum_by_meter(world.ground_truth(*span))["output"],
    )
    assert 0.94 <= reported / truth <= 0.97


def test_running_hour_is_a_few_minutes_behind() -> None:
    """In the running hour the ground truth follows the clock, and the reports follow some minutes later."""
    clock = Clock(TODAY + 9 * HOUR + timedelta(minutes=30))
    world = demo_world(clock)
    span = ("acme-openai", TODAY + 9 * HOUR, TODAY + 10 * HOUR)
    reported, spent = (
        sum_by_meter(world.reported_rows(*span))["output"],
        sum_by_meter(world.ground_truth(*span))["output"],
    )
    clock.now += 5 * HOUR
    assert spent / sum_by_meter(world.ground_truth(*span))["output"] == pytest.approx(0.5, abs=0.001)
    assert 0.8 < reported / spent < 0.95


@pytest.mark.parametrize("account", ACCOUNTS)
def test_revision_changes_the_hour_from_now_on(account: str) -> None:
    """A revised hour has another ground truth, report and bill; adjacent hours do not change."""
    world, hour = demo_world(Clock()), TODAY - 10 * HOUR
    neighbour = list(world.ground_truth(account, hour + HOUR, hour + 2 * HOUR))
    before, bill = sum_by_meter(world.ground_truth(account, hour, hour + HOUR)), world.bill(account, TODAY - DAY)
    world.revise(account, hour, 3.0)
    after = sum_by_meter(world.reported_rows(account, hour, hour + HOUR))
    assert after["output"] == pytest.approx(3 * before["output"], rel=0.02)
    assert sum(row.value for row in world.bill(account, TODAY - DAY)) > sum(row.value for row in bill)
    assert list(world.ground_truth(account, hour + HOUR, hour + 2 * HOUR)) == neighbour


def test_restatement_changes_the_bill_alone() -> None:
    """A restated day has another bill and the same usage."""
    world = demo_world(Clock())
    span = ("acme-anthropic", TODAY - DAY, TODAY)
    use, bill = list(world.ground_truth(*span)), world.bill("acme-anthropic", TODAY - DAY)
    world.restate("acme-anthropic", TODAY - DAY, 0.5)
    restated = world.bill("acme-anthropic", TODAY - DAY)
    assert list(world.ground_truth(*span)) == use
    assert sum(row.value for row in restated) == pytest.approx(sum(row.value for row in bill) / 2, abs=len(bill))


def test_restating_cursor_is_rejected() -> None:
    """Cursor has no bills, so a restatement raises ValueError."""
    with pytest.raises(ValueError, match="no bills"):
        demo_world(Clock()).restate("acme-cursor", TODAY, 2.0)


def test_bill_is_units_times_price() -> None:
    """A line of the bill is the day's units times the list price, to the nano-USD."""
    world = make_one_stream_world(Clock(), tier="batch")
    use = sum_by_meter(world.ground_truth("a", TODAY - DAY, TODAY))
    bill = {row.item: row.value for row in world.bill("a", TODAY - DAY)}
    assert bill == {
        "batch | gpt-5.4-2026-03-05, input": use["uncached_input"] * 1250,
        "batch | gpt-5.4-2026-03-05, cached input": use["cache_read"] * 125,
        "batch | gpt-5.4-2026-03-05, output": use["output"] * 7500,
    }


def test_cursor_bill_is_the_sum_of_its_events() -> None:
    """Cursor's bill of a day is the cost in the ground truth."""
    world = demo_world(Clock())
    bill = sum(row.value for row in world.bill("acme-cursor", TODAY - DAY))
    assert bill == sum_by_meter(world.ground_truth("acme-cursor", TODAY - DAY, TODAY))["cost"]


def test_priority_tokens_are_never_billed_at_anthropic() -> None:
    """Anthropic's priority tier is in the usage and in no bill."""
    world = demo_world(Clock())
    assert "priority" in {row.tier for _, row in world.ground_truth("acme-anthropic", TODAY - DAY, TODAY)}
    assert "priority" not in {row.tier for row in world.bill("acme-anthropic", TODAY - DAY)}


def test_use_begins_thirty_days_ago() -> None:
    """Before the start, 30 whole days before the first reading of the clock, there is no usage and no bill."""
    world = demo_world(Clock())
    assert world.start_time == TODAY - 30 * DAY
    assert not list(world.ground_truth("acme-openai", world.start_time - DAY, world.start_time))
    assert world.bill("acme-openai", world.start_time - DAY) == ()


def test_meters_are_the_vocabulary() -> None:
    """Every meter of the demo is a meter of the exporter."""
    world = demo_world(Clock())
    meters = {row.meter for account in ACCOUNTS for _, row in world.ground_truth(account, TODAY - DAY, TODAY)}
    assert meters <= TOKEN_METERS | UNIT_METERS | {"requests", "cost"}


def test_demo_has_the_promised_size() -> None:
    """The demo has 60 to 120 label sets; the large organisation spends thousands per weekday, the small one tens."""
    world = demo_world(Clock())
    assert 60 <= len({(name, s.labels()[:3]) for name, a in world.accounts.items() for s in a.streams}) <= 120
    spent = {name: sum(row.value for row in world.bill(name, TODAY - DAY)) / 1e9 for name in ACCOUNTS}
    assert 1000 < spent["acme-openai"] < 3000
    assert 10 < spent["labs-openai"] < 60


def test_demo_models_have_list_prices() -> None:
    """genai-prices has every model of the demo that is billed by tokens."""
    for account in demo_world(Clock()).accounts.values():
        for stream in account.streams:
            if account.provider != "cursor" and "output" in dict(stream.mix):
                calc_price(Usage(input_tokens=1000), stream.model, provider_id=account.provider)


def test_weekends_are_quiet() -> None:
    """Office streams use much less on a Saturday than on the Friday before."""
    world = make_one_stream_world(Clock(datetime(2026, 11, 23, tzinfo=UTC)))
    friday, saturday = (
        sum_by_meter(world.ground_truth("a", day, day + DAY))["requests"] for day in (TODAY, TODAY + DAY)
    )
    assert saturday < friday / 2
