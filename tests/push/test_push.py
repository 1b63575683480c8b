"""Pushed events: responses to clients, and how they are exported."""

from __future__ import annotations

import gzip
import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from exporter.app import App, Dependencies
from exporter.config.configuration import Ingest, load
from exporter.model import DAY, HOUR
from exporter.pricing.list_prices import Rates, list_rates
from exporter.providers import PROVIDERS
from exporter.push.service import EVENTS_BURST, PushService
from exporter.simulator.server import Simulator
from exporter.simulator.world import World
from tests.command import wait_until
from tests.history.ledger_days import EQUAL, decode_read_response, encode_read_request
from tests.system import NOON, Clock, System, make_account, start_system
from tests.web_server import ManualClock, serve

EVENT_PATH, BATCH_PATH, CHANGES_PATH = "/api/v1/ai/usage/events", "/api/v1/ai/usage/events/batch", "/api/v1/ai/changes"
TOKEN, OTHER_TOKEN = "gateway-token-5f1c8e2b", "witness-token-9a7d3c41"
MINUTE = timedelta(minutes=1)


def _make_event(ago: timedelta = MINUTE, **fields: Any) -> dict[str, Any]:
    """Return an event of 100 input and 20 output tokens of a model with a list price."""
    event: dict[str, Any] = {
        "provider": "bedrock",
        "model": "claude-sonnet-4-5",
        "timestamp": (NOON - ago).isoformat(),
        "promptTokens": 100,
        "completionTokens": 20,
    }
    return event | fields


def _write_token(folder: Path, name: str, token: str) -> None:
    path = folder / f"{name}.token"
    path.touch(mode=0o600)
    path.write_text(token + "\n")


def _change_config(system: System, update: Callable[[dict[str, Any]], None]) -> None:
    """Edit the configuration file and apply it."""
    document = yaml.safe_load(system.config.path.read_text())
    update(document)
    system.config.path.write_text(yaml.safe_dump(document))
    system.config = load(system.config.path, PROVIDERS)
    system.app.apply(system.config)


def _write_sources(folder: Path, **watcher: str) -> dict[str, Any]:
    """Write the tokens of two sources, gateway and watcher; return the section `ingest` of the configuration."""
    _write_token(folder, "gateway", TOKEN)
    _write_token(folder, "watcher", OTHER_TOKEN)
    gateway = {"name": "gateway", "token_file": "gateway.token", "owner": "platform"}
    return {"sources": [gateway, {"name": "watcher", "token_file": "watcher.token", **watcher}]}


@contextmanager
def _prepare_system(folder: Path) -> Iterator[System]:
    """Prepare a system of two sources and no polled account; it does not run yet."""
    clock = Clock()
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({"ingest": _write_sources(folder)}))
    world = World([], clock)
    with Simulator(world) as simulator:
        yield System(folder, clock, world, simulator, load(path, PROVIDERS))


@pytest.fixture(name="system")
def _system(tmp_path: Path) -> Iterator[System]:
    """Two sources, no polled account."""
    with _prepare_system(tmp_path) as system, system.run_exporter():
        yield system


