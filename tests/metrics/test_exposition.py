"""Bytes: exact numbers, right escapes, one gzip member, the same page in every form."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from exporter.metrics.exposition import Page, Section, assemble, format_labels, format_usd, render_samples
from exporter.metrics.families import ACCOUNT_LABELS, ACCOUNT_UP, FAMILIES, POLLS
from exporter.web import accepts_gzip, prefers_openmetrics

CHUNKS = {
    ACCOUNT_UP: render_samples(ACCOUNT_UP, [(format_labels(ACCOUNT_LABELS, ("p", "a")), "1")]),
    POLLS: render_samples(POLLS, [(format_labels((*ACCOUNT_LABELS, "report"), ("p", "a", "r")), "7")]),
}


def make_page() -> Page:
    """A page of one account."""
    text, openmetrics = (assemble((ACCOUNT_UP, POLLS), [CHUNKS], openmetrics=form) for form in (False, True))
    return Page.from_sections(
        Section.compress(b"# spend\n" * 5000), Section.compress(text), Section.compress(openmetrics)
    )


@given(st.integers(-(10**18), 10**18))
def test_dollars_are_exact(nano: int) -> None:
    """A nano-dollar amount is written as the decimal that it is, without an exponent."""
    whole, _, rest = format_usd(nano).lstrip("-").partition(".")

    assert (int(whole) * 10**9 + int((rest + "0" * 9)[:9])) * (-1 if nano < 0 else 1) == nano
    assert len(rest) <= 9


@given(st.text(), st.text(min_size=1))
def test_any_label_value_reads_back(first: str, second: str) -> None:
    """Quotes, backslashes, line ends and anything else in a name survive a parser."""
    first, second = (text.encode("utf-8", "ignore").decode().replace("\r", "") for text in (first, second))
    line = render_samples(ACCOUNT_UP, [(format_labels(ACCOUNT_LABELS, (first, second or "x")), "1")]).decode()
    family = next(iter(parse_text(line)))

    assert family.samples[0].labels.get("provider", "") == first
    assert family.samples[0].labels["account"] == (second or "x")


@pytest.mark.parametrize("openmetrics", [False, True])
def test_the_compressed_page_is_one_gzip_member_with_the_same_bytes(openmetrics: bool) -> None:
    """The compressed answer unpacks to the plain one and ends with its only member: curl stops after the first."""
    tail = b"fresh 1\n# EOF\n"
    plain = b"".join(make_page().plain(tail, openmetrics=openmetrics))
    packed = b"".join(make_page().gzipped(tail, openmetrics=openmetrics))
    reader = zlib.decompressobj(zlib.MAX_WBITS | 16)

    assert reader.decompress(packed) == plain
    assert reader.eof
    assert reader.unused_data == b""
    assert gzip.decompress(packed) == plain


def test_both_formats_are_read_by_their_parsers() -> None:
    """A counter is announced without _total in OpenMetrics and with it in the text format."""
    text = b"".join(make_page().plain(b"", openmetrics=False)).decode()
    openmetrics = assemble((ACCOUNT_UP, POLLS), [CHUNKS], openmetrics=True).decode() + "# EOF\n"

    assert {family.name: family.type for family in parse_text(text)} == {
        "ai_account_up": "gauge",
        "ai_account_polls": "counter",
    }
    assert {family.name: family.type for family in parse_openmetrics(openmetrics)} == {  # type: ignore[no-untyped-call]
        "ai_account_up": "gauge",
        "ai_account_polls": "counter",
    }
    assert "# TYPE ai_account_polls_total counter" in text


def test_a_family_without_samples_is_left_out() -> None:
    """No account has anything to say of it, so neither does the page."""
    assert assemble((ACCOUNT_UP,), [{ACCOUNT_UP: b""}], openmetrics=False) == b""


def test_every_family_has_a_help_and_a_name_by_the_rules() -> None:
    """Every family's help is a sentence, counters end in _total and nothing else does."""
    for family in FAMILIES:
        assert family.help.endswith(".")
        assert family.name.startswith("ai_")
        assert family.name.endswith("_total") == (family.type == "counter")
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        ("application/openmetrics-text", True),
        (
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;q=0.5",
            True,
        ),
        ("application/openmetrics-text;q=0.1,text/plain;version=0.0.4", False),
        ("application/openmetrics-text;q=0,text/plain;q=0", False),
        ("application/openmetrics-text;q=x", False),
    ],
)
def test_the_format_is_the_one_that_is_preferred(accept: str, wanted: bool) -> None:
    """The Accept header's ranks decide between OpenMetrics and the text format."""
    assert prefers_openmetrics(accept) is wanted


@pytest.mark.parametrize(
    ("encodings", "wanted"),
    [("", False), ("gzip", True), ("br, gzip;q=0.5", True), ("gzip;q=0", False), ("*", True), ("identity", False)],
)
def test_gzip_is_sent_only_where_it_is_accepted(encodings: str, wanted: bool) -> None:
    """A client that refuses gzip, also by q=0, gets plain bytes."""
    assert accepts_gzip(encodings) is wanted
