"""Anthropic's API in the simulator: schemas, paging, alignment, grouping and costs."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest

from exporter.model import DAY, HOUR
from tests.simulator.simulated import NOW, TODAY, SimulatorClient, assert_conforms, open_demo_client, sum_by_meter

SPEC = "anthropic"
USAGE, COSTS = "/v1/organizations/usage_report/messages", "/v1/organizations/cost_report"
ACME = "acme-anthropic"
GROUPS = ["api_key_id", "workspace_id", "model", "service_tier", "context_window", "inference_geo"]


@pytest.fixture(scope="module")
def caller() -> Iterator[SimulatorClient]:
    with open_demo_client() as caller:
        yield caller


def format_time(time: datetime) -> str:
    return time.isoformat().replace("+00:00", "Z")


def sum_cents(rows: list[Any]) -> Decimal:
    return sum((Decimal(row["amount"]) for row in rows), Decimal(0))


@pytest.mark.parametrize("by", [[], GROUPS])
def test_usage_conforms_to_the_specification(caller: SimulatorClient, by: list[str]) -> None:
    """Usage validates against the published schema, grouped or not."""
    body = caller.get(ACME, USAGE, {"starting_at": format_time(TODAY - DAY), "group_by[]": by}).json()
    assert body["data"][0]["results"]
    assert_conforms(body, SPEC, USAGE)


@pytest.mark.parametrize("by", [[], ["workspace_id"], ["workspace_id", "description"]])
def test_costs_conform_to_the_specification(caller: SimulatorClient, by: list[str]) -> None:
    """Costs validate against the published schema, grouped or not."""
    body = caller.get(ACME, COSTS, {"starting_at": format_time(TODAY - DAY), "group_by[]": by}).json()
    assert body["data"][0]["results"]
    assert_conforms(body, SPEC, COSTS)


@pytest.mark.parametrize("path", ["me", "workspaces", "api_keys"])
def test_names_conform_to_the_specification(caller: SimulatorClient, path: str) -> None:
    """The organization, its workspaces and its keys validate against the published schemas."""
    assert_conforms(caller.get(ACME, f"/v1/organizations/{path}").json(), SPEC, f"/v1/organizations/{path}")


@pytest.mark.parametrize(("width", "limit", "buckets"), [("1h", 10, 64), ("1d", 1, 3)])
def test_pagination_adds_up_to_what_is_visible(caller: SimulatorClient, width: str, limit: int, buckets: int) -> None:
    """Pages of any size contain every bucket once, including the running one."""
    since = TODAY - 2 * DAY
    walk = caller.fetch_all_pages(
        ACME, USAGE, {"starting_at": format_time(since), "bucket_width": width, "limit": limit}
    )
    assert len(walk) == buckets
    rows = [row for bucket in walk for row in bucket["results"]]
    visible = sum_by_meter(caller.world.reported_rows(ACME, since, NOW))
    assert sum(row["output_tokens"] for row in rows) == visible["output"]
    assert sum(row["cache_creation"]["ephemeral_1h_input_tokens"] for row in rows) == visible["cache_write_1h"]
    assert sum(row["server_tool_use"]["web_search_requests"] for row in rows) == visible["web_searches"]


def test_times_are_snapped_to_their_bucket(caller: SimulatorClient) -> None:
    """A start within an hour includes that whole hour, and the list ends with the bucket of its end."""
    span = {
        "starting_at": format_time(TODAY + HOUR * 9.5),
        "ending_at": format_time(TODAY + 12 * HOUR),
        "bucket_width": "1h",
    }
    buckets = caller.get(ACME, USAGE, span).json()["data"]
    assert [bucket["starting_at"] for bucket in buckets] == [format_time(TODAY + hour * HOUR) for hour in (9, 10, 11)]
    assert buckets[-1]["ending_at"] == span["ending_at"]


def test_default_workspace_and_workbench_are_null(caller: SimulatorClient) -> None:
    """Usage of the default workspace has no workspace id, and usage without a key no key id."""
    params = {"starting_at": format_time(TODAY - DAY), "group_by[]": ["workspace_id", "api_key_id"]}
    rows = caller.get(ACME, USAGE, params).json()["data"][0]["results"]
    assert {row["api_key_id"] for row in rows if row["workspace_id"] is None} == {None, "apikey_default"}
    assert {row["model"] for row in rows} == {None}


def test_default_workspace_is_not_listed(caller: SimulatorClient) -> None:
    """The list omits the default workspace and, by default, archived ones; it is paged by the last id."""
    live = caller.get(ACME, "/v1/organizations/workspaces").json()["data"]
    everything = caller.get(ACME, "/v1/organizations/workspaces", {"include_archived": "true"}).json()["data"]
    assert [workspace["name"] for workspace in everything] == list(caller.world.accounts[ACME].workspaces.values())
    assert [item["id"] for item in everything if item["archived_at"] is None] == [item["id"] for item in live]
    rest = caller.get(ACME, "/v1/organizations/workspaces", {"after_id": live[0]["id"], "limit": 1}).json()
    assert rest["data"] == live[1:2]
    assert rest["has_more"]


@pytest.mark.parametrize("by", [[], ["workspace_id"], ["description"], ["workspace_id", "description"]])
def test_costs_equal_the_bill_to_the_nano_dollar(caller: SimulatorClient, by: list[str]) -> None:
    """With every grouping, the day's cents add up to its bill exactly."""
    params = {"starting_at": format_time(TODAY - 2 * DAY), "limit": 1, "group_by[]": by}
    rows = caller.get(ACME, COSTS, params).json()["data"][0]["results"]
    assert sum_cents(rows) * 10**7 == sum(row.value for row in caller.world.bill(ACME, TODAY - 2 * DAY))


