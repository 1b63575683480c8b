"""What the suite measured: which incidents were found and when, and which alerts fired in normal weeks."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path

from exporter.backtest.promtool import AlertEpisode
from exporter.model import DAY, HOUR
from exporter.windows import floor
from tests.incidents.play import PlayedPast
from tests.incidents.recorded_provider import USAGE
from tests.incidents.suite import Incident, NormalAccount

PATH = Path(__file__).with_name("results.json")
"""The recorded results: the rules as they are now, and for comparison those of an earlier time."""
MAX_WARNINGS, MAX_CRITICALS = 0.2, 0.02
"""Targets: false alarms per account-month."""
_MONTH = 30 * DAY
_ECHO = DAY
"""Alerts that begin so long after an incident still belong to it: a day's sum includes it until then."""


@dataclass(frozen=True, slots=True)
class IncidentResult:
    """How an incident was found."""

    kind: str
    size: str
    late: bool
    found_by: str
    """The alert that found it first; empty where none did."""
    minutes: int | None
    """From the beginning of the incident to the alert."""
    complete_hours: int | None
    """Hours of the incident that the provider had reported completely when the alert fired."""
    max_complete_hours: int
    firings: int
    """How often the alert fired that found it."""
    other_alerts: Mapping[str, int]
    """Warnings and critical alerts that fired too while it lasted, and how often."""
    false_alerts: Mapping[str, int]
    """Warnings and critical alerts that fired before it, or more than a day after it."""

    @property
    def in_time(self) -> bool:
        """Whether it was found within its target."""
        return self.complete_hours is not None and self.complete_hours <= self.max_complete_hours


@dataclass(frozen=True, slots=True)
class NormalResult:
    """Alerts in the normal weeks of all accounts of one shape."""

    shape: str
    account_months: float
    alerts: Mapping[str, Mapping[str, int]]
    """Severity -> alert -> how often it fired."""

    def per_account_month(self, severity: str) -> float:
        """Return how often alerts of a severity fired."""
        return sum(self.alerts.get(severity, {}).values()) / self.account_months


@dataclass(frozen=True, slots=True)
class SuiteResult:
    """One measurement."""

    incidents: Sequence[IncidentResult]
    normal: Sequence[NormalResult]


def judge_incident(incident: Incident, past: PlayedPast) -> IncidentResult:
    """Return how an incident was found."""
    episodes = past.of_account(incident.account.name)
    finding = [episode for episode in episodes if _finds(episode, incident) and _ends_after(episode, incident.start)]
    # An alert that had begun before says nothing about the incident.
    first = next((episode for episode in finding if episode.since >= incident.start), None)
    others = [
        episode
        for episode in episodes
        if episode.labels.get("severity") in ("warning", "critical") and (first is None or episode.alert != first.alert)
    ]
    last = incident.end + _ECHO + incident.account.delay
    return IncidentResult(
        kind=incident.kind,
        size=incident.size,
        late=incident.late,
        found_by="" if first is None else first.alert,
        minutes=None if first is None else (first.since - incident.start) // timedelta(minutes=1),
        complete_hours=None if first is None else _complete_hours(incident, first.since),
        max_complete_hours=incident.max_complete_hours,
        firings=0 if first is None else sum(episode.alert == first.alert for episode in finding),
        other_alerts=_count(episode for episode in others if incident.start <= episode.since <= last),
        false_alerts=_count(episode for episode in others if not incident.start <= episode.since <= last),
    )


def judge_normal(accounts: Sequence[NormalAccount], past: PlayedPast) -> list[NormalResult]:
    """Return the alerts of normal weeks by shape."""
    results = []
    for shape in dict.fromkeys(account.shape for account in accounts):
        members = [account for account in accounts if account.shape == shape]
        episodes = [episode for member in members for episode in past.of_account(member.account.name)]
        severities = sorted({episode.labels["severity"] for episode in episodes})
        alerts = {
            severity: _count(episode for episode in episodes if episode.labels["severity"] == severity)
            for severity in severities
        }
        months = len(members) * ((past.end - past.start) / _MONTH)
        results.append(NormalResult(shape, round(months, 3), alerts))
    return results


def _finds(episode: AlertEpisode, incident: Incident) -> bool:
    return episode.alert in incident.alerts and (not incident.budget or episode.labels.get("budget") == incident.budget)


def _ends_after(episode: AlertEpisode, time: datetime) -> bool:
    return episode.until is None or episode.until > time


def _complete_hours(incident: Incident, fired_at: datetime) -> int:
    newest_complete = floor(fired_at - incident.account.delay - USAGE.lag, HOUR)
    return max(0, (newest_complete - incident.start) // HOUR)


def _count(episodes: Iterable[AlertEpisode]) -> dict[str, int]:
    return dict(sorted(Counter(episode.alert for episode in episodes).items()))


def load_results(path: Path = PATH) -> dict[str, SuiteResult]:
    """Return `before` and `now`, as recorded."""
    return {
        name: SuiteResult(
            tuple(IncidentResult(**incident) for incident in recorded["incidents"]),
            tuple(NormalResult(**normal) for normal in recorded["normal"]),
        )
        for name, recorded in json.loads(path.read_text()).items()
    }


def save_results(results: Mapping[str, SuiteResult], path: Path = PATH) -> None:
    """Record results."""
    document = {name: asdict(result) for name, result in results.items()}
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
