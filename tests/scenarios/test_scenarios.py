"""The simulator really uses and bills the situations that the scenarios describe."""

from __future__ import annotations

from collections import Counter
from datetime import date, datetime, timedelta

import pytest

from exporter.model import DAY, NANO, Row
from exporter.pricing.list_prices import list_rates
from exporter.simulator.world import ExtraCharge, PriceChange, SimAccount, Stream, World
from tests.scenarios.scenarios import MONDAY, SCENARIOS, Scenario
from tests.simulator.simulated import Clock, open_client


def _world(scenario: Scenario, now: datetime = MONDAY + 30 * DAY) -> World:
    return World([scenario.account], Clock(now), start_time=scenario.first_day)


def _bill(scenario: Scenario, number: int) -> tuple[Row, ...]:
    return _world(scenario).bill("acme", scenario.day(number))


def _usage(scenario: Scenario, number: int) -> Counter[tuple[str, str, str]]:
    day = scenario.day(number)
    units: Counter[tuple[str, str, str]] = Counter()
    for _, row in _world(scenario).ground_truth("acme", day, day + DAY):
        units[row.model, row.tier, row.meter] += row.value
    return units


def _item_cost(rows: tuple[Row, ...], item: str) -> int:
    return sum(row.value for row in rows if item in row.item)


def test_a_price_change_holds_from_its_day_on() -> None:
    """Units cost `factor` times as much from the UTC day of the change on, in the models that its glob names."""
    scenario = SCENARIOS["price change"]

    def price(number: int, model: str) -> float:
        return (
            _item_cost(_bill(scenario, number), f"{model}, output")
            / _usage(scenario, number)[model, "standard", "output"]
        )

    assert price(3, "gpt-5.4-2026-03-05") == pytest.approx(15_000 * 0.9)
    assert price(4, "gpt-5.4-2026-03-05") == pytest.approx(15_000 * 0.9 * 1.2)
    assert price(4, "gpt-5.4-mini-2026-03-17") == pytest.approx(4500 * 0.9 * 1.2 * 1.5)


def test_a_stream_begins_on_its_day() -> None:
    """A stream with `since` uses nothing before that UTC day, and is used and billed on it."""
    scenario = SCENARIOS["new model"]
    assert not _item_cost(_bill(scenario, 2), "Nova")
    assert _item_cost(_bill(scenario, 3), "Claude Nova 1 Usage") > NANO
    assert {model for model, _, _ in _usage(scenario, 2)} < {model for model, _, _ in _usage(scenario, 3)}


@pytest.mark.parametrize(("provider", "model"), [("anthropic", "claude-nova-1"), ("openai", "gpt-nova")])
def test_the_new_models_have_no_list_price(provider: str, model: str) -> None:
    """The plainly named models are in no table of prices, neither by name nor by likeness."""
    assert list_rates(provider, MONDAY).rate(model, "output", "standard") is None


def test_weekdays_scale_the_use() -> None:
    """`weekdays` multiplies a day's use, and 0 is a day without use and without a bill."""
    scenario = SCENARIOS["days off"]
    assert [bool(_usage(scenario, number)) for number in range(7)] == [True, True, True, False, False, True, True]
    assert _bill(scenario, 3) == ()
    shifting = SCENARIOS["mix shift"]
    shares = [_usage(shifting, number)["gpt-5.4-2026-03-05", "standard", "requests"] for number in range(2)]
    assert shares[1] == pytest.approx(0.2 * shares[0], rel=0.2)
    with pytest.raises(ValueError, match="seven"):
        Stream("", "gpt-nova", weekday_factors=(1.0,))


def test_unreported_long_context_is_on_the_bill_alone() -> None:
    """Part of the tokens stands on lines of its own at long-context prices, and usage has one tier for all of them."""
    scenario, model = SCENARIOS["long context, unreported"], "gpt-5.4-2026-03-05"
    bill, use = _bill(scenario, 1), _usage(scenario, 1)
    assert {tier for _, tier, _ in use} == {"standard"}
    output = use[model, "standard", "output"]
    long, short = _item_cost(bill, f"{model}, output, long context"), _item_cost(bill, f"{model}, output")
    assert long == pytest.approx(0.3 * output * 22_500 * 0.9, rel=0.001)
    assert short - long == pytest.approx(0.7 * output * 15_000 * 0.9, rel=0.001)


