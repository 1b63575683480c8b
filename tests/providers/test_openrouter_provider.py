"""OpenRouter: the contract, names read from the API, truncated answers, closed days, own keys and credits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from exporter.errors import KeyRejected, Malformed, Unavailable, Unsupported
from exporter.model import COST, DAY, HOUR, NANO, Balance, Bucket, Row, Secret
from exporter.providers import create_provider
from exporter.providers.base import ClientConfig
from exporter.providers.openrouter import OpenRouter, OpenRouterOptions
from exporter.providers.testing import CannedServer, ContractApi, ReceivedRequest, Reply, start_canned_server
from exporter.simulator.accounts import SimAccount, Stream
from exporter.simulator.openrouter import BILL_DELAY, REPORT
from exporter.simulator.server import Simulator
from exporter.simulator.world import World
from exporter.windows import TimeRange, slots
from tests.providers.contract import NOW, TODAY, SimulatedApi, SimulatedProviderContract
from tests.system import Clock, midnight, start_system

ANALYTICS, ACTIVITY = OpenRouter.reports
ACCOUNT = SimAccount(
    name="acme-openrouter",
    provider="openrouter",
    owner="platform",
    key="sk-or-v1-demo-0000",
    organization="Acme",
    streams=(
        Stream("0d0c-web", "gpt-5.4-2026-03-05", "OpenAI", "key-web", REPORT, 900),
        Stream("0d0c-web", "claude-sonnet-5", "Anthropic", "key-web", REPORT, 400),
        Stream("0d0c-lab", "gpt-5-2025-08-07", "Azure", "key-lab", REPORT, 300, load_profile="nightly"),
    ),
    workspaces={"0d0c-web": "Web", "0d0c-lab": "Lab"},
    bill_delay=BILL_DELAY,
    prepaid_usd=9000,
)


class TestOpenRouterContract(SimulatedProviderContract):
    """An organization with two workspaces and three upstream providers."""

    provider_type = OpenRouter
    account = ACCOUNT.name
    is_paged = False

    @pytest.fixture
    def api(self) -> Iterator[ContractApi]:
        """Simulate the organization."""
        with Simulator(World([ACCOUNT], lambda: NOW)) as simulator:
            yield SimulatedApi(simulator, ACCOUNT.name)

    def expected_balance(self, api: ContractApi) -> Iterable[Balance]:
        """Return what is left after thirty billed days."""
        assert isinstance(api, SimulatedApi)
        world = api.simulator.world
        days = [TODAY - number * DAY for number in range(1, 31)]
        spent = sum(row.value for day in days for row in world.bill(ACCOUNT.name, day))
        assert spent > NANO
        return [Balance("prepaid", 9000 * NANO - spent)]

    def test_a_failed_page_returns_nothing(self, api: ContractApi) -> None:
        """When a part of a range that is read in parts fails, no bucket of the parts before it is returned."""
        assert isinstance(api, SimulatedApi)
        with self.connect(api) as provider:
            # Thirty days have more rows than an answer may have.
            buckets = provider.fetch(ANALYTICS, TODAY - 30 * DAY, NOW)
            list(buckets)
            parts = [logged.status for logged in api.simulator.requests if logged.path.endswith("query")]
            assert len(parts) > 2
            api.simulator.add_fault(ACCOUNT.name, "server_error", path="query")
            with pytest.raises(Unavailable):
                next(provider.fetch(ANALYTICS, TODAY - 30 * DAY, NOW))

    def test_every_line_of_the_bill_is_understood(self, api: ContractApi) -> None:
        """A line pays for all of a model's usage in a workspace at one upstream provider."""
        for bucket in self.fetch_days(api, ACTIVITY, 8)[:-1]:
            labels = {(row.workspace, row.model, row.tier) for row in bucket.rows}
            assert labels == {(stream.workspace, stream.model, stream.tier) for stream in ACCOUNT.streams}

    def test_time_before_any_usage_has_empty_buckets(self, api: ContractApi) -> None:
        """Buckets are oldest first, as far back as the provider answers; today is not in the bill."""
        for report in OpenRouter.reports:
            buckets = self.fetch_days(api, report, 32)
            assert buckets[0].start == TODAY - 30 * DAY
        assert buckets[-1] == Bucket("activity", TODAY, TODAY + DAY, ())

    def test_every_workspace_is_listed(self, api: ContractApi) -> None:
        """Analytics shows the names of workspaces, and the rows have their ids."""
        with self.connect(api) as provider:
            assert provider.names() == ACCOUNT.workspaces
        workspaces = {row.workspace for bucket in self.fetch_days(api, ANALYTICS, 2) for row in bucket.rows}
        assert workspaces == ACCOUNT.workspaces.keys()


