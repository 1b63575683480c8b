"""What an open day will be billed beside its use: storage, sessions and the like, as the newest billed days had it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from exporter.pricing.bill_evidence import BillEvidence, UnattributedCost
from exporter.pricing.learned_rates import PRICE_TOLERANCE
from exporter.pricing.list_prices import Rates
from exporter.pricing.usage import WEIGHTINGS, DailyUsage, PriceKey, apportion

_USAGE_CHANGE_TOLERANCE = 4 * PRICE_TOLERANCE
"""Use that differs by more shows whether money follows it."""

_UnitsByPriceKey = dict[PriceKey, int]
"""Kind -> units."""
_CostsByLabels = dict[tuple[str, str, str, str], UnattributedCost]
"""By all its labels."""


def unattributed_costs(
    evidence: Sequence[BillEvidence], daily_usage: Sequence[DailyUsage], rates: Rates, last_hour: int
) -> Iterator[tuple[UnattributedCost, dict[int, int]]]:
    """Yield money that no use explains, and the part of it that each hour up to the last has (hour -> nano-USD).

    What was the same on two billed days whose use differed, or was billed without any use, is a fee: the newest
    billed day's, evenly per hour. Everything else grows with what its workspace uses, in proportion to the newest
    billed day on which it used anything. A credit is not promised again until it was given twice.
    """
    days = [_EvidenceByWorkspace.from_evidence(lesson) for lesson in evidence]
    for workspace in sorted({one.workspace for lesson in evidence for one in lesson.unattributed_costs}):
        today = [use for use in daily_usage if use.workspace == workspace]
        told = [(day.units.get(workspace, {}), day.costs.get(workspace, {})) for day in days]
        for one, growth in _WorkspaceForecast(told, today, rates).expected_costs():
            yield (
                one,
                (_spread_evenly(one.nano_usd, last_hour) if growth is None else _spread_by_usage(one.nano_usd, growth)),
            )


@dataclass(frozen=True, slots=True)
class _EvidenceByWorkspace:
    """A lesson, by workspace."""

    units: Mapping[str, _UnitsByPriceKey]
    costs: Mapping[str, _CostsByLabels]

    @classmethod
    def from_evidence(cls, evidence: BillEvidence) -> _EvidenceByWorkspace:
        used: defaultdict[str, _UnitsByPriceKey] = defaultdict(dict)
        for one in evidence.priced_usage:
            used[one.workspace][one.model, one.meter, one.tier] = one.units
        items: defaultdict[str, _CostsByLabels] = defaultdict(dict)
        for money in evidence.unattributed_costs:
            items[money.workspace][money[:4]] = money
        return cls(used, items)


class _UsageGrowth(NamedTuple):
    """Today's use beside that of a day of the past, by one measure."""

    hourly_weights: Mapping[int, int]
    """Hour -> weight today."""
    past_total: int
    """Weight of the whole day of the past."""


class _WorkspaceForecast:
    """What one workspace used and was billed beside, on the days of the lessons and today."""

    def __init__(
        self, days: Sequence[tuple[_UnitsByPriceKey, _CostsByLabels]], today: Sequence[DailyUsage], rates: Rates
    ) -> None:
        self._days, self._today, self._rates = days, today, rates

    def expected_costs(self) -> Iterator[tuple[UnattributedCost, _UsageGrowth | None]]:
        """Yield what is expected, and what it grows with; None: a fee."""
        used, base = next((day for day in self._days if day[0]), ({}, {}))
        growth = self._usage_growth(used) if used and self._today else None
        for label in sorted({label for _, items in self._days for label in items}):
            told = [(use, items[label].nano_usd) for use, items in self._days if label in items]
            if _is_one_off_credit(told):
                continue
            if self._is_fee(told):
                if label in self._days[0][1]:
                    yield self._days[0][1][label], None
            elif growth is not None and label in base:
                yield base[label], growth

    def _is_fee(self, history: Sequence[tuple[_UnitsByPriceKey, int]]) -> bool:
        (used, nano), *older = history
        for before, amount in older if used else ():
            weight = self._weights(used, before)
            now, then = (sum(weight[kind] * units for kind, units in one.items()) for one in (used, before))
            if abs(then - now) > _USAGE_CHANGE_TOLERANCE * now:
                return abs(amount - nano) <= PRICE_TOLERANCE * abs(nano)
        return not used

    def _usage_growth(self, past_units: _UnitsByPriceKey) -> _UsageGrowth:
        weight = self._weights(past_units, (use.price_key for use in self._today))
        hours: defaultdict[int, int] = defaultdict(int)
        for use in self._today:
            for hour, _, units in use.hourly_units:
                hours[hour] += weight[use.price_key] * units
        return _UsageGrowth(
            {hour: hours[hour] for hour in sorted(hours)},
            sum(weight[kind] * units for kind, units in past_units.items()),
        )

    def _weights(self, reference: _UnitsByPriceKey, others: Iterable[PriceKey]) -> dict[PriceKey, int]:
        """Weigh units by the first measure that tells anything of the use that is measured by."""
        kinds = sorted({*reference, *others})
        told = (dict(zip(kinds, measure(kinds, self._rates), strict=True)) for measure in WEIGHTINGS)
        return next(weight for weight in told if any(weight[kind] for kind in reference))


def _is_one_off_credit(history: Sequence[tuple[_UnitsByPriceKey, int]]) -> bool:
    """Tell whether an item, newest day first, is a credit that was given once."""
    return history[0][1] < 0 and (len(history) < 2 or history[1][1] >= 0)


def _spread_evenly(nano_usd: int, last_hour: int) -> dict[int, int]:
    return dict(enumerate(apportion(nano_usd, [1] * 24)[: last_hour + 1]))


def _spread_by_usage(nano_usd: int, growth: _UsageGrowth) -> dict[int, int]:
    weights = growth.hourly_weights.values()
    if not any(weights):
        return {}
    due = round(Fraction(nano_usd * sum(weights), growth.past_total))
    return dict(zip(growth.hourly_weights, apportion(due, list(weights)), strict=True))
