"""Each scenario runs once per test run, when the first test needs it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.scenarios.run_scenario import ScenarioRun, run_scenario
from tests.scenarios.scenarios import SCENARIOS


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let `pytest tests/scenarios --write-estimates` write the table instead of comparing it."""
    parser.addoption("--write-estimates", action="store_true", help="update docs/estimates.md")


@pytest.fixture(scope="session")
def run_by_name(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ScenarioRun]:
    """Return a function that runs a scenario by its name, or returns its earlier run."""
    runs: dict[str, ScenarioRun] = {}

    def run(name: str) -> ScenarioRun:
        if name not in runs:
            runs[name] = run_scenario(SCENARIOS[name], tmp_path_factory.mktemp("scenario"))
        return runs[name]

    return run
