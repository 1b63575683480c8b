"""OpenAI: the contract, and the known variants of its answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import count
from typing import Any

import pytest

from exporter.errors import KeyRejected, Malformed
from exporter.model import HOUR, TOKEN_METERS, Bucket, Report, Row
from exporter.providers.base import Provider
from exporter.providers.openai import OpenAI
from exporter.providers.testing import ContractApi
from tests.providers.canned import CannedServer, ReceivedRequest, Reply, open_provider
from tests.providers.contract import NOW, TODAY, SimulatedProviderContract

COMPLETIONS, COSTS = OpenAI.reports[:2]
START = int(TODAY.timestamp())


class TestOpenAIContract(SimulatedProviderContract):
    """A large organization with every usage report."""

    provider_type = OpenAI
    account = "acme-openai"

    def test_the_first_poll_is_five_requests(self, api: ContractApi) -> None:
        """Thirty days and today take five pages of hours and one of costs."""
        self.fetch_days(api, COMPLETIONS, 30)
        assert len(api.statuses) == 5
        self.fetch_days(api, COSTS, 30)
        assert len(api.statuses) == 6


class TestSmallOpenAIContract(SimulatedProviderContract):
    """A small organization, whose rows have no detail fields and whose amounts are texts."""

    provider_type = OpenAI
    account = "labs-openai"


@contextmanager
def open_openai(
    *results: dict[str, Any], name: str = "results", api_keys: bool = False
) -> Iterator[tuple[Provider, CannedServer]]:
    """Run a provider against a server whose first bucket has these results, and whose others are empty."""

    def answer(request: ReceivedRequest) -> Reply:
        first, last = (int(request.query[field][0]) for field in ("start_time", "end_time"))
        width = 3600 if request.query["bucket_width"] == ["1h"] else 86_400
        data = [
            {"start_time": start, "end_time": min(last, start + width), name: results if start == first else []}
            for start in range(first, last, width)
        ]
        return Reply({"data": data, "has_more": False})

    with open_provider("openai", answer, key="sk-admin-x", api_keys=api_keys) as pair:
        yield pair


def fetch_rows(report: Report, *results: dict[str, Any], name: str = "results") -> tuple[Row, ...]:
    """Return the rows of one bucket with these results."""
    with open_openai(*results, name=name) as (openai, _):
        buckets: list[Bucket] = list(openai.fetch(report, TODAY, TODAY + report.width))
    assert len(buckets) == 1
    return buckets[0].rows


def values_by_meter(rows: tuple[Row, ...]) -> dict[str, int]:
    """Return meter -> value."""
    return {row.meter: row.value for row in rows}


def completion_result(**fields: object) -> dict[str, Any]:
    """Return a result of completions with its required fields."""
    return {"input_tokens": 0, "output_tokens": 0, "num_model_requests": 0, **fields}


def cost_result(value: object, item: str | None = None, currency: str = "usd") -> dict[str, Any]:
    """Return a result of costs."""
    return {"amount": {"value": value, "currency": currency}, "line_item": item, "project_id": "proj_x1"}


def test_detail_fields_are_disjoint() -> None:
    """Text, audio and image tokens, cached or not, add up to input and output."""
    result = completion_result(
        input_tokens=1000,
        input_uncached_tokens=600,
        input_cached_tokens=300,
        input_cache_write_tokens=100,
        input_text_tokens=450,
        input_audio_tokens=100,
        input_image_tokens=50,
        input_cached_text_tokens=250,
        input_cached_audio_tokens=30,
        input_cached_image_tokens=20,
        output_tokens=80,
        output_text_tokens=50,
        output_audio_tokens=20,
        output_image_tokens=10,
        num_model_requests=7,
    )
    assert values_by_meter(fetch_rows(COMPLETIONS, result)) == {
        "uncached_input": 450,
        "audio_input": 100,
        "image_input": 50,
        "cache_read": 250,
        "audio_cache_read": 30,
        "image_cache_read": 20,
        "cache_write": 100,
        "output": 50,
        "audio_output": 20,
        "image_output": 10,
        "requests": 7,
    }


@pytest.mark.parametrize("audio", [0, 400, 5000])
def test_old_rows_add_up(audio: int) -> None:
    """Without detail fields, or with older audio fields, the tokens add up to input and output."""
    result = completion_result(input_tokens=1000, input_cached_tokens=300, input_audio_tokens=audio, output_tokens=80)
    tokens = {
        meter: value
        for meter, value in values_by_meter(fetch_rows(COMPLETIONS, result)).items()
        if meter in TOKEN_METERS
    }
    assert sum(tokens.values()) == 1080
    assert tokens["cache_read"] == 300


def test_the_oldest_spelling_of_results() -> None:
    """A bucket whose list is called `result` is read like one whose list is called `results`."""
    assert values_by_meter(fetch_rows(COMPLETIONS, completion_result(output_tokens=5), name="result")) == {"output": 5}


@pytest.mark.parametrize(
    ("batch", "service_tier", "tier"),
    [(True, "default", "batch"), (False, "default", "standard"), (None, None, ""), (None, "flex", "flex")],
)
def test_tiers(batch: bool | None, service_tier: str | None, tier: str) -> None:
    """Batch takes precedence over the service tier, `default` becomes standard, and null is empty."""
    rows = fetch_rows(COMPLETIONS, completion_result(output_tokens=1, batch=batch, service_tier=service_tier))
    assert [row.tier for row in rows] == [tier]


def test_results_of_the_same_labels_are_added() -> None:
    """Two results with equal labels become one row."""
    result = completion_result(output_tokens=1, service_tier="default")
    assert values_by_meter(fetch_rows(COMPLETIONS, result, result | {"batch": False})) == {"output": 2}


@pytest.mark.parametrize("value", [1.2345, "1.2345", "1.23450000000000000000000", "1234.5e-3"])
def test_amounts_are_numbers_or_texts(value: object) -> None:
    """Dollars become whole nano-USD in every spelling."""
    assert fetch_rows(COSTS, cost_result(value, "whatever"))[0].value == 1_234_500_000


def test_half_a_nano_dollar_rounds_to_even() -> None:
    """Amounts are rounded half to even, and a credit may be negative."""
    amounts = ["0.0000000005", "0.0000000015", "-0.25"]
    rows = fetch_rows(COSTS, *(cost_result(amount, str(place)) for place, amount in enumerate(amounts)))
    assert [row.value for row in rows] == [0, 2, -250_000_000]


@pytest.mark.parametrize(
    ("item", "meter", "model", "tier"),
    [
        ("gpt-4o-2024-08-06, output", "output", "gpt-4o-2024-08-06", ""),
        ("gpt-5.2-2025-12-11, cached input", "cache_read", "gpt-5.2-2025-12-11", ""),
        ("gpt-5.6-terra, cache writes", "cache_write", "gpt-5.6-terra", ""),
        ("gpt-5.4-2026-03-05, cached input, long context", "cache_read", "gpt-5.4-2026-03-05", "standard_long_context"),
        ("priority | gpt-5.6-sol, output, long context", "output", "gpt-5.6-sol", "priority_long_context"),
        ("priority | gpt-5.6-sol, input", "uncached_input", "gpt-5.6-sol", "priority"),
        ("gpt-image-1 text, input", "uncached_input", "gpt-image-1", ""),
        ("gpt-image-1 image, cached input", "image_cache_read", "gpt-image-1", ""),
        ("gpt-audio-mini-2025-12-15 audio, input", "audio_input", "gpt-audio-mini-2025-12-15", ""),
        ("ft-gpt-4o-2024-08-06, input", "uncached_input", "ft-gpt-4o-2024-08-06", ""),
        ("web search tool call", "web_searches", "", ""),
        ("assistants api | file search", "file_searches", "", ""),
        ("whisper", "seconds", "", ""),
        ("tts hd", "characters", "", ""),
        ("Vector storage", "bytes", "", ""),
        ("input_tokens", "cost", "", ""),
        ("something, quite, new", "cost", "", ""),
    ],
)
def test_line_items(item: str, meter: str, model: str, tier: str) -> None:
    """A line item is parsed where its pattern is known, and its text is kept unchanged."""
    row = fetch_rows(COSTS, cost_result("1", item))[0]
    assert (row.meter, row.model, row.tier, row.item, row.workspace) == (meter, model, tier, item, "proj_x1")


def test_a_result_without_an_amount_has_no_money() -> None:
    """The running day may have a row without an amount."""
    assert fetch_rows(COSTS, {"object": "organization.costs.result", "amount": None}) == ()


@pytest.mark.parametrize("value", ["a lot", "NaN", "Infinity", True, None, [1], 1e300])
def test_odd_amounts(value: object) -> None:
    """A value that is not an amount is Malformed with the name of the field."""
    with pytest.raises(Malformed, match=r"costs: .*value"):
        fetch_rows(COSTS, cost_result(value))


def test_another_currency_is_rejected() -> None:
    """An amount in euros is Malformed."""
    with pytest.raises(Malformed, match="currency"):
        fetch_rows(COSTS, cost_result("1", currency="eur"))


def test_a_missing_field_is_named() -> None:
    """An answer without a required field is Malformed with the names of field and report."""
    with pytest.raises(Malformed) as caught:
        fetch_rows(COMPLETIONS, {"input_tokens": 1, "num_model_requests": 1})
    assert caught.value.field == "output_tokens"
    assert str(caught.value) == "completions: the field output_tokens is missing"


@pytest.mark.parametrize("api_keys", [False, True])
def test_request_parameters(api_keys: bool) -> None:
    """Requests use bracketed arrays, group by key only on request, and have full pages and one fixed end."""
    with open_openai(api_keys=api_keys) as (openai, server):
        list(openai.fetch(COMPLETIONS, TODAY, NOW))
    query = server.requests[0].query
    assert query["group_by[]"] == [
        "project_id",
        "model",
        *(["api_key_id"] if api_keys else []),
        "batch",
        "service_tier",
    ]
    assert (query["limit"], query["start_time"], query["end_time"]) == (
        ["168"],
        [f"{START}"],
        [f"{NOW.timestamp():.0f}"],
    )
    assert server.requests[0].headers["authorization"] == "Bearer sk-admin-x"
    assert server.requests[0].headers["user-agent"].startswith("ai-spend-exporter/")


@pytest.mark.parametrize("status", [401, 403])
def test_missing_scopes_under_either_status(status: int) -> None:
    """A missing scope is distinguished from a wrong key by the message, not by the status."""
    body = {"error": {"message": "Missing scopes: api.usage.read", "type": "x", "param": None, "code": None}}
    with open_provider("openai", lambda _: Reply(body, status)) as (openai, _), pytest.raises(KeyRejected) as caught:
        openai.verify()
    assert caught.value.reason == "missing_scope"


@contextmanager
def open_with_bucket(start: int, end: int) -> Iterator[Provider]:
    """Run a provider against a server with one bucket at these times, in seconds from midnight."""
    slot = {"start_time": START + start, "end_time": START + end, "results": [completion_result(output_tokens=1)]}
    with open_provider("openai", lambda _: Reply({"data": [slot], "has_more": False})) as (openai, _):
        yield openai


@pytest.mark.parametrize(("start", "end"), [(60, 120), (0, 86_400), (0, 0)])
def test_buckets_of_another_schema(start: int, end: int) -> None:
    """A bucket that starts inside a slot, or has another width than was requested, is Malformed."""
    with open_with_bucket(start, end) as openai, pytest.raises(Malformed, match=r"inside|width"):
        list(openai.fetch(COMPLETIONS, TODAY, TODAY + HOUR))


@pytest.mark.parametrize("start", [-86_400, -3600, 7200, 86_400])
def test_buckets_outside_the_time_range(start: int) -> None:
    """Buckets of another day, of the past or of the future do not stand for those that were requested."""
    with (
        open_with_bucket(start, start + 3600) as openai,
        pytest.raises(Malformed, match="completions: 1 of 1 buckets are missing, the first of 2026-11-20T00:00Z"),
    ):
        list(openai.fetch(COMPLETIONS, TODAY, TODAY + HOUR))


def test_a_bucket_that_ends_early_is_malformed() -> None:
    """A past hour of which only a part arrived is an incomplete answer."""
    with open_with_bucket(0, 1800) as openai, pytest.raises(Malformed, match="ends before its slot"):
        list(openai.fetch(COMPLETIONS, TODAY, TODAY + HOUR))


def test_a_slot_that_may_still_be_missing_is_left_out() -> None:
    """A provider may not list the running slot yet: it is neither an error nor a zero."""
    with open_with_bucket(0, 3600) as openai:
        buckets = list(openai.fetch(COMPLETIONS, TODAY, TODAY + HOUR + timedelta(minutes=5)))
    assert [bucket.start for bucket in buckets] == [TODAY]


def test_pages_are_bounded_by_the_time_range() -> None:
    """A list that never ends is given up as soon as it has more pages than the time range has buckets."""
    numbers = count()

    def answer(_: ReceivedRequest) -> Reply:
        return Reply({"data": [], "has_more": True, "next_page": f"page_{next(numbers)}"})

    with open_provider("openai", answer) as (openai, server), pytest.raises(Malformed, match="more than 6 pages"):
        list(openai.fetch(COMPLETIONS, TODAY, TODAY + 6 * HOUR))
    assert len(server.requests) == 6


@pytest.mark.parametrize("report", [COMPLETIONS, COSTS], ids=lambda report: report.name)
def test_a_result_that_comes_twice_is_malformed(report: Report) -> None:
    """Results of a bucket differ in their labels: an exact duplicate is an error and is never added up."""
    usage, cost = completion_result(output_tokens=1, model="gpt-5"), cost_result("42", "gpt-5, output")
    results = [usage] if report is COMPLETIONS else [cost]
    other = {**results[0], "project_id": "proj_other"}
    assert len({row.workspace for row in fetch_rows(report, *results, other)}) == 2
    with pytest.raises(Malformed, match=f"{report.name}: the field results has a duplicate"):
        fetch_rows(report, *results, other, *results)


def test_an_endless_list_of_names_ends_at_an_empty_page() -> None:
    """A page of names without items, after which there are more, is Malformed and is the last that is requested."""
    numbers = count()
    page = {"data": [], "has_more": True}
    with (
        open_provider("openai", lambda _: Reply({**page, "last_id": f"id_{next(numbers)}"})) as (openai, server),
        pytest.raises(Malformed, match="the field data of a page is empty"),
    ):
        openai.names()
    assert len(server.requests) == 1
