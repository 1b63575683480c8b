"""The kinds of single values that a configuration holds: durations, names, addresses, and their objections."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal
from ipaddress import ip_address
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from exporter.config.messages import looks_like_key, nearest, shown
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
_TOKEN = re.compile("gAAAAA[A-Za-z0-9_-]{90,8000}={0,2}")
_URL = re.compile(r"(https?)://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?(?:/[A-Za-z0-9._~%/-]*)?")
_PREFIX = re.compile("(sk|crsr|key)[-_]")
"""How keys begin; a file in a folder may have a name that is as random as one."""
_LABELS = ("api_key",)
_PERIODS = ("day", "week", "month")
_AMOUNT = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


def told(complaint: str) -> PydanticCustomError:
    """Return an objection whose words reach the user as they are."""
    return PydanticCustomError("told", "{complaint}", {"complaint": complaint})


def duration(text: str) -> timedelta | None:
    """Return a duration as Prometheus writes it, such as 1h30m; None where it is none."""
    span = _milliseconds(text)
    return None if span is None else timedelta(milliseconds=span)


def _milliseconds(text: str) -> int | None:
    match = _DURATION.fullmatch(text)
    if match is None or not text:
        return None
    return sum(int(count or 0) * size for count, size in zip(match.groups(), _MILLISECONDS.values(), strict=True))


def _duration(least: str, most: str) -> PlainValidator:
    def parse(value: object) -> timedelta:
        span = _milliseconds(value) if isinstance(value, str) else None
        if span is None:
            raise told(f"expected a duration such as 5m, got {shown(value)}{_with_units(value)}")
        if not (_milliseconds(least) or 0) <= span <= (_milliseconds(most) or 0):
            raise told(f"must be from {least} to {most}, got {value}")
        return timedelta(milliseconds=span)

    return PlainValidator(parse)


def written(span: timedelta) -> str:
    """Return a duration of whole seconds as it is written in a configuration."""
    rest, text = int(span.total_seconds() * 1000), ""
    for unit in ("d", "h", "m", "s"):
        count, rest = divmod(rest, _MILLISECONDS[unit])
        text += f"{count}{unit}" if count else ""
    return text


def _with_units(value: object) -> str:
    """Say how a bare number of seconds is written as a duration."""
    if isinstance(value, bool) or not re.fullmatch("[1-9][0-9]{0,8}", str(value)):
        return ""
    spellings = dict.fromkeys((written(timedelta(seconds=int(str(value)))), f"{value}s"))
    return f" (write {' or '.join(spellings)})"


def _positive(value: int) -> int:
    if value < 1:
        raise told(f"must be at least 1, got {value}")
    return value


def _printable(value: str) -> str:
    if not value.isprintable():
        raise told("holds a line break or a control character; remove it")
    return value


def _file_name(value: str) -> str:
    if not value:
        raise told("is empty; name a file")
    name = value.rpartition("/")[2]
    if looks_like_key(name) and ("/" not in value or _PREFIX.match(name)):
        raise told("this looks like a key and not like the name of a file; put the key into a file and name that")
    return _printable(value)


def _variable(value: str) -> str:
    if not _VARIABLE.fullmatch(value) or looks_like_key(value):
        raise told("expected the name of an environment variable such as ACME_ADMIN_KEY, never the key itself")
    return value


def _token(value: str) -> str:
    if not _TOKEN.fullmatch(value):
        raise told("expected what `ai-spend-exporter encrypt` prints, on one line, never the key itself")
    return value


def _account_name(value: str) -> str:
    if not _NAME.fullmatch(value):
        rule = 'at most 63 letters, digits, "_", "." and "-", a letter or digit first'
        raise told(f"expected a name ({rule}), got {shown(value)}")
    return value


def _label(value: str) -> str:
    if value not in _LABELS:
        raise told(f"unknown label {shown(value)}; known: {', '.join(_LABELS)}")
    return value


def _base_url(value: str) -> str:
    if "@" in value:
        raise told("holds a user name or password; remove it, the key is named by api_key_file")
    if "?" in value or "#" in value:
        raise told("holds a query or fragment; end the address with its path")
    match = _URL.fullmatch(value)
    if match is None or int(match[3] or 0) > 65535:
        raise told(f"expected an address such as https://api.example.com/v1, got {shown(value)}")
    if match[1] == "http" and not _is_loopback(match[2].strip("[]")):
        raise told("plain http would show the key to everyone on the way; write https")
    return value.rstrip("/")


def _meter(value: str) -> str:
    if value not in TOKEN_METERS | UNIT_METERS:
        known = sorted(TOKEN_METERS | UNIT_METERS)
        hint = " ".join(filter(None, [nearest(value, known), f"known: {', '.join(known)}"]))
        raise told(f"unknown meter {shown(value)}; {hint}")
    return value


def _dollars(value: object) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | str) or not _AMOUNT.fullmatch(str(value)):
        raise told(f"expected USD as a number such as 2.50, got {shown(value)}")
    return Decimal(value)


def _limit(value: Decimal) -> Decimal:
    if not value:
        raise told("must be more than 0; leave the budget out where there is none")
    return value


def _period(value: str) -> str:
    if value not in _PERIODS:
        raise told(f"expected {', '.join(_PERIODS[:-1])} or {_PERIODS[-1]}, got {shown(value)}")
    return value


def _glob(value: str) -> str:
    if not value:
        raise told('is empty; leave it out, or write "*", for any')
    return _printable(value)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _told_as(pattern: re.Pattern[str], **more: object) -> WithJsonSchema:
    """Say in the schema for editors which texts are good."""
    return WithJsonSchema({"type": "string", "pattern": f"^(?:{pattern.pattern})$", **more})


_SOME_DURATION = _told_as(_DURATION, minLength=2)
_SOME_AMOUNT = WithJsonSchema(
    {"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": f"^(?:{_AMOUNT.pattern})$"}]}
)

Interval = Annotated[timedelta, _duration("1s", "1d"), _SOME_DURATION]
History = Annotated[timedelta, _duration("1d", "365d"), _SOME_DURATION]
Timeout = Annotated[timedelta, _duration("1s", "10m"), _SOME_DURATION]
Positive = Annotated[int, AfterValidator(_positive), WithJsonSchema({"type": "integer", "minimum": 1})]
Line = Annotated[str, AfterValidator(_printable)]
FileName = Annotated[str, AfterValidator(_file_name), WithJsonSchema({"type": "string", "minLength": 1})]
Variable = Annotated[str, AfterValidator(_variable), _told_as(_VARIABLE)]
Token = Annotated[str, AfterValidator(_token), _told_as(_TOKEN)]
Glob = Annotated[str, AfterValidator(_glob), WithJsonSchema({"type": "string", "minLength": 1})]
Period = Annotated[Literal["day", "week", "month"], BeforeValidator(_period)]
AccountName = Annotated[str, AfterValidator(_account_name), _told_as(_NAME)]
Label = Annotated[str, AfterValidator(_label), WithJsonSchema({"enum": list(_LABELS)})]
Meter = Annotated[str, AfterValidator(_meter), WithJsonSchema({"enum": sorted(TOKEN_METERS | UNIT_METERS)})]
Dollars = Annotated[Decimal, PlainValidator(_dollars), _SOME_AMOUNT]
BaseUrl = Annotated[str, AfterValidator(_base_url), _told_as(_URL)]
Limit = Annotated[Dollars, AfterValidator(_limit)]
