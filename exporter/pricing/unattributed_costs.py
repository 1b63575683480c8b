"""Unattributed costs: rows of a bill that pay for no usage, such as storage, sessions, fees and one-time charges.

Each cost, identified by its labels on the bill, has a charge frequency in the sense of FOCUS:

- *one-time*: fewer than half of the recent billed days have it. It is in the cost of its own day and expected of no
  other, whatever its sign: neither a setup fee nor a goodwill credit is repeated.
- *recurring*: most of them have it, and its amount is steadier than its ratio to the usage of its workspace, or it was
  billed without any usage. It is a fixed fee.
- *usage-based*: any other.

One-time charges and recurring costs are even over the 24 hours of their day; usage-based costs, and one-time credits,
which would make idle hours negative, follow the hours of the workspace's usage. The same rule holds for an open day, in
which a cost is expected, and for a billed one, to which it is allocated: a fee lies in the same hours before and after
its bill.

Usage of different days is weighed at the same rates, so a price change alone changes no expected cost.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from functools import cached_property
from itertools import pairwise
from statistics import median
from typing import Literal, NamedTuple

from exporter.pricing.bill_evidence import BillEvidence, UnattributedLabels, WorkspaceEvidence
from exporter.pricing.learned_rates import PRICE_TOLERANCE
from exporter.pricing.list_prices import PriceKey, Rates
from exporter.pricing.usage import LAST_HOUR, WEIGHTINGS, DailyUsage, apportion

ChargeFrequency = Literal["one_time", "recurring", "usage_based"]

_MIN_BILLED_CREDITS = 2
"""A single bill does not show whether its credit will be repeated; a charge is more likely than not."""
_CONFIRMING_DAYS = 3
"""The median of so many newest days is expected: an amount that differs on one day changes no later day."""

_MIN_RAISED_BILLS = 2
_MINIMUM_TOLERANCE = Fraction(1, 1000)
"""Bills that differ by no more than this ratio have the same total."""

_UnitsByPriceKey = Mapping[PriceKey, int]


class ExpectedCost(NamedTuple):
    """An unattributed cost that an open day is expected to be billed, as far as its hours have begun."""

    labels: UnattributedLabels
    frequency: ChargeFrequency
    nano_usd_by_hour: dict[int, int]


def expected_costs(
    evidence: Sequence[BillEvidence],
    daily_usage: Sequence[DailyUsage],
    rates: Rates,
    last_hour: int,
    usage_cost: int = 0,
) -> Iterator[ExpectedCost]:
    """Yield the unattributed costs of an open day, by workspace and labels, at last what a minimum charge adds.

    `evidence` is that of the newest billed days, newest first; `daily_usage` the open day's, up to `last_hour`
    (0..23), the newest hour that has begun, and `usage_cost` its nano-USD. Without any there is no minimum charge.
    """
    minimum = find_minimum_charge(evidence)
    usage_by_workspace: defaultdict[str, list[DailyUsage]] = defaultdict(list)
    for usage in daily_usage:
        usage_by_workspace[usage.workspace].append(usage)
    total = usage_cost
    for workspace, history in _workspace_histories(evidence, rates):
        for expected in history.expect(usage_by_workspace[workspace], last_hour):
            if minimum is None or expected.labels != minimum.labels:
                total += sum(expected.nano_usd_by_hour.values())
                yield expected
    if minimum is not None and usage_cost:
        # While the day is open, its final cost and thus the difference are not known: then it is as usual.
        difference = max(0, minimum.nano_usd - total) if last_hour == LAST_HOUR else minimum.usual_difference
        if difference:
            yield ExpectedCost(minimum.labels, "recurring", spread_evenly(difference, last_hour))


def charge_frequencies(evidence: Sequence[BillEvidence], rates: Rates) -> dict[UnattributedLabels, ChargeFrequency]:
    """Return the charge frequency of every unattributed cost of the newest billed days, newest first."""
    frequencies: dict[UnattributedLabels, ChargeFrequency] = {}
    for _, history in _workspace_histories(evidence, rates):
        frequencies.update(history.frequencies)
    minimum = find_minimum_charge(evidence)
    if minimum is not None:
        frequencies[minimum.labels] = "recurring"
    return frequencies


class MinimumCharge(NamedTuple):
    """An amount that the bill of a day with any cost has at least, and the row that makes up for the difference."""

    labels: UnattributedLabels
    nano_usd: int
    """The least amount of a whole bill."""
    usual_difference: int
    """The median nano-USD of the row on the newest days; 0 counts for days without it."""


def find_minimum_charge(evidence: Sequence[BillEvidence]) -> MinimumCharge | None:
    """Return the minimum charge that the newest billed days show, newest first; None where they show none.

    It is a row without usage that brings the bills of several days, which would differ, to the same total, while bills
    without that row are higher.
    """
    totals = [
        sum(priced.nano_usd for priced in day.priced_usage) + sum(cost.nano_usd for cost in day.unattributed_costs)
        for day in evidence
    ]
    for labels in sorted({cost.labels for day in evidence for cost in day.unattributed_costs if cost.nano_usd > 0}):
        differences = [
            sum(cost.nano_usd for cost in day.unattributed_costs if cost.labels == labels) for day in evidence
        ]
        raised = [total for total, difference in zip(totals, differences, strict=True) if difference]
        others = [total for total, difference in zip(totals, differences, strict=True) if not difference]
        if len(raised) < _MIN_RAISED_BILLS:
            continue
        minimum, tolerance = max(raised), _MINIMUM_TOLERANCE * max(raised)
        present = [difference for difference in differences if difference]
        is_equal = max(raised) - min(raised) <= tolerance
        if is_equal and max(present) - min(present) > 10 * tolerance and all(total >= minimum for total in others):
            return MinimumCharge(labels, minimum, round(median(differences[:_CONFIRMING_DAYS])))
    return None


def spread_evenly(nano_usd: int, last_hour: int) -> dict[int, int]:
    """Return the shares of hour 0 to `last_hour` in a cost that is even over the 24 hours of a day."""
    whole_day = apportion(nano_usd, [1] * 24)
    return dict(enumerate(whole_day[: last_hour + 1]))


_NO_WORKSPACE_DAY = WorkspaceEvidence()


def _workspace_histories(evidence: Sequence[BillEvidence], rates: Rates) -> Iterator[tuple[str, _WorkspaceHistory]]:
    """Yield every workspace with unattributed costs, sorted, and its billed days."""
    for workspace in sorted({cost.workspace for day in evidence for cost in day.unattributed_costs}):
        days = [day.by_workspace.get(workspace, _NO_WORKSPACE_DAY) for day in evidence]
        yield workspace, _WorkspaceHistory(days, rates)


class _BilledCost(NamedTuple):
    """The amount of one cost on a billed day, and its workspace's usage then."""

    nano_usd: int
    has_usage: bool
    weight: int
    """Of all usage; 0 also where none of it can be compared with the base day's."""


