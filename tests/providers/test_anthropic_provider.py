"""Anthropic: the contract, and the points where its documentation contradicts itself."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from exporter.errors import KeyRejected, Malformed
from exporter.model import DAY, HOUR, Report, Row
from exporter.providers.anthropic import Anthropic
from exporter.providers.testing import ContractApi
from tests.providers.canned import ReceivedRequest, Reply, open_provider
from tests.providers.contract import NOW, TODAY, SimulatedProviderContract

MESSAGES, COSTS = Anthropic.reports


class TestAnthropicContract(SimulatedProviderContract):
    """An organization with a default workspace, batches and two lifetimes of cache writes."""

    provider_type = Anthropic
    account = "acme-anthropic"

    def test_the_first_poll_is_six_requests(self, api: ContractApi) -> None:
        """Thirty days and today take five pages of hours and one of costs."""
        self.fetch_days(api, MESSAGES, 30)
        assert len(api.statuses) == 5
        self.fetch_days(api, COSTS, 30)
        assert len(api.statuses) == 6


class TestResearchAnthropicContract(SimulatedProviderContract):
    """An organization that uses the long context window."""

    provider_type = Anthropic
    account = "research-anthropic"


def usage_result(**fields: object) -> dict[str, Any]:
    """Return a result of the messages report with its required fields."""
    zero = {"uncached_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 0}
    return {**zero, "cache_creation": {}, "server_tool_use": {"web_search_requests": 0}, **fields}


def cost_result(**fields: object) -> dict[str, Any]:
    """Return a result of the cost report."""
    return {"amount": "100", "currency": "USD", "description": "Something", **fields}


def slot(hour: int, *results: dict[str, Any], hours: int = 1) -> dict[str, Any]:
    """Return a bucket that starts `hour` hours after midnight."""
    start, end = TODAY + hour * HOUR, TODAY + (hour + hours) * HOUR
    return {"starting_at": start.isoformat().replace("+00:00", "Z"), "ending_at": end.isoformat(), "results": results}


def fetch_rows(report: Report, *results: dict[str, Any]) -> tuple[Row, ...]:
    """Return the rows of one bucket with these results."""
    page = {"data": [slot(0, *results, hours=report.width // HOUR)], "has_more": False, "next_page": None}
    with open_provider("anthropic", lambda _: Reply(page)) as (anthropic, _):
        (bucket,) = anthropic.fetch(report, TODAY, TODAY + report.width)
    return bucket.rows


def test_both_lifetimes_of_cache_writes() -> None:
    """Five-minute and one-hour cache writes are separate meters, and whole numbers may have a decimal point."""
    writes = {"ephemeral_5m_input_tokens": 700.0, "ephemeral_1h_input_tokens": 40}
    rows = fetch_rows(MESSAGES, usage_result(uncached_input_tokens=1200, cache_creation=writes, output_tokens=450))
    assert {row.meter: row.value for row in rows} == {
        "uncached_input": 1200,
        "cache_write_5m": 700,
        "cache_write_1h": 40,
        "output": 450,
    }


@pytest.mark.parametrize(
    ("service_tier", "window", "tier"),
    [
        ("standard", "0-200k", "standard"),
        ("standard", "200k-1M", "standard_long_context"),
        ("batch", "200k-1M", "batch_long_context"),
        ("flex_discount", None, "flex_discount"),
        (None, None, ""),
    ],
)
def test_tiers(service_tier: str | None, window: str | None, tier: str) -> None:
    """The tier is the service tier, marked where the long context window was used."""
    rows = fetch_rows(MESSAGES, usage_result(output_tokens=1, service_tier=service_tier, context_window=window))
    assert [row.tier for row in rows] == [tier]


@pytest.mark.parametrize("past", [0, 1, 5])
def test_buckets_after_the_end_are_left_out(past: int) -> None:
    """Buckets at or after the end of the time range are dropped, whether or not the provider returns them."""
    page = {
        "data": [slot(hour, usage_result(output_tokens=1)) for hour in range(2 + past)],
        "has_more": True,
        "next_page": "x",
    }
    with open_provider("anthropic", lambda _: Reply(page)) as (anthropic, server):
        buckets = list(anthropic.fetch(MESSAGES, TODAY, TODAY + 2 * HOUR))
    assert [bucket.start for bucket in buckets] == [TODAY, TODAY + HOUR]
    assert [len(bucket.rows) for bucket in buckets] == [1, 1]
    assert len(server.requests) == 1
    assert "ending_at" not in server.requests[0].query


@pytest.mark.parametrize("hours", [(), (1,), (0, 1), (0, 2), (-24, -23, -22), (24, 25, 26)])
def test_missing_buckets_are_malformed(hours: tuple[int, ...]) -> None:
    """The provider documents empty buckets as present: without them nothing is known, also about the other hours."""
    data = [slot(hour, usage_result(output_tokens=1)) for hour in hours]
    page = {"data": data, "has_more": False, "next_page": None}
    with (
        open_provider("anthropic", lambda _: Reply(page)) as (anthropic, _),
        pytest.raises(Malformed, match=r"messages: \d of 3 buckets are missing"),
    ):
        list(anthropic.fetch(MESSAGES, TODAY, TODAY + 3 * HOUR))


def test_amounts_are_cents() -> None:
    """`527.99976` cents are dollars, exact to the nano-USD."""
    row = fetch_rows(COSTS, cost_result(amount="527.99976", token_type="uncached_input_tokens"))[0]
    assert (row.value, row.meter, row.item) == (5_279_997_600, "uncached_input", "Something")


@pytest.mark.parametrize(
    ("fields", "meter"),
    [
        ({"cost_type": "tokens", "token_type": "cache_creation.ephemeral_1h_input_tokens"}, "cache_write_1h"),
        ({"cost_type": "tokens", "token_type": "cache_creation.ephemeral_5m_input_tokens"}, "cache_write_5m"),
        ({"cost_type": "web_search", "token_type": None}, "web_searches"),
        ({"cost_type": "code_execution"}, "cost"),
        ({"cost_type": "session_usage"}, "cost"),
        ({"cost_type": "tokens", "token_type": "a_new_one"}, "cost"),
        ({"description": None}, "cost"),
    ],
)
def test_what_a_cost_pays_for(fields: dict[str, object], meter: str) -> None:
    """Costs of tokens and searches have their meter; other costs keep their amount and description."""
    row = fetch_rows(COSTS, cost_result(**fields))[0]
    assert (row.meter, row.value) == (meter, 1_000_000_000)


def test_another_currency_is_rejected() -> None:
    """An amount in euros is Malformed."""
    with pytest.raises(Malformed, match="currency"):
        fetch_rows(COSTS, cost_result(currency="EUR"))


def test_a_repeated_cursor_ends_pagination() -> None:
    """A provider that repeats a cursor is Malformed, and is not polled endlessly."""
    page = {"data": [], "has_more": True, "next_page": "same"}
    with (
        open_provider("anthropic", lambda _: Reply(page)) as (anthropic, server),
        pytest.raises(Malformed, match="repeats"),
    ):
        list(anthropic.fetch(MESSAGES, TODAY - DAY, NOW))
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("key", "header", "value"),
    [
        ("sk-ant-admin01-x", "x-api-key", "sk-ant-admin01-x"),
        ("sk-ant-oat01-x", "authorization", "Bearer sk-ant-oat01-x"),
    ],
)
def test_how_a_key_travels(key: str, header: str, value: str) -> None:
    """Admin keys are sent in x-api-key, OAuth tokens as bearer, both with the pinned version."""
    with open_provider("anthropic", lambda _: Reply({"name": "Acme"}), key=key) as (anthropic, server):
        assert anthropic.verify() == "ok, organization Acme"
    headers = server.requests[0].headers
    assert headers[header] == value
    assert len({"x-api-key", "authorization"} & headers.keys()) == 1
    assert headers["anthropic-version"] == "2023-06-01"


@pytest.mark.parametrize("api_keys", [False, True])
def test_names(api_keys: bool) -> None:
    """Names come from all pages and include the default workspace; API keys only where usage is grouped by key."""

    def answer(request: ReceivedRequest) -> Reply:
        if request.path.endswith("api_keys"):
            return Reply({"data": [{"id": "apikey_1", "name": "ci"}], "has_more": False, "last_id": "apikey_1"})
        number = 2 if request.query.get("after_id") == ["wrkspc_1"] else 1
        workspace = {"id": f"wrkspc_{number}", "name": f"Team {number}"}
        return Reply({"data": [workspace], "has_more": number == 1, "last_id": workspace["id"]})

    with open_provider("anthropic", answer, api_keys=api_keys) as (anthropic, _):
        names = dict(anthropic.names())
    keys = {"apikey_1": "ci"} if api_keys else {}
    assert names == {"": "default", "wrkspc_1": "Team 1", "wrkspc_2": "Team 2"} | keys


def test_a_missing_scope_is_reported_with_its_name() -> None:
    """The error contains status and code, and the advice names the scope."""
    body = {"type": "error", "error": {"type": "permission_error", "message": "Got: a. Needed: org:admin."}}
    with open_provider("anthropic", lambda _: Reply(body, 403)) as (anthropic, _), pytest.raises(KeyRejected) as caught:
        anthropic.verify()
    assert caught.value.reason == "missing_scope"
    assert str(caught.value) == "GET /v1/organizations/me answered 403 (permission_error)"
    assert "org:admin" in caught.value.advice


@pytest.mark.parametrize("report", [MESSAGES, COSTS], ids=lambda report: report.name)
def test_a_result_that_comes_twice_is_malformed(report: Report) -> None:
    """Results of a bucket differ in their labels: an exact duplicate is an error and is never added up."""
    result = usage_result(output_tokens=1, model="m") if report is MESSAGES else cost_result(amount="4200")
    assert len(fetch_rows(report, result, {**result, "workspace_id": "other"})) == 2
    with pytest.raises(Malformed, match=f"{report.name}: the field results has a duplicate"):
        fetch_rows(report, result, result)


def test_an_endless_list_of_names_ends_at_an_empty_page() -> None:
    """A page of names without items, after which there are more, is Malformed and is the last that is requested."""
    numbers = count()
    page = {"data": [], "has_more": True}
    with (
        open_provider("anthropic", lambda _: Reply({**page, "last_id": f"id_{next(numbers)}"})) as (anthropic, server),
        pytest.raises(Malformed, match="the field data of a page is empty"),
    ):
        anthropic.names()
    assert len(server.requests) == 1
