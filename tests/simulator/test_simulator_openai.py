"""OpenAI's API in the simulator: schemas, paging, alignment, grouping and costs."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest

from exporter.model import DAY, HOUR
from exporter.simulator.openai_rows import USAGE_REPORTS
from tests.simulator.simulated import NOW, TODAY, SimulatorClient, assert_conforms, open_demo_client, sum_by_meter

USAGE = "/organization/usage/completions"
BIG, SMALL = "acme-openai", "labs-openai"
TOKENS = ("input_tokens", "output_tokens")


@pytest.fixture(scope="module")
def caller() -> Iterator[SimulatorClient]:
    with open_demo_client() as caller:
        yield caller


def to_seconds(time: Any) -> int:
    return int(time.timestamp())


def error_message(answer: Any) -> str:
    return str(answer.json()["error"]["message"])


@pytest.mark.parametrize("report", USAGE_REPORTS)
def test_usage_conforms_to_the_specification(caller: SimulatorClient, report: str) -> None:
    """Every usage report, grouped by all labels, validates against the published schema and has rows."""
    path = f"/organization/usage/{report}"
    params = {"start_time": to_seconds(TODAY - DAY), "group_by[]": list(USAGE_REPORTS[report].group_by)}
    body = caller.get(BIG, path, params).json()
    assert body["data"][0]["results"]
    assert_conforms(body, "openai", path)


def test_costs_and_names_conform_to_the_specification(caller: SimulatorClient) -> None:
    """Costs, projects and API keys validate against the published schemas."""
    costs = {"start_time": to_seconds(TODAY - 3 * DAY), "group_by[]": ["project_id", "line_item", "api_key_id"]}
    assert_conforms(caller.get(BIG, "/organization/costs", costs).json(), "openai", "/organization/costs")
    projects = caller.get(BIG, "/organization/projects", {"include_archived": "true"}).json()
    assert_conforms(projects, "openai", "/organization/projects")
    for project in projects["data"]:
        keys = caller.get(BIG, f"/organization/projects/{project['id']}/api_keys").json()
        assert_conforms(keys, "openai", "/organization/projects/{project_id}/api_keys")


@pytest.mark.parametrize(("width", "limit", "buckets"), [("1h", 7, 48 + 16), ("1d", 1, 3), ("1h", 168, 64)])
def test_pagination_returns_every_bucket_once(caller: SimulatorClient, width: str, limit: int, buckets: int) -> None:
    """Pages of any size are contiguous and add up to the reported usage."""
    since = TODAY - 2 * DAY
    walk = caller.fetch_all_pages(BIG, USAGE, {"start_time": to_seconds(since), "bucket_width": width, "limit": limit})
    assert len(walk) == buckets
    assert all(left["end_time"] == right["start_time"] for left, right in pairwise(walk))
    output = sum(result["output_tokens"] for bucket in walk for result in bucket["results"])
    visible = sum_by_meter(caller.world.reported_rows(BIG, since, NOW))
    assert output == visible["output"] + visible["audio_output"] + visible["image_output"]


def test_minutes_add_up_to_their_hour(caller: SimulatorClient) -> None:
    """The minutes of an hour add up to the hour."""
    span = {"start_time": to_seconds(TODAY + 9 * HOUR), "end_time": to_seconds(TODAY + 10 * HOUR)}
    hour, minutes = (caller.fetch_all_pages(BIG, USAGE, {**span, "bucket_width": width}) for width in ("1h", "1m"))
    assert len(minutes) == 60
    assert (
        sum(b["results"][0]["output_tokens"] for b in minutes if b["results"]) == hour[0]["results"][0]["output_tokens"]
    )


def test_dimensions_are_null_unless_grouped(caller: SimulatorClient) -> None:
    """Without grouping a bucket has one row of nulls; with grouping only the requested labels have values."""
    span = {"start_time": to_seconds(TODAY - DAY), "limit": 1}
    (plain,) = caller.get(BIG, USAGE, span).json()["data"][0]["results"]
    assert {plain[name] for name in USAGE_REPORTS["completions"].group_by} == {None}
    by_model = caller.get(BIG, USAGE, {**span, "group_by": ["model"]}).json()["data"][0]["results"]
    assert all(row["model"] and row["project_id"] is None and row["batch"] is None for row in by_model)
    for name in TOKENS:
        assert sum(row[name] for row in by_model) == plain[name]


def test_detail_fields_keep_their_identities(caller: SimulatorClient) -> None:
    """Each row's details add up to its totals, as in the published examples."""
    params = {"start_time": to_seconds(TODAY - DAY), "group_by[]": ["model", "batch", "service_tier"]}
    for row in caller.get(BIG, USAGE, params).json()["data"][0]["results"]:
        parts = {part: row[f"input_{part}_tokens"] for part in ("uncached", "cached", "cache_write")}
        assert row["input_tokens"] == sum(parts.values())
        modalities = ("text", "audio", "image")
        assert parts["uncached"] == sum(row[f"input_{modality}_tokens"] for modality in modalities)
        assert parts["cached"] == sum(row[f"input_cached_{modality}_tokens"] for modality in modalities)
        assert row["output_tokens"] == sum(row[f"output_{modality}_tokens"] for modality in modalities)


