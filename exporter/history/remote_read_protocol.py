"""Prometheus's remote-read protocol: queries of a request, messages of an answer; protobuf in snappy's block format."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cramjam
import re2
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from exporter.errors import QueryRejected

MAX_REQUEST_BYTES = 1 << 20
"""Bytes of a request, packed or unpacked; a long alternation of names takes some thousands."""

MAX_QUERIES = 100
"""Queries of a request; Prometheus sends a selector of an expression as a query."""
MAX_MATCHERS = 1000
"""Matchers of all queries of a request."""
MAX_PATTERN_BYTES = 64 << 10
"""Characters of all patterns of a request."""
MAX_PROGRAM_SIZE = 100_000
"""Instructions of all patterns of a request; an alternation of 500 names of models has 5,000."""
_MAX_PATTERN_MEMORY = 1 << 20
"""Bytes that RE2 may use for a pattern; it rejects patterns that need more."""
_INSTRUCTIONS_PER_UNIT = 10
"""A pattern's worst time for a value grows with its instructions; this many take as long as a unit of work."""

_INT64, _INT32, _STRING, _DOUBLE = (
    FieldDescriptorProto.TYPE_INT64,
    FieldDescriptorProto.TYPE_INT32,
    FieldDescriptorProto.TYPE_STRING,
    FieldDescriptorProto.TYPE_DOUBLE,
)
_FIELDS: Mapping[str, Sequence[tuple[str, int, Any, bool]]] = {
    # name, number, type (or message), repeated; enumerations as the numbers that they travel as
    "ReadRequest": [("queries", 1, "Query", True), ("accepted_response_types", 2, _INT32, True)],
    "Query": [
        ("start_timestamp_ms", 1, _INT64, False),
        ("end_timestamp_ms", 2, _INT64, False),
        ("matchers", 3, "LabelMatcher", True),
    ],
    "LabelMatcher": [("type", 1, _INT32, False), ("name", 2, _STRING, False), ("value", 3, _STRING, False)],
    "ReadResponse": [("results", 1, "QueryResult", True)],
    "QueryResult": [("timeseries", 1, "TimeSeries", True)],
    "TimeSeries": [("labels", 1, "Label", True), ("samples", 2, "Sample", True)],
    "Label": [("name", 1, _STRING, False), ("value", 2, _STRING, False)],
    "Sample": [("value", 1, _DOUBLE, False), ("timestamp", 2, _INT64, False)],
}


def _build_messages() -> dict[str, Any]:
    file = FileDescriptorProto(name="remote.proto", package="prometheus", syntax="proto3")
    for message, fields in _FIELDS.items():
        described = file.message_type.add(name=message)
        for name, number, kind, repeated in fields:
            label = FieldDescriptorProto.LABEL_REPEATED if repeated else FieldDescriptorProto.LABEL_OPTIONAL
            field = described.field.add(name=name, number=number, label=label)
            if isinstance(kind, str):
                field.type, field.type_name = FieldDescriptorProto.TYPE_MESSAGE, f".prometheus.{kind}"
            else:
                field.type = kind
    pool = DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return {name: GetMessageClass(pool.FindMessageTypeByName(f"prometheus.{name}")) for name in _FIELDS}


MESSAGES = _build_messages()
"""The protocol's messages by name, with the fields of a request that are used here."""


class WorkBudget:
    """Bounds the work for a request. A unit is a comparison, or the visit of a series on a day: up to a microsecond."""

    def __init__(self, units: int) -> None:
        self._remaining = units

    def spend(self, units: int) -> None:
        """Count work before it is done. Raises QueryRejected if the request would need more than its budget."""
        self._remaining -= units
        if self._remaining < 0:
            raise QueryRejected(
                "the queries would examine too many series: query a shorter time range or fewer series at a time, with "
                "matchers on __name__ and account, and with simpler patterns"
            )


ValueMatcher = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Query:
    """Which series are wanted, and from when to when, both included, in milliseconds."""

    start: int
    end: int
    matchers: tuple[tuple[str, ValueMatcher], ...]
    """Name of a label, and the test that its value has to pass; a label that is not there has the value ''."""

    def matches(self, labels: Mapping[str, str], names: Sequence[str] | None = None) -> bool:
        """Return whether all matchers match, or only those on `names`."""
        return all(test(labels.get(name, "")) for name, test in self.matchers if names is None or name in names)


