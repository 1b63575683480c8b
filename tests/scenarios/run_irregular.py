"""Plays a scenario of irregular bills on the whole exporter and measures the errors of its metrics over time.

An observation is compared with the true cost of the days, which the simulator knows: the bill as it finally is, and of
past hours their final cost in the ledger, when every bill has been issued. Nobody can know in advance of the bill that
it will have a charge that occurs once, nor that it will be restated. So such a charge counts for an observation only
after the whole bill was issued, and a restatement only after it was made.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from exporter.analysis.budgets import BURN_RATE_WINDOWS, current_period
from exporter.config.configuration import Budget
from exporter.model import DAY, HOUR, NANO, TOKEN_METERS, RowLabels
from exporter.simulator.world import World
from exporter.windows import TimeRange, floor, slots
from tests.scenarios.irregular_bills import (
    EXPORTER_START,
    FIRST_DAY,
    FIRST_USAGE,
    HISTORY,
    NO_LIST_PRICE,
    OBSERVED_DAYS,
    IrregularScenario,
    Measurement,
)
from tests.system import Clock, Samples, System, start_system

OBSERVATION_TIMES = tuple(timedelta(hours=hour, minutes=59) for hour in (1, 9, 12, 20, 23))
"""Times of a UTC day. A minute before the next hour: it matters little how the running hour is counted."""
ACCEPTANCE_PERIOD = 12 * HOUR
"""So long after a whole bill was issued, the exporter may still wait for changes to it before it accepts it."""
MAX_POLL_PAUSE = 6 * HOUR
"""A real exporter polls every hour: where observations are further apart, it also polls halfway between them."""
SETTLING_TIME = 5 * DAY
"""Time from the last observation to the final costs: the latest line is issued, and every bill was accepted."""
MAX_HOUR_ERROR_RATIO = 0.05
MAX_HOUR_ERROR = NANO // 20
BUDGET_LIMIT_USD = 1000

_DayHours = Mapping[RowLabels, Sequence[int]]
"""Labels -> nano-USD of the 24 hours of a UTC day."""


class _Range(NamedTuple):
    """A true value, in nano-USD or as a rate, of which anything between two limits is right."""

    low: float
    high: float

    def __add__(self, other: object) -> _Range:
        assert isinstance(other, _Range)
        return _Range(self.low + other.low, self.high + other.high)

    def error(self, value: float) -> float:
        """Return by how much a value is outside of the range, as part of the nearer limit."""
        if value > self.high:
            return (value - self.high) / self.high if self.high else float("inf")
        if value < self.low:
            return (self.low - value) / self.low
        return 0.0


@dataclass(frozen=True, slots=True)
class IrregularObservation:
    """The exporter's metrics and the simulator's bills at a time."""

    time: datetime
    samples: Samples
    hours: Mapping[datetime, _DayHours]
    """Day -> its hours in the ledger, of the observed days."""
    billed: frozenset[datetime]
    """Days that the exporter takes as billed."""
    issued: frozenset[datetime]
    """Days whose whole bill has been issued, now or at an earlier observation."""
    bills: Mapping[datetime, int]
    """Day of this month -> its whole bill as the provider will issue it, in nano-USD."""
    unpriced_tokens: int
    """Reported tokens of the days from the scenario's `unpriced_from` on whose model no bill has had yet."""


@dataclass(frozen=True, slots=True)
class IrregularRun:
    """The observations of a scenario, and the costs when everything is settled."""

    scenario: IrregularScenario
    observations: tuple[IrregularObservation, ...]
    final_hours: Mapping[datetime, _DayHours]
    final_days: Mapping[datetime, tuple[int, bool]] = field(default_factory=dict)
    """Day -> (nano-USD, whether billed), when everything is settled."""
    final_bills: Mapping[datetime, int] = field(default_factory=dict)

    def measure(self) -> Measurement:
        """Return the largest errors over all observations."""
        measured = [_Comparison(self, observation) for observation in self.observations]
        wrong_hours = {hour for comparison in measured for hour in comparison.wrong_hours()}
        premature = {day for observation in self.observations for day in observation.billed - observation.issued}
        return Measurement(
            yesterday=max(comparison.yesterday_error() for comparison in measured),
            today=max(comparison.today_error() for comparison in measured),
            month=max(comparison.month_error() for comparison in measured),
            forecast=max(comparison.forecast_error() for comparison in measured),
            burn_rate=max(comparison.burn_rate_error() for comparison in measured),
            wrong_hours=len(wrong_hours),
            spikes=sum(comparison.has_spike() for comparison in measured),
            premature_days=len(premature),
        )


