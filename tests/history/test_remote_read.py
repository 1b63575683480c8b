"""Remote read: the samples that a query returns, and the requests that are rejected."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import cramjam
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.errors import QueryRejected
from exporter.history.hourly import HistorySeriesKey
from exporter.history.remote_read import SAMPLE_BYTES, EncodedDay, RemoteReadHandler, encode_day
from exporter.history.remote_read_protocol import MAX_REQUEST_BYTES, MESSAGES, encode_varint
from exporter.metrics.families import HOURLY_FAMILIES, MONTH_HISTORY_FAMILIES
from exporter.model import DAY, HOUR, NANO, REQUESTS, Row
from exporter.snapshot.labels import SpendLabels
from tests.history.ledger_days import (
    DAY1,
    EQUAL,
    NOT_EQUAL,
    NOT_REGEX,
    REGEX,
    LedgerHistory,
    Matcher,
    cost_row,
    decode_read_response,
    encode_read_request,
    open_ledger,
    to_milliseconds,
)

COST_MATCHER = (EQUAL, "__name__", "ai_hourly_cost_usd")
TOKENS_MATCHER = (EQUAL, "__name__", "ai_hourly_tokens")
REQUESTS_MATCHER = (EQUAL, "__name__", "ai_hourly_requests")
MONTH_NAMES = {family.name for family in MONTH_HISTORY_FAMILIES}


@pytest.fixture
def history(tmp_path: Path) -> Iterator[LedgerHistory]:
    """An empty ledger."""
    with open_ledger(tmp_path) as history:
        yield history


def sample_time(hour: int, day: datetime = DAY1) -> int:
    """Return the timestamp of an hour's sample, in milliseconds."""
    return to_milliseconds(day + (hour + 1) * HOUR) - 1000


