"""One line per record, in logfmt and in JSON."""

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
        # A server that an earlier test ran without access log has muted its logger for this process.
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
    """A line tells time in UTC, level, message, and then the fields in their order."""
    stream = configure_log()
    LOG.handle(make_record("Poll failed", account="acme", reason="unavailable", attempt=3, after=1.5))
    expected = 'ts=2026-11-20T12:00:00.000Z level=info msg="Poll failed" account=acme reason=unavailable'
    assert stream.getvalue() == f"{expected} attempt=3 after=1.5\n"


def test_json() -> None:
    """A JSON line holds the same in the same order, numbers and truths as such."""
    stream = configure_log(log_format="json")
    LOG.handle(make_record("Poll failed", account="acme", attempt=3, late=True, ratio=float("nan")))
    told = json.loads(stream.getvalue())
    assert list(told) == ["ts", "level", "msg", "account", "attempt", "late", "ratio"]
    assert told["ts"] == "2026-11-20T12:00:00.000Z"
    assert (told["attempt"], told["late"], told["ratio"]) == (3, True, "nan")


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
    """A value is bare where that is safe and quoted on one line where it is not; a secret stays one."""
    stream = configure_log()
    log_event(LOG, "info", "Told", value=value)
    assert stream.getvalue().endswith(f" msg=Told value={text}\n")


@pytest.mark.parametrize("form", ["logfmt", "json"])
def test_secret_in_a_message(form: Format) -> None:
    """A secret that is put into the message's text does not show there either."""
    stream = configure_log(log_format=form)
    LOG.warning("Key %s", Secret("hidden"))
    assert "Key <secret>" in stream.getvalue()


def test_empty_fields() -> None:
    """A field that is None is left out."""
    stream = configure_log()
    log_event(LOG, "info", "Told", account="acme", reason=None)
    assert stream.getvalue().endswith(" msg=Told account=acme\n")


def test_reserved_names() -> None:
    """A field cannot take the place of time, level or message."""
    stream = configure_log()
    log_event(LOG, "info", "Told", level="high", msg="other", ts=0, logger="mine")
    assert "level=info msg=Told logger=mine" in stream.getvalue()


def test_exception() -> None:
    """An exception is told in one line, without its traceback."""
    stream = configure_log()
    try:
        int("many")
    except ValueError as error:
        log_event(LOG, "error", "Stopped", error=error)
        LOG.exception("Stopped too")
    first, second = stream.getvalue().splitlines()
    told = """error="ValueError: invalid literal for int() with base 10: 'many'\""""
    assert first.endswith(f"level=error msg=Stopped {told}")
    assert second.endswith(f'level=error msg="Stopped too" {told}')


def test_exception_without_text() -> None:
    """An exception that says nothing is told by its kind."""
    stream = configure_log()
    log_event(LOG, "error", "Stopped", error=TimeoutError())
    assert stream.getvalue().endswith(" error=TimeoutError\n")


def test_traceback() -> None:
    """At level debug the traceback is added, still on the same line."""
    stream = configure_log("debug", "json")
    try:
        int("many")
    except ValueError as error:
        log_event(LOG, "warn", "Failed", error=error)
    told = json.loads(stream.getvalue())
    assert told["error"] == "ValueError: invalid literal for int() with base 10: 'many'"
    assert told["traceback"].startswith("Traceback (most recent call last):\n")
    assert len(stream.getvalue().splitlines()) == 1


@pytest.mark.parametrize("level", LEVELS)
def test_levels(level: str) -> None:
    """Records below the level are not told, and each level has its short name."""
    stream = configure_log(level)
    for each in LEVELS:
        log_event(LOG, each, "Told")
    told = [line.split()[1] for line in stream.getvalue().splitlines()]
    assert told == [f"level={each}" for each in list(LEVELS)[list(LEVELS).index(level) :]]


@pytest.mark.parametrize("name", LIBRARIES)
@pytest.mark.parametrize("level", LEVELS)
def test_libraries(name: str, level: str) -> None:
    """A library's record of every request is left out even at debug, its warnings follow the level."""
    stream = configure_log(level)
    logging.getLogger(name).info("GET /")
    logging.getLogger(name).warning("Odd")
    assert stream.getvalue().count("\n") == (level != "error")


def test_twice() -> None:
    """Configuring again replaces the first stream: nothing is told twice."""
    first, second = configure_log(), configure_log()
    log_event(LOG, "info", "Told")
    assert first.getvalue() == ""
    assert second.getvalue().count("msg=Told") == 1


def test_unknown_level() -> None:
    """A level that is none is refused before anything changes."""
    with pytest.raises(KeyError):
        configure("loud", "logfmt", sys.stderr)