META: dict[str, Any] = {
    "metrics": [{"name": name} for name in ("request_count", "tokens_prompt", "tokens_cached", "tokens_completion")],
    "dimensions": [{"name": "model"}, {"name": "workspace"}],
}


def make_row(hour: int = 0, **fields: object) -> dict[str, Any]:
    """Return a row of an hour of the day."""
    counts = {"request_count": 2, "tokens_prompt": 100, "tokens_cached": 40, "tokens_completion": 7}
    return {"date": f"{TODAY + hour * HOUR:%Y-%m-%dT%H:%M:%SZ}", "model": "m", "workspace": "Web", **counts, **fields}


def make_responder(
    *rows: dict[str, Any], meta: dict[str, Any] = META, max_rows: int = 1000, activity: object = ()
) -> Callable[[ReceivedRequest], Reply]:
    """Answer as the API does, with these rows of analytics in the requested range."""

    def respond(request: ReceivedRequest) -> Reply:
        data: object
        if request.path == "/analytics/meta":
            data = meta
        elif request.path == "/workspaces":
            data = [{"id": "w1", "name": "Web"}]
        elif request.path == "/activity":
            data = activity
        else:
            start, end = (datetime.fromisoformat(request.body["time_range"][name]) for name in ("start", "end"))
            found = [row for row in rows if "date" not in row or start <= datetime.fromisoformat(row["date"]) < end]
            data = {"data": found[:max_rows], "metadata": {"truncated": len(found) > max_rows}}
        return Reply({"data": data})

    return respond


@contextmanager
def open_openrouter(
    respond: Callable[[ReceivedRequest], Reply], *, byok: bool = False
) -> Iterator[tuple[OpenRouter, CannedServer]]:
    """Open the provider against canned answers."""
    with start_canned_server(respond) as server:
        client_config = ClientConfig(Secret("sk-or-v1-1"), server.url)
        with closing(create_provider(OpenRouter, client_config, OpenRouterOptions(byok=byok))) as provider:
            assert isinstance(provider, OpenRouter)
            yield provider, server


def fetch_values(respond: Callable[[ReceivedRequest], Reply], hours: int = 1) -> list[dict[str, int]]:
    """Return meter -> value of the first hours of the day."""
    with open_openrouter(respond) as (openrouter, _):
        buckets = list(openrouter.fetch(ANALYTICS, TODAY, TODAY + hours * HOUR))
    return [{row.meter: row.value for row in bucket.rows} for bucket in buckets]


def test_cached_tokens_are_a_part_of_the_prompt() -> None:
    """Meters are disjoint; more cached tokens than the prompt has, from an answer's cache, count as the prompt."""
    assert fetch_values(make_responder(make_row(), make_row(1, tokens_cached=900)), 2) == [
        {"uncached_input": 60, "cache_read": 40, "output": 7, "requests": 2},
        {"cache_read": 100, "output": 7, "requests": 2},
    ]


def test_a_truncated_answer_is_read_in_parts() -> None:
    """Nothing of a truncated answer is used; the range that was short enough is remembered."""
    rows = [make_row(hour, request_count=hour + 1) for hour in range(8)]
    with open_openrouter(make_responder(*rows, max_rows=2)) as (openrouter, server):
        buckets = list(openrouter.fetch(ANALYTICS, TODAY, TODAY + 8 * HOUR))
        assert [row.value for bucket in buckets for row in bucket.rows if row.meter == "requests"] == [*range(1, 9)]
        queries = [request for request in server.requests if request.path == "/analytics/query"]
        assert len(queries) == 2 + 4
        list(openrouter.fetch(ANALYTICS, TODAY, TODAY + 8 * HOUR))
        assert len(server.requests) == 2 + len(queries) + 4


def test_an_hour_that_is_truncated_is_malformed() -> None:
    """An hour is never stored in part."""
    with pytest.raises(Malformed, match="even that of a single hour"):
        fetch_values(make_responder(make_row(), make_row(), max_rows=1), 4)