def test_a_series_has_every_hour_of_a_day_on_which_it_was_active(history: LedgerHistory) -> None:
    """Samples are dated one second before their hour's end; idle hours of the day are 0, other days absent."""
    history.put_cost(DAY1, {3: [cost_row(2_500_000_001)], 5: [cost_row(NANO), cost_row(NANO // 4, model="n")]})
    history.put_cost(DAY1 + DAY, {0: [cost_row(7, model="n")]})
    found = history.read(COST_MATCHER)
    labels = {"__name__": "ai_hourly_cost_usd", "provider": "maker", "account": "acme", "workspace": "w"}

    steady = found[frozenset({**labels, "model": "m"}.items())]
    assert steady == {sample_time(hour): 0.0 for hour in range(24)} | {sample_time(3): 2.500000001, sample_time(5): 1.0}
    moved = found[frozenset({**labels, "model": "n"}.items())]
    assert sorted(moved) == [sample_time(hour, day) for day in (DAY1, DAY1 + DAY) for hour in range(24)]
    assert sum(moved.values()) == 0.25 + 7e-9


def test_tokens_requests_and_cost_have_their_own_labels(history: LedgerHistory) -> None:
    """Tokens have their type; requests have none; other units are not exported; cost has its item as model."""
    rows = (Row("output", 5, "w", "m"), Row("cache_read", 7, "w", "m"), Row(REQUESTS, 2, "w", "m"), Row("images", 9))
    history.put_usage(DAY1 + 2 * HOUR, *rows)
    history.put_cost(DAY1, {0: [cost_row(1, model="", item="web search")]})

    tokens = history.read(TOKENS_MATCHER, since=sample_time(2), until=sample_time(2))
    by_type = {dict(labels)["type"]: set(samples.values()) for labels, samples in tokens.items()}
    assert by_type == {"output": {5}, "cache_read": {7}}
    ((labels, samples),) = history.read(REQUESTS_MATCHER).items()
    assert sum(samples.values()) == 2
    assert "type" not in dict(labels)
    assert history.label_values(COST_MATCHER) == {"web search"}


@pytest.mark.parametrize(
    ("matchers", "models"),
    [
        ([(EQUAL, "model", "m-1")], {"m-1"}),
        ([(NOT_EQUAL, "model", "m-1")], {"m-2", "n.x", ""}),
        ([(REGEX, "model", "m-.")], {"m-1", "m-2"}),
        ([(REGEX, "model", "m")], set()),
        ([(REGEX, "model", "m-1|n\\.x")], {"m-1", "n.x"}),
        ([(REGEX, "model", "(?i)M-[[:digit:]]")], {"m-1", "m-2"}),
        ([(REGEX, "model", ".*")], {"m-1", "m-2", "n.x", ""}),
        ([(REGEX, "model", ".+")], {"m-1", "m-2", "n.x"}),
        ([(REGEX, "model", "")], {""}),
        ([(REGEX, "model", "|m-1")], {"", "m-1"}),
        ([(NOT_REGEX, "model", "m.*")], {"n.x", ""}),
        ([(NOT_REGEX, "model", ".+")], {""}),
        ([(EQUAL, "model", "")], {""}),
        ([(EQUAL, "job", "")], {"m-1", "m-2", "n.x", ""}),
        ([(NOT_EQUAL, "job", "")], set()),
        ([(REGEX, "job", "x|")], {"m-1", "m-2", "n.x", ""}),
        ([(NOT_REGEX, "instance", "x")], {"m-1", "m-2", "n.x", ""}),
        ([(EQUAL, "tier", "batch"), (REGEX, "model", "m-.*")], {"m-2"}),
        ([(EQUAL, "provider", "maker"), (NOT_EQUAL, "account", "acme")], set()),
        ([(EQUAL, "account", "acme"), (REGEX, "workspace", "é|w")], {"m-1", "m-2", "n.x", ""}),
        ([], {"m-1", "m-2", "n.x", ""}),
    ],
)
def test_matchers_select_as_in_prometheus(history: LedgerHistory, matchers: list[Matcher], models: set[str]) -> None:
    """The four kinds of matcher work on every label as in Prometheus; a missing label is empty."""
    rows = [cost_row(1, "m-1"), cost_row(1, "m-2", tier="batch"), cost_row(1, "n.x", workspace="é"), cost_row(1, "")]
    history.put_cost(DAY1, {1: rows})
    assert history.label_values(*matchers) == models


@pytest.mark.parametrize(
    ("matcher", "names"),
    [
        ((REGEX, "__name__", "ai_hourly_.*"), {family.name for family in HOURLY_FAMILIES}),
        ((NOT_EQUAL, "__name__", "ai_hourly_tokens"), {"ai_hourly_cost_usd", "ai_hourly_requests"} | MONTH_NAMES),
        ((NOT_REGEX, "__name__", ".*_usd"), {"ai_hourly_tokens", "ai_hourly_requests"}),
        ((EQUAL, "__name__", "ai_cost_today_usd"), set()),
        ((EQUAL, "type", ""), {"ai_hourly_cost_usd", "ai_hourly_requests"} | MONTH_NAMES),
    ],
)
def test_the_metric_is_a_label_like_any_other(history: LedgerHistory, matcher: Matcher, names: set[str]) -> None:
    """Every kind of matcher works on __name__ too."""
    history.put_usage(DAY1, Row("output", 5, "w", "m"), Row(REQUESTS, 2, "w", "m"))
    history.put_cost(DAY1, {0: [cost_row(1)]})
    assert history.label_values(matcher, label="__name__") == names


OFFSETS = st.one_of(st.integers(-2, 2), st.integers(998, 1002))
"""Milliseconds from a sample's time: near the sample, and near the end of its hour."""


@given(first=st.integers(-30, 60), last=st.integers(-30, 60), early=OFFSETS, late=OFFSETS)
def test_a_query_gets_the_samples_of_its_time_and_no_others(
    tmp_path_factory: pytest.TempPathFactory, first: int, last: int, early: int, late: int
) -> None:
    """Both ends of a query's time range are included, to the millisecond."""
    with open_ledger(tmp_path_factory.mktemp("past")) as history:
        for day in (DAY1, DAY1 + DAY):
            history.put_cost(day, {hour: [cost_row(NANO)] for hour in range(24)})
        since, until = sample_time(first) + early, sample_time(last) + late
        (times,) = history.read(COST_MATCHER, since=since, until=until).values() or [{}]
    assert sorted(times) == [sample_time(hour) for hour in range(48) if since <= sample_time(hour) <= until]


def test_nothing_is_returned_beyond_the_newest_complete_hour(history: LedgerHistory) -> None:
    """An hour that the provider may not have reported completely is not returned, even if it has cost."""
    history.put_cost(DAY1, {hour: [cost_row(NANO)] for hour in range(24)})
    history.until = DAY1 + 7 * HOUR
    assert [max(times) for times in history.read(COST_MATCHER).values()] == [sample_time(6)]
    history.until = DAY1
    assert history.read(COST_MATCHER) == {}


def test_a_day_of_which_only_the_sum_is_kept_has_one_sample_at_its_end(history: LedgerHistory) -> None:
    """Old hours are rolled into days: the sum of a day does not change, and no sample stands for an unknown hour."""
    history.put_usage(DAY1 + 2 * HOUR, Row("output", 5, "w", "m"))
    history.put_usage(DAY1 + 9 * HOUR, Row("output", 6, "w", "m"))
    history.put_cost(DAY1, {2: [cost_row(NANO)], 9: [cost_row(NANO)]})
    history.put_cost(DAY1 + DAY, {0: [cost_row(NANO)]})
    assert [len(times) for times in history.read(COST_MATCHER).values()] == [48]
    history.ledger.retention.apply(DAY1 + 40 * DAY, 39 * DAY, 1000 * DAY)

    (cost,) = history.read(COST_MATCHER).values()
    assert cost == {sample_time(23): 2.0} | {sample_time(hour, DAY1 + DAY): float(hour == 0) for hour in range(24)}
    assert [*history.read(TOKENS_MATCHER).values()] == [{sample_time(23): 11.0}]
    assert history.read(TOKENS_MATCHER, until=sample_time(22)) == {}
    assert [*history.read(TOKENS_MATCHER, since=sample_time(23)).values()] == [{sample_time(23): 11.0}]


def test_series_aggregated_on_metrics_are_aggregated_in_history(tmp_path: Path) -> None:
    """Above max_series the smallest series are aggregated, hour by hour."""
    with open_ledger(tmp_path, max_series=2) as history:
        rows = [cost_row(10**9 * size, f"m{size}") for size in (40, 30, 2, 1)]
        history.put_cost(DAY1, {0: rows, 1: rows[2:]})
        by_model = {
            dict(labels)["model"]: (times[sample_time(0)], times[sample_time(1)])
            for labels, times in history.read(COST_MATCHER).items()
        }
    assert by_model == {"m40": (40, 0), "m30": (30, 0), "other": (3, 3)}


def encoded_days(history: LedgerHistory) -> dict[datetime, EncodedDay]:
    """Return the cached days of the only family that was read."""
    return {day: encoded for (_, _, day), encoded in history.reader.cache.values().items()}


def test_only_a_day_that_changed_is_encoded_again(history: LedgerHistory) -> None:
    """A change is returned by the next query, and days that did not change are not encoded again."""
    history.put_cost(DAY1, {0: [cost_row(NANO)]})
    history.put_cost(DAY1 + DAY, {0: [cost_row(NANO)]})
    history.read(COST_MATCHER)
    kept = encoded_days(history)
    history.read(COST_MATCHER)
    assert all(encoded is kept[day] for day, encoded in encoded_days(history).items())

    history.put_cost(DAY1, {0: [cost_row(3 * NANO)]})
    (times,) = history.read(COST_MATCHER).values()
    assert times[sample_time(0)] == 3
    again = encoded_days(history)
    assert again[DAY1] is not kept[DAY1]
    assert again[DAY1 + DAY] is kept[DAY1 + DAY]


def test_late_tokens_are_returned_by_the_next_query(history: LedgerHistory) -> None:
    """A bucket that is reported again changes the hour that it belongs to."""
    history.put_usage(DAY1, Row("output", 5, "w", "m"))
    assert [times[sample_time(0)] for times in history.read(TOKENS_MATCHER).values()] == [5]
    history.put_usage(DAY1, Row("output", 6, "w", "m"))
    assert [times[sample_time(0)] for times in history.read(TOKENS_MATCHER).values()] == [6]


def test_the_cache_is_bounded(history: LedgerHistory) -> None:
    """The days queried most recently are kept, up to a number of bytes."""
    history.reader = RemoteReadHandler(history.ledger, history.history, 10_000, max_cache_bytes=4000)
    for number in range(6):
        history.put_cost(DAY1 + number * DAY, {0: [cost_row(NANO)]})
    history.until = DAY1 + 6 * DAY
    (times,) = history.read(COST_MATCHER).values()
    assert len(times) == 6 * 24
    assert 0 < history.reader.cache.size_bytes <= 2000
    kept = encoded_days(history)
    assert 1 <= len(kept) < 6
    assert max(kept) == DAY1 + 5 * DAY


def test_several_queries_get_as_many_results_in_their_order(history: LedgerHistory) -> None:
    """A request may hold several queries; a query that matches nothing has an empty result."""
    history.put_cost(DAY1, {0: [cost_row(NANO)]})
    request = MESSAGES["ReadRequest"]()
    for name in ("ai_nothing", "ai_hourly_cost_usd"):
        request.queries.add(end_timestamp_ms=2**62).matchers.add(name="__name__", value=name)
    body = bytes(cramjam.snappy.compress_raw(request.SerializeToString()))
    results = decode_read_response(history.reader.handle(body))
    assert [len(result) for result in results] == [0, 1]
    assert decode_read_response(history.reader.handle(b"\0")) == []


DECOMPRESSION_BOMB = encode_varint(2**31) + bytes(40)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"not snappy at all", "not compressed with snappy"),
        (b"", "not compressed with snappy"),
        (bytes(cramjam.snappy.compress_raw(b"\xff\xff\xff")), "not a remote-read request in protobuf"),
        (DECOMPRESSION_BOMB, f"longer than {MAX_REQUEST_BYTES} bytes"),
        (bytes(MAX_REQUEST_BYTES + 1), f"longer than {MAX_REQUEST_BYTES} bytes"),
        (encode_read_request((REGEX, "model", "m(")), r"the pattern of the matcher on model cannot be read: m\("),
        (encode_read_request((REGEX, "model", "a)|(b")), r"the pattern of the matcher on model cannot be read"),
        (encode_read_request((7, "model", "m")), r"the matcher on model is of an unknown kind \(7\)"),
        (encode_read_request(types=[1]), "only the response type SAMPLES is answered"),
    ],
)
def test_a_malformed_request_is_rejected_with_the_reason(history: LedgerHistory, body: bytes, reason: str) -> None:
    """The message names the reason for which a request is rejected."""
    with pytest.raises(QueryRejected, match=reason):
        history.reader.handle(body)


def _encode_queries(count: int, *matchers: Matcher) -> bytes:
    """Return the body of a request with a query several times."""
    request = MESSAGES["ReadRequest"]()
    for _ in range(count):
        query = request.queries.add(end_timestamp_ms=2**62)
        for kind, name, value in matchers:
            query.matchers.add(type=kind, name=name, value=value)
    return bytes(cramjam.snappy.compress_raw(request.SerializeToString()))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (_encode_queries(14_000), "the request has 14000 queries, and 100 are allowed"),
        (_encode_queries(101, COST_MATCHER), "the request has 101 queries"),
        (_encode_queries(1, *[COST_MATCHER] * 1001), "the request has 1001 matchers, and 1000 are allowed"),
        (_encode_queries(2, (REGEX, "model", "m|" * 20_000)), "the patterns of the request have more than 65536"),
        (_encode_queries(100, (REGEX, "model", "(?:a?){900}")), "the patterns of the request are too complex"),
        (_encode_queries(1, (REGEX, "model", r"(?:\pL?){1000}")), "the pattern of the matcher on model cannot be read"),
    ],
)
def test_an_excessive_request_is_rejected(history: LedgerHistory, body: bytes, reason: str) -> None:
    """The numbers of queries and matchers and the size of patterns are limited, whatever the ledger holds."""
    history.put_cost(DAY1, {0: [cost_row(NANO)]})
    with pytest.raises(QueryRejected, match=reason):
        history.reader.handle(body)


