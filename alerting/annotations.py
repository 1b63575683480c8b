"""Builds annotations: a summary of one line, a description of at most three, and two links.

Texts have the placeholders of `_PLACEHOLDERS`, and names of lookups. A lookup reads another series by a constant query
and selects by labels inside the template, so that linters can check the query.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from alerting.config import Links

_PLACEHOLDERS = {
    "account": "{{ $labels.account }}",
    "budget": "{{ $labels.budget }}",
    "instance": "{{ $labels.instance }}",
    "model": "{{ $labels.model }}",
    "period": "{{ $labels.period }}",
    "provider": "{{ $labels.provider }}",
    "reason": "{{ $labels.reason }}",
    "report": "{{ $labels.report }}",
    "source": "{{ $labels.source }}",
    "owner": '(owner {{ or $labels.owner "none" }})',
    # An account without workspaces has series without that label.
    "where": "{{ $labels.account }}{{ with $labels.workspace }} / {{ . }}{{ end }}",
    "workspace_of_account": "{{ with $labels.workspace }}workspace {{ . }} of {{ end }}account {{ $labels.account }}",
    "usd": '${{ $value | printf "%.2f" }}',
    "whole": '{{ $value | printf "%.0f" }}',
    "decimal": '{{ $value | printf "%.1f" }}',
    "number": "{{ $value | humanize }}",
    "percent": "{{ $value | humanizePercentage }}",
    "duration": "{{ $value | humanizeDuration }}",
}
USD = '${{ .Value | printf "%.2f" }}'
NUMBER = "{{ .Value | humanize }}"
PERCENT = "{{ .Value | humanizePercentage }}"
TIME = "{{ .Value | humanizeTimestamp }}"


@dataclass(frozen=True, slots=True)
class Annotations:
    """The annotations of an alert."""

    summary: str
    description: tuple[str, ...]
    """Lines."""
    runbook_url: str
    dashboard_url: str


@dataclass(frozen=True, slots=True)
class AnnotationBuilder:
    """Builds the annotations of one file's alerts: the same dashboard, and the same labels in the link."""

    links: Links
    dashboard: str
    variables: tuple[str, ...] = ()
    """Labels that the link passes to the dashboard as variables."""

    def build(self, name: str, summary: str, *description: str, **lookups: str) -> Annotations:
        """Return the annotations of an alert; `lookups` are templates by the name of their placeholder."""
        values: Mapping[str, str] = {**_PLACEHOLDERS, **lookups}
        query = "&".join(f"var-{label}={{{{ $labels.{label} | urlquery }}}}" for label in self.variables)
        return Annotations(
            summary.format_map(values),
            tuple(line.format_map(values) for line in description),
            f"{self.links.runbooks}#{name.lower()}",
            f"{self.links.dashboards}/d/{self.dashboard}{'?' if query else ''}{query}",
        )


def lookup(series: str, *labels: str, text: str) -> str:
    """Return a template with the series whose labels are equal to the alert's; empty where there is none."""
    return f'{{{{ range query "{_escape(series)}" }}}}{{{{ if {_equal(labels)} }}}}{text}{{{{ end }}}}{{{{ end }}}}'


def list_lookup(series: str, *labels: str, title: str, text: str, condition: str = "", by: str = "") -> str:
    """Return a template that lists all such series after a title, separated by commas.

    Ordered by the label `by`, or the largest first. `condition` replaces the comparison of labels.
    """
    query = f'"{_escape(series)}" | sortByLabel "{by}"' if by else f'"sort_desc({_escape(series)})"'
    return (
        f'{{{{ $separator := "{title}" }}}}{{{{ range query {query} }}}}{{{{ if {condition or _equal(labels)} }}}}'
        f'{{{{ $separator }}}} {text}{{{{ $separator = "," }}}}{{{{ end }}}}{{{{ end }}}}'
    )


def _equal(labels: tuple[str, ...]) -> str:
    tests = [f"eq .Labels.{label} $labels.{label}" for label in labels]
    return tests[0] if len(tests) == 1 else "and " + " ".join(f"({test})" for test in tests)


def _escape(query: str) -> str:
    return query.replace('"', '\\"')