def test_old_rows_have_no_details(caller: SimulatorClient) -> None:
    """The small organisation's completions have the older schema."""
    (row,) = caller.get(SMALL, USAGE, {"start_time": to_seconds(TODAY - DAY), "limit": 1}).json()["data"][0]["results"]
    assert "input_uncached_tokens" not in row
    assert row["input_cached_tokens"] < row["input_tokens"]


def test_first_and_last_bucket_are_cut(caller: SimulatorClient) -> None:
    """The first bucket starts at the minute of the start; the last ends now, also where the end is in the future."""
    start = to_seconds(TODAY + 10 * HOUR) + 31 * 60 + 7
    for end in ({}, {"end_time": to_seconds(NOW) + 9999}):
        data = caller.get(BIG, USAGE, {"start_time": start, "bucket_width": "1h", **end}).json()["data"]
        assert data[0]["start_time"] == start - 7
        assert data[0]["end_time"] == to_seconds(TODAY + 11 * HOUR)
        assert data[-1]["end_time"] == to_seconds(NOW)
        assert data[-1]["results"]


def test_buckets_without_usage_are_returned(caller: SimulatorClient) -> None:
    """Days before the start of the simulation have empty buckets."""
    span = {"start_time": to_seconds(TODAY - 33 * DAY), "limit": 4}
    assert [bool(bucket["results"]) for bucket in caller.get(BIG, USAGE, span).json()["data"]] == [False] * 3 + [True]


def test_filters_choose_rows(caller: SimulatorClient) -> None:
    """A filter selects the rows that it names."""
    params = {"start_time": to_seconds(TODAY - DAY), "group_by[]": ["project_id", "batch"], "batch": "true", "limit": 1}
    rows = caller.get(BIG, USAGE, params).json()["data"][0]["results"]
    assert {(row["project_id"], row["batch"]) for row in rows} == {("proj_dataPlatform", True)}


@pytest.mark.parametrize(
    ("change", "token"),
    [
        ({"limit": 169}, "limit"),
        ({"limit": 0}, "limit"),
        ({"bucket_width": "1w"}, "bucket_width"),
        ({"group_by[]": "colour"}, "group_by"),
        ({"start_time": "yesterday"}, "start_time"),
        ({"page": "page_nonsense"}, "page"),
        ({"end_time": 1}, "end_time"),
    ],
)
def test_bad_parameters_are_rejected(caller: SimulatorClient, change: dict[str, Any], token: str) -> None:
    """An invalid parameter is answered with 400 and its name."""
    params = {"start_time": to_seconds(TODAY), "bucket_width": "1h", **change}
    answer = caller.get(BIG, USAGE, params)
    assert answer.status_code == 400
    assert token in error_message(answer)


def test_cursor_is_bound_to_its_parameters(caller: SimulatorClient) -> None:
    """A cursor with other parameters is answered with 400; without its prefix it works."""
    params = {"start_time": to_seconds(TODAY - DAY), "bucket_width": "1h", "limit": 5}
    page = caller.get(BIG, USAGE, params).json()["next_page"]
    assert caller.get(BIG, USAGE, {**params, "limit": 6, "page": page}).status_code == 400
    bare = caller.get(BIG, USAGE, {**params, "page": page.removeprefix("page_")}).json()
    assert bare == caller.get(BIG, USAGE, {**params, "page": page}).json()
    assert bare["data"][0]["start_time"] == to_seconds(TODAY - DAY + 5 * HOUR)


