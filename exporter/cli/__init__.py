"""The command line: each command is a module, imported when the command is used."""

from __future__ import annotations

from exporter.cli.command import main

__all__ = ["main"]