class _WorkspaceHistory:
    """The billed days of one workspace, newest first."""

    def __init__(self, days: Sequence[WorkspaceEvidence], rates: Rates) -> None:
        self._days = days
        self._rates = rates
        # A weekend without usage is no measure of Monday: usage-based costs are compared with the newest day with any.
        self._base_day = next((day for day in days if day.units), _NO_WORKSPACE_DAY)

    @cached_property
    def frequencies(self) -> dict[UnattributedLabels, ChargeFrequency]:
        """The charge frequency of every cost, by its labels, sorted."""
        weights = self._weigh(())
        return {
            labels: self._frequency(labels, weights)
            for labels in sorted({labels for day in self._days for labels in day.costs})
        }

    def expect(self, today: Sequence[DailyUsage], last_hour: int) -> Iterator[ExpectedCost]:
        """Yield the costs of an open day with this usage of the workspace."""
        newest, base = self._days[0], self._base_day
        weights = self._weigh([usage.price_key for usage in today])
        weight_by_hour = _hourly_weights(today, weights)
        for labels, frequency in self.frequencies.items():
            # A cost that is no longer billed has ended.
            if frequency == "recurring" and labels in newest.costs:
                amount = median(cost.nano_usd for cost in self._confirming(labels, weights))
                yield ExpectedCost(labels, frequency, spread_evenly(round(amount), last_hour))
            elif frequency == "usage_based" and labels in base.costs and any(weight_by_hour.values()):
                ratios = [Fraction(cost.nano_usd, cost.weight) for cost in self._confirming(labels, weights)]
                amount = round(median(ratios) * sum(weight_by_hour.values()))
                shares = apportion(amount, list(weight_by_hour.values()))
                yield ExpectedCost(labels, frequency, dict(zip(weight_by_hour, shares, strict=True)))

    def _frequency(self, labels: UnattributedLabels, weights: Mapping[PriceKey, int]) -> ChargeFrequency:
        history = self._history(labels, weights)
        newest = history[0]
        same_sign = [cost for cost in history if (cost.nano_usd < 0) == (newest.nano_usd < 0)]
        if 2 * len(same_sign) <= self._count_comparable_days(labels):
            return "one_time"
        if newest.nano_usd < 0 and len(same_sign) < _MIN_BILLED_CREDITS:
            return "one_time"
        if not newest.has_usage or _has_steady_amount(history):
            return "recurring"
        return "usage_based"

    def _count_comparable_days(self, labels: UnattributedLabels) -> int:
        """Return the number of days that show whether a cost is repeated.

        Days on which a workspace is not used, such as weekends, show nothing of a cost that comes with its usage. They
        do show it of a workspace that is never used.
        """
        if not self._base_day.units:
            return len(self._days)
        return sum(1 for day in self._days if day.units or labels in day.costs)

    def _history(self, labels: UnattributedLabels, weights: Mapping[PriceKey, int]) -> list[_BilledCost]:
        return [
            _BilledCost(day.costs[labels].nano_usd, bool(day.units), _total_weight(weights, day.units))
            for day in self._days
            if labels in day.costs
        ]

    def _confirming(self, labels: UnattributedLabels, weights: Mapping[PriceKey, int]) -> list[_BilledCost]:
        """Return the newest days from which a cost is expected: the newest alone, until there are enough to compare."""
        history = self._history(labels, weights)
        if self.frequencies[labels] == "usage_based":
            history = [cost for cost in history if cost.weight]
        return history[:_CONFIRMING_DAYS] if len(history) >= _CONFIRMING_DAYS else history[:1]

    def _weigh(self, today: Sequence[PriceKey]) -> dict[PriceKey, int]:
        """Weigh units by the first weighting that is not 0 for all of the base day's.

        The base day is the divisor of a ratio. So it decides: where it has only usage without a price, all days are
        compared by tokens, even if the others have prices.
        """
        price_keys = sorted({*today, *(price_key for day in self._days for price_key in day.units)})
        weights: dict[PriceKey, int] = {}
        for weighting in WEIGHTINGS:
            weights = dict(zip(price_keys, weighting(price_keys, self._rates), strict=True))
            if any(weights[price_key] for price_key in self._base_day.units):
                break
        return weights


