"""What may be pushed, field by field. The API's document is made from these shapes."""

from __future__ import annotations

import re
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

from exporter.config.messages import JSON_WORDING, describe_error, format_value, has_random_run, validation_error
from exporter.model import KEY_PREFIX_PATTERN, utc

MAX_EVENTS_PER_BATCH = 300
"""In one batch."""
MAX_TOKENS_PER_EVENT = 10**9
MAX_USD_PER_EVENT = 10_000
"""In one event: sums of a hundred thousand of them are still whole numbers of 63 bits."""
_MIN_TIMESTAMP = 946_684_800
_KEY_PREFIX = re.compile(KEY_PREFIX_PATTERN)


def _parse_time(value: object) -> datetime:
    try:
        if isinstance(value, str):
            moment: datetime | None = datetime.fromisoformat(value.upper())
        elif isinstance(value, int | Decimal) and not isinstance(value, bool) and value >= _MIN_TIMESTAMP:
            moment = utc(float(value))
        else:
            moment = None
    except (ValueError, OverflowError, OSError):
        moment = None
    if moment is None or moment.tzinfo is None:
        raise validation_error(
            f"expected a time such as 2026-11-21T10:15:00Z, or seconds since 1970, got {format_value(value)}"
        )
    return moment


def _parse_dollars(value: object) -> Decimal:
    try:
        amount = Decimal(value) if isinstance(value, int | str | Decimal) and not isinstance(value, bool) else None
    except ArithmeticError:
        amount = None
    if amount is None or not amount.is_finite() or not 0 <= amount <= MAX_USD_PER_EVENT:
        raise validation_error(f"expected USD from 0 to {MAX_USD_PER_EVENT}, got {format_value(value)}")
    return amount


def _check_printable(value: str) -> str:
    if not value.isprintable():
        raise validation_error("holds a line break or another character that cannot be shown")
    return value


def _convert_integral(value: object) -> object:
    """Take 47.0 for the whole number that it is; 1e999999 is not worth its digits."""
    if isinstance(value, Decimal) and value.adjusted() < 20 and value == value.to_integral_value():
        return int(value)
    return value


def _redact_key(value: str) -> str:
    """Hide what is a key and no name of one; its spend is not lost for that."""
    return "<secret>" if _KEY_PREFIX.match(value) or has_random_run(value) else value


_TIME_SCHEMA = {"anyOf": [{"type": "string", "format": "date-time"}, {"type": "number", "minimum": _MIN_TIMESTAMP}]}
_USD_SCHEMA = {
    "anyOf": [
        {"type": "number", "minimum": 0, "maximum": MAX_USD_PER_EVENT},
        {"type": "string", "pattern": r"^[0-9]{1,4}(\.[0-9]{1,12})?$"},
    ]
}
_PRINTABLE = AfterValidator(_check_printable)

Timestamp = Annotated[datetime, PlainValidator(_parse_time), WithJsonSchema(_TIME_SCHEMA)]
Dollars = Annotated[Decimal, PlainValidator(_parse_dollars), WithJsonSchema(_USD_SCHEMA)]
Count = Annotated[int, Field(ge=0, le=MAX_TOKENS_PER_EVENT), BeforeValidator(_convert_integral)]
Name = Annotated[str, Field(min_length=1, max_length=128), _PRINTABLE]
Label = Annotated[str, Field(max_length=128), _PRINTABLE]


class PushModel(BaseModel):
    """Names are written in camelCase, or in snake_case."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        alias_generator=to_camel,
        populate_by_name=True,
        use_attribute_docstrings=True,
    )


class UsageEventBody(PushModel):
    """What one request used, or several together."""

    provider: Annotated[str, Field(pattern="^[a-z0-9][a-z0-9_.-]{0,39}$")]
    """The label `provider`, such as bedrock, vertex or vllm."""
    model: Name
    """As the provider writes it."""
    timestamp: Timestamp
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
    api_key: Annotated[Label, AfterValidator(_redact_key)] = ""
    """The name of the key that was used, shown where the source's `labels` ask for it; a key itself is hidden."""
    tier: Label = ""
    """The label `tier`."""
    requests: Count = 1
    """How many requests this stands for."""
    cache_read_tokens: Count = 0
    """The part of promptTokens that came from a cache."""
    cache_write_tokens: Count = 0
    """The part of promptTokens that went into a cache."""


class ChangeEventBody(PushModel):
    """Something that was done to a system, such as a deployment."""

    title: Name
    """What was done, in a few words."""
    time: Timestamp
    """When: RFC 3339 with its zone, or seconds since 1970."""
    service: Label = ""
    """To what."""
    account: Label = ""
    """Whose spend it may change; empty where that is not known."""
    link: Annotated[str, Field(max_length=500, pattern="^(https?://[!-~]+)?$")] = ""
    """Where to read more."""


_MODELS: dict[str, type[PushModel]] = {model.__name__: model for model in (UsageEventBody, ChangeEventBody)}


def format_validation_error(error: ValidationError) -> str:
    """Return everything that is wrong with a pushed object, in one line."""
    model = _MODELS[error.title]
    return "; ".join(_format_error_detail(detail, model) for detail in error.errors())


def _format_error_detail(error: ErrorDetails, model: type[PushModel]) -> str:
    description = describe_error(error, model, JSON_WORDING)
    path = ".".join(map(str, error["loc"])) or "it"
    if error["type"] == "extra_forbidden":
        path = format_value(path)
    # "model is missing", but "model: expected text".
    return f"{path} {description}" if description.startswith(("is ", "must ")) else f"{path}: {description}"
