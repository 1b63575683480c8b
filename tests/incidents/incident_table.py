"""The section of docs/alerts.md with the recorded results of the suite."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from tests.incidents.results import MAX_CRITICALS, MAX_WARNINGS, IncidentResult, NormalResult, SuiteResult
from tests.incidents.suite import USD_PER_HOUR
from tests.paths import ROOT

PATH = ROOT / "docs" / "alerts.md"
HEADING = "## Incidents found and false alarms\n"
_NEXT_HEADING = "\n## "
_INTRODUCTION = """
Measured by `make incidents` with the default settings; the tables are generated. Accounts with seeded usage are polled
through the whole exporter on a simulated clock, and promtool evaluates the rules over the pages that it served. *small*
accounts cost about {small} an hour and workspace, *large* ones {large}; a *late* account's provider reports usage three
hours after it. *After* is the time from the first hour of the incident (of a bill: from when it is available) to the
alert, *hours* the complete hours of the incident that were reported by then.
"""


_REASONS = {
    "workspace silent": "the newest complete hours of a late account are always empty, so that a stop looks like the "
    "usual delay.",
    "cache broken": "the newest complete hours of a late account are always empty, so that only the ratio of the whole "
    "day shows it, which falls slowly, or an excess of several hours that adds up to $20.",
    "context five times as long": "of a late account the excess of several hours has to add up to $20.",
    "slow creep, 15 % a day": "measured from the first hour at whose rate of the last day the budget would be "
    "exceeded, while the rules wait for three days, or for the forecast, which follows the last week.",
    "new level, six times": "it ends in the nights, whose hours are not above their bounds.",
    "new expensive model": "the alert is about a UTC day, and begins again with each of them.",
}
"""Kind of incident -> why an incident of it is missed, found late, or found more than once."""


def render_section(results: Mapping[str, SuiteResult]) -> str:
    """Return the text below the heading."""
    now, before = results["now"], results["before"]
    small, large = (f"${usd:g}" for usd in USD_PER_HOUR.values())
    parts = [
        _INTRODUCTION.format(small=small, large=large),
        _render_summary(before, now),
        "### Incidents\n\n" + _render_incidents(now.incidents, before.incidents),
        _render_reasons(now.incidents),
        "### Normal weeks\n\n" + _render_normal(now.normal, before.normal),
    ]
    return "\n".join(parts)


def read_section() -> str:
    """Return the text below the heading in the document."""
    return PATH.read_text().partition(HEADING)[2].partition(_NEXT_HEADING)[0].rstrip("\n") + "\n"


def write_section(text: str) -> None:
    """Replace the text below the heading."""
    before, _, rest = PATH.read_text().partition(HEADING)
    _, separator, after = rest.partition(_NEXT_HEADING)
    PATH.write_text(f"{before}{HEADING}{text.rstrip()}\n{separator}{after}")


def _render_summary(before: SuiteResult, now: SuiteResult) -> str:
    rows = [
        ("incidents found", "all", *(_found(result.incidents) for result in (before, now))),
        (
            "found within the target of complete hours",
            "all",
            *(f"{sum(incident.in_time for incident in r.incidents)} of {len(r.incidents)}" for r in (before, now)),
        ),
        (
            "incidents whose alert fired more than once",
            "0",
            *(str(sum(incident.firings > 1 for incident in r.incidents)) for r in (before, now)),
        ),
        (
            "false warnings per account-month of normal weeks",
            f"{MAX_WARNINGS:g}",
            *(_rate(result.normal, "warning") for result in (before, now)),
        ),
        (
            "false critical alerts per account-month of normal weeks",
            f"{MAX_CRITICALS:g}",
            *(_rate(result.normal, "critical") for result in (before, now)),
        ),
    ]
    header = "| | target | first measurement | now |\n| --- | --- | --- | --- |\n"
    return header + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _found(incidents: Sequence[IncidentResult]) -> str:
    return f"{sum(bool(incident.found_by) for incident in incidents)} of {len(incidents)}"


def _rate(normal: Sequence[NormalResult], severity: str) -> str:
    months = sum(result.account_months for result in normal)
    count = sum(sum(result.alerts.get(severity, {}).values()) for result in normal)
    return f"{count / months:.2f} ({count} in {months:.0f})" if months else "-"


def _render_incidents(now: Sequence[IncidentResult], before: Sequence[IncidentResult]) -> str:
    first = {(result.kind, result.size, result.late): result for result in before}
    lines = [
        "| incident | account | found by | after | hours | fired | first measurement | also fired |",
        "| --- " * 8 + "|",
    ]
    for result in now:
        earlier = first.get((result.kind, result.size, result.late))
        others = Counter(result.other_alerts) + Counter(result.false_alerts)
        cells = [
            result.kind,
            result.size + (", late" if result.late else ""),
            f"`{result.found_by}`" if result.found_by else "**missed**",
            _format_minutes(result.minutes),
            _format_hours(result),
            f"{result.firings}x" if result.found_by else "-",
            _format_earlier(earlier),
            _format_alerts(others),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _render_reasons(incidents: Sequence[IncidentResult]) -> str:
    """Return a list of the incidents that missed a target, and why."""
    missed: dict[str, list[str]] = {}
    for result in incidents:
        if not result.found_by:
            missed.setdefault(result.kind, []).append("missed")
        elif not result.in_time:
            missed.setdefault(result.kind, []).append("late")
        if result.firings > 1:
            missed.setdefault(result.kind, []).append("fired more than once")
    if not missed:
        return ""
    lines = (
        f"* {kind} ({', '.join(dict.fromkeys(problems))}): {_REASONS.get(kind, 'not known yet.')}\n"
        for kind, problems in missed.items()
    )
    return "Not as intended, and why:\n\n" + "".join(lines)


def _format_earlier(earlier: IncidentResult | None) -> str:
    if earlier is None:
        return "not measured"
    if not earlier.found_by:
        return "missed"
    return f"{_format_minutes(earlier.minutes)}, {earlier.firings}x"


def _render_normal(now: Sequence[NormalResult], before: Sequence[NormalResult]) -> str:
    first = {result.shape: result for result in before}
    lines = [
        "| usage | account-months | warnings | critical | which | first measurement |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for result in now:
        earlier = first.get(result.shape)
        cells = [
            result.shape,
            f"{result.account_months:.1f}",
            str(sum(result.alerts.get("warning", {}).values())),
            str(sum(result.alerts.get("critical", {}).values())),
            _format_alerts(_loud_alerts(result)),
            "not measured" if earlier is None else _format_alerts(_loud_alerts(earlier)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _loud_alerts(result: NormalResult) -> Counter[str]:
    return Counter(result.alerts.get("warning", {})) + Counter(result.alerts.get("critical", {}))


def _format_alerts(alerts: Mapping[str, int]) -> str:
    texts = (f"`{alert}`" + (f" {count}x" if count > 1 else "") for alert, count in sorted(alerts.items()))
    return ", ".join(texts) or "-"


def _format_hours(result: IncidentResult) -> str:
    if result.complete_hours is None:
        return "-"
    return f"{result.complete_hours}" if result.in_time else f"{result.complete_hours} **late**"


def _format_minutes(minutes: int | None) -> str:
    if minutes is None:
        return "-"
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest:02d} min" if hours else f"{rest} min"
