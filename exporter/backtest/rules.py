"""Rule files as far as a replay needs them: the expressions of alerts and of recording rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import yaml

from exporter.backtest.promtool import ReplayError
from exporter.config.durations import parse_duration


@dataclass(frozen=True, slots=True)
class AlertRule:
    """An alert; several rules may have the same name."""

    name: str
    expression: str
    hold: timedelta
    """`for`: how long the expression must have a result before the alert fires."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of some files."""

    alerts: Sequence[AlertRule]
    recordings: Mapping[str, Sequence[str]]
    """Recorded metric -> the expressions of the rules that record it."""


def load_rules(files: Sequence[Path]) -> Rules:
    """Read rule files. Raises ReplayError for files that are not rule files; promtool checks the rules themselves."""
    alerts: list[AlertRule] = []
    recordings: dict[str, list[str]] = {}
    for file in files:
        try:
            groups = yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]
            for rule in (rule for group in groups for rule in group["rules"]):
                if "alert" in rule:
                    # promtool rejects a rule without an expression or with an invalid duration, with its own message.
                    hold = parse_duration(str(rule.get("for", ""))) or timedelta(0)
                    alerts.append(AlertRule(rule["alert"], str(rule.get("expr", "")), hold))
                elif "record" in rule:
                    recordings.setdefault(rule["record"], []).append(str(rule.get("expr", "")))
        except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError, KeyError) as error:
            raise ReplayError(f"{file} is not a rule file: {str(error) or type(error).__name__}.") from error
    return Rules(alerts, recordings)