def _has_steady_amount(history: Sequence[_BilledCost]) -> bool:
    """Return whether a cost, newest day first, varies clearly less than its ratio to usage does."""
    amount_changes = ratio_changes = Fraction(0)
    pairs = 0
    for newer, older in pairwise(history):
        if newer.has_usage != older.has_usage:
            ratio_changes += 1  # a cost without usage has no ratio to it
        elif newer.weight and older.weight:
            ratio_changes += _relative_change(newer.nano_usd * older.weight, older.nano_usd * newer.weight)
        else:
            continue
        amount_changes += _relative_change(newer.nano_usd, older.nano_usd)
        pairs += 1
    # Where usage hardly changed, either description fits: then the cost counts as usage-based.
    return amount_changes + PRICE_TOLERANCE * pairs < ratio_changes


def _relative_change(first: int, second: int) -> Fraction:
    largest = max(abs(first), abs(second))
    return Fraction(abs(first - second), largest) if largest else Fraction(0)


def _total_weight(weights: Mapping[PriceKey, int], units: _UnitsByPriceKey) -> int:
    return sum(weights[price_key] * count for price_key, count in units.items())


def _hourly_weights(daily_usage: Sequence[DailyUsage], weights: Mapping[PriceKey, int]) -> dict[int, int]:
    weight_by_hour: defaultdict[int, int] = defaultdict(int)
    for usage in daily_usage:
        weight = weights[usage.price_key]
        for hour, units in zip(usage.hours, usage.hourly_units, strict=True):
            weight_by_hour[hour] += weight * units
    return dict(sorted(weight_by_hour.items()))
