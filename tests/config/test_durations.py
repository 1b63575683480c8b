"""The parser of durations."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.config.durations import format_duration, parse_duration


@given(seconds=st.integers(min_value=1, max_value=10**9))
def test_a_formatted_duration_is_parsed_back(seconds: int) -> None:
    """Formatting and parsing a duration of whole seconds returns the same duration."""
    duration = timedelta(seconds=seconds)
    assert parse_duration(format_duration(duration)) == duration


@pytest.mark.parametrize("text", ["", "5", "m5", "5 m", "-5m", "1.5h", "30m1h", "1m1m", "100us", "٣s"])
def test_invalid_durations(text: str) -> None:
    """A text without unit, with a fraction, or with units in another order is not a duration in Prometheus's format."""
    assert parse_duration(text) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1s", 1), ("1.5h", 5400), ("30m1h", 5400), ("100ms", 0.1), ("250us", 0.00025), ("1h0.5m", 3630)],
)
def test_durations_of_go(text: str, seconds: float) -> None:
    """Go's format has fractions and units in any order."""
    assert parse_duration(text, go_format=True) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "1", "1d", "1w", ".5s", "1.s", "-1s", "1 s"])
def test_invalid_durations_of_go(text: str) -> None:
    """Go's format has no unit above the hour and no number without digits."""
    assert parse_duration(text, go_format=True) is None


@pytest.mark.parametrize("go_format", [False, True])
def test_too_long_durations(go_format: bool) -> None:
    """A duration that timedelta cannot represent is the longest one that it can."""
    text = "999999999h" * 30 if go_format else "999999999y"
    assert parse_duration(text, go_format=go_format) == timedelta.max
