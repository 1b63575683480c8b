"""A running exporter writes to its ledger's folder and to nothing else."""

from __future__ import annotations

from pathlib import Path

from tests.command import ENVIRONMENT, start_exporter, start_sandbox
from tests.paths import ROOT
from tests.system import make_account

WATCHER = """
import os, sys

CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod",
           "os.chown", "os.utime", "sqlite3.connect", "tempfile.mkdtemp", "tempfile.mkstemp"}

def watch(event, arguments):
    if event in CHANGES or event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        path = os.fsdecode(arguments[0]).removeprefix("file:").partition("?")[0]
        sys.stderr.write(f"TOUCHED {os.path.abspath(path)}\\n")

sys.addaudithook(watch)
"""
"""Imported by Python itself at its start; prints every path that is opened for writing, created, renamed or removed."""


def test_only_the_ledgers_folder_is_written(tmp_path: Path) -> None:
    """From its start to its end nothing outside --storage.path is opened for writing, and only its user may look in."""
    (tmp_path / "watcher").mkdir()
    (tmp_path / "watcher" / "sitecustomize.py").write_text(WATCHER)
    path = f"{tmp_path / 'watcher'}:{ROOT}"
    environment = {**ENVIRONMENT, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    with start_sandbox(tmp_path, make_account("openai", "acme"), make_account("cursor", "crew")) as here:
        with start_exporter(*here.flags, "--web.enable-lifecycle", env=environment) as exporter:
            exporter.wait_until_up("acme", "crew")
            assert exporter.get("/").status_code == 200
            assert exporter.reload().status_code == 200
            assert exporter.stop() == 0
        touched = {line.split(" ", 1)[1].strip() for line in exporter.stderr_lines if line.startswith("TOUCHED ")}
        ledger = here.folder / "ledger"
        assert str(ledger / "ledger.db") in touched
        assert {path for path in touched if not path.startswith(str(ledger))} <= {"/dev/null"}
        assert ledger.stat().st_mode & 0o777 == 0o700
