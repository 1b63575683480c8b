"""Parse the providers' answers: typed fields of JSON objects, and the buckets of a time range. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from typing import NamedTuple, NoReturn, TypeVar

from exporter.errors import Malformed
from exporter.model import COST, GAUGE_METERS, Bucket, Report, Row, RowLabels, clean_text, utc
from exporter.providers.http import Json
from exporter.windows import floor, slots

T = TypeVar("T")
_MAX_AMOUNT_LENGTH = 100
_AMOUNT = re.compile(r"-?\d*\.?\d*([eE][+-]?\d{1,3})?", re.ASCII)
MAX_INT64 = 2**63 - 1
MAX_VALUE = 10**16
"""The largest value of a row in nano-USD or bytes: ten million USD in one bucket, ten petabytes."""
MAX_COUNT = 10**12
"""The largest number of tokens, requests or other units of a row: more than a large provider serves to all customers in
an hour, and small enough for its cost in nano-USD to fit into SQLite's 64 bits at any price."""


def clean_bucket(report: Report, bucket: Bucket) -> Bucket:
    """Return a bucket whose values and labels can be stored, whoever made it. Raises Malformed.

    Labels are cleaned (`clean_text`); a value that is not a whole number, or too large, is Malformed.
    """
    rows = []
    for row in bucket.rows:
        if not isinstance(row.value, int) or abs(row.value) > _max_value(report, row.meter):
            raise Malformed(f"{report.name}: a value of {clean_text(row.meter)} is out of range", "value")
        labels = (row.meter, row.workspace, row.model, row.tier, row.api_key, row.item)
        if not all(isinstance(label, str) for label in labels):
            raise Malformed(f"{report.name}: a label is not a text", "label")
        cleaned = tuple(map(clean_text, labels))
        meter, *others = cleaned
        rows.append(row if cleaned == labels else Row(meter, row.value, *others))
    return replace(bucket, rows=tuple(rows))


def clean_names(names: Mapping[str, str]) -> dict[str, str]:
    """Return ids -> names, both cleaned (`clean_text`). Raises Malformed where one of them is not a text."""
    for id_, name in names.items():
        if not isinstance(id_, str) or not isinstance(name, str):
            raise Malformed("names: an id or name is not a text", "name")
    return {clean_text(id_): clean_text(name) for id_, name in names.items()}


class RawBucket(NamedTuple):
    """One bucket as the provider reports it."""

    start: datetime
    end: datetime
    """Earlier than `start` plus the report's width while the slot is running."""
    rows: Iterable[Row]
    """Rows that differ only in their value are added up later."""


def build_buckets(
    report: Report, since: datetime, until: datetime, raw_buckets: Iterable[RawBucket]
) -> Iterator[Bucket]:
    """Yield one bucket for every slot of [since, until), oldest first, after all of `raw_buckets` has been read.

    A slot without a raw bucket is empty; a raw bucket outside the time range is dropped. If the report lists empty
    buckets, a slot without a raw bucket is an error instead, because an answer without its buckets must never replace
    usage by zero. Only the newest slots, which a provider may not list yet, may be missing: they are left out, so that
    the ledger keeps what it has. Raises Malformed, with the report's name, where buckets are missing, a raw bucket
    overlaps several slots or two have the same start.
    """
    rows_by_slot: dict[datetime, tuple[Row, ...] | None] = dict.fromkeys(slots(since, until, report.width))
    if not rows_by_slot:
        return
    # A range that ends inside a slot ends now. The slots of the last `lag` are read again by the following polls.
    settled_until = until if floor(until, report.width) == until else until - report.lag
    try:
        for raw in raw_buckets:
            if raw.start in rows_by_slot:
                slot_end = raw.start + report.width
                is_first = rows_by_slot[raw.start] is None
                _require(is_first, f"two buckets start at {raw.start:%Y-%m-%dT%H:%MZ}", "start")
                _require(raw.start < raw.end <= slot_end, "a bucket has another width than was requested", "end")
                is_whole = raw.end == slot_end or slot_end > settled_until or not report.lists_empty_buckets
                _require(is_whole, f"the bucket of {raw.start:%Y-%m-%dT%H:%MZ} ends before its slot", "end")
                rows_by_slot[raw.start] = _merge_rows(report, raw.rows)
            else:
                is_outside = not since <= raw.start < until
                _require(is_outside, "a bucket starts inside a slot", "start")
        if report.lists_empty_buckets:
            _require_buckets(rows_by_slot, report.width, settled_until)
    except Malformed as error:
        raise Malformed(f"{report.name}: {error}", error.field) from None
    for start, rows in rows_by_slot.items():
        if rows is not None or not report.lists_empty_buckets:
            yield Bucket(report.name, start, start + report.width, rows or ())


