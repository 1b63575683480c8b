"""With irregular bills, costs stay right, forecasts stay near, and no alert condition is met without more usage."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from exporter.model import HOUR, NANO
from tests.scenarios import irregular_table as table
from tests.scenarios.irregular_bills import OBSERVED_DAYS, SCENARIOS
from tests.scenarios.run_irregular import IrregularRun, run_irregular
from tests.scenarios.run_scenario import today_range_ratios
from tests.scenarios.scenarios import SCENARIOS as REGULAR_SCENARIOS


@pytest.fixture(scope="module", params=SCENARIOS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> IrregularRun:
    """Return the run of each scenario in turn: all tests of a scenario are run before the next one is played."""
    return run_irregular(SCENARIOS[request.param], tmp_path_factory.mktemp("irregular"))


def test_errors_are_within_their_bounds(run: IrregularRun) -> None:
    """At every observation all exported costs, forecasts and days are within the scenario's bounds."""
    bounds = asdict(run.scenario.bounds)
    exceeded = {name: value for name, value in asdict(run.measure()).items() if value > bounds[name]}
    assert not exceeded, {name: (value, bounds[name]) for name, value in exceeded.items()}


def test_settled_days_equal_their_bills(run: IrregularRun) -> None:
    """Days after their whole bill was issued, each day is billed and costs its bill to the nano-dollar."""
    assert run.final_days == {day: (nano, True) for day, nano in run.final_bills.items()}


def test_the_range_of_today_holds_the_later_bill(run: IrregularRun) -> None:
    """The range exported before midnight, applied to the day's estimate, holds its bill if that is predictable."""
    by_time = {observation.time: observation for observation in run.observations}
    outside = set()
    for time, observation in by_time.items():
        following = by_time.get(time + 2 * HOUR)
        ratios = today_range_ratios(observation.samples)
        if time.hour != 23 or following is None:
            continue
        assert ratios is not None
        day = time.replace(hour=0, minute=0)
        costs = {dict(labels)["date"]: usd for labels, usd in following.samples["ai_cost_daily_usd"].items()}
        estimate, bill = costs[f"{day:%Y-%m-%d}"], run.final_bills[day] / NANO
        if not ratios[0] * estimate <= bill <= ratios[1] * estimate:
            outside.add(day)
    assert outside == run.scenario.unpredictable_days


def test_few_days_are_unpredictable() -> None:
    """In at least 95 % of all scenario days the range has to hold the later bill."""
    days = sum(scenario.days for scenario in REGULAR_SCENARIOS.values()) + OBSERVED_DAYS * len(SCENARIOS)
    unpredictable = sum(len(scenario.excluded_days) for scenario in REGULAR_SCENARIOS.values())
    unpredictable += sum(len(scenario.unpredictable_days) for scenario in SCENARIOS.values())
    assert unpredictable <= 0.05 * days


def test_tokens_of_all_unbilled_days_without_a_price_are_exported(run: IrregularRun) -> None:
    """ai_account_unpriced_tokens counts the tokens of a model without a price until a bill reveals the price."""
    for observation in run.observations:
        exported = sum(observation.samples.get("ai_account_unpriced_tokens", {}).values())
        assert exported == observation.unpriced_tokens, observation.time


def test_the_row_of_the_table_is_current(run: IrregularRun, request: pytest.FixtureRequest) -> None:
    """docs/estimates.md has the scenario with the present errors."""
    name, measured = run.scenario.name, run.measure()
    if request.config.getoption("--write-estimates", default=False):
        table.write_row(name, measured)
    documented = table.read_rows()[name]
    expected = table.parse_row(table.render_row(run.scenario, measured))
    assert documented.description == expected.description
    assert documented.before == expected.before
    # Two significant digits may round either way.
    assert documented.after == pytest.approx(expected.after, rel=0.06, abs=table.MIN_ERROR)


def test_the_table_has_every_scenario() -> None:
    """docs/estimates.md has a row for each scenario, in their order."""
    assert list(table.read_rows()) == list(SCENARIOS)
