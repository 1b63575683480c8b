"""Read the pages of a report that lists buckets: results are decoded straight into typed structs where they are many.

A month of hourly usage is megabytes of JSON, and reading it with `parsing`, field by field, takes twenty times as long
as decoding it. Here msgspec decodes and validates it in C: first the list of buckets, whose results stay bytes, so that
a bucket that has not changed is recognised before it is parsed; then the results of a bucket into a struct.

Whatever msgspec rejects is read again with `json` and the functions of `parsing`. These accept every legal spelling and
name the field that is wrong: the fast way changes neither which answers are accepted nor any error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import blake2b
from operator import attrgetter
from typing import Annotated, Any, Generic, NamedTuple, TypeVar

import msgspec
from msgspec import inspect

from exporter.model import Row, RowLabels, utc
from exporter.providers.http import Answer, Client, Json, next_cursor, paginate, parse_json
from exporter.providers.parsing import (
    MAX_INT64,
    RawBucket,
    bool_field,
    int_field,
    list_field,
    object_field,
    require_unique,
    str_field,
    sum_rows,
    time_field,
)

Result = TypeVar("Result", bound=msgspec.Struct)
Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_INT64)]
"""The type of a field of a result that counts something, as `int_field` reads it."""
_MAX_TIMESTAMP = int(datetime.max.replace(tzinfo=UTC).timestamp())
_Timestamp = Annotated[int, msgspec.Meta(ge=0, le=_MAX_TIMESTAMP)]
_AwareTime = Annotated[datetime, msgspec.Meta(tz=True)]
_DIGEST_SIZE = 16
_NO_RESULTS = b"[]"


@dataclass(frozen=True, slots=True)
class BucketLayout:
    """The names of the fields of a bucket, and of the page that lists buckets."""

    start: str
    end: str
    time_unit: timedelta | None
    """Times are whole numbers of this unit since the epoch; None for RFC 3339."""
    results: str = "results"
    older_results: str = ""
    """The name of `results` in answers of an earlier version."""
    buckets: str = "data"
    cursor_param: str = "page"
    cursor_field: str = "next_page"


class Results:
    """The results of one bucket, not parsed yet: bytes, or objects where the page had to be parsed as a whole."""

    def __init__(self, content: msgspec.Raw | Sequence[Json], name: str, description: str) -> None:
        self._content = content
        self._name = name
        self._description = description

    @property
    def digest(self) -> bytes:
        """Identifies the bytes; empty where they are parsed already."""
        if isinstance(self._content, msgspec.Raw):
            return blake2b(self._content, digest_size=_DIGEST_SIZE).digest()
        return b""

    def objects(self) -> Sequence[Json]:
        """Return the results as objects. Raises Malformed."""
        if not isinstance(self._content, msgspec.Raw):
            return self._content
        return list_field({self._name: parse_json(bytes(self._content), self._description)}, self._name)

    def structs(self, format_: ResultFormat[Result]) -> Sequence[Result]:
        """Return the results as structs. Raises Malformed, also where two results are equal."""
        if isinstance(self._content, msgspec.Raw):
            try:
                found = format_.decoder.decode(self._content)
            except (msgspec.MsgspecError, RecursionError):
                pass
            else:
                # Results of different labels differ. Equal labels need a look at the other fields.
                if len(set(map(format_.label_key, found))) == len(found):
                    return found
        return [read_struct(obj, format_.result_type) for obj in require_unique(self.objects(), self._name)]


ParseResults = Callable[[Results], Mapping[RowLabels, int]]
"""Returns labels -> value of the results of one bucket. Raises Malformed."""


class ResultFormat(Generic[Result]):
    """How the results of a usage report become values: a typed struct, its labels, and its values in order of meters.

    Fields of the struct are `Count`, `str | None`, `bool | None`, `Count | None` or another struct or None; all but
    `Count` have the default None, and stand for a field that is missing or null.
    """

    def __init__(
        self,
        result_type: type[Result],
        label_fields: tuple[str, ...],
        labels: Callable[[Result], RowLabels],
        meters: tuple[str, ...],
        values: Callable[[Result], Sequence[int]],
    ) -> None:
        """`label_fields` are those that `labels` reads; it is called once for each of their combinations.

        `values` returns a value for each of `meters`.
        """
        self.result_type = result_type
        self.decoder = msgspec.json.Decoder(list[result_type])  # type: ignore[valid-type]
        self.label_key: Callable[[Result], object] = attrgetter(*label_fields)
        self.labels = labels
        self.meters = meters
        self.values = values

    def parser(self) -> ParseResults:
        """Return a function that parses the results of any number of buckets of an answer."""
        # A report repeats the same few labels in each of its buckets: their tuples are shared by all of them. Not kept
        # beyond an answer, so that labels that are not used any more take no memory.
        known_labels: dict[object, tuple[RowLabels, ...]] = {}

        def parse(results: Results) -> dict[RowLabels, int]:
            totals: dict[RowLabels, int] = {}
            for result in results.structs(self):
                key = self.label_key(result)
                labels_by_meter = known_labels.get(key)
                if labels_by_meter is None:
                    labels = self.labels(result)
                    labels_by_meter = known_labels[key] = tuple(labels._replace(meter=meter) for meter in self.meters)
                for labels, value in zip(labels_by_meter, self.values(result), strict=True):
                    if value:
                        totals[labels] = totals.get(labels, 0) + value
            return totals

        return parse


def object_parser(parse_rows: Callable[[Sequence[Json]], Iterator[Row]]) -> ParseResults:
    """Return a function that parses results as objects, for reports that are small."""
    return lambda results: sum_rows(parse_rows(results.objects()))


class _BucketPage(NamedTuple):
    buckets: list[RawBucket]
    header: Json
    """The fields that say whether there are more pages."""


def read_bucket_pages(
    client: Client,
    path: str,
    params: Sequence[tuple[str, str]],
    layout: BucketLayout,
    parse: ParseResults,
    max_pages: int,
) -> Iterator[list[RawBucket]]:
    """Yield the buckets of each page. Raises ProviderError."""

    def fetch_page(cursor: str) -> _BucketPage:
        answer = client.get_answer(path, [*params, (layout.cursor_param, cursor)] if cursor else params)
        return _decode_page(answer, layout, parse) or _parse_page(answer, layout, parse)

    for page in paginate(fetch_page, lambda page: next_cursor(page.header, layout.cursor_field), max_pages):
        yield page.buckets


def _decode_page(answer: Answer, layout: BucketLayout, parse: ParseResults) -> _BucketPage | None:
    """Return the page, with results as bytes; None where it is not as expected."""
    try:
        answer.body.decode()  # msgspec does not look at the bytes of texts that it skips
        page = _page_decoder(layout).decode(answer.body)
        buckets = [
            _raw_bucket(_to_utc(slot.start), _to_utc(slot.end), slot.results, layout.results, answer, parse)
            for slot in page.buckets
        ]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError):
        return None
    return _BucketPage(buckets, {"has_more": page.has_more, layout.cursor_field: page.cursor})


def _parse_page(answer: Answer, layout: BucketLayout, parse: ParseResults) -> _BucketPage:
    """Return the page, read field by field. Raises Malformed."""
    page = answer.parse()
    unit = layout.time_unit or timedelta(milliseconds=1)
    buckets = []
    for slot in list_field(page, layout.buckets):
        name = layout.older_results if layout.older_results and layout.results not in slot else layout.results
        start, end = time_field(slot, layout.start, unit), time_field(slot, layout.end, unit)
        buckets.append(_raw_bucket(start, end, list_field(slot, name), name, answer, parse))
    return _BucketPage(buckets, page)


def _raw_bucket(
    start: datetime,
    end: datetime,
    content: msgspec.Raw | Sequence[Json],
    name: str,
    answer: Answer,
    parse: ParseResults,
) -> RawBucket:
    if isinstance(content, msgspec.Raw) and bytes(content) == _NO_RESULTS:
        return RawBucket(start, end)  # most buckets of most reports: a fifth of the time of parsing nothing
    results = Results(content, name, answer.description)
    return RawBucket(start, end, totals=lambda: parse(results), digest=results.digest)


@cache
def _page_decoder(layout: BucketLayout) -> msgspec.json.Decoder[Any]:
    time_type: object = _AwareTime if layout.time_unit is None else _Timestamp
    slot = msgspec.defstruct(
        "Slot",
        [("start", time_type), ("end", time_type), ("results", msgspec.Raw)],
        rename={"start": layout.start, "end": layout.end, "results": layout.results},
    )
    page = msgspec.defstruct(
        "Page",
        [("buckets", list[slot]), ("has_more", bool | None, None), ("cursor", str | None, None)],  # type: ignore[valid-type]
        rename={"buckets": layout.buckets, "cursor": layout.cursor_field},
    )
    return msgspec.json.Decoder(page)


def _to_utc(time: datetime | int) -> datetime:
    return utc(time) if isinstance(time, int) else time.astimezone(UTC)


def read_struct(obj: Json, struct_type: type[Result]) -> Result:
    """Return a struct from an object, read field by field. Raises Malformed."""
    return struct_type(**{name: read(obj, name) for name, read in _field_readers(struct_type).items()})


@cache
def _field_readers(struct_type: type[msgspec.Struct]) -> Mapping[str, Callable[[Json, str], object]]:
    info = inspect.type_info(struct_type)
    assert isinstance(info, inspect.StructType)  # noqa: S101
    return {field.name: int_field if field.required else _optional_reader(field.type) for field in info.fields}


def _optional_reader(field_type: inspect.Type) -> Callable[[Json, str], object]:
    """Return the function that reads a field of an optional type; only counts distinguish null from empty."""
    types = field_type.types if isinstance(field_type, inspect.UnionType) else (field_type,)
    for type_ in types:
        if isinstance(type_, inspect.StrType):
            return str_field
        if isinstance(type_, inspect.BoolType):
            return bool_field
        if isinstance(type_, inspect.StructType):
            struct_type = type_.cls
            return lambda obj, name: read_struct(object_field(obj, name), struct_type)
    return lambda obj, name: None if obj.get(name) is None else int_field(obj, name)
