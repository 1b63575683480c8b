"""The option of `make incidents`."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let `pytest tests/incidents --write-incidents` play the whole suite and write its results."""
    parser.addoption("--write-incidents", action="store_true", help="update the incident tables of docs/alerts.md")