def test_the_largest_allowed_request_is_answered(history: LedgerHistory) -> None:
    """A hundred queries, and patterns of hundreds of names, are within the limits."""
    history.put_cost(DAY1, {0: [cost_row(NANO)]})
    names = "|".join(["m", *(f"claude-sonnet-model-{number}" for number in range(500))])
    assert len(decode_read_response(history.reader.handle(_encode_queries(100, COST_MATCHER)))) == 100
    ((found,),) = decode_read_response(history.reader.handle(_encode_queries(1, COST_MATCHER, (REGEX, "model", names))))
    assert ("model", "m") in found


@pytest.mark.parametrize("matchers", [[], [(EQUAL, "model", "none")], [(REGEX, "model", "no.*")]], ids=str)
def test_the_work_for_a_request_is_bounded(history: LedgerHistory, matchers: list[Matcher]) -> None:
    """Queries that examine many series are rejected with advice, also if hardly any of the series match."""
    for day in (DAY1, DAY1 + DAY):
        history.put_cost(day, {0: [cost_row(NANO, f"m{number}") for number in range(90)]})
    history.reader = RemoteReadHandler(history.ledger, history.history, 10**6, max_work=5000)
    assert len(decode_read_response(history.reader.handle(_encode_queries(1, COST_MATCHER, *matchers)))) == 1
    with pytest.raises(QueryRejected, match="would examine too many series: query a shorter time range"):
        history.reader.handle(_encode_queries(100, COST_MATCHER, *matchers))