@pytest.fixture(scope="module", name="shared_system")
def _shared_system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Two sources; for requests that store nothing."""
    with _prepare_system(tmp_path_factory.mktemp("push")) as system, system.run_exporter():
        yield system


@pytest.fixture(name="polled_system")
def _polled_system(tmp_path: Path) -> Iterator[System]:
    """A polled account, a source, and a source that is a crosscheck of the account."""
    clock = Clock()
    with start_system(tmp_path, World([make_account("anthropic")], clock), clock, history="2d") as system:
        document = yaml.safe_load(system.config.path.read_text())
        document["ingest"] = _write_sources(tmp_path, crosscheck_of="solo")
        system.config.path.write_text(yaml.safe_dump(document))
        system.config = load(system.config.path, PROVIDERS)
        with system.run_exporter():
            system.poll_until_idle()
            yield system


def _post(system: System, body: object, path: str = EVENT_PATH, token: str = TOKEN, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(system.url + path, content=content, headers={"authorization": f"Bearer {token}", **headers})


def _status_and_body(response: httpx.Response) -> tuple[int, Any]:
    return response.status_code, response.json()


def _push_service(system: System) -> PushService:
    service = system.app.handlers().push
    assert service is not None
    return service


def _wait_until_exported(system: System) -> None:
    """Tick until /metrics has all events. After each refresh the service pauses for a moment."""
    service = _push_service(system)

    def exported() -> bool:
        system.app.tick()
        return service.up_to_date

    wait_until("all events exported", exported, timeout=60)
    system.poll_until_idle()


def test_an_event_is_exported_like_polled_usage(system: System) -> None:
    """The source is the label account; provider, workspace, model, tier, cost, tokens and requests are the event's."""
    event = _make_event(
        workspace="Search", tier="batch", costUsd=0.25, cacheReadTokens=30, cacheWriteTokens=10, requests=2
    )
    assert _status_and_body(_post(system, event)) == (202, {"status": "accepted"})
    _wait_until_exported(system)
    labels = {"provider": "bedrock", "account": "gateway", "workspace": "Search", "tier": "batch"}
    assert system.value("ai_cost_today_usd", **labels) == 0.25
    tokens = {kind: system.value("ai_tokens_today", type=kind, **labels) for kind in ("uncached_input", "cache_read")}
    assert tokens == {"uncached_input": 60, "cache_read": 30}
    assert system.value("ai_tokens_today", type="cache_write", **labels) == 10
    assert system.value("ai_tokens_today", type="output", **labels) == 20
    assert system.value("ai_requests_today", **labels) == 2
    assert system.value("ai_account_info", account="gateway", owner="platform") == 1
    assert system.value("ai_account_up", account="gateway") == 1


def test_an_event_without_a_cost_is_priced(system: System) -> None:
    """Without costUsd, tokens have list prices, beside events of the model with a cost; unknown models are unpriced."""
    million: dict[str, Any] = {"promptTokens": 1_000_000, "completionTokens": 0, "provider": "anthropic"}
    _post(
        system,
        [_make_event(**million), _make_event(**million, costUsd="0.000000001"), _make_event(model="our-own")],
        BATCH_PATH,
    )
    _wait_until_exported(system)
    assert system.nano_usd("ai_cost_today_usd", account="gateway", provider="anthropic") == 3_000_000_001
    assert system.value("ai_account_unpriced_tokens", account="gateway", model="our-own") == 120


def test_negotiated_prices_apply_to_sources(system: System) -> None:
    """Negotiated prices of a source override list prices."""
    price = {"model": "our-*", "meter": "output", "usd_per_million": 50}
    _change_config(system, lambda document: document["ingest"]["sources"][0].update(prices=[price]))
    _post(system, _make_event(model="our-own", completionTokens=1_000_000))
    _wait_until_exported(system)
    assert system.value("ai_cost_today_usd", account="gateway", model="our-own") == 50


def test_an_api_key_is_exported_by_name_only(system: System) -> None:
    """The name of a key is a label if the source has labels: [api_key]; a key instead of its name is redacted."""
    names = ["Search-Prod-2026-eu-west", "sk-proj-3nM8bV5cR2Zq7wX9kT", "9aF3kQ8zL1mN7vB2xC6d"]
    _post(system, [_make_event(apiKey=name) for name in names], BATCH_PATH)
    _wait_until_exported(system)
    assert system.value("ai_requests_today", account="gateway") == 3
    _change_config(system, lambda document: document["ingest"]["sources"][0].update(labels=["api_key"]))
    _post(system, [_make_event(apiKey=name) for name in names], BATCH_PATH)
    _wait_until_exported(system)
    requests = {
        name: system.value("ai_requests_today", account="gateway", api_key=name) for name in [*names, "<secret>"]
    }
    assert list(requests.values()) == [1, None, None, 2]


def test_the_same_id_is_counted_once(system: System) -> None:
    """The same event again is a duplicate, also in snake_case; a different event with its id is a conflict."""
    event = _make_event(id="call-1")
    assert _status_and_body(_post(system, event)) == (202, {"status": "accepted"})
    assert _status_and_body(_post(system, event)) == (202, {"status": "duplicate"})
    conflict = _post(system, event | {"promptTokens": 101})
    assert _status_and_body(conflict) == (409, {"error": "this id was used by a different event before"})
    event["prompt_tokens"] = event.pop("promptTokens")
    assert _status_and_body(_post(system, event)) == (202, {"status": "duplicate"})
    _wait_until_exported(system)
    assert system.value("ai_tokens_today", account="gateway") == 120


