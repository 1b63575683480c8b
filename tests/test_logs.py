"""Logging in logfmt and in JSON."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from exporter.logs import LEVELS, Format, configure, log_event
from exporter.model import Secret

LOG = logging.getLogger("test-logs")
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
LIBRARIES = ("httpx", "httpcore", "uvicorn", "uvicorn.access", "uvicorn.error")


@pytest.fixture(autouse=True)
def _restore_loggers() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    libraries = {name: logging.getLogger(name).level for name in LIBRARIES}
    for name in LIBRARIES:
        # An earlier test in this process may have run a server without access log, which disables its logger.
        logging.getLogger(name).propagate = True
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in libraries.items():
        logging.getLogger(name).setLevel(before)


def configure_log(level: str = "info", log_format: Format = "logfmt") -> io.StringIO:
    stream = io.StringIO()
    configure(level, log_format, stream)
    return stream


def make_record(message: str, **fields: object) -> logging.LogRecord:
    values = {"name": "x", "levelno": logging.INFO, "msg": message, "created": NOON.timestamp(), "fields": fields}
    return logging.makeLogRecord(values)


def test_logfmt() -> None:
    """A line has time in UTC, level, message, and then the fields in their order."""
    stream = configure_log()
    LOG.handle(make_record("Poll failed", account="acme", reason="unavailable", attempt=3, after=1.5))
    expected = 'ts=2026-11-20T12:00:00.000Z level=info msg="Poll failed" account=acme reason=unavailable'
    assert stream.getvalue() == f"{expected} attempt=3 after=1.5\n"


def test_json() -> None:
    """A JSON line has the same fields in the same order, with numbers and booleans as JSON types."""
    stream = configure_log(log_format="json")
    LOG.handle(make_record("Poll failed", account="acme", attempt=3, late=True, ratio=float("nan")))
    logged = json.loads(stream.getvalue())
    assert list(logged) == ["ts", "level", "msg", "account", "attempt", "late", "ratio"]
    assert logged["ts"] == "2026-11-20T12:00:00.000Z"
    assert (logged["attempt"], logged["late"], logged["ratio"]) == (3, True, "nan")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", "plain"),
        ("", '""'),
        ("two words", '"two words"'),
        ("a=b", '"a=b"'),
        ('say "hi"', r'"say \"hi\""'),
        ("one\ntwo", r'"one\ntwo"'),
        ("C:\\keys", r'"C:\\keys"'),
        ("\x1b[31m", r'"\u001b[31m"'),
        ("a\u2028b", r'"a\u2028b"'),
        ("\udcff", r'"\udcff"'),
        ("Größe", "Größe"),
        (True, "true"),
        (7, "7"),
        (timedelta(minutes=5), "300.0"),
        (NOON, "2026-11-20T12:00:00.000Z"),
        (["a", Secret("hidden")], "\"['a', <secret>]\""),
        (Secret("hidden"), "<secret>"),
    ],
)
def test_values(value: object, text: str) -> None:
    """A value is quoted, on one line, only where necessary; a secret is hidden."""
    stream = configure_log()
    log_event(LOG, "info", "Done", value=value)
    assert stream.getvalue().endswith(f" msg=Done value={text}\n")


@pytest.mark.parametrize("form", ["logfmt", "json"])
def test_secret_in_a_message(form: Format) -> None:
    """A secret in the text of a message is hidden."""
    stream = configure_log(log_format=form)
    LOG.warning("Key %s", Secret("hidden"))
    assert "Key <secret>" in stream.getvalue()


def test_empty_fields() -> None:
    """A field that is None is omitted."""
    stream = configure_log()
    log_event(LOG, "info", "Done", account="acme", reason=None)
    assert stream.getvalue().endswith(" msg=Done account=acme\n")


def test_reserved_names() -> None:
    """A field cannot replace time, level or message."""
    stream = configure_log()
    log_event(LOG, "info", "Done", level="high", msg="other", ts=0, logger="mine")
    assert "level=info msg=Done logger=mine" in stream.getvalue()


def test_exception() -> None:
    """An exception is logged in one line, without its traceback."""
    stream = configure_log()
    try:
        int("many")
    except ValueError as error:
        log_event(LOG, "error", "Stopped", error=error)
        LOG.exception("Stopped too")
    first, second = stream.getvalue().splitlines()
    logged = """error="ValueError: invalid literal for int() with base 10: 'many'\""""
    assert first.endswith(f"level=error msg=Stopped {logged}")
    assert second.endswith(f'level=error msg="Stopped too" {logged}')


def test_exception_without_text() -> None:
    """An exception without a text is logged as its type."""
    stream = configure_log()
    log_event(LOG, "error", "Stopped", error=TimeoutError())
    assert stream.getvalue().endswith(" error=TimeoutError\n")


def test_traceback() -> None:
    """At level debug the traceback is added, on the same line."""
    stream = configure_log("debug", "json")
    try:
        int("many")
    except ValueError as error:
        log_event(LOG, "warn", "Failed", error=error)
    logged = json.loads(stream.getvalue())
    assert logged["error"] == "ValueError: invalid literal for int() with base 10: 'many'"
    assert logged["traceback"].startswith("Traceback (most recent call last):\n")
    assert len(stream.getvalue().splitlines()) == 1


@pytest.mark.parametrize("level", LEVELS)
def test_levels(level: str) -> None:
    """Records below the level are not logged, and each level has a short name."""
    stream = configure_log(level)
    for name in LEVELS:
        log_event(LOG, name, "Done")
    logged = [line.split()[1] for line in stream.getvalue().splitlines()]
    assert logged == [f"level={name}" for name in list(LEVELS)[list(LEVELS).index(level) :]]


@pytest.mark.parametrize("name", LIBRARIES)
@pytest.mark.parametrize("level", LEVELS)
def test_libraries(name: str, level: str) -> None:
    """A library's record of each request is not logged even at debug; its warnings are logged as usual."""
    stream = configure_log(level)
    logging.getLogger(name).info("GET /")
    logging.getLogger(name).warning("Odd")
    assert stream.getvalue().count("\n") == (level != "error")


def test_twice() -> None:
    """Configuring again replaces the first stream: nothing is logged twice."""
    first, second = configure_log(), configure_log()
    log_event(LOG, "info", "Done")
    assert first.getvalue() == ""
    assert second.getvalue().count("msg=Done") == 1


def test_unknown_level() -> None:
    """An unknown level is rejected before anything changes."""
    with pytest.raises(KeyError):
        configure("loud", "logfmt", sys.stderr)
