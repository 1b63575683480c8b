"""xAI: the contract, cut answers, spellings that the documentation leaves open, and the prepaid balance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from exporter.errors import KeyRejected, Malformed, Unsupported
from exporter.model import COST, DAY, HOUR, NANO, Balance, Row, Secret
from exporter.providers import create_provider
from exporter.providers.base import ClientConfig
from exporter.providers.testing import CannedServer, ContractApi, ReceivedRequest, Reply, start_canned_server
from exporter.providers.xai import Xai, XaiOptions
from exporter.simulator import xai as simulated_xai
from exporter.simulator.accounts import SimAccount, Stream
from exporter.simulator.server import Simulator
from exporter.simulator.world import World
from exporter.windows import TimeRange, slots
from tests.providers.contract import NOW, TODAY, SimulatedApi, SimulatedProviderContract
from tests.system import Clock, midnight, start_system

(USAGE,) = Xai.reports
ACCOUNT = SimAccount(
    name="acme-xai",
    provider="xai",
    owner="platform",
    key="xai-token-demo-0000",
    organization="Acme",
    streams=(
        Stream("", "grok-4.3", "", "key-web", "xai_usage", 4000),
        Stream("", "grok-4.3", "", "key-lab", "xai_usage", 400),
        Stream("", "grok-4-fast", "", "key-lab", "xai_usage", 9000, load_profile="nightly"),
    ),
    api_keys={"key-web": "web-production", "key-lab": "lab"},
    prepaid_usd=5000,
    options={"team_id": simulated_xai.TEAM},
)


class TestXaiContract(SimulatedProviderContract):
    """A team with two keys and prepaid credits."""

    provider_type = Xai
    account = ACCOUNT.name
    options = XaiOptions(team_id=simulated_xai.TEAM)
    is_paged = False

    @pytest.fixture
    def api(self) -> Iterator[ContractApi]:
        """Simulate the team."""
        with Simulator(World([ACCOUNT], lambda: NOW)) as simulator:
            yield SimulatedApi(simulator, ACCOUNT.name)

    def expected_balance(self, api: ContractApi) -> Iterable[Balance]:
        """Return what the team has left, in whole cents."""
        assert isinstance(api, SimulatedApi)
        spent = api.simulator.world.reported_cost(ACCOUNT.name) * 100 // NANO
        assert spent > 100
        return [Balance("prepaid", 5000 * NANO - spent * NANO // 100)]

    def test_every_workspace_is_listed(self, api: ContractApi) -> None:
        """The names are those of the API keys that were used: a team has no workspaces."""
        with self.connect(api) as provider:
            list(provider.fetch(USAGE, TODAY, NOW))
            assert provider.names() == {"key-web": "web-production", "key-lab": "lab"}


@contextmanager
def open_xai(
    respond: Callable[[ReceivedRequest], Reply], *, by_api_key: bool = False
) -> Iterator[tuple[Xai, CannedServer]]:
    """Open the provider against canned answers."""
    with start_canned_server(respond) as server:
        client_config = ClientConfig(Secret("xai-token-1"), server.url, by_api_key)
        with closing(create_provider(Xai, client_config, XaiOptions(team_id="a/b"))) as provider:
            assert isinstance(provider, Xai)
            yield provider, server


def make_series(group: list[str], *values: object, since: int = 0) -> dict[str, Any]:
    """Return a time series of hours of the day."""
    points = [
        {"timestamp": f"{TODAY + (since + number) * HOUR:%Y-%m-%dT%H:%M:%SZ}", "values": [value]}
        for number, value in enumerate(values)
    ]
    return {"group": group, "groupLabels": group, "dataPoints": points}


def answer_series(*series: dict[str, Any], is_cut: bool = False) -> Callable[[ReceivedRequest], Reply]:
    """Answer every request with these series."""
    return lambda _: Reply({"timeSeries": list(series), "limitReached": is_cut})


def test_money_with_many_digits_is_rounded_to_nano_usd() -> None:
    """A float of 15 digits and a text are both an amount; zero is no row."""
    series = make_series(["grok-4.3 prompt text tokens"], 0.123456789012345, "1e-9", 0)
    with open_xai(answer_series(series)) as (xai, _):
        buckets = list(xai.fetch(USAGE, TODAY, TODAY + 3 * HOUR))
    row = Row(COST, 123_456_789, model="grok-4.3", item="grok-4.3 prompt text tokens")
    assert [bucket.rows for bucket in buckets] == [(row,), (row._replace(value=1),), ()]


def test_the_request_is_as_documented() -> None:
    """The team's id is quoted in the path; the end of the range is included and in whole seconds."""
    with open_xai(answer_series(), by_api_key=True) as (xai, server):
        list(xai.fetch(USAGE, TODAY, TODAY + HOUR))
    (request,) = server.requests
    assert request.path == "/v1/billing/teams/a%2Fb/usage"
    assert request.body == {
        "analyticsRequest": {
            "timeRange": {
                "startTime": "2026-11-20 00:00:00",
                "endTime": "2026-11-20 00:59:59",
                "timezone": "Etc/GMT",
            },
            "timeUnit": "TIME_UNIT_HOUR",
            "values": [{"name": "usd", "aggregation": "AGGREGATION_SUM"}],
            "groupBy": ["description", "api_key_id"],
            "filters": [],
        }
    }


