"""Detecting that a file of the configuration has changed, appeared or disappeared."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from exporter.config.configuration import Config, current_files


class ConfigWatcher:
    """Compares the files' modification times, sizes and inodes between two calls; it reads no content."""

    def __init__(self) -> None:
        self._config: Config | None = None
        self._signatures: Mapping[Path, tuple[int, ...]] = {}

    def detect_change(self) -> bool:
        """Return whether any file has changed since the previous call."""
        previous, self._signatures = self._signatures, _file_signatures(self._config)
        return self._signatures != previous

    def watch(self, config: Config) -> None:
        """Watch the files of a configuration from now on.

        For files that were watched before, the older signature is kept: a change between the previous call of
        `detect_change` and this call may not be in the configuration, and has to be detected by the next call.
        """
        self._config = config
        signatures = _file_signatures(config)
        self._signatures = {file: self._signatures.get(file, signature) for file, signature in signatures.items()}


def _file_signatures(config: Config | None) -> dict[Path, tuple[int, ...]]:
    return {file: file_signature(file) for file in current_files(config)} if config else {}


def file_signature(file: Path) -> tuple[int, ...]:
    """Return values that differ whenever a file has been written or replaced; empty where the file is missing."""
    try:
        status = file.stat()
    except OSError:
        return ()
    return status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev
