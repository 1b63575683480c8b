"""Shared by the three APIs: calls, answers, errors, opaque page cursors, time slots and grouping."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal, NamedTuple, Protocol, TypeVar

from exporter.simulator.accounts import SimAccount
from exporter.simulator.world import World

ErrorKind = Literal[
    "bad_request",
    "not_found",
    "unknown_key",
    "wrong_key",
    "revoked",
    "expired",
    "missing_scope",
    "plan",
    "rate_limited",
    "overloaded",
    "server_error",
]

T = TypeVar("T")


class ApiError(Exception):
    """A call that is answered with an error, in the format of the provider."""

    def __init__(self, error_kind: ErrorKind, message: str = "") -> None:
        self.error_kind: ErrorKind = error_kind
        self.message = message
        super().__init__(message or error_kind)


@dataclass(frozen=True, slots=True)
class Call:
    """One request; `path` is relative to the provider's base URL, and names of query parameters have no `[]`."""

    method: str
    path: str
    query: Mapping[str, tuple[str, ...]]
    headers: Mapping[str, str]
    body: Mapping[str, object]

    def param(self, name: str, default: str = "") -> str:
        """Return the last value of a parameter."""
        return self.query.get(name, (default,))[-1]

    def int_param(self, name: str, default: int | None = None) -> int:
        """Return a whole number of the query. Raises ApiError where it is not one, or missing without a default."""
        text = self.param(name)
        if not text and default is not None:
            return default
        try:
            return int(text)
        except ValueError:
            raise ApiError("bad_request", f"{name}: expected a whole number, got {text!r}") from None

    def limit(self, default: int, max_limit: int) -> int:
        """Return the maximum number of items per page. Raises ApiError outside of 1..max_limit."""
        limit = self.int_param("limit", default)
        if not 1 <= limit <= max_limit:
            raise ApiError("bad_request", f"limit: {limit} is not between 1 and {max_limit}")
        return limit

    def choices(self, name: str, allowed: Iterable[str]) -> tuple[str, ...]:
        """Return the values of an array parameter. Raises ApiError for an unknown value."""
        values = self.query.get(name, ())
        for value in values:
            if value not in set(allowed):
                raise ApiError("bad_request", f"{name}: {value!r} is not one of {', '.join(sorted(allowed))}")
        return values


@dataclass(frozen=True, slots=True)
class ApiResponse:
    """An answer before it is serialised; `page` is its number in a list, from 1."""

    status: int
    body: object
    page: int = 1
    headers: Mapping[str, str] = field(default_factory=dict)


class Api(Protocol):
    """The functions of a provider's module."""

    def extract_key(self, call: Call) -> str:
        """Return the key of the call; "" where there is none."""
        ...

    def classify_key(self, key: str) -> ErrorKind:
        """Return the error for a key that belongs to no account, by its prefix."""
        ...

    def handle(self, world: World, account: SimAccount, call: Call) -> ApiResponse:
        """Answer a call of a known account. Raises ApiError."""
        ...

    def error_response(self, error_kind: ErrorKind, message: str = "") -> ApiResponse:
        """Return an error in the format of the provider."""
        ...


class BucketWidth(NamedTuple):
    """A width of buckets that a usage report offers."""

    seconds: int
    default_limit: int
    max_limit: int
    """The maximum number of buckets per page."""


@dataclass(frozen=True, slots=True)
class SlotPage:
    """One page of slots: their (start, end) in epoch seconds, its number, and the cursor of the next page."""

    slots: Sequence[tuple[int, int]]
    number: int
    next_page: str | None


def paginate_slots(call: Call, slots: Callable[[int], Iterator[tuple[int, int]]], start: int, limit: int) -> SlotPage:
    """Return the page of the call's cursor; `slots(start)` yields all slots from a time on.

    Raises ApiError for a cursor that was issued for other parameters.
    """
    begin, number = _decode_cursor(call) if call.param("page") else (start, 1)
    # One slot more than the page has: it shows whether there is another page, and where that starts.
    page_slots = list(islice(slots(begin), limit + 1))
    if len(page_slots) <= limit:
        return SlotPage(page_slots, number, None)
    next_start, _ = page_slots[limit]
    return SlotPage(page_slots[:limit], number, _encode_cursor(call, next_start, number + 1))


def aligned_slots(start: int, end: int, width: int) -> Iterator[tuple[int, int]]:
    """Yield the slots of `width` seconds that cover [start, end); the first and the last are shortened to it."""
    while start < end:
        stop = min(start - start % width + width, end)
        yield start, stop
        start = stop


def sum_by_labels(
    items: Iterable[tuple[T, Mapping[str, int]]], group_by: Sequence[str], labels: Mapping[str, Callable[[T], object]]
) -> Iterator[tuple[dict[str, object], dict[str, int]]]:
    """Sum the items' units by the labels in `group_by`; without labels, all items are one group."""
    label_functions = [labels[name] for name in group_by]
    groups: dict[tuple[object, ...], dict[str, int]] = {}
    for item, units in items:
        key = tuple([label(item) for label in label_functions])
        if key in groups:
            _add_units(groups[key], units)
        else:
            groups[key] = dict(units)
    return ((dict(zip(group_by, key, strict=True)), sums) for key, sums in groups.items())


def paginate_list(items: Sequence[T], get_id: Callable[[T], str], after: str, limit: int) -> tuple[list[T], bool, int]:
    """Return (a page of a list, whether there are more, the page's number); the page starts after the id `after`.

    Raises ApiError for an id that is not in the list.
    """
    ids = [get_id(item) for item in items]
    if after and after not in ids:
        raise ApiError("bad_request", f"after: no such object: {after}")
    begin = ids.index(after) + 1 if after else 0
    return list(items[begin : begin + limit]), begin + limit < len(items), begin // limit + 1


def _add_units(sums: dict[str, int], units: Mapping[str, int]) -> None:
    for meter, count in units.items():
        sums[meter] = sums.get(meter, 0) + count


def _digest(call: Call) -> str:
    text = repr((call.path, sorted((name, values) for name, values in call.query.items() if name != "page")))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _encode_cursor(call: Call, start: int, number: int) -> str:
    text = json.dumps([start, number, _digest(call)])
    return "page_" + base64.urlsafe_b64encode(text.encode()).decode()


def _decode_cursor(call: Call) -> tuple[int, int]:
    try:
        start, number, digest = json.loads(base64.urlsafe_b64decode(call.param("page").removeprefix("page_")))
    except (binascii.Error, ValueError, TypeError):
        raise ApiError("bad_request", "page: not a cursor") from None
    if digest != _digest(call):
        raise ApiError("bad_request", "page: this cursor was issued for other parameters")
    return int(start), int(number)
