"""Cursor's API in the simulator: events, their paging and cost, members and billing groups."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest

from exporter.model import DAY, HOUR
from exporter.simulator.world import World, demo_world
from tests.simulator.simulated import (
    NOW,
    TODAY,
    Clock,
    SimulatorClient,
    auth_headers,
    open_client,
    open_demo_client,
    sum_by_meter,
)

TEAM = "acme-cursor"


@pytest.fixture(scope="module")
def caller() -> Iterator[SimulatorClient]:
    with open_demo_client() as caller:
        yield caller


def to_milliseconds(time: datetime) -> int:
    return int(time.timestamp() * 1000)


def fetch_day_of_events(caller: SimulatorClient, size: int) -> list[Any]:
    events: list[Any] = []
    more, page = True, 1
    while more:
        span = {"startDate": to_milliseconds(TODAY - DAY), "endDate": to_milliseconds(TODAY) - 1}
        body = caller.post_events(TEAM, **span, page=page, pageSize=size).json()
        events += body["usageEvents"]
        more, page = body["pagination"]["hasNextPage"], page + 1
    assert len(events) == body["totalUsageEventsCount"]
    return events


def sum_nano_usd(events: list[Any], field: str = "chargedCents") -> Decimal:
    return sum((Decimal(str(event[field])) * 10**7 for event in events), Decimal(0))


def test_pagination_returns_every_event_once(caller: SimulatorClient) -> None:
    """Pages of any size contain the same events, newest first, and add up to the ground truth, to the nano-USD."""
    events = fetch_day_of_events(caller, 1000)
    assert events == fetch_day_of_events(caller, 237)
    moments = [int(event["timestamp"]) for event in events]
    assert moments == sorted(moments, reverse=True)
    truth = sum_by_meter(caller.world.ground_truth(TEAM, TODAY - DAY, TODAY))
    assert 300 < len(events) == truth["requests"] < 2500
    assert sum_nano_usd(events) == truth["cost"]
    assert (
        sum(event["tokenUsage"]["cacheReadTokens"] for event in events if "tokenUsage" in event) == truth["cache_read"]
    )


def test_events_have_the_documented_kinds(caller: SimulatorClient) -> None:
    """There are included, usage-based and failed calls; service accounts; calls with and without tokens."""
    events = fetch_day_of_events(caller, 1000)
    assert {event["kind"] for event in events} == {"Included in Business", "Usage-based", "Errored, Not Charged"}
    assert {event.get("serviceAccountId") for event in events} == {None, "sa_ciAgent", "sa_docBot"}
    for event in events:
        assert isinstance(event["timestamp"], str)
        assert event["isTokenBasedCall"] == ("tokenUsage" in event)
        assert "id" not in event
        if event["kind"] == "Errored, Not Charged":
            assert event["chargedCents"] == 0


def test_charge_is_model_cost_and_fee(caller: SimulatorClient) -> None:
    """A call priced by tokens costs its model price and Cursor's fee."""
    by_tokens = [event for event in fetch_day_of_events(caller, 1000) if "tokenUsage" in event]
    fees = sum_nano_usd([event for event in by_tokens if "cursorTokenFee" in event], "cursorTokenFee")
    assert sum_nano_usd(by_tokens) == sum_nano_usd([event["tokenUsage"] for event in by_tokens], "totalCents") + fees


def test_dates_are_inclusive(caller: SimulatorClient) -> None:
    """A range of one millisecond contains the event of that millisecond."""
    moment = int(fetch_day_of_events(caller, 1000)[0]["timestamp"])
    assert caller.post_events(TEAM, startDate=moment, endDate=moment).json()["totalUsageEventsCount"] == 1


def test_events_are_filtered_by_email(caller: SimulatorClient) -> None:
    """The e-mail filter selects the events of one person."""
    body = caller.post_events(
        TEAM, startDate=to_milliseconds(TODAY - DAY), endDate=to_milliseconds(TODAY), email="ben@acme.example"
    ).json()
    assert {event["userEmail"] for event in body["usageEvents"]} == {"ben@acme.example"}


def test_default_page_has_a_hundred_events(caller: SimulatorClient) -> None:
    """Without a page size a page has 100 events."""
    assert (
        len(
            caller.post_events(TEAM, startDate=to_milliseconds(TODAY - DAY), endDate=to_milliseconds(TODAY)).json()[
                "usageEvents"
            ]
        )
        == 100
    )


