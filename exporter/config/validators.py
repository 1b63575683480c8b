"""Types of single values in the configuration: durations, names, addresses, amounts, each with its validator."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from ipaddress import ip_address
from itertools import pairwise
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, PlainValidator, ValidationInfo, WithJsonSchema
from pydantic_core import PydanticKnownError

from exporter.config.durations import DURATION_PATTERN, format_duration, parse_duration
from exporter.config.messages import format_value, looks_like_key, suggest, validation_error
from exporter.model import KEY_PREFIX_PATTERN, TOKEN_METERS, UNIT_METERS

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ENCRYPTED_KEY = re.compile("gAAAAA[A-Za-z0-9_-]{90,8000}={0,2}")
_URL = re.compile(r"(https?)://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?(?:/[A-Za-z0-9._~%/-]*)?")
_KEY_PREFIX = re.compile(KEY_PREFIX_PATTERN)
_OPTIONAL_LABELS = ("api_key",)
_PERIODS = ("day", "week", "month")
_RATIO = re.compile(r"[0-9]{1,2}(\.[0-9]{1,6})?")
_MAX_RATIO = 10
_AMOUNT = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


@dataclass(frozen=True, slots=True)
class LoadContext:
    """The context of a validation of values from a file. Objects that code builds are validated without a context."""

    providers: Mapping[str, object]
    """Name -> provider class."""
    directory: Path
    """The directory of the file, which relative paths start from."""


def _duration_validator(minimum: str, maximum: str) -> PlainValidator:
    shortest, longest = parse_duration(minimum) or timedelta(0), parse_duration(maximum) or timedelta.max

    def validate(value: object) -> timedelta:
        if isinstance(value, timedelta):
            return value
        duration = parse_duration(value) if isinstance(value, str) else None
        if duration is None:
            found = f"{format_value(value)}{_suggest_units(value)}"
            raise validation_error(f"expected a duration such as 5m, got {found}")
        if not shortest <= duration <= longest:
            raise validation_error(f"must be from {minimum} to {maximum}, got {value}")
        return duration

    return PlainValidator(validate)


def _suggest_units(value: object) -> str:
    """Return how a plain number of seconds is written as a duration."""
    if isinstance(value, bool) or not re.fullmatch("[1-9][0-9]{0,8}", str(value)):
        return ""
    spellings = dict.fromkeys((format_duration(timedelta(seconds=int(str(value)))), f"{value}s"))
    return f" (write {' or '.join(spellings)})"


def _positive(value: int) -> int:
    if value < 1:
        raise validation_error(f"must be at least 1, got {value}")
    return value


def _printable(value: str) -> str:
    if not value.isprintable():
        raise validation_error("contains a line break or a control character; remove it")
    return value


def _file_name(value: str) -> str:
    if not value:
        raise validation_error("is empty; name a file")
    name = value.rpartition("/")[2]
    # In a directory, such as a Kubernetes mount, a file's name may be as random as a key.
    if looks_like_key(name) and ("/" not in value or _KEY_PREFIX.match(name)):
        raise validation_error("this looks like a key, not like a file name; write the key to a file and name that")
    return _printable(value)


def _key_file(value: object, info: ValidationInfo) -> Path | None:
    """Return the path of a key's file, relative to the file that names it."""
    if isinstance(value, Path):
        return value
    if not isinstance(value, str):
        raise PydanticKnownError("string_type")
    context: LoadContext | None = info.context
    file = Path(_file_name(value))
    return context.directory / file if context else file


def _variable(value: str) -> str:
    if not _VARIABLE.fullmatch(value) or looks_like_key(value):
        raise validation_error(
            "expected the name of an environment variable such as ACME_ADMIN_KEY, never the key itself"
        )
    return value


def _encrypted_key(value: str) -> str:
    if not _ENCRYPTED_KEY.fullmatch(value):
        raise validation_error("expected what `ai-spend-exporter encrypt` prints, on one line, never the key itself")
    return value


def _account_name(value: str) -> str:
    if not _NAME.fullmatch(value):
        rule = 'at most 63 letters, digits, "_", "." and "-", a letter or digit first'
        raise validation_error(f"expected a name ({rule}), got {format_value(value)}")
    return value


def _label(value: str) -> str:
    if value not in _OPTIONAL_LABELS:
        raise validation_error(f"unknown label {format_value(value)}; known: {', '.join(_OPTIONAL_LABELS)}")
    return value


def _base_url(value: str) -> str:
    if "@" in value:
        raise validation_error("contains a user name or password; remove it, the key is named by api_key_file")
    if "?" in value or "#" in value:
        raise validation_error("contains a query or fragment; end the address with its path")
    match = _URL.fullmatch(value)
    if match is None or int(match[3] or 0) > 65535:
        raise validation_error(f"expected an address such as https://api.example.com/v1, got {format_value(value)}")
    if match[1] == "http" and not _is_loopback(match[2].strip("[]")):
        raise validation_error("plain http would send the key unencrypted; write https")
    return value.rstrip("/")


def _meter(value: str) -> str:
    if value not in TOKEN_METERS | UNIT_METERS:
        known = sorted(TOKEN_METERS | UNIT_METERS)
        hint = " ".join(filter(None, [suggest(value, known), f"known: {', '.join(known)}"]))
        raise validation_error(f"unknown meter {format_value(value)}; {hint}")
    return value


