"""Pushed events as a sender meets them, and as they are shown."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from exporter.config.configuration import load
from exporter.model import DAY, HOUR
from exporter.providers import PROVIDERS
from exporter.simulator.world import World
from tests.history.ledger_days import EQUAL, request, results
from tests.system import NOON, Clock, Stage, lone, stage

ONE, BATCH, CHANGES = "/api/v1/ai/usage/events", "/api/v1/ai/usage/events/batch", "/api/v1/ai/changes"
TOKEN, OTHER_TOKEN = "gateway-token-5f1c8e2b", "witness-token-9a7d3c41"
MINUTE = timedelta(minutes=1)


def _event(ago: timedelta = MINUTE, **fields: Any) -> dict[str, Any]:
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
def it(tmp_path: Path) -> Iterator[Stage]:
    """One polled account, one gateway that pushes, and one that watches the account."""
    clock = Clock()
    for name, token in (("gateway", TOKEN), ("watcher", OTHER_TOKEN)):
        (tmp_path / f"{name}.token").touch(mode=0o600)
        (tmp_path / f"{name}.token").write_text(token + "\n")
    with stage(tmp_path, World([lone("anthropic")], clock), clock, history="2d") as made:
        document = yaml.safe_load(made.config.path.read_text())
        document["ingest"] = {
            "sources": [
                {"name": "gateway", "token_file": "gateway.token", "owner": "platform"},
                {"name": "watcher", "token_file": "watcher.token", "witness_of": "solo"},
            ]
        }
        made.config.path.write_text(yaml.safe_dump(document))
        made.config = load(made.config.path, PROVIDERS)
        with made.running():
            made.settle()
            yield made


def _post(it: Stage, body: object, path: str = ONE, token: str = TOKEN, **headers: str) -> httpx.Response:
    given = {"authorization": f"Bearer {token}", **headers}
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(it.url + path, content=content, headers=given)


def _said(answer: httpx.Response) -> tuple[int, Any]:
    return answer.status_code, answer.json()


def _shown(it: Stage) -> None:
    """Let what was pushed come to the page."""
    it.app.tick()
    work = it.app._sources._work
    if work is not None:
        work.result()
    it.settle()


def test_an_event_is_shown_like_what_is_polled(it: Stage) -> None:
    """Its source is the account, with provider, workspace, model and tier; it has cost, tokens by type and requests."""
    told = _event(workspace="Search", tier="batch", costUsd=0.25, cacheReadTokens=30, cacheWriteTokens=10, requests=2)
    assert _said(_post(it, told)) == (202, {"status": "accepted"})
    _shown(it)
    labels = {"provider": "bedrock", "account": "gateway", "workspace": "Search", "tier": "batch"}
    assert it.value("ai_cost_today_usd", **labels) == 0.25
    tokens = {kind: it.value("ai_tokens_today", type=kind, **labels) for kind in ("uncached_input", "cache_read")}
    assert tokens == {"uncached_input": 60, "cache_read": 30}
    assert it.value("ai_tokens_today", type="cache_write", **labels) == 10
    assert it.value("ai_tokens_today", type="output", **labels) == 20
    assert it.value("ai_requests_today", **labels) == 2
    assert it.value("ai_account_info", account="gateway", owner="platform") == 1
    assert it.value("ai_account_up", account="gateway") == 1


def test_an_event_without_its_cost_is_priced(it: Stage) -> None:
    """Left out, the cost is tokens at list prices, beside others of that model that told theirs, or unpriced."""
    million: dict[str, Any] = {"promptTokens": 1_000_000, "completionTokens": 0, "provider": "anthropic"}
    _post(it, [_event(**million), _event(**million, costUsd="0.000000001"), _event(model="our-own")], BATCH)
    _shown(it)
    assert it.nano("ai_cost_today_usd", account="gateway", provider="anthropic") == 3_000_000_001
    assert it.value("ai_account_unpriced_tokens", account="gateway", model="our-own") == 120


def test_agreed_prices_hold_for_a_source_too(it: Stage) -> None:
    """A source's own prices come before the list."""
    sources = yaml.safe_load(it.config.path.read_text())
    sources["ingest"]["sources"][0]["prices"] = [{"model": "our-*", "meter": "output", "usd_per_million": 50}]
    it.config.path.write_text(yaml.safe_dump(sources))
    it.app.apply(load(it.config.path, PROVIDERS))
    _post(it, _event(model="our-own", completionTokens=1_000_000))
    _shown(it)
    assert it.value("ai_cost_today_usd", account="gateway", model="our-own") == 50