@pytest.mark.parametrize("update", [{"labels": ["api_key"]}, {"max_series": 1}, {"owner": "data"}], ids=str)
def test_a_duplicate_is_recognized_after_a_configuration_change(system: System, update: dict[str, Any]) -> None:
    """Whether an event is a duplicate or a conflict depends on its content, not on how the source is configured."""
    known = [_make_event(id=f"call-{number}", model=f"m{number}", apiKey="search") for number in range(11)]
    assert _post(system, known, BATCH_PATH).json()["accepted"] == 11
    late = _make_event(id="late", model="late", apiKey="search")

    def remove_update(document: dict[str, Any]) -> None:
        for key in update:
            document["ingest"]["sources"][0].pop(key, None)

    _change_config(system, lambda document: document["ingest"]["sources"][0].update(update))
    assert _post(system, late).json() == {"status": "accepted"}
    for _ in range(2):
        result = _post(system, [*known, late], BATCH_PATH).json()
        assert (result["duplicate"], result["rejected"]) == (12, [])
        assert _post(system, late | {"apiKey": "other"}).status_code == 409
        assert _post(system, late | {"costUsd": 0}).status_code == 409
        _change_config(system, remove_update)  # Back to the first configuration.


def test_an_event_is_a_duplicate_however_it_is_written(system: System) -> None:
    """Defaults, time zones and forms of a number make no difference between two events."""
    event = _make_event(id="call-1", costUsd=0.25)
    assert _post(system, event).json() == {"status": "accepted"}
    for other in ({"costUsd": "0.250"}, {"requests": 1.0, "tier": ""}, {"timestamp": (NOON - MINUTE).timestamp()}):
        assert _post(system, event | other).json() == {"status": "duplicate"}


def test_an_event_that_an_earlier_version_stored_is_a_duplicate(system: System) -> None:
    """Earlier digests were of the stored labels, which cannot be compared: such an event is recognized by its id."""
    event = _make_event(id="call-1")
    assert _post(system, event).json() == {"status": "accepted"}
    with sqlite3.connect(next(system.folder.rglob("*.db"))) as db:
        # The content digest of an earlier version had twelve characters.
        assert db.execute("UPDATE event SET content = ?", ("AbCdEf-_0123",)).rowcount == 1
    assert _post(system, event).json() == {"status": "duplicate"}


def test_a_compressed_push_is_accepted(system: System) -> None:
    """A body may be compressed with gzip; its limit applies to the decompressed body too."""
    change = {"title": "deploy", "time": NOON.timestamp()}
    bodies = {EVENT_PATH: _make_event(), BATCH_PATH: [_make_event()], CHANGES_PATH: change}
    for path, body in bodies.items():
        compressed = gzip.compress(json.dumps(body).encode())
        assert _post(system, compressed, path, **{"content-encoding": "gzip"}).status_code == 202
        too_long = gzip.compress(json.dumps(body).encode() + b" " * (2 << 20))
        response = _post(system, too_long, path, **{"content-encoding": "gzip"})
        assert (response.status_code, "bytes at most" in response.json()["error"]) == (413, True)
        assert _post(system, compressed, path, **{"content-encoding": "br"}).status_code == 415


def test_a_request_with_an_idempotency_key_is_counted_once(system: System) -> None:
    """Events without ids are identified by their position in a request with a key; without a key all are counted."""
    events = [_make_event(), _make_event(), _make_event(id="own")]
    for outcome in ("accepted", "duplicate"):
        response = _post(system, events, BATCH_PATH, **{"idempotency-key": "job-7"}).json()
        assert response[outcome] == 3
    assert _post(system, events[:2], BATCH_PATH, **{"idempotency-key": "job-8"}).json()["accepted"] == 2
    assert _post(system, events[:2], BATCH_PATH).json()["accepted"] == 2
    _wait_until_exported(system)
    assert system.value("ai_requests_today", account="gateway") == 7


