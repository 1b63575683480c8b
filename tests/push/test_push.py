"""Pushed events as a sender meets them, and as they are shown."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from exporter.config.configuration import Ingest, load
from exporter.model import DAY, HOUR
from exporter.providers import PROVIDERS
from exporter.simulator.world import World
from tests.history.ledger_days import EQUAL, decode_read_response, encode_read_request
from tests.system import NOON, Clock, System, make_account, start_system

EVENT_PATH, BATCH_PATH, CHANGES_PATH = "/api/v1/ai/usage/events", "/api/v1/ai/usage/events/batch", "/api/v1/ai/changes"
TOKEN, OTHER_TOKEN = "gateway-token-5f1c8e2b", "witness-token-9a7d3c41"
MINUTE = timedelta(minutes=1)


def _make_event(ago: timedelta = MINUTE, **fields: Any) -> dict[str, Any]:
    """100 tokens in and 20 out, of a model that everybody knows."""
    told: dict[str, Any] = {
        "provider": "bedrock",
        "model": "claude-sonnet-4-5",
        "timestamp": (NOON - ago).isoformat(),
        "promptTokens": 100,
        "completionTokens": 20,
    }
    return told | fields


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    """One polled account, one gateway that pushes, and one that watches the account."""
    clock = Clock()
    for name, token in (("gateway", TOKEN), ("watcher", OTHER_TOKEN)):
        (tmp_path / f"{name}.token").touch(mode=0o600)
        (tmp_path / f"{name}.token").write_text(token + "\n")
    with start_system(tmp_path, World([make_account("anthropic")], clock), clock, history="2d") as made:
        document = yaml.safe_load(made.config.path.read_text())
        document["ingest"] = {
            "sources": [
                {"name": "gateway", "token_file": "gateway.token", "owner": "platform"},
                {"name": "watcher", "token_file": "watcher.token", "crosscheck_of": "solo"},
            ]
        }
        made.config.path.write_text(yaml.safe_dump(document))
        made.config = load(made.config.path, PROVIDERS)
        with made.run_exporter():
            made.poll_until_idle()
            yield made


def _post(system: System, body: object, path: str = EVENT_PATH, token: str = TOKEN, **headers: str) -> httpx.Response:
    given = {"authorization": f"Bearer {token}", **headers}
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(system.url + path, content=content, headers=given)


def _status_and_body(answer: httpx.Response) -> tuple[int, Any]:
    return answer.status_code, answer.json()


def _wait_until_exported(system: System) -> None:
    """Let what was pushed come to the page."""
    system.app.tick()
    work = system.app._push_service._refresh_task
    if work is not None:
        work.result()
    system.poll_until_idle()


def test_an_event_is_shown_like_what_is_polled(system: System) -> None:
    """Its source is the account, with provider, workspace, model and tier; it has cost, tokens by type and requests."""
    told = _make_event(
        workspace="Search", tier="batch", costUsd=0.25, cacheReadTokens=30, cacheWriteTokens=10, requests=2
    )
    assert _status_and_body(_post(system, told)) == (202, {"status": "accepted"})
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


def test_an_event_without_its_cost_is_priced(system: System) -> None:
    """Left out, the cost is tokens at list prices, beside others of that model that told theirs, or unpriced."""
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
    """A source's own prices come before the list."""
    sources = yaml.safe_load(system.config.path.read_text())
    sources["ingest"]["sources"][0]["prices"] = [{"model": "our-*", "meter": "output", "usd_per_million": 50}]
    system.config.path.write_text(yaml.safe_dump(sources))
    system.app.apply(load(system.config.path, PROVIDERS))
    _post(system, _make_event(model="our-own", completionTokens=1_000_000))
    _wait_until_exported(system)
    assert system.value("ai_cost_today_usd", account="gateway", model="our-own") == 50


