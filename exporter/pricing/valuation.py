"""What each hour of a day cost: an open day is estimated at rates, a billed day sums to its bill to the nano-dollar."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from exporter.model import COST, COST_INCLUDED, TOKEN_METERS, UNIT_METERS, Row
from exporter.pricing.bill_evidence import NO_EVIDENCE, BillEvidence, PricedUsage, UnattributedCost, infer_rounding
from exporter.pricing.list_prices import Rates
from exporter.pricing.matching import BillMatcher
from exporter.pricing.unattributed_costs import unattributed_costs
from exporter.pricing.usage import DailyUsage, PriceKey, aggregate_usage, apportion, billable_rows

__all__ = ["CostLabels", "DayValuation", "apportion", "value_day"]


@dataclass(frozen=True, slots=True)
class CostLabels:
    """Whom money is told of; `item` names what no token explains, in the provider's words where it has some."""

    workspace: str = ""
    model: str = ""
    tier: str = ""
    api_key: str = ""
    item: str = ""


@dataclass(frozen=True, slots=True)
class DayValuation:
    """What one account's day cost."""

    hours: Mapping[tuple[int, CostLabels], int]
    """(hour 0..23, key) -> nano-USD; what was used or billed for nothing is there with 0."""
    billed: bool
    unpriced_tokens: Mapping[str, int]
    """Model -> tokens of an open day that have no price; never 0."""
    bill_evidence: BillEvidence = NO_EVIDENCE
    """What a billed day teaches about the days that are not billed yet; an open day teaches nothing."""


def value_day(
    usage: Mapping[int, Sequence[Row]],
    bill: Sequence[Row] | None,
    rates: Rates,
    last_hour: int = 23,
    evidence: Sequence[BillEvidence] = (),
) -> DayValuation:
    """Price a day from its usage (hour 0..23 -> rows) and its bill; None: the day is open.

    A row of usage whose meter is `cost` is money (nano-USD). A day that has such rows tells its money itself: its
    tokens are not priced a second time. Rows whose item is PAID say so for themselves only: the rest of the day is
    priced. A bill's rows hold nano-USD, and as meter what they pay for, `cost` where
    unknown; all of it reaches the hours, and nothing else does. `last_hour` is the newest hour that has begun: it
    ends the hours that share what no usage explains. An open day is given that money as the lessons of `standing`,
    newest first, had it. The order of rows does not matter.
    """
    return _estimate(usage, rates, last_hour, evidence) if bill is None else _allocate(usage, bill, rates, last_hour)


class _HourlyCosts:
    """Money by hour and key, as it adds up."""

    def __init__(self) -> None:
        self.nano_usd: defaultdict[tuple[int, CostLabels], int] = defaultdict(int)
        self._labels_cache: dict[tuple[str, str, str, str, str], CostLabels] = {}

    def add(self, hour: int, labels: tuple[str, str, str, str, str], nano_usd: int) -> None:
        """Add to an hour; labels are those of a key in its order."""
        key = self._labels_cache.get(labels)
        if key is None:
            key = self._labels_cache[labels] = CostLabels(*labels)
        self.nano_usd[hour, key] += nano_usd


def _estimate(
    usage: Mapping[int, Sequence[Row]], rates: Rates, last_hour: int, evidence: Sequence[BillEvidence]
) -> DayValuation:
    hours = _HourlyCosts()
    to_price = list(_add_reported_costs(usage, hours))
    if any(row.meter == COST and row.item != COST_INCLUDED for _, row in billable_rows(usage)):
        return DayValuation(dict(hours.nano_usd), billed=False, unpriced_tokens={})
    unpriced: defaultdict[str, int] = defaultdict(int)
    called = {meter: item for lesson in reversed(evidence) for meter, item in lesson.item_by_meter.items()}
    known: dict[PriceKey, Fraction | None] = {}
    for hour, row in to_price:
        kind = (row.model, row.meter, row.tier)
        if kind not in known:
            known[kind] = rates.rate(*kind)
        rate = known[kind]
        if rate is not None:
            item = _item(row) if row.model else called.get(row.meter) or _item(row)
            hours.add(hour, (row.workspace, row.model, row.tier, row.api_key, item), _rounded_cost(rate, row.value))
        elif row.meter in TOKEN_METERS and row.value:
            unpriced[row.model] += row.value
    for one, parts in unattributed_costs(evidence, aggregate_usage(usage) if evidence else (), rates, last_hour):
        for hour, nano in parts.items():
            hours.add(hour, (one.workspace, one.model, one.tier, "", one.item), nano)
    return DayValuation(dict(hours.nano_usd), billed=False, unpriced_tokens=dict(unpriced))