def test_other_spellings_are_found_and_unknown_metrics_ignored() -> None:
    """Names come from the API; which were chosen is reported once, and rates are never added up."""
    names = ("requests", "prompt_tokens", "completion_tokens", "sparkle")
    rate = {"name": "tokens_prompt", "is_rate": True}
    meta = {"metrics": [rate, *({"name": name} for name in names)], "dimensions": [{"name": "model_permaslug"}]}
    row = {"hour": "2026-11-20T00:00:00Z", "model_permaslug": "m", "requests": 1}
    row |= {"prompt_tokens": 5, "completion_tokens": 3}
    with open_openrouter(make_responder(row, meta=meta)) as (openrouter, server):
        for _ in range(2):
            (bucket,) = openrouter.fetch(ANALYTICS, TODAY, TODAY + HOUR)
            assert {(r.meter, r.value) for r in bucket.rows} == {("requests", 1), ("uncached_input", 5), ("output", 3)}
        query = next(request for request in server.requests if request.path == "/analytics/query")
        assert query.body["metrics"] == ["requests", "prompt_tokens", "completion_tokens"]
        assert openrouter.ambiguities.take() == [
            "analytics calls requests requests",
            "analytics calls prompt prompt_tokens",
            "analytics calls completion completion_tokens",
            "the hour of a row of analytics is in the field hour",
        ]
        assert sum(request.path == "/analytics/meta" for request in server.requests) == 1


@pytest.mark.parametrize(
    ("meta", "row", "message"),
    [
        ({**META, "metrics": [{"name": "latency"}]}, make_row(), "analytics has none of request_count, requests"),
        ({**META, "dimensions": []}, make_row(), "analytics has none of model_permaslug, model"),
        (META, {"model": "m", "tokens_prompt": 1}, "a row of analytics has no time"),
        (META, make_row(tokens_prompt="many"), "tokens_prompt is a str"),
        (META, make_row(date="2026-11-20T00:30:00Z"), "a bucket starts inside a slot"),
    ],
)
def test_unusable_analytics_are_malformed(meta: dict[str, Any], row: dict[str, Any], message: str) -> None:
    """A missing metric, dimension or time, and another granularity, each have their own message."""
    with pytest.raises(Malformed, match=message):
        fetch_values(make_responder(row, meta=meta))


def test_names_are_read_again_after_a_rejected_query() -> None:
    """A metric may be withdrawn while the exporter runs."""
    answers = iter([400, 200])
    respond = make_responder(make_row())

    def reject_once(request: ReceivedRequest) -> Reply:
        is_query = request.path == "/analytics/query"
        return (
            Reply({"error": {"message": "unknown metric"}}, 400)
            if is_query and next(answers) == 400
            else respond(request)
        )

    with open_openrouter(reject_once) as (openrouter, server):
        with pytest.raises(Malformed, match="answered 400"):
            list(openrouter.fetch(ANALYTICS, TODAY, TODAY + HOUR))
        list(openrouter.fetch(ANALYTICS, TODAY, TODAY + HOUR))
        assert sum(request.path == "/analytics/meta" for request in server.requests) == 2


def make_activity(usage: object, day: datetime = TODAY - DAY, **fields: object) -> dict[str, Any]:
    """Return a row of the activity of a day."""
    usual = {"model": "a/m", "model_permaslug": "a/m-2026", "provider_name": "OpenAI", "workspace_id": "w1"}
    return {"date": f"{day:%Y-%m-%d}", "usage": usage, "byok_usage_inference": 0, **usual, **fields}


def test_money_with_many_digits_is_rounded_to_nano_usd() -> None:
    """A float of 15 digits is an amount; what upstream providers charge is counted on request only, as its own item."""
    entry = make_activity(0.123456789012345, byok_usage_inference=2.5)
    row = Row(COST, 123_456_789, "w1", "a/m-2026", "OpenAI", item="a/m-2026")
    for byok, rows in ((False, (row,)), (True, (row, row._replace(value=2_500_000_000, item="a/m-2026 (BYOK)")))):
        with open_openrouter(make_responder(activity=[entry]), byok=byok) as (openrouter, server):
            (bucket,) = openrouter.fetch(ACTIVITY, TODAY - DAY, TODAY)
            assert sorted(bucket.rows) == sorted(rows)
            assert server.requests[0].query == {"group_by": ["workspace"], "date": ["2026-11-19"]}


