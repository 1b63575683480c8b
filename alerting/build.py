"""Generates the rules: `python -m alerting.build` writes prometheus/rules/*.yml, `--check` reports outdated files.

Status 1: a file is outdated; 2: the settings have an error.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from alerting.config import CONFIG_FILE, RulesConfig, load_rules_config
from alerting.rules import render_rule_file
from alerting.sources.budgets import budget_file
from alerting.sources.health import health_file
from alerting.sources.signals import signal_file
from alerting.sources.trust import trust_file
from exporter.errors import ConfigError

RULES_FOLDER = Path(__file__).parents[1] / "prometheus" / "rules"


def render_files(config: RulesConfig) -> Iterator[tuple[str, str]]:
    """Yield the name and the content of every rule file."""
    for file in (budget_file(config), signal_file(config), trust_file(config), health_file(config)):
        yield f"{file.name}.yml", render_rule_file(file, config.group_prefix, config.selectors.metrics)


def main(arguments: Sequence[str] = ()) -> int:
    """Write the files, or with --check only compare them; return the exit status."""
    try:
        config = load_rules_config(CONFIG_FILE)
    except ConfigError as error:
        print(error, file=sys.stderr)  # noqa: T201 - a command's message
        return 2
    outdated = False
    for name, text in render_files(config):
        path = RULES_FOLDER / name
        if "--check" not in arguments:
            path.write_text(text)
        elif path.read_text() != text:
            print(f"{path} is not current: run make rules and commit it.", file=sys.stderr)  # noqa: T201
            outdated = True
    return int(outdated)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
