"""Parsing of fields: accepted values, and that all others are Malformed with the field's name."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from exporter.errors import Malformed
from exporter.model import NANO
from exporter.providers.http import paginate
from exporter.providers.parsing import (
    bool_field,
    int_field,
    list_field,
    money_field,
    object_field,
    required_field,
    str_field,
    time_field,
)


@pytest.mark.parametrize("value", [12, Decimal(12), Decimal("12.0"), Decimal("1.2e1")])
def test_integers(value: object) -> None:
    """Every spelling of twelve is the int 12."""
    read = int_field({"n": value}, "n")
    assert (read, type(read)) == (12, int)


@pytest.mark.parametrize(
    "value",
    [
        -1,
        True,
        "12",
        1.5,
        Decimal("1.5"),
        Decimal("NaN"),
        Decimal("Infinity"),
        Decimal("1e999999"),
        2**63,
        None,
        [],
        {},
    ],
)
def test_invalid_integers(value: object) -> None:
    """Negative, fractional, too large and other values are rejected with the field's name."""
    with pytest.raises(Malformed) as caught:
        int_field({"n": value}, "n")
    assert caught.value.field == "n"
    assert "field n " in str(caught.value)


def test_defaults() -> None:
    """Missing and null fields are the default, where there is one."""
    for empty in ({}, {"x": None}):
        assert (int_field(empty, "x", 0), str_field(empty, "x"), bool_field(empty, "x"), object_field(empty, "x")) == (
            0,
            "",
            False,
            {},
        )


@pytest.mark.parametrize("value", [0, "", [], [1], {"a": 1}])
def test_lists_of_objects(value: object) -> None:
    """A value that is not a list of objects is rejected."""
    if value == []:
        assert list_field({"x": value}, "x") == []
    else:
        with pytest.raises(Malformed):
            list_field({"x": value}, "x")


def test_types_are_exact() -> None:
    """A field of another type is rejected, and the message does not contain its value."""
    with pytest.raises(Malformed, match=r"^the field x is a str, not a dict$"):
        required_field({"x": "secret"}, "x", dict)


def test_money_is_exact() -> None:
    """No digit of an amount is lost to a float."""
    amount = json.loads('{"x": 123456.789012345}', parse_float=Decimal)
    assert money_field(amount, "x", NANO) == 123_456_789_012_345


@pytest.mark.parametrize(
    "value",
    [
        "1e999990",
        "-9e999999",
        "1e-999999",
        Decimal("9e999999"),
        Decimal("1e999990"),
        "1e1000000",
        "1_000",
        "\uff11\uff12",
        " 1",
        "1 ",
        "0x10",
        "",
        "1" * 10_000_000,
        "0." + "1" * 10_000_000,
        Decimal("1e20"),
        10**40,
    ],
    ids=lambda value: str(value)[:12],
)
def test_odd_amounts_are_malformed_or_exact(value: object) -> None:
    """An exponent, a length or a digit that no amount has is Malformed and never another error."""
    with pytest.raises(Malformed, match="the field x is not an amount of money"):
        money_field({"x": value}, "x", NANO)


@given(
    st.one_of(
        st.text(max_size=30),
        st.from_regex(r"\A-?[0-9]{0,30}\.?[0-9]{0,30}([eE][+-]?[0-9]{1,8})?\Z"),
        st.decimals(allow_nan=True, allow_infinity=True),
        st.integers(),
        st.floats(),
        st.none(),
        st.booleans(),
        st.lists(st.integers(), max_size=2),
    )
)
@example(Decimal("9e999999"))
@example("9e999999")
@example(Decimal("sNaN"))
def test_a_field_is_read_or_malformed(value: object) -> None:
    """Whatever value a field has, reading it gives a value or Malformed."""
    for read in (
        lambda obj: money_field(obj, "x", NANO),
        lambda obj: money_field(obj, "x", NANO // 100),
        lambda obj: int_field(obj, "x"),
        lambda obj: time_field(obj, "x"),
        lambda obj: str_field(obj, "x"),
    ):
        with suppress(Malformed):
            read({"x": value})


def test_a_time_with_an_offset_is_in_utc() -> None:
    """Times are in UTC whatever offset they are written with; one that UTC cannot represent is Malformed."""
    assert time_field({"t": "2026-11-20T14:30:00+05:30"}, "t").hour == 9
    for text in ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"):
        with pytest.raises(Malformed):
            time_field({"t": text}, "t")


@pytest.mark.parametrize(
    "value",
    ["2026-11-20T13:00:00Z", "2026-11-20T14:00:00+01:00", "2026-11-20T13:00:00.000", 1795179600000, "1795179600000"],
)
def test_times(value: object) -> None:
    """RFC 3339 with or without an offset, and milliseconds as a number or its text, are times."""
    assert time_field({"t": value}, "t") == datetime(2026, 11, 20, 13, tzinfo=UTC)


@pytest.mark.parametrize("value", ["soon", None, True, 10**18, "9" * 400, "9" * 9000, -1, ""])
def test_invalid_times(value: object) -> None:
    """A value that is not a time, or outside the calendar, is rejected."""
    with pytest.raises(Malformed):
        time_field({"t": value}, "t", timedelta(seconds=1))


def test_pagination_is_bounded() -> None:
    """A list ends with an error after the maximum number of pages."""
    with pytest.raises(Malformed, match="more than 3 pages"):
        list(paginate(lambda cursor: {"n": len(cursor)}, lambda page: "x" * (int_field(page, "n") + 1), max_pages=3))