def test_a_key_is_told_by_its_name_and_never_itself(it: Stage) -> None:
    """Where the source's labels ask for it, the key's name is a label; what is a key itself is hidden, and counts."""
    names = ["Search-Prod-2026-eu-west", "sk-proj-3nM8bV5cR2Zq7wX9kT", "9aF3kQ8zL1mN7vB2xC6d"]
    _post(it, [_event(apiKey=name) for name in names], BATCH)
    _shown(it)
    assert it.value("ai_requests_today", account="gateway") == 3
    document = yaml.safe_load(it.config.path.read_text())
    document["ingest"]["sources"][0]["labels"] = ["api_key"]
    it.config.path.write_text(yaml.safe_dump(document))
    it.app.apply(load(it.config.path, PROVIDERS))
    _post(it, [_event(apiKey=name) for name in names], BATCH)
    _shown(it)
    shown = {name: it.value("ai_requests_today", account="gateway", api_key=name) for name in [*names, "<secret>"]}
    assert list(shown.values()) == [1, None, None, 2]


def test_the_same_id_is_counted_once(it: Stage) -> None:
    """Told again it changes nothing, also after a restart; with another content it is a conflict."""
    told = _event(id="call-1")
    assert _said(_post(it, told)) == (202, {"status": "accepted"})
    assert _said(_post(it, told)) == (202, {"status": "repeated"})
    status, said = _said(_post(it, told | {"promptTokens": 101}))
    assert (status, said) == (409, {"error": "this id was given to another event before"})
    told |= {"model": "claude-sonnet-4-5", "prompt_tokens": told["promptTokens"]}
    del told["promptTokens"]
    assert _said(_post(it, told)) == (202, {"status": "repeated"})
    _shown(it)
    assert it.value("ai_tokens_today", account="gateway") == 120


def test_a_request_with_a_key_is_counted_once(it: Stage) -> None:
    """Events without ids are told apart by their place in a request that has an Idempotency-Key; without, all count."""
    told = [_event(), _event(), _event(id="own")]
    for status in ("accepted", "repeated"):
        taken = _post(it, told, BATCH, **{"idempotency-key": "job-7"}).json()
        assert taken[status] == 3
    assert _post(it, told[:2], BATCH, **{"idempotency-key": "job-8"}).json()["accepted"] == 2
    assert _post(it, told[:2], BATCH).json()["accepted"] == 2
    _shown(it)
    assert it.value("ai_requests_today", account="gateway") == 7


def test_of_a_batch_the_good_ones_are_kept(it: Stage) -> None:
    """Bad ones are listed by index and reason with 207, the others are counted; camelCase and snake_case both do."""
    snake = {"provider": "vertex", "model": "gemini-3-pro", "timestamp": NOON.timestamp(), "completion_tokens": 5.0}
    bad = [
        (_event(promptTokens=-1), "promptTokens must be at least 0"),
        (_event(tokens=1), '"tokens" is unknown'),
        (_event(link="x"), '"link" is unknown'),
        (_event(promptTokens=1.5), "promptTokens: expected a whole number, got 1.5"),
        (_event(completionToken=1), '"completionToken" is unknown; did you mean completionTokens?'),
        (_event(model=""), "model must have at least 1 characters"),
        (_event(provider="Bedrock"), 'provider: "Bedrock" does not fit'),
        (_event(costUsd=-1), "costUsd: expected USD from 0 to 10000, got -1"),
        (_event(currency="EUR"), 'currency: expected "USD", got "EUR"'),
        (_event(timestamp="yesterday"), "timestamp: expected a time such as 2026-11-21T10:15:00Z"),
        (_event(timestamp="2026-11-18T12:00:00"), "timestamp: expected a time such as"),
        (_event(cacheReadTokens=101), "parts of promptTokens, and are more than it"),
        (_event(workspace="a\nb"), "workspace: holds a line break or another character that cannot be shown"),
        (_event(ago=-6 * MINUTE), "timestamp is more than 5 minutes in the future"),
        (_event(ago=36 * DAY), "timestamp is more than 35 days ago"),
        (7, "it: expected an object, got 7"),
    ]
    status, taken = _said(_post(it, {"events": [snake, *(one for one, _ in bad), _event()]}, BATCH))
    assert (status, taken["accepted"], taken["repeated"]) == (207, 2, 0)
    assert [one["index"] for one in taken["refused"]] == list(range(1, len(bad) + 1))
    for one, (_, reason) in zip(taken["refused"], bad, strict=True):
        assert reason in one["reason"], one
        assert one["status"] == 422
    _shown(it)
    assert it.value("ai_tokens_today", account="gateway") == 125


