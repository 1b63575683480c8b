"""The simulator's server: log, faults, control paths, start and stop."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator

import httpx
import pytest

from exporter.model import DAY, Row, utc
from exporter.simulator.server import LoggedRequest, Simulator
from exporter.simulator.world import demo_world
from tests.simulator.simulated import NOW, TODAY, Clock, SimulatorClient, auth_headers, open_demo_client, sum_by_meter

USAGE = "/organization/usage/completions"
TIME_RANGE = {"start_time": int((TODAY - DAY).timestamp()), "bucket_width": "1h", "limit": 12}
ACCOUNT = "acme-openai"


@pytest.fixture(scope="module")
def shared_caller() -> Iterator[SimulatorClient]:
    with open_demo_client() as caller:
        yield caller


@pytest.fixture
def caller(shared_caller: SimulatorClient) -> Iterator[SimulatorClient]:
    yield shared_caller
    shared_caller.simulator.clear_faults()


def test_same_seed_and_clock_give_the_same_bytes(caller: SimulatorClient) -> None:
    """Two simulators with equal seeds and clocks give identical answers."""
    with open_demo_client() as other:
        for account, path in (
            (ACCOUNT, f"{USAGE}?start_time={TIME_RANGE['start_time']}&group_by[]=model"),
            ("acme-anthropic", "/v1/organizations/cost_report?starting_at=2026-11-18T00:00:00Z&group_by[]=description"),
            ("acme-cursor", "/teams/groups"),
        ):
            assert caller.get(account, path).content == other.get(account, path).content


def test_every_call_is_logged(caller: SimulatorClient) -> None:
    """The log has the account, the full path, the query without brackets and the status."""
    before = len(caller.simulator.requests)
    caller.get(ACCOUNT, USAGE, {**TIME_RANGE, "group_by[]": ["model", "batch"]})
    caller.client.get(caller.simulator.base_url(ACCOUNT) + USAGE)
    known, unknown = caller.simulator.requests[before:]
    query = {**{name: str(value) for name, value in TIME_RANGE.items()}, "group_by": "model,batch"}
    assert known == LoggedRequest(ACCOUNT, "GET", f"/openai/v1{USAGE}", query, 200)
    assert unknown == LoggedRequest("", "GET", f"/openai/v1{USAGE}", {}, 401)


@pytest.mark.parametrize(
    ("account", "kind", "status", "token"),
    [
        (ACCOUNT, "rate_limited", 429, "Rate limit"),
        (ACCOUNT, "overloaded", 529, "overloaded"),
        (ACCOUNT, "server_error", 500, "server"),
        (ACCOUNT, "revoked", 401, "revoked"),
        (ACCOUNT, "expired", 401, "expired"),
        (ACCOUNT, "missing_scope", 403, "Missing scopes: api.usage.read"),
        (ACCOUNT, "wrong_key", 403, "Missing scopes: api.usage.read"),
        ("acme-anthropic", "rate_limited", 429, "rate_limit_error"),
        ("acme-anthropic", "overloaded", 529, "overloaded_error"),
        ("acme-anthropic", "missing_scope", 403, "Needed:"),
        ("acme-anthropic", "revoked", 401, "authentication_error"),
        ("acme-cursor", "rate_limited", 429, "Too Many Requests"),
        ("acme-cursor", "missing_scope", 401, "missing required scope"),
        ("acme-cursor", "server_error", 500, "Internal Server Error"),
    ],
)
def test_error_faults_answer_as_the_provider(
    caller: SimulatorClient, account: str, kind: str, status: int, token: str
) -> None:
    """An error fault answers with the provider's status and message until it is cleared."""
    caller.simulator.add_fault(account, kind)
    path = {"acme-anthropic": "/v1/organizations/me", "acme-cursor": "/teams/members"}.get(
        account, "/organization/projects"
    )
    for _ in range(2):
        answer = caller.get(account, path)
        assert (answer.status_code, token in answer.text) == (status, True)
    caller.simulator.clear_faults(account)
    assert caller.get(account, path).status_code == 200


def test_retry_after_is_sent_only_on_request(caller: SimulatorClient) -> None:
    """A rate limit has Retry-After only where the fault has it."""
    caller.simulator.add_fault(ACCOUNT, "rate_limited", times=1, retry_after=17)
    caller.simulator.add_fault(ACCOUNT, "rate_limited", times=1)
    assert [caller.get(ACCOUNT, USAGE, TIME_RANGE).headers.get("retry-after") for _ in range(3)] == ["17", None, None]


def test_fault_strikes_its_times_path_and_page(caller: SimulatorClient) -> None:
    """A fault with a number, a path and a page applies only there."""
    caller.simulator.add_fault(ACCOUNT, "server_error", times=1, path="completions", page=2)
    first = caller.get(ACCOUNT, USAGE, TIME_RANGE)
    assert first.status_code == 200
    assert caller.get("labs-openai", USAGE, TIME_RANGE).status_code == 200
    assert caller.get(ACCOUNT, "/organization/usage/embeddings", TIME_RANGE).status_code == 200
    second = {**TIME_RANGE, "page": first.json()["next_page"]}
    assert [caller.get(ACCOUNT, USAGE, second).status_code for _ in range(2)] == [500, 200]


