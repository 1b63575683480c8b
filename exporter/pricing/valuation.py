"""Valuation of one day: an open day is estimated at rates, a billed day sums to its bill to the nano-USD."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import compress, islice
from math import lcm
from typing import NamedTuple

from exporter.model import COST, COST_INCLUDED, TOKEN_METERS, UNIT_METERS, Row, RowLabels
from exporter.pricing.bill_evidence import (
    NO_EVIDENCE,
    BillEvidence,
    PricedUsage,
    UnattributedCost,
    UnattributedLabels,
    infer_rounding,
)
from exporter.pricing.free_allowances import BillableShares, billable_shares, learn_allowances
from exporter.pricing.list_prices import PriceKey, Rates
from exporter.pricing.matching import BillMatcher, WeightedUsage
from exporter.pricing.unattributed_costs import (
    ChargeFrequency,
    charge_frequencies,
    expected_costs,
)
from exporter.pricing.usage import LAST_HOUR, DailyUsage, DayUsage, UsageKey, apportion, to_day_usage
from exporter.pricing.volume_tiers import PriceFactors

NO_FACTORS: PriceFactors = {}

__all__ = ["CostLabels", "DayValuation", "apportion", "value_day"]


class CostLabels(NamedTuple):
    """The labels of a cost."""

    workspace: str = ""
    model: str = ""
    tier: str = ""
    api_key: str = ""
    item: str = ""
    """For a cost that is not of tokens: the provider's name for it, else its meter."""


@dataclass(frozen=True, slots=True)
class DayValuation:
    """The cost of one account's day."""

    costs: Mapping[CostLabels, Mapping[int, int]]
    """Labels -> hour 0..23 -> nano-USD; usage that is free, or billed at 0, is present with 0."""
    billed: bool
    unpriced_tokens: Mapping[str, int]
    """Model -> tokens of an open day without a rate; never 0."""
    bill_evidence: BillEvidence = NO_EVIDENCE
    """The evidence of a billed day for the days that are not billed yet; empty for an open day."""
    fixed_costs: Mapping[CostLabels, ChargeFrequency] = field(default_factory=dict)
    """Labels of the costs that do not follow usage -> `recurring` or `one_time`."""

    @property
    def hours(self) -> dict[tuple[int, CostLabels], int]:
        """The costs by hour and labels."""
        return {(hour, labels): cost for labels, by_hour in self.costs.items() for hour, cost in by_hour.items()}

    @property
    def total(self) -> int:
        """nano-USD of the day."""
        return sum(sum(by_hour.values()) for by_hour in self.costs.values())


def value_day(
    usage: DayUsage | Mapping[int, Sequence[Row]],
    bill: Sequence[Row] | None,
    rates: Rates,
    last_hour: int = LAST_HOUR,
    evidence: Sequence[BillEvidence] = (),
    factors: PriceFactors = NO_FACTORS,
) -> DayValuation:
    """Value a day from its usage (also hour 0..23 -> rows) and the rows of its bill; None if the day is open.

    A row of usage whose meter is `cost` holds nano-USD: usage that was reported together with its cost. Where its item
    is COST_INCLUDED, that is a statement about single rows: rows with that item, of any meter, are not priced, and the
    others are. Any other row of meter `cost` covers the whole day: then no usage of the day is priced.

    A row of a bill holds nano-USD, and as meter the usage that it pays for, `cost` where that is unknown. All of the
    bill is allocated to the hours, and nothing else.

    `last_hour` is the newest hour that has begun: costs without usage are spread up to it. `evidence` is that of the
    newest billed days before this one, newest first: it shows which unattributed costs an open day is expected to have,
    and which of those on a bill are fixed. `factors` are those of volume tiers.
    """
    day_usage = to_day_usage(usage)
    shares = _combine(billable_shares(day_usage, learn_allowances(evidence)), factors)
    if bill is None:
        return _estimate(day_usage, rates, last_hour, evidence, shares)
    return _allocate_bill(day_usage, bill, rates, last_hour, evidence, shares)


