"""The ledger as Prometheus reads it over remote read: a day is encoded once per change, an answer is put together."""

from __future__ import annotations

import sys
import threading
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from exporter.errors import QueryRefused
from exporter.history.hourly import HOUR_MS, Hourly, Shown, Teller, account_labels, hourly, series_labels, stamps
from exporter.history.remote_read_protocol import MESSAGES, Query, framed, packed, queries, varint
from exporter.ledger import Ledger
from exporter.metrics.families import HISTORY_FAMILIES, HOURLY_COST, Family
from exporter.model import DAY, HOUR, NANO, utc
from exporter.windows import Span

HEAD, VALUE, TAIL = b"\x12\x10\x09", 8, 7
"""A sample: field 2 of 16 bytes, the value as a double, the time as a varint (6 bytes until the year 2109)."""
SAMPLE = len(HEAD) + VALUE + TAIL
HOURS = int(DAY / HOUR)

_Labels = list[tuple[str, str]]

Encoded = Mapping[Shown, bytes]
"""A day's samples, every one SAMPLE bytes long, so that a part of a day is a slice."""


def encode(day: datetime, told: Hourly, unit: int) -> Encoded:
    """Return the samples of one day, values divided by `unit`: all series of the day at a stroke."""
    ends = stamps(day)
    found: dict[Shown, bytes] = {}
    for times in (ends, ends[-1:]):
        series = [shown for shown, values in told.items() if len(values) == len(times)]
        width = len(times) * SAMPLE
        buffer = bytearray(b"".join(HEAD + bytes(VALUE) + b"\x10" + varint(time) for time in times) * len(series))
        values = array("d", (value / unit for shown in series for value in told[shown]))
        if sys.byteorder == "big":
            values.byteswap()
        raw = values.tobytes()
        for byte in range(VALUE):
            buffer[len(HEAD) + byte :: SAMPLE] = raw[byte::VALUE]
        whole = bytes(buffer)
        found.update((shown, whole[place * width : (place + 1) * width]) for place, shown in enumerate(series))
    return found


class Reader:
    """Answers remote reads. Safe to be asked by several threads at once."""

    def __init__(
        self, ledger: Ledger, tellers: Callable[[], Iterable[Teller]], most_samples: int, most_kept: int = 64 << 20
    ) -> None:
        """`most_samples` bounds one answer, `most_kept` the bytes of encoded days that are kept for the next."""
        self._ledger = ledger
        self._tellers = tellers
        self._most = most_samples
        self._kept = _Kept(most_kept)

    def answer(self, body: bytes) -> bytes:
        """Return the answer to a request's body. Raises QueryRefused with the reason."""
        parts: list[bytes] = []
        asked, size = queries(body), 0
        for query in asked:
            found: list[tuple[_Labels, list[bytes]]] = []
            for labels, pieces in self._found(query):
                size += sum(map(len, pieces)) // SAMPLE
                self._bound(size)
                found.append((labels, pieces))
            result: list[bytes] = []
            for labels, pieces in sorted(found, key=lambda one: one[0]):
                result += framed(1, [_named(labels), *pieces])
            parts += framed(1, result)
        return packed(parts)

    def _bound(self, samples: int) -> None:
        if samples > self._most:
            raise QueryRefused(
                f"the answer would hold more than {self._most} samples: ask for a shorter time or fewer series, or "
                "raise --storage.remote.read-sample-limit"
            )

    def _found(self, query: Query) -> Iterator[tuple[_Labels, list[bytes]]]:
        """Yield labels and samples of every series that is wanted."""
        tellers = list(self._tellers())
        for family in HISTORY_FAMILIES:
            for teller in tellers:
                shared = {"__name__": family.name, **account_labels(teller)}
                if query.wants(shared, list(shared)):
                    yield from self._of(query, family, teller, shared)

    def _of(
        self, query: Query, family: Family, teller: Teller, shared: Mapping[str, str]
    ) -> Iterator[tuple[_Labels, list[bytes]]]:
        # Hours since the epoch; the samples that are wanted and known stand in [first, last).
        first = max(0, -(-(query.start + 1) // HOUR_MS) - 1)
        last = min((query.end + 1) // HOUR_MS, int(teller.until.timestamp()) * 1000 // HOUR_MS)
        if first >= last:
            return
        wanted: dict[Shown, list[bytes] | None] = {}
        size = 0
        span = Span(utc(first // HOURS * HOURS * HOUR_MS // 1000), utc(last * HOUR_MS // 1000))
        for day in self._ledger.hours.days(teller.book.number, span):
            begins = int(day.timestamp()) * 1000 // HOUR_MS
            low, high = max(first - begins, 0), min(last - begins, HOURS)
            for shown, samples in self._day(family, teller, day).items():
                if shown not in wanted:
                    labels = {**shared, **series_labels(teller, shown)}
                    wanted[shown] = [] if query.wants(labels) else None
                pieces = wanted[shown]
                if pieces is not None:
                    piece = samples if high - low == HOURS else _part(samples, low, high)
                    pieces.append(piece)
                    size += len(piece)
            self._bound(size // SAMPLE)
        for shown, pieces in wanted.items():
            if pieces and any(pieces):
                labels = {**shared, **series_labels(teller, shown)}
                yield sorted(labels.items()), pieces

    def _day(self, family: Family, teller: Teller, day: datetime) -> Encoded:
        number = teller.book.number
        key, version = (number, family.name, day), (self._ledger.hours.version(number, day), teller.places.moved)
        kept = self._kept.get(key, version)
        if kept is None:
            told = hourly(self._ledger, family, teller, day)
            kept = encode(day, told, NANO if family is HOURLY_COST else 1)
            self._kept.put(key, version, kept)
        return kept


def _part(samples: bytes, low: int, high: int) -> bytes:
    """Return the samples of some hours; the one sample of a day of which only the sum is kept stands at its end."""
    if len(samples) == SAMPLE:
        return samples if high == HOURS else b""
    return samples[low * SAMPLE : high * SAMPLE]


def _named(labels: _Labels) -> bytes:
    series = MESSAGES["TimeSeries"](labels=[{"name": name, "value": value} for name, value in labels])
    return bytes(series.SerializeToString())


_Key = tuple[int, str, datetime]


@dataclass(frozen=True, slots=True)
class _Entry:
    version: object
    day: Encoded
    size: int


class _Kept:
    """Encoded days: those asked for last are kept, up to a number of bytes."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._size = 0
        self._lock = threading.Lock()
        self._entries: OrderedDict[_Key, _Entry] = OrderedDict()

    def get(self, key: _Key, version: object) -> Encoded | None:
        """Return a day as encoded from this version of it."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None or entry.version != version:
                return None
            self._entries.move_to_end(key)
            return entry.day

    def put(self, key: _Key, version: object, day: Encoded) -> None:
        """Keep a day; what was asked for longest ago makes room."""
        entry = _Entry(version, day, sum(map(sys.getsizeof, day.values())) + sys.getsizeof(day))
        with self._lock:
            old = self._entries.pop(key, None)
            self._size += entry.size - (old.size if old else 0)
            self._entries[key] = entry
            while self._size > self._most:
                self._size -= self._entries.popitem(last=False)[1].size
