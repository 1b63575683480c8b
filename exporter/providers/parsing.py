"""Parse the providers' answers: typed fields of JSON objects, and the buckets of a time range. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from typing import Literal, NamedTuple, NoReturn, TypeVar

from exporter.errors import Malformed
from exporter.model import (
    COST,
    GAUGE_METERS,
    REQUESTS,
    Balance,
    Bucket,
    Report,
    Row,
    RowLabels,
    clean_text,
    row_labels,
    to_row,
    utc,
)
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


def clean_bucket(report: Report, bucket: Bucket, clean_labels: set[RowLabels] | None = None) -> Bucket:
    """Return a bucket whose values and labels can be stored, whoever made it. Raises Malformed.

    Labels are cleaned (`clean_text`); a value that is not a whole number, or too large, is Malformed. `clean_labels`
    are known to be clean, and those that are found to be are added: buckets of a report share nearly all labels.
    """
    if bucket.is_summed and _is_clean(report, bucket.totals, set() if clean_labels is None else clean_labels):
        return bucket
    rows = []
    for row in bucket.rows:
        if not isinstance(row.value, int) or abs(row.value) > _max_value(report, row.meter):
            raise Malformed(f"{report.name}: a value of {clean_text(row.meter)} is out of range", "value")
        labels = row_labels(row)
        if not all(isinstance(label, str) for label in labels):
            raise Malformed(f"{report.name}: a label is not a text", "label")
        cleaned = RowLabels._make(map(clean_text, labels))
        rows.append(row if cleaned == labels else to_row(cleaned, row.value))
    return Bucket(bucket.report, bucket.start, bucket.end, rows)


def _is_clean(report: Report, totals: Mapping[RowLabels, int], clean_labels: set[RowLabels]) -> bool:
    """Return whether values are surely in range and labels clean, in a fraction of the time of looking at each row."""
    values = totals.values()
    if not set(map(type, values)) <= {int} or max(map(abs, values), default=0) > _max_value(report, REQUESTS):
        return False
    for labels in totals.keys() - clean_labels:
        if not all(isinstance(label, str) and clean_text(label) == label for label in labels):
            return False
        clean_labels.add(labels)
    return True


def clean_names(names: Mapping[str, str]) -> dict[str, str]:
    """Return ids -> names, both cleaned (`clean_text`). Raises Malformed where one of them is not a text."""
    for id_, name in names.items():
        if not isinstance(id_, str) or not isinstance(name, str):
            raise Malformed("names: an id or name is not a text", "name")
    return {clean_text(id_): clean_text(name) for id_, name in names.items()}


def clean_balance(balances: Iterable[Balance]) -> tuple[Balance, ...]:
    """Return a balance by type, whoever made it; parts of one type are added up. Raises Malformed."""
    values: dict[Literal["prepaid", "granted"], int] = {}
    for part in balances:
        if part.type not in ("prepaid", "granted") or not isinstance(part.value, int) or abs(part.value) > MAX_VALUE:
            raise Malformed("balance: an amount is out of range, or its type is unknown", "balance")
        values[part.type] = values.get(part.type, 0) + part.value
    return tuple(Balance(type_, value) for type_, value in values.items())


class RawBucket(NamedTuple):
    """One bucket as the provider reports it."""

    start: datetime
    end: datetime
    """Earlier than `start` plus the report's width while the slot is running."""
    rows: Iterable[Row] = ()
    """Rows that differ only in their value are added up later."""
    totals: Callable[[], Mapping[RowLabels, int]] | None = None
    """Returns labels -> value in place of `rows`; called where the bucket has to be parsed."""
    digest: bytes = b""
    """Identifies the content as the provider sent it; empty where that is not known."""


class Ambiguities:
    """What a provider has found out about its API that the documentation leaves open, such as a field's spelling.

    A provider that has such an object as its attribute `ambiguities` adds to it; the poller logs each text once.
    """

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._new: list[str] = []

    def add(self, text: str) -> None:
        """Add a text; one that was added before is ignored."""
        if text not in self._known:
            self._known.add(text)
            self._new.append(text)

    def take(self) -> list[str]:
        """Return the texts that were added since the last call."""
        new, self._new = self._new, []
        return new


class StoredBuckets:
    """Digests of the newest buckets of an account, as the ledger holds them.

    A bucket that is equal to the stored one is left out by `build_buckets`, without parsing it. A provider that reads
    buckets with a digest has such an object as its attribute `stored_buckets`; the poller records what it has stored.
    Nothing is recorded beyond the life of the provider, so that another key, address or grouping reads all again.
    """

    _MAX_BUCKETS = 96
    """By report: four days of hours. A poll reads less; more would take memory in each of a thousand accounts."""

    def __init__(self) -> None:
        self._digests: dict[str, dict[datetime, bytes]] = {}

    def includes(self, report: Report, raw: RawBucket) -> bool:
        """Return whether the stored bucket has this content."""
        return raw.digest != b"" and self._digests.get(report.name, {}).get(raw.start) == raw.digest

    def record(self, report: Report, buckets: Iterable[Bucket]) -> None:
        """Remember buckets that have been stored."""
        digests = self._digests.setdefault(report.name, {})
        for bucket in buckets:
            # A bucket without rows is parsed in no time: most accounts use few of the reports.
            if bucket.digest and bucket.totals:
                digests[bucket.start] = bucket.digest
            else:
                digests.pop(bucket.start, None)
        for start in sorted(digests)[: -self._MAX_BUCKETS]:
            del digests[start]