@pytest.mark.parametrize(
    ("path", "body", "status", "reason"),
    [
        (ONE, b"{", 400, "the body is no JSON"),
        (ONE, b'{"costUsd": NaN}', 400, "the body is no JSON"),
        (ONE, b"\xff", 400, "the body is no JSON"),
        (ONE, b"[]", 422, "it: expected an object, got a list"),
        (ONE, b'{"promptTokens": 1e99999999}', 422, "promptTokens: expected a whole number"),
        (BATCH, b"{}", 422, 'expected {"events": [...]}'),
        (BATCH, b"[]", 422, "a batch holds 1 to 300 events, got 0"),
        (BATCH, json.dumps([{}] * 301).encode(), 413, "a batch holds 1 to 300 events, got 301"),
        (CHANGES, b"{}", 422, "title is missing; time is missing"),
        (CHANGES, b'{"title": "t", "time": 1, "link": "ftp://x"}', 422, "link: "),
    ],
)
def test_a_request_that_is_refused_says_why(it: Stage, path: str, body: bytes, status: int, reason: str) -> None:
    """What cannot be read at all is refused whole, and nothing of it is kept."""
    answer = _post(it, body, path)
    assert answer.status_code == status
    assert reason in answer.json()["error"]


@pytest.mark.parametrize("path", [ONE, BATCH, CHANGES])
@pytest.mark.parametrize("header", ["", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer \xff"])
def test_nobody_pushes_without_a_sources_token(it: Stage, path: str, header: str) -> None:
    """Without the bearer token of a configured source the answer is 401, whatever the body is."""
    answer = httpx.post(it.url + path, content=b"{", headers={b"authorization": header.encode("latin-1")})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert TOKEN not in answer.text


def test_a_token_that_changes_in_its_file_is_known_without_a_reload(it: Stage) -> None:
    """The new one is taken and the old one no more; a file that cannot be read changes nothing."""
    file, new = it.folder / "gateway.token", "gateway-token-of-tomorrow"
    file.write_text(new)
    it.app._read_tokens()
    assert [_post(it, _event(), token=one).status_code for one in (TOKEN, new)] == [401, 202]
    for unusable in ("", "short", OTHER_TOKEN):
        file.write_text(unusable)
        it.app._read_tokens()
        assert _post(it, _event(), token=new).status_code == 202


def test_a_late_event_is_counted_in_its_own_hour(it: Stage) -> None:
    """An event of last week changes last week's day and not today, and history tells its hour."""
    _post(it, _event(costUsd=1))
    _post(it, _event(ago=7 * DAY, costUsd=2, id="late"))
    _shown(it)
    day = f"{NOON - 7 * DAY:%Y-%m-%d}"
    assert it.value("ai_cost_daily_usd", account="gateway", date=day) == 2
    assert it.value("ai_cost_today_usd", account="gateway") == 1
    assert it.value("ai_cost_30d_usd", account="gateway") == 3
    hour = int((NOON - 7 * DAY).replace(minute=0, second=0).timestamp()) * 1000
    wanted = ((EQUAL, "__name__", "ai_hourly_cost_usd"), (EQUAL, "account", "gateway"))
    (told,) = results(it.app._reader.answer(request(*wanted, since=hour, until=hour + 3_600_000)))
    assert [list(samples.values()) for samples in told.values()] == [[2]]


def test_pushed_spend_counts_in_budgets(it: Stage) -> None:
    """A budget over the source's account adds up what was pushed."""
    document = yaml.safe_load(it.config.path.read_text())
    document["budgets"] = [{"name": "g", "period": "month", "limit_usd": 10, "match": {"account": "gateway"}}]
    it.config.path.write_text(yaml.safe_dump(document))
    it.app.apply(load(it.config.path, PROVIDERS))
    _post(it, [_event(costUsd=1.5), _event(ago=HOUR, costUsd=0.5, provider="vertex")], BATCH)
    _shown(it)
    assert it.value("ai_budget_spent_usd", budget="g") == 2


def test_a_witness_is_compared_and_not_added(it: Stage) -> None:
    """What it saw of an account's newest complete hour is shown relative to what the provider told; it is no spend."""
    it.later(5 * MINUTE)
    hour = it.span("last_hour", "solo").start
    told = it.value("ai_tokens_last_hour", account="solo")
    assert told
    before = it.spend()
    half = _event(promptTokens=int(told / 2), completionTokens=0, timestamp=(hour + 30 * MINUTE).isoformat())
    assert _post(it, [half, _event(ago=3 * HOUR)], BATCH, token=OTHER_TOKEN).status_code == 202
    _shown(it)
    it.later(5 * MINUTE)
    assert it.span("last_hour", "solo").start == hour
    assert it.value("ai_account_witness_ratio", account="solo", source="watcher") == pytest.approx(0.5, abs=0.01)
    assert it.value("ai_cost_today_usd", account="watcher") is None
    assert it.spend("watcher") == {name: {} for name in before}


def test_too_many_providers_and_combinations_are_bounded(it: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source names twenty providers at most; beyond ten times max_series, labels become other and sums stay."""
    providers = [_event(provider=f"p{number}") for number in range(21)]
    taken = _post(it, providers, BATCH).json()
    assert taken["accepted"] == 20
    assert taken["refused"][0]["reason"] == "this source has told of 20 providers already"
    sender = it.app._sources._senders["gateway"]
    sender.source = replace(sender.source, max_series=1)
    models = [_event(provider="p0", model=f"m{number}") for number in range(30)]
    assert _post(it, models, BATCH).json()["accepted"] == 30
    _shown(it)
    known = {dict(one).get("model") for one in it.samples()["ai_tokens_today"] if ("provider", "p0") in one}
    assert "other" in known
    assert len(known) <= 12
    assert it.value("ai_tokens_today", provider="p0") == 31 * 120


def test_a_source_that_floods_is_told_to_wait(it: Stage) -> None:
    """Beyond its rate a source gets 429 with Retry-After, others do not, and later it is taken again."""
    sender = it.app._sources._senders["gateway"]
    assert sender.allowance.take(30_000)
    answer = _post(it, [_event()] * 300, BATCH)
    while answer.status_code == 202:
        answer = _post(it, [_event()] * 300, BATCH)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    assert _post(it, _event(), token=OTHER_TOKEN).status_code == 202


def test_changes_are_told_and_end(it: Stage) -> None:
    """A deployment is a metric and stands in the summary; told again it is the same; after a week it is gone."""
    told = {
        "title": "Search 1.2",
        "time": (NOON - HOUR).isoformat(),
        "service": "search",
        "link": "https://ci.example/7",
    }
    for _ in range(2):
        assert _said(_post(it, told, CHANGES)) == (202, {"status": "accepted"})
    metric = it.samples()["ai_change_timestamp_seconds"]
    assert [(dict(labels)["title"], value) for labels, value in metric.items()] == [
        ("Search 1.2", (NOON - HOUR).timestamp())
    ]
    (change,) = httpx.get(f"{it.url}/api/v1/ai/usage/summary").json()["changes"]
    assert (change["title"], change["service"], change["time"]) == ("Search 1.2", "search", "2026-11-18T11:07:30Z")
    page = it.app.views().landing()
    assert '<a rel="noreferrer" href="https://ci.example/7">Search 1.2</a></td><td>search</td>' in page
    for number in range(250):
        it.app._note(json.dumps(told | {"title": f"t{number}"}).encode())
    assert len(it.samples()["ai_change_timestamp_seconds"]) == 200
    it.clock.now += 7 * DAY
    assert "ai_change_timestamp_seconds" not in it.samples()


def test_the_summary_adds_up_to_metrics(it: Stage) -> None:
    """Totals, groups and days are those that /metrics shows, and sum to each other."""
    _post(it, [_event(costUsd=1.25, workspace="A"), _event(ago=DAY, costUsd=2, workspace="B")], BATCH)
    _shown(it)
    summary = httpx.get(f"{it.url}/api/v1/ai/usage/summary", params={"days": 30}).json()
    assert "<summary>gateway · $3.25</summary>" in it.app.views().landing()
    assert summary["totals"]["costUsd"] == pytest.approx(it.value("ai_cost_30d_usd"))
    assert summary["totals"]["tokens"] == it.value("ai_tokens_30d")
    assert summary["totals"]["requests"] == it.value("ai_requests_30d")
    for way in ("byProvider", "byAccount", "byWorkspace", "byModel", "byDay"):
        assert _sum(summary[way]) == pytest.approx(summary["totals"]["costUsd"])
    assert _sum(summary["topModels"], "costShare") == pytest.approx(1, abs=1e-4)
    assert {one["account"] for one in summary["freshness"]} == {"solo", "gateway"}
    assert all(one["up"] and one["completeUntil"] for one in summary["freshness"])
    today = httpx.get(f"{it.url}/api/v1/ai/usage/summary", params={"days": 1}).json()
    assert today["totals"]["costUsd"] == pytest.approx(it.value("ai_cost_today_usd"))
    for wrong in ("0", "36", "x", "-1"):
        assert httpx.get(f"{it.url}/api/v1/ai/usage/summary", params={"days": wrong}).status_code == 422


def _sum(groups: Sequence[Mapping[str, float]], name: str = "costUsd") -> float:
    return sum(one[name] for one in groups)


def test_what_was_pushed_is_there_after_a_restart(it: Stage) -> None:
    """A source's accounts are shown again at once, without anything being pushed."""
    _post(it, _event(costUsd=3, id="x"))
    _shown(it)
    it.app.apply(replace(it.config, sources=()))
    it.settle()
    assert it.value("ai_cost_today_usd", account="gateway") is None
    assert _post(it, _event(id="x", costUsd=3)).status_code == 401
    it.app.apply(it.config)
    _shown(it)
    assert it.value("ai_cost_today_usd", account="gateway") == 3
    assert _said(_post(it, _event(id="x", costUsd=3))) == (202, {"status": "repeated"})


def test_a_defect_in_showing_what_was_pushed_stops_nothing(it: Stage) -> None:
    """It is raised once, for the log; what else is due goes on, and what is pushed later is shown."""

    def defect(member: object) -> None:
        raise ZeroDivisionError

    publish, it.app._sources._publish = it.app._sources._publish, defect
    _post(it, _event(costUsd=1))
    it.app.tick()
    work = it.app._sources._work
    assert work is not None
    assert work.exception() is not None
    with pytest.raises(ZeroDivisionError):
        it.app.tick()
    it.app._sources._publish = publish
    _post(it, _event(costUsd=1))
    _shown(it)
    assert it.value("ai_cost_today_usd", account="gateway") == 2


def test_events_are_counted_by_outcome(it: Stage) -> None:
    """From zero for every source, so that a gateway that falls silent or is refused shows."""
    for outcome in ("accepted", "repeated", "conflict", "refused"):
        assert it.value("ai_exporter_ingest_events_total", source="gateway", outcome=outcome) == 0
    _post(it, [_event(id="a"), _event(id="a"), _event(id="a", requests=9), {}], BATCH)
    for outcome in ("accepted", "repeated", "conflict", "refused"):
        assert it.value("ai_exporter_ingest_events_total", source="gateway", outcome=outcome) == 1
