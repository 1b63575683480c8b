"""A small run of the restart's benchmark in every run of the tests; times are not asserted."""

from __future__ import annotations

from pathlib import Path

from tests.benchmarks.bench_restart import build_ledger, forget_days, restart


def test_the_benchmark_restarts_with_the_same_page(tmp_path: Path) -> None:
    """With and without stored days, a new process exports every account, and the same page."""
    folder = tmp_path / "with"
    folder.mkdir()
    build_ledger(folder, accounts=2)
    without = forget_days(folder)
    assert restart(without).samples == restart(folder).samples
    page = (folder / "page.txt").read_bytes()
    assert b'account="team-0001"' in page
    assert page == (without / "page.txt").read_bytes()
