"""The texts of the alerts: the expectations of the rule tests, and a golden file of each alert for reviewers.

promtool compares every text with prometheus/tests; the golden files show the same texts, without the input series.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml

from exporter.config.durations import parse_duration
from tests.paths import ROOT
from tests.servers import run_promtool

GOLDEN_FOLDER = ROOT / "tests" / "golden" / "alerts"
_ORDER = ("summary", "description", "total", "runbook_url", "dashboard_url")

_FAILED_CASE = re.compile(r"^    alertname: (\w+), time: (\w+), ?$")
_PAIR = re.compile(r'([a-zA-Z_]\w*)=("(?:[^"\\]|\\.)*")')


@dataclass(frozen=True, slots=True)
class FiredAlert:
    """An alert as promtool prints it."""

    labels: Mapping[str, str]
    annotations: Mapping[str, str]


def rewrite_expectations(path: Path) -> None:
    """Write the annotations that the rules produce into a file of rule tests; labels and values stay as they are."""
    text = path.read_text()
    # promtool reports a failed case on stderr.
    found = _read_failures(run_promtool("debian", "test", "rules", str(path)).stderr)
    lines = text.splitlines(keepends=True)
    # From the end, so that the lines before a replaced block keep their numbers.
    for name, time, alert_node in reversed(list(_expected_alerts(text))):
        labels = {"alertname": name, **yaml.safe_load(yaml.serialize(_value(alert_node, "exp_labels")))}
        actual = [
            fired.annotations
            for fired in found.get((name, parse_duration(time)), ())
            if fired.labels == _as_text(labels)
        ]
        if not actual:
            continue
        node = _value(alert_node, "exp_annotations")
        first, last = node.start_mark, node.value[-1][1].end_mark
        lines[first.line : last.line + 1] = _render_annotations(actual[0], " " * first.column)
    path.write_text("".join(lines))


def _as_text(labels: Mapping[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in labels.items()}


def _expected_alerts(text: str) -> Iterator[tuple[str, str, Any]]:
    """Yield name, time and YAML node of every expected alert."""
    for test in _value(yaml.compose(text), "tests").value:
        for case in getattr(_value(test, "alert_rule_test"), "value", ()):
            for alert in _value(case, "exp_alerts").value:
                yield _value(case, "alertname").value, _value(case, "eval_time").value, alert


def _value(node: Any, key: str) -> Any:
    return next((value for name, value in node.value if name.value == key), None)


def _read_failures(output: str) -> dict[tuple[str, timedelta | None], list[FiredAlert]]:
    """Return the alerts that fired in the cases that failed, by alert and time."""
    found: dict[tuple[str, timedelta | None], list[FiredAlert]] = {}
    current: list[FiredAlert] = []
    labels: Mapping[str, str] = {}
    for line in output.splitlines():
        content = line.strip()
        case = _FAILED_CASE.match(line)
        if case:
            current = found.setdefault((case[1], parse_duration(case[2])), [])
        elif content.startswith("got:["):
            # What was expected comes first, in the same format.
            current.clear()
        elif content.startswith("Labels:"):
            labels = _read_pairs(content)
        elif content.startswith("Annotations:"):
            current.append(FiredAlert(labels, _read_pairs(content)))
    return found


def _read_pairs(text: str) -> dict[str, str]:
    return {name: json.loads(value) for name, value in _PAIR.findall(text)}


def _render_annotations(annotations: Mapping[str, str], indent: str) -> Iterator[str]:
    for name in (name for name in _ORDER if name in annotations):
        value = annotations[name]
        if name == "description":
            yield f"{indent}{name}: |-\n"
            yield from (f"{indent}  {line}\n" for line in value.splitlines())
        else:
            quoted = value.replace("'", "''")
            yield f"{indent}{name}: '{quoted}'\n"


def render_golden(alert_name: str, paths: Sequence[Path]) -> str:
    """Return all expected texts of an alert, in the order of the rule tests."""
    blocks = []
    for path in paths:
        for test in yaml.safe_load(path.read_text())["tests"]:
            for case in test.get("alert_rule_test", ()):
                if case["alertname"] == alert_name:
                    blocks += [_render_alert(alert) for alert in case["exp_alerts"]]
    return "\n".join(blocks)


def _render_alert(alert: Mapping[str, Mapping[str, str]]) -> str:
    annotations = alert["exp_annotations"]
    labels = ", ".join(f"{name}={value}" for name, value in sorted(alert["exp_labels"].items()))
    total = annotations.get("total", "")
    lines = [f"[{labels}]", annotations["summary"], annotations["description"]]
    lines += [f"Total when resolved: {total}"] if total else []
    return "\n".join((*lines, annotations["runbook_url"], annotations["dashboard_url"])) + "\n"
