"""A volume tier is learned from the bills around the day on which it is reached, and holds in every later month."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from exporter.ledger import DayCost, Ledger
from exporter.model import DAY, HOUR, Bucket, Report, Row
from exporter.pricing.list_prices import list_rates
from exporter.pricing.valuer import LedgerAccount, Valuer
from exporter.windows import TimeRange

FIRST = datetime(2026, 11, 1, tzinfo=UTC)
DAYS = 50
USAGE_REPORT = Report("use", "usage", HOUR, HOUR, HOUR, DAY, timedelta(0), 80 * DAY)
BILL_REPORT = Report("bill", "bill", DAY, HOUR, DAY, DAY, 8 * HOUR, 80 * DAY)
RATES = {"uncached_input": 2000, "output": 10_000}
"""nano-USD per token of a model without a list price."""
THRESHOLD = 20_000_000
FACTOR = 0.8

PriceFactor = Callable[[datetime, int, int], float]
"""Day, its tokens, and the tokens of the month before it -> the mean factor of the day's price."""


def _tokens(day: datetime) -> dict[str, int]:
    size = 20 + (day.day * 7) % 11
    return {"uncached_input": 40_000 * size, "output": 5000 * size + 1000 * day.weekday()}


def _play(folder: Path, price_factor: PriceFactor) -> dict[datetime, DayCost]:
    """Bill every day the next morning; return the days with the estimates that were made before their bills."""
    ledger = Ledger(folder)
    number = ledger.buckets.register_account("acme", "openai")
    account = LedgerAccount(number, "openai", (USAGE_REPORT, BILL_REPORT))
    valuer = Valuer(ledger, list_rates)
    month_tokens = 0
    for offset in range(DAYS):
        day = FIRST + offset * DAY
        month_tokens = 0 if day.day == 1 else month_tokens
        tokens = _tokens(day)
        rows = {hour: tuple(Row(meter, count // 24, "w", "m") for meter, count in tokens.items()) for hour in range(24)}
        buckets = [Bucket("use", day + hour * HOUR, day + (hour + 1) * HOUR, hourly) for hour, hourly in rows.items()]
        ledger.buckets.put(number, "use", TimeRange(day, day + DAY), buckets)
        valuer.value_days(account, day + DAY)
        used = {meter: count // 24 * 24 for meter, count in tokens.items()}
        factor = price_factor(day, sum(used.values()), month_tokens)
        month_tokens += sum(used.values())
        bill = tuple(Row(meter, round(count * RATES[meter] * factor), "w", "m") for meter, count in used.items())
        ledger.buckets.put(number, "bill", TimeRange(day, day + DAY), [Bucket("bill", day, day + DAY, bill)])
        valuer.value_days(account, day + DAY + 9 * HOUR)
        valuer.value_days(account, day + DAY + 16 * HOUR)  # a bill that is lower than expected has to be stable
    days = {day.start: day for day in ledger.costs.days(number, TimeRange(FIRST, FIRST + DAYS * DAY))}
    ledger.close()
    return days


def _tiered(_: datetime, tokens: int, month_tokens: int) -> float:
    below = min(tokens, max(0, THRESHOLD - month_tokens))
    return (below + FACTOR * (tokens - below)) / tokens


def _wrong_days(days: dict[datetime, DayCost]) -> set[datetime]:
    return {start for start, day in days.items() if abs(day.estimate_error or 0) > 0.001}


def test_a_volume_tier_is_known_in_the_next_month(tmp_path: Path) -> None:
    """Of two months with a tier, only the day that reaches it and the day after it in the first are not exact."""
    days = _play(tmp_path, _tiered)
    month_tokens, crossing = 0, FIRST
    while month_tokens < THRESHOLD:
        month_tokens += sum(_tokens(crossing).values())
        crossing += DAY
    crossing -= DAY
    assert crossing.month == FIRST.month
    assert _wrong_days(days) - {FIRST} == {crossing, crossing + DAY}
    assert all(day.billed for day in days.values())


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_a_price_change_at_midnight_is_no_tier(tmp_path: Path, factor: float) -> None:
    """A price that changes from a day on has no day between, and stays in the next month."""
    change = FIRST + 14 * DAY
    days = _play(tmp_path, lambda day, *_: factor if day >= change else 1.0)
    assert _wrong_days(days) - {FIRST} == {change}


def test_a_price_change_during_a_day_is_forgotten_with_the_first_bill_that_contradicts_it(tmp_path: Path) -> None:
    """It looks like a tier until the next month: that month's first day is wrong, and no other."""
    change = FIRST + 14 * DAY

    def changed_at_noon(day: datetime, *_: int) -> float:
        return 1.0 if day < change else 0.9 if day == change else 0.8

    days = _play(tmp_path, changed_at_noon)
    first_of_month = (FIRST + 31 * DAY).replace(day=1)
    assert _wrong_days(days) - {FIRST} == {change, change + DAY, first_of_month}