def test_a_cut_answer_is_read_in_parts() -> None:
    """Where the limit is reached, nothing of the answer is used: its range is read in two, again and again."""

    def answer(request: ReceivedRequest) -> Reply:
        times = request.body["analyticsRequest"]["timeRange"]
        first, last = (int(times[name][11:13]) for name in ("startTime", "endTime"))
        values = [float(hour + 1) for hour in range(first, last + 1)]
        series = make_series(["grok-4.3 text"], *values[:2], since=first)
        return Reply({"timeSeries": [series], "limitReached": len(values) > 2})

    with open_xai(answer) as (xai, server):
        buckets = list(xai.fetch(USAGE, TODAY, TODAY + 8 * HOUR))
    assert [row.value for bucket in buckets for row in bucket.rows] == [hour * NANO for hour in range(1, 9)]
    assert len(server.requests) == 7


def test_an_hour_that_is_cut_is_malformed() -> None:
    """An hour cannot be divided: it is never stored in part."""
    with open_xai(answer_series(is_cut=True)) as (xai, _), pytest.raises(Malformed, match="even that of a single hour"):
        list(xai.fetch(USAGE, TODAY, TODAY + 4 * HOUR))


@pytest.mark.parametrize(
    ("unit", "key"), [("hour", "api_key_id"), ("TIME_UNIT_HOUR", "apiKeyId"), ("hour", "apiKeyId")]
)
def test_the_other_spelling_is_found_once(unit: str, key: str) -> None:
    """A spelling that is rejected is replaced by the other one, which is kept and reported once."""

    def answer(request: ReceivedRequest) -> Reply:
        body = request.body["analyticsRequest"]
        is_known = (body["timeUnit"], body["groupBy"][1]) == (unit, key)
        return Reply({"timeSeries": [], "limitReached": False}) if is_known else Reply({"message": "unknown"}, 400)

    with open_xai(answer, by_api_key=True) as (xai, server):
        list(xai.fetch(USAGE, TODAY, TODAY + HOUR))
        requests = len(server.requests)
        list(xai.fetch(USAGE, TODAY, TODAY + HOUR))
        assert len(server.requests) == requests + 1
        assert xai.ambiguities.take() == [f"the usage report takes timeUnit {unit}, key {key}"]
        assert xai.ambiguities.take() == []


def test_a_request_that_is_rejected_in_every_spelling_is_malformed() -> None:
    """The first rejection is the error, and every spelling was tried once."""
    with open_xai(lambda _: Reply({"message": "no"}, 400)) as (xai, server):
        with pytest.raises(Malformed, match="answered 400"):
            list(xai.fetch(USAGE, TODAY, NOW))
        assert len(server.requests) == 2


