"""Tests of faults have a short form, for every run of the tests, and a long form, for `make faults`."""

from __future__ import annotations

import pytest

from tests.faults.results import Results

_RESULTS = Results()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let `make faults` choose the long form and another seed."""
    parser.addoption("--long", action="store_true", help="run the long form of the fault tests")
    parser.addoption("--seed", type=int, default=16, help="seed of random faults")
    parser.addoption("--inputs", type=int, default=0, help="random inputs of each parser in the long form")
    parser.addoption("--accounts", type=int, default=20, help="accounts of the long form of the soak test")
    parser.addoption("--minutes", type=float, default=3, help="duration of the long form of the soak test")


@pytest.fixture(name="long", scope="session")
def _is_long(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--long", default=False))


@pytest.fixture(name="seed", scope="session")
def _seed(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--seed", default=16))


@pytest.fixture(name="inputs_per_parser", scope="session")
def _inputs_per_parser(request: pytest.FixtureRequest) -> int:
    """Return 0 where as many are parsed as take a fixed CPU time."""
    return int(request.config.getoption("--inputs", default=0))


@pytest.fixture(name="soak_accounts", scope="session")
def _soak_accounts(request: pytest.FixtureRequest, *, long: bool) -> int:
    return int(request.config.getoption("--accounts", default=20)) if long else 3


@pytest.fixture(name="soak_seconds", scope="session")
def _soak_seconds(request: pytest.FixtureRequest) -> float:
    return 60 * float(request.config.getoption("--minutes", default=3))


@pytest.fixture(name="results", scope="session")
def _results() -> Results:
    return _RESULTS


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table after the long form."""
    if config.getoption("--long", default=False) and _RESULTS.rows:
        terminalreporter.section("faults")
        for line in _RESULTS.render():
            terminalreporter.write_line(line)
