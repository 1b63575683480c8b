"""Notices when a file of the configuration has changed, come or gone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from exporter.config.configuration import Config, files_now


class Watch:
    """What the files looked like when somebody last asked; nothing of them is read."""

    def __init__(self) -> None:
        self._config: Config | None = None
        self._seen: Mapping[Path, tuple[int, ...]] = {}

    def changed(self) -> bool:
        """Tell whether any file differs from the last time."""
        looks, before = _looks(self._config), self._seen
        self._seen = looks
        return looks != before

    def follow(self, config: Config) -> None:
        """Watch the files of a configuration; of those that were watched before, a change since then still counts."""
        self._config = config
        self._seen = {file: self._seen.get(file, look) for file, look in _looks(config).items()}


def _looks(config: Config | None) -> dict[Path, tuple[int, ...]]:
    return {file: look(file) for file in files_now(config)} if config else {}


def look(file: Path) -> tuple[int, ...]:
    """Return what differs whenever a file has been written or replaced; empty where it is not there."""
    try:
        found = file.stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev
