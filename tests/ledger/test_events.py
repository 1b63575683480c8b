"""What sources push is counted once, whatever is told again, and in its own hour, however late."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporter.ledger import Ledger
from exporter.ledger.events import REPORT
from exporter.model import DAY, HOUR, Event, Row
from exporter.windows import Span, floor

NOW = datetime(2026, 3, 10, 12, 20, tzinfo=UTC)
ALL = Span(NOW - 100 * DAY, NOW + 100 * DAY)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """An empty ledger."""
    opened = Ledger(tmp_path)
    yield opened
    opened.close()


def event(name: str = "", *, ago: timedelta = timedelta(), tokens: int = 5, provider: str = "bedrock") -> Event:
    """Some tokens of one model."""
    return Event(provider, NOW - ago, (Row("output", tokens, model="m"),), name)


def tokens(ledger: Ledger, provider: str = "bedrock", span: Span = ALL) -> int:
    """All tokens that the source `gateway` has in a span."""
    number = ledger.buckets.account("gateway", provider)
    return sum(ledger.buckets.units(number, [REPORT], span).values())


def test_an_event_that_is_told_again_changes_nothing(tmp_path: Path) -> None:
    """The same id with the same content is counted once, in one batch and in another, and after a restart."""
    ledger = Ledger(tmp_path)
    told = [event("a"), event("b"), event("a")]
    assert ledger.events.take("gateway", told, NOW) == ["accepted", "accepted", "repeated"]
    assert ledger.events.take("gateway", [event("b"), event("c")], NOW + HOUR) == ["repeated", "accepted"]
    ledger.close()
    again = Ledger(tmp_path)
    assert again.events.take("gateway", [event("a")], NOW + HOUR) == ["repeated"]
    assert tokens(again) == 15
    again.close()


@pytest.mark.parametrize(
    "other",
    [
        event("a", tokens=6),
        event("a", ago=timedelta(seconds=1)),
        event("a", provider="vertex"),
        replace(event("a"), rows=(Row("output", 5, model="n"),)),
    ],
)
def test_an_id_of_another_content_is_a_conflict(ledger: Ledger, other: Event) -> None:
    """An id that was given to something else is not counted, and what was counted first stays."""
    assert ledger.events.take("gateway", [event("a")], NOW) == ["accepted"]
    assert ledger.events.take("gateway", [other, event("b")], NOW) == ["conflict", "accepted"]
    assert ledger.events.take("gateway", [event("c"), replace(other, id="c")], NOW) == ["accepted", "conflict"]
    assert tokens(ledger) == 15


def test_ids_are_a_sources_own(ledger: Ledger) -> None:
    """Two sources may use one id for two things, and events without an id are all counted."""
    assert ledger.events.take("gateway", [event("a"), event(), event()], NOW) == ["accepted"] * 3
    assert ledger.events.take("batch", [event("a", tokens=9)], NOW) == ["accepted"]
    assert tokens(ledger) == 15


def test_a_late_event_is_counted_in_its_own_hour(ledger: Ledger) -> None:
    """It adds to the hour in which it happened, whose day is valued anew, and no other hour changes."""
    number = ledger.buckets.account("gateway", "bedrock")
    ledger.events.take("gateway", [event("now")], NOW)
    version = ledger.hours.version(number, floor(NOW - 9 * DAY, DAY))
    ledger.events.take("gateway", [event("late", ago=9 * DAY, tokens=7), event("later", ago=9 * DAY)], NOW)
    hour = floor(NOW - 9 * DAY, HOUR)
    assert tokens(ledger, span=Span(hour, hour + HOUR)) == 12
    assert tokens(ledger) == 17
    assert ledger.hours.version(number, floor(hour, DAY)) > version
    assert floor(hour, DAY) in ledger.costs.unvalued(number, "another")
    coverage = ledger.buckets.coverage(number, REPORT)
    assert coverage is not None
    assert (coverage.since, coverage.until) == (hour, NOW)


def test_what_a_source_covers_has_no_gap(ledger: Ledger) -> None:
    """What was not pushed was not used: from the first event on everything is told, through hours of silence."""
    number = ledger.buckets.account("gateway", "bedrock")
    ledger.events.take("gateway", [event("first", ago=HOUR)], NOW)
    ledger.events.nothing_more(number, NOW + 5 * HOUR)
    later = Event("bedrock", NOW + 30 * HOUR, (Row("output", 1, model="m"),), "later")
    ledger.events.take("gateway", [later], NOW + 30 * HOUR)
    coverage = ledger.buckets.coverage(number, REPORT)
    assert coverage is not None
    assert (coverage.since, coverage.until) == (floor(NOW - HOUR, HOUR), NOW + 30 * HOUR)


def test_each_provider_of_a_source_is_an_account(ledger: Ledger) -> None:
    """What one source tells of two providers is kept apart."""
    ledger.events.take("gateway", [event("a"), event("b", provider="vertex", tokens=2)], NOW)
    assert (tokens(ledger), tokens(ledger, "vertex")) == (5, 2)


def test_an_id_may_be_forgotten_when_nobody_may_tell_it_again(ledger: Ledger) -> None:
    """Ids of events that are older than what is accepted are dropped; their sums stay."""
    ledger.events.take("gateway", [event("old", ago=36 * DAY), event("new")], NOW)
    ledger.events.forget(NOW - 35 * DAY)
    assert ledger.events.take("gateway", [event("new"), event("old", ago=36 * DAY)], NOW) == ["repeated", "accepted"]
    assert tokens(ledger) == 15


Batch = list[tuple[int, int, int]]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 40), st.integers(0, 3)), max_size=12), max_size=6))
def test_sums_are_those_of_the_events_that_were_first(
    tmp_path_factory: pytest.TempPathFactory, told: list[Batch]
) -> None:
    """Whatever is told in whatever batches, each id counts as it was told first, in its hour."""
    ledger = Ledger(tmp_path_factory.mktemp("ledger"))
    first: dict[int, tuple[int, int]] = {}
    for batch in told:
        events = [event(f"e{name}", ago=hours * HOUR, tokens=amount) for name, hours, amount in batch]
        outcomes = ledger.events.take("gateway", events, NOW)
        for (name, hours, amount), outcome in zip(batch, outcomes, strict=True):
            known = first.setdefault(name, (hours, amount))
            assert (outcome == "conflict") == (known != (hours, amount))
    sums = Counter[datetime]()
    for hours, amount in first.values():
        sums[floor(NOW - hours * HOUR, HOUR)] += amount
    for hour, amount in sums.items():
        assert tokens(ledger, span=Span(hour, hour + HOUR)) == amount
    ledger.close()
