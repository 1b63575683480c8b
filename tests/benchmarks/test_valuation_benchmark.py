"""A small run of the valuation's benchmark in every run of the tests; times are not asserted."""

from __future__ import annotations

from pathlib import Path

from exporter.windows import TimeRange
from tests.benchmarks.bench_valuation import BilledAccount, measure


def test_the_benchmark_values_every_day(tmp_path: Path) -> None:
    """Every day but the current one is billed, and its cost is its bill."""
    account = BilledAccount(tmp_path / "billed", days=3)
    account.value()
    days = account.ledger.costs.days(
        account.ledger_account.id, TimeRange(account.time_range.start, account.time_range.end)
    )
    assert [day.billed for day in days] == [True, True, True, False]
    assert all(day.cost > 0 for day in days)
    account.ledger.close()


def test_the_benchmark_runs(tmp_path: Path) -> None:
    """A run at a small size measures every operation."""
    times = measure(tmp_path, days=2, runs=1)
    assert min(times.plain, times.first, times.changed, times.nothing) > 0
