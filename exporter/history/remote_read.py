"""Remote read of past hours: a day is encoded once per change, and answers are assembled from encoded days."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from itertools import chain, repeat
from operator import truediv

from exporter.errors import QueryRejected
from exporter.history.cache import LRUCache
from exporter.history.hourly import (
    HOUR_MS,
    HOURS_PER_DAY,
    SAMPLE_LEAD_MS,
    DayValues,
    HistorySeriesKey,
    sample_timestamps,
)
from exporter.history.remote_read_protocol import (
    MESSAGES,
    Query,
    WorkBudget,
    compress,
    encode_message,
    encode_varint,
    parse_queries,
)
from exporter.history.sources import History, HistorySource, HistorySources
from exporter.ledger import Ledger
from exporter.metrics.families import Family
from exporter.model import utc
from exporter.windows import TimeRange

SAMPLE_HEAD, VALUE_BYTES, TAIL_BYTES = b"\x12\x10\x09", 8, 7
"""A sample: field 2 of 16 bytes, the value as a double, the time as a varint (6 bytes until the year 2109)."""
SAMPLE_BYTES = len(SAMPLE_HEAD) + VALUE_BYTES + TAIL_BYTES

MAX_WORK = 10_000_000
"""Units of work for a request: at most some ten seconds. 35 days of 100 accounts with 500 series each need about two
million; seven million if no day is cached."""
_SOURCE_WORK, _DAY_WORK = 50, 10
"""Units for reading which days a source has, and for looking a day up."""

_LabelPairs = list[tuple[str, str]]

EncodedDay = Mapping[HistorySeriesKey, bytes]
"""Series -> samples of a day, each SAMPLE_BYTES long, so that part of a day is a slice."""


def encode_day(day: datetime, day_values: DayValues, unit: int) -> EncodedDay:
    """Encode the samples of a day, values divided by `unit`.

    All series with equally many values are encoded together, one byte column at a time, which is faster than a message
    per sample.
    """
    encoded: dict[HistorySeriesKey, bytes] = {}
    for count in {len(values) for values in day_values.values()}:
        times = sample_timestamps(day, count)
        series = [key for key, values in day_values.items() if len(values) == count]
        width = count * SAMPLE_BYTES
        buffer = bytearray(
            b"".join(SAMPLE_HEAD + bytes(VALUE_BYTES) + b"\x10" + encode_varint(time) for time in times) * len(series)
        )
        all_values = chain.from_iterable(day_values[key] for key in series)
        # Functions of C only: this is called for every sample.
        values = array("d", map(truediv, all_values, repeat(unit)))
        if sys.byteorder == "big":
            values.byteswap()
        raw = values.tobytes()
        for byte in range(VALUE_BYTES):
            buffer[len(SAMPLE_HEAD) + byte :: SAMPLE_BYTES] = raw[byte::VALUE_BYTES]
        whole = bytes(buffer)
        encoded.update((key, whole[index * width : (index + 1) * width]) for index, key in enumerate(series))
    return encoded


class RemoteReadHandler:
    """Answers remote reads. Safe for several threads."""

    def __init__(
        self,
        ledger: Ledger,
        history: Callable[[], History],
        max_samples: int,
        max_cache_bytes: int = 64 << 20,
        max_work: int = MAX_WORK,
    ) -> None:
        """`max_samples` bounds one answer, `max_cache_bytes` what is kept for later answers.

        `max_work` bounds the work for one request, in units of WorkBudget.
        """
        self._history = history
        self._max_samples = max_samples
        self._max_work = max_work
        self._sources = HistorySources(ledger, max_cache_bytes // 2)
        self.cache: LRUCache[tuple[int, str, datetime], EncodedDay] = LRUCache(max_cache_bytes // 2)
        """Account, family and day -> its samples."""

    def handle(self, body: bytes) -> bytes:
        """Return the answer to a request's body. Raises QueryRejected with the reason."""
        parts: list[bytes] = []
        size = 0
        budget = WorkBudget(self._max_work)
        history = self._history()
        for query in parse_queries(body, budget):
            series: list[tuple[_LabelPairs, list[bytes]]] = []
            for labels, pieces in self._find_series(query, history, budget):
                size += sum(map(len, pieces)) // SAMPLE_BYTES
                self._check_sample_limit(size)
                series.append((labels, pieces))
            result: list[bytes] = []
            for labels, pieces in sorted(series, key=lambda item: item[0]):
                result += encode_message(1, [_encode_labels(labels), *pieces])
            parts += encode_message(1, result)
        return compress(parts)

    def _check_sample_limit(self, samples: int) -> None:
        if samples > self._max_samples:
            raise QueryRejected(
                f"the answer would hold more than {self._max_samples} samples: query a shorter time range or fewer "
                "series, or raise --storage.remote.read-sample-limit"
            )

    def _find_series(
        self, query: Query, history: History, budget: WorkBudget
    ) -> Iterator[tuple[_LabelPairs, list[bytes]]]:
        """Yield labels and samples of every series that matches."""

        def is_selected(family: Family) -> bool:
            budget.spend(1)
            return query.matches({"__name__": family.name}, ["__name__"])

        for source in self._sources.find(history, is_selected):
            shared_labels = {"__name__": source.family.name, **source.shared_labels}
            budget.spend(1 + len(query.matchers))
            if query.matches(shared_labels, list(shared_labels)):
                yield from self._find_source_series(query, source, shared_labels, budget)

    def _find_source_series(
        self, query: Query, source: HistorySource, shared_labels: Mapping[str, str], budget: WorkBudget
    ) -> Iterator[tuple[_LabelPairs, list[bytes]]]:
        # Hours since the epoch: the served hours whose samples are in the query's range are those of [first, last).
        # Both ends of a query are included, and a sample is SAMPLE_LEAD_MS before its hour's end.
        first = max(0, -(-(query.start + SAMPLE_LEAD_MS) // HOUR_MS) - 1)
        served_hours = int(source.end.timestamp()) * 1000 // HOUR_MS
        last = min((query.end + SAMPLE_LEAD_MS) // HOUR_MS, served_hours)
        if first >= last:
            return
        wanted: dict[HistorySeriesKey, list[bytes] | None] = {}
        size = 0
        span = TimeRange(utc(first // HOURS_PER_DAY * HOURS_PER_DAY * HOUR_MS // 1000), utc(last * HOUR_MS // 1000))
        budget.spend(_SOURCE_WORK)
        for day in source.days(span):
            day_start = int(day.timestamp()) * 1000 // HOUR_MS
            low, high = max(first - day_start, 0), min(last - day_start, HOURS_PER_DAY)
            encoded_day = self._get_day(source, day, budget)
            budget.spend(_DAY_WORK + len(encoded_day))
            for key, samples in encoded_day.items():
                if key not in wanted:
                    budget.spend(1 + len(query.matchers))
                    labels = {**shared_labels, **source.labels(key)}
                    wanted[key] = [] if query.matches(labels) else None
                pieces = wanted[key]
                if pieces is not None:
                    piece = _slice_samples(samples, low, high)
                    pieces.append(piece)
                    size += len(piece)
            self._check_sample_limit(size // SAMPLE_BYTES)
        for key, pieces in wanted.items():
            if pieces and any(pieces):
                yield sorted({**shared_labels, **source.labels(key)}.items()), pieces

    def _get_day(self, source: HistorySource, day: datetime, budget: WorkBudget) -> EncodedDay:
        key, version = (source.account_number, source.family.name, day), source.version(day)
        encoded = None if version is None else self.cache.get(key, version)
        if encoded is None:
            encoded = encode_day(day, source.read(day, budget), source.unit)
            if version is not None:
                self.cache.put(
                    key, version, encoded, sum(map(sys.getsizeof, encoded.values())) + sys.getsizeof(encoded)
                )
        return encoded


def _slice_samples(samples: bytes, first_hour: int, end_hour: int) -> bytes:
    """Return the samples of a day whose hours end after the beginning of `first_hour` and up to that of `end_hour`."""
    interval = HOURS_PER_DAY * SAMPLE_BYTES // len(samples)
    return samples[first_hour // interval * SAMPLE_BYTES : end_hour // interval * SAMPLE_BYTES]


def _encode_labels(labels: _LabelPairs) -> bytes:
    series = MESSAGES["TimeSeries"](labels=[{"name": name, "value": value} for name, value in labels])
    return bytes(series.SerializeToString())
