"""The range in which the bill of an estimated day is expected, from the account's own past errors. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MAX_COMPARED_ERRORS = 14
"""The newest errors that count: an account's prices and contract change over months."""
_MIN_MARGIN = 0.01
_MARGIN_OF_ONE_ERROR = 0.1
"""A single past error shows little; the margin shrinks with the number of known errors."""
_MIN_ERRORS_WITH_OUTLIER = 7
_MIN_ERROR = -0.9
"""An estimate of a tenth of its bill; a larger error, such as that of a day without any price, has no useful range."""


@dataclass(frozen=True, slots=True)
class EstimateRange:
    """The lowest and the highest bill to expect, in nano-USD."""

    low: int
    high: int


def estimate_range(cost: int, errors: Sequence[float]) -> EstimateRange | None:
    """Return the range in which the bill of a cost estimated at `cost` nano-USD is expected.

    `errors` are (estimated - billed) / billed of the account's billed days, oldest first. The bill is expected to be as
    far from this estimate as the most wrong of the newest days were, and a margin; of seven or more days, the most
    wrong one in each direction is left out. None without any error.
    """
    newest = sorted(errors[-MAX_COMPARED_ERRORS:])
    if not newest:
        return None
    margin = max(_MIN_MARGIN, _MARGIN_OF_ONE_ERROR / len(newest))
    # A single extreme day, such as that of a one-time charge, does not widen the range for weeks.
    ignored = 1 if len(newest) >= _MIN_ERRORS_WITH_OUTLIER else 0
    lowest_error = max(_MIN_ERROR, min(0.0, newest[ignored]))
    highest_error = max(0.0, newest[-1 - ignored])
    low, high = cost / (1 + highest_error) * (1 - margin), cost / (1 + lowest_error) * (1 + margin)
    return EstimateRange(*sorted((round(low), round(high))))