def test_page_of_a_cursor_request_is_its_number(caller: SimulatorClient) -> None:
    """For Cursor, the page of a fault is the page in the request's body."""
    caller.simulator.add_fault("acme-cursor", "server_error", page=2)
    span = {"startDate": int(TODAY.timestamp() * 1000), "endDate": int(NOW.timestamp() * 1000)}
    statuses = [caller.post_events("acme-cursor", **span, page=page).status_code for page in (1, 2, 3)]
    assert statuses == [200, 500, 200]


def test_truncated_answer_is_half_of_the_json(caller: SimulatorClient) -> None:
    """A truncated answer has the status 200 and half of its body."""
    whole = caller.get(ACCOUNT, USAGE, TIME_RANGE).text
    caller.simulator.add_fault(ACCOUNT, "truncated")
    cut = caller.get(ACCOUNT, USAGE, TIME_RANGE)
    assert cut.status_code == 200
    assert cut.text == whole[: len(whole) // 2]


def test_malformed_answers_are_json_of_another_schema(caller: SimulatorClient) -> None:
    """`malformed` omits a required field, `mistyped` has words for numbers, `html` is a web page."""
    for kind in ("malformed", "mistyped", "html"):
        caller.simulator.add_fault(ACCOUNT, kind, times=1)
    missing, mistyped, page = (caller.get(ACCOUNT, USAGE, TIME_RANGE) for _ in range(3))
    assert "data" not in missing.json()
    assert mistyped.json()["data"][0]["start_time"] == "many"
    assert page.headers["content-type"].startswith("text/html")
    assert {missing.status_code, mistyped.status_code, page.status_code} == {200}


def test_slow_answer_waits(caller: SimulatorClient) -> None:
    """A slow answer is complete and arrives after its delay."""
    caller.simulator.add_fault(ACCOUNT, "slow", times=1, seconds=0.2)
    began = time.monotonic()
    assert caller.get(ACCOUNT, USAGE, TIME_RANGE).json()["data"]
    assert time.monotonic() - began >= 0.2


def test_unknown_fault_is_rejected(caller: SimulatorClient) -> None:
    """An unknown fault or account raises ValueError."""
    with pytest.raises(ValueError, match="nobody"):
        caller.simulator.add_fault("nobody", "overloaded")
    with pytest.raises(ValueError, match="gremlins"):
        caller.simulator.add_fault(ACCOUNT, "gremlins")


def test_faults_are_controlled_over_http(caller: SimulatorClient) -> None:
    """Faults can be enabled and disabled over HTTP, and an invalid fault is answered with 400."""
    url = f"{caller.simulator.url}/control/faults"
    assert caller.client.post(url, json={"account": ACCOUNT, "kind": "overloaded"}).status_code == 201
    assert caller.get(ACCOUNT, USAGE, TIME_RANGE).status_code == 529
    assert caller.client.delete(url).status_code == 200
    assert caller.get(ACCOUNT, USAGE, TIME_RANGE).status_code == 200
    assert caller.client.post(url, json={"account": ACCOUNT, "kind": "gremlins"}).status_code == 400


def test_ground_truth_is_served_over_http(caller: SimulatorClient) -> None:
    """The control path returns the ground truth as JSON, and rejects a request without a time range."""
    url = f"{caller.simulator.url}/control/truth"
    params = {"account": ACCOUNT, "since": TODAY.isoformat(), "until": NOW.isoformat()}
    entries = caller.client.get(url, params=params).json()
    rows = [(utc(0), Row(entry["meter"], entry["value"])) for entry in entries]
    assert sum_by_meter(rows) == sum_by_meter(caller.world.ground_truth(ACCOUNT, TODAY, NOW))
    assert caller.client.get(url, params={"account": ACCOUNT}).status_code == 400


def test_starts_and_stops_quickly_while_connections_are_open() -> None:
    """An open connection and a delayed answer do not block the stop."""
    began = time.monotonic()
    world = demo_world(Clock())
    with httpx.Client() as client, socket.socket() as waiting:
        with Simulator(world) as simulator:
            client.get(f"{simulator.url}/control/truth")
            simulator.add_fault(ACCOUNT, "slow", seconds=60)
            host, port = simulator.url.removeprefix("http://").split(":")
            waiting.connect((host, int(port)))
            lines = ("GET /openai/v1/organization/projects HTTP/1.1", "host: x")
            key = auth_headers(world.accounts[ACCOUNT])["authorization"]
            waiting.sendall("\r\n".join([*lines, f"authorization: {key}", "", ""]).encode())
        assert b"200 OK" not in waiting.recv(64)
    assert time.monotonic() - began < 1.5


def test_port_can_be_chosen() -> None:
    """A simulator listens on the configured port."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with Simulator(demo_world(Clock()), port) as simulator, httpx.Client() as client:
        assert simulator.url.endswith(f":{port}")
        assert json.loads(client.get(f"{simulator.url}/control/truth").content)["error"]
