"""The specifications in the repository accept valid answers only, and simulator and exporter conform to them."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import pytest

from exporter.model import DAY, Secret
from exporter.providers import PROVIDERS, create_provider
from exporter.providers.http import ClientConfig
from tests.simulator.simulated import NOW, TODAY, SimulatorClient, assert_conforms, open_demo_client
from tests.simulator.specification import FOLDER, load_specification

ACCOUNTS = {"openai": "acme-openai", "anthropic": "acme-anthropic"}
START = {
    "start_time": str(int((TODAY - DAY).timestamp())),
    "starting_at": (TODAY - DAY).isoformat().replace("+00:00", "Z"),
}
ENDPOINTS = [(api, path) for api in ACCOUNTS for path in load_specification(api).endpoints]
PROJECT = {"id": "proj_1", "object": "organization.project", "created_at": 1}
PROJECTS = {"object": "list", "data": [PROJECT], "has_more": False}


@pytest.fixture(scope="module")
def caller() -> Iterator[SimulatorClient]:
    with open_demo_client() as caller:
        yield caller


def test_every_specification_is_used() -> None:
    """The folder holds one file for each API that is tested against it."""
    assert {path.stem for path in FOLDER.iterdir()} == set(ACCOUNTS)


@pytest.mark.parametrize(("api", "path"), ENDPOINTS)
def test_the_simulator_serves_every_endpoint(caller: SimulatorClient, api: str, path: str) -> None:
    """Each path answers as specified, with its required parameters and grouped by each of its labels."""
    endpoint = load_specification(api).endpoints[path]
    account = ACCOUNTS[api]
    address = path.replace("{project_id}", next(iter(caller.world.accounts[account].workspaces)))
    required = {name: START[name] for name in endpoint.required}
    for group_by in ([], *([label] for label in endpoint.group_by)):
        answer = caller.get(account, address, {**required, "group_by[]": group_by})
        assert answer.status_code == 200, answer.text
        assert_conforms(answer.json(), api, path)


@pytest.mark.parametrize(("api", "path"), ENDPOINTS)
def test_required_parameters_are_required(caller: SimulatorClient, api: str, path: str) -> None:
    """Without a required parameter the answer is 400 with its name."""
    for name in load_specification(api).endpoints[path].required:
        answer = caller.get(ACCOUNTS[api], path)
        assert answer.status_code == 400
        assert name in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("change", "value"),
    [
        (("has_more",), "yes"),
        (("has_more",), None),
        (("object",), "page"),
        (("surplus",), 1),
        (("data", 0, "created_at"), "yesterday"),
        (("data", 0, "name"), 7),
        (("data", 0, "surplus"), ""),
        (("data", 0), None),
    ],
)
def test_other_answers_do_not_conform(change: tuple[str | int, ...], value: object) -> None:
    """A field of another type, an unknown field and another constant are found."""
    body: Any = copy.deepcopy(PROJECTS)
    assert_conforms(body, "openai", "/organization/projects")
    target = body
    for step in change[:-1]:
        target = target[step]
    target[change[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        assert_conforms(body, "openai", "/organization/projects")


@pytest.mark.parametrize("missing", ["object", "data", "has_more"])
def test_missing_fields_do_not_conform(missing: str) -> None:
    """A field without a question mark is required."""
    body = {name: value for name, value in PROJECTS.items() if name != missing}
    with pytest.raises(jsonschema.ValidationError):
        assert_conforms(body, "openai", "/organization/projects")


@pytest.mark.parametrize("api", ACCOUNTS)
def test_the_exporter_sends_only_specified_requests(caller: SimulatorClient, api: str) -> None:
    """Every request of a provider has a specified path, its required parameters, and no unknown parameter or label."""
    simulator = caller.simulator
    account = ACCOUNTS[api]
    client_config = ClientConfig(
        Secret(caller.world.accounts[account].key), simulator.base_url(account), by_api_key=True
    )
    simulator.requests.clear()
    with closing(create_provider(PROVIDERS[api], client_config)) as provider:
        provider.verify()
        provider.names()
        for report in provider.reports:
            list(provider.fetch(report, TODAY - 10 * DAY, NOW))
    assert simulator.requests
    base_path = urlsplit(simulator.base_url(account)).path
    for request in simulator.requests:
        path = re.sub("/proj_[^/]+/", "/{project_id}/", request.path.removeprefix(base_path))
        endpoint = load_specification(api).endpoints[path]
        assert set(endpoint.required) <= request.query.keys() <= endpoint.parameters
        assert set(request.query.get("group_by", "").split(",")) - {""} <= set(endpoint.group_by)
