"""Notices when a file of the configuration has changed, come or gone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from exporter.config.configuration import Config, current_files


class ConfigWatcher:
    """What the files looked like when somebody last asked; nothing of them is read."""

    def __init__(self) -> None:
        self._config: Config | None = None
        self._signatures: Mapping[Path, tuple[int, ...]] = {}

    def detect_change(self) -> bool:
        """Tell whether any file differs from the last time."""
        looks, before = _file_signatures(self._config), self._signatures
        self._signatures = looks
        return looks != before

    def watch(self, config: Config) -> None:
        """Watch the files of a configuration; of those that were watched before, a change since then still counts."""
        self._config = config
        self._signatures = {file: self._signatures.get(file, look) for file, look in _file_signatures(config).items()}


def _file_signatures(config: Config | None) -> dict[Path, tuple[int, ...]]:
    return {file: file_signature(file) for file in current_files(config)} if config else {}


def file_signature(file: Path) -> tuple[int, ...]:
    """Return what differs whenever a file has been written or replaced; empty where it is not there."""
    try:
        found = file.stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev
