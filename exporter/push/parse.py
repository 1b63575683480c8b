"""JSON as it was pushed -> events, each good one and each bad one for itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import NoReturn

from pydantic import ValidationError

from exporter.errors import PushError
from exporter.ledger.change_events import CHANGE_EVENT_MAX_AGE
from exporter.model import COST, COST_INCLUDED, DAY, NANO, REQUESTS, ChangeEvent, Row, UsageEvent
from exporter.push.models import MAX_EVENTS_PER_BATCH, ChangeEventBody, UsageEventBody, format_validation_error

MAX_CLOCK_SKEW = timedelta(minutes=5)
"""How far ahead of ours a sender's clock may be."""
MAX_EVENT_AGE = 35 * DAY


@dataclass(frozen=True, slots=True)
class Rejected:
    """An event that is not counted, and why."""

    index: int
    reason: str
    conflict: bool = False
    """Its id was given to something else before."""


def parse_json(body: bytes) -> object:
    """Return the JSON of a body; numbers with a point are Decimal. Raises IngestError."""
    try:
        return json.loads(body, parse_float=Decimal, parse_constant=_reject_constant)
    except (ValueError, ArithmeticError, RecursionError):
        raise PushError(400, "the body is no JSON") from None


def parse_batch(payload: object) -> Sequence[object]:
    """Return the items of a batch: `{"events": [...]}`, or the list alone. Raises IngestError."""
    items = payload.get("events") if isinstance(payload, dict) and payload.keys() == {"events"} else payload
    if not isinstance(items, list):
        raise PushError(422, 'expected {"events": [...]}')
    if not 1 <= len(items) <= MAX_EVENTS_PER_BATCH:
        raise PushError(
            422 if not items else 413, f"a batch holds 1 to {MAX_EVENTS_PER_BATCH} events, got {len(items)}"
        )
    return items


def parse_events(
    items: Sequence[object], *, idempotency_key: str, include_api_keys: bool, now: datetime
) -> tuple[dict[int, UsageEvent], list[Rejected]]:
    """Return index -> event, and what is refused.

    `key` names the request: with it, an event without an id is named by its place in it.
    """
    events, refused = dict[int, UsageEvent](), list[Rejected]()
    for index, item in enumerate(items):
        try:
            told = UsageEventBody.model_validate(item)
            events[index] = _build_usage_event(
                told,
                f"{idempotency_key}#{index}" if idempotency_key else "",
                include_api_keys=include_api_keys,
                now=now,
            )
        except ValidationError as error:
            refused.append(Rejected(index, format_validation_error(error)))
        except ValueError as error:
            refused.append(Rejected(index, str(error)))
    return events, refused


def parse_change_event(body: bytes, now: datetime) -> ChangeEvent:
    """Return what was done, as a body tells it. Raises IngestError."""
    try:
        told = ChangeEventBody.model_validate(parse_json(body))
    except ValidationError as error:
        raise PushError(422, format_validation_error(error)) from None
    if told.time > now + MAX_CLOCK_SKEW or told.time < now - CHANGE_EVENT_MAX_AGE:
        raise PushError(422, f"time is not within the last {CHANGE_EVENT_MAX_AGE.days} days")
    return ChangeEvent(told.title, told.time, told.service, told.account, told.link)


def _build_usage_event(body: UsageEventBody, fallback_id: str, *, include_api_keys: bool, now: datetime) -> UsageEvent:
    if body.timestamp > now + MAX_CLOCK_SKEW:
        raise ValueError("timestamp is more than 5 minutes in the future")
    if body.timestamp < now - MAX_EVENT_AGE:
        raise ValueError(f"timestamp is more than {MAX_EVENT_AGE.days} days ago")
    cached = body.cache_read_tokens + body.cache_write_tokens
    if cached > body.prompt_tokens:
        raise ValueError("cacheReadTokens and cacheWriteTokens are parts of promptTokens, and are more than it")
    key = body.api_key if include_api_keys else ""
    item = "" if body.cost_usd is None else COST_INCLUDED
    tokens = {
        "uncached_input": body.prompt_tokens - cached,
        "cache_read": body.cache_read_tokens,
        "cache_write": body.cache_write_tokens,
        "output": body.completion_tokens,
    }
    labels = (body.workspace, body.model, body.tier, key)
    rows = [Row(meter, value, *labels, item) for meter, value in tokens.items() if value]
    if body.requests:
        rows.append(Row(REQUESTS, body.requests, *labels))
    if body.cost_usd is not None:
        rows.append(Row(COST, round(body.cost_usd * NANO), *labels, COST_INCLUDED))
    return UsageEvent(
        body.provider,
        body.timestamp,
        tuple(rows),
        f"id {body.id}" if body.id else fallback_id and f"request {fallback_id}",
    )


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(name)
