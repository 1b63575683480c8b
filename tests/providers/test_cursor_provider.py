"""Cursor: the contract, and the aggregation of events per hour."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest

from exporter.errors import KeyRejected, Malformed
from exporter.model import DAY, HOUR, Bucket, Row
from exporter.providers.cursor import Cursor
from tests.providers.canned import ReceivedRequest, Reply, open_provider
from tests.providers.contract import NOW, TODAY, SimulatedProviderContract

(EVENTS,) = Cursor.reports
MIDNIGHT = int(TODAY.timestamp() * 1000)


class TestCursorContract(SimulatedProviderContract):
    """A team with billing groups, included and on-demand events and service accounts."""

    provider_type = Cursor
    account = "acme-cursor"


def make_event(minute: int = 0, **fields: object) -> dict[str, Any]:
    """Return an event `minute` minutes after midnight."""
    usual = {"userEmail": "ada@example.com", "model": "gpt-5", "kind": "Usage-based", "isChargeable": True}
    return {"timestamp": str(MIDNIGHT + minute * 60_000), "chargedCents": 1, **usual, **fields}


def make_page(*events: dict[str, Any], number: int = 1, more: bool = False, total: int | None = None) -> dict[str, Any]:
    """Return a page of events."""
    pagination = {"currentPage": number, "hasNextPage": more}
    return {
        "totalUsageEventsCount": len(events) if total is None else total,
        "pagination": pagination,
        "usageEvents": list(events),
    }


def answer_events(*events: dict[str, Any], groups: Reply | None = None) -> Callable[[ReceivedRequest], Reply]:
    """Answer with these events and billing groups; without groups, as a plan that has none."""

    def answer(request: ReceivedRequest) -> Reply:
        if request.path == "/teams/groups":
            return groups or Reply({"error": "Forbidden", "message": "Enterprise plan only"}, 403)
        return Reply(make_page(*events))

    return answer


def fetch_buckets(*events: dict[str, Any], groups: Reply | None = None, hours: int = 1) -> list[Bucket]:
    """Return the buckets of the first hours of the day."""
    with open_provider("cursor", answer_events(*events, groups=groups)) as (cursor, _):
        return list(cursor.fetch(EVENTS, TODAY, TODAY + hours * HOUR))


def fetch_rows(*events: dict[str, Any]) -> tuple[Row, ...]:
    """Return the rows of the first hour."""
    return fetch_buckets(*events)[0].rows


def test_an_event_becomes_meters() -> None:
    """An event has its tokens, one request and its cost; the model's price before discounts is ignored."""
    tokens = {"inputTokens": 126, "outputTokens": 450, "cacheWriteTokens": 6112, "cacheReadTokens": 11_964}
    event = make_event(tokenUsage={**tokens, "totalCents": 99.9}, chargedCents=8.123456789)
    assert {row.meter: row.value for row in fetch_rows(event)} == {
        "uncached_input": 126,
        "output": 450,
        "cache_write": 6112,
        "cache_read": 11_964,
        "requests": 1,
        "cost": 81_234_568,
    }


def test_events_are_added_by_hour() -> None:
    """Events of an hour with equal labels are one row, hours without events are empty, other hours are dropped."""
    buckets = fetch_buckets(make_event(0), make_event(59), make_event(125), make_event(-1), make_event(180), hours=3)
    assert [{row.meter: row.value for row in bucket.rows} for bucket in buckets] == [
        {"requests": 2, "cost": 20_000_000},
        {},
        {"requests": 1, "cost": 10_000_000},
    ]


@pytest.mark.parametrize(
    ("kind", "chargeable", "tier"),
    [
        ("Included in Business", False, "included"),
        ("Included", True, "included"),
        ("USAGE_EVENT_KIND_INCLUDED_IN_BUSINESS", False, "included"),
        ("Usage-based", True, "on_demand"),
        ("On-Demand", False, "on_demand"),
        ("USAGE_EVENT_KIND_USAGE_BASED", False, "on_demand"),
        ("Errored, Not Charged", False, "not_charged"),
        ("USAGE_EVENT_KIND_ABORTED_NOT_CHARGED", False, "not_charged"),
        ("Something new", True, "on_demand"),
        ("Something new", None, "other"),
    ],
)
def test_tiers(kind: str, chargeable: bool | None, tier: str) -> None:
    """Every spelling of `kind` becomes one of four tiers."""
    assert {row.tier for row in fetch_rows(make_event(kind=kind, isChargeable=chargeable))} == {tier}


def test_an_event_that_is_not_charged_may_have_no_money() -> None:
    """The cost may be missing from an event that is not chargeable; a chargeable event without it is Malformed."""
    assert [row.meter for row in fetch_rows(make_event(chargedCents=None, isChargeable=False))] == ["requests"]
    with pytest.raises(Malformed, match="usage_events: the field chargedCents is missing"):
        fetch_rows(make_event(chargedCents=None))


