"""The range in which a bill is expected follows from the account's past errors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.analysis.estimates import MAX_COMPARED_ERRORS, EstimateRange, estimate_range

ERRORS = st.floats(-0.8, 5)


def test_there_is_no_range_without_a_past_error() -> None:
    """Before the first bill nothing is known of the estimate's accuracy."""
    assert estimate_range(1000, []) is None


def test_exact_estimates_have_a_narrow_range() -> None:
    """The margin shrinks from ten to one per cent as more days turn out exact."""
    assert estimate_range(1000, [0.0]) == EstimateRange(900, 1100)
    assert estimate_range(1000, [0.0] * 10) == EstimateRange(990, 1010)
    assert estimate_range(1000, [0.0] * 100) == EstimateRange(990, 1010)


def test_the_range_holds_the_bill_of_any_past_error() -> None:
    """An account that was estimated at half and at twice its bill may be either again."""
    found = estimate_range(1000, [1.0, -0.5])
    assert found is not None
    assert found.low < 500
    assert found.high > 2000


def test_a_single_extreme_day_does_not_widen_the_range() -> None:
    """Of seven or more days the most wrong in each direction is left out; a second one like it counts."""
    exact = [0.0] * 8
    assert estimate_range(1000, [*exact, -0.9, 4.0]) == EstimateRange(990, 1010)
    found = estimate_range(1000, [*exact, -0.5, -0.6])
    assert found is not None
    assert found.high == 2020


def test_old_errors_are_forgotten() -> None:
    """Only the newest fourteen errors count."""
    assert estimate_range(1000, [1.0, *[0.0] * MAX_COMPARED_ERRORS]) == EstimateRange(990, 1010)


@given(st.integers(1, 10**15), st.lists(ERRORS, min_size=1, max_size=20))
def test_the_estimate_itself_is_in_the_range(cost: int, errors: list[float]) -> None:
    """Low is at most the estimate, high at least; all past errors except the largest in each direction lie between."""
    found = estimate_range(cost, errors)
    assert found is not None
    assert found.low <= cost <= found.high
    bills = [cost / (1 + error) for error in errors[-MAX_COMPARED_ERRORS:]]
    # The range is in whole nano-USD, which matters where a bill has a few of them.
    assert sum(bill * 1.001 + 0.5 < found.low for bill in bills) <= 1
    assert sum(bill > found.high * 1.001 + 0.5 for bill in bills) <= 1


def test_credits_keep_the_order_of_the_range() -> None:
    """A negative day has a low that is below its high."""
    assert estimate_range(-1000, [0.0]) == EstimateRange(-1100, -900)


@pytest.mark.parametrize("error", [-1.0, -0.99])
def test_an_estimate_of_nothing_has_a_finite_range(error: float) -> None:
    """A day without any price was estimated at 0: its error must not make the range infinite."""
    found = estimate_range(1000, [error])
    assert found is not None
    assert found.high <= 11_000