def _combine(shares: BillableShares, factors: PriceFactors) -> BillableShares:
    if not factors:
        return shares
    return {key: shares.get(key, Fraction(1)) * factors.get(key, Fraction(1)) for key in shares.keys() | factors.keys()}


class _HourlyCosts:
    """nano-USD by labels and hour, summed."""

    def __init__(self) -> None:
        self._costs: dict[CostLabels, dict[int, int]] = {}

    def add(self, labels: CostLabels, hours: Iterable[int], nano_usd: Iterable[int]) -> None:
        """Add the costs of hours; 0 makes the labels known in that hour."""
        by_hour = self._costs.setdefault(labels, {})
        for hour, cost in zip(hours, nano_usd, strict=True):
            by_hour[hour] = by_hour.get(hour, 0) + cost

    def total(self) -> int:
        """Return the sum of all costs."""
        return sum(sum(by_hour.values()) for by_hour in self._costs.values())

    def by_labels(self) -> dict[CostLabels, dict[int, int]]:
        """Return labels -> hour -> nano-USD."""
        return self._costs


# --- an open day ------------------------------------------------------------------------------------------------------


def _estimate(
    usage: DayUsage,
    rates: Rates,
    last_hour: int,
    evidence: Sequence[BillEvidence],
    shares: BillableShares,
) -> DayValuation:
    costs = _HourlyCosts()
    _add_reported_costs(usage, costs)
    unpriced_tokens: dict[str, int] = {}
    fixed_costs: dict[CostLabels, ChargeFrequency] = {}
    if not _all_costs_are_reported(usage):
        unpriced_tokens = _add_priced_usage(usage, rates, evidence, shares, costs)
        fixed_costs = _add_expected_costs(usage, rates, last_hour, evidence, costs)
    return DayValuation(costs.by_labels(), billed=False, unpriced_tokens=unpriced_tokens, fixed_costs=fixed_costs)


def _add_reported_costs(usage: DayUsage, costs: _HourlyCosts) -> None:
    """Add the costs that usage was reported with."""
    for labels, hours, values in usage.billable:
        if labels.meter == COST:
            item = "" if labels.item == COST_INCLUDED else _item(labels)
            cost_labels = CostLabels(labels.workspace, labels.model, labels.tier, labels.api_key, item)
            costs.add(cost_labels, hours, values)


def _all_costs_are_reported(usage: DayUsage) -> bool:
    """Return whether the provider reports costs with its usage: pricing that usage would count it twice."""
    return any(series.labels.meter == COST and series.labels.item != COST_INCLUDED for series in usage.billable)


def _add_priced_usage(
    usage: DayUsage,
    rates: Rates,
    evidence: Sequence[BillEvidence],
    shares: BillableShares,
    costs: _HourlyCosts,
) -> dict[str, int]:
    """Add units x rate of every row that was reported without its cost; return model -> tokens without a rate."""
    unpriced_tokens: defaultdict[str, int] = defaultdict(int)
    item_by_meter = _newest_item_by_meter(evidence)
    for labels, hours, values in usage.billable:
        if labels.meter == COST or labels.item == COST_INCLUDED:
            continue
        is_token = labels.meter in TOKEN_METERS
        rate = rates.rate(labels.model, labels.meter, labels.tier)
        if rate is not None:
            # Usage without a model, such as storage, gets the name that it will have on the bill.
            item = _item(labels) if labels.model else item_by_meter.get(labels.meter) or _item(labels)
            cost_labels = CostLabels(labels.workspace, labels.model, labels.tier, labels.api_key, item)
            if shares and is_token:
                hourly_rates = [rate * shares.get((hour, labels.model), 1) for hour in hours]
                nano_usd = [_rounded_cost(*pair) for pair in zip(hourly_rates, values, strict=True)]
            else:
                nano_usd = [_rounded_cost(rate, value) for value in values]
            costs.add(cost_labels, hours, nano_usd)
        elif is_token and any(values):
            unpriced_tokens[labels.model] += sum(values)
    return dict(unpriced_tokens)


