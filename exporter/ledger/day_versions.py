"""Versions of days: a reader that keeps a result made from a day makes it again only when the day's version changed."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable


class DayVersions:
    """Counts the changes of every day of every account since the process began; the only writer is this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._versions: Counter[tuple[int, int]] = Counter()
        self._changes_of_all = 0

    def increment(self, account: int, starts: Iterable[int]) -> None:
        """Count a change of days (seconds since the epoch), after it was committed.

        Counted earlier, a reader could keep the old rows under the new version, and never read the new ones.
        """
        with self._lock:
            self._versions.update((account, start) for start in starts)

    def increment_all(self) -> None:
        """Count a change of every day, known or not."""
        with self._lock:
            self._changes_of_all += 1

    def version(self, account: int, start: int) -> int:
        """Return how often a day has changed."""
        return self._versions[account, start] + self._changes_of_all
