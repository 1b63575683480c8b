"""Plays a scenario day by day on the whole exporter, and keeps its exported costs beside the bills."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction
from pathlib import Path

from exporter.model import DAY, HOUR, NANO
from exporter.pricing.list_prices import list_rates
from exporter.simulator.world import World
from tests.scenarios.scenarios import Scenario
from tests.system import Clock, Samples, System, midnight, start_system

MIN_BILL_DELAY = 8 * HOUR
"""A day is taken as billed this long after its end at the earliest, however early its bill is there."""
_BEFORE_MIDNIGHT, _USAGE_COMPLETE, _BILL_AVAILABLE = timedelta(hours=23, minutes=59), DAY + 3.5 * HOUR, DAY + 9.5 * HOUR
"""Times of observation: before midnight; when all usage of the day is reported; when its bill is usually available."""


@dataclass(frozen=True, slots=True)
class Observation:
    """Values of /metrics at a time, in nano-USD, beside the simulator's bills at that time."""

    time: datetime
    daily: dict[datetime, int]
    month: int
    month_billed: int
    unpriced: float
    estimate_error: float | None
    """ai_account_estimate_error_ratio."""
    restated_usd: float | None
    """ai_account_restated_usd_total."""
    range_ratios: tuple[float, float] | None
    """Lowest and highest expected bill of today, relative to ai_cost_today_usd; None before a bill was compared."""
    bills: dict[datetime, int]
    """Day -> the whole bill, of the days that have to be billed at this time."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """The exported cost of a day whose usage is complete and whose bill is not available yet."""

    observed_at: datetime
    day: datetime
    nano: int
    newest_bill: int | None
    """The newest bill that was out, in nano-USD; None before the first one."""


@dataclass(frozen=True, slots=True)
class ScenarioRun:
    """The results of a scenario."""

    scenario: Scenario
    observations: tuple[Observation, ...]
    bills: dict[datetime, int]
    """Day -> the bill with which it came out, nano-USD; 0 where nothing was billed."""
    list_costs: dict[datetime, int]
    """Day -> its use at list prices, nano-USD; what has no list price counts nothing."""

    def days(self) -> list[datetime]:
        """Return the days of the scenario."""
        return [self.scenario.day(number) for number in range(self.scenario.days)]

    def estimates(self) -> Iterator[Estimate]:
        """Yield every estimate of a day with complete usage, oldest first."""
        for look in self.observations:
            newest = look.bills[max(look.bills)] if look.bills else None
            for day in self.days():
                if day + DAY + 3 * HOUR <= look.time and day not in look.bills:
                    yield Estimate(look.time, day, look.daily.get(day, 0), newest)

    def counted_estimates(self) -> list[Estimate]:
        """Return the estimates that the bound is for: made after the first bill, for days that hold no surprise."""
        surprising = {self.scenario.day(number) for number in self.scenario.excluded_days}
        return [
            estimate
            for estimate in self.estimates()
            if estimate.newest_bill is not None and estimate.day not in surprising
        ]


def run_scenario(scenario: Scenario, folder: Path) -> ScenarioRun:
    """Play from the first day's noon to the morning after the last day."""
    clock = Clock(scenario.first_day + timedelta(hours=12, minutes=7, seconds=30))
    world = World([scenario.account], clock, start_time=scenario.first_day)
    days = [scenario.day(number) for number in range(scenario.days)]
    bills = {day: _bill_total(world, day) for day in days}
    looks = []
    with start_system(folder, world, clock, history="4d") as system, system.run_exporter():
        system.poll_until_idle()
        for number, day in enumerate(days):
            looks += [_observe(system, day + _BEFORE_MIDNIGHT), _observe(system, day + _USAGE_COMPLETE)]
            if number in scenario.restatements:
                other, factor = scenario.restatements[number]
                world.restate(scenario.account.name, scenario.day(other), factor)
            looks.append(_observe(system, day + _BILL_AVAILABLE))
    return ScenarioRun(scenario, tuple(looks), bills, {day: _list_cost(world, day) for day in days})


def _observe(system: System, time: datetime) -> Observation:
    system.advance(time - system.clock.now)
    page, account = system.samples(), next(iter(system.world.accounts.values()))
    days = (system.world.start_time + number * DAY for number in range((time - system.world.start_time) // DAY))
    due = [day for day in days if day + DAY + max(account.bill_delay, MIN_BILL_DELAY) <= time]
    bills = {day: _bill_total(system.world, day) for day in due}
    return Observation(
        time=time,
        daily={
            datetime.fromisoformat(f"{date}T00:00Z"): nano
            for date, nano in _costs_by_label(page, "ai_cost_daily_usd", "date")
        },
        month=sum(nano for _, nano in _costs_by_label(page, "ai_cost_month_usd", "model")),
        month_billed=sum(nano for _, nano in _costs_by_label(page, "ai_cost_month_billed_usd", "account")),
        unpriced=sum(page.get("ai_account_unpriced_tokens", {}).values()),
        estimate_error=_single_value(page, "ai_account_estimate_error_ratio"),
        restated_usd=_single_value(page, "ai_account_restated_usd_total"),
        range_ratios=today_range_ratios(page),
        bills={day: nano for day, nano in bills.items() if nano},
    )


def _costs_by_label(page: Samples, name: str, label: str) -> Iterator[tuple[str, int]]:
    """Yield (a label's value, nano-USD) for each series: a double holds every nano-dollar of these small worlds."""
    for series, value in page.get(name, {}).items():
        yield dict(series)[label], round(value * NANO)


def _single_value(page: Samples, name: str) -> float | None:
    values = list(page.get(name, {}).values())
    assert len(values) <= 1
    return values[0] if values else None


def today_range_ratios(page: Samples) -> tuple[float, float] | None:
    """Return the range in which the bill of today's usage is expected, relative to today's cost."""
    today = sum(page.get("ai_cost_today_usd", {}).values())
    low = _single_value(page, "ai_cost_today_estimate_low_usd")
    high = _single_value(page, "ai_cost_today_estimate_high_usd")
    return None if low is None or high is None or not today else (low / today, high / today)


def _bill_total(world: World, day: datetime) -> int:
    return sum(row.value for account in world.accounts for row in world.bill(account, day))


def _list_cost(world: World, day: datetime) -> int:
    assert midnight(day) == day
    list_cost = Fraction(0)
    for account in world.accounts.values():
        rates = list_rates(account.provider, day)
        for _, row in world.ground_truth(account.name, day, day + DAY):
            list_cost += row.value * (rates.rate(row.model, row.meter, row.tier) or 0)
    return round(list_cost)
