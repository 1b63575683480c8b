"""The part of the benchmarks that is a count and not a time, held by every run of the tests."""

from __future__ import annotations

from pathlib import Path

from exporter.model import HOUR
from tests.benchmarks.calls import start_call_counter


def test_polling_makes_no_more_calls_than_the_limits_require(tmp_path: Path) -> None:
    """A first poll of thirty days and an hour of steady polling make exactly the fewest calls, report by report."""
    with start_call_counter(tmp_path) as it:
        for asked, fewest in (it.run_first_poll(), it.run_steady_polling(HOUR)):
            assert asked == fewest
