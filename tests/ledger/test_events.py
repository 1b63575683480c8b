"""Pushed events are counted once, in their own hour, however often and late they are pushed."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporter.ledger import Ledger, LedgerLocation
from exporter.ledger.events import EVENTS_REPORT_NAME
from exporter.model import DAY, HOUR, Row, UsageEvent
from exporter.windows import TimeRange, floor

NOW = datetime(2026, 3, 10, 12, 20, tzinfo=UTC)
ALL_TIME = TimeRange(NOW - 100 * DAY, NOW + 100 * DAY)


def make_event(
    name: str = "", *, ago: timedelta = timedelta(), tokens: int = 5, provider: str = "bedrock"
) -> UsageEvent:
    """Some tokens of one model."""
    return UsageEvent(provider, NOW - ago, (Row("output", tokens, model="m"),), name, f"{provider} {ago} {tokens}")


def stored_tokens(
    ledger: Ledger, provider: str = "bedrock", time_range: TimeRange = ALL_TIME, source: str = "gateway"
) -> int:
    """All tokens that a source has in a span."""
    number = ledger.buckets.register_account(source, provider)
    return sum(ledger.buckets.units(number, [EVENTS_REPORT_NAME], time_range).values())


def test_a_duplicate_event_changes_nothing(location: LedgerLocation) -> None:
    """The same id with the same content is counted once, in one batch and in another, and after a restart."""
    ledger = Ledger(location)
    events = [make_event("a"), make_event("b"), make_event("a")]
    assert ledger.events.add("gateway", events, NOW) == ["accepted", "accepted", "duplicate"]
    assert ledger.events.add("gateway", [make_event("b"), make_event("c")], NOW + HOUR) == ["duplicate", "accepted"]
    ledger.close()
    again = Ledger(location)
    assert again.events.add("gateway", [make_event("a")], NOW + HOUR) == ["duplicate"]
    assert stored_tokens(again) == 15
    again.close()


@pytest.mark.parametrize(
    "other",
    [
        make_event("a", tokens=6),
        make_event("a", ago=timedelta(seconds=1)),
        make_event("a", provider="vertex"),
        replace(make_event("a"), content="another model"),
    ],
)
def test_an_id_of_another_content_is_a_conflict(ledger: Ledger, other: UsageEvent) -> None:
    """A second event with the id of another is not counted, and the first event stays counted."""
    assert ledger.events.add("gateway", [make_event("a")], NOW) == ["accepted"]
    assert ledger.events.add("gateway", [other, make_event("b")], NOW) == ["conflict", "accepted"]
    assert ledger.events.add("gateway", [make_event("c"), replace(other, id="c")], NOW) == ["accepted", "conflict"]
    assert stored_tokens(ledger) == 15


def test_ids_are_a_sources_own(ledger: Ledger) -> None:
    """Two sources may use one id for two things, and events without an id are all counted."""
    assert ledger.events.add("gateway", [make_event("a"), make_event(), make_event()], NOW) == ["accepted"] * 3
    assert ledger.events.add("batch", [make_event("a", tokens=9)], NOW) == ["accepted"]
    assert stored_tokens(ledger) == 15


def test_a_late_event_is_counted_in_its_own_hour(ledger: Ledger) -> None:
    """It adds to the hour of its time, whose day is valued again, and no other hour changes."""
    number = ledger.buckets.register_account("gateway", "bedrock")
    ledger.events.add("gateway", [make_event("now")], NOW)
    version = ledger.hours.version(number, floor(NOW - 9 * DAY, DAY))
    ledger.events.add("gateway", [make_event("late", ago=9 * DAY, tokens=7), make_event("later", ago=9 * DAY)], NOW)
    hour = floor(NOW - 9 * DAY, HOUR)
    assert stored_tokens(ledger, time_range=TimeRange(hour, hour + HOUR)) == 12
    assert stored_tokens(ledger) == 17
    assert ledger.hours.version(number, floor(hour, DAY)) > version
    assert floor(hour, DAY) in ledger.costs.unvalued_days(number, "another")
    coverage = ledger.buckets.coverage(number, EVENTS_REPORT_NAME)
    assert coverage is not None
    assert (coverage.since, coverage.until) == (hour, NOW)


def test_what_a_source_covers_has_no_gap(ledger: Ledger) -> None:
    """Usage that was not pushed is none: from the first event on the coverage includes hours without events."""
    number = ledger.buckets.register_account("gateway", "bedrock")
    ledger.events.add("gateway", [make_event("first", ago=HOUR)], NOW)
    ledger.events.mark_complete(number, NOW + 5 * HOUR)
    later = UsageEvent("bedrock", NOW + 30 * HOUR, (Row("output", 1, model="m"),), "later")
    ledger.events.add("gateway", [later], NOW + 30 * HOUR)
    coverage = ledger.buckets.coverage(number, EVENTS_REPORT_NAME)
    assert coverage is not None
    assert (coverage.since, coverage.until) == (floor(NOW - HOUR, HOUR), NOW + 30 * HOUR)


def test_each_provider_of_a_source_is_an_account(ledger: Ledger) -> None:
    """A source has a separate account for each provider of its events."""
    ledger.events.add("gateway", [make_event("a"), make_event("b", provider="vertex", tokens=2)], NOW)
    assert (stored_tokens(ledger), stored_tokens(ledger, "vertex")) == (5, 2)


def test_an_id_is_forgotten_when_its_event_can_no_longer_be_pushed(ledger: Ledger) -> None:
    """Ids of events that are too old to be accepted are dropped; their sums stay."""
    ledger.events.add("gateway", [make_event("old", ago=36 * DAY), make_event("new")], NOW)
    ledger.events.delete_old_ids(NOW - 35 * DAY)
    assert ledger.events.add("gateway", [make_event("new"), make_event("old", ago=36 * DAY)], NOW) == [
        "duplicate",
        "accepted",
    ]
    assert stored_tokens(ledger) == 15


EXAMPLES = itertools.count()
Batch = list[tuple[int, int, int]]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 40), st.integers(0, 3)), max_size=12), max_size=6))
def test_sums_are_those_of_the_events_that_were_first(ledger: Ledger, batches: list[Batch]) -> None:
    """For any events in any batches, each id counts with its first content, in its hour."""
    # A source for each example: another ledger takes a hundred times as long.
    source = f"gateway{next(EXAMPLES)}"
    first: dict[int, tuple[int, int]] = {}
    for batch in batches:
        events = [make_event(f"e{name}", ago=hours * HOUR, tokens=amount) for name, hours, amount in batch]
        outcomes = ledger.events.add(source, events, NOW)
        for (name, hours, amount), outcome in zip(batch, outcomes, strict=True):
            known = first.setdefault(name, (hours, amount))
            assert (outcome == "conflict") == (known != (hours, amount))
    sums = Counter[datetime]()
    for hours, amount in first.values():
        sums[floor(NOW - hours * HOUR, HOUR)] += amount
    for hour, amount in sums.items():
        assert stored_tokens(ledger, time_range=TimeRange(hour, hour + HOUR), source=source) == amount


def test_the_time_for_events_does_not_grow_with_known_labels(ledger: Ledger) -> None:
    """Events with new labels take as long in an account with many labels as in an account with few."""
    pushed_models = 0

    def push_new_models(count: int) -> float:
        """Push events of models that are new; return the CPU seconds."""
        nonlocal pushed_models
        rows = [Row("output", 1, model=f"m{pushed_models + number}") for number in range(count)]
        pushed_models += count
        events = [UsageEvent("bedrock", NOW, (row,)) for row in rows]
        began = time.thread_time()
        ledger.events.add("gateway", events, NOW)
        return time.thread_time() - began

    push_new_models(300)
    few = min(push_new_models(300) for _ in range(3))
    push_new_models(30_000)
    many = min(push_new_models(300) for _ in range(3))
    assert many < 4 * few
    assert stored_tokens(ledger) == pushed_models
