"""The command line: one file per subject."""

from __future__ import annotations

from exporter.cli import alert_webhook, check, check_account, encrypt, history, replay, run
from exporter.cli.command import main

__all__ = ["alert_webhook", "check", "check_account", "encrypt", "history", "main", "replay", "run"]