def test_valid_events_of_a_batch_are_accepted(system: System) -> None:
    """Invalid events are listed by index and reason with 207, the others are counted, in camelCase or snake_case."""
    snake = {"provider": "vertex", "model": "gemini-3-pro", "timestamp": NOON.timestamp(), "completion_tokens": 5.0}
    invalid = [
        (_make_event(promptTokens=-1), "promptTokens must be at least 0"),
        (_make_event(tokens=1), '"tokens" is unknown'),
        (_make_event(link="x"), '"link" is unknown'),
        (_make_event(promptTokens=1.5), "promptTokens: expected a whole number, got 1.5"),
        (_make_event(completionToken=1), '"completionToken" is unknown; did you mean completionTokens?'),
        (_make_event(model=""), "model must have at least 1 characters"),
        (_make_event(provider="Bedrock"), 'provider: "Bedrock" does not match'),
        (_make_event(costUsd=-1), "costUsd: expected USD from 0 to 10000, got -1"),
        (_make_event(currency="EUR"), 'currency: expected "USD", got "EUR"'),
        (_make_event(timestamp="yesterday"), "timestamp: expected a time such as 2026-11-21T10:15:00Z"),
        (_make_event(timestamp="2026-11-18T12:00:00"), "timestamp: expected a time such as"),
        (_make_event(cacheReadTokens=101), "parts of promptTokens, and are more than it"),
        (_make_event(workspace="a\nb"), "workspace: has a line break or another character that is not printable"),
        (_make_event(ago=-6 * MINUTE), "timestamp is more than 5 minutes in the future"),
        (_make_event(ago=36 * DAY), "timestamp is more than 35 days ago"),
        (7, "it: expected an object, got 7"),
    ]
    status, result = _status_and_body(
        _post(system, {"events": [snake, *(event for event, _ in invalid), _make_event()]}, BATCH_PATH)
    )
    assert (status, result["accepted"], result["duplicate"]) == (207, 2, 0)
    assert [rejected["index"] for rejected in result["rejected"]] == list(range(1, len(invalid) + 1))
    for rejected, (_, reason) in zip(result["rejected"], invalid, strict=True):
        assert reason in rejected["reason"], rejected
        assert rejected["status"] == 422
    _wait_until_exported(system)
    assert system.value("ai_tokens_today", account="gateway") == 125


@pytest.mark.parametrize(
    ("path", "body", "status", "reason"),
    [
        (EVENT_PATH, b"{", 400, "the body is not JSON"),
        (EVENT_PATH, b'{"costUsd": NaN}', 400, "the body is not JSON"),
        (EVENT_PATH, b"\xff", 400, "the body is not JSON"),
        (EVENT_PATH, b"[]", 422, "it: expected an object, got a list"),
        (EVENT_PATH, b'{"promptTokens": 1e99999999}', 422, "promptTokens: expected a whole number"),
        (BATCH_PATH, b"{}", 422, 'expected {"events": [...]}'),
        (BATCH_PATH, b"[]", 422, "a batch holds 1 to 300 events, got 0"),
        (BATCH_PATH, json.dumps([{}] * 301).encode(), 413, "a batch holds 1 to 300 events, got 301"),
        (CHANGES_PATH, b"{}", 422, "title is missing; time is missing"),
        (CHANGES_PATH, b'{"title": "t", "time": 1, "link": "ftp://x"}', 422, "link: "),
    ],
)
def test_a_rejected_request_has_a_reason(
    shared_system: System, path: str, body: bytes, status: int, reason: str
) -> None:
    """A request that is invalid as a whole is answered with its status and the reason."""
    response = _post(shared_system, body, path)
    assert response.status_code == status
    assert reason in response.json()["error"]


