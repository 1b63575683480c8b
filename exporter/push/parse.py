"""JSON as it was pushed -> events, each good one and each bad one for itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import NoReturn

from pydantic import ValidationError

from exporter.errors import IngestError
from exporter.ledger.change_events import KEPT
from exporter.model import COST, DAY, NANO, PAID, REQUESTS, Deed, Event, Row
from exporter.push.models import MOST_EVENTS, Change, UsageEvent, complaint

LATEST = timedelta(minutes=5)
"""How far ahead of ours a sender's clock may be."""
OLDEST = 35 * DAY


@dataclass(frozen=True, slots=True)
class Refused:
    """An event that is not counted, and why."""

    index: int
    reason: str
    conflict: bool = False
    """Its id was given to something else before."""


def parsed(body: bytes) -> object:
    """Return the JSON of a body; numbers with a point are Decimal. Raises IngestError."""
    try:
        return json.loads(body, parse_float=Decimal, parse_constant=_refuse)
    except (ValueError, ArithmeticError, RecursionError):
        raise IngestError(400, "the body is no JSON") from None


def batch_of(told: object) -> Sequence[object]:
    """Return the items of a batch: `{"events": [...]}`, or the list alone. Raises IngestError."""
    items = told.get("events") if isinstance(told, dict) and told.keys() == {"events"} else told
    if not isinstance(items, list):
        raise IngestError(422, 'expected {"events": [...]}')
    if not 1 <= len(items) <= MOST_EVENTS:
        raise IngestError(422 if not items else 413, f"a batch holds 1 to {MOST_EVENTS} events, got {len(items)}")
    return items


def read(items: Sequence[object], *, key: str, api_keys: bool, now: datetime) -> tuple[dict[int, Event], list[Refused]]:
    """Return index -> event, and what is refused.

    `key` names the request: with it, an event without an id is named by its place in it.
    """
    events, refused = dict[int, Event](), list[Refused]()
    for index, item in enumerate(items):
        try:
            told = UsageEvent.model_validate(item)
            events[index] = _event(told, f"{key}#{index}" if key else "", api_keys=api_keys, now=now)
        except ValidationError as error:
            refused.append(Refused(index, complaint(error)))
        except ValueError as error:
            refused.append(Refused(index, str(error)))
    return events, refused


def deed_of(body: bytes, now: datetime) -> Deed:
    """Return what was done, as a body tells it. Raises IngestError."""
    try:
        told = Change.model_validate(parsed(body))
    except ValidationError as error:
        raise IngestError(422, complaint(error)) from None
    if told.time > now + LATEST or told.time < now - KEPT:
        raise IngestError(422, f"time is not within the last {KEPT.days} days")
    return Deed(told.title, told.time, told.service, told.account, told.link)


def _event(told: UsageEvent, name: str, *, api_keys: bool, now: datetime) -> Event:
    if told.timestamp > now + LATEST:
        raise ValueError("timestamp is more than 5 minutes in the future")
    if told.timestamp < now - OLDEST:
        raise ValueError(f"timestamp is more than {OLDEST.days} days ago")
    cached = told.cache_read_tokens + told.cache_write_tokens
    if cached > told.prompt_tokens:
        raise ValueError("cacheReadTokens and cacheWriteTokens are parts of promptTokens, and are more than it")
    key = told.api_key if api_keys else ""
    item = "" if told.cost_usd is None else PAID
    tokens = {
        "uncached_input": told.prompt_tokens - cached,
        "cache_read": told.cache_read_tokens,
        "cache_write": told.cache_write_tokens,
        "output": told.completion_tokens,
    }
    labels = (told.workspace, told.model, told.tier, key)
    rows = [Row(meter, value, *labels, item) for meter, value in tokens.items() if value]
    if told.requests:
        rows.append(Row(REQUESTS, told.requests, *labels))
    if told.cost_usd is not None:
        rows.append(Row(COST, round(told.cost_usd * NANO), *labels, PAID))
    return Event(told.provider, told.timestamp, tuple(rows), f"id {told.id}" if told.id else name and f"request {name}")


def _refuse(name: str) -> NoReturn:
    raise ValueError(name)
