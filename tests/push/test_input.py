"""Pushed input that no well-behaved client sends: time and memory stay proportional to its size, answers are errors."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.config.durations import parse_duration
from exporter.config.messages import format_value, has_random_run, looks_like_key, suggest
from exporter.errors import PushError
from exporter.push.parse import decode_body, parse_batch, parse_events, parse_json
from tests.system import NOON

EVENT: dict[str, Any] = {"provider": "vllm", "model": "m", "timestamp": NOON.isoformat()}
TEXT_FIELDS = ("provider", "model", "timestamp", "costUsd", "id", "workspace", "apiKey", "tier", "currency", "title")
FILLERS = ("0", "a", "A", " ", ".", "-", "0a", "a ", "1.", "\u0661", "\U0001f600", "\ud83d", "1h", "_1")

SIZE = 20_000
GROWTH = 4
MAX_RATIO = 10
"""The time for GROWTH times the input: GROWTH times as long if it is linear, GROWTH² times if it is quadratic."""


def _parse(body: bytes) -> None:
    """Parse a body as the server does; an invalid one must be rejected with a PushError."""
    with suppress(PushError):
        items = parse_batch(parse_json(body))
        parse_events(items, idempotency_key="", include_api_keys=True, now=NOON)


def _cpu_time(action: Callable[[], object]) -> float:
    """Return the CPU seconds of this thread for an action: the least of several runs."""
    durations = []
    for _ in range(5):
        began = time.thread_time()
        action()
        durations.append(time.thread_time() - began)
    return min(durations)


def _assert_linear(make_action: Callable[[int], Callable[[], object]]) -> None:
    """Fail if the time of the action for an input of some size grows much faster than the size."""
    # Below a millisecond the resolution of the clock and the fixed cost of a call count for more than the input.
    small, large = _cpu_time(make_action(SIZE)), _cpu_time(make_action(SIZE * GROWTH))
    assert large < 0.001 or large < MAX_RATIO * small


@pytest.mark.parametrize("filler", FILLERS)
def test_the_time_for_an_event_grows_with_its_length(filler: str) -> None:
    """A long text in any field, as a key or as a number takes time in proportion to its length."""

    def parse_text(field: str) -> Callable[[int], Callable[[], object]]:
        def make_action(size: int) -> Callable[[], object]:
            body = json.dumps([EVENT | {field: filler * (size // len(filler))}]).encode()
            return lambda: _parse(body)

        return make_action

    for field in TEXT_FIELDS:
        _assert_linear(parse_text(field))
    _assert_linear(lambda size: lambda: _parse(json.dumps([EVENT | {filler * size: 1}]).encode()))


@pytest.mark.parametrize(
    "template",
    [
        '[{"costUsd": %s}]',
        '[{"costUsd": 0.%s}]',
        '[{"costUsd": 1e%s}]',
        '[{"promptTokens": -%s}]',
        '[{"timestamp": %s.5}]',
        "%s",
    ],
)
def test_the_time_for_a_number_grows_with_its_length(template: str) -> None:
    """A number of many digits takes time in proportion to its length."""
    _assert_linear(lambda size: lambda: _parse((template % ("7" * size)).encode()))


def test_the_time_for_an_object_grows_with_its_keys() -> None:
    """An object of many unknown keys, nested or not, takes time in proportion to their number."""
    for make_key in (str, lambda index: f"promptToken{index}", lambda index: f"{index:040d}"):

        def make_action(size: int, make_key: Callable[[int], str] = make_key) -> Callable[[], object]:
            body = json.dumps([EVENT | {make_key(index): 1 for index in range(size // 10)}]).encode()
            return lambda: _parse(body)

        _assert_linear(make_action)
    _assert_linear(lambda size: lambda: _parse(b"[" * size + b"]" * size))
    _assert_linear(lambda size: lambda: _parse(b'{"a":' * size))


def test_the_error_for_an_object_of_many_problems_is_short() -> None:
    """The reason of a rejected event lists some problems and the number of the others."""
    items = parse_batch([EVENT | {f"unknown{index}": 1 for index in range(10_000)}])
    (rejected,) = parse_events(items, idempotency_key="", include_api_keys=False, now=NOON).rejected
    assert rejected.reason.endswith("and 9980 more problems")
    assert len(rejected.reason) < 10_000


@pytest.mark.parametrize("filler", FILLERS)
@pytest.mark.parametrize(
    "function",
    [
        looks_like_key,
        has_random_run,
        format_value,
        parse_duration,
        lambda text: parse_duration(text, go_format=True),
        lambda text: suggest(text, ["promptTokens", "completionTokens"]),
    ],
    ids=["looks_like_key", "has_random_run", "format_value", "parse_duration", "go duration", "suggest"],
)
def test_the_time_for_a_text_grows_with_its_length(function: Callable[[str], object], filler: str) -> None:
    """The functions for texts of configuration files and clients take time in proportion to the text's length."""

    def make_action(size: int) -> Callable[[], object]:
        text = filler * (size // len(filler)) + "!"
        return lambda: function(text)

    _assert_linear(make_action)


@pytest.mark.parametrize(
    "cost",
    [
        *("1_000", "\uff11\uff12", "\u0661", " 1", "1 ", "+1", "1.", ".5", "", "01", "0x1", "NaN", "Infinity"),
        *("-1", "-0.5", "1e9", "10000.01", "1e-99999999999999999999", "1" * 65),
    ],
)
def test_a_cost_is_a_number_as_in_json(cost: str) -> None:
    """A cost as text has the form of a JSON number of 0 to 10,000; everything else is rejected."""
    (rejected,) = parse_events(
        [EVENT | {"costUsd": cost}], idempotency_key="", include_api_keys=False, now=NOON
    ).rejected
    assert rejected.reason.startswith("costUsd: expected USD from 0 to 10000")


@pytest.mark.parametrize("cost", ["0", "0.25", "10000", "1e-6", "2.5E+1", "0.000000123456789012345"])
def test_a_cost_may_be_written_as_text(cost: str) -> None:
    """A cost as text may have a fraction and an exponent, as languages write small numbers."""
    parsed = parse_events([EVENT | {"costUsd": cost}], idempotency_key="", include_api_keys=False, now=NOON)
    assert not parsed.rejected


@pytest.mark.parametrize(
    "body",
    [b'{"costUsd": 1, "costUsd": 2}', b'[{"model": "a", "provider": "b", "model": "a"}]', b'{"a": {"b": 1, "b": 1}}'],
)
def test_an_object_with_a_key_twice_is_rejected(body: bytes) -> None:
    """Two values for a key are rejected, since parsers disagree on which of them counts."""
    with pytest.raises(PushError, match="more than once"):
        parse_json(body)


def test_a_field_in_both_spellings_is_rejected() -> None:
    """The same field in camelCase and snake_case is rejected like a key that occurs twice."""
    item = EVENT | {"promptTokens": 1, "prompt_tokens": 2}
    (rejected,) = parse_events([item], idempotency_key="", include_api_keys=False, now=NOON).rejected
    assert "prompt_tokens" in rejected.reason


GZIPPED_EVENTS = gzip.compress(json.dumps([EVENT]).encode())


def test_a_body_may_be_compressed() -> None:
    """A body compressed with gzip is the same as the plain one; no encoding means that it is plain."""
    for encoding in ("gzip", "GZIP", " x-gzip "):
        assert json.loads(decode_body(GZIPPED_EVENTS, encoding, 1000)) == [EVENT]
    for encoding in ("", "identity"):
        assert decode_body(b"[]", encoding, 2) == b"[]"


@pytest.mark.parametrize(
    ("body", "encoding", "status"),
    [
        (gzip.compress(bytes(10**8)), "gzip", 413),
        (gzip.compress(bytes(1001)), "gzip", 413),
        (gzip.compress(gzip.compress(b"[]")), "gzip, gzip", 415),
        (b"[]", "br", 415),
        (b"[]", "gzip", 400),
        (b"", "gzip", 400),
        (GZIPPED_EVENTS[:-1], "gzip", 400),
        (GZIPPED_EVENTS[:-8] + bytes(8), "gzip", 400),
        (GZIPPED_EVENTS + b"!", "gzip", 400),
        (GZIPPED_EVENTS * 2, "gzip", 400),
    ],
    ids=[
        "bomb",
        "a byte too long",
        "twice",
        "brotli",
        "plain",
        "empty",
        "cut off",
        "checksum",
        "followed",
        "two members",
    ],
)
def test_an_invalid_compressed_body_is_rejected(body: bytes, encoding: str, status: int) -> None:
    """A body that is not one gzip member, or too long when decompressed, is rejected; a bomb is not decompressed."""
    with pytest.raises(PushError) as error:
        decode_body(body, encoding, 1000)
    assert error.value.status == status


@given(st.binary() | st.binary().map(lambda data: GZIPPED_EVENTS[:10] + data), st.sampled_from(["gzip", "br", ""]))
def test_any_encoded_body_is_decoded_or_rejected(body: bytes, encoding: str) -> None:
    """Whatever a body and its encoding are, the only error is a PushError."""
    with suppress(PushError):
        assert len(decode_body(body, encoding, 50)) <= max(50, len(body))


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.sampled_from(
        ["-0", "1e999999", "1E-999999", "\ud83d", "\0", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59Z"]
    ),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=5), children, max_size=4),
    max_leaves=10,
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from([*EVENT, *TEXT_FIELDS, "promptTokens", "requests"]) | st.text(), VALUES))
def test_any_object_is_parsed_or_rejected(fields: dict[str, object]) -> None:
    """Whatever an event holds, it is accepted or rejected with a reason that can be sent as UTF-8."""
    parsed = parse_events([EVENT | fields], idempotency_key="", include_api_keys=True, now=NOON)
    assert len(parsed.events) + len(parsed.rejected) == 1
    for rejected in parsed.rejected:
        rejected.reason.encode()


@settings(deadline=None)
@given(st.binary() | st.text().map(str.encode) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_body_is_parsed_or_rejected(body: bytes) -> None:
    """Whatever a body holds, the only error is a PushError."""
    _parse(body)