def test_the_group_is_that_of_the_time() -> None:
    """An event belongs to the billing group of its user at that time; without a group the workspace is empty."""
    left = TODAY + 30 * HOUR / 60
    former = {"email": "Ada@example.com", "joinedAt": "2026-01-01T00:00:00.000Z", "leftAt": left.isoformat()}
    current = {"email": "ada@example.com", "joinedAt": int(left.timestamp() * 1000), "leftAt": None}
    groups = [
        {"id": "group_old", "name": "Old", "currentMembers": [], "formerMembers": [former]},
        {"id": "group_new", "name": "New", "currentMembers": [current]},
    ]
    events = [make_event(10), make_event(50), make_event(50, userEmail="nobody@example.com")]
    bucket = fetch_buckets(*events, groups=Reply({"groups": groups}))[0]
    assert [row.workspace for row in bucket.rows if row.meter == "requests"] == ["", "group_new", "group_old"]
    assert "@" not in repr(bucket)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_plan_without_groups(status: int) -> None:
    """Where billing groups are rejected, events have no workspace, and there are no names."""
    with open_provider("cursor", answer_events(make_event(), groups=Reply({"message": "no"}, status))) as (
        cursor,
        server,
    ):
        buckets = [*cursor.fetch(EVENTS, TODAY, NOW), *cursor.fetch(EVENTS, TODAY, NOW)]
        assert cursor.names() == {}
    assert {row.workspace for bucket in buckets for row in bucket.rows} == {""}
    assert [request.path for request in server.requests].count("/teams/groups") == 2


def test_groups_are_named() -> None:
    """Names are those of the billing groups, and a name for usage without a group."""
    groups = Reply({"groups": [{"id": "group_1", "name": "Apps", "currentMembers": []}]})
    with open_provider("cursor", answer_events(groups=groups)) as (cursor, _):
        assert cursor.names() == {"": "unassigned", "group_1": "Apps"}


def test_long_time_ranges_are_split() -> None:
    """No range is longer than thirty days, the ranges are adjacent, and each list keeps its end."""
    with open_provider("cursor", answer_events()) as (cursor, server):
        assert len(list(cursor.fetch(EVENTS, TODAY - 61 * DAY, TODAY))) == 61 * 24
    ranges = [(request.body["startDate"], request.body["endDate"]) for request in server.requests if request.body]
    assert ranges[0][0] == MIDNIGHT - 61 * 86_400_000
    assert ranges[-1][1] == MIDNIGHT - 1
    assert [end + 1 for _, end in ranges[:-1]] == [start for start, _ in ranges[1:]]
    assert all(end - start < 30 * 86_400_000 for start, end in ranges)


@pytest.mark.parametrize(("total", "fails"), [(2, False), (3, True), (1, True)])
def test_lost_and_repeated_events_are_noticed(total: int, fails: bool) -> None:
    """When fewer or more events arrive than the pages announce, no bucket is returned."""

    def answer(request: ReceivedRequest) -> Reply:
        number = request.body.get("page", 0)
        return (
            Reply(make_page(make_event(number), number=number, more=number == 1, total=total))
            if number
            else Reply({}, 404)
        )

    with open_provider("cursor", answer) as (cursor, _):
        if fails:
            with pytest.raises(Malformed, match=f"2 events came, but there are {total}"):
                list(cursor.fetch(EVENTS, TODAY, NOW))
        else:
            assert next(cursor.fetch(EVENTS, TODAY, NOW)).rows[-1].value == 2


def test_events_arriving_during_pagination_are_counted_once() -> None:
    """A late event moves the last event of a page to the next page; it is counted once, an equal event is kept."""
    pages = {
        1: make_page(make_event(50), make_event(40), number=1, more=True, total=4),
        2: make_page(make_event(40), make_event(30), number=2, more=True, total=5),
        3: make_page(make_event(30), number=3, total=5),
    }

    def answer(request: ReceivedRequest) -> Reply:
        return Reply(pages[request.body["page"]]) if request.body else Reply({}, 404)

    with open_provider("cursor", answer) as (cursor, _):
        assert next(cursor.fetch(EVENTS, TODAY, NOW)).rows[-1] == Row("requests", 4, model="gpt-5", tier="on_demand")


@pytest.mark.parametrize(("total", "pages", "fails"), [(3, 4, True), (900, 5, True), (4, 5, False)])
def test_an_endless_list_of_events_ends(total: int, pages: int, fails: bool) -> None:
    """No page is requested after the announced number of events was exceeded, nor after an empty page."""

    def answer(request: ReceivedRequest) -> Reply:
        number = request.body.get("page", 0)
        events = [make_event(number)] if number < 5 else []
        return Reply(make_page(*events, number=number, more=True, total=total)) if number else Reply({}, 404)

    with open_provider("cursor", answer) as (cursor, server):
        with pytest.raises(Malformed, match="events came, but there are") if fails else nullcontext():
            list(cursor.fetch(EVENTS, TODAY, NOW))
        assert len(server.requests) == 1 + pages


def test_a_repeated_page_ends_pagination() -> None:
    """A provider that always returns page one is Malformed, and is not polled endlessly."""
    page = Reply(make_page(make_event(), more=True))
    opened = open_provider("cursor", lambda request: page if request.body else Reply({}, 404))
    with opened as (cursor, server), pytest.raises(Malformed, match="repeats"):
        list(cursor.fetch(EVENTS, TODAY, NOW))
    assert len(server.requests) == 3


def test_a_missing_scope_comes_as_401() -> None:
    """The organization API's 401 for a missing scope does not count as a wrong key."""
    body = {"code": "error", "message": "missing required scope"}
    with open_provider("cursor", lambda _: Reply(body, 401)) as (cursor, _), pytest.raises(KeyRejected) as caught:
        cursor.verify()
    assert caught.value.reason == "missing_scope"
