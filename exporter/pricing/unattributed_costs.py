"""Unattributed costs of an open day: storage, sessions and the like, expected from the newest billed days.

Each cost, identified by its labels on the bill, is one of two kinds:

- A *fee* is the same every day: it was billed without any usage, or at the same amount on two days whose usage
  differed. It is spread evenly over the 24 hours, so an open day has the part of the hours that have begun.
- Any other cost *grows with usage*: it is scaled by today's usage of the workspace beside that of the newest billed day
  with usage, and spread over the hours of today's usage.

Both days are weighed at the same rates, so a price change alone changes no expected cost.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

from exporter.pricing.bill_evidence import BillEvidence, UnattributedCost, UnattributedLabels
from exporter.pricing.learned_rates import PRICE_TOLERANCE
from exporter.pricing.list_prices import PriceKey, Rates
from exporter.pricing.usage import WEIGHTINGS, DailyUsage, apportion

_USAGE_CHANGE_TOLERANCE = 4 * PRICE_TOLERANCE
"""Usage that differs by more than this ratio shows whether a cost follows it. Well above the price tolerance: a cost
that follows such a change cannot be mistaken for a constant one."""

_UnitsByPriceKey = Mapping[PriceKey, int]


class ExpectedCost(NamedTuple):
    """An unattributed cost that an open day is expected to be billed, as far as its hours have begun."""

    billed: UnattributedCost
    """The cost on the billed day from which it is expected; its labels are those of the expected cost."""
    nano_usd_by_hour: dict[int, int]


def unattributed_costs(
    evidence: Sequence[BillEvidence], daily_usage: Sequence[DailyUsage], rates: Rates, last_hour: int
) -> Iterator[ExpectedCost]:
    """Yield the unattributed costs of an open day: of each workspace first the fees, then those that grow.

    `evidence` is that of the newest billed days, newest first; `daily_usage` the open day's, up to `last_hour`
    (0..23), the newest hour that has begun. A credit is expected only after it was given on two days in a row.
    """
    days_by_workspace = [_split_by_workspace(day) for day in evidence]
    workspaces = {cost.workspace for day in evidence for cost in day.unattributed_costs}
    for workspace in sorted(workspaces):
        forecast = _WorkspaceForecast(
            days=[days.get(workspace, _NO_WORKSPACE_DAY) for days in days_by_workspace],
            today=[usage for usage in daily_usage if usage.workspace == workspace],
            rates=rates,
        )
        for fee in forecast.fees():
            yield ExpectedCost(fee, _spread_evenly(fee.nano_usd, last_hour))
        growth = forecast.usage_growth()
        if growth is not None:
            for cost in forecast.costs_that_grow():
                yield ExpectedCost(cost, _spread_by_usage(cost.nano_usd, growth))


@dataclass(frozen=True, slots=True)
class _WorkspaceDay:
    """The evidence of one billed day on one workspace."""

    units: dict[PriceKey, int] = field(default_factory=dict)
    costs: dict[UnattributedLabels, UnattributedCost] = field(default_factory=dict)


_NO_WORKSPACE_DAY = _WorkspaceDay()


def _split_by_workspace(evidence: BillEvidence) -> dict[str, _WorkspaceDay]:
    days: defaultdict[str, _WorkspaceDay] = defaultdict(_WorkspaceDay)
    for priced in evidence.priced_usage:
        days[priced.workspace].units[PriceKey(priced.model, priced.meter, priced.tier)] = priced.units
    for cost in evidence.unattributed_costs:
        days[cost.workspace].costs[cost.labels] = cost
    return dict(days)


class _UsageGrowth(NamedTuple):
    """Today's usage beside that of a billed day, in the same weights."""

    weight_by_hour: Mapping[int, int]
    """Today's, sorted by hour."""
    billed_day_weight: int
    """The whole billed day's; above 0."""


class _BilledCost(NamedTuple):
    """The amount of one cost on a billed day, and the usage of its workspace then."""

    units: _UnitsByPriceKey
    nano_usd: int