@pytest.mark.parametrize(
    "series",
    [
        {"group": [], "dataPoints": []},
        {"group": [7], "dataPoints": []},
        {"group": ["a"], "dataPoints": [{"timestamp": "2026-11-20T00:00:00Z", "values": []}]},
        {"group": ["a"], "dataPoints": [{"timestamp": "2026-11-20T00:00:00Z", "values": ["much"]}]},
        {"group": ["a"], "dataPoints": [{"timestamp": "yesterday", "values": [1]}]},
        {"group": ["a"], "dataPoints": [{"timestamp": "2026-11-20T00:30:00Z", "values": [1]}]},
    ],
)
def test_unexpected_series_are_malformed(series: dict[str, Any]) -> None:
    """A series without a group, and a point without a value or time of its slot, are errors."""
    with open_xai(answer_series(series)) as (xai, _), pytest.raises(Malformed):
        list(xai.fetch(USAGE, TODAY, TODAY + DAY))


@pytest.mark.parametrize(
    ("answer", "balance"),
    [
        ({"total": {"val": "-925"}}, (Balance("prepaid", 9_250_000_000),)),
        ({"total": {"val": "350"}}, (Balance("prepaid", -3_500_000_000),)),
        ({"total": {}, "changes": [{"amount": {"val": "-500"}}]}, (Balance("prepaid", 0),)),
        ({"total": {"val": "0"}, "changes": []}, ()),
        ({}, ()),
    ],
)
def test_credits_are_negative_cents(answer: dict[str, Any], balance: tuple[Balance, ...]) -> None:
    """Negative cents are left, positive ones owed; a team that never bought credits has no balance."""
    with open_xai(lambda _: Reply(answer)) as (xai, _):
        assert xai.balance() == balance


def test_errors_have_advice() -> None:
    """An unknown team, an inference key and a missing permission each have their own; a plan without balance is one."""
    for status, message, reason, advice in (
        (404, "team not found", "missing_scope", "Set options.team_id to the team of the key"),
        (401, "Not a management key", "wrong_key_kind", "An inference key cannot read billing. Create a management"),
        (403, "no permission", "missing_scope", "may not read the billing of this team"),
    ):
        with open_xai(lambda _, status=status, message=message: Reply({"message": message}, status)) as (xai, _):  # type: ignore[misc]
            with pytest.raises(KeyRejected) as caught:
                list(xai.fetch(USAGE, TODAY, NOW))
            assert caught.value.reason == reason
            assert advice in caught.value.advice
    with open_xai(lambda _: Reply({"message": "Not found"}, 404)) as (xai, _), pytest.raises(Unsupported):
        xai.balance()


def test_exported_cost_equals_the_truth(tmp_path: Path) -> None:
    """Each hour and day equals what the team really spent, once late usage and corrections have been read."""
    clock = Clock()
    world = World([ACCOUNT], clock, start_time=midnight(clock.now) - 5 * DAY)
    with start_system(tmp_path, world, clock, history="5d") as system, system.run_exporter():
        system.poll_until_idle()
        before = system.nano_usd("ai_cost_30d_usd")
        world.revise(ACCOUNT.name, midnight(clock.now) - 20 * HOUR, 3.0)
        for _ in range(30):
            system.advance(HOUR)
        since, until = midnight(clock.now) - 5 * DAY, midnight(clock.now)
        number = system.polled_account(ACCOUNT.name).ledger_account.id
        truth: Counter[tuple[datetime, str]] = Counter()
        for hour, row in world.ground_truth(ACCOUNT.name, since, until):
            truth[hour, row.model] += row.value
        exported: Counter[tuple[datetime, str]] = Counter()
        for hour in slots(since, until, HOUR):
            for labels, value in system.ledger.costs.total(number, TimeRange(hour, hour + HOUR)).items():
                exported[hour, labels.model] += value
        assert exported == truth
        assert (before or 0) > 0
        assert system.value("ai_account_balance_exhaustion_timestamp_seconds") is not None