def _newest_item_by_meter(evidence: Sequence[BillEvidence]) -> dict[str, str]:
    items: dict[str, str] = {}
    for day in reversed(evidence):  # newest first: the newest day's items overwrite older ones
        items.update(day.item_by_meter)
    return items


def _add_expected_costs(
    usage: DayUsage,
    rates: Rates,
    last_hour: int,
    evidence: Sequence[BillEvidence],
    costs: _HourlyCosts,
) -> dict[CostLabels, ChargeFrequency]:
    """Add the unattributed costs that the newest billed days lead to expect; return those that do not follow usage."""
    fixed_costs: dict[CostLabels, ChargeFrequency] = {}
    if evidence:
        usage_cost = costs.total()
        for expected in expected_costs(evidence, usage.by_key, rates, last_hour, usage_cost):
            labels = CostLabels(
                expected.labels.workspace, expected.labels.model, expected.labels.tier, item=expected.labels.item
            )
            if expected.frequency != "usage_based":
                fixed_costs[labels] = expected.frequency
            costs.add(labels, expected.nano_usd_by_hour, expected.nano_usd_by_hour.values())
    return fixed_costs


def _rounded_cost(rate: Fraction, units: int) -> int:
    """Return rate x units in whole nano-USD, half to even.

    Equal to round(rate * units), and several times as fast: a product of fractions is reduced first.
    """
    whole, remainder = divmod(rate.numerator * units, rate.denominator)
    is_above_half = 2 * remainder > rate.denominator
    is_half = 2 * remainder == rate.denominator
    return whole + int(is_above_half or (is_half and whole % 2 == 1))


def _item(row: Row | RowLabels) -> str:
    """Return the item under which the cost of a row is exported; tokens need none, their model identifies them."""
    if row.meter in TOKEN_METERS:
        return ""
    return row.item or (row.meter if row.meter in UNIT_METERS else "")


# --- a billed day -----------------------------------------------------------------------------------------------------


def _allocate_bill(
    usage: DayUsage,
    bill: Sequence[Row],
    rates: Rates,
    last_hour: int,
    evidence: Sequence[BillEvidence],
    shares: BillableShares,
) -> DayValuation:
    """Allocate every row of the bill to the hours, and collect the evidence of that."""
    daily_usage = usage.by_key
    matcher = BillMatcher(daily_usage, bill, rates)
    costs = _HourlyCosts()
    collector = _EvidenceCollector(daily_usage)
    unattributed_rows = []
    for row in bill:
        paid_usage = matcher.match(row)
        if paid_usage:
            _allocate_to_usage(row, paid_usage, shares, costs, collector)
        else:
            collector.add_unattributed(row)
            unattributed_rows.append(row)
    bill_evidence = collector.collect(bill) if bill else NO_EVIDENCE
    fixed_costs: dict[CostLabels, ChargeFrequency] = {}
    if unattributed_rows:
        frequencies = charge_frequencies([bill_evidence, *evidence], rates)
        for row in unattributed_rows:
            labels = CostLabels(row.workspace, row.model, row.tier, row.api_key, row.item)
            # A charge that was credited in full has no frequency, and both are spread in the same way.
            frequency = frequencies.get(UnattributedLabels(row.workspace, row.model, row.tier, row.item), "usage_based")
            if frequency != "usage_based":
                fixed_costs[labels] = frequency
            is_even = frequency == "recurring" or (frequency == "one_time" and row.value > 0)
            hourly_weights = {} if is_even else matcher.hourly_weights(row.workspace)
            _spread_unattributed(row.value, labels, hourly_weights, last_hour, costs)
    return DayValuation(
        costs.by_labels(), billed=True, unpriced_tokens={}, bill_evidence=bill_evidence, fixed_costs=fixed_costs
    )


