"""The valuation by labels equals a plain one that prices every row, and divides every amount, by itself."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import chain

from hypothesis import assume, given

from exporter.model import COST, REQUESTS, TOKEN_METERS, UNIT_METERS, Row
from exporter.pricing.list_prices import PriceKey, Rates
from exporter.pricing.matching import BillMatcher, WeightedUsage
from exporter.pricing.usage import DayUsage
from exporter.pricing.valuation import CostLabels, value_day
from tests.pricing.days import BILL, DAY_USAGE, RATES, Usage, no_deadline

HourlyCosts = Mapping[tuple[int, CostLabels], int]


@no_deadline
@given(usage=DAY_USAGE, rates=RATES)
def test_an_open_day_is_priced_as_row_by_row(usage: Usage, rates: Rates) -> None:
    """An open day costs units x rate of each row, rounded by itself, to the nano-USD."""
    assert value_day(usage, None, rates).hours == _price_rows(usage, rates)


@no_deadline
@given(usage=DAY_USAGE, bill=BILL, rates=RATES)
def test_a_bill_is_allocated_as_unit_by_unit(usage: Usage, bill: list[Row], rates: Rates) -> None:
    """Each hour's share of a row of a bill is the difference of two exact cumulative sums, rounded down."""
    matcher = BillMatcher(DayUsage.from_rows(usage).by_key, bill, rates)
    # How costs without usage are spread has tests of its own.
    paid = [row for row in bill if matcher.match(row)]
    assume(len(paid) == len(bill))
    assert value_day(usage, bill, rates).hours == _allocate_rows(usage, bill, rates)


def _price_rows(usage: Usage, rates: Rates) -> HourlyCosts:
    costs: defaultdict[tuple[int, CostLabels], int] = defaultdict(int)
    for hour, rows in usage.items():
        for row in rows:
            rate = None if row.meter == REQUESTS else rates.rate(row.model, row.meter, row.tier)
            if rate is not None:
                labels = CostLabels(row.workspace, row.model, row.tier, row.api_key, _item(row))
                costs[hour, labels] += round(rate * row.value)
    return costs


def _allocate_rows(usage: Usage, bill: Sequence[Row], rates: Rates) -> HourlyCosts:
    costs: defaultdict[tuple[int, CostLabels], int] = defaultdict(int)
    matcher = BillMatcher(DayUsage.from_rows(usage).by_key, bill, rates)
    for row in bill:
        targets = [*chain.from_iterable(_targets(usage, weighted) for weighted in matcher.match(row))]
        total = sum(weight for _, _, weight in targets)
        sign = -1 if row.value < 0 else 1
        cumulative = Fraction(0)
        for hour, labels, weight in targets:
            before = abs(row.value) * cumulative // total
            cumulative += weight
            costs[hour, labels._replace(item=_item(row))] += sign * (abs(row.value) * cumulative // total - before)
    return costs


def _targets(usage: Usage, weighted: WeightedUsage) -> list[tuple[int, CostLabels, int]]:
    """Return hour, labels and weight of all units of a key, by hour and API key."""
    units: defaultdict[tuple[int, str], int] = defaultdict(int)
    for hour, rows in usage.items():
        for row in rows:
            key = (row.workspace, PriceKey(row.model, row.meter, row.tier))
            if key == weighted.usage.key and row.meter not in (COST, REQUESTS) and row.value > 0:
                units[hour, row.api_key] += row.value
    workspace, (model, _, tier) = weighted.usage.key
    return [
        (hour, CostLabels(workspace, model, tier, api_key), count * weighted.unit_weight)
        for (hour, api_key), count in sorted(units.items())
    ]


def _item(row: Row) -> str:
    if row.meter in TOKEN_METERS:
        return ""
    return row.item or (row.meter if row.meter in UNIT_METERS else "")