def run_irregular(scenario: IrregularScenario, folder: Path) -> IrregularRun:
    """Play from the start of the exporter, observe it on OBSERVED_DAYS, and wait until all bills are settled."""
    clock = Clock(EXPORTER_START)
    world = World([scenario.account], clock, start_time=FIRST_USAGE)
    observations: list[IrregularObservation] = []
    issued: set[datetime] = set()
    with start_system(folder, world, clock, history=HISTORY) as system:
        budget = Budget(name="all", period="month", limit_usd=Decimal(BUDGET_LIMIT_USD))
        system.config = system.config.model_copy(update={"budgets": (budget,)})
        with system.run_exporter():
            system.poll_until_idle()
            for time in _observation_times():
                _restate(scenario, world, clock.now, time)
                if time - clock.now > MAX_POLL_PAUSE:
                    system.advance((time - clock.now) / 2)
                system.advance(time - clock.now)
                observations.append(_observe(system, scenario, issued))
            for _ in range(SETTLING_TIME // DAY):
                system.advance(DAY)
            days = _observed_days()
            final_costs = _ledger_days(system)
            return IrregularRun(
                scenario,
                tuple(observations),
                final_hours={day: _ledger_hours(system, day) for day in days},
                final_days={day: final_costs[day] for day in days},
                final_bills={day: _bill_total(world, day) for day in days},
            )


def _observation_times() -> Iterator[datetime]:
    for number in range(OBSERVED_DAYS):
        for time in OBSERVATION_TIMES:
            yield FIRST_DAY + number * DAY + time


def _observed_days() -> list[datetime]:
    """Return the observed days and the day before them."""
    return [FIRST_DAY + number * DAY for number in range(-1, OBSERVED_DAYS)]


def _restate(scenario: IrregularScenario, world: World, since: datetime, until: datetime) -> None:
    for time, (day, factor) in scenario.restatements.items():
        if since < time <= until:
            world.restate(scenario.account.name, day, factor)


def _observe(system: System, scenario: IrregularScenario, issued: set[datetime]) -> IrregularObservation:
    now, world = system.clock.now, system.world
    month = current_period("month", now)
    name = next(iter(world.accounts))
    issued.update(day for day in _observed_days() if world.is_billed(name, day))
    billed = frozenset(
        day for day, (_, is_billed) in _ledger_days(system).items() if is_billed and day in _observed_days()
    )
    return IrregularObservation(
        time=now,
        samples=system.samples(),
        hours={day: _ledger_hours(system, day) for day in _observed_days() if day <= now},
        billed=billed,
        issued=frozenset(issued),
        bills={day: _bill_total(world, day) for day in slots(month.start, month.end, DAY)},
        unpriced_tokens=_unpriced_tokens(world, scenario, billed),
    )


def _unpriced_tokens(world: World, scenario: IrregularScenario, billed: frozenset[datetime]) -> int:
    since = scenario.unpriced_from
    if since is None or any(day >= since for day in billed):
        return 0
    rows = world.reported_rows(scenario.account.name, since, world.clock())
    return sum(row.value for _, row in rows if row.model == NO_LIST_PRICE and row.meter in TOKEN_METERS)


def _ledger_hours(system: System, day: datetime) -> _DayHours:
    return system.ledger.hours.cost(_account_id(system), day)


def _ledger_days(system: System) -> dict[datetime, tuple[int, bool]]:
    time_range = TimeRange(FIRST_USAGE, system.clock.now)
    return {day.start: (day.cost, day.billed) for day in system.ledger.costs.days(_account_id(system), time_range)}


def _account_id(system: System) -> int:
    return system.polled_account(next(iter(system.world.accounts))).view().ledger_account.id


def _bill_total(world: World, day: datetime) -> int:
    return sum(row.value for account in world.accounts for row in world.bill(account, day))


class _Comparison:
    """Compares an observation with the true costs at its time."""

    def __init__(self, run: IrregularRun, observation: IrregularObservation) -> None:
        self._run = run
        self._observation = observation
        self._now = observation.time
        self._today = floor(observation.time, DAY)
        self._occasional = {
            charge.label: charge for charge in run.scenario.account.extra_charges if not charge.is_daily
        }

    def yesterday_error(self) -> float:
        """Return the error of ai_cost_daily_usd of yesterday."""
        return self._true_day(self._today - DAY).error(self._exported_day(self._today - DAY))

    def today_error(self) -> float:
        """Return the error of the cost of today so far."""
        return self._true_today().error(self._exported_sum("ai_cost_today_usd"))

    def month_error(self) -> float:
        """Return the error of the cost of the month so far."""
        true_month = sum((self._true_day(day) for day in self._month_days() if day < self._today), self._true_today())
        return true_month.error(self._exported_sum("ai_cost_month_usd"))

    def forecast_error(self) -> float:
        """Return the error of the forecast: charges that occur once are not repeated."""
        true_month = sum((self._true_day(day) for day in self._month_days()), _Range(0, 0))
        return true_month.error(self._exported_sum("ai_budget_forecast_usd"))

    def burn_rate_error(self) -> float:
        """Return the largest error of the burn rates, of spend without charges that occur once."""
        period = current_period("month", self._now)
        even_hourly_spend = BUDGET_LIMIT_USD * NANO / ((period.end - period.start) / HOUR)
        errors = []
        for labels, value in self._observation.samples["ai_budget_burn_rate"].items():
            width = BURN_RATE_WINDOWS[dict(labels)["window"]]
            if self._complete_until() - width >= FIRST_DAY - DAY:
                hours = slots(self._complete_until() - width, self._complete_until(), HOUR)
                true_rate = sum(self._true_hour(hour) for hour in hours) / (width / HOUR) / even_hourly_spend
                errors.append(_Range(true_rate, true_rate).error(value))
        return max(errors)

    def wrong_hours(self) -> Iterator[datetime]:
        """Yield the complete hours of today and yesterday whose exported cost is wrong."""
        for hour in slots(self._today - DAY, self._complete_until(), HOUR):
            exported = self._exported_hour(hour)
            error = abs(exported - self._true_hour(hour))
            if error > MAX_HOUR_ERROR and error > MAX_HOUR_ERROR_RATIO * self._true_hour(hour):
                yield hour

    def has_spike(self) -> bool:
        """Return whether the newest hours of a workspace, or its running hour, cost more than their upper bounds."""
        exceeds_bound = any(
            self._exceeds(f"ai_cost_{hour}_usd", f"ai_cost_{hour}_upper_bound_usd")
            for hour in ("last_hour", "this_hour")
        )
        excess = self._observation.samples.get("ai_cost_excess_24h_usd", {})
        return exceeds_bound or any(usd > 0 for usd in excess.values())

    def _exceeds(self, cost_name: str, bound_name: str) -> bool:
        costs: dict[str, float] = defaultdict(float)
        for labels, usd in self._observation.samples.get(cost_name, {}).items():
            costs[dict(labels).get("workspace", "")] += usd
        bounds = self._observation.samples.get(bound_name, {})
        return any(costs[dict(labels).get("workspace", "")] > usd for labels, usd in bounds.items())

    def _exported_day(self, day: datetime) -> float:
        dates = self._observation.samples["ai_cost_daily_usd"].items()
        return sum(value * NANO for labels, value in dates if dict(labels)["date"] == f"{day:%Y-%m-%d}")

    def _exported_sum(self, name: str) -> float:
        return sum(value * NANO for value in self._observation.samples[name].values())

    def _complete_until(self) -> datetime:
        times = self._observation.samples["ai_account_complete_until_timestamp_seconds"].items()
        complete = min(value for labels, value in times if ("kind", "usage") in labels)
        return floor(datetime.fromtimestamp(complete, self._now.tzinfo), HOUR)

    def _month_days(self) -> Sequence[datetime]:
        return list(self._observation.bills)

    def _true_day(self, day: datetime) -> _Range:
        """Return the cost of a whole day, as far as it can be known at the time of the observation."""
        bill = self._observation.bills[day]
        charges = self._occasional.values()
        occasional = round(sum(charge.usd_per_day * NANO for charge in charges if charge.occurs_on(day.date())))
        delay = self._run.scenario.account.bill_delay
        is_issued = day + DAY + delay <= self._now
        must_be_included = day + DAY + delay + ACCEPTANCE_PERIOD <= self._now
        if must_be_included:
            return _Range(bill, bill)
        without = bill - occasional
        return _Range(min(without, bill), max(without, bill)) if is_issued else _Range(without, without)

    def _true_today(self) -> _Range:
        """Return the cost of today so far: the running hour may count as a whole or as far as it has passed."""
        running = floor(self._now, HOUR)
        complete = sum(self._true_hour(hour) for hour in slots(self._today, running, HOUR))
        passed = (self._now - running) / HOUR
        return _Range(complete + passed * self._true_hour(running), complete + self._true_hour(running))

    def _true_hour(self, hour: datetime) -> float:
        """Return the final cost of an hour, without occasional charges and restatements that were not made yet."""
        day = floor(hour, DAY)
        final_bill = self._run.final_bills[day]
        restatement = self._observation.bills[day] / final_bill if final_bill else 1.0
        return _sum_hour(self._run.final_hours[day], hour, self._occasional) * restatement

    def _exported_hour(self, hour: datetime) -> int:
        """Return the cost of an hour, without the occasional charges that the day was billed."""
        day = floor(hour, DAY)
        billed_charges = {
            label
            for label, charge in self._occasional.items()
            if charge.occurs_on(day.date()) and day in self._observation.issued
        }
        return _sum_hour(self._observation.hours.get(day, {}), hour, billed_charges)


def _sum_hour(day_hours: _DayHours, hour: datetime, excluded_items: Collection[str]) -> int:
    return sum(values[hour.hour] for labels, values in day_hours.items() if labels.item not in excluded_items)
