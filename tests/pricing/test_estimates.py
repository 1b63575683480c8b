"""Day after day: with the evidence of an account's own bills, the estimate of an open day is its bill."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.model import Row
from exporter.pricing.bill_evidence import BillEvidence
from exporter.pricing.learned_rates import learned_rates
from exporter.pricing.list_prices import Rates, list_rates
from exporter.pricing.valuation import DayValuation, value_day
from tests.pricing.days import CHARGES, DAY_USAGE, NO_RATES, RATES, SOME_RATES, RateTable, Usage, no_deadline

Days = list[tuple[Usage, list[Row]]]


def _collect_evidence(days: Days, list_prices: Rates) -> list[BillEvidence]:
    """Bill days, oldest first; return their evidence, newest first."""
    evidence: list[BillEvidence] = []
    for usage, bill in days:
        evidence.insert(0, value_day(usage, bill, learned_rates(evidence, list_prices)).bill_evidence)
    return evidence


def _estimate(usage: Usage, evidence: Sequence[BillEvidence], list_prices: Rates) -> DayValuation:
    return value_day(usage, None, learned_rates(evidence, list_prices), evidence=evidence)


def _sum(rows: list[Row]) -> int:
    return sum(row.value for row in rows)


# --- situations -------------------------------------------------------------------------------------------------------

CLAUDE, LUNA = "claude-sonnet-4-5-20250929", "gpt-5.6-luna"


def _claude_day(scale: float, price_ratio: Fraction = Fraction(1), extra: int = 0) -> tuple[Usage, list[Row]]:
    """A day at Anthropic, billed at a part of the list price: batch, one-hour writes, long context, free priority."""
    usage: Usage = {}
    bill: dict[tuple[str, str], Fraction] = {}
    rates = list_rates("anthropic", datetime(2026, 11, 20, tzinfo=UTC))
    for hour in range(24):
        for place, (meter, tier) in enumerate(
            [
                ("uncached_input", "standard"),
                ("cache_read", "standard"),
                ("cache_write_1h", "standard"),
                ("cache_write_1h", "batch"),
                ("output", "batch"),
                ("output", "standard_long_context"),
                ("output", "priority"),
            ]
        ):
            units = int(scale * (1000 + 37 * hour * (place + 3)))
            usage.setdefault(hour, []).append(Row(meter, units, "w", CLAUDE, tier))
            rate = rates.rate(CLAUDE, meter, tier)
            assert rate is not None
            if tier != "priority":
                bill[meter, tier] = bill.get((meter, tier), Fraction(0)) + rate * price_ratio * units
    rows = [Row(meter, round(nano), "w", CLAUDE, tier) for (meter, tier), nano in bill.items()]
    return usage, rows + ([Row("cost", extra, "w", item="Session Runtime Usage")] if extra else [])


DISCOUNT_RATIO, RAISED_RATIO = Fraction(83, 100), Fraction(996, 1000)


@pytest.mark.parametrize(
    ("days", "today"),
    [
        pytest.param([_claude_day(1, DISCOUNT_RATIO)], _claude_day(3, DISCOUNT_RATIO), id="undisclosed discount"),
        pytest.param(
            [_claude_day(9, DISCOUNT_RATIO)] * 6 + [_claude_day(0.1, RAISED_RATIO)],
            _claude_day(5, RAISED_RATIO),
            id="price change",
        ),
        pytest.param(
            [_claude_day(1, DISCOUNT_RATIO), ({}, [])],
            _claude_day(2, DISCOUNT_RATIO),
            id="a day without use in between",
        ),
        pytest.param(
            [_claude_day(1, DISCOUNT_RATIO, 10**6)], _claude_day(2, DISCOUNT_RATIO, 2 * 10**6), id="session money"
        ),
        pytest.param(
            [_claude_day(1, DISCOUNT_RATIO, 10**7), _claude_day(2, DISCOUNT_RATIO, 10**7)],
            _claude_day(5, DISCOUNT_RATIO, 10**7),
            id="a fixed fee",
        ),
    ],
)
def test_an_estimate_is_within_a_thousandth_of_the_bill(days: Days, today: tuple[Usage, list[Row]]) -> None:
    """After the first billed day, whatever the account's prices, tiers and extras are, the estimate is the bill."""
    usage, bill = today
    listed = list_rates("anthropic", datetime(2026, 11, 20, tzinfo=UTC))
    value = _estimate(usage, _collect_evidence(days, listed), listed)
    assert sum(value.hours.values()) == pytest.approx(_sum(bill), rel=0.001)
    assert value.unpriced_tokens == {}


