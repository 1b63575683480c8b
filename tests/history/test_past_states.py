"""Served baselines and budgets: the values that /metrics had or would have had at each time of the past."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from exporter.config.configuration import Budget, BudgetMatch
from exporter.history.cache import LRUCache
from exporter.metrics.families import (
    BUDGET_HISTORY_FAMILIES,
    COST_EXPECTED,
    COST_UPPER_BOUND,
    HOURLY_COST_EXPECTED,
    HOURLY_COST_UPPER_BOUND,
    HOURLY_REQUESTS_EXPECTED,
    HOURLY_REQUESTS_UPPER_BOUND,
    HOURLY_SAMPLE_LEAD,
    HOURLY_TOKENS_EXPECTED,
    HOURLY_TOKENS_UPPER_BOUND,
    REQUESTS_EXPECTED,
    REQUESTS_UPPER_BOUND,
    TOKENS_EXPECTED,
    TOKENS_UPPER_BOUND,
    Family,
)
from exporter.model import DAY, HOUR, NANO, Row
from exporter.simulator.world import World
from exporter.snapshot.account_snapshot import AccountSnapshot
from exporter.snapshot.budgets import EvaluatedBudget, evaluate_budgets
from exporter.snapshot.builder import SnapshotBuilder
from exporter.snapshot.source import LedgerSource
from exporter.windows import TimeRange
from tests.history.ledger_days import (
    DAY1,
    EQUAL,
    cost_row,
    decode_read_response,
    encode_read_request,
    open_ledger,
    to_milliseconds,
)
from tests.system import NOON, Clock, System, make_account, midnight, start_system

TODAY = midnight(NOON)
GAUGES = {
    HOURLY_COST_EXPECTED: COST_EXPECTED,
    HOURLY_COST_UPPER_BOUND: COST_UPPER_BOUND,
    HOURLY_REQUESTS_EXPECTED: REQUESTS_EXPECTED,
    HOURLY_REQUESTS_UPPER_BOUND: REQUESTS_UPPER_BOUND,
    HOURLY_TOKENS_EXPECTED: TOKENS_EXPECTED,
    HOURLY_TOKENS_UPPER_BOUND: TOKENS_UPPER_BOUND,
}
"""Served family -> the gauge of the newest complete hour."""
BUDGETS = (
    Budget(name="all", owner="finance", period="month", limit_usd=Decimal(2000), match=BudgetMatch()),
    Budget(name="openai", owner="", period="week", limit_usd=Decimal(90), match=BudgetMatch(provider="openai")),
    Budget(name="web", owner="web", period="day", limit_usd=Decimal("12.5"), match=BudgetMatch(workspace="W*")),
)
Series = Mapping[datetime, float]


@contextmanager
def start_exporter(folder: Path, *providers: str, days: int = 35, past_days: int = 40) -> Iterator[System]:
    """Run an exporter that has polled the accounts' past."""
    clock = Clock()
    accounts = [make_account(provider, provider) for provider in providers]  # type: ignore[arg-type]
    world = World(accounts, clock, start_time=TODAY - past_days * DAY)
    with start_system(folder, world, clock, history=f"{days}d") as system:
        system.config = system.config.model_copy(update={"budgets": BUDGETS})
        with system.run_exporter():
            system.poll_until_idle()
            yield system


def read(system: System, name: str, **labels: str) -> dict[frozenset[tuple[str, str]], Series]:
    """Read a family: labels besides the name -> time -> value."""
    matchers = [(EQUAL, label, value) for label, value in {"__name__": name, **labels}.items()]
    (found,) = decode_read_response(system.app.handlers().remote_read(encode_read_request(*matchers)))
    return {
        series - {("__name__", name)}: {
            NOON.fromtimestamp(milliseconds / 1000, NOON.tzinfo): value for milliseconds, value in samples.items()
        }
        for series, samples in found.items()
    }