@pytest.mark.parametrize(
    ("body", "token"),
    [
        ({"startDate": to_milliseconds(TODAY - 30 * DAY) - 1, "endDate": to_milliseconds(TODAY)}, "30 days"),
        ({"startDate": to_milliseconds(TODAY), "endDate": to_milliseconds(NOW), "pageSize": 1001}, "pageSize"),
        ({"startDate": to_milliseconds(TODAY)}, "endDate"),
        ({"startDate": "today", "endDate": to_milliseconds(NOW)}, "startDate"),
        ({"startDate": to_milliseconds(NOW), "endDate": to_milliseconds(TODAY)}, "before"),
    ],
)
def test_bad_parameters_are_rejected(caller: SimulatorClient, body: dict[str, object], token: str) -> None:
    """An invalid field of the body is answered with 400 and its name."""
    answer = caller.post_events(TEAM, **body)
    assert answer.status_code == 400
    assert token in answer.json()["message"]


def test_groups_hold_members_and_their_spend(caller: SimulatorClient) -> None:
    """The cost of all groups and of unassigned members is that of the month's events; groups list their members."""
    body = caller.get(TEAM, "/teams/groups").json()
    everyone = [*body["groups"], body["unassignedGroup"]]
    month = sum_by_meter(caller.world.reported_rows(TEAM, TODAY.replace(day=1), NOW))["cost"]
    assert sum(group["spendCents"] for group in everyone) * 10**7 == pytest.approx(month, rel=1e-9)
    emails = {member["email"] for group in everyone for member in group["currentMembers"]}
    assert {member["email"] for member in caller.get(TEAM, "/teams/members").json()["teamMembers"]} <= emails


def test_workspace_of_the_truth_is_the_callers_group(caller: SimulatorClient) -> None:
    """Events joined with groups by e-mail address have the workspaces of the ground truth."""
    groups = caller.get(TEAM, "/teams/groups").json()["groups"]
    home = {member["email"]: group["id"] for group in groups for member in group["currentMembers"]}
    spent: dict[str, int] = {}
    for event in fetch_day_of_events(caller, 1000):
        group = home.get(event["userEmail"], "")
        spent[group] = spent.get(group, 0) + 1
    truth: dict[str, int] = {}
    for _, row in caller.world.ground_truth(TEAM, TODAY - DAY, TODAY):
        if row.meter == "requests":
            truth[row.workspace] = truth.get(row.workspace, 0) + row.value
    assert spent == truth


def test_plan_without_groups_rejects_them() -> None:
    """A plan without billing groups answers 403 there and nowhere else."""
    account = replace(demo_world(Clock()).accounts[TEAM], has_billing_groups=False)
    with open_client(World([account], Clock())) as caller:
        assert caller.get(TEAM, "/teams/groups").status_code == 403
        assert caller.get(TEAM, "/teams/members").status_code == 200


def test_wrong_keys_are_rejected(caller: SimulatorClient) -> None:
    """An unknown key, another provider's key and no key at all are answered with 401."""
    account = caller.world.accounts[TEAM]
    for key in ("crsr_unknown", "sk-admin-demo-acme-0000"):
        sent = auth_headers(replace(account, key=key))
        answer = caller.client.get(f"{caller.simulator.base_url(TEAM)}/teams/members", headers=sent)
        assert (answer.status_code, answer.json()["error"]) == (401, "Unauthorized")
    assert caller.client.get(f"{caller.simulator.base_url(TEAM)}/teams/members").status_code == 401


def test_late_events_appear_later() -> None:
    """Some events of an hour are reported only after its end."""
    clock = Clock(TODAY + 10 * HOUR + HOUR / 6)
    with open_client(demo_world(clock)) as caller:
        span = {"startDate": to_milliseconds(TODAY + 9 * HOUR), "endDate": to_milliseconds(TODAY + 10 * HOUR) - 1}
        early = caller.post_events(TEAM, **span).json()["totalUsageEventsCount"]
        clock.now += 2 * HOUR
        assert early < caller.post_events(TEAM, **span).json()["totalUsageEventsCount"]
