"""The memory of a process, as the kernel sees it."""

from __future__ import annotations

from pathlib import Path

ARENA_BYTES = 64 << 20
"""Of addresses, which glibc reserves for each heap of an arena other than the first, at a multiple of that size."""


def count_thread_arenas(process: int) -> int:
    """Return in how many arenas beside the first one glibc keeps the memory of a process."""
    count = 0
    for line in (Path("/proc") / str(process) / "maps").read_text().splitlines():
        addresses, permissions, *others = line.split()
        start = int(addresses.partition("-")[0], 16)
        has_name = len(others) > 3
        count += start % ARENA_BYTES == 0 and permissions == "rw-p" and not has_name
    return count
