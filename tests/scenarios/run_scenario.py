"""Plays a scenario day by day on the whole exporter, and keeps what its page showed beside what was billed."""

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
from tests.system import Clock, Samples, Stage, midnight, stage

LAG = 8 * HOUR
"""A day is taken as billed this long after its end at the earliest, however early its bill is there."""
_EVENING, _TOLD, _BILLED = timedelta(hours=23, minutes=59), DAY + 3.5 * HOUR, DAY + 9.5 * HOUR
"""When the page is looked at: before midnight; when all use of the day is told; when its bill is usually there."""


@dataclass(frozen=True, slots=True)
class Look:
    """What the page showed at a moment, money in nano-USD, beside the simulator's bills as they were then."""

    now: datetime
    daily: dict[datetime, int]
    month: int
    month_billed: int
    unpriced: float
    error: float | None
    """ai_account_estimate_error_ratio."""
    restated: float | None
    """ai_account_restated_usd_total."""
    bills: dict[datetime, int]
    """Day -> the whole bill, of the days that the exporter has to take as billed at this moment."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the page showed for a day of which everything was told and nothing was billed."""

    seen: datetime
    day: datetime
    nano: int
    newest: int | None
    """The newest bill that was out, in nano-USD; None before the first one."""


@dataclass(frozen=True, slots=True)
class Run:
    """A scenario that was played to its end."""

    scenario: Scenario
    looks: tuple[Look, ...]
    bills: dict[datetime, int]
    """Day -> the bill with which it came out, nano-USD; 0 where nothing was billed."""
    listed: dict[datetime, int]
    """Day -> its use at list prices, nano-USD; what has no list price counts nothing."""

    def days(self) -> list[datetime]:
        """Return the days of the scenario."""
        return [self.scenario.day(number) for number in range(self.scenario.days)]

    def estimates(self) -> Iterator[Estimate]:
        """Yield every estimate of a day whose use was told in full, oldest first."""
        for look in self.looks:
            newest = look.bills[max(look.bills)] if look.bills else None
            for day in self.days():
                if day + DAY + 3 * HOUR <= look.now and day not in look.bills:
                    yield Estimate(look.now, day, look.daily.get(day, 0), newest)

    def claimed(self) -> list[Estimate]:
        """Return the estimates that the bound is for: made after the first bill, for days that hold no surprise."""
        surprising = {self.scenario.day(number) for number in self.scenario.surprises}
        return [one for one in self.estimates() if one.newest is not None and one.day not in surprising]


def play(scenario: Scenario, folder: Path) -> Run:
    """Play from the first day's noon to the morning after the last day."""
    clock = Clock(scenario.first + timedelta(hours=12, minutes=7, seconds=30))
    world = World([scenario.account], clock, began=scenario.first)
    days = [scenario.day(number) for number in range(scenario.days)]
    bills = {day: _bill(world, day) for day in days}
    looks = []
    with stage(folder, world, clock, history="4d") as it, it.running():
        it.settle()
        for number, day in enumerate(days):
            looks += [_look(it, day + _EVENING), _look(it, day + _TOLD)]
            if number in scenario.restated:
                other, factor = scenario.restated[number]
                world.restate(scenario.account.name, scenario.day(other), factor)
            looks.append(_look(it, day + _BILLED))
    return Run(scenario, tuple(looks), bills, {day: _listed(world, day) for day in days})


def _look(it: Stage, moment: datetime) -> Look:
    it.later(moment - it.clock.now)
    page, account = it.samples(), next(iter(it.world.accounts.values()))
    days = (it.world.began + number * DAY for number in range((moment - it.world.began) // DAY))
    due = [day for day in days if day + DAY + max(account.bill_after, LAG) <= moment]
    told = {day: _bill(it.world, day) for day in due}
    return Look(
        now=moment,
        daily={datetime.fromisoformat(f"{date}T00:00Z"): nano for date, nano in _by(page, "ai_cost_daily_usd", "date")},
        month=sum(nano for _, nano in _by(page, "ai_cost_month_usd", "model")),
        month_billed=sum(nano for _, nano in _by(page, "ai_cost_month_billed_usd", "account")),
        unpriced=sum(page.get("ai_account_unpriced_tokens", {}).values()),
        error=_only(page, "ai_account_estimate_error_ratio"),
        restated=_only(page, "ai_account_restated_usd_total"),
        bills={day: nano for day, nano in told.items() if nano},
    )


def _by(page: Samples, name: str, label: str) -> Iterator[tuple[str, int]]:
    """Yield (a label's value, nano-USD) for each series: a double holds every nano-dollar of these small worlds."""
    for series, value in page.get(name, {}).items():
        yield dict(series)[label], round(value * NANO)


def _only(page: Samples, name: str) -> float | None:
    values = list(page.get(name, {}).values())
    assert len(values) <= 1
    return values[0] if values else None


def _bill(world: World, day: datetime) -> int:
    return sum(row.value for account in world.accounts for row in world.bill(account, day))


def _listed(world: World, day: datetime) -> int:
    assert midnight(day) == day
    worth = Fraction(0)
    for account in world.accounts.values():
        rates = list_rates(account.provider, day)
        for _, row in world.truth(account.name, day, day + DAY):
            worth += row.value * (rates.rate(row.model, row.meter, row.tier) or 0)
    return round(worth)