def _allocate_to_usage(
    row: Row,
    paid_usage: Sequence[WeightedUsage],
    shares: BillableShares,
    costs: _HourlyCosts,
    evidence: _EvidenceCollector,
) -> None:
    """Divide a row over the hours and API keys of the usage that it pays for, by units and their weight.

    The cost has the labels of the usage, not those of the bill: model and tier are then the same before and after the
    bill. Only the item is the bill's.
    """
    item = _item(row)
    hourly_shares = iter(apportion(row.value, _hourly_weights(paid_usage, shares)))
    for usage, _ in paid_usage:
        price_key = usage.price_key
        nano_usd = [*islice(hourly_shares, len(usage.hours))]
        for api_key in sorted(set(usage.api_keys)):
            labels = CostLabels(usage.workspace, price_key.model, price_key.tier, api_key, item)
            of_key = [key == api_key for key in usage.api_keys]
            costs.add(labels, compress(usage.hours, of_key), compress(nano_usd, of_key))
        evidence.add_paid(usage.key, sum(nano_usd))
        evidence.add_item(price_key, item)


def _hourly_weights(paid_usage: Sequence[WeightedUsage], shares: BillableShares) -> Sequence[int]:
    """Return the weight of each hour and API key of usage: its units that are not free, times the weight of a unit."""
    if len(paid_usage) == 1 and not shares:
        # A common factor of all weights changes no share: nearly every row pays for usage of a single key.
        return paid_usage[0].usage.hourly_units
    weights = [units * unit_weight for usage, unit_weight in paid_usage for units in usage.hourly_units]
    if not shares:
        return weights
    billable = [
        shares.get((hour, usage.price_key.model), Fraction(1)) if usage.price_key.meter in TOKEN_METERS else Fraction(1)
        for usage, _ in paid_usage
        for hour in usage.hours
    ]
    scale = lcm(*(share.denominator for share in billable))
    scaled = [
        weight * scale * share.numerator // share.denominator for weight, share in zip(weights, billable, strict=True)
    ]
    # A row that pays although all units should be free is divided as if none were.
    return scaled if any(scaled) else weights


def _spread_unattributed(
    nano_usd: int, labels: CostLabels, hourly_weights: Mapping[int, int], last_hour: int, costs: _HourlyCosts
) -> None:
    """Divide a cost that pays for no usage over hours: evenly over those that have begun where there are no weights."""
    weights = hourly_weights or dict.fromkeys(range(last_hour + 1), 1)
    costs.add(labels, weights, apportion(nano_usd, list(weights.values())))


class _EvidenceCollector:
    """Sums what the rows of a bill paid for, in any order."""

    def __init__(self, daily_usage: Sequence[DailyUsage]) -> None:
        self._daily_usage = daily_usage
        # All usage is evidence: usage for which no row pays is free.
        self._paid: dict[UsageKey, int] = {usage.key: 0 for usage in daily_usage}
        self._unattributed: defaultdict[UnattributedLabels, int] = defaultdict(int)
        self._item_by_meter: dict[str, str] = {}

    def add_paid(self, key: UsageKey, nano_usd: int) -> None:
        """Add an amount that was allocated to usage."""
        self._paid[key] += nano_usd

    def add_unattributed(self, row: Row) -> None:
        """Add a row that pays for no usage."""
        self._unattributed[UnattributedLabels(row.workspace, row.model, row.tier, row.item)] += row.value

    def add_item(self, price_key: PriceKey, item: str) -> None:
        """Note the bill's name for usage without a model; of several names the smallest, whatever the order of rows."""
        if item and not price_key.model:
            self._item_by_meter[price_key.meter] = min(item, self._item_by_meter.get(price_key.meter, item))

    def collect(self, bill: Sequence[Row]) -> BillEvidence:
        """Return the evidence."""
        return BillEvidence(
            priced_usage=tuple(
                PricedUsage(usage.workspace, *usage.price_key, usage.units, self._paid[usage.key])
                for usage in self._daily_usage
            ),
            # A charge that was credited in full says nothing about other days.
            unattributed_costs=tuple(
                UnattributedCost(*labels, nano_usd)
                for labels, nano_usd in sorted(self._unattributed.items())
                if nano_usd
            ),
            rounding=infer_rounding(row.value for row in bill),
            item_by_meter=self._item_by_meter,
        )
