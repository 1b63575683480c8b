"""Reading the providers' answers: typed fields of JSON objects, and whole spans of buckets. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from typing import NoReturn, TypeVar

from exporter.errors import Malformed
from exporter.model import Bucket, Report, Row, utc
from exporter.providers.http import Json
from exporter.windows import slots

RawBucket = tuple[datetime, datetime, Iterable[Row]]
"""One bucket as the provider told it: start, end (before a whole width where it is still running), rows."""
T = TypeVar("T")
MAX_INT64 = 2**63 - 1


def build_buckets(
    report: Report, since: datetime, until: datetime, raw_buckets: Iterable[RawBucket]
) -> Iterator[Bucket]:
    """Yield one bucket for every slot of [since, until), oldest first, after all of `told` was read.

    A slot that was not told is empty; a bucket outside the span is left out. Raises Malformed where a bucket lies
    across slots or comes twice, and says which report an odd field was in.
    """
    spans: dict[datetime, tuple[Row, ...] | None] = dict.fromkeys(slots(since, until, report.width))
    if not spans:
        return
    try:
        for start, end, rows in raw_buckets:
            if start in spans:
                _require(spans[start] is None, f"the bucket of {start:%Y-%m-%dT%H:%MZ} comes twice", "start")
                _require(start < end <= start + report.width, "a bucket has another width than was asked for", "end")
                spans[start] = _merge_rows(rows, keep_zero=report.kind == "bill")
            else:
                _require(not since <= start < until, "a bucket starts off the edge of its slot", "start")
    except Malformed as error:
        raise Malformed(f"{report.name}: {error}", error.field) from None
    for start, merged in spans.items():
        yield Bucket(report.name, start, start + report.width, merged or ())


def required_field(obj: Json, name: str, expected_type: type[T]) -> T:
    """Return a required field of one type. Raises Malformed."""
    value = obj.get(name)
    if not isinstance(value, expected_type):
        _raise_wrong_type(name, value, f"a {expected_type.__name__}")
    return value


def str_field(obj: Json, name: str) -> str:
    """Return a text field; missing and null are "". Raises Malformed."""
    return "" if obj.get(name) is None else required_field(obj, name, str)


def bool_field(obj: Json, name: str) -> bool:
    """Return a truth field; missing and null are False. Raises Malformed."""
    return obj.get(name) is not None and required_field(obj, name, bool)


def object_field(obj: Json, name: str) -> Json:
    """Return an object inside an object; missing and null are empty. Raises Malformed."""
    return {} if obj.get(name) is None else required_field(obj, name, dict)


def list_field(obj: Json, name: str) -> list[Json]:
    """Return a required list of objects. Raises Malformed."""
    found = required_field(obj, name, list)
    for item in found:
        if not isinstance(item, dict):
            _raise_wrong_type(name, item, "a list of objects")
    return found


def int_field(obj: Json, name: str, default: int | None = None) -> int:
    """Return a whole number from zero up, spelt 12 or 12.0; `default` where missing or null. Raises Malformed."""
    value = obj.get(name)
    if value is None and default is not None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        _raise_wrong_type(name, value, "a whole number")
    try:
        sane = 0 <= value <= MAX_INT64 and value == int(value)
    except InvalidOperation:
        sane = False
    if not sane:
        raise Malformed(f"the field {name} is not a whole number from 0 to {MAX_INT64}", name)
    return int(value)


def money_field(obj: Json, name: str, nano_per_unit: int) -> int:
    """Return nano-USD, rounded half to even: a number or its text, in units worth `nano` each. Raises Malformed."""
    value = obj.get(name)
    if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
        _raise_wrong_type(name, value, "an amount")
    try:
        amount = (Decimal(value) * nano_per_unit).to_integral_value(ROUND_HALF_EVEN)
        sane = abs(amount) <= MAX_INT64
    except InvalidOperation:
        sane = False
    if not sane:
        raise Malformed(f"the field {name} is not an amount of money", name)
    return int(amount)


def time_field(obj: Json, name: str, unit: timedelta = timedelta(milliseconds=1)) -> datetime:
    """Return a time: RFC 3339 (UTC unless it says), or `unit`s since the epoch, also as text. Raises Malformed."""
    value = obj.get(name)
    try:
        if isinstance(value, str) and not value.isdecimal():
            found = datetime.fromisoformat(value)
            return found if found.tzinfo else found.replace(tzinfo=UTC)
        return utc(0) + unit * (int(value) if isinstance(value, str) else int_field(obj, name))
    except (ValueError, OverflowError):
        raise Malformed(f"the field {name} is not a time", name) from None


def _raise_wrong_type(name: str, value: object, expected: str) -> NoReturn:
    problem = "is missing" if value is None else f"is a {type(value).__name__}, not {expected}"
    raise Malformed(f"the field {name} {problem}", name)


def _require(condition: bool, message: str, name: str) -> None:  # noqa: FBT001
    if not condition:
        raise Malformed(message, name)


def _merge_rows(rows: Iterable[Row], *, keep_zero: bool) -> tuple[Row, ...]:
    """Add up rows that differ in their value only, in one order, so that the same telling is the same bucket."""
    sums: dict[tuple[str, ...], int] = {}
    for row in rows:
        key = (row.meter, row.workspace, row.model, row.tier, row.api_key, row.item)
        sums[key] = sums.get(key, 0) + row.value
    return tuple(Row(meter, value, *ids) for (meter, *ids), value in sorted(sums.items()) if value or keep_zero)
