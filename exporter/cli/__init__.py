"""The command line: one file per subject."""

from __future__ import annotations

from exporter.cli import check, check_account, encrypt, history, notices, replay, run
from exporter.cli.command import main

__all__ = ["check", "check_account", "encrypt", "history", "main", "notices", "replay", "run"]