def test_the_running_day_is_not_requested() -> None:
    """Several days are one request without a date; the running day is empty, alone without a request."""
    entries = [make_activity(1), make_activity(2, TODAY)]
    with open_openrouter(make_responder(activity=entries)) as (openrouter, server):
        buckets = list(openrouter.fetch(ACTIVITY, TODAY - 2 * DAY, NOW))
        assert [sum(row.value for row in bucket.rows) for bucket in buckets] == [0, NANO, 0]
        assert "date" not in server.requests[0].query
        list(openrouter.fetch(ACTIVITY, TODAY, NOW))
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("bought", "used", "balance"),
    [(100.5, 25.25, (75_250_000_000,)), (10, 12.5, (-2_500_000_000,)), (5, 5, (0,)), (0, 0, ())],
)
def test_credits(bought: float, used: float, balance: tuple[int, ...]) -> None:
    """Credits below zero are a negative balance; an organization that never bought any has none."""
    answer = Reply({"data": {"total_credits": bought, "total_usage": used}})
    with open_openrouter(lambda _: answer) as (openrouter, _):
        assert openrouter.balance() == tuple(Balance("prepaid", value) for value in balance)


def test_errors_have_advice() -> None:
    """A key for requests, a missing permission and a withdrawn beta are distinguished."""
    for status, message, reason in (
        (403, "Only management keys can fetch activity for an account", "wrong_key_kind"),
        (403, "Forbidden", "missing_scope"),
        (401, "User not found", "key_rejected"),
    ):
        answer = Reply({"error": {"code": status, "message": message}}, status)
        with open_openrouter(lambda _, answer=answer: answer) as (openrouter, _):  # type: ignore[misc]
            with pytest.raises(KeyRejected) as caught:
                list(openrouter.fetch(ANALYTICS, TODAY, NOW))
            assert caught.value.reason == reason
            assert "Create a management key: openrouter.ai/settings/management-keys" in caught.value.advice
    with open_openrouter(lambda _: Reply({}, 404)) as (openrouter, _), pytest.raises(Unsupported):
        list(openrouter.fetch(ANALYTICS, TODAY, NOW))


def test_a_key_for_requests_is_recognised_by_verify() -> None:
    """Both names of the field are accepted."""
    for field, is_good in (("is_management_key", True), ("is_provisioning_key", True), ("limit", False)):
        answer = Reply({"data": {"label": "exporter", field: True}})
        with open_openrouter(lambda _, answer=answer: answer) as (openrouter, _):  # type: ignore[misc]
            if is_good:
                assert openrouter.verify() == "ok, management key exporter"
            else:
                with pytest.raises(KeyRejected, match="the key is not a management key"):
                    openrouter.verify()


def test_exported_usage_and_cost_equal_the_truth(tmp_path: Path) -> None:
    """Hours equal the truth once late usage is reported, days the bill, also after both were corrected."""
    clock = Clock()
    world = World([ACCOUNT], clock, start_time=midnight(clock.now) - 5 * DAY)
    with start_system(tmp_path, world, clock, history="5d") as system, system.run_exporter():
        system.poll_until_idle()
        today = midnight(clock.now)
        world.revise(ACCOUNT.name, today - 20 * HOUR, 3.0)
        world.restate(ACCOUNT.name, today - 2 * DAY, 1.5)
        for _ in range(32):
            system.advance(HOUR)
        number = system.polled_account(ACCOUNT.name).ledger_account.id
        days = TimeRange(today - 5 * DAY, today + DAY)
        truth: Counter[tuple[datetime, str, str, str, str]] = Counter()
        for hour, row in world.ground_truth(ACCOUNT.name, days.start, days.end):
            truth[hour, row.workspace, row.model, row.tier, row.meter] += row.value
        exported: Counter[tuple[datetime, str, str, str, str]] = Counter()
        for hour in slots(days.start, days.end, HOUR):
            units = system.ledger.buckets.units(number, ["analytics"], TimeRange(hour, hour + HOUR))
            for labels, value in units.items():
                exported[hour, labels.workspace, labels.model, labels.tier, labels.meter] += value
        assert exported == truth
        for day in slots(days.start, days.end, DAY):
            cost: Counter[tuple[str, str]] = Counter()
            for labels, value in system.ledger.costs.total(number, TimeRange(day, day + DAY)).items():
                cost[labels.workspace, labels.model] += value
            bill: Counter[tuple[str, str]] = Counter()
            for row in world.bill(ACCOUNT.name, day):
                bill[row.workspace, row.model] += row.value
            assert cost == bill, day
        assert all(day.billed for day in system.ledger.costs.days(number, days))
        assert system.problems(ACCOUNT.name) == set()
        spent = sum(row.value for day in slots(days.start, days.end, DAY) for row in world.bill(ACCOUNT.name, day))
        assert system.nano_usd("ai_account_balance_usd", type="prepaid") == 9000 * NANO - spent
        assert clock.now - today > DAY + timedelta(hours=8)