@pytest.mark.parametrize("path", [EVENT_PATH, BATCH_PATH, CHANGES_PATH])
@pytest.mark.parametrize("header", ["", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer \xff"])
def test_pushing_requires_the_token_of_a_source(shared_system: System, path: str, header: str) -> None:
    """Without the bearer token of a configured source the status is 401, whatever the body is."""
    response = httpx.post(shared_system.url + path, content=b"{", headers={b"authorization": header.encode("latin-1")})
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert TOKEN not in response.text


def test_a_changed_token_file_is_used_without_a_reload(system: System) -> None:
    """The new token is valid and the old one is not; an unusable file changes nothing."""
    new = "gateway-token-of-tomorrow"
    _write_token(system.folder, "gateway", new)
    system.app.reload_tokens()
    assert [_post(system, _make_event(), token=token).status_code for token in (TOKEN, new)] == [401, 202]
    for unusable in ("", "short", OTHER_TOKEN):
        _write_token(system.folder, "gateway", unusable)
        system.app.reload_tokens()
        assert _post(system, _make_event(), token=new).status_code == 202


def test_a_late_event_is_counted_in_its_own_hour(system: System) -> None:
    """An event of last week changes that day and not today, and history has it in its hour."""
    _post(system, _make_event(costUsd=1))
    _post(system, _make_event(ago=7 * DAY, costUsd=2, id="late"))
    _wait_until_exported(system)
    day = f"{NOON - 7 * DAY:%Y-%m-%d}"
    assert system.value("ai_cost_daily_usd", account="gateway", date=day) == 2
    assert system.value("ai_cost_today_usd", account="gateway") == 1
    assert system.value("ai_cost_30d_usd", account="gateway") == 3
    hour = int((NOON - 7 * DAY).replace(minute=0, second=0).timestamp()) * 1000
    matchers = ((EQUAL, "__name__", "ai_hourly_cost_usd"), (EQUAL, "account", "gateway"))
    body = encode_read_request(*matchers, since=hour, until=hour + 3_600_000)
    (series,) = decode_read_response(system.app.handlers().remote_read(body))
    assert [list(samples.values()) for samples in series.values()] == [[2]]


def test_pushed_spend_counts_in_budgets(system: System) -> None:
    """A budget of the source's account includes pushed cost."""
    budget = {"name": "g", "period": "month", "limit_usd": 10, "match": {"account": "gateway"}}
    _change_config(system, lambda document: document.update(budgets=[budget]))
    _post(system, [_make_event(costUsd=1.5), _make_event(ago=HOUR, costUsd=0.5, provider="vertex")], BATCH_PATH)
    _wait_until_exported(system)
    assert system.value("ai_budget_spent_usd", budget="g") == 2


def test_a_crosscheck_is_compared_and_not_added(polled_system: System) -> None:
    """Its tokens of the account's newest complete hour are exported relative to the provider's; they are no spend."""
    system = polled_system
    system.advance(5 * MINUTE)
    hour = system.window_range("last_hour", "solo").start
    tokens = system.value("ai_tokens_last_hour", account="solo")
    assert tokens
    before = system.spend_samples()
    half = _make_event(promptTokens=int(tokens / 2), completionTokens=0, timestamp=(hour + 30 * MINUTE).isoformat())
    assert _post(system, [half, _make_event(ago=3 * HOUR)], BATCH_PATH, token=OTHER_TOKEN).status_code == 202
    _wait_until_exported(system)
    system.advance(5 * MINUTE)
    assert system.window_range("last_hour", "solo").start == hour
    assert system.value("ai_account_crosscheck_ratio", account="solo", source="watcher") == pytest.approx(0.5, abs=0.01)
    assert system.value("ai_cost_today_usd", account="watcher") is None
    assert system.spend_samples("watcher") == {name: {} for name in before}


def test_providers_and_label_sets_of_a_source_are_bounded(system: System) -> None:
    """A source has at most 20 providers; labels beyond ten times max_series are `other`, and sums are kept."""
    _change_config(system, lambda document: document["ingest"]["sources"][0].update(max_series=1))
    providers = [_make_event(provider=f"p{number}") for number in range(21)]
    result = _post(system, providers, BATCH_PATH).json()
    assert result["accepted"] == 20
    assert result["rejected"][0]["reason"] == "this source already has 20 providers"
    models = [_make_event(provider="p0", model=f"m{number}") for number in range(30)]
    assert _post(system, models, BATCH_PATH).json()["accepted"] == 30
    _wait_until_exported(system)
    exported = {
        dict(series).get("model") for series in system.samples()["ai_tokens_today"] if ("provider", "p0") in series
    }
    assert "other" in exported
    assert len(exported) <= 12
    assert system.value("ai_tokens_today", provider="p0") == 31 * 120


def test_a_source_above_its_rate_limit_gets_retry_after(tmp_path: Path) -> None:
    """Above its rate a source gets 429 with Retry-After, and other sources do not; later it is accepted again."""
    monotonic = ManualClock()
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"ingest": _write_sources(tmp_path)}))
    app = App(tmp_path / "ledger", Dependencies(Clock(), monotonic, {}, PROVIDERS))
    app.apply(load(path, PROVIDERS))
    with serve(handlers=app.handlers()) as address, httpx.Client(base_url=f"http://{address}") as client:

        def push(events: list[Any], token: str = TOKEN) -> httpx.Response:
            return client.post(BATCH_PATH, json=events, headers={"authorization": f"Bearer {token}"})

        # Invalid events count too, and are cheap.
        statuses = [push([{}] * 300).status_code for _ in range(EVENTS_BURST // 300)]
        assert set(statuses) == {207}
        rejected = push([_make_event()])
        assert (rejected.status_code, rejected.headers["retry-after"]) == (429, "1")
        assert push([_make_event()], OTHER_TOKEN).status_code == 202
        monotonic.advance(1)
        assert push([_make_event()]).status_code == 202
    app.stop()


def test_change_events_are_exported_and_expire(system: System) -> None:
    """A change event is on /metrics, in the summary and on the landing page, once, and for seven days."""
    event = {
        "title": "Search 1.2",
        "time": (NOON - HOUR).isoformat(),
        "service": "search",
        "link": "https://ci.example/7",
    }
    for _ in range(2):
        assert _status_and_body(_post(system, event, CHANGES_PATH)) == (202, {"status": "accepted"})
    metric = system.samples()["ai_change_timestamp_seconds"]
    assert [(dict(labels)["title"], value) for labels, value in metric.items()] == [
        ("Search 1.2", (NOON - HOUR).timestamp())
    ]
    (change,) = httpx.get(f"{system.url}/api/v1/ai/usage/summary").json()["changes"]
    assert (change["title"], change["service"], change["time"]) == ("Search 1.2", "search", "2026-11-18T11:07:30Z")
    page = system.app.handlers().landing_page()
    assert '<a rel="noreferrer" href="https://ci.example/7">Search 1.2</a></td>' in page
    assert ">search</td>" in page
    service = _push_service(system)
    for number in range(250):
        service.record_change(json.dumps(event | {"title": f"t{number}"}).encode())
    assert len(system.samples()["ai_change_timestamp_seconds"]) == 200
    system.clock.now += 7 * DAY
    assert "ai_change_timestamp_seconds" not in system.samples()


def test_the_summary_adds_up_to_metrics(polled_system: System) -> None:
    """Totals, groups and days of the summary equal those of /metrics, and each other's sums."""
    system = polled_system
    _post(
        system, [_make_event(costUsd=1.25, workspace="A"), _make_event(ago=DAY, costUsd=2, workspace="B")], BATCH_PATH
    )
    _wait_until_exported(system)
    summary = httpx.get(f"{system.url}/api/v1/ai/usage/summary", params={"days": 30}).json()
    landing_page = system.app.handlers().landing_page()
    assert "<summary>gateway · $3.25</summary>" in landing_page
    assert '<small class="under">pushed</small>' in landing_page
    assert summary["totals"]["costUsd"] == pytest.approx(system.value("ai_cost_30d_usd"))
    assert summary["totals"]["tokens"] == system.value("ai_tokens_30d")
    assert summary["totals"]["requests"] == system.value("ai_requests_30d")
    for dimension in ("byProvider", "byAccount", "byWorkspace", "byModel", "byDay"):
        assert _sum(summary[dimension]) == pytest.approx(summary["totals"]["costUsd"])
    assert _sum(summary["topModels"], "costShare") == pytest.approx(1, abs=1e-4)
    assert {account["account"] for account in summary["freshness"]} == {"solo", "gateway"}
    assert all(account["up"] and account["completeUntil"] for account in summary["freshness"])
    days = {account["account"]: account["days"] for account in summary["freshness"]}
    read_at = "2026-11-18T12:07:30Z"
    assert [day["date"] for day in days["solo"]] == ["2026-11-16", "2026-11-17", "2026-11-18"]
    assert {(day["usageReadAt"], day["billReadAt"]) for day in days["solo"]} == {(read_at, read_at)}
    assert days["gateway"] == [], "nothing is read of pushed usage"
    today = httpx.get(f"{system.url}/api/v1/ai/usage/summary", params={"days": 1}).json()
    assert [len(account["days"]) for account in today["freshness"] if account["account"] == "solo"] == [1]
    assert today["totals"]["costUsd"] == pytest.approx(system.value("ai_cost_today_usd"))
    for invalid in ("0", "36", "x", "-1"):
        assert httpx.get(f"{system.url}/api/v1/ai/usage/summary", params={"days": invalid}).status_code == 422


def _sum(groups: Sequence[Mapping[str, float]], name: str = "costUsd") -> float:
    return sum(group[name] for group in groups)


def test_pushed_events_survive_the_removal_of_their_source(system: System) -> None:
    """The accounts of a source that is configured again are exported at once, without a new event."""
    _post(system, _make_event(costUsd=3, id="x"))
    _wait_until_exported(system)
    system.app.apply(system.config.model_copy(update={"ingest": Ingest()}))
    system.poll_until_idle()
    assert system.value("ai_cost_today_usd", account="gateway") is None
    assert _post(system, _make_event(id="x", costUsd=3)).status_code == 401
    system.app.apply(system.config)
    _wait_until_exported(system)
    assert system.value("ai_cost_today_usd", account="gateway") == 3
    assert _status_and_body(_post(system, _make_event(id="x", costUsd=3))) == (202, {"status": "duplicate"})


def test_pushed_events_survive_a_restart(tmp_path: Path) -> None:
    """After a restart the accounts of a source are exported at once, and ids are still known."""
    event = _make_event(costUsd=3, id="x")
    with _prepare_system(tmp_path) as system:
        with system.run_exporter():
            assert _status_and_body(_post(system, event)) == (202, {"status": "accepted"})
        with system.run_exporter():
            _wait_until_exported(system)
            assert system.value("ai_cost_today_usd", account="gateway") == 3
            assert _status_and_body(_post(system, event)) == (202, {"status": "duplicate"})


def test_an_internal_error_in_one_pushed_account_harms_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An account whose valuation fails is down with a problem, counted and logged once; the others are exported."""
    broken = True

    def prices(provider: str, day: datetime) -> Rates:
        if broken and provider == "bedrock":
            raise ZeroDivisionError
        return list_rates(provider, day)

    with _prepare_system(tmp_path) as system:
        system.prices = prices
        with system.run_exporter():
            # `bedrock` is refreshed first: accounts are refreshed in the order of their names.
            events = [_make_event(provider=provider) for provider in ("bedrock", "openai", "vertex")]
            _post(system, events, BATCH_PATH)
            _post(system, _make_event(provider="anthropic"), token=OTHER_TOKEN)
            _wait_until_exported(system)
            assert system.value("ai_exporter_internal_errors_total") == 1
            assert system.value("ai_account_up", provider="bedrock") == 0
            for provider in ("openai", "vertex", "anthropic"):
                assert system.value("ai_account_up", provider=provider) == 1
                assert system.value("ai_requests_today", provider=provider) == 1
            # The idle refresh tries the account again.
            system.clock.now += 6 * MINUTE
            _wait_until_exported(system)
            assert system.value("ai_exporter_internal_errors_total") == 2
            logged = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
            assert logged == ["Pushed account not refreshed because of an internal error"]
            assert "internal error of this exporter" in httpx.get(system.url).text
            broken = False
            _post(system, _make_event(costUsd=1))
            _wait_until_exported(system)
            assert system.value("ai_account_up", provider="bedrock") == 1
            assert system.value("ai_requests_today", provider="bedrock") == 2


def test_a_broken_ledger_is_answered_with_503(tmp_path: Path) -> None:
    """If the ledger cannot be read or written, pushes and the summary get 503, and the process must exit."""
    with _prepare_system(tmp_path) as system, system.run_exporter():
        exits = list[None]()
        system.app.on_fatal = lambda: exits.append(None)
        for name in ("ledger.db-wal", "ledger.db"):
            path = tmp_path / "ledger" / name
            path.write_bytes(b"not a ledger" * (path.stat().st_size // 12))
        responses = [
            _post(system, _make_event()),
            _post(system, [_make_event()], BATCH_PATH),
            httpx.get(f"{system.url}/api/v1/ai/usage/summary"),
        ]
        for response in responses:
            assert response.status_code == 503, response.request.url
            assert "nothing of this request was stored" in response.json()["error"]
        assert len(exits) == len(responses)
        assert system.app.fatal is not None


def test_events_are_counted_by_outcome(system: System) -> None:
    """Each source has a counter for each outcome, from 0: a gateway that is silent or rejected is visible."""
    for outcome in ("accepted", "duplicate", "conflict", "rejected"):
        assert system.value("ai_exporter_ingest_events_total", source="gateway", outcome=outcome) == 0
    _post(system, [_make_event(id="a"), _make_event(id="a"), _make_event(id="a", requests=9), {}], BATCH_PATH)
    for outcome in ("accepted", "duplicate", "conflict", "rejected"):
        assert system.value("ai_exporter_ingest_events_total", source="gateway", outcome=outcome) == 1
