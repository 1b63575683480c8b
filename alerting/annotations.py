"""Builds annotations: a summary of one line, a description of at most three, and two links.

Texts have the placeholders of `_PLACEHOLDERS`, and names of lookups. A lookup reads another series by a constant query
and selects by labels inside the template, so that linters can check the query.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from alerting.config import Links

# Without seconds, and without the zeros at the end.
_DURATION = 'humanizeDuration | reReplaceAll "( 0h)?( 0m)? [0-9]+s$" ""'

_PLACEHOLDERS = {
    "account": "{{ $labels.account }}",
    "budget": "{{ $labels.budget }}",
    "date": "{{ $labels.date }}",
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
    "duration": f"{{{{ $value | {_DURATION} }}}}",
}
USD = '${{ .Value | printf "%.2f" }}'
NUMBER = "{{ .Value | humanize }}"
PERCENT = "{{ .Value | humanizePercentage }}"
DURATION = f"{{{{ .Value | {_DURATION} }}}}"
TIME = '{{ (.Value | toTime).UTC.Format "2006-01-02 15:04 UTC" }}'
"""Of a Unix time; the standard function prints nanoseconds and an offset."""


@dataclass(frozen=True, slots=True)
class Annotations:
    """The annotations of an alert."""

    summary: str
    description: tuple[str, ...]
    """Lines."""
    total: str
    """What the incident has cost so far, which a notification about its end shows; empty where it costs nothing."""
    runbook_url: str
    dashboard_url: str


@dataclass(frozen=True, slots=True)
class AnnotationBuilder:
    """Builds the annotations of one file's alerts: the same dashboard, and the same labels in the link."""

    links: Links
    dashboard: str
    variables: tuple[str, ...] = ()
    """Labels that the link passes to the dashboard as variables."""

    def build(self, name: str, summary: str, *description: str, total: str = "", **lookups: str) -> Annotations:
        """Return the annotations of an alert; `lookups` are templates by the name of their placeholder."""
        values: Mapping[str, str] = {**_PLACEHOLDERS, **lookups}
        query = "&".join(f"var-{label}={{{{ $labels.{label} | urlquery }}}}" for label in self.variables)
        return Annotations(
            summary.format_map(values),
            tuple(line.format_map(values) for line in description),
            total.format_map(values),
            f"{self.links.runbooks}#{name.lower()}",
            f"{self.links.dashboards}/d/{self.dashboard}{'?' if query else ''}{query}",
        )


def lookup(series: str, *labels: str, text: str) -> str:
    """Return a template with the series whose labels are equal to the alert's; empty where there is none."""
    return f'{{{{ range query "{_escape(series)}" }}}}{{{{ if {_equal(labels)} }}}}{text}{{{{ end }}}}{{{{ end }}}}'


def since(times: str, *labels: str, title: str = "Since") -> str:
    """Return a template with the Unix time that a query returns, and its age in whole minutes, as a sentence."""
    age = f"floor((time() - ({times})) / 60) * 60"
    return lookup(times, *labels, text=f" {title} {TIME}") + lookup(age, *labels, text=f" ({DURATION}).")


def active_since(alert: str, *labels: str) -> str:
    """Return a template with the time since which the alert's own condition has been true."""
    return since(f'ALERTS_FOR_STATE{{alertname="{alert}"}}', *labels)


def list_lookup(series: str, *labels: str, title: str, text: str, condition: str = "", by: str = "") -> str:
    """Return a template with a sentence that lists all such series after a title; empty where there is none.

    Ordered by the label `by`, or the largest first. `condition` replaces the comparison of labels.
    """
    query = f'"{_escape(series)}" | sortByLabel "{by}"' if by else f'"sort_desc({_escape(series)})"'
    return (
        f'{{{{ $separator := "{title}" }}}}{{{{ range query {query} }}}}{{{{ if {condition or _equal(labels)} }}}}'
        f'{{{{ $separator }}}} {text}{{{{ $separator = "," }}}}{{{{ end }}}}{{{{ end }}}}'
        '{{ if eq $separator "," }}.{{ end }}'
    )


def _equal(labels: tuple[str, ...]) -> str:
    tests = [f"eq .Labels.{label} $labels.{label}" for label in labels]
    return tests[0] if len(tests) == 1 else "and " + " ".join(f"({test})" for test in tests)


def _escape(query: str) -> str:
    return query.replace('"', '\\"')
