"""The command line: one file per subject."""

from __future__ import annotations

from exporter.cli import check, history, notices, replay, run
from exporter.cli.command import main

__all__ = ["check", "history", "main", "notices", "replay", "run"]
