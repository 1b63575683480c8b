"""The parts of the benchmarks that do not depend on the machine, asserted by every run of the tests."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from exporter.model import HOUR
from tests.benchmarks.bench_growth import Size, measure_growth
from tests.benchmarks.bench_ledger import LedgerTables, computing_threads
from tests.benchmarks.bench_ledger_backends import compare
from tests.benchmarks.bench_serving import Case, measure, start_serving_process
from tests.benchmarks.bench_thousand_accounts import measure_accounts
from tests.benchmarks.calls import start_call_counter
from tests.benchmarks.polling_cpu import measure_polling
from tests.benchmarks.provider_process import ProviderName


def test_polling_makes_no_more_calls_than_the_limits_require(tmp_path: Path) -> None:
    """A first poll of thirty days and an hour of steady polling make exactly the minimum of calls, report by report."""
    with start_call_counter(tmp_path) as counter:
        for made, minimum in (counter.run_first_poll(), counter.run_steady_polling(HOUR)):
            assert made == minimum


def test_the_ledger_benchmark_compares_equal_results(tmp_path: Path) -> None:
    """Both ways of the ledger's benchmark read the same rows, at a small size; times are not asserted."""
    tables = LedgerTables(tmp_path, series=5)
    with computing_threads(1):
        comparisons = tables.compare(time.perf_counter, runs=1)
    tables.store.close()
    assert [comparison.operation for comparison in comparisons] == [
        "write buckets",
        "write costs",
        "read hours",
        "read totals",
    ]


def test_the_benchmark_of_both_backends_stores_equal_rows(tmp_path: Path) -> None:
    """Each operation runs on SQLite and on PostgreSQL at a small size, with the same rows; times are not asserted."""
    comparisons = compare(tmp_path, series=5, accounts=2, runs=1)
    assert len(comparisons) == 9
    assert all(comparison.ratio > 0 for comparison in comparisons)


def test_the_serving_benchmark_requests_pages_of_equal_size(tmp_path: Path) -> None:
    """The page and the static file are requested in both encodings while polls change the page; no time is asserted."""
    with start_serving_process(tmp_path, series=20, accounts=1) as server:
        for encoding in ("identity", "gzip"):
            result = measure(server, Case(encoding, connections=2, is_kept_alive=True, is_polling=True), rounds=1)
            assert result.size_bytes > 1000
            assert result.ratio > 0


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_the_polling_benchmark_runs(tmp_path: Path, provider: ProviderName) -> None:
    """The polls of the benchmark succeed with two combinations, and read 72 hours in a steady poll of 31 days."""
    costs = measure_polling(tmp_path, provider, 2, first_polls=1, steady_polls=1)
    first, steady = costs["first"].body_bytes, costs["steady"].body_bytes
    assert 5 * steady < first < 20 * steady


def test_the_benchmark_of_a_thousand_accounts_runs(tmp_path: Path) -> None:
    """Accounts of both providers are polled without a failure, and what they take is read from the process."""
    measurement = measure_accounts(tmp_path, accounts=2, steady_seconds=0.5)
    assert measurement.failed_polls == 0
    assert measurement.series > 2 * 60
    assert measurement.first_poll_cpu_seconds > 0
    assert measurement.resident_bytes > 2**20


def test_the_growth_benchmark_runs(tmp_path: Path) -> None:
    """A doubled number of label sets about doubles the page; times are not asserted."""
    _, growths = measure_growth(tmp_path, Size(accounts=1, label_sets=24, days=1), runs=1)
    by_dimension = {growth.doubled: growth.ratios for growth in growths}
    assert by_dimension.keys() == {"accounts", "label_sets", "days"}
    assert 1.5 < by_dimension["label_sets"]["page, KiB"] < 2.1
