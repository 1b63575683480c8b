"""The command line: one file per subject."""

from __future__ import annotations

from exporter.cli import check, history, run
from exporter.cli.command import main

__all__ = ["check", "history", "main", "run"]