def test_baselines_equal_the_gauges_of_the_newest_complete_hour(tmp_path: Path) -> None:
    """At any time the newest served baseline of every workspace is what /metrics has, of cost and of usage."""
    with start_exporter(tmp_path, "openai", "anthropic", "cursor", days=20) as system:
        for _ in range(3):
            page = system.samples()
            for family, gauge in GAUGES.items():
                newest = {}
                for series, samples in read(system, family.name).items():
                    account = dict(series)["account"]
                    end = system.window_range("last_hour", account).end
                    assert max(samples) == end - HOURLY_SAMPLE_LEAD
                    newest[series] = samples[end - HOURLY_SAMPLE_LEAD]
                assert newest == pytest.approx(page[gauge.name], abs=1e-8)
                assert newest
            system.advance(7 * HOUR)


def test_baselines_are_there_from_the_first_minute(tmp_path: Path) -> None:
    """Right after the first poll of 35 days every hour has its baseline, but for the days without a past."""
    with start_exporter(tmp_path, "openai") as system:
        for family in (HOURLY_COST_EXPECTED, HOURLY_REQUESTS_UPPER_BOUND):
            for samples in read(system, family.name, workspace="Web").values():
                assert min(samples) <= TODAY - 31 * DAY + HOUR
                times = sorted(samples)
                assert {later - earlier for earlier, later in itertools.pairwise(times)} == {HOUR}
        expected = read(system, HOURLY_COST_EXPECTED.name, workspace="Web")
        actual = read(system, "ai_hourly_cost_usd", workspace="Web")
        (expected_samples,), actual_samples = expected.values(), sum_series(actual)
        hours = [time for time in expected_samples if time < TODAY - 2 * DAY]
        assert sum(expected_samples[hour] for hour in hours) == pytest.approx(
            sum(actual_samples[hour] for hour in hours), rel=0.2
        )


def sum_series(found: Mapping[frozenset[tuple[str, str]], Series]) -> dict[datetime, float]:
    """Sum series by time."""
    totals: dict[datetime, float] = {}
    for samples in found.values():
        for time, value in samples.items():
            totals[time] = totals.get(time, 0) + value
    return totals


def test_a_past_spike_exceeds_the_bound_of_its_time(tmp_path: Path) -> None:
    """An hour of sixty times the usual usage is above its served upper bound, and no other hour of the week is."""
    clock = Clock()
    spike = TODAY - 4 * DAY + 10 * HOUR
    world = World([make_account("openai", "openai")], clock, start_time=TODAY - 30 * DAY)
    world.revise("openai", spike, 60, "proj_web")
    with start_system(tmp_path, world, clock, history="25d") as system, system.run_exporter():
        system.poll_until_idle()
        actual = sum_series(read(system, "ai_hourly_cost_usd", workspace="Web"))
        (bound,) = read(system, HOURLY_COST_UPPER_BOUND.name, workspace="Web").values()
        exceeded = {time for time in bound if time > TODAY - 7 * DAY and actual[time] > bound[time]}
        assert exceeded == {spike + HOUR - HOURLY_SAMPLE_LEAD}


def past_snapshots(system: System, now: datetime) -> list[AccountSnapshot]:
    """Return the snapshots of a past time."""
    return [
        SnapshotBuilder().build(polled.view(), LedgerSource(system.ledger, polled.ledger_account), BUDGETS, now)
        for polled in system.app.polled_accounts.values()
    ]


def evaluate(system: System, now: datetime) -> dict[str, EvaluatedBudget]:
    """Evaluate the budgets by snapshots of a past time, as a scrape at that time would have shown them."""
    snapshots = past_snapshots(system, now)
    return {evaluated.budget.name: evaluated for evaluated in evaluate_budgets(BUDGETS, snapshots, now)}


