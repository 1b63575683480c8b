"""Models of pushed JSON. The OpenAPI document is generated from them."""

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
MAX_TOKENS_PER_EVENT = 10**9
MAX_USD_PER_EVENT = 10_000
"""The sum of a hundred thousand such events in nano-USD still fits into SQLite's 64-bit integers."""
MAX_NUMBER_LENGTH = 64
"""Characters of a number; the shortest text of any double-precision number has 24 at most."""
_MAX_TIME_LENGTH = 64
_MAX_FORMATTED_PROBLEMS = 20
"""Problems of an object that its error lists; an object can have as many as its body has bytes."""
_MIN_TIMESTAMP = 946_684_800
"""2000-01-01 in seconds since 1970: a smaller number is not the time of an event."""
_NUMBER_PATTERN = r"(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"
_NUMBER = re.compile(_NUMBER_PATTERN)
"""A number of 0 or more as JSON writes it."""
_KEY_PREFIX = re.compile(KEY_PREFIX_PATTERN)


def _parse_time(value: object) -> datetime:
    """Parse RFC 3339 or seconds since 1970 into an aware datetime."""
    time: datetime | None = None
    try:
        if isinstance(value, str) and len(value) <= _MAX_TIME_LENGTH:
            time = datetime.fromisoformat(value.upper())
        elif isinstance(value, int | Decimal) and not isinstance(value, bool) and value >= _MIN_TIMESTAMP:
            time = utc(float(value))
    except (ValueError, OverflowError, OSError):
        time = None
    if time is None or time.tzinfo is None:
        raise validation_error(
            f"expected a time such as 2026-11-21T10:15:00Z, or seconds since 1970, got {format_value(value)}"
        )
    return time


def _parse_dollars(value: object) -> Decimal:
    # Decimal reads more than numbers of JSON: "1_000", digits of other scripts, surrounding spaces.
    is_number = isinstance(value, int | Decimal) and not isinstance(value, bool)
    is_number_text = isinstance(value, str) and len(value) <= MAX_NUMBER_LENGTH and bool(_NUMBER.fullmatch(value))
    try:
        amount = Decimal(str(value)) if is_number or is_number_text else None
    except ArithmeticError:
        amount = None
    if amount is None or not amount.is_finite() or not 0 <= amount <= MAX_USD_PER_EVENT:
        raise validation_error(f"expected USD from 0 to {MAX_USD_PER_EVENT}, got {format_value(value)}")
    return amount


def _check_printable(value: str) -> str:
    if not value.isprintable():
        raise validation_error("has a line break or another character that is not printable")
    return value


def _convert_integral(value: object) -> object:
    """Convert 47.0 to 47; numbers like 1e999999 stay as they are, since as integers they would take gigabytes."""
    if isinstance(value, Decimal) and value.adjusted() < 20 and value == value.to_integral_value():
        return int(value)
    return value


def _redact_key(value: str) -> str:
    """Replace a key that was sent instead of its name; the event is accepted, so that its cost is not lost."""
    return "<secret>" if _KEY_PREFIX.match(value) or has_random_run(value) else value


_TIME_SCHEMA = {"anyOf": [{"type": "string", "format": "date-time"}, {"type": "number", "minimum": _MIN_TIMESTAMP}]}
_USD_SCHEMA = {
    "anyOf": [
        {"type": "number", "minimum": 0, "maximum": MAX_USD_PER_EVENT},
        {"type": "string", "pattern": r"^(0|[1-9][0-9]{0,3})(\.[0-9]{1,12})?$"},
    ]
}
_PRINTABLE = AfterValidator(_check_printable)

Timestamp = Annotated[datetime, PlainValidator(_parse_time), WithJsonSchema(_TIME_SCHEMA)]
Dollars = Annotated[Decimal, PlainValidator(_parse_dollars), WithJsonSchema(_USD_SCHEMA)]
Count = Annotated[int, Field(ge=0, le=MAX_TOKENS_PER_EVENT), BeforeValidator(_convert_integral)]
Name = Annotated[str, Field(min_length=1, max_length=128), _PRINTABLE]
Label = Annotated[str, Field(max_length=128), _PRINTABLE]


class ApiModel(BaseModel):
    """A JSON object of the API: camelCase names, no conversion of values, no unknown fields, documented fields."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        alias_generator=to_camel,
        populate_by_name=True,
        use_attribute_docstrings=True,
    )


class PushModel(ApiModel):
    """A pushed object. Field names are written in camelCase or in snake_case; unknown fields are errors."""


class UsageEventBody(PushModel):
    """The usage of one request, or of several together."""

    provider: Annotated[str, Field(pattern="^[a-z0-9][a-z0-9_.-]{0,39}$")]
    """The label `provider`, such as bedrock, vertex or vllm."""
    model: Name
    """As the provider writes it."""
    timestamp: Timestamp
    """Time of the request: RFC 3339 with a time zone, or seconds since 1970. At most 35 days ago."""
    prompt_tokens: Count = 0
    """All input tokens, including those read from or written to a cache."""
    completion_tokens: Count = 0
    """All output tokens."""
    cost_usd: Dollars | None = None
    """Cost. If absent, tokens are priced with negotiated or list prices."""
    currency: Literal["USD"] = "USD"
    """Currency of costUsd."""
    id: Name | None = None
    """Unique and permanent: an event that is sent again with the same id is not counted again."""
    workspace: Label = ""
    """The label `workspace`: a team, project or application."""
    api_key: Annotated[Label, AfterValidator(_redact_key)] = ""
    """Name of the API key, exported if `labels` of the source has api_key; never the key itself."""
    tier: Label = ""
    """The label `tier`."""
    requests: Count = 1
    """Number of requests in this event."""
    cache_read_tokens: Count = 0
    """Part of promptTokens that was read from a cache."""
    cache_write_tokens: Count = 0
    """Part of promptTokens that was written to a cache."""


class UsageBatchBody(PushModel):
    """The usage of several requests. Events are validated one by one: an invalid event does not reject the others."""

    events: Annotated[list[UsageEventBody], Field(min_length=1, max_length=MAX_EVENTS_PER_BATCH)]


class ChangeEventBody(PushModel):
    """A change to a system, such as a deployment."""

    title: Name
    """A short description."""
    time: Timestamp
    """RFC 3339 with a time zone, or seconds since 1970."""
    service: Label = ""
    """The service that was changed."""
    account: Label = ""
    """The account whose cost the change may affect; empty: unknown."""
    link: Annotated[str, Field(max_length=500, pattern="^(https?://[!-~]+)?$")] = ""
    """URL with details."""


_MODELS: dict[str, type[PushModel]] = {model.__name__: model for model in (UsageEventBody, ChangeEventBody)}


def format_validation_error(error: ValidationError) -> str:
    """Return every problem of a pushed object, in one line."""
    model = _MODELS[error.title]
    details = error.errors()
    problems = [_format_error_detail(detail, model) for detail in details[:_MAX_FORMATTED_PROBLEMS]]
    if len(details) > len(problems):
        problems.append(f"and {len(details) - len(problems)} more problems")
    return "; ".join(problems)


def _format_error_detail(error: ErrorDetails, model: type[PushModel]) -> str:
    description = describe_error(error, model, JSON_WORDING)
    path = ".".join(map(str, error["loc"])) or "it"
    if error["type"] == "extra_forbidden":
        path = format_value(path)
    # "model is missing", but "model: expected text".
    return f"{path} {description}" if description.startswith(("is ", "must ")) else f"{path}: {description}"