def _dollars(value: object) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | str | Decimal) or not _AMOUNT.fullmatch(str(value)):
        raise validation_error(f"expected USD as a number such as 2.50, got {format_value(value)}")
    return Decimal(value)


def _limit(value: Decimal) -> Decimal:
    if not value:
        raise validation_error("must be more than 0; remove the budget if there is no limit")
    return value


def _threshold(value: object) -> Decimal | None:
    """Return the threshold of an alert in USD; None, which only code gives, is the default of the rules."""
    amount = None if value is None else _dollars(value)
    if amount is not None and not amount:
        raise validation_error("must be more than 0; remove it for the default of the rules")
    return amount


def _ratio(value: object) -> Decimal | None:
    """Return a ratio to a budget's limit; None, which only code gives, is the default of the rules."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | str | Decimal) or not _RATIO.fullmatch(str(value)):
        raise validation_error(f"expected a ratio such as 0.9 for 90 %, got {format_value(value)}")
    ratio = Decimal(value)
    if not 0 < ratio <= _MAX_RATIO:
        raise validation_error(f"must be more than 0 and at most {_MAX_RATIO}, got {value}")
    return ratio


def _ascending_ratios(value: object) -> tuple[Decimal, ...] | None:
    """Return ratios to a budget's limit; None, which only code gives, are the defaults of the rules."""
    if value is None:
        return None
    if not isinstance(value, list | tuple) or not value:
        raise validation_error(f"expected a list of ratios such as [0.5, 0.75, 0.9], got {format_value(value)}")
    ratios = tuple(ratio for item in value if (ratio := _ratio(item)) is not None)
    if any(ratio >= following for ratio, following in pairwise(ratios)):
        raise validation_error("every ratio must be more than the one before it")
    return ratios


def check_period(value: object) -> object:
    """Return the period of a budget. Raises a validation error for any other value."""
    if value not in _PERIODS:
        raise validation_error(f"expected {', '.join(_PERIODS[:-1])} or {_PERIODS[-1]}, got {format_value(value)}")
    return value


def _glob(value: str) -> str:
    if not value:
        raise validation_error('is empty; remove it, or write "*", for any')
    return _printable(value)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _pattern_schema(pattern: re.Pattern[str], **extra: object) -> WithJsonSchema:
    """Return the JSON Schema of texts that match a pattern, for editors."""
    return WithJsonSchema({"type": "string", "pattern": f"^(?:{pattern.pattern})$", **extra})


_DURATION_SCHEMA = _pattern_schema(DURATION_PATTERN, minLength=2)
_AMOUNT_SCHEMA = WithJsonSchema(
    {"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": f"^(?:{_AMOUNT.pattern})$"}]}
)

Interval = Annotated[timedelta, _duration_validator("1s", "1d"), _DURATION_SCHEMA]
History = Annotated[timedelta, _duration_validator("1d", "365d"), _DURATION_SCHEMA]
Timeout = Annotated[timedelta, _duration_validator("1s", "10m"), _DURATION_SCHEMA]
PositiveInt = Annotated[int, AfterValidator(_positive), WithJsonSchema({"type": "integer", "minimum": 1})]
PrintableStr = Annotated[str, AfterValidator(_printable)]
FileName = Annotated[str, AfterValidator(_file_name), WithJsonSchema({"type": "string", "minLength": 1})]
KeyFile = Annotated[Path, PlainValidator(_key_file), WithJsonSchema({"type": "string", "minLength": 1})]
OptionalKeyFile = Annotated[Path | None, PlainValidator(_key_file), WithJsonSchema({"type": "string", "minLength": 1})]
EnvVarName = Annotated[str, AfterValidator(_variable), _pattern_schema(_VARIABLE)]
EncryptedKey = Annotated[str, AfterValidator(_encrypted_key), _pattern_schema(_ENCRYPTED_KEY)]
Glob = Annotated[str, AfterValidator(_glob), WithJsonSchema({"type": "string", "minLength": 1})]
AccountName = Annotated[str, AfterValidator(_account_name), _pattern_schema(_NAME)]
Label = Annotated[str, AfterValidator(_label), WithJsonSchema({"enum": list(_OPTIONAL_LABELS)})]
Meter = Annotated[str, AfterValidator(_meter), WithJsonSchema({"enum": sorted(TOKEN_METERS | UNIT_METERS)})]
Dollars = Annotated[Decimal, PlainValidator(_dollars), _AMOUNT_SCHEMA]
BaseUrl = Annotated[str, AfterValidator(_base_url), _pattern_schema(_URL)]
Limit = Annotated[Dollars, AfterValidator(_limit)]
UsdThreshold = Annotated[Decimal | None, PlainValidator(_threshold), _AMOUNT_SCHEMA]
RatioThresholds = Annotated[
    tuple[Decimal, ...] | None,
    PlainValidator(_ascending_ratios),
    WithJsonSchema(
        {
            "type": "array",
            "minItems": 1,
            "items": {"type": "number", "exclusiveMinimum": 0, "maximum": _MAX_RATIO},
        }
    ),
]
RatioThreshold = Annotated[
    Decimal | None,
    PlainValidator(_ratio),
    WithJsonSchema({"type": "number", "exclusiveMinimum": 0, "maximum": _MAX_RATIO}),
]
