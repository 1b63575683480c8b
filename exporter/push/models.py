"""What may be pushed, field by field. The API's document is made from these shapes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    WithJsonSchema,
)
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails

from exporter.config.messages import nearest, shown
from exporter.config.validators import told
from exporter.model import utc

MOST_EVENTS = 300
"""In one batch."""
MOST_TOKENS = 10**9
MOST_USD = 10_000
"""In one event: sums of a hundred thousand of them are still whole numbers of 63 bits."""
_SECONDS_OF_2000 = 946_684_800
_KEY = re.compile(r"^(sk|crsr|key)[-_]|(?=[A-Za-z]*[0-9])(?=[0-9]*[A-Za-z])[A-Za-z0-9]{20}")


def _moment(value: object) -> datetime:
    try:
        if isinstance(value, str):
            moment: datetime | None = datetime.fromisoformat(value.upper())
        elif isinstance(value, int | Decimal) and not isinstance(value, bool) and value >= _SECONDS_OF_2000:
            moment = utc(float(value))
        else:
            moment = None
    except (ValueError, OverflowError, OSError):
        moment = None
    if moment is None or moment.tzinfo is None:
        raise told(f"expected a time such as 2026-11-21T10:15:00Z, or seconds since 1970, got {shown(value)}")
    return moment


def _dollars(value: object) -> Decimal:
    try:
        amount = Decimal(value) if isinstance(value, int | str | Decimal) and not isinstance(value, bool) else None
    except ArithmeticError:
        amount = None
    if amount is None or not amount.is_finite() or not 0 <= amount <= MOST_USD:
        raise told(f"expected USD from 0 to {MOST_USD}, got {shown(value)}")
    return amount


def _printable(value: str) -> str:
    if not value.isprintable():
        raise told("holds a line break or another character that cannot be shown")
    return value


def _whole(value: object) -> object:
    """Take 47.0 for the whole number that it is; 1e999999 is not worth its digits."""
    if isinstance(value, Decimal) and value.adjusted() < 20 and value == value.to_integral_value():
        return int(value)
    return value


def _no_key(value: str) -> str:
    """Hide what is a key and no name of one; its spend is not lost for that."""
    return "<secret>" if _KEY.search(value) else value


_TIME = {"anyOf": [{"type": "string", "format": "date-time"}, {"type": "number", "minimum": _SECONDS_OF_2000}]}
_USD = {
    "anyOf": [
        {"type": "number", "minimum": 0, "maximum": MOST_USD},
        {"type": "string", "pattern": r"^[0-9]{1,4}(\.[0-9]{1,12})?$"},
    ]
}
_SAFE = AfterValidator(_printable)

Moment = Annotated[datetime, PlainValidator(_moment), WithJsonSchema(_TIME)]
Dollars = Annotated[Decimal, PlainValidator(_dollars), WithJsonSchema(_USD)]
Count = Annotated[int, Field(ge=0, le=MOST_TOKENS), BeforeValidator(_whole)]
Name = Annotated[str, Field(min_length=1, max_length=128), _SAFE]
Label = Annotated[str, Field(max_length=128), _SAFE]


class Pushed(BaseModel):
    """Names are written in camelCase, or in snake_case."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        alias_generator=to_camel,
        populate_by_name=True,
        use_attribute_docstrings=True,
    )


class UsageEvent(Pushed):
    """What one request used, or several together."""

    provider: Annotated[str, Field(pattern="^[a-z0-9][a-z0-9_.-]{0,39}$")]
    """The label `provider`, such as bedrock, vertex or vllm."""
    model: Name
    """As the provider writes it."""
    timestamp: Moment
    """When it was used: RFC 3339 with its zone, or seconds since 1970. At most 35 days ago."""
    prompt_tokens: Count = 0
    """All input, what came from or went into a cache included."""
    completion_tokens: Count = 0
    """All output."""
    cost_usd: Dollars | None = None
    """What it cost. Left out, tokens are priced from list or agreed prices."""
    currency: Literal["USD"] = "USD"
    """Money is told in USD only."""
    id: Name | None = None
    """Its own name, for ever: the same event told again is not counted again."""
    workspace: Label = ""
    """The label `workspace`: a team, project or application."""
    api_key: Annotated[Label, AfterValidator(_no_key)] = ""
    """The name of the key that was used, shown where the source's `labels` ask for it; a key itself is hidden."""
    tier: Label = ""
    """The label `tier`."""
    requests: Count = 1
    """How many requests this stands for."""
    cache_read_tokens: Count = 0
    """The part of promptTokens that came from a cache."""
    cache_write_tokens: Count = 0
    """The part of promptTokens that went into a cache."""


class Change(Pushed):
    """Something that was done to a system, such as a deployment."""

    title: Name
    """What was done, in a few words."""
    time: Moment
    """When: RFC 3339 with its zone, or seconds since 1970."""
    service: Label = ""
    """To what."""
    account: Label = ""
    """Whose spend it may change; empty where that is not known."""
    link: Annotated[str, Field(max_length=500, pattern="^(https?://[!-~]+)?$")] = ""
    """Where to read more."""


def complaint(error: ValidationError) -> str:
    """Say in plain words what is wrong with something that was pushed, all of it in one line."""
    known = [
        to_camel(name) for shape in (UsageEvent, Change) if shape.__name__ == error.title for name in shape.model_fields
    ]
    return "; ".join(_in_plain_words(each, known) for each in error.errors())


def _in_plain_words(error: ErrorDetails, known: Sequence[str]) -> str:
    place, limits = ".".join(map(str, error["loc"])) or "it", error.get("ctx", {})
    match error["type"]:
        case "missing":
            return f"{place} is missing"
        case "extra_forbidden":
            hint = nearest(place, known)
            return f"{shown(place)} is unknown" + (f"; {hint}" if hint else "")
        case "told":
            return f"{place}: {error['msg']}"
        case "string_too_long" | "string_too_short":
            return f"{place} must have {'at most' if 'max_length' in limits else 'at least'} {_only(limits)} characters"
        case "less_than_equal" | "greater_than_equal":
            return f"{place} must be {'at most' if 'le' in limits else 'at least'} {_only(limits)}"
        case "string_pattern_mismatch":
            return f"{place}: {shown(error['input'])} does not fit {limits['pattern']}"
        case kind:
            return f"{place}: expected {_EXPECTED.get(kind, 'another kind of value')}, got {shown(error['input'])}"


_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "literal_error": '"USD"',
    "model_type": "an object",
    "dict_type": "an object",
}


def _only(limits: dict[str, object]) -> object:
    return next(value for name, value in limits.items() if name in ("max_length", "min_length", "le", "ge"))
