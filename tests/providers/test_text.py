"""Cleaning of text from outside: whatever arrives can be stored, encoded and displayed."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from exporter.errors import Malformed
from exporter.model import HOUR, MAX_TEXT_LENGTH, Bucket, Report, Row, Secret, clean_text, escape_text
from exporter.providers.http import Client, ClientConfig, Json
from exporter.providers.parsing import MAX_COUNT, MAX_VALUE, clean_bucket, clean_names, str_field
from exporter.providers.testing import Reply, start_canned_server

CODE_POINTS = st.integers(0, 0x10FFFF).map(chr)
"""Every code point, halves of surrogate pairs included."""
TEXTS = st.lists(CODE_POINTS, max_size=400).map("".join)
USAGE = Report("usage", "usage", HOUR, HOUR, HOUR, HOUR, HOUR, HOUR)
BILL = Report("costs", "bill", HOUR, HOUR, HOUR, HOUR, HOUR, HOUR)
MIDNIGHT = datetime(2026, 11, 20, tzinfo=UTC)
ReadAnswer = Callable[[bytes], Json]


@pytest.fixture(name="read_answer", scope="module")
def _start_server() -> Iterator[ReadAnswer]:
    """Return the object that the client parses when a server on loopback answers with a body."""
    bodies: list[bytes] = []

    def read(body: bytes) -> Json:
        bodies.append(body)
        return client.get("/x")

    with (
        start_canned_server(lambda _: Reply(bodies[-1])) as server,
        closing(Client(ClientConfig(Secret("a-key"), server.url), {})) as client,
    ):
        yield read


@given(TEXTS)
@example("\ud83d")
@example("\ud83d\ude00")
@example("a\x00b")
@example("x" * 100_000)
def test_any_text_can_be_stored_and_displayed(text: str) -> None:
    """A cleaned text is short, has an encoding, survives SQLite, has no control character, and cleaning is stable."""
    cleaned = clean_text(text)
    assert len(cleaned) <= MAX_TEXT_LENGTH
    assert cleaned.encode().decode() == cleaned
    assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in cleaned)
    assert cleaned.splitlines() in ([cleaned], [])
    assert clean_text(cleaned) == cleaned
    with closing(sqlite3.connect(":memory:")) as db:
        assert db.execute("SELECT ?, json_extract(?, '$[0]')", (cleaned, json.dumps([cleaned]))).fetchone() == (
            cleaned,
            cleaned,
        )


@given(TEXTS.filter(lambda text: "\\" not in text), TEXTS.filter(lambda text: "\\" not in text))
@example("a" * 300, "a" * 300 + "b")
@example("a\x00", "a\x01")
def test_different_texts_stay_different(first: str, second: str) -> None:
    """Two texts never become one: neither by an odd character nor by their length."""
    assert (clean_text(first) == clean_text(second)) == (first == second)


@pytest.mark.parametrize("text", ["", "gpt-5", "Équipe 数据", "\U0001f469\u200d\U0001f4bb Web", "a\\b", 'say "hi"'])
def test_usual_texts_are_unchanged(text: str) -> None:
    """Letters of every script, emoji with joiners, quotes and backslashes stay."""
    assert clean_text(text) is text


@given(st.recursive(TEXTS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3)))
def test_answers_have_no_odd_text_anywhere(read_answer: ReadAnswer, value: object) -> None:
    """No string of an answer keeps an odd character, at any depth, names of fields included; usual ones stay."""
    body = json.dumps({"value": value}).encode()
    found = read_answer(body)
    assert repr(found).encode()
    assert _strings(found["value"]) == [escape_text(text) for text in _strings(json.loads(body)["value"])]


def _strings(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [text for item in value for text in _strings(item)]
    if isinstance(value, dict):
        unique = {escape_text(name): inner for name, inner in value.items()}
        return [text for inner in unique.values() for text in _strings(inner)]
    return []


@pytest.mark.parametrize(
    "body",
    [
        b'{"a": "\xed\xa0\xbd"}',
        b'{"a": "\\ud83d"}',
        b'{"a": "\xc2\x85"}',
        '{"a": "\ud83d"}'.encode("utf-16", "surrogatepass"),
    ],
)
def test_every_spelling_of_an_odd_character_is_found(read_answer: ReadAnswer, body: bytes) -> None:
    """Odd characters are escaped also where they arrive as bytes, or in another encoding of JSON."""
    assert str_field(read_answer(body), "a").isprintable()


@given(st.builds(Row, st.just("requests"), st.integers(-MAX_COUNT, MAX_COUNT), TEXTS, TEXTS, TEXTS, TEXTS, TEXTS))
def test_buckets_of_a_plugin_are_cleaned(row: Row) -> None:
    """Labels that a plug-in read without our functions can be stored all the same."""
    (cleaned,) = clean_bucket(USAGE, Bucket("usage", MIDNIGHT, MIDNIGHT + HOUR, (row,))).rows
    assert (cleaned.model, cleaned.item) == (clean_text(row.model), clean_text(row.item))
    assert cleaned.value == row.value
    assert clean_names({row.model: row.item}) == {cleaned.model: cleaned.item}


@pytest.mark.parametrize("value", [MAX_COUNT + 1, -MAX_COUNT - 1, 2**63, 10**400])
def test_values_that_cannot_be_added_up_are_malformed(value: int) -> None:
    """A value that would overflow the ledger's sums is rejected."""
    with pytest.raises(Malformed, match="usage: a value of requests is out of range"):
        clean_bucket(USAGE, Bucket("usage", MIDNIGHT, MIDNIGHT + HOUR, (Row("requests", value),)))


@pytest.mark.parametrize(("report", "meter"), [(BILL, "output"), (USAGE, "cost"), (USAGE, "bytes")])
def test_money_and_bytes_have_a_larger_limit(report: Report, meter: str) -> None:
    """Amounts are in nano-USD, and storage in bytes: both are far larger numbers than tokens."""
    bucket = Bucket(report.name, MIDNIGHT, MIDNIGHT + HOUR, (Row(meter, MAX_VALUE),))
    assert clean_bucket(report, bucket) == bucket
    with pytest.raises(Malformed):
        clean_bucket(report, Bucket(report.name, MIDNIGHT, MIDNIGHT + HOUR, (Row(meter, MAX_VALUE + 1),)))
