"""Counts how often any process opens a file or lists a folder, so that a test can wait for a check of a file."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_IN_OPEN = 0x20
_EVENT_SIZE = 16
"""Bytes of an event of inotify that has no file name, as that of the watched file itself."""


@contextmanager
def watch_opens(path: Path) -> Iterator[Callable[[], int]]:
    """Yield a function that returns how often a file, or a folder itself, was opened since the block began."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    assert descriptor >= 0, os.strerror(ctypes.get_errno())
    opens = 0

    def count_opens() -> int:
        nonlocal opens
        try:
            while events := os.read(descriptor, 1 << 16):
                opens += _count_own_events(events)
        except BlockingIOError:
            return opens
        return opens

    try:
        watch = libc.inotify_add_watch(descriptor, os.fsencode(path), _IN_OPEN)
        assert watch >= 0, os.strerror(ctypes.get_errno())
        yield count_opens
    finally:
        os.close(descriptor)


def _count_own_events(events: bytes) -> int:
    """Return the number of events without a file name; the events of a folder's files have one."""
    count = offset = 0
    while offset < len(events):
        name_length = int.from_bytes(events[offset + 12 : offset + _EVENT_SIZE], sys.byteorder)
        count += name_length == 0
        offset += _EVENT_SIZE + name_length
    return count