def test_budgets_equal_snapshots_of_the_past(tmp_path: Path) -> None:
    """Spent, limit, forecast and burn rates of a past time are those that /metrics would have had then."""
    with start_exporter(tmp_path, "openai", "anthropic") as system:
        served = {family: read(system, family.name) for family in BUDGET_HISTORY_FAMILIES}
        times = [TODAY - days * DAY + hours * HOUR - HOURLY_SAMPLE_LEAD for days, hours in ((16, 24), (9, 6), (1, 18))]
        for time in (*times, TODAY + 6 * HOUR - HOURLY_SAMPLE_LEAD, TODAY + 12 * HOUR - HOURLY_SAMPLE_LEAD):
            for name, evaluated in evaluate(system, time).items():
                assert samples_of(served, name, time) == pytest.approx(expected_samples(evaluated), abs=1e-8)


def test_months_equal_snapshots_of_the_past(tmp_path: Path) -> None:
    """Cost and forecast of each account's month are those of a snapshot of that time."""
    with start_exporter(tmp_path, "openai", "anthropic") as system:
        cost, forecast = (read(system, f"ai_cost_month_{name}history_usd") for name in ("", "forecast_"))
        for days in (16, 9, 1):
            time = TODAY - days * DAY + 18 * HOUR - HOURLY_SAMPLE_LEAD
            for snapshot in past_snapshots(system, time):
                key = frozenset({("provider", snapshot.account.provider), ("account", snapshot.account.name)})
                assert snapshot.month_forecast is not None
                assert forecast[key][time] == pytest.approx(snapshot.month_forecast / NANO, abs=1e-8)
                month = snapshot.hourly.account.total.total(TimeRange(time.replace(day=1, hour=0), time + HOUR))
                assert cost[key][time] == pytest.approx(month / NANO, abs=1e-8)


def samples_of(
    served: Mapping[Family, Mapping[frozenset[tuple[str, str]], Series]], budget: str, time: datetime
) -> list[float]:
    """Return limit, spent, forecast and the burn rates of a budget at a time."""
    return [
        samples[time]
        for found in served.values()
        for series, samples in sorted(found.items(), key=lambda item: sorted(item[0]))
        if ("budget", budget) in series
    ]


def expected_samples(evaluated: EvaluatedBudget) -> list[float]:
    """Return the same values of an evaluated budget."""
    status = evaluated.status
    assert status.forecast is not None
    rates = [status.burn_rates[window] for window in ("1d", "1h", "3d", "6h")]
    return [status.limit / NANO, status.spent / NANO, status.forecast / NANO, *rates]


def test_budgets_have_labels_and_times_of_their_period(tmp_path: Path) -> None:
    """A budget has the labels of its gauges; a budget per day has a sample per hour, others one every six hours."""
    with start_exporter(tmp_path, "openai", days=20) as system:
        spent = {
            dict(series)["budget"]: (series, samples)
            for series, samples in read(system, "ai_budget_history_spent_usd").items()
        }
        assert spent["all"][0] == {("budget", "all"), ("owner", "finance"), ("period", "month")}
        assert spent["openai"][0] == {("budget", "openai"), ("period", "week")}
        for name, hours in (("all", 6), ("openai", 6), ("web", 1)):
            times = sorted(spent[name][1])
            steps = {later - earlier for earlier, later in itertools.pairwise(times)}
            assert steps == {timedelta(hours=hours)}
            assert times[-1] <= NOON < times[-1] + hours * HOUR
        # November is known from its beginning, and of the weeks those that began in the twenty days.
        assert min(spent["all"][1]) == TODAY.replace(day=1) + 6 * HOUR - HOURLY_SAMPLE_LEAD
        assert min(spent["openai"][1]) == TODAY.replace(day=2) + 6 * HOUR - HOURLY_SAMPLE_LEAD