def test_descriptions_carry_their_parsed_fields(caller: SimulatorClient) -> None:
    """One-hour writes, batch, long context, geography and web searches are separate lines."""
    params = {"starting_at": format_time(TODAY - DAY), "limit": 1, "group_by[]": ["workspace_id", "description"]}
    rows = caller.get(ACME, COSTS, params).json()["data"][0]["results"]
    assert "cache_creation.ephemeral_1h_input_tokens" in {row["token_type"] for row in rows}
    assert {row["service_tier"] for row in rows} == {"standard", "batch", None}
    assert {row["context_window"] for row in rows} == {"0-200k", "200k-1M", None}
    assert {row["inference_geo"] for row in rows} == {"global", "us", None}
    (search,) = [row for row in rows if row["description"] == "Web Search Usage"]
    assert (search["cost_type"], search["model"], search["token_type"]) == ("web_search", None, None)
    assert "Claude Sonnet 4.5 Usage - Input Tokens, Cache Hit" in {row["description"] for row in rows}


def test_unbilled_days_have_no_rows(caller: SimulatorClient) -> None:
    """The running day's bucket is present and empty."""
    days = caller.get(ACME, COSTS, {"starting_at": format_time(TODAY - DAY)}).json()["data"]
    assert [bool(day["results"]) for day in days] == [True, False]


@pytest.mark.parametrize(
    ("path", "change", "token"),
    [
        (USAGE, {"limit": 32}, "limit"),
        (USAGE, {"bucket_width": "1w"}, "bucket_width"),
        (USAGE, {"group_by[]": "colour"}, "group_by"),
        (USAGE, {"group_by[]": "speed"}, "fast-mode"),
        (USAGE, {"starting_at": "soon"}, "starting_at"),
        (COSTS, {"limit": 32}, "limit"),
        (COSTS, {"bucket_width": "1h"}, "bucket_width"),
        (COSTS, {"group_by[]": "model"}, "group_by"),
    ],
)
def test_bad_parameters_are_rejected(caller: SimulatorClient, path: str, change: dict[str, Any], token: str) -> None:
    """An invalid parameter is answered with 400 and its name."""
    answer = caller.get(ACME, path, {"starting_at": format_time(TODAY), **change})
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert token in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("headers", "status", "token"),
    [
        ({"x-api-key": "sk-ant-api03-workspace", "anthropic-version": "2023-06-01"}, 401, "invalid x-api-key"),
        ({"x-api-key": "sk-ant-admin01-unknown", "anthropic-version": "2023-06-01"}, 401, "invalid x-api-key"),
        ({"x-api-key": "sk-ant-admin01-demo-acme-0000"}, 400, "anthropic-version"),
    ],
)
def test_keys_and_version_are_required(
    caller: SimulatorClient, headers: dict[str, str], status: int, token: str
) -> None:
    """An unknown key and a call without the version header are rejected."""
    answer = caller.client.get(caller.simulator.base_url(ACME) + "/v1/organizations/me", headers=headers)
    assert answer.status_code == status
    assert token in answer.json()["error"]["message"]
