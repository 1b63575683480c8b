"""The course of a scraped gauge over time, in the notation of promtool's unit tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

STEP = timedelta(minutes=4)
"""Between two scrapes: below the five minutes after which Prometheus no longer finds a sample."""


@dataclass(slots=True)
class PromtoolSeries:
    """Values step by step; what stays the same is told once."""

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

    def add_constant(self, count: int, value: str | None) -> None:
        """Go on for some steps with one value; None: the series is not there."""
        if value != self._last and self._count:
            self._tokens.append(self._token())
            self._count = 0
        self._last, self._count = value, self._count + count

    def add_ramp(self, count: int, start: int, increment: int, format_value: Callable[[int], str]) -> None:
        """Go on for some steps that begin at a sum and rise evenly."""
        if not increment or count < 2:
            self.add_constant(count, format_value(start))
            return
        if self._count:
            self._tokens.append(self._token())
        self._last, self._count = None, 0
        self._tokens.append(
            f"{format_value(start)}{'-' if increment < 0 else '+'}{format_value(abs(increment))}x{count - 1}"
        )

    def _token(self) -> str:
        if self._last is None:
            return f"_x{self._count}"
        return f"{self._last}x{self._count - 1}" if self._count > 1 else self._last
