"""What the simulator's tests share: a fixed clock, a caller that knows every account's key, and the specifications."""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
import yaml

from exporter.model import Row
from exporter.simulator.server import Simulator
from exporter.simulator.world import SimAccount, World, demo_world

NOW = datetime(2026, 11, 20, 15, 20, 30, tzinfo=UTC)
TODAY = NOW.replace(hour=0, minute=0, second=0)
SPECS = Path(__file__).parents[3] / "shared" / "specs"

Params = Mapping[str, Any]


class Clock:
    """A clock that moves when it is told to."""

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


def assert_conforms(body: object, spec: str, path: str) -> None:
    """Validate an answer against the published specification of its path; skip where the folder is not there."""
    file = SPECS / f"{spec}.openapi.yaml"
    if not file.exists():
        pytest.skip(f"the published specifications are not present at {SPECS}")
    document = _load_spec(file)
    schema = document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    jsonschema.Draft202012Validator({**schema, "components": document["components"]}).validate(body)


_LOADED_SPECS: dict[Path, Any] = {}


def _load_spec(file: Path) -> Any:
    if file not in _LOADED_SPECS:
        _LOADED_SPECS[file] = yaml.safe_load(file.read_text())
    return _LOADED_SPECS[file]
