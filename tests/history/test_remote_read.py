"""Remote read: which samples are told, to whom, and what is refused."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import cramjam
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.errors import QueryRefused
from exporter.history.remote_read import SAMPLE, encode
from exporter.history.remote_read_protocol import LONGEST_REQUEST, MESSAGES, varint
from exporter.metrics.families import HISTORY_FAMILIES
from exporter.model import DAY, HOUR, NANO, REQUESTS, Row
from tests.history.ledger_days import (
    DAY1,
    EQUAL,
    LIKE,
    UNEQUAL,
    UNLIKE,
    Matcher,
    Past,
    dollars,
    ms,
    opened,
    request,
    results,
)

COSTS = (EQUAL, "__name__", "ai_hourly_cost_usd")
TOKENS = (EQUAL, "__name__", "ai_hourly_tokens")
COUNTS = (EQUAL, "__name__", "ai_hourly_requests")


@pytest.fixture
def past(tmp_path: Path) -> Iterator[Past]:
    """An empty past."""
    with opened(tmp_path) as it:
        yield it


def end(hour: int, day: datetime = DAY1) -> int:
    """Return when the sample of an hour stands."""
    return ms(day + (hour + 1) * HOUR) - 1


def test_a_series_tells_every_hour_of_a_day_on_which_it_was_active(past: Past) -> None:
    """The samples stand one millisecond before their hour's end, idle hours of the day as 0; other days are absent."""
    past.cost(DAY1, {3: [dollars(2_500_000_001)], 5: [dollars(NANO), dollars(NANO // 4, model="n")]})
    past.cost(DAY1 + DAY, {0: [dollars(7, model="n")]})
    found = past.read(COSTS)
    labels = {"__name__": "ai_hourly_cost_usd", "provider": "maker", "account": "acme", "workspace": "w"}

    steady = found[frozenset({**labels, "model": "m"}.items())]
    assert steady == {end(hour): 0.0 for hour in range(24)} | {end(3): 2.500000001, end(5): 1.0}
    moved = found[frozenset({**labels, "model": "n"}.items())]
    assert sorted(moved) == [end(hour, day) for day in (DAY1, DAY1 + DAY) for hour in range(24)]
    assert sum(moved.values()) == 0.25 + 7e-9


def test_tokens_and_requests_are_told_apart(past: Past) -> None:
    """Tokens have their type; requests have none; other units are not told; money is told under its item."""
    rows = (Row("output", 5, "w", "m"), Row("cache_read", 7, "w", "m"), Row(REQUESTS, 2, "w", "m"), Row("images", 9))
    past.use(DAY1 + 2 * HOUR, *rows)
    past.cost(DAY1, {0: [dollars(1, model="", item="web search")]})

    tokens = past.read(TOKENS, since=end(2), until=end(2))
    assert {dict(one)["type"]: set(told.values()) for one, told in tokens.items()} == {"output": {5}, "cache_read": {7}}
    (counted,) = past.read(COUNTS).items()
    assert sum(counted[1].values()) == 2
    assert "type" not in dict(counted[0])
    assert past.shown(COSTS) == {"web search"}


@pytest.mark.parametrize(
    ("matchers", "models"),
    [
        ([(EQUAL, "model", "m-1")], {"m-1"}),
        ([(UNEQUAL, "model", "m-1")], {"m-2", "n.x", ""}),
        ([(LIKE, "model", "m-.")], {"m-1", "m-2"}),
        ([(LIKE, "model", "m")], set()),
        ([(LIKE, "model", "m-1|n\\.x")], {"m-1", "n.x"}),
        ([(LIKE, "model", "(?i)M-[[:digit:]]")], {"m-1", "m-2"}),
        ([(LIKE, "model", ".*")], {"m-1", "m-2", "n.x", ""}),
        ([(LIKE, "model", ".+")], {"m-1", "m-2", "n.x"}),
        ([(LIKE, "model", "")], {""}),
        ([(LIKE, "model", "|m-1")], {"", "m-1"}),
        ([(UNLIKE, "model", "m.*")], {"n.x", ""}),
        ([(UNLIKE, "model", ".+")], {""}),
        ([(EQUAL, "model", "")], {""}),
        ([(EQUAL, "job", "")], {"m-1", "m-2", "n.x", ""}),
        ([(UNEQUAL, "job", "")], set()),
        ([(LIKE, "job", "x|")], {"m-1", "m-2", "n.x", ""}),
        ([(UNLIKE, "instance", "x")], {"m-1", "m-2", "n.x", ""}),
        ([(EQUAL, "tier", "batch"), (LIKE, "model", "m-.*")], {"m-2"}),
        ([(EQUAL, "provider", "maker"), (UNEQUAL, "account", "acme")], set()),
        ([(EQUAL, "account", "acme"), (LIKE, "workspace", "é|w")], {"m-1", "m-2", "n.x", ""}),
        ([], {"m-1", "m-2", "n.x", ""}),
    ],
)
def test_matchers_select_as_in_prometheus(past: Past, matchers: list[Matcher], models: set[str]) -> None:
    """The four kinds of matcher work on every label as in Prometheus; a label that is not there is empty."""
    rows = [dollars(1, "m-1"), dollars(1, "m-2", tier="batch"), dollars(1, "n.x", workspace="é"), dollars(1, "")]
    past.cost(DAY1, {1: rows})
    assert past.shown(*matchers) == models


@pytest.mark.parametrize(
    ("matcher", "names"),
    [
        ((LIKE, "__name__", "ai_hourly_.*"), {family.name for family in HISTORY_FAMILIES}),
        ((UNEQUAL, "__name__", "ai_hourly_tokens"), {"ai_hourly_cost_usd", "ai_hourly_requests"}),
        ((UNLIKE, "__name__", ".*_usd"), {"ai_hourly_tokens", "ai_hourly_requests"}),
        ((EQUAL, "__name__", "ai_cost_today_usd"), set()),
        ((EQUAL, "type", ""), {"ai_hourly_cost_usd", "ai_hourly_requests"}),
    ],
)
def test_the_metric_is_a_label_like_any_other(past: Past, matcher: Matcher, names: set[str]) -> None:
    """Every kind of matcher works on __name__ too."""
    past.use(DAY1, Row("output", 5, "w", "m"), Row(REQUESTS, 2, "w", "m"))
    past.cost(DAY1, {0: [dollars(1)]})
    assert past.shown(matcher, label="__name__") == names


@given(first=st.integers(-30, 60), last=st.integers(-30, 60), early=st.integers(-2, 2), late=st.integers(-2, 2))
def test_a_query_gets_the_samples_of_its_time_and_no_others(
    tmp_path_factory: pytest.TempPathFactory, first: int, last: int, early: int, late: int
) -> None:
    """Whatever the two ends of a query, both are included, to the millisecond."""
    with opened(tmp_path_factory.mktemp("past")) as past:
        for day in (DAY1, DAY1 + DAY):
            past.cost(day, {hour: [dollars(NANO)] for hour in range(24)})
        since, until = end(first) + early, end(last) + late
        (times,) = past.read(COSTS, since=since, until=until).values() or [{}]
    assert sorted(times) == [end(hour) for hour in range(48) if since <= end(hour) <= until]


def test_nothing_is_told_beyond_the_newest_complete_hour(past: Past) -> None:
    """An hour that the provider may not have told in full is not told, though it has cost already."""
    past.cost(DAY1, {hour: [dollars(NANO)] for hour in range(24)})
    past.until = DAY1 + 7 * HOUR
    assert [max(times) for times in past.read(COSTS).values()] == [end(6)]
    past.until = DAY1
    assert past.read(COSTS) == {}


def test_a_day_of_which_only_the_sum_is_kept_has_one_sample_at_its_end(past: Past) -> None:
    """Old hours are rolled into days: a day's sum stays what it is, and no hour is told that is not known."""
    past.use(DAY1 + 2 * HOUR, Row("output", 5, "w", "m"))
    past.use(DAY1 + 9 * HOUR, Row("output", 6, "w", "m"))
    past.cost(DAY1, {2: [dollars(NANO)], 9: [dollars(NANO)]})
    past.cost(DAY1 + DAY, {0: [dollars(NANO)]})
    assert [len(times) for times in past.read(COSTS).values()] == [48]
    past.ledger.retention.apply(DAY1 + 40 * DAY, 39 * DAY, 1000 * DAY)

    (cost,) = past.read(COSTS).values()
    assert cost == {end(23): 2.0} | {end(hour, DAY1 + DAY): float(hour == 0) for hour in range(24)}
    assert [*past.read(TOKENS).values()] == [{end(23): 11.0}]
    assert past.read(TOKENS, until=end(22)) == {}
    assert [*past.read(TOKENS, since=end(23)).values()] == [{end(23): 11.0}]


def test_what_the_page_folds_is_folded_in_history(tmp_path: Path) -> None:
    """Above max_series the small ones are told together, hour by hour."""
    with opened(tmp_path, limit=2) as past:
        rows = [dollars(10**9 * size, f"m{size}") for size in (40, 30, 2, 1)]
        past.cost(DAY1, {0: rows, 1: rows[2:]})
        told = {dict(one)["model"]: (times[end(0)], times[end(1)]) for one, times in past.read(COSTS).items()}
    assert told == {"m40": (40, 0), "m30": (30, 0), "other": (3, 3)}


def test_only_a_day_that_changed_is_encoded_again(past: Past) -> None:
    """A change is told at the next query, and the days that did not change are not made anew."""
    past.cost(DAY1, {0: [dollars(NANO)]})
    past.cost(DAY1 + DAY, {0: [dollars(NANO)]})
    past.read(COSTS)
    kept = {key[2]: entry.day for key, entry in past.reader._kept._entries.items()}
    past.read(COSTS)
    assert all(entry.day is kept[key[2]] for key, entry in past.reader._kept._entries.items())

    past.cost(DAY1, {0: [dollars(3 * NANO)]})
    (times,) = past.read(COSTS).values()
    assert times[end(0)] == 3
    again = {key[2]: entry.day for key, entry in past.reader._kept._entries.items()}
    assert again[DAY1] is not kept[DAY1]
    assert again[DAY1 + DAY] is kept[DAY1 + DAY]


def test_a_token_that_is_told_late_is_told_at_the_next_query(past: Past) -> None:
    """A bucket that is told anew changes the hour that it belongs to."""
    past.use(DAY1, Row("output", 5, "w", "m"))
    assert [times[end(0)] for times in past.read(TOKENS).values()] == [5]
    past.use(DAY1, Row("output", 6, "w", "m"))
    assert [times[end(0)] for times in past.read(TOKENS).values()] == [6]


def test_what_is_kept_is_bounded(past: Past) -> None:
    """The days asked for last are kept, up to a number of bytes."""
    past.reader._kept._most = 2000
    for number in range(6):
        past.cost(DAY1 + number * DAY, {0: [dollars(NANO)]})
    past.until = DAY1 + 6 * DAY
    (times,) = past.read(COSTS).values()
    assert len(times) == 6 * 24
    kept = past.reader._kept
    assert 0 < kept._size <= 2000
    assert kept._size == sum(entry.size for entry in kept._entries.values())
    assert max(key[2] for key in kept._entries) == DAY1 + 5 * DAY


def test_several_queries_get_as_many_results_in_their_order(past: Past) -> None:
    """A request may hold several queries; one that finds nothing has an empty result."""
    past.cost(DAY1, {0: [dollars(NANO)]})
    asked = MESSAGES["ReadRequest"]()
    for name in ("ai_nothing", "ai_hourly_cost_usd"):
        asked.queries.add(end_timestamp_ms=2**62).matchers.add(name="__name__", value=name)
    found = results(past.reader.answer(bytes(cramjam.snappy.compress_raw(asked.SerializeToString()))))
    assert [len(one) for one in found] == [0, 1]
    assert results(past.reader.answer(b"\0")) == []


BOMB = varint(2**31) + bytes(40)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"not snappy at all", "not compressed with snappy"),
        (b"", "not compressed with snappy"),
        (bytes(cramjam.snappy.compress_raw(b"\xff\xff\xff")), "not a remote-read request in protobuf"),
        (BOMB, f"longer than {LONGEST_REQUEST} bytes"),
        (bytes(LONGEST_REQUEST + 1), f"longer than {LONGEST_REQUEST} bytes"),
        (request((LIKE, "model", "m(")), r"the pattern of the matcher on model cannot be read: m\("),
        (request((LIKE, "model", "a)|(b")), r"the pattern of the matcher on model cannot be read"),
        (request((7, "model", "m")), r"the matcher on model is of an unknown kind \(7\)"),
        (request(types=[1]), "only the response type SAMPLES is answered"),
    ],
)
def test_a_request_that_is_not_understood_is_refused_with_the_reason(past: Past, body: bytes, reason: str) -> None:
    """Whatever is wrong with a request, it says what."""
    with pytest.raises(QueryRefused, match=reason):
        past.reader.answer(body)


def test_an_answer_that_would_be_too_large_is_refused(tmp_path: Path) -> None:
    """More samples than the limit are refused, over one account or several queries, with what to do about it."""
    with opened(tmp_path, most=48) as past:
        for day in (DAY1, DAY1 + DAY):
            past.cost(day, {0: [dollars(NANO)]})
        assert [len(times) for times in past.read(COSTS).values()] == [48]
        past.cost(DAY1, {0: [dollars(NANO), dollars(NANO, "n")]})
        with pytest.raises(QueryRefused, match=r"more than 48 samples: .*--storage\.remote\.read-sample-limit"):
            past.read(COSTS)
        assert len(past.read(COSTS, (EQUAL, "model", "m"))) == 1


@given(st.dictionaries(st.text(max_size=3), st.lists(st.integers(-(10**17), 10**17), min_size=24, max_size=24)))
def test_a_day_is_encoded_as_protobuf_would(told: dict[str, list[int]]) -> None:
    """The samples written at a stroke are, message by message, those of the protobuf library."""
    for shown, samples in encode(DAY1, {(("", one, "", ""), ""): values for one, values in told.items()}, NANO).items():
        series = MESSAGES["TimeSeries"].FromString(samples)
        values = told[shown[0][1]]
        assert len(samples) == 24 * SAMPLE
        assert [one.timestamp for one in series.samples] == [end(hour) for hour in range(24)]
        packed = [struct.pack("<d", one.value) for one in series.samples]
        assert packed == [struct.pack("<d", value / NANO) for value in values]
