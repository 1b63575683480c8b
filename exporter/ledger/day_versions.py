"""Which days have changed since somebody looked, so that what was made of a day is made again only then."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable


class DayVersions:
    """Counts the changes of every day of every account since the process began; the only writer is this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._versions: Counter[tuple[int, int]] = Counter()

    def increment(self, account: int, starts: Iterable[int]) -> None:
        """Count a change of days; to be called when it can be read, not before."""
        with self._lock:
            self._versions.update((account, start) for start in starts)

    def version(self, account: int, start: int) -> int:
        """Return how often a day has changed."""
        return self._versions[account, start]
