"""A cache of results made from days of the ledger."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class _Entry(Generic[Value]):
    version: object
    value: Value
    size: int


class LRUCache(Generic[Key, Value]):
    """The most recently used results, up to a number of bytes. Safe for several threads."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._size = 0
        self._lock = threading.Lock()
        self._entries: OrderedDict[Key, _Entry[Value]] = OrderedDict()

    @property
    def size_bytes(self) -> int:
        """The size of all cached results."""
        with self._lock:
            return self._size

    def values(self) -> dict[Key, Value]:
        """Return the cached results, least recently used first."""
        with self._lock:
            return {key: entry.value for key, entry in self._entries.items()}

    def get(self, key: Key, version: object) -> Value | None:
        """Return a result made from this version; None where it is not cached."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None or entry.version != version:
                return None
            self._entries.move_to_end(key)
            return entry.value

    def put(self, key: Key, version: object, value: Value, size: int) -> None:
        """Cache a result of `size` bytes; the least recently used results are evicted."""
        entry = _Entry(version, value, size)
        with self._lock:
            old = self._entries.pop(key, None)
            self._size += entry.size - (old.size if old else 0)
            self._entries[key] = entry
            while self._size > self._max_bytes:
                self._size -= self._entries.popitem(last=False)[1].size
