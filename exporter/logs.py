"""Logging in logfmt or JSON, one line per record. Logging is configured only here."""

from __future__ import annotations

import json
import logging
import math
import re
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Literal, TextIO

from exporter.model import utc

Format = Literal["logfmt", "json"]

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}
"""The levels of `--log.level`, least urgent first."""

_LEVEL_NAMES = {number: name for name, number in LEVELS.items()} | {logging.CRITICAL: "error"}
_NOISY_LOGGERS = ("httpx", "httpcore", "uvicorn", "uvicorn.access", "uvicorn.error")
_UNQUOTED = re.compile(r"[^\s\"'=\\]+")


def configure(level: str, format: Format, stream: TextIO) -> None:  # noqa: A002 - as in --log.format
    """Write every record at or above the level to the stream; of libraries that log each request, only warnings.

    Replaces the previous configuration. Raises KeyError for a level that is not one of LEVELS.
    """
    threshold = LEVELS[level]
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        _LineFormatter(_format_logfmt if format == "logfmt" else json.dumps, include_tracebacks=level == "debug")
    )
    logging.basicConfig(level=threshold, handlers=[handler], force=True)
    for name in _NOISY_LOGGERS:
        logging.getLogger(name).setLevel(max(threshold, logging.WARNING))


def log_event(logger: logging.Logger, level: str, message: str, /, **fields: object) -> None:
    """Log a message with fields: `log_event(logger, "warn", "Poll failed", account="acme", error=error)`.

    A field that is None is omitted. An exception is written in one line, with its traceback only at level debug.
    """
    error = fields.get("error")
    cause = error if isinstance(error, BaseException) else None
    logger.log(LEVELS[level], message, exc_info=cause, extra={"fields": fields})


class _LineFormatter(logging.Formatter):
    def __init__(self, serialize: Callable[[Mapping[str, object]], str], *, include_tracebacks: bool) -> None:
        super().__init__()
        self._serialize = serialize
        self._include_tracebacks = include_tracebacks

    def format(self, record: logging.LogRecord) -> str:
        level = _LEVEL_NAMES.get(record.levelno, record.levelname.lower())
        head = {"ts": _format_time(utc(record.created)), "level": level, "msg": record.getMessage()}
        fields: dict[str, object] = {**getattr(record, "fields", {})}
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            fields.setdefault("error", error)
            if self._include_tracebacks:
                fields["traceback"] = "".join(traceback.format_exception(error))
        formatted = {name: _format_field(value) for name, value in fields.items() if value is not None}
        # The head is given twice: first for its position, last because no field may replace it.
        return self._serialize({**head, **formatted, **head})


def _format_field(value: object) -> str | int | float:
    match value:
        case int():
            return value
        case float() if math.isfinite(value):
            return value
        case datetime():
            return _format_time(value)
        case timedelta():
            return value.total_seconds()
        case BaseException():
            return f"{type(value).__name__}: {value}".removesuffix(": ")
        case _:
            return str(value)


def _format_time(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _format_logfmt(fields: Mapping[str, object]) -> str:
    return " ".join(f"{name}={_quote(value)}" for name, value in fields.items())


def _quote(value: object) -> str:
    text = json.dumps(value) if isinstance(value, bool) else str(value)
    if _UNQUOTED.fullmatch(text) and text.isprintable():
        return text
    return json.dumps(text, ensure_ascii=not text.isprintable())