def test_an_api_key_is_exported_by_name_only(system: System) -> None:
    """Where the source's labels ask for it, the key's name is a label; what is a key itself is hidden, and counts."""
    names = ["Search-Prod-2026-eu-west", "sk-proj-3nM8bV5cR2Zq7wX9kT", "9aF3kQ8zL1mN7vB2xC6d"]
    _post(system, [_make_event(apiKey=name) for name in names], BATCH_PATH)
    _wait_until_exported(system)
    assert system.value("ai_requests_today", account="gateway") == 3
    document = yaml.safe_load(system.config.path.read_text())
    document["ingest"]["sources"][0]["labels"] = ["api_key"]
    system.config.path.write_text(yaml.safe_dump(document))
    system.app.apply(load(system.config.path, PROVIDERS))
    _post(system, [_make_event(apiKey=name) for name in names], BATCH_PATH)
    _wait_until_exported(system)
    shown = {name: system.value("ai_requests_today", account="gateway", api_key=name) for name in [*names, "<secret>"]}
    assert list(shown.values()) == [1, None, None, 2]


def test_the_same_id_is_counted_once(system: System) -> None:
    """Told again it changes nothing, also after a restart; with another content it is a conflict."""
    told = _make_event(id="call-1")
    assert _status_and_body(_post(system, told)) == (202, {"status": "accepted"})
    assert _status_and_body(_post(system, told)) == (202, {"status": "duplicate"})
    status, said = _status_and_body(_post(system, told | {"promptTokens": 101}))
    assert (status, said) == (409, {"error": "this id was given to another event before"})
    told |= {"model": "claude-sonnet-4-5", "prompt_tokens": told["promptTokens"]}
    del told["promptTokens"]
    assert _status_and_body(_post(system, told)) == (202, {"status": "duplicate"})
    _wait_until_exported(system)
    assert system.value("ai_tokens_today", account="gateway") == 120


def test_a_request_with_a_key_is_counted_once(system: System) -> None:
    """Events without ids are told apart by their place in a request that has an Idempotency-Key; without, all count."""
    told = [_make_event(), _make_event(), _make_event(id="own")]
    for status in ("accepted", "duplicate"):
        taken = _post(system, told, BATCH_PATH, **{"idempotency-key": "job-7"}).json()
        assert taken[status] == 3
    assert _post(system, told[:2], BATCH_PATH, **{"idempotency-key": "job-8"}).json()["accepted"] == 2
    assert _post(system, told[:2], BATCH_PATH).json()["accepted"] == 2
    _wait_until_exported(system)
    assert system.value("ai_requests_today", account="gateway") == 7


def test_valid_events_of_a_batch_are_accepted(system: System) -> None:
    """Bad ones are listed by index and reason with 207, the others are counted; camelCase and snake_case both do."""
    snake = {"provider": "vertex", "model": "gemini-3-pro", "timestamp": NOON.timestamp(), "completion_tokens": 5.0}
    bad = [
        (_make_event(promptTokens=-1), "promptTokens must be at least 0"),
        (_make_event(tokens=1), '"tokens" is unknown'),
        (_make_event(link="x"), '"link" is unknown'),
        (_make_event(promptTokens=1.5), "promptTokens: expected a whole number, got 1.5"),
        (_make_event(completionToken=1), '"completionToken" is unknown; did you mean completionTokens?'),
        (_make_event(model=""), "model must have at least 1 characters"),
        (_make_event(provider="Bedrock"), 'provider: "Bedrock" does not fit'),
        (_make_event(costUsd=-1), "costUsd: expected USD from 0 to 10000, got -1"),
        (_make_event(currency="EUR"), 'currency: expected "USD", got "EUR"'),
        (_make_event(timestamp="yesterday"), "timestamp: expected a time such as 2026-11-21T10:15:00Z"),
        (_make_event(timestamp="2026-11-18T12:00:00"), "timestamp: expected a time such as"),
        (_make_event(cacheReadTokens=101), "parts of promptTokens, and are more than it"),
        (_make_event(workspace="a\nb"), "workspace: holds a line break or another character that cannot be shown"),
        (_make_event(ago=-6 * MINUTE), "timestamp is more than 5 minutes in the future"),
        (_make_event(ago=36 * DAY), "timestamp is more than 35 days ago"),
        (7, "it: expected an object, got 7"),
    ]
    status, taken = _status_and_body(
        _post(system, {"events": [snake, *(one for one, _ in bad), _make_event()]}, BATCH_PATH)
    )
    assert (status, taken["accepted"], taken["duplicate"]) == (207, 2, 0)
    assert [one["index"] for one in taken["rejected"]] == list(range(1, len(bad) + 1))
    for one, (_, reason) in zip(taken["rejected"], bad, strict=True):
        assert reason in one["reason"], one
        assert one["status"] == 422
    _wait_until_exported(system)
    assert system.value("ai_tokens_today", account="gateway") == 125


