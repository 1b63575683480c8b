"""Each scenario is played once per test run, when the first test asks for it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.scenarios.run_scenario import Run, play
from tests.scenarios.scenarios import SCENARIOS


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let `pytest tests/scenarios --write-estimates` write the table anew instead of comparing it."""
    parser.addoption("--write-estimates", action="store_true", help="write docs/estimates.md anew")


@pytest.fixture(scope="session")
def played(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Run]:
    """Return what plays a scenario by its name, or remembers it."""
    runs: dict[str, Run] = {}

    def run(name: str) -> Run:
        if name not in runs:
            runs[name] = play(SCENARIOS[name], tmp_path_factory.mktemp("scenario"))
        return runs[name]

    return run
