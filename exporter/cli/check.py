"""`check`: the group of commands that check something. It imports none of them: a health check has to start quickly."""

from __future__ import annotations

from exporter.cli.command import LazyGroup, main

MODULES = {
    "account": "exporter.cli.check_account",
    "config": "exporter.cli.check_config",
    "health": "exporter.cli.check_health",
    "keys": "exporter.cli.check_config",
}
"""Subcommand -> the module that defines it."""


@main.group(cls=LazyGroup, modules=MODULES)
def check() -> None:
    """Check the configuration, its keys, an account, or a running exporter."""