def count_slots(report: Report, since: datetime, until: datetime) -> int:
    """Return the number of slots that start in [since, until), at least 1: a list of buckets has no more pages."""
    return max(1, -((since - until) // report.width))


def required_field(obj: Json, name: str, expected_type: type[T]) -> T:
    """Return a required field of one type. Raises Malformed."""
    value = obj.get(name)
    if not isinstance(value, expected_type):
        _raise_wrong_type(name, value, f"a {expected_type.__name__}")
    return value


def str_field(obj: Json, name: str) -> str:
    """Return a string field, cleaned as a label (`clean_text`); missing and null are "". Raises Malformed."""
    return "" if obj.get(name) is None else clean_text(required_field(obj, name, str))


def bool_field(obj: Json, name: str) -> bool:
    """Return a boolean field; missing and null are False. Raises Malformed."""
    return obj.get(name) is not None and required_field(obj, name, bool)


def object_field(obj: Json, name: str) -> Json:
    """Return an object field; missing and null are empty. Raises Malformed."""
    return {} if obj.get(name) is None else required_field(obj, name, dict)


def list_field(obj: Json, name: str) -> list[Json]:
    """Return a required list of objects. Raises Malformed."""
    items = required_field(obj, name, list)
    for item in items:
        if not isinstance(item, dict):
            _raise_wrong_type(name, item, "a list of objects")
    return items


def page_items(page: Json, name: str) -> list[Json]:
    """Return the items of a page. Raises Malformed where a page without items says that there are more."""
    items = list_field(page, name)
    if not items and page.get("has_more") is True:
        raise Malformed(f"the field {name} of a page is empty, but there are more pages", name)
    return items


def require_unique(items: Iterable[Json], name: str) -> list[Json]:
    """Return the items of the list `name`, whose labels differ. Raises Malformed where two items are equal.

    Adding up an item that was sent twice would double its usage or cost.
    """
    found = list(items)
    # The text of an item, because objects cannot be hashed; comparing all pairs would be quadratic.
    if len({repr(sorted(item.items())) for item in found}) < len(found):
        raise Malformed(f"the field {name} has a duplicate", name)
    return found


def int_field(obj: Json, name: str, default: int | None = None) -> int:
    """Return a non-negative whole number, written 12 or 12.0; `default` where missing or null. Raises Malformed."""
    value = obj.get(name)
    if value is None and default is not None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        _raise_wrong_type(name, value, "a whole number")
    try:
        is_valid = 0 <= value <= MAX_INT64 and value == int(value)
    except ArithmeticError:
        is_valid = False
    if not is_valid:
        raise Malformed(f"the field {name} is not a whole number from 0 to {MAX_INT64}", name)
    return int(value)


def money_field(obj: Json, name: str, nano_per_unit: int) -> int:
    """Return an amount in nano-USD, rounded half to even. Raises Malformed.

    The field is a number or its text, in units of `nano_per_unit` nano-USD: NANO for dollars, NANO // 100 for cents.
    """
    value = obj.get(name)
    if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
        _raise_wrong_type(name, value, "an amount")
    try:
        if isinstance(value, str) and (len(value) > _MAX_AMOUNT_LENGTH or not _AMOUNT.fullmatch(value)):
            raise InvalidOperation  # before Decimal, which also reads "1_000", digits of every script and megabytes
        amount = (Decimal(value) * nano_per_unit).to_integral_value(ROUND_HALF_EVEN)
        is_valid = abs(amount) <= MAX_INT64
    except ArithmeticError:  # of an exponent near a million, Overflow or Subnormal
        is_valid = False
    if not is_valid:
        raise Malformed(f"the field {name} is not an amount of money", name)
    return int(amount)


def time_field(obj: Json, name: str, unit: timedelta = timedelta(milliseconds=1)) -> datetime:
    """Return a time in UTC. Raises Malformed.

    The field is RFC 3339, in UTC without an offset, or a number of `unit`s since the epoch, also as text.
    """
    value = obj.get(name)
    try:
        if isinstance(value, str) and not (value.isdecimal() and value.isascii()):
            time = datetime.fromisoformat(value)
            return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
        count = int(value) if isinstance(value, str) else int_field(obj, name)
        return utc(0) + unit * count
    except (ValueError, OverflowError):
        raise Malformed(f"the field {name} is not a time", name) from None


def _raise_wrong_type(name: str, value: object, expected: str) -> NoReturn:
    problem = "is missing" if value is None else f"is a {type(value).__name__}, not {expected}"
    raise Malformed(f"the field {name} {problem}", name)


def _require(condition: bool, message: str, name: str) -> None:  # noqa: FBT001
    if not condition:
        raise Malformed(message, name)


def _require_buckets(
    rows_by_slot: Mapping[datetime, tuple[Row, ...] | None], width: timedelta, settled_until: datetime
) -> None:
    """Raise Malformed where a slot that ended by `settled_until` has no bucket."""
    expected = [start for start in rows_by_slot if start + width <= settled_until]
    missing = [start for start in expected if rows_by_slot[start] is None]
    if missing:
        message = f"{len(missing)} of {len(expected)} buckets are missing, the first of {missing[0]:%Y-%m-%dT%H:%MZ}"
        raise Malformed(message, "data")


def _max_value(report: Report, meter: str) -> int:
    return MAX_VALUE if report.kind == "bill" or meter == COST or meter in GAUGE_METERS else MAX_COUNT


def _merge_rows(report: Report, rows: Iterable[Row]) -> tuple[Row, ...]:
    """Add up rows with equal labels and sort them, so that equal answers give equal buckets."""
    sums: dict[RowLabels, int] = {}
    for row in rows:
        labels = RowLabels(row.meter, row.workspace, row.model, row.tier, row.api_key, row.item)
        sums[labels] = sums.get(labels, 0) + row.value
        if abs(sums[labels]) > _max_value(report, row.meter):
            raise Malformed(f"a value of {row.meter} is out of range", "value")
    merged: list[Row] = []
    for labels, value in sorted(sums.items()):
        if value or report.kind == "bill":
            merged.append(
                Row(labels.meter, value, labels.workspace, labels.model, labels.tier, labels.api_key, labels.item)
            )
    return tuple(merged)
