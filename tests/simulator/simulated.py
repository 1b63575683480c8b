"""Shared by the simulator's tests: a fixed clock, a client with every account's key, and the specifications."""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import httpx

from exporter.model import Row
from exporter.simulator.server import Simulator
from exporter.simulator.world import SimAccount, World, demo_world
from tests.simulator.specification import load_specification

NOW = datetime(2026, 11, 20, 15, 20, 30, tzinfo=UTC)
TODAY = NOW.replace(hour=0, minute=0, second=0)

Params = Mapping[str, Any]


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self, now: datetime = NOW) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


class SimulatorClient:
    """Calls a simulator with the keys of its accounts."""

    def __init__(self, simulator: Simulator, client: httpx.Client) -> None:
        self.simulator = simulator
        self.world = simulator.world
        self.client = client

    def get(self, account: str, path: str, params: Params | None = None) -> httpx.Response:
        return self.client.get(
            self.simulator.base_url(account) + path,
            params=params or {},
            headers=auth_headers(self.world.accounts[account]),
        )

    def post_events(self, account: str, **body: object) -> httpx.Response:
        url = f"{self.simulator.base_url(account)}/teams/filtered-usage-events"
        return self.client.post(url, json=body, headers=auth_headers(self.world.accounts[account]))

    def fetch_all_pages(self, account: str, path: str, params: Params) -> list[Any]:
        """Return the buckets of all pages."""
        buckets: list[Any] = []
        page: dict[str, str] = {}
        while True:
            answer = self.get(account, path, {**params, **page})
            assert answer.status_code == 200, answer.text
            buckets += answer.json()["data"]
            if not answer.json()["has_more"]:
                return buckets
            page = {"page": answer.json()["next_page"]}


@contextmanager
def open_client(world: World) -> Iterator[SimulatorClient]:
    with Simulator(world) as simulator, httpx.Client() as client:
        yield SimulatorClient(simulator, client)


@contextmanager
def open_demo_client(now: datetime = NOW) -> Iterator[SimulatorClient]:
    with open_client(demo_world(Clock(now))) as caller:
        yield caller


def auth_headers(account: SimAccount) -> dict[str, str]:
    if account.provider == "anthropic":
        return {"x-api-key": account.key, "anthropic-version": "2023-06-01"}
    if account.provider == "cursor":
        return {"authorization": f"Basic {b64encode(f'{account.key}:'.encode()).decode()}"}
    return {"authorization": f"Bearer {account.key}"}


def sum_by_meter(rows: Iterable[tuple[datetime, Row]]) -> Counter[str]:
    """Return meter -> units over all rows."""
    sums: Counter[str] = Counter()
    for _, row in rows:
        sums[row.meter] += row.value
    return sums


def assert_conforms(body: object, api: str, path: str) -> None:
    """Check an answer against the published specification of its path (specs/`api`.yaml)."""
    load_specification(api).check_answer(path, body)