def test_a_model_without_a_list_price_is_unpriced_until_its_first_bill() -> None:
    """No guess before, the bill's own rate after."""
    usage: Usage = {1: [Row("output", 1000, "w", "nova"), Row("output", 10, "w", "m")]}
    bill = [Row("output", 777_000, "w", "nova"), Row("output", 100_000, "w", "m")]
    before = _estimate(usage, [], SOME_RATES)
    assert before.unpriced_tokens == {"nova": 1000}
    after = _estimate(
        {5: [Row("output", 3000, "w", "nova")]}, _collect_evidence([(usage, bill)], SOME_RATES), SOME_RATES
    )
    assert (sum(after.hours.values()), after.unpriced_tokens) == (3 * 777_000, {})


def test_tiers_that_share_a_line_are_estimated_apart() -> None:
    """A plain line over standard and batch, 10 % off: when the mix turns around, the estimate follows it."""
    usage: Usage = {1: [Row("output", 900, "p", "m", "standard"), Row("output", 200, "p", "m", "batch")]}
    evidence = _collect_evidence([(usage, [Row("output", 13_500_000, "p", "m")])], SOME_RATES)
    turned: Usage = {1: [Row("output", 100, "p", "m", "standard"), Row("output", 2000, "p", "m", "batch")]}
    assert sum(_estimate(turned, evidence, SOME_RATES).hours.values()) == 1100 * 13_500


def test_a_restated_bill_updates_the_rates() -> None:
    """The evidence of a day is that of its newest bill; an earlier bill of the day has no effect."""
    usage: Usage = {1: [Row("output", 100, "w", "m")]}
    first, restated = (
        _collect_evidence([(usage, [Row("output", nano, "w", "m")])], SOME_RATES) for nano in (10**6, 8 * 10**5)
    )
    assert sum(_estimate(usage, first, SOME_RATES).hours.values()) == 10**6
    assert sum(_estimate(usage, restated, SOME_RATES).hours.values()) == 8 * 10**5


def test_a_new_months_list_price_does_not_change_learned_rates() -> None:
    """Lessons of one month price the next one: the bill is nearer to the truth than any list."""
    spring, autumn = (list_rates("openai", datetime(2026, month, 1, tzinfo=UTC)) for month in (3, 11))
    usage: Usage = {1: [Row("output", 10**6, "p", LUNA)]}
    evidence = _collect_evidence([(usage, [Row("output", 5 * 10**9, "p", LUNA)])], spring)
    assert sum(_estimate(usage, evidence, autumn).hours.values()) == 5 * 10**9


# --- properties -------------------------------------------------------------------------------------------------------


@no_deadline
@given(DAY_USAGE, CHARGES.filter(bool), RATES)
def test_the_same_day_again_is_estimated_at_its_bill(usage: Usage, bill: list[Row], rates: RateTable) -> None:
    """Equal usage at equal prices is estimated at the bill, to a nano-dollar per row, explained by usage or not."""
    value = _estimate(usage, _collect_evidence([(usage, bill)], rates), rates)
    assert abs(sum(value.hours.values()) - _sum(bill)) <= sum(len(rows) for rows in usage.values())
    assert value.unpriced_tokens == {}