def parse_queries(body: bytes, budget: WorkBudget) -> list[Query]:
    """Read the queries of a request's body. Raises QueryRejected with the reason.

    `budget` is spent by the patterns of the queries, now and whenever they are matched.
    """
    request = MESSAGES["ReadRequest"]()
    try:
        request.ParseFromString(_decompress(body))
    except DecodeError as error:
        raise QueryRejected("the body is not a remote-read request in protobuf") from error
    wanted = list(request.accepted_response_types)
    if wanted and RESPONSE_TYPE_SAMPLES not in wanted:
        raise QueryRejected("only the response type SAMPLES is answered, and the request does not accept it")
    if len(request.queries) > MAX_QUERIES:
        raise QueryRejected(f"the request has {len(request.queries)} queries, and {MAX_QUERIES} are allowed")
    matchers = [matcher for query in request.queries for matcher in query.matchers]
    if len(matchers) > MAX_MATCHERS:
        raise QueryRejected(f"the request has {len(matchers)} matchers, and {MAX_MATCHERS} are allowed")
    if sum(len(matcher.value) for matcher in matchers if matcher.type in _REGEX_TYPES) > MAX_PATTERN_BYTES:
        raise QueryRejected(f"the patterns of the request have more than {MAX_PATTERN_BYTES} characters")
    compiler = _PatternCompiler(budget)
    return [
        Query(
            start=query.start_timestamp_ms,
            end=query.end_timestamp_ms,
            matchers=tuple(
                (matcher.name, _build_matcher(matcher.type, matcher.name, matcher.value, compiler))
                for matcher in query.matchers
            ),
        )
        for query in request.queries
    ]


RESPONSE_TYPE_SAMPLES = 0
"""The response type in which every sample is a message of its own."""


def _decompress(body: bytes) -> bytes:
    # The length that it has unpacked stands in front: it is believed only where it is small.
    length = 0
    for place, byte in enumerate(body[:5]):
        length |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            break
    if max(length, len(body)) > MAX_REQUEST_BYTES:
        raise QueryRejected(f"the request is longer than {MAX_REQUEST_BYTES} bytes")
    try:
        return bytes(cramjam.snappy.decompress_raw(body))
    except cramjam.DecompressionError as error:
        raise QueryRejected("the body is not compressed with snappy's block format") from error


def compress(parts: Sequence[bytes]) -> bytes:
    """Compress an answer's body."""
    return bytes(cramjam.snappy.compress_raw(b"".join(parts)))


def encode_message(field_number: int, parts: Sequence[bytes]) -> list[bytes]:
    """Return parts as one field that holds a message."""
    return [bytes([field_number << 3 | 2]), encode_varint(sum(map(len, parts))), *parts]


def encode_varint(number: int) -> bytes:
    """Return a whole number, 0 or more, as protobuf writes it."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


_REGEX_TYPES = (2, 3)
"""The types of matchers with a pattern: equal, and not equal."""


def _build_matcher(matcher_type: int, name: str, value: str, compiler: _PatternCompiler) -> ValueMatcher:
    match matcher_type:
        case 0:
            return lambda label: label == value
        case 1:
            return lambda label: label != value
        case 2 | 3:
            matches = compiler.build_matcher(name, value)
            return matches if matcher_type == 2 else (lambda label: not matches(label))
        case _:
            raise QueryRejected(f"the matcher on {name} is of an unknown kind ({matcher_type})")


class _PatternCompiler:
    """Compiles the patterns of a request in RE2: Prometheus's own syntax, and matched in linear time."""

    def __init__(self, budget: WorkBudget) -> None:
        self._budget = budget
        self._program_size = 0
        self._options = re2.Options()
        self._options.log_errors = False
        self._options.max_mem = _MAX_PATTERN_MEMORY

    def build_matcher(self, name: str, value: str) -> ValueMatcher:
        """Return the test whether a pattern matches a complete value. Raises QueryRejected."""
        try:
            re2.compile(value, self._options)
            pattern = re2.compile(f"(?s:{value})", self._options)
        except re2.error as error:
            shown = value if len(value) <= _MAX_SHOWN_PATTERN else f"{value[:_MAX_SHOWN_PATTERN]}…"
            reason = f"the pattern of the matcher on {name[:_MAX_SHOWN_PATTERN]} cannot be read: {shown}"
            raise QueryRejected(reason) from error
        self._program_size += pattern.programsize
        if self._program_size > MAX_PROGRAM_SIZE:
            raise QueryRejected("the patterns of the request are too complex together")
        cost = 1 + pattern.programsize // _INSTRUCTIONS_PER_UNIT
        # Many series have the same value of a label: each value is matched once.
        results: dict[str, bool] = {}

        def matches(label: str) -> bool:
            known = results.get(label)
            if known is None:
                self._budget.spend(cost)
                known = results[label] = pattern.fullmatch(label) is not None
            return known

        return matches


_MAX_SHOWN_PATTERN = 500
"""Characters of a pattern or name that an error repeats."""
