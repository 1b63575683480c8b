"""Irregular terms of a bill: parts that are issued at different times, free usage and volume discounts."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True)
class BillStage:
    """The state of a day's bill from a time after the end of the day on, until the next stage begins."""

    delay: timedelta
    """Time from the end of the day to the beginning of the stage."""
    line_share: float = 1.0
    """The share of the bill's lines that has been issued; always the same lines, chosen by their identity."""
    amount_share: float = 1.0
    """The share of the final amount, and of the billed quantity, that each issued line has."""


@dataclass(frozen=True, slots=True)
class LineDelay:
    """Lines of the bill that are issued later than the others."""

    label: str
    """A glob for the text of the line."""
    delay: timedelta
    """Time from the end of the day to the line."""


@dataclass(frozen=True, slots=True)
class BillOutage:
    """A time range in which the bill of every day is answered without lines."""

    since: datetime
    until: datetime


@dataclass(frozen=True, slots=True)
class FreeTokens:
    """A free daily allowance: on each UTC day, the first tokens of the models that match the glob are not billed.

    The allowance applies to all tokens of these models together, in the proportion in which the day used them.
    """

    model: str
    tokens_per_day: int


@dataclass(frozen=True, slots=True)
class VolumeDiscount:
    """A volume tier: tokens of a model beyond a number per UTC month cost `factor` times as much."""

    model: str
    """A glob; every model that matches it has a volume of its own."""
    tokens_per_month: int
    factor: float


def identity_rank(*identity: str) -> float:
    """Return a number in [0, 1) that depends on the texts alone and is spread evenly over them."""
    digest = hashlib.sha256("|".join(identity).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
