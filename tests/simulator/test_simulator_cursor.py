"""Cursor's API in the simulator: events, their paging and money, members and billing groups."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest

from exporter.model import DAY, HOUR
from exporter.simulator.world import World, demo_world
from tests.simulator.simulated import NOW, TODAY, Caller, Clock, calling, calling_demo, headers, totals

TEAM = "acme-cursor"


@pytest.fixture(scope="module")
def caller() -> Iterator[Caller]:
    with calling_demo() as caller:
        yield caller


def ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def day_of_events(caller: Caller, size: int) -> list[Any]:
    events: list[Any] = []
    more, page = True, 1
    while more:
        span = {"startDate": ms(TODAY - DAY), "endDate": ms(TODAY) - 1}
        body = caller.events(TEAM, **span, page=page, pageSize=size).json()
        events += body["usageEvents"]
        more, page = body["pagination"]["hasNextPage"], page + 1
    assert len(events) == body["totalUsageEventsCount"]
    return events


def nano(events: list[Any], field: str = "chargedCents") -> Decimal:
    return sum((Decimal(str(event[field])) * 10**7 for event in events), Decimal(0))


def test_walk_tells_every_event_once(caller: Caller) -> None:
    """Pages of any size tell the same events, newest first, and add up to the truth to the nano-dollar."""
    events = day_of_events(caller, 1000)
    assert events == day_of_events(caller, 237)
    moments = [int(event["timestamp"]) for event in events]
    assert moments == sorted(moments, reverse=True)
    truth = totals(caller.world.truth(TEAM, TODAY - DAY, TODAY))
    assert 300 < len(events) == truth["requests"] < 2500
    assert nano(events) == truth["cost"]
    assert (
        sum(event["tokenUsage"]["cacheReadTokens"] for event in events if "tokenUsage" in event) == truth["cache_read"]
    )


def test_events_have_the_documented_kinds(caller: Caller) -> None:
    """There are included, usage-based and failed calls; service accounts; calls with and without tokens."""
    events = day_of_events(caller, 1000)
    assert {event["kind"] for event in events} == {"Included in Business", "Usage-based", "Errored, Not Charged"}
    assert {event.get("serviceAccountId") for event in events} == {None, "sa_ciAgent", "sa_docBot"}
    for event in events:
        assert isinstance(event["timestamp"], str)
        assert event["isTokenBasedCall"] == ("tokenUsage" in event)
        assert "id" not in event
        if event["kind"] == "Errored, Not Charged":
            assert event["chargedCents"] == 0


def test_charge_is_model_cost_and_fee(caller: Caller) -> None:
    """A call by tokens is charged its model cost and Cursor's fee."""
    by_tokens = [event for event in day_of_events(caller, 1000) if "tokenUsage" in event]
    fees = nano([event for event in by_tokens if "cursorTokenFee" in event], "cursorTokenFee")
    assert nano(by_tokens) == nano([event["tokenUsage"] for event in by_tokens], "totalCents") + fees


def test_dates_are_inclusive(caller: Caller) -> None:
    """A range of one millisecond finds the event of that millisecond."""
    moment = int(day_of_events(caller, 1000)[0]["timestamp"])
    assert caller.events(TEAM, startDate=moment, endDate=moment).json()["totalUsageEventsCount"] == 1


def test_events_are_filtered_by_email(caller: Caller) -> None:
    """The e-mail filter leaves one person's events."""
    body = caller.events(TEAM, startDate=ms(TODAY - DAY), endDate=ms(TODAY), email="ben@acme.example").json()
    assert {event["userEmail"] for event in body["usageEvents"]} == {"ben@acme.example"}


def test_default_page_has_a_hundred_events(caller: Caller) -> None:
    """Without a page size a page has 100 events."""
    assert len(caller.events(TEAM, startDate=ms(TODAY - DAY), endDate=ms(TODAY)).json()["usageEvents"]) == 100


@pytest.mark.parametrize(
    ("body", "token"),
    [
        ({"startDate": ms(TODAY - 30 * DAY) - 1, "endDate": ms(TODAY)}, "30 days"),
        ({"startDate": ms(TODAY), "endDate": ms(NOW), "pageSize": 1001}, "pageSize"),
        ({"startDate": ms(TODAY)}, "endDate"),
        ({"startDate": "today", "endDate": ms(NOW)}, "startDate"),
        ({"startDate": ms(NOW), "endDate": ms(TODAY)}, "before"),
    ],
)
def test_bad_parameters_are_refused(caller: Caller, body: dict[str, object], token: str) -> None:
    """A body that the API does not take is answered with 400 and its name."""
    answer = caller.events(TEAM, **body)
    assert answer.status_code == 400
    assert token in answer.json()["message"]


def test_groups_hold_members_and_their_spend(caller: Caller) -> None:
    """Groups and the unassigned together spent what the month's events say, and know their members."""
    body = caller.get(TEAM, "/teams/groups").json()
    everyone = [*body["groups"], body["unassignedGroup"]]
    month = totals(caller.world.visible(TEAM, TODAY.replace(day=1), NOW))["cost"]
    assert sum(group["spendCents"] for group in everyone) * 10**7 == pytest.approx(month, rel=1e-9)
    emails = {member["email"] for group in everyone for member in group["currentMembers"]}
    assert {member["email"] for member in caller.get(TEAM, "/teams/members").json()["teamMembers"]} <= emails


def test_workspace_of_the_truth_is_the_callers_group(caller: Caller) -> None:
    """Events joined to groups by e-mail give the truth's workspaces."""
    groups = caller.get(TEAM, "/teams/groups").json()["groups"]
    home = {member["email"]: group["id"] for group in groups for member in group["currentMembers"]}
    spent: dict[str, int] = {}
    for event in day_of_events(caller, 1000):
        group = home.get(event["userEmail"], "")
        spent[group] = spent.get(group, 0) + 1
    truth: dict[str, int] = {}
    for _, row in caller.world.truth(TEAM, TODAY - DAY, TODAY):
        if row.meter == "requests":
            truth[row.workspace] = truth.get(row.workspace, 0) + row.value
    assert spent == truth


def test_plan_without_groups_refuses_them() -> None:
    """A plan without billing groups answers 403 there and nowhere else."""
    account = replace(demo_world(Clock()).accounts[TEAM], groups=False)
    with calling(World([account], Clock())) as caller:
        assert caller.get(TEAM, "/teams/groups").status_code == 403
        assert caller.get(TEAM, "/teams/members").status_code == 200


def test_wrong_keys_are_refused(caller: Caller) -> None:
    """An unknown key, another provider's key and no key at all are answered with 401."""
    account = caller.world.accounts[TEAM]
    for key in ("crsr_unknown", "sk-admin-demo-acme-0000"):
        sent = headers(replace(account, key=key))
        answer = caller.client.get(f"{caller.simulator.base_url(TEAM)}/teams/members", headers=sent)
        assert (answer.status_code, answer.json()["error"]) == (401, "Unauthorized")
    assert caller.client.get(f"{caller.simulator.base_url(TEAM)}/teams/members").status_code == 401


def test_late_events_appear_later() -> None:
    """Some events of an hour are told only after its end."""
    clock = Clock(TODAY + 10 * HOUR + HOUR / 6)
    with calling(demo_world(clock)) as caller:
        span = {"startDate": ms(TODAY + 9 * HOUR), "endDate": ms(TODAY + 10 * HOUR) - 1}
        early = caller.events(TEAM, **span).json()["totalUsageEventsCount"]
        clock.now += 2 * HOUR
        assert early < caller.events(TEAM, **span).json()["totalUsageEventsCount"]
