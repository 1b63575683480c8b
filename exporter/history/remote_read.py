"""Remote read of past hours: a day is encoded once per change, and answers are assembled from encoded days."""

from __future__ import annotations

import sys
import threading
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from exporter.errors import QueryRejected
from exporter.history.hourly import (
    HOUR_MS,
    SAMPLE_LEAD_MS,
    DayValues,
    HistoryAccount,
    HistorySeriesKey,
    account_labels,
    read_day,
    sample_timestamps,
    series_labels,
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
from exporter.ledger import Ledger
from exporter.metrics.families import HISTORY_FAMILIES, HOURLY_COST, Family
from exporter.model import DAY, HOUR, NANO, utc
from exporter.windows import TimeRange

SAMPLE_HEAD, VALUE_BYTES, TAIL_BYTES = b"\x12\x10\x09", 8, 7
"""A sample: field 2 of 16 bytes, the value as a double, the time as a varint (6 bytes until the year 2109)."""
SAMPLE_BYTES = len(SAMPLE_HEAD) + VALUE_BYTES + TAIL_BYTES
HOURS_PER_DAY = int(DAY / HOUR)

MAX_WORK = 10_000_000
"""Units of work for a request: at most some ten seconds. 35 days of 100 accounts with 500 series each need about two
million; seven million if no day is cached."""
_ACCOUNT_WORK, _DAY_WORK, _ENCODING_WORK = 50, 10, 3
"""Units for reading which days an account has, for looking a day up, and for reading and encoding a series of a day."""

_LabelPairs = list[tuple[str, str]]

EncodedDay = Mapping[HistorySeriesKey, bytes]
"""Series -> samples of a day, each SAMPLE_BYTES long, so that part of a day is a slice."""


def encode_day(day: datetime, day_values: DayValues, unit: int) -> EncodedDay:
    """Encode the samples of a day, values divided by `unit`.

    All series are encoded together, one byte column at a time, which is faster than a message per sample.
    """
    ends = sample_timestamps(day)
    encoded: dict[HistorySeriesKey, bytes] = {}
    for times in (ends, ends[-1:]):
        series = [key for key, values in day_values.items() if len(values) == len(times)]
        width = len(times) * SAMPLE_BYTES
        buffer = bytearray(
            b"".join(SAMPLE_HEAD + bytes(VALUE_BYTES) + b"\x10" + encode_varint(time) for time in times) * len(series)
        )
        values = array("d", (value / unit for key in series for value in day_values[key]))
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
        history_accounts: Callable[[], Iterable[HistoryAccount]],
        max_samples: int,
        max_cache_bytes: int = 64 << 20,
        max_work: int = MAX_WORK,
    ) -> None:
        """`max_samples` bounds one answer, `max_cache_bytes` the encoded days that are kept for later answers.

        `max_work` bounds the work for one request, in units of WorkBudget.
        """
        self._ledger = ledger
        self._history_accounts = history_accounts
        self._max_samples = max_samples
        self._max_work = max_work
        self._cache = LRUCache(max_cache_bytes)

    def handle(self, body: bytes) -> bytes:
        """Return the answer to a request's body. Raises QueryRejected with the reason."""
        parts: list[bytes] = []
        size = 0
        budget = WorkBudget(self._max_work)
        for query in parse_queries(body, budget):
            series: list[tuple[_LabelPairs, list[bytes]]] = []
            for labels, pieces in self._find_series(query, budget):
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

    def _find_series(self, query: Query, budget: WorkBudget) -> Iterator[tuple[_LabelPairs, list[bytes]]]:
        """Yield labels and samples of every series that matches."""
        accounts = list(self._history_accounts())
        for family in HISTORY_FAMILIES:
            for account in accounts:
                shared = {"__name__": family.name, **account_labels(account)}
                budget.spend(1 + len(query.matchers))
                if query.matches(shared, list(shared)):
                    yield from self._find_account_series(query, family, account, shared, budget)

    def _find_account_series(
        self,
        query: Query,
        family: Family,
        history_account: HistoryAccount,
        shared_labels: Mapping[str, str],
        budget: WorkBudget,
    ) -> Iterator[tuple[_LabelPairs, list[bytes]]]:
        # Hours since the epoch: the complete hours whose samples are in the query's range are those of [first, last).
        # Both ends of a query are included, and a sample is SAMPLE_LEAD_MS before its hour's end.
        first = max(0, -(-(query.start + SAMPLE_LEAD_MS) // HOUR_MS) - 1)
        complete_hours = int(history_account.complete_until.timestamp()) * 1000 // HOUR_MS
        last = min((query.end + SAMPLE_LEAD_MS) // HOUR_MS, complete_hours)
        if first >= last:
            return
        wanted: dict[HistorySeriesKey, list[bytes] | None] = {}
        size = 0
        span = TimeRange(utc(first // HOURS_PER_DAY * HOURS_PER_DAY * HOUR_MS // 1000), utc(last * HOUR_MS // 1000))
        budget.spend(_ACCOUNT_WORK)
        for day in self._ledger.hours.days(history_account.ledger_account.id, span):
            day_start = int(day.timestamp()) * 1000 // HOUR_MS
            low, high = max(first - day_start, 0), min(last - day_start, HOURS_PER_DAY)
            encoded_day = self._get_day(family, history_account, day, budget)
            budget.spend(_DAY_WORK + len(encoded_day))
            for key, samples in encoded_day.items():
                if key not in wanted:
                    budget.spend(1 + len(query.matchers))
                    labels = {**shared_labels, **series_labels(history_account, key)}
                    wanted[key] = [] if query.matches(labels) else None
                pieces = wanted[key]
                if pieces is not None:
                    piece = samples if high - low == HOURS_PER_DAY else _slice_samples(samples, low, high)
                    pieces.append(piece)
                    size += len(piece)
            self._check_sample_limit(size // SAMPLE_BYTES)
        for key, pieces in wanted.items():
            if pieces and any(pieces):
                labels = {**shared_labels, **series_labels(history_account, key)}
                yield sorted(labels.items()), pieces

    def _get_day(
        self, family: Family, history_account: HistoryAccount, day: datetime, budget: WorkBudget
    ) -> EncodedDay:
        number = history_account.ledger_account.id
        key, version = (
            (number, family.name, day),
            (self._ledger.hours.version(number, day), history_account.label_mapper.remapped),
        )
        encoded = self._cache.get(key, version)
        if encoded is None:
            values = read_day(self._ledger, family, history_account, day)
            budget.spend(_ENCODING_WORK * len(values))
            encoded = encode_day(day, values, NANO if family is HOURLY_COST else 1)
            self._cache.put(key, version, encoded)
        return encoded


def _slice_samples(samples: bytes, first_hour: int, end_hour: int) -> bytes:
    """Return the samples of some hours. A day of which only the sum is kept has a single sample, in its last hour."""
    if len(samples) == SAMPLE_BYTES:
        return samples if end_hour == HOURS_PER_DAY else b""
    return samples[first_hour * SAMPLE_BYTES : end_hour * SAMPLE_BYTES]


def _encode_labels(labels: _LabelPairs) -> bytes:
    series = MESSAGES["TimeSeries"](labels=[{"name": name, "value": value} for name, value in labels])
    return bytes(series.SerializeToString())


_DayKey = tuple[int, str, datetime]


@dataclass(frozen=True, slots=True)
class _Entry:
    version: object
    day: EncodedDay
    size: int


class LRUCache:
    """Encoded days, the most recently used ones, up to a number of bytes."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._size = 0
        self._lock = threading.Lock()
        self._entries: OrderedDict[_DayKey, _Entry] = OrderedDict()

    @property
    def size_bytes(self) -> int:
        """The size of all cached days."""
        with self._lock:
            return self._size

    def entry_sizes(self) -> dict[_DayKey, int]:
        """Return the size of each cached day, least recently used first."""
        with self._lock:
            return {key: entry.size for key, entry in self._entries.items()}

    def get(self, key: _DayKey, version: object) -> EncodedDay | None:
        """Return a day encoded from this version; None where it is not cached."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None or entry.version != version:
                return None
            self._entries.move_to_end(key)
            return entry.day

    def put(self, key: _DayKey, version: object, day: EncodedDay) -> None:
        """Cache a day; the least recently used days are evicted."""
        entry = _Entry(version, day, sum(map(sys.getsizeof, day.values())) + sys.getsizeof(day))
        with self._lock:
            old = self._entries.pop(key, None)
            self._size += entry.size - (old.size if old else 0)
            self._entries[key] = entry
            while self._size > self._max_bytes:
                self._size -= self._entries.popitem(last=False)[1].size
