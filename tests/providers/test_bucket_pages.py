"""Pages of buckets: decoding them straight into structs gives what reading them field by field gives."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.errors import Malformed
from exporter.model import HOUR, Bucket, RowLabels
from exporter.providers import anthropic, bucket_pages, openai
from exporter.providers.bucket_pages import BucketLayout, ResultFormat
from exporter.providers.http import Answer
from exporter.providers.parsing import RawBucket, StoredBuckets, build_buckets

START = datetime(2026, 11, 20, tzinfo=UTC)
COMPLETIONS, MESSAGES = openai.OpenAI.reports[0], anthropic.Anthropic.reports[0]
OPENAI_RESULT = {
    "object": "organization.usage.completions.result",
    "input_tokens": 700,
    "input_cached_tokens": 200,
    "input_audio_tokens": 30,
    "output_tokens": 12,
    "num_model_requests": 3,
    "project_id": "proj_1",
    "user_id": None,
    "model": "gpt-5",
    "batch": False,
    "service_tier": "default",
}
ANTHROPIC_RESULT = {
    "uncached_input_tokens": 700,
    "cache_read_input_tokens": 0,
    "output_tokens": 12,
    "cache_creation": {"ephemeral_5m_input_tokens": 40, "ephemeral_1h_input_tokens": 0},
    "server_tool_use": {"web_search_requests": 2},
    "workspace_id": None,
    "model": "claude-sonnet-5",
    "service_tier": "standard",
    "context_window": "200k-1M",
}


class _Form(NamedTuple):
    """How a provider lists usage."""

    layout: BucketLayout
    format: ResultFormat[Any]
    result: Mapping[str, object]
    times: tuple[object, object]


FORMS = [
    _Form(openai._LAYOUT, openai._COMPLETIONS_FORMAT, OPENAI_RESULT, (1795132800, 1795136400)),
    _Form(
        anthropic._LAYOUT,
        anthropic._MESSAGES_FORMAT,
        ANTHROPIC_RESULT,
        ("2026-11-20T00:00:00Z", "2026-11-20T01:00:00Z"),
    ),
]
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 12),
    st.sampled_from([2**63 - 1, 2**63, 2**64, 10**30, 1.0, 1.5, 1e300]),
    st.sampled_from(["", "x", "default", "12", "a\x00b", "\ud83d", "caf\xe9", "x" * 300, "200k-1M"]),
    st.just([]),
    st.just({}),
    st.just([{}]),
)
FRAGMENTS = st.sampled_from(
    [
        *rb'|0|-|.5|e9|e999999|"|,|{|}|[|]|null|true|NaN| |\|\ud83d|{"a":1},|"results":[],|"model":"y",'.split(b"|"),
        *[b"99999999999999999999", b"\xff", b"\xc3\xa9", b"\x00"],
    ]
)


def page_body(form: _Form, results: Sequence[Mapping[str, object]]) -> bytes:
    """Return a page with one bucket."""
    start, end = form.times
    slot = {"object": "bucket", form.layout.start: start, form.layout.end: end, "results": results}
    return json.dumps({"data": [slot], "has_more": False, "next_page": None}, separators=(",", ":")).encode()


def read_page(form: _Form, body: bytes, *, fast: bool) -> object:
    """Return everything that a page says, or the field and the text of its error."""
    answer, parse = Answer(body, "GET /x answered 200"), form.format.parser()
    page = bucket_pages._decode_page(answer, form.layout, parse) if fast else None
    try:
        page = page or bucket_pages._parse_page(answer, form.layout, parse)
        header = {name: page.header.get(name) for name in ("has_more", "next_page")}
        return header, [(raw.start, raw.end, raw.totals() if raw.totals else {}) for raw in page.buckets]
    except Malformed as error:
        return error.field, str(error)


@pytest.mark.parametrize("form", FORMS, ids=["openai", "anthropic"])
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_results_are_read_the_same_in_both_ways(form: _Form, data: st.DataObject) -> None:
    """Whatever the fields of results are, both ways of reading them give the same values or the same error."""
    results = []
    for _ in range(data.draw(st.integers(0, 3))):
        changes = data.draw(
            st.dictionaries(st.sampled_from([*form.result, "input_image_tokens", "new"]), VALUES, max_size=3)
        )
        removed = data.draw(st.sets(st.sampled_from(list(form.result)), max_size=1))
        result = {name: value for name, value in {**form.result, **changes}.items() if name not in removed}
        results.append(result)
    body = page_body(form, results)
    assert read_page(form, body, fast=True) == read_page(form, body, fast=False)


@pytest.mark.parametrize("form", FORMS, ids=["openai", "anthropic"])
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damaged_pages_are_read_the_same_in_both_ways(form: _Form, data: st.DataObject) -> None:
    """Whatever bytes of a page are replaced, both ways of reading it give the same buckets or the same error."""
    body = page_body(form, [form.result, {**form.result, "model": "other"}])
    for _ in range(data.draw(st.integers(1, 2))):
        place = data.draw(st.integers(0, len(body)))
        length = data.draw(st.sampled_from([0, 0, 1, 2, 9]))
        body = body[:place] + data.draw(FRAGMENTS) + body[place + length :]
    assert read_page(form, body, fast=True) == read_page(form, body, fast=False)


@pytest.mark.parametrize("form", FORMS, ids=["openai", "anthropic"])
def test_usual_answers_are_decoded_into_structs(form: _Form) -> None:
    """A page as providers send it is decoded without its results, and the results without parsing objects."""
    body = page_body(form, [form.result, {**form.result, "model": "caf\xe9"}])
    page = bucket_pages._decode_page(Answer(body, ""), form.layout, form.format.parser())
    assert page is not None
    (bucket,) = page.buckets
    assert bucket.totals is not None
    assert {labels.model for labels in bucket.totals()} == {form.result["model"], "caf\xe9"}
    assert len(form.format.decoder.decode(json.dumps([form.result]))) == 1


def _raw_buckets(contents: Iterable[str], parsed: list[str]) -> Iterable[RawBucket]:
    """Yield a bucket for each hour; its digest is its content, and parsing it adds the content to `parsed`."""
    for number, content in enumerate(contents):

        def parse(content: str = content) -> Mapping[RowLabels, int]:
            parsed.append(content)
            return {RowLabels("output", model=content): 1} if content else {}

        start = START + number * HOUR
        yield RawBucket(start, start + HOUR, totals=parse, digest=content.encode() or b"empty")


def _build(contents: Sequence[str], stored: StoredBuckets) -> tuple[list[Bucket], list[str]]:
    """Return the buckets, and the contents that were parsed."""
    parsed: list[str] = []
    until = START + len(contents) * HOUR
    return list(build_buckets(COMPLETIONS, START, until, _raw_buckets(contents, parsed), stored)), parsed


def test_buckets_that_are_stored_are_not_parsed_again() -> None:
    """Of the buckets that were recorded, only those with another content are parsed and returned."""
    stored = StoredBuckets()
    first, parsed = _build("abc", stored)
    assert parsed == ["a", "b", "c"]
    stored.record(COMPLETIONS, first)

    second, parsed = _build("axc", stored)
    assert parsed == ["x"]
    assert [bucket.start for bucket in second] == [START + HOUR]

    # Without the record of a successful write, the old content is the one that is stored.
    assert _build("abc", stored)[1] == []
    assert _build("axc", stored)[1] == ["x"]
    assert _build("axc", StoredBuckets())[1] == ["a", "x", "c"]


def test_a_bucket_that_was_emptied_is_parsed_until_it_is_stored() -> None:
    """A bucket that has no rows any more replaces the stored one, and so does the content that it had before."""
    stored = StoredBuckets()
    stored.record(COMPLETIONS, _build("a", stored)[0])
    emptied, parsed = _build([""], stored)
    assert (len(emptied), parsed) == (1, [""])
    stored.record(COMPLETIONS, emptied)
    assert _build("a", stored)[1] == ["a"]


def test_the_memory_of_stored_buckets_is_bounded() -> None:
    """Of many buckets only the newest are remembered."""
    stored = StoredBuckets()
    contents = [f"{number}" for number in range(1, 201)]
    stored.record(COMPLETIONS, _build(contents, stored)[0])
    parsed = _build(contents, stored)[1]
    assert parsed == contents[: len(parsed)]
    assert 100 <= len(parsed) < 200