@pytest.mark.parametrize(
    ("path", "body", "status", "reason"),
    [
        (EVENT_PATH, b"{", 400, "the body is no JSON"),
        (EVENT_PATH, b'{"costUsd": NaN}', 400, "the body is no JSON"),
        (EVENT_PATH, b"\xff", 400, "the body is no JSON"),
        (EVENT_PATH, b"[]", 422, "it: expected an object, got a list"),
        (EVENT_PATH, b'{"promptTokens": 1e99999999}', 422, "promptTokens: expected a whole number"),
        (BATCH_PATH, b"{}", 422, 'expected {"events": [...]}'),
        (BATCH_PATH, b"[]", 422, "a batch holds 1 to 300 events, got 0"),
        (BATCH_PATH, json.dumps([{}] * 301).encode(), 413, "a batch holds 1 to 300 events, got 301"),
        (CHANGES_PATH, b"{}", 422, "title is missing; time is missing"),
        (CHANGES_PATH, b'{"title": "t", "time": 1, "link": "ftp://x"}', 422, "link: "),
    ],
)
def test_a_rejected_request_has_a_reason(system: System, path: str, body: bytes, status: int, reason: str) -> None:
    """What cannot be read at all is refused whole, and nothing of it is kept."""
    answer = _post(system, body, path)
    assert answer.status_code == status
    assert reason in answer.json()["error"]


