"""Options of the test run."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let `make golden` write the golden files instead of comparing them."""
    parser.addoption("--write-golden", action="store_true", help="write golden files anew instead of comparing")
