"""The part of the benchmarks that is a count and not a time, held by every run of the tests."""

from __future__ import annotations

from pathlib import Path

from exporter.model import HOUR
from tests.benchmarks.calls import counted


def test_providers_are_asked_no_more_than_their_limits_make_necessary(tmp_path: Path) -> None:
    """A first poll of thirty days and an hour of steady polling make exactly the fewest calls, report by report."""
    with counted(tmp_path) as it:
        for asked, fewest in (it.first_poll(), it.steady(HOUR)):
            assert asked == fewest
