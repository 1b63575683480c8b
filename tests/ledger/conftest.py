"""The places of a ledger: tests with `location` or `new_location` run on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from exporter.ledger import Ledger, LedgerLocation
from tests.postgres import NewLocation, PostgresServer, start_postgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A server for all tests of this process."""
    with start_postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def backend(request: pytest.FixtureRequest) -> str:
    """The database on which the test runs."""
    return str(request.param)


@pytest.fixture
def new_location(backend: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> NewLocation:
    """Return a place for another empty ledger at each call."""
    if backend == "sqlite":
        return lambda: tmp_path_factory.mktemp("ledger")
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_location


@pytest.fixture
def location(new_location: NewLocation) -> LedgerLocation:
    """A place for an empty ledger."""
    return new_location()


@pytest.fixture
def ledger(location: LedgerLocation) -> Iterator[Ledger]:
    """An empty ledger."""
    opened = Ledger(location)
    yield opened
    opened.close()