def test_of_earlier_periods_only_known_ones_are_served(tmp_path: Path) -> None:
    """A month of which only the end is known would seem cheap; the running one is served as it is on /metrics."""
    with start_exporter(tmp_path, "openai", days=10, past_days=60) as system:
        (month,) = read(system, "ai_budget_history_spent_usd", budget="all").values()
        assert min(month) == TODAY - 10 * DAY + 6 * HOUR - HOURLY_SAMPLE_LEAD
        (week,) = read(system, "ai_budget_history_spent_usd", budget="openai").values()
        assert min(week) == TODAY.replace(day=9) + 6 * HOUR - HOURLY_SAMPLE_LEAD


def test_a_corrected_day_corrects_the_past_of_its_budgets(tmp_path: Path) -> None:
    """When a bill is restated, the samples after that day change, and those before it do not."""
    with start_exporter(tmp_path, "openai", days=20) as system:
        (before,) = read(system, "ai_budget_history_spent_usd", budget="all").values()
        restated = TODAY - 3 * DAY
        system.world.restate("openai", restated, 2)
        system.advance(DAY)
        (after,) = read(system, "ai_budget_history_spent_usd", budget="all").values()
        changed = {time for time in before if after[time] != pytest.approx(before[time], abs=0.01)}
        assert min(changed) == restated + 6 * HOUR - HOURLY_SAMPLE_LEAD
        assert changed >= {time for time in before if restated < time < TODAY}


def test_usage_per_day_has_no_baselines(tmp_path: Path) -> None:
    """Hours of usage that is reported per day say nothing: no baseline is served."""
    with open_ledger(tmp_path) as history:
        history.until = DAY1 + 20 * DAY
        for number in range(20):
            history.put_usage(DAY1 + number * DAY, Row("requests", 900, "w", "m"))
            history.put_cost(DAY1 + number * DAY, {hour: [cost_row(NANO)] for hour in range(24)})
        for has_hourly_usage in (True, False):
            history.has_hourly_usage = has_hourly_usage
            for family in (HOURLY_COST_EXPECTED, HOURLY_REQUESTS_UPPER_BOUND):
                found = history.read((EQUAL, "__name__", family.name))
                assert bool(found) is has_hourly_usage


def test_days_of_which_only_sums_are_kept_are_unknown(tmp_path: Path) -> None:
    """Baselines and budgets begin where the ledger still has hours; such a day is not taken for an empty one."""
    with open_ledger(tmp_path) as history:
        history.until = DAY1 + 40 * DAY
        history.budgets = BUDGETS
        for number in range(40):
            history.put_usage(DAY1 + number * DAY, Row("requests", 900, "W", "m"))
            history.put_cost(DAY1 + number * DAY, {hour: [cost_row(NANO, workspace="W")] for hour in range(24)})
        history.ledger.retention.apply(history.until, 30 * DAY, 400 * DAY)
        (expected,) = history.read((EQUAL, "__name__", HOURLY_COST_EXPECTED.name)).values()
        assert min(expected) == to_milliseconds(DAY1 + 13 * DAY + HOUR - HOURLY_SAMPLE_LEAD)
        assert set(expected.values()) == {1.0}
        spent = history.read((EQUAL, "__name__", "ai_budget_history_spent_usd"), (EQUAL, "budget", "web"))
        (per_day,) = spent.values()
        assert min(per_day) == to_milliseconds(DAY1 + 10 * DAY + HOUR - HOURLY_SAMPLE_LEAD)
        assert max(per_day.values()) == 24


def test_the_cache_evicts_the_least_recently_used() -> None:
    """Sizes of replaced and evicted entries are subtracted; another version is not returned."""
    cache: LRUCache[str, int] = LRUCache(10)
    cache.put("a", 1, 100, 4)
    cache.put("b", 1, 200, 4)
    cache.put("a", 2, 300, 5)
    assert (cache.get("a", 1), cache.get("a", 2), cache.size_bytes) == (None, 300, 9)
    assert cache.get("b", 1) == 200
    cache.put("c", 1, 400, 5)
    assert cache.values() == {"b": 200, "c": 400}
    assert cache.size_bytes == 9
