"""Whether the configuration's files have changed."""

from __future__ import annotations

import os
from pathlib import Path

from exporter.config.configuration import load
from exporter.config.reload import ConfigWatcher
from exporter.providers import PROVIDERS

ACCOUNT = "accounts: [{name: %s, provider: openai, api_key_env: KEY}]\n"


def _start_watcher(folder: Path) -> tuple[ConfigWatcher, Path]:
    (folder / "more").mkdir()
    path = folder / "config.yaml"
    path.write_text(ACCOUNT % "acme" + "account_files: [more/*.yaml]\n")
    watch = ConfigWatcher()
    watch.watch(load(path, PROVIDERS))
    return watch, path


def test_a_change_is_reported_once(tmp_path: Path) -> None:
    """A file that is written, or replaced by one of the same length, has changed; asked again, it has not."""
    watch, path = _start_watcher(tmp_path)
    assert not watch.detect_change()
    path.write_text(path.read_text() + "# more\n")
    assert watch.detect_change()
    assert not watch.detect_change()
    fresh = tmp_path / "fresh"
    fresh.write_text(path.read_text())
    os.utime(fresh, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    fresh.replace(path)
    assert watch.detect_change()


def test_account_files_that_come_and_go_are_a_change(tmp_path: Path) -> None:
    """A file that `account_files` finds by now, or no longer, is a change; one that it does not find is none."""
    watch, _ = _start_watcher(tmp_path)
    (tmp_path / "more" / "notes.txt").write_text("")
    assert not watch.detect_change()
    (tmp_path / "more" / "labs.yaml").write_text(ACCOUNT % "labs")
    assert watch.detect_change()
    (tmp_path / "more" / "labs.yaml").unlink()
    assert watch.detect_change()
    assert not watch.detect_change()


def test_a_remounted_folder_is_a_change(tmp_path: Path) -> None:
    """Where a file is a link into a folder that is replaced, as Kubernetes does, the file behind it counts."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(ACCOUNT % name)
    (tmp_path / "data").symlink_to("first")
    (tmp_path / "config.yaml").symlink_to("data/config.yaml")
    watch = ConfigWatcher()
    watch.watch(load(tmp_path / "config.yaml", PROVIDERS))
    (tmp_path / "next").symlink_to("second")
    (tmp_path / "next").replace(tmp_path / "data")
    assert watch.detect_change()


def test_a_change_during_a_reload_is_not_lost(tmp_path: Path) -> None:
    """A file that changes after it was looked at and before its configuration is followed is told afterwards."""
    watch, path = _start_watcher(tmp_path)
    path.write_text(path.read_text() + "# one\n")
    assert watch.detect_change()
    loaded = load(path, PROVIDERS)
    path.write_text(path.read_text() + "# two\n")
    watch.watch(loaded)
    assert watch.detect_change()


def test_a_file_that_disappears_or_returns_is_a_change(tmp_path: Path) -> None:
    """The main file may be away for a moment: that is told, and so is its return."""
    watch, path = _start_watcher(tmp_path)
    text = path.read_text()
    path.unlink()
    assert watch.detect_change()
    assert not watch.detect_change()
    path.write_text(text)
    assert watch.detect_change()