@pytest.mark.parametrize("account", [BIG, SMALL])
@pytest.mark.parametrize("by", [[], ["project_id"], ["line_item"], ["project_id", "line_item", "api_key_id"]])
def test_costs_equal_the_bill_to_the_nano_dollar(caller: SimulatorClient, account: str, by: list[str]) -> None:
    """With every grouping and format of amounts, the day adds up to its bill exactly."""
    params: dict[str, Any] = {"start_time": to_seconds(TODAY - 2 * DAY), "limit": 1, "group_by[]": by}
    rows = caller.get(account, "/organization/costs", params).json()["data"][0]["results"]
    nano = [Decimal(str(row["amount"]["value"])) * 10**9 for row in rows]
    assert sum(nano) == sum(row.value for row in caller.world.bill(account, TODAY - 2 * DAY))
    spelled = str if account == SMALL else float
    assert all(isinstance(row["amount"]["value"], spelled) for row in rows)


def test_quantity_is_the_usage_of_the_line(caller: SimulatorClient) -> None:
    """The quantity of an input line is the day's uncached input of that model and tier."""
    span = {"start_time": to_seconds(TODAY - 2 * DAY), "limit": 1}
    costs = caller.get(BIG, "/organization/costs", {**span, "group_by[]": ["line_item"]}).json()["data"][0]["results"]
    lines = {row["line_item"]: (row["quantity"], row["quantity_unit"]) for row in costs}
    grouped = caller.get(BIG, USAGE, {**span, "group_by[]": ["model", "service_tier", "batch"]}).json()
    for row in grouped["data"][0]["results"]:
        if row["model"] == "gpt-5.6-sol" and row["service_tier"] == "priority":
            assert lines["priority | gpt-5.6-sol, input"] == (row["input_uncached_tokens"], "tokens")
            assert lines["priority | gpt-5.6-sol, cache writes"] == (row["input_cache_write_tokens"], "tokens")


def test_unbilled_days_have_no_rows(caller: SimulatorClient) -> None:
    """The running day's bucket has its full width and is empty; yesterday's bill was issued in the morning."""
    costs = caller.get(BIG, "/organization/costs", {"start_time": to_seconds(TODAY - DAY)}).json()["data"]
    assert [bool(bucket["results"]) for bucket in costs] == [True, False]
    assert costs[-1]["end_time"] == to_seconds(TODAY + DAY)
    with open_demo_client(TODAY + 2 * HOUR) as early:
        costs = early.get(BIG, "/organization/costs", {"start_time": to_seconds(TODAY - DAY)}).json()["data"]
        assert [bucket["results"] for bucket in costs] == [[], []]


def test_archived_projects_are_listed_on_request(caller: SimulatorClient) -> None:
    """The list omits archived projects by default, and is paged by the last id."""
    live = caller.get(BIG, "/organization/projects").json()["data"]
    assert all(project["status"] == "active" for project in live)
    names: list[str] = []
    after: dict[str, str] = {}
    more = True
    while more:
        params = {"limit": 3, "include_archived": "true", **after}
        body = caller.get(BIG, "/organization/projects", params).json()
        names += [project["name"] for project in body["data"]]
        after, more = {"after": body["last_id"]}, body["has_more"]
    assert names == list(caller.world.accounts[BIG].workspaces.values())
    assert len(names) == len(live) + 1


@pytest.mark.parametrize(
    ("key", "status", "token"),
    [
        ("sk-proj-abc", 403, "Missing scopes: api.usage.read"),
        ("sk-svcacct-abc", 403, "Missing scopes: api.usage.read"),
        ("sk-admin-unknown", 401, "Incorrect API key provided"),
        ("crsr_of-another-provider", 401, "Incorrect API key provided"),
    ],
)
def test_each_wrong_key_has_its_own_error(caller: SimulatorClient, key: str, status: int, token: str) -> None:
    """A key of another type lacks the scope; an unknown key is incorrect."""
    headers = {"authorization": f"Bearer {key}"}
    answer = caller.client.get(caller.simulator.base_url(BIG) + "/organization/projects", headers=headers)
    assert answer.status_code == status
    assert token in error_message(answer)


def test_unknown_paths_are_not_found(caller: SimulatorClient) -> None:
    """Unknown reports and projects are answered with 404."""
    for path in ("/organization/usage/dreams", "/organization/projects/proj_none/api_keys"):
        assert caller.get(BIG, path).status_code == 404
