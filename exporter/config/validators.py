"""The kinds of single values that a configuration holds: durations, names, addresses, and their objections."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal
from ipaddress import ip_address
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from exporter.config.messages import format_value, looks_like_key, suggest
from exporter.model import TOKEN_METERS, UNIT_METERS

_MILLISECONDS = {
    "y": 365 * 86_400_000,
    "w": 7 * 86_400_000,
    "d": 86_400_000,
    "h": 3_600_000,
    "m": 60_000,
    "s": 1000,
    "ms": 1,
}
_DURATION = re.compile("".join(f"(?:([0-9]{{1,9}}){unit})?" for unit in _MILLISECONDS))
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ENCRYPTED_KEY = re.compile("gAAAAA[A-Za-z0-9_-]{90,8000}={0,2}")
_URL = re.compile(r"(https?)://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?(?:/[A-Za-z0-9._~%/-]*)?")
_KEY_PREFIX = re.compile("(sk|crsr|key)[-_]")
"""How keys begin; a file in a folder may have a name that is as random as one."""
_OPTIONAL_LABELS = ("api_key",)
_PERIODS = ("day", "week", "month")
_AMOUNT = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


def validation_error(message: str) -> PydanticCustomError:
    """Return an objection whose words reach the user as they are."""
    return PydanticCustomError("told", "{complaint}", {"complaint": message})


def parse_duration(text: str) -> timedelta | None:
    """Return a duration as Prometheus writes it, such as 1h30m; None where it is none."""
    span = _parse_milliseconds(text)
    return None if span is None else timedelta(milliseconds=span)


def _parse_milliseconds(text: str) -> int | None:
    match = _DURATION.fullmatch(text)
    if match is None or not text:
        return None
    return sum(int(count or 0) * size for count, size in zip(match.groups(), _MILLISECONDS.values(), strict=True))


def _duration_validator(minimum: str, maximum: str) -> PlainValidator:
    def parse(value: object) -> timedelta:
        span = _parse_milliseconds(value) if isinstance(value, str) else None
        if span is None:
            raise validation_error(f"expected a duration such as 5m, got {format_value(value)}{_suggest_units(value)}")
        if not (_parse_milliseconds(minimum) or 0) <= span <= (_parse_milliseconds(maximum) or 0):
            raise validation_error(f"must be from {minimum} to {maximum}, got {value}")
        return timedelta(milliseconds=span)

    return PlainValidator(parse)


def format_duration(duration: timedelta) -> str:
    """Return a duration of whole seconds as it is written in a configuration."""
    rest, text = int(duration.total_seconds() * 1000), ""
    for unit in ("d", "h", "m", "s"):
        count, rest = divmod(rest, _MILLISECONDS[unit])
        text += f"{count}{unit}" if count else ""
    return text


def _suggest_units(value: object) -> str:
    """Say how a bare number of seconds is written as a duration."""
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
        raise validation_error("holds a line break or a control character; remove it")
    return value


def _file_name(value: str) -> str:
    if not value:
        raise validation_error("is empty; name a file")
    name = value.rpartition("/")[2]
    if looks_like_key(name) and ("/" not in value or _KEY_PREFIX.match(name)):
        raise validation_error(
            "this looks like a key and not like the name of a file; put the key into a file and name that"
        )
    return _printable(value)


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
        raise validation_error("holds a user name or password; remove it, the key is named by api_key_file")
    if "?" in value or "#" in value:
        raise validation_error("holds a query or fragment; end the address with its path")
    match = _URL.fullmatch(value)
    if match is None or int(match[3] or 0) > 65535:
        raise validation_error(f"expected an address such as https://api.example.com/v1, got {format_value(value)}")
    if match[1] == "http" and not _is_loopback(match[2].strip("[]")):
        raise validation_error("plain http would show the key to everyone on the way; write https")
    return value.rstrip("/")


def _meter(value: str) -> str:
    if value not in TOKEN_METERS | UNIT_METERS:
        known = sorted(TOKEN_METERS | UNIT_METERS)
        hint = " ".join(filter(None, [suggest(value, known), f"known: {', '.join(known)}"]))
        raise validation_error(f"unknown meter {format_value(value)}; {hint}")
    return value


def _dollars(value: object) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | str) or not _AMOUNT.fullmatch(str(value)):
        raise validation_error(f"expected USD as a number such as 2.50, got {format_value(value)}")
    return Decimal(value)


def _limit(value: Decimal) -> Decimal:
    if not value:
        raise validation_error("must be more than 0; leave the budget out where there is none")
    return value


def _period(value: str) -> str:
    if value not in _PERIODS:
        raise validation_error(f"expected {', '.join(_PERIODS[:-1])} or {_PERIODS[-1]}, got {format_value(value)}")
    return value


def _glob(value: str) -> str:
    if not value:
        raise validation_error('is empty; leave it out, or write "*", for any')
    return _printable(value)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _pattern_schema(pattern: re.Pattern[str], **extra: object) -> WithJsonSchema:
    """Say in the schema for editors which texts are good."""
    return WithJsonSchema({"type": "string", "pattern": f"^(?:{pattern.pattern})$", **extra})


_DURATION_SCHEMA = _pattern_schema(_DURATION, minLength=2)
_AMOUNT_SCHEMA = WithJsonSchema(
    {"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": f"^(?:{_AMOUNT.pattern})$"}]}
)

Interval = Annotated[timedelta, _duration_validator("1s", "1d"), _DURATION_SCHEMA]
History = Annotated[timedelta, _duration_validator("1d", "365d"), _DURATION_SCHEMA]
Timeout = Annotated[timedelta, _duration_validator("1s", "10m"), _DURATION_SCHEMA]
PositiveInt = Annotated[int, AfterValidator(_positive), WithJsonSchema({"type": "integer", "minimum": 1})]
PrintableStr = Annotated[str, AfterValidator(_printable)]
FileName = Annotated[str, AfterValidator(_file_name), WithJsonSchema({"type": "string", "minLength": 1})]
EnvVarName = Annotated[str, AfterValidator(_variable), _pattern_schema(_VARIABLE)]
EncryptedKey = Annotated[str, AfterValidator(_encrypted_key), _pattern_schema(_ENCRYPTED_KEY)]
Glob = Annotated[str, AfterValidator(_glob), WithJsonSchema({"type": "string", "minLength": 1})]
Period = Annotated[Literal["day", "week", "month"], BeforeValidator(_period)]
AccountName = Annotated[str, AfterValidator(_account_name), _pattern_schema(_NAME)]
Label = Annotated[str, AfterValidator(_label), WithJsonSchema({"enum": list(_OPTIONAL_LABELS)})]
Meter = Annotated[str, AfterValidator(_meter), WithJsonSchema({"enum": sorted(TOKEN_METERS | UNIT_METERS)})]
Dollars = Annotated[Decimal, PlainValidator(_dollars), _AMOUNT_SCHEMA]
BaseUrl = Annotated[str, AfterValidator(_base_url), _pattern_schema(_URL)]
Limit = Annotated[Dollars, AfterValidator(_limit)]
