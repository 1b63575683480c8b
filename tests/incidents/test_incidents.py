"""The recorded results of the incident suite are shown in the document, and some of them are measured again."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporter.model import DAY, HOUR
from tests.incidents import incident_table as table
from tests.incidents import results
from tests.incidents.play import AFTER_AND_BEFORE_THE_HOUR, evaluate_rules, scrape_past
from tests.incidents.suite import (
    INCIDENTS_END,
    INCIDENTS_START,
    NORMAL_DAYS,
    NORMAL_START,
    WEDNESDAY,
    incidents,
    normal_accounts,
)

MEASURED_AGAIN = ("runaway at night", "key revoked", "workspace silent")
"""Incidents of which an ordinary test run plays the first hours."""


def test_the_document_shows_the_recorded_results(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """The section of docs/alerts.md is generated from the results; `make incidents` measures them."""
    if request.config.getoption("--write-incidents", default=False):
        recorded = results.load_results()
        results.save_results({"before": recorded["before"], "now": measure(tmp_path)})
        table.write_section(table.render_section(results.load_results()))
    assert table.read_section() == table.render_section(results.load_results())


def test_every_incident_and_shape_of_the_suite_is_recorded() -> None:
    """The recorded results are those of the present suite."""
    recorded = results.load_results()["now"]
    assert [(result.kind, result.size, result.late) for result in recorded.incidents] == [
        (incident.kind, incident.size, incident.late) for incident in incidents()
    ]
    assert [result.shape for result in recorded.normal] == list(
        dict.fromkeys(account.shape for account in normal_accounts())
    )


def test_the_first_hours_of_some_incidents_have_the_recorded_results(tmp_path: Path) -> None:
    """A runaway at night, a revoked key and a silent workspace are found by the recorded alert after the same time."""
    played = [incident for incident in incidents() if incident.kind in MEASURED_AGAIN and incident.size == "small"]
    accounts = [incident.account for incident in played]
    past = evaluate_rules(scrape_past(accounts, [], WEDNESDAY, WEDNESDAY + 14 * HOUR, tmp_path), accounts)
    recorded = {(result.kind, result.size, result.late): result for result in results.load_results()["now"].incidents}
    for incident in played:
        found = results.judge_incident(incident, past)
        expected = recorded[incident.kind, incident.size, incident.late]
        assert (found.found_by, found.minutes) == (expected.found_by, expected.minutes), incident.name


def measure(folder: Path) -> results.SuiteResult:
    """Play the whole suite."""
    suite, normal = list(incidents()), list(normal_accounts())
    accounts = [incident.account for incident in suite]
    budgets = [budget for incident in suite for budget in incident.budgets]
    (folder / "incidents").mkdir()
    past = evaluate_rules(
        scrape_past(accounts, budgets, INCIDENTS_START, INCIDENTS_END, folder / "incidents"), accounts
    )
    normal_past_accounts = [member.account for member in normal]
    (folder / "normal").mkdir()
    scraped = scrape_past(
        normal_past_accounts,
        [budget for member in normal for budget in member.budgets],
        NORMAL_START,
        NORMAL_START + NORMAL_DAYS * DAY,
        folder / "normal",
        AFTER_AND_BEFORE_THE_HOUR,
    )
    normal_past = evaluate_rules(scraped, normal_past_accounts)
    return results.SuiteResult(
        [results.judge_incident(incident, past) for incident in suite], results.judge_normal(normal, normal_past)
    )
