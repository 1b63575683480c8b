"""How much may come at once, and how much over time."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Allowance:
    """A bucket of tokens, full at first, that fills up evenly; whatever comes takes some."""

    def __init__(self, per_second: float, most: int, monotonic: Callable[[], float]) -> None:
        self.per_second = per_second
        self._most = most
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._left, self._at = float(most), monotonic()

    def take(self, count: int = 1) -> bool:
        """Take so many, all or none; tell whether they were there."""
        with self._lock:
            now = self._monotonic()
            self._left = min(float(self._most), self._left + (now - self._at) * self.per_second)
            self._at = now
            if self._left < count:
                return False
            self._left -= count
            return True