class _WorkspaceForecast:
    """Expects the unattributed costs of one workspace today from its billed days, newest first."""

    def __init__(self, days: Sequence[_WorkspaceDay], today: Sequence[DailyUsage], rates: Rates) -> None:
        self._days = days
        self._today = today
        self._rates = rates
        # A weekend without usage is no measure of Monday: costs grow from the newest day that has any.
        self._base_day = next((day for day in days if day.units), _NO_WORKSPACE_DAY)
        self._fee_labels: list[UnattributedLabels] = []
        self._growing_labels: list[UnattributedLabels] = []
        for labels in sorted({labels for day in days for labels in day.costs}):
            history = [_BilledCost(day.units, day.costs[labels].nano_usd) for day in days if labels in day.costs]
            if _is_single_credit(history):
                continue
            (self._fee_labels if self._is_fee(history) else self._growing_labels).append(labels)

    def fees(self) -> Iterator[UnattributedCost]:
        """Yield the fees of the newest billed day; a fee that is no longer billed has ended."""
        newest = self._days[0].costs
        return (newest[labels] for labels in self._fee_labels if labels in newest)

    def costs_that_grow(self) -> Iterator[UnattributedCost]:
        """Yield the costs of the base day that are no fees."""
        base = self._base_day.costs
        return (base[labels] for labels in self._growing_labels if labels in base)

    def usage_growth(self) -> _UsageGrowth | None:
        """Return today's usage beside the base day's; None where either of them has none."""
        if not self._base_day.units or not self._today:
            return None
        weights = self._weights(self._base_day.units, (usage.price_key for usage in self._today))
        weight_by_hour: defaultdict[int, int] = defaultdict(int)
        for usage in self._today:
            for hourly in usage.hourly_units:
                weight_by_hour[hourly.hour] += weights[usage.price_key] * hourly.units
        return _UsageGrowth(dict(sorted(weight_by_hour.items())), _total_weight(weights, self._base_day.units))

    def _is_fee(self, history: Sequence[_BilledCost]) -> bool:
        """Compare the newest amount with the newest older one whose usage differed; without such a day it is no fee."""
        newest, *older_days = history
        if not newest.units:
            return True
        for older in older_days:
            weights = self._weights(newest.units, older.units)
            newest_weight = _total_weight(weights, newest.units)
            older_weight = _total_weight(weights, older.units)
            if abs(older_weight - newest_weight) > _USAGE_CHANGE_TOLERANCE * newest_weight:
                return abs(older.nano_usd - newest.nano_usd) <= PRICE_TOLERANCE * abs(newest.nano_usd)
        return False

    def _weights(self, reference: _UnitsByPriceKey, others: Iterable[PriceKey]) -> dict[PriceKey, int]:
        """Weigh units by the first weighting that is not 0 for all of the reference's.

        The reference is the divisor of a ratio. So it decides: where it has only usage without a price, both sides are
        compared by tokens, even if the others have prices.
        """
        price_keys = sorted({*reference, *others})
        weights: dict[PriceKey, int] = {}
        for weighting in WEIGHTINGS:
            weights = dict(zip(price_keys, weighting(price_keys, self._rates), strict=True))
            if any(weights[price_key] for price_key in reference):
                break
        return weights


def _total_weight(weights: Mapping[PriceKey, int], units: _UnitsByPriceKey) -> int:
    return sum(weights[price_key] * count for price_key, count in units.items())


def _is_single_credit(history: Sequence[_BilledCost]) -> bool:
    """Return whether a cost, newest day first, is a credit that was given only once."""
    newest, *older_days = history
    return newest.nano_usd < 0 and (not older_days or older_days[0].nano_usd >= 0)


def _spread_evenly(nano_usd: int, last_hour: int) -> dict[int, int]:
    whole_day = apportion(nano_usd, [1] * 24)
    return dict(enumerate(whole_day[: last_hour + 1]))


def _spread_by_usage(nano_usd: int, growth: _UsageGrowth) -> dict[int, int]:
    weights = list(growth.weight_by_hour.values())
    if not any(weights):
        return {}
    today = round(Fraction(nano_usd * sum(weights), growth.billed_day_weight))
    return dict(zip(growth.weight_by_hour, apportion(today, weights), strict=True))
