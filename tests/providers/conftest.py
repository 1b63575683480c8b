"""One simulated world for the contract tests, at a fixed time."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from exporter.simulator.server import Simulator
from exporter.simulator.world import demo_world

NOW = datetime(2026, 11, 20, 13, 22, 11, tzinfo=UTC)


@pytest.fixture(scope="session")
def world_server() -> Iterator[Simulator]:
    """Serve the demo's accounts during the whole session, with a clock that stands still."""
    with Simulator(demo_world(lambda: NOW)) as server:
        yield server


@pytest.fixture
def simulator(world_server: Simulator) -> Iterator[Simulator]:
    """Yield the server without faults and with an empty log."""
    world_server.clear_faults()
    world_server.requests.clear()
    yield world_server
    world_server.clear_faults()