@no_deadline
@given(DAY_USAGE, CHARGES.filter(bool), RATES)
def test_the_same_week_is_estimated_at_its_bill(usage: Usage, bill: list[Row], rates: RateTable) -> None:
    """Days taken together as billed at one price may differ by half a per cent, and so may the estimate: no more."""
    value = _estimate(usage, _collect_evidence([(usage, bill)] * 7, rates), rates)
    off = abs(sum(value.hours.values()) - _sum(bill))
    assert off <= sum(len(rows) for rows in usage.values()) + _sum(bill) / 200


@no_deadline
@given(DAY_USAGE, CHARGES.filter(bool), RATES, st.integers(2, 50))
def test_estimates_scale_with_the_bills(usage: Usage, bill: list[Row], rates: RateTable, factor: int) -> None:
    """Bills that are a factor dearer make estimates that are a factor dearer."""
    dearer = [Row(row.meter, row.value * factor, row.workspace, row.model, row.tier, item=row.item) for row in bill]
    once, more = (_estimate(usage, _collect_evidence([(usage, rows)], rates), rates) for rows in (bill, dearer))
    row_count = sum(len(rows) for rows in usage.values())
    assert abs(sum(more.hours.values()) - factor * sum(once.hours.values())) <= (factor + 1) * row_count


@no_deadline
@given(DAY_USAGE, DAY_USAGE, CHARGES, RATES, st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_no_estimate(
    usage: Usage, today: Usage, bill: list[Row], rates: RateTable, chance: random.Random
) -> None:
    """Usage and bill in another order give the same estimate."""

    def mixed(day: Usage) -> Usage:
        return {hour: chance.sample(rows, len(rows)) for hour, rows in chance.sample([*day.items()], len(day))}

    evidence, others = (
        _collect_evidence([(usage, bill)], rates),
        _collect_evidence([(mixed(usage), chance.sample(bill, len(bill)))], rates),
    )
    assert _estimate(mixed(today), others, rates) == _estimate(today, evidence, rates)


MAX_VALUATION_RATIO = 16
"""CPU time beside that of writing and reading the same rows as JSON. Without other load it is about 4."""


def test_a_large_day_is_valued_fast() -> None:
    """Thirty thousand rows of usage are estimated and billed in a small multiple of the time to copy them as JSON."""
    meters, tiers = ("uncached_input", "cache_read", "output"), ("standard", "batch")
    usage: Usage = {
        hour: [
            Row(meter, 1000 + hour, f"w{number % 20}", f"m{number % 7}", tiers[number % 2], f"k{number}")
            for number in range(440)
            for meter in meters
        ]
        for hour in range(24)
    }
    labels = {(row.meter, row.workspace, row.model) for rows in usage.values() for row in rows}
    bill = [Row(meter, 10**9 + len(model), workspace, model) for meter, workspace, model in sorted(labels)]
    bill += [Row("cost", 10**9, f"w{number}", item="fee") for number in range(20)]
    evidence = [value_day(usage, bill, NO_RATES).bill_evidence] * 7
    plain_rows = [
        [hour, row.meter, row.value, row.workspace, row.model, row.tier, row.api_key, row.item]
        for hour, rows in usage.items()
        for row in rows
    ]

    copying = _cpu_seconds(lambda: json.loads(json.dumps(plain_rows)))
    assert _cpu_seconds(lambda: value_day(usage, bill, NO_RATES)) < MAX_VALUATION_RATIO * copying
    assert _cpu_seconds(lambda: _estimate(usage, evidence, NO_RATES)) < MAX_VALUATION_RATIO * copying


def _cpu_seconds(action: Callable[[], object]) -> float:
    """Return the CPU time of an action, the least of three: it does not depend on other processes."""
    durations = []
    for _ in range(3):
        began = time.process_time()
        action()
        durations.append(time.process_time() - began)
    return min(durations)