def _add_reported_costs(usage: Mapping[int, Sequence[Row]], hours: _HourlyCosts) -> Iterator[tuple[int, Row]]:
    """Add the money that use tells itself, and yield what came without."""
    for hour, row in billable_rows(usage):
        if row.meter == COST:
            item = "" if row.item == COST_INCLUDED else _item(row)
            hours.add(hour, (row.workspace, row.model, row.tier, row.api_key, item), row.value)
        elif row.item != COST_INCLUDED:
            yield hour, row


def _rounded_cost(rate: Fraction, units: int) -> int:
    """Return rate x units in whole nano-USD, half to even: as `round` does, and several times as fast."""
    whole, rest = divmod(rate.numerator * units, rate.denominator)
    twice = 2 * rest
    return whole + (twice > rate.denominator or (twice == rate.denominator and whole % 2 == 1))


def _item(row: Row) -> str:
    if row.meter in TOKEN_METERS:
        return ""
    return row.item or (row.meter if row.meter in UNIT_METERS else "")


def _allocate(usage: Mapping[int, Sequence[Row]], bill: Sequence[Row], rates: Rates, last_hour: int) -> DayValuation:
    """Spread each row over what it pays for, else by its workspace's pace, else evenly; and learn from that."""
    uses = aggregate_usage(usage)
    matching = BillMatcher(uses, bill, rates)
    hours = _HourlyCosts()
    taught = {use[:2]: 0 for use in uses}
    standing: defaultdict[tuple[str, str, str, str], int] = defaultdict(int)
    called: dict[str, str] = {}
    for row in bill:
        if paid := matching.match(row):
            item = _item(row)
            places = [(use, hour, key, units * weight) for use, weight in paid for hour, key, units in use.hourly_units]
            for (use, hour, key, _), nano in zip(
                places, apportion(row.value, [place[3] for place in places]), strict=True
            ):
                model, _, tier = use.price_key
                hours.add(hour, (use.workspace, model, tier, key, item), nano)
                taught[use[:2]] += nano
                if item and not model:
                    called[use.price_key[1]] = min(item, called.get(use.price_key[1], item))
            continue
        pace = matching.hourly_weights(row.workspace) or dict.fromkeys(range(last_hour + 1), 1)
        for hour, nano in zip(pace, apportion(row.value, list(pace.values())), strict=True):
            hours.add(hour, (row.workspace, row.model, row.tier, row.api_key, row.item), nano)
        standing[row.workspace, row.model, row.tier, row.item] += row.value
    lesson = replace(_collect_evidence(uses, taught, standing, bill), item_by_meter=called) if bill else NO_EVIDENCE
    return DayValuation(dict(hours.nano_usd), billed=True, unpriced_tokens={}, bill_evidence=lesson)


def _collect_evidence(
    daily_usage: Sequence[DailyUsage],
    paid_amounts: Mapping[tuple[str, PriceKey], int],
    unattributed_amounts: Mapping[tuple[str, str, str, str], int],
    bill: Sequence[Row],
) -> BillEvidence:
    return BillEvidence(
        tuple(PricedUsage(use.workspace, *use.price_key, use.units, paid_amounts[use[:2]]) for use in daily_usage),
        tuple(UnattributedCost(*labels, nano) for labels, nano in sorted(unattributed_amounts.items()) if nano),
        infer_rounding(row.value for row in bill),
    )