@pytest.mark.parametrize("path", [EVENT_PATH, BATCH_PATH, CHANGES_PATH])
@pytest.mark.parametrize("header", ["", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer \xff"])
def test_nobody_pushes_without_a_sources_token(system: System, path: str, header: str) -> None:
    """Without the bearer token of a configured source the answer is 401, whatever the body is."""
    answer = httpx.post(system.url + path, content=b"{", headers={b"authorization": header.encode("latin-1")})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert TOKEN not in answer.text


def test_a_token_that_changes_in_its_file_is_known_without_a_reload(system: System) -> None:
    """The new one is taken and the old one no more; a file that cannot be read changes nothing."""
    file, new = system.folder / "gateway.token", "gateway-token-of-tomorrow"
    file.write_text(new)
    system.app._reload_tokens()
    assert [_post(system, _make_event(), token=one).status_code for one in (TOKEN, new)] == [401, 202]
    for unusable in ("", "short", OTHER_TOKEN):
        file.write_text(unusable)
        system.app._reload_tokens()
        assert _post(system, _make_event(), token=new).status_code == 202


def test_a_late_event_is_counted_in_its_own_hour(system: System) -> None:
    """An event of last week changes last week's day and not today, and history tells its hour."""
    _post(system, _make_event(costUsd=1))
    _post(system, _make_event(ago=7 * DAY, costUsd=2, id="late"))
    _wait_until_exported(system)
    day = f"{NOON - 7 * DAY:%Y-%m-%d}"
    assert system.value("ai_cost_daily_usd", account="gateway", date=day) == 2
    assert system.value("ai_cost_today_usd", account="gateway") == 1
    assert system.value("ai_cost_30d_usd", account="gateway") == 3
    hour = int((NOON - 7 * DAY).replace(minute=0, second=0).timestamp()) * 1000
    wanted = ((EQUAL, "__name__", "ai_hourly_cost_usd"), (EQUAL, "account", "gateway"))
    (told,) = decode_read_response(
        system.app._remote_read.handle(encode_read_request(*wanted, since=hour, until=hour + 3_600_000))
    )
    assert [list(samples.values()) for samples in told.values()] == [[2]]


def test_pushed_spend_counts_in_budgets(system: System) -> None:
    """A budget over the source's account adds up what was pushed."""
    document = yaml.safe_load(system.config.path.read_text())
    document["budgets"] = [{"name": "g", "period": "month", "limit_usd": 10, "match": {"account": "gateway"}}]
    system.config.path.write_text(yaml.safe_dump(document))
    system.app.apply(load(system.config.path, PROVIDERS))
    _post(system, [_make_event(costUsd=1.5), _make_event(ago=HOUR, costUsd=0.5, provider="vertex")], BATCH_PATH)
    _wait_until_exported(system)
    assert system.value("ai_budget_spent_usd", budget="g") == 2


def test_a_crosscheck_is_compared_and_not_added(system: System) -> None:
    """What it saw of an account's newest complete hour is shown relative to what the provider told; it is no spend."""
    system.advance(5 * MINUTE)
    hour = system.window_range("last_hour", "solo").start
    told = system.value("ai_tokens_last_hour", account="solo")
    assert told
    before = system.spend_samples()
    half = _make_event(promptTokens=int(told / 2), completionTokens=0, timestamp=(hour + 30 * MINUTE).isoformat())
    assert _post(system, [half, _make_event(ago=3 * HOUR)], BATCH_PATH, token=OTHER_TOKEN).status_code == 202
    _wait_until_exported(system)
    system.advance(5 * MINUTE)
    assert system.window_range("last_hour", "solo").start == hour
    assert system.value("ai_account_crosscheck_ratio", account="solo", source="watcher") == pytest.approx(0.5, abs=0.01)
    assert system.value("ai_cost_today_usd", account="watcher") is None
    assert system.spend_samples("watcher") == {name: {} for name in before}


def test_too_many_providers_and_combinations_are_bounded(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source names twenty providers at most; beyond ten times max_series, labels become other and sums stay."""
    providers = [_make_event(provider=f"p{number}") for number in range(21)]
    taken = _post(system, providers, BATCH_PATH).json()
    assert taken["accepted"] == 20
    assert taken["rejected"][0]["reason"] == "this source has told of 20 providers already"
    sender = system.app._push_service._sources["gateway"]
    sender.config = sender.config.model_copy(update={"max_series": 1})
    models = [_make_event(provider="p0", model=f"m{number}") for number in range(30)]
    assert _post(system, models, BATCH_PATH).json()["accepted"] == 30
    _wait_until_exported(system)
    known = {dict(one).get("model") for one in system.samples()["ai_tokens_today"] if ("provider", "p0") in one}
    assert "other" in known
    assert len(known) <= 12
    assert system.value("ai_tokens_today", provider="p0") == 31 * 120


def test_a_source_above_its_rate_limit_gets_retry_after(system: System) -> None:
    """Beyond its rate a source gets 429 with Retry-After, others do not, and later it is taken again."""
    sender = system.app._push_service._sources["gateway"]
    assert sender.rate_limiter.take(30_000)
    answer = _post(system, [_make_event()] * 300, BATCH_PATH)
    while answer.status_code == 202:
        answer = _post(system, [_make_event()] * 300, BATCH_PATH)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    assert _post(system, _make_event(), token=OTHER_TOKEN).status_code == 202


def test_change_events_are_exported_and_expire(system: System) -> None:
    """A deployment is a metric and stands in the summary; told again it is the same; after a week it is gone."""
    told = {
        "title": "Search 1.2",
        "time": (NOON - HOUR).isoformat(),
        "service": "search",
        "link": "https://ci.example/7",
    }
    for _ in range(2):
        assert _status_and_body(_post(system, told, CHANGES_PATH)) == (202, {"status": "accepted"})
    metric = system.samples()["ai_change_timestamp_seconds"]
    assert [(dict(labels)["title"], value) for labels, value in metric.items()] == [
        ("Search 1.2", (NOON - HOUR).timestamp())
    ]
    (change,) = httpx.get(f"{system.url}/api/v1/ai/usage/summary").json()["changes"]
    assert (change["title"], change["service"], change["time"]) == ("Search 1.2", "search", "2026-11-18T11:07:30Z")
    page = system.app.handlers().landing_page()
    assert '<a rel="noreferrer" href="https://ci.example/7">Search 1.2</a></td><td>search</td>' in page
    for number in range(250):
        system.app._store_change_event(json.dumps(told | {"title": f"t{number}"}).encode())
    assert len(system.samples()["ai_change_timestamp_seconds"]) == 200
    system.clock.now += 7 * DAY
    assert "ai_change_timestamp_seconds" not in system.samples()


def test_the_summary_adds_up_to_metrics(system: System) -> None:
    """Totals, groups and days are those that /metrics shows, and sum to each other."""
    _post(
        system, [_make_event(costUsd=1.25, workspace="A"), _make_event(ago=DAY, costUsd=2, workspace="B")], BATCH_PATH
    )
    _wait_until_exported(system)
    summary = httpx.get(f"{system.url}/api/v1/ai/usage/summary", params={"days": 30}).json()
    assert "<summary>gateway · $3.25</summary>" in system.app.handlers().landing_page()
    assert summary["totals"]["costUsd"] == pytest.approx(system.value("ai_cost_30d_usd"))
    assert summary["totals"]["tokens"] == system.value("ai_tokens_30d")
    assert summary["totals"]["requests"] == system.value("ai_requests_30d")
    for way in ("byProvider", "byAccount", "byWorkspace", "byModel", "byDay"):
        assert _sum(summary[way]) == pytest.approx(summary["totals"]["costUsd"])
    assert _sum(summary["topModels"], "costShare") == pytest.approx(1, abs=1e-4)
    assert {one["account"] for one in summary["freshness"]} == {"solo", "gateway"}
    assert all(one["up"] and one["completeUntil"] for one in summary["freshness"])
    today = httpx.get(f"{system.url}/api/v1/ai/usage/summary", params={"days": 1}).json()
    assert today["totals"]["costUsd"] == pytest.approx(system.value("ai_cost_today_usd"))
    for wrong in ("0", "36", "x", "-1"):
        assert httpx.get(f"{system.url}/api/v1/ai/usage/summary", params={"days": wrong}).status_code == 422


def _sum(groups: Sequence[Mapping[str, float]], name: str = "costUsd") -> float:
    return sum(one[name] for one in groups)


def test_pushed_events_survive_a_restart(system: System) -> None:
    """A source's accounts are shown again at once, without anything being pushed."""
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


def test_an_internal_error_after_a_push_stops_nothing(system: System) -> None:
    """It is raised once, for the log; what else is due goes on, and what is pushed later is shown."""

    def defect(member: object) -> None:
        raise ZeroDivisionError

    publish, system.app._push_service._publish = system.app._push_service._publish, defect
    _post(system, _make_event(costUsd=1))
    system.app.tick()
    work = system.app._push_service._refresh_task
    assert work is not None
    assert work.exception() is not None
    with pytest.raises(ZeroDivisionError):
        system.app.tick()
    system.app._push_service._publish = publish
    _post(system, _make_event(costUsd=1))
    _wait_until_exported(system)
    assert system.value("ai_cost_today_usd", account="gateway") == 2


def test_events_are_counted_by_outcome(system: System) -> None:
    """From zero for every source, so that a gateway that falls silent or is refused shows."""
    for outcome in ("accepted", "duplicate", "conflict", "rejected"):
        assert system.value("ai_exporter_ingest_events_total", source="gateway", outcome=outcome) == 0
    _post(system, [_make_event(id="a"), _make_event(id="a"), _make_event(id="a", requests=9), {}], BATCH_PATH)
    for outcome in ("accepted", "duplicate", "conflict", "rejected"):
        assert system.value("ai_exporter_ingest_events_total", source="gateway", outcome=outcome) == 1