def test_the_work_for_a_pattern_is_bounded(history: LedgerHistory) -> None:
    """A pattern that is expensive to match counts as more work than a simple one."""
    history.put_cost(DAY1, {0: [cost_row(NANO, f"{number}{'a' * 100}") for number in range(90)]})
    history.reader = RemoteReadHandler(history.ledger, history.history, 10**6, max_work=20_000)
    assert history.label_values(COST_MATCHER, (REGEX, "model", ".*b")) == set()
    with pytest.raises(QueryRejected, match="simpler patterns"):
        history.read(COST_MATCHER, (REGEX, "model", ".*(?:a?){900}(?:a?){900}b"))


def test_a_response_that_would_be_too_large_is_rejected(tmp_path: Path) -> None:
    """A query of more samples than the limit is rejected, and the message names the flag that raises it."""
    with open_ledger(tmp_path, max_samples=48) as history:
        for day in (DAY1, DAY1 + DAY):
            history.put_cost(day, {0: [cost_row(NANO)]})
        assert [len(times) for times in history.read(COST_MATCHER).values()] == [48]
        history.put_cost(DAY1, {0: [cost_row(NANO), cost_row(NANO, "n")]})
        with pytest.raises(QueryRejected, match=r"more than 48 samples: .*--storage\.remote\.read-sample-limit"):
            history.read(COST_MATCHER)
        assert len(history.read(COST_MATCHER, (EQUAL, "model", "m"))) == 1


@given(st.dictionaries(st.text(max_size=3), st.lists(st.integers(-(10**17), 10**17), min_size=24, max_size=24)))
def test_a_day_is_encoded_as_protobuf_would(by_model: dict[str, list[int]]) -> None:
    """The samples of a day, encoded at once, are message by message those of the protobuf library."""
    day = {HistorySeriesKey(SpendLabels("", model, "", ""), ""): values for model, values in by_model.items()}
    for key, samples in encode_day(DAY1, day, NANO).items():
        series = MESSAGES["TimeSeries"].FromString(samples)
        values = by_model[key[0][1]]
        assert len(samples) == 24 * SAMPLE_BYTES
        assert [sample.timestamp for sample in series.samples] == [sample_time(hour) for hour in range(24)]
        packed = [struct.pack("<d", sample.value) for sample in series.samples]
        assert packed == [struct.pack("<d", value / NANO) for value in values]