def test_extras_are_money_without_use() -> None:
    """An extra is on each day's bill, constant or in step with the use; there is none before the world."""
    session, storage = SCENARIOS["session money"], SCENARIOS["storage alone"]
    bill = _bill(session, 1)
    tokens = sum(row.value for row in bill if row.model)
    assert _item_cost(bill, "Session Runtime") == round(0.08 * tokens)
    assert [_item_cost(_bill(storage, number), "Vector storage") for number in (-1, 0, 5)] == [0, 4 * NANO, 4 * NANO]
    assert "proj_archive" not in {
        row.workspace for _, row in _world(storage).ground_truth("acme", MONDAY, MONDAY + DAY)
    }


def test_extras_have_the_providers_descriptions() -> None:
    """Anthropic reports an extra's cost type without model or token type; OpenAI reports it without a quantity."""
    for name, path, params, expected in (
        (
            "session money",
            "/v1/organizations/cost_report",
            {"starting_at": f"{MONDAY:%Y-%m-%dT%H:%M:%SZ}", "group_by[]": ["workspace_id", "description"]},
            {"cost_type": "session_usage", "model": None, "token_type": None},
        ),
        (
            "storage alone",
            "/organization/costs",
            {"start_time": int(MONDAY.timestamp()), "group_by[]": ["project_id", "line_item"]},
            {"line_item": "Vector storage", "quantity": None, "quantity_unit": None},
        ),
    ):
        with open_client(_world(SCENARIOS[name])) as caller:
            rows = caller.fetch_all_pages("acme", path, params)[0]["results"]
            assert [row for row in rows if expected.items() <= row.items()], name


def test_a_restated_bill_changes_extras_too() -> None:
    """A restatement multiplies every line of the day, the constant ones included."""
    account = SimAccount(
        "a",
        "openai",
        "me",
        "sk-admin-a",
        "A",
        (Stream("p", "gpt-nova"),),
        extra_charges=(ExtraCharge("q", "Storage", usd_per_day=2.0),),
    )
    world = World([account], Clock(MONDAY + 2 * DAY), start_time=MONDAY)
    before = {row.item: row.value for row in world.bill("a", MONDAY)}
    world.restate("a", MONDAY, 0.5)
    assert {row.item: 2 * row.value for row in world.bill("a", MONDAY)} == pytest.approx(before, abs=2)


def test_changes_multiply() -> None:
    """Two changes that concern a model hold together, each from its own day on."""
    first, second = date(2026, 11, 3), date(2026, 11, 5)
    changes = (PriceChange(first, 2.0), PriceChange(second, 3.0, "gpt-*"))
    account = SimAccount("a", "openai", "me", "sk-admin-a", "A", (), price_changes=changes)
    days = (first - timedelta(days=1), first, second)
    assert [account.price_factor("gpt-nova", day) for day in days] == [1, 2, 6]
    assert account.price_factor("o9", second) == 2


@pytest.mark.parametrize("name", ["names differ", "priority tier", "late bill"])
def test_names_tiers_and_delays_are_as_described(name: str) -> None:
    """Names on the bill are not those of the usage; priority use is never billed; a late bill is late."""
    scenario = SCENARIOS[name]
    used = {model for model, _, _ in _usage(scenario, 1)}
    billed = {row.model for row in _bill(scenario, 1)}
    if name == "names differ":
        assert len(used) == len(billed) == 3
        assert not used & billed
    elif name == "priority tier":
        assert used - billed == {"claude-opus-5"}
    else:
        assert not _world(scenario, MONDAY + 3 * DAY - timedelta(seconds=1)).is_billed("acme", MONDAY)
        assert _world(scenario, MONDAY + 3 * DAY).is_billed("acme", MONDAY)