_NOTHING_STORED = StoredBuckets()


def build_buckets(
    report: Report,
    since: datetime,
    until: datetime,
    raw_buckets: Iterable[RawBucket],
    stored: StoredBuckets = _NOTHING_STORED,
) -> Iterator[Bucket]:
    """Yield one bucket for every slot of [since, until), oldest first, after all of `raw_buckets` has been read.

    A slot without a raw bucket is empty; a raw bucket outside the time range is dropped. If the report lists empty
    buckets, a slot without a raw bucket is an error instead, because an answer without its buckets must never replace
    usage by zero. Only the newest slots, which a provider may not list yet, may be missing: they are left out, so that
    the ledger keeps what it has. So are buckets that are equal to the `stored` ones. Raises Malformed, with the name
    of the report, where buckets are missing, a raw bucket overlaps several slots or two have the same start.
    """
    slot_starts = dict.fromkeys(slots(since, until, report.width))
    if not slot_starts:
        return
    # A range that ends inside a slot ends now. The slots of the last `lag` are read again by the following polls.
    settled_until = until if floor(until, report.width) == until else until - report.lag
    built: dict[datetime, Bucket | None] = {}
    """None for a bucket that is equal to the stored one."""
    try:
        for raw in raw_buckets:
            if raw.start in slot_starts:
                _check_slot(report, raw, settled_until, is_first=raw.start not in built)
                built[raw.start] = None if stored.includes(report, raw) else _build_bucket(report, raw)
            else:
                _check_outside(raw, since, until)
        if report.lists_empty_buckets:
            _require_buckets(slot_starts, built, report.width, settled_until)
    except Malformed as error:
        raise Malformed(f"{report.name}: {error}", error.field) from None
    for start in slot_starts:
        bucket = built.get(start)
        if bucket is not None:
            yield bucket
        elif start not in built and not report.lists_empty_buckets:
            yield Bucket(report.name, start, start + report.width, ())


def _check_slot(report: Report, raw: RawBucket, settled_until: datetime, *, is_first: bool) -> None:
    """Raise Malformed where a bucket does not fit its slot, or is not the first of it."""
    slot_end = raw.start + report.width
    if not is_first:
        raise Malformed(f"two buckets start at {raw.start:%Y-%m-%dT%H:%MZ}", "start")
    if not raw.start < raw.end <= slot_end:
        raise Malformed("a bucket has another width than was requested", "end")
    is_whole = raw.end == slot_end or slot_end > settled_until or not report.lists_empty_buckets
    if not is_whole:
        raise Malformed(f"the bucket of {raw.start:%Y-%m-%dT%H:%MZ} ends before its slot", "end")


def _check_outside(raw: RawBucket, since: datetime, until: datetime) -> None:
    """Raise Malformed where a bucket that starts with no slot is not outside the time range."""
    if since <= raw.start < until:
        raise Malformed("a bucket starts inside a slot", "start")


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


def _require_buckets(
    slot_starts: Iterable[datetime], found: Container[datetime], width: timedelta, settled_until: datetime
) -> None:
    """Raise Malformed where a slot that ended by `settled_until` has no bucket."""
    expected = [start for start in slot_starts if start + width <= settled_until]
    missing = [start for start in expected if start not in found]
    if missing:
        message = f"{len(missing)} of {len(expected)} buckets are missing, the first of {missing[0]:%Y-%m-%dT%H:%MZ}"
        raise Malformed(message, "data")


def _max_value(report: Report, meter: str) -> int:
    return MAX_VALUE if report.kind == "bill" or meter == COST or meter in GAUGE_METERS else MAX_COUNT


def sum_rows(rows: Iterable[Row]) -> dict[RowLabels, int]:
    """Add up rows with equal labels."""
    totals: dict[RowLabels, int] = {}
    for row in rows:
        labels = row_labels(row)
        totals[labels] = totals.get(labels, 0) + row.value
    return totals


def _build_bucket(report: Report, raw: RawBucket) -> Bucket:
    """Return the bucket of a slot. Raises Malformed."""
    totals = sum_rows(raw.rows) if raw.totals is None else raw.totals()
    # Nearly all buckets have only small values, and none of 0.
    if max(map(abs, totals.values()), default=0) > min(MAX_COUNT, MAX_VALUE):
        for labels, value in totals.items():
            if abs(value) > _max_value(report, labels.meter):
                raise Malformed(f"a value of {labels.meter} is out of range", "value")
    if report.kind == "usage" and 0 in totals.values():
        totals = {labels: value for labels, value in totals.items() if value}
    return Bucket.from_totals(report.name, raw.start, raw.start + report.width, totals, raw.digest)
