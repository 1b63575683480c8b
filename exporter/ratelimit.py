"""How much may come at once, and how much over time."""

from __future__ import annotations

import threading
from collections.abc import Callable


class TokenBucket:
    """A bucket of tokens, full at first, that fills up evenly; whatever comes takes some."""

    def __init__(self, per_second: float, burst: int, monotonic: Callable[[], float]) -> None:
        self.per_second = per_second
        self._burst = burst
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._tokens, self._refilled_at = float(burst), monotonic()

    def take(self, count: int = 1) -> bool:
        """Take so many, all or none; tell whether they were there."""
        with self._lock:
            now = self._monotonic()
            self._tokens = min(float(self._burst), self._tokens + (now - self._refilled_at) * self.per_second)
            self._refilled_at = now
            if self._tokens < count:
                return False
            self._tokens -= count
            return True
