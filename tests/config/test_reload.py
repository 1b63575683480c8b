"""Detecting changes of the configuration's files."""

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
    watcher = ConfigWatcher()
    watcher.watch(load(path, PROVIDERS))
    return watcher, path


def test_a_change_is_reported_once(tmp_path: Path) -> None:
    """A file that is written, or replaced by a file of the same size and time, is reported as changed, once."""
    watcher, path = _start_watcher(tmp_path)
    assert not watcher.detect_change()
    path.write_text(path.read_text() + "# more\n")
    assert watcher.detect_change()
    assert not watcher.detect_change()
    fresh = tmp_path / "fresh"
    fresh.write_text(path.read_text())
    os.utime(fresh, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    fresh.replace(path)
    assert watcher.detect_change()


def test_account_files_that_come_and_go_are_a_change(tmp_path: Path) -> None:
    """A file that `account_files` matches now, or does not match any more, is a change; other files are not."""
    watcher, _ = _start_watcher(tmp_path)
    (tmp_path / "more" / "notes.txt").write_text("")
    assert not watcher.detect_change()
    (tmp_path / "more" / "labs.yaml").write_text(ACCOUNT % "labs")
    assert watcher.detect_change()
    (tmp_path / "more" / "labs.yaml").unlink()
    assert watcher.detect_change()
    assert not watcher.detect_change()


def test_a_remounted_folder_is_a_change(tmp_path: Path) -> None:
    """A link to another directory, which is how Kubernetes updates a mount, is a change."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(ACCOUNT % name)
    (tmp_path / "data").symlink_to("first")
    (tmp_path / "config.yaml").symlink_to("data/config.yaml")
    watcher = ConfigWatcher()
    watcher.watch(load(tmp_path / "config.yaml", PROVIDERS))
    (tmp_path / "next").symlink_to("second")
    (tmp_path / "next").replace(tmp_path / "data")
    assert watcher.detect_change()


def test_a_change_during_a_reload_is_not_lost(tmp_path: Path) -> None:
    """A change after the files were checked and before their configuration is watched is reported later."""
    watcher, path = _start_watcher(tmp_path)
    path.write_text(path.read_text() + "# one\n")
    assert watcher.detect_change()
    loaded = load(path, PROVIDERS)
    path.write_text(path.read_text() + "# two\n")
    watcher.watch(loaded)
    assert watcher.detect_change()


def test_a_file_that_disappears_or_returns_is_a_change(tmp_path: Path) -> None:
    """A missing main file is reported once, and its return too."""
    watcher, path = _start_watcher(tmp_path)
    text = path.read_text()
    path.unlink()
    assert watcher.detect_change()
    assert not watcher.detect_change()
    path.write_text(text)
    assert watcher.detect_change()
