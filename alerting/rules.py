"""The parts of a rule file, and how they are written: plain YAML with the comments that explain the rules."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from alerting.annotations import Annotations
from alerting.config import AlertSettings


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording rule."""

    name: str
    expr: str
    comment: str = ""
    labels: str = ""
    """As YAML, such as `period: day`."""


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert."""

    name: str
    settings: AlertSettings
    expr: str
    annotations: Annotations
    comment: str = ""


Rule = Recording | Alert


@dataclass(frozen=True, slots=True)
class RuleFile:
    """A file with one group: its alerts use the values recorded in the same evaluation."""

    name: str
    comment: str
    rules: Sequence[Rule]


HEADER = "# Generated from alerting/ by `make rules`; do not edit. Thresholds: alerting/config.yml."
_METRIC = re.compile(r"(?<![\w:{,])(ai_\w+)(?![\w:(])(\{)?")
_WIDTH = 120


def render_rule_file(file: RuleFile, group_prefix: str, matchers: str) -> str:
    """Return a rule file as YAML; `matchers` are added to every metric of the exporter."""
    lines = [HEADER, *_comment(file.comment, ""), "groups:", f"  - name: {group_prefix}-{file.name}", "    rules:"]
    for rule in file.rules:
        if isinstance(rule, Alert):
            lines.append("")
        lines += _comment(rule.comment, "      ")
        lines += _alert(rule, matchers) if isinstance(rule, Alert) else _recording(rule, matchers)
    return "\n".join(lines) + "\n"


def _comment(text: str, indent: str) -> Iterator[str]:
    prefix = f"{indent}# "
    return iter(textwrap.wrap(text, _WIDTH, initial_indent=prefix, subsequent_indent=prefix))


def _recording(rule: Recording, matchers: str) -> Iterator[str]:
    yield f"      - record: {rule.name}"
    yield from _expression(rule.expr, matchers)
    if rule.labels:
        yield f"        labels: {{{rule.labels}}}"


def _alert(rule: Alert, matchers: str) -> Iterator[str]:
    yield f"      - alert: {rule.name}"
    yield from _expression(rule.expr, matchers)
    yield f"        for: {rule.settings.hold}"
    if rule.settings.keep_firing_for:
        yield f"        keep_firing_for: {rule.settings.keep_firing_for}"
    yield f"        labels: {{severity: {rule.settings.severity}}}"
    yield "        annotations:"
    yield f"          summary: {_quote(rule.annotations.summary)}"
    yield "          description: |-"
    yield from (f"            {line}" for line in rule.annotations.description)
    if rule.annotations.total:
        yield f"          total: {_quote(rule.annotations.total)}"
    yield f"          runbook_url: {rule.annotations.runbook_url}"
    yield f"          dashboard_url: {_quote(rule.annotations.dashboard_url)}"


def _expression(expr: str, matchers: str) -> Iterator[str]:
    lines = add_matchers(textwrap.dedent(expr).strip(), matchers).splitlines()
    if len(lines) == 1:
        yield f"        expr: {lines[0]}" if _is_plain(lines[0]) else f"        expr: {_quote(lines[0])}"
    else:
        yield "        expr: |-"
        yield from (f"          {line}" for line in lines)


def add_matchers(expr: str, matchers: str) -> str:
    """Return an expression whose metrics of the exporter have these matchers too."""
    if not matchers:
        return expr
    return _METRIC.sub(lambda match: f"{match[1]}{{{matchers}{',' if match[2] else '}'}", expr)


def _is_plain(text: str) -> bool:
    """Return whether YAML reads the text as it is, without quotes."""
    return not re.search(r": |:$| #", text) and text[0] not in "{[\"'|>&*!%@`"


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
