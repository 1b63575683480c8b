"""The encoding of the days that a snapshot's builder keeps, as bytes that are stored in the ledger for a restart.

A digest is followed by compressed content: the length of a JSON header, the header, and all integers, eight bytes each.
The header has the labels, and the names of each day's sums. Content that is damaged or of another program is no error:
it decodes to no days, which are then read from the ledger as at a first start.
"""

from __future__ import annotations

import json
import struct
import sys
import zlib
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from typing import Any

from exporter import __version__
from exporter.ledger.snapshot_days import DayRevision
from exporter.model import RowLabels, utc
from exporter.snapshot.account_snapshot import DayTotals
from exporter.snapshot.hourly import HourlyDay, HourlySums

_PROGRAM = f"{__version__} 1"
"""The program's version, and that of this encoding and of how days are summed: increase it where either changes."""
_DIGEST_SIZE = 16
_LENGTH = struct.Struct("<I")
_COMPRESSION_LEVEL = 1
_MAX_BYTES = 1 << 26
"""Of the content before its compression: far more than an account has."""
_HOURS = 24


@dataclass(frozen=True, slots=True)
class StoredDay:
    """A closed UTC day, and the revision that it was summed from."""

    revision: DayRevision
    totals: DayTotals
    hourly: HourlyDay


@dataclass(frozen=True, slots=True)
class StoredDays:
    """The closed days of an account."""

    grouping: str
    """Digest of the configuration and names by which hours were summed: it is valid for these only."""
    days: Mapping[datetime, StoredDay]

    @property
    def revisions(self) -> dict[datetime, DayRevision]:
        """The revision of each day."""
        return {day: known.revision for day, known in self.days.items()}


NO_STORED_DAYS = StoredDays("", {})


def encode_days(stored: StoredDays) -> bytes:
    """Return the days as bytes. Days whose hours were rolled up are left out."""
    label_sets: dict[Sequence[RowLabels], int] = {}
    days: list[list[Any]] = []
    values = array("q")
    for day, known in stored.days.items():
        sums = _hourly_sums(known.hourly)
        if any(len(hours) != _HOURS for named in sums for hours in named.values()):
            continue
        label_set = label_sets.setdefault(tuple(known.totals.labels), len(label_sets))
        names = [[*named] for named in sums]
        days.append([int(day.timestamp()), *known.revision, label_set, names, known.hourly.has_usage])
        values.extend(known.totals.values)
        for named in sums:
            for hours in named.values():
                values.extend(hours)
    header = json.dumps([_PROGRAM, stored.grouping, [*label_sets], days], separators=(",", ":")).encode()
    content = zlib.compress(_LENGTH.pack(len(header)) + header + _to_bytes(values), _COMPRESSION_LEVEL)
    return _digest(content) + content


def decode_days(content: bytes) -> StoredDays:
    """Return the days that `encode_days` encoded; none where the content is damaged or another program's."""
    digest, compressed = content[:_DIGEST_SIZE], content[_DIGEST_SIZE:]
    if not compressed or digest != _digest(compressed):
        return NO_STORED_DAYS
    try:
        return _decode(zlib.decompressobj().decompress(compressed, _MAX_BYTES))
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, struct.error, zlib.error):
        # The digest is right, so that another program wrote it. Nothing is lost: the days are read from the ledger.
        return NO_STORED_DAYS


def _decode(content: bytes) -> StoredDays:
    (header_size,) = _LENGTH.unpack_from(content)
    header_end = _LENGTH.size + header_size
    program, grouping, plain_label_sets, plain_days = json.loads(content[_LENGTH.size : header_end])
    if program != _PROGRAM:
        return NO_STORED_DAYS
    label_sets = [tuple(RowLabels(*map(sys.intern, labels)) for labels in plain) for plain in plain_label_sets]
    values = _from_bytes(content[header_end:])
    position = 0
    days: dict[datetime, StoredDay] = {}
    for start, buckets, costs, label_set, names, has_usage in plain_days:
        labels = label_sets[label_set]
        totals = DayTotals(labels, values[position : position + len(labels)])
        position += len(labels)
        sums: list[HourlySums] = []
        for named in names:
            hours: HourlySums = {}
            for name in named:
                hours[sys.intern(name)] = values[position : position + _HOURS]
                position += _HOURS
            sums.append(hours)
        usage_cost, fixed_cost, budgets, one_time_cost, requests, tokens = sums
        hourly = HourlyDay(usage_cost, fixed_cost, budgets, one_time_cost, requests, tokens, has_usage)
        days[utc(start)] = StoredDay(DayRevision(buckets, costs), totals, hourly)
    return StoredDays(grouping, days) if position == len(values) else NO_STORED_DAYS


def _hourly_sums(day: HourlyDay) -> list[HourlySums]:
    """Return the sums in the order of the fields."""
    return [day.usage_cost, day.fixed_cost, day.budgets, day.one_time_cost, day.requests, day.tokens]


def _to_bytes(values: array[int]) -> bytes:
    """Return the integers, least significant byte first on every machine."""
    if sys.byteorder == "big":
        values = values[:]
        values.byteswap()
    return values.tobytes()


def _from_bytes(content: bytes) -> array[int]:
    values = array("q")
    values.frombytes(content)
    if sys.byteorder == "big":
        values.byteswap()
    return values


def _digest(content: bytes) -> bytes:
    return blake2b(content, digest_size=_DIGEST_SIZE).digest()
