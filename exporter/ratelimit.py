"""Rate limiting."""

from __future__ import annotations

import threading
from collections.abc import Callable


class TokenBucket:
    """A token bucket, full at first, that is refilled evenly up to `burst` tokens. Thread-safe."""

    def __init__(self, per_second: float, burst: int, monotonic: Callable[[], float]) -> None:
        """`per_second`: refill rate; `monotonic`: a clock in seconds."""
        self.per_second = per_second
        self._burst = burst
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._tokens, self._refilled_at = float(burst), monotonic()

    def take(self, count: int = 1) -> bool:
        """Take this many tokens, all or none; return whether there were enough."""
        with self._lock:
            now = self._monotonic()
            self._tokens = min(float(self._burst), self._tokens + (now - self._refilled_at) * self.per_second)
            self._refilled_at = now
            if self._tokens < count:
                return False
            self._tokens -= count
            return True
