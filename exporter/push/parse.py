"""Parsing of pushed JSON into events; events of a batch are accepted or rejected one by one."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import NamedTuple, NoReturn

from pydantic import ValidationError

from exporter.config.messages import format_value
from exporter.errors import PushError
from exporter.ledger.change_events import CHANGE_EVENT_MAX_AGE
from exporter.model import COST, COST_INCLUDED, DAY, NANO, REQUESTS, ChangeEvent, Row, UsageEvent
from exporter.push.models import (
    MAX_EVENTS_PER_BATCH,
    MAX_NUMBER_LENGTH,
    ChangeEventBody,
    UsageEventBody,
    format_validation_error,
)

MAX_CLOCK_SKEW = timedelta(minutes=5)
"""How far a client's clock may be ahead."""
MAX_EVENT_AGE = 35 * DAY
"""As long as an event can be accepted, its id is remembered."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """An event that is not stored, and the reason."""

    index: int
    """Its position in the batch, from 0."""
    reason: str
    conflict: bool = False
    """Whether a different event with the same id was stored before."""


def decode_body(body: bytes, content_encoding: str, max_bytes: int) -> bytes:
    """Return a body without its Content-Encoding: `gzip`, or none.

    Raises PushError, also if the decoded body has more than `max_bytes`; no more than that is ever decompressed.
    """
    encoding = content_encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "x-gzip"):
        raise PushError(415, "Content-Encoding: only gzip, once, is supported")
    decompressor = zlib.decompressobj(wbits=_GZIP_WINDOW_BITS)
    try:
        decoded = decompressor.decompress(body, max_bytes + 1)
    except zlib.error:
        raise PushError(400, "the body is not compressed with gzip") from None
    if len(decoded) > max_bytes:
        raise PushError(413, f"the decompressed body may have {max_bytes} bytes at most")
    if not decompressor.eof or decompressor.unused_data:
        raise PushError(400, "the body is not a single, complete gzip member")
    return decoded


_GZIP_WINDOW_BITS = 16 + zlib.MAX_WBITS
"""zlib's parameter for data in gzip's format."""


def parse_json(body: bytes) -> object:
    """Parse a body; numbers with a decimal point become Decimal.

    Raises PushError, also for what parsers read differently: an object with a key twice, and very long numbers.
    """
    try:
        return json.loads(
            body,
            parse_int=_parse_int,
            parse_float=_parse_decimal,
            parse_constant=_reject_constant,
            object_pairs_hook=_build_object,
        )
    except (ValueError, ArithmeticError, RecursionError):
        raise PushError(400, "the body is not JSON") from None


def parse_batch(payload: object) -> Sequence[object]:
    """Return the items of a batch: `{"events": [...]}`, or just the list. Raises PushError."""
    items = payload.get("events") if isinstance(payload, dict) and payload.keys() == {"events"} else payload
    if not isinstance(items, list):
        raise PushError(422, 'expected {"events": [...]}')
    if not 1 <= len(items) <= MAX_EVENTS_PER_BATCH:
        raise PushError(
            422 if not items else 413, f"a batch holds 1 to {MAX_EVENTS_PER_BATCH} events, got {len(items)}"
        )
    return items


class ParsedEvents(NamedTuple):
    """The events of one request."""

    events: dict[int, UsageEvent]
    """By index in the request."""
    rejected: list[Rejected]


def parse_events(
    items: Sequence[object], *, idempotency_key: str, include_api_keys: bool, now: datetime
) -> ParsedEvents:
    """Validate the items of a request.

    `idempotency_key` identifies the request: an event without an id is then identified by its index in the request.
    """
    parsed = ParsedEvents({}, [])
    for index, item in enumerate(items):
        fallback_id = f"{idempotency_key}#{index}" if idempotency_key else ""
        try:
            body = UsageEventBody.model_validate(item)
            parsed.events[index] = _build_usage_event(body, fallback_id, include_api_keys=include_api_keys, now=now)
        except ValidationError as error:
            parsed.rejected.append(Rejected(index, format_validation_error(error)))
        except ValueError as error:
            parsed.rejected.append(Rejected(index, str(error)))
    return parsed


def parse_change_event(body: bytes, now: datetime) -> ChangeEvent:
    """Parse a change event. Raises PushError."""
    try:
        change = ChangeEventBody.model_validate(parse_json(body))
    except ValidationError as error:
        raise PushError(422, format_validation_error(error)) from None
    if change.time > now + MAX_CLOCK_SKEW or change.time < now - CHANGE_EVENT_MAX_AGE:
        raise PushError(422, f"time is not within the last {CHANGE_EVENT_MAX_AGE.days} days")
    return ChangeEvent(change.title, change.time, change.service, change.account, change.link)


def _build_usage_event(body: UsageEventBody, fallback_id: str, *, include_api_keys: bool, now: datetime) -> UsageEvent:
    """Return the event with one row per meter. Raises ValueError with the reason for which it is rejected."""
    if body.timestamp > now + MAX_CLOCK_SKEW:
        raise ValueError("timestamp is more than 5 minutes in the future")
    if body.timestamp < now - MAX_EVENT_AGE:
        raise ValueError(f"timestamp is more than {MAX_EVENT_AGE.days} days ago")
    cached_tokens = body.cache_read_tokens + body.cache_write_tokens
    if cached_tokens > body.prompt_tokens:
        raise ValueError("cacheReadTokens and cacheWriteTokens are parts of promptTokens, and are more than it")
    api_key = body.api_key if include_api_keys else ""
    labels = (body.workspace, body.model, body.tier, api_key)
    # Tokens whose cost was pushed must not be priced as well.
    item = "" if body.cost_usd is None else COST_INCLUDED
    tokens = {
        "uncached_input": body.prompt_tokens - cached_tokens,
        "cache_read": body.cache_read_tokens,
        "cache_write": body.cache_write_tokens,
        "output": body.completion_tokens,
    }
    rows = [Row(meter, value, *labels, item) for meter, value in tokens.items() if value]
    if body.requests:
        rows.append(Row(REQUESTS, body.requests, *labels))
    if body.cost_usd is not None:
        rows.append(Row(COST, round(body.cost_usd * NANO), *labels, COST_INCLUDED))
    # The prefixes keep ids that clients chose apart from those made of idempotency keys.
    event_id = f"id {body.id}" if body.id else fallback_id and f"request {fallback_id}"
    return UsageEvent(body.provider, body.timestamp, tuple(rows), event_id, _canonical_content(body))


def _canonical_content(body: UsageEventBody) -> str:
    """Return an event's content as text: the same for equal events, however their JSON was written.

    Fields with their default value are left out, so that the text stays the same if a later version has more fields.
    """
    content = body.model_dump(exclude={"id", "timestamp", "cost_usd"}, exclude_defaults=True)
    content["timestamp"] = body.timestamp.timestamp()
    if body.cost_usd is not None:
        content["cost_usd"] = round(body.cost_usd * NANO)
    return json.dumps(content, sort_keys=True)


def _parse_int(text: str) -> int:
    _check_number_length(text)
    return int(text)


def _parse_decimal(text: str) -> Decimal:
    _check_number_length(text)
    return Decimal(text)


def _check_number_length(text: str) -> None:
    if len(text) > MAX_NUMBER_LENGTH:
        raise PushError(400, f"the body has a number of more than {MAX_NUMBER_LENGTH} characters")


def _build_object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) < len(pairs):
        keys = Counter(key for key, _ in pairs)
        duplicate = next(key for key, count in keys.items() if count > 1)
        raise PushError(400, f"the body has an object with the key {format_value(duplicate)} more than once")
    return result


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(name)
