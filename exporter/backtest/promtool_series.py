"""The values of a scraped series over time, in the notation of promtool's unit tests."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal

STEP = timedelta(minutes=4)
"""Between two scrapes: shorter than the five minutes after which Prometheus considers a series stale."""
_RESOLUTION = Decimal("1e-9")
"""A nano-dollar."""


@dataclass(slots=True)
class PromtoolSeries:
    """Values step by step; equal values in a row are written once."""

    selector: str
    """The series: name and labels."""
    _tokens: list[str] = field(default_factory=list)
    _last: str | None = None
    _count: int = 0

    @property
    def values(self) -> str:
        """All values, as promtool reads them."""
        return " ".join([*self._tokens, *([self._token()] if self._count else [])])

    @property
    def has_values(self) -> bool:
        """Whether there is any value at all."""
        return bool(self._tokens) or self._last is not None

    @property
    def first_step(self) -> int | None:
        """The first step with a value; None without any."""
        if not self.has_values:
            return None
        # Only the first token can be absence before the first value: equal values in a row are a single token.
        absent = re.fullmatch(r"_x(\d+)", self._tokens[0]) if self._tokens else None
        return int(absent[1]) if absent else 0

    def add_constant(self, count: int, value: str | None) -> None:
        """Append `count` steps of one value; None where the series is absent."""
        if value != self._last and self._count:
            self._tokens.append(self._token())
            self._count = 0
        self._last, self._count = value, self._count + count

    def add_ramp(self, count: int, first: str, last: str) -> None:
        """Append `count` steps that rise or fall evenly from the first value to the last."""
        start, difference = Decimal(first), Decimal(last) - Decimal(first)
        if not difference or count < 2:
            self.add_constant(count, first)
            return
        if self._count:
            self._tokens.append(self._token())
        self._last, self._count = None, 0
        increment = (abs(difference) / (count - 1)).quantize(_RESOLUTION).normalize()
        self._tokens.append(f"{start:f}{'-' if difference < 0 else '+'}{increment:f}x{count - 1}")

    def _token(self) -> str:
        if self._last is None:
            return f"_x{self._count}"
        return f"{self._last}x{self._count - 1}" if self._count > 1 else self._last
