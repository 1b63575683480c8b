"""Options of the test run, and what every test process has in common."""

from __future__ import annotations

import signal

import pytest
from hypothesis import HealthCheck, settings

# No test depends on the machine's speed.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let `make golden` write the golden files instead of comparing them."""
    parser.addoption("--write-golden", action="store_true", help="write the golden files instead of comparing them")


@pytest.fixture(scope="session", autouse=True)
def _start_children_with_default_signals() -> None:
    """Let child processes receive SIGINT and SIGHUP although this one, started with nohup or `&`, ignores them.

    A child inherits a signal that is ignored, but not a signal that has a handler.
    """
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
