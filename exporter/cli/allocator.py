"""Settings of the C library's memory allocator, for a process with many threads that runs for months."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping

# Parameters of mallopt(3), from malloc.h.
_TRIM_THRESHOLD = -1
_MMAP_THRESHOLD = -3
_ARENA_MAX = -8

_SETTINGS: Mapping[str, tuple[int, int]] = {
    "MALLOC_ARENA_MAX": (_ARENA_MAX, 1),
    "MALLOC_MMAP_THRESHOLD_": (_MMAP_THRESHOLD, 128 << 10),
    "MALLOC_TRIM_THRESHOLD_": (_TRIM_THRESHOLD, 128 << 10),
}
"""Variable with which glibc is configured by hand -> parameter and value that are set without it.

The thresholds are glibc's own initial values. Setting them ends their automatic increase, after which blocks of up to
32 MiB are kept for reuse instead of being returned.
"""


def limit_allocator(environ: Mapping[str, str] = os.environ) -> None:
    """Let freed memory be reused by every thread or be returned to the system; call it before threads are started.

    By default, glibc gives nearly every thread an arena of its own. A thread does not use what is free in another's
    arena, so that with every poll on another thread the arenas grow for days, each to the largest demand that it has
    ever met. The interpreter's lock leaves little that several arenas could make faster. With another C library, and
    where a variable of the environment configures the allocator, nothing is changed.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or "glibc.malloc." in environ.get("GLIBC_TUNABLES", ""):
        return
    for variable, (parameter, value) in _SETTINGS.items():
        if variable not in environ:
            mallopt(parameter, value)
