"""Answers of a provider that are valid JSON but odd: no account, and no part of the process, stops because of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import pytest

from exporter.model import DAY, HOUR
from exporter.providers.testing import ReceivedRequest, Reply, start_canned_server
from tests.system import System, make_account, start_small_system

MINUTE = timedelta(minutes=1)
ODD_TEXTS = {
    "half of a pair": "gpt\ud83d",
    "other half": "\ude00gpt",
    "zero byte": "gpt\x00-5",
    "zero byte again": "gpt\x00-6",
    "line break": "gpt\n5",
    "escape": "\x1b[31mred",
    "long": "m" * 100_000,
    "long with another end": "m" * 99_999 + "n",
    "direction": "\u202egpt",
    "smile": "gpt \U0001f600",
    "quote": 'gpt "5" \\',
}


def _openai_answer(request: ReceivedRequest, text: str) -> Reply:
    """Answer as OpenAI does, with 1000 output tokens in every hour, and a text wherever there can be one."""
    if request.path.endswith("/projects"):
        project = {"id": text, "name": text, "status": "active"}
        return Reply({"data": [project], "has_more": False})
    if "/usage/completions" in request.path:
        width = 3600
        value: dict[str, Any] = {"input_tokens": 0, "output_tokens": 1000, "num_model_requests": 1}
    elif request.path.endswith("/costs"):
        width = 86400
        value = {"amount": {"value": 0.5, "currency": "usd"}, "line_item": text}
    else:
        return Reply({"error": {"message": text, "code": text}}, 404)
    result: dict[str, Any] = {**value, "project_id": text, "model": text, "service_tier": text, "api_key_id": text}
    start, end = (int(request.query[name][0]) for name in ("start_time", "end_time"))
    buckets = [
        {"start_time": begin, "end_time": min(begin + width, end), "results": [result]}
        for begin in range(start, end, width)
    ]
    # ASCII: a half of a surrogate pair travels as an escape, as json.dumps of many languages writes it.
    return Reply(json.dumps({"data": buckets, "has_more": False}).encode())


@pytest.fixture(name="system", scope="module")
def _start_system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder: Path = tmp_path_factory.mktemp("odd")
    with start_small_system(folder, make_account("openai"), make_account("anthropic", "other")) as system:
        yield system


@pytest.mark.parametrize("text", ODD_TEXTS.values(), ids=ODD_TEXTS)
def test_an_odd_text_stops_nothing(system: System, text: str) -> None:
    """Whatever a name, model, tier, line item or error contains, usage is counted and the process keeps running."""
    with start_canned_server(lambda request: _openai_answer(request, text)) as server:
        system.change_account("solo", lambda account: account.model_copy(update={"base_url": server.url}))
        system.advance(HOUR)
        samples = system.samples()
    hours = system.clock.now.hour + 1
    assert system.app.fatal is None
    assert system.problems("solo") == set()
    assert system.problems("other") == set()
    tokens = {
        dict(labels)["model"]: value
        for labels, value in samples["ai_tokens_today"].items()
        if ("account", "solo") in labels and value
    }
    # The overlap is read again under the name of this test; earlier hours keep the names of earlier tests.
    assert sum(tokens.values()) == hours * 1000
    assert all(len(model) <= 256 and model.isprintable() for model in tokens)


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
@pytest.mark.parametrize("fault", ["empty", "shortened"])
def test_an_answer_without_its_buckets_changes_nothing(
    tmp_path: Path, provider: Literal["openai", "anthropic"], fault: str
) -> None:
    """While answers have no or too few buckets, the stored usage stays and the account is reported as malformed."""
    with start_small_system(tmp_path, make_account(provider)) as system:
        system.poll_until_idle()
        before = system.exported_totals("ai_tokens_today")
        billed = system.nano_usd("ai_cost_daily_usd")
        system.simulator.add_fault("solo", fault)
        system.advance(30 * MINUTE)
        assert system.problems("solo") == {"malformed"}
        assert system.exported_totals("ai_tokens_today") == before
        assert system.nano_usd("ai_cost_daily_usd") == billed

        system.simulator.clear_faults("solo")
        system.advance(20 * MINUTE)
        assert system.problems("solo") == set()
        assert system.exported_totals("ai_tokens_today") == system.expected_totals("today")[0]


@pytest.mark.parametrize("tokens", [10**12, 10**13, 2**63 - 1, 10**30])
def test_an_absurd_number_is_no_failure_of_the_ledger(tmp_path: Path, tokens: int) -> None:
    """However many tokens a provider claims in every hour, the process keeps running, and corrections are exported."""
    number = [tokens]

    def answer(request: ReceivedRequest) -> Reply:
        reply = _openai_answer(request, "gpt-5-2025-08-07")
        assert isinstance(reply.body, bytes | dict)
        if isinstance(reply.body, bytes):
            return Reply(reply.body.replace(b'"output_tokens": 1000', b'"output_tokens": %d' % number[0]))
        return reply

    with (
        start_small_system(tmp_path, make_account("openai"), make_account("anthropic", "other")) as system,
        start_canned_server(answer) as server,
    ):
        system.change_account("solo", lambda account: account.model_copy(update={"base_url": server.url}))
        system.poll_until_idle()
        for _ in range(3):
            system.advance(HOUR)
            assert system.app.fatal is None
            assert system.problems("other") == set()
        number[0] = 1000
        system.advance(DAY)
        assert system.app.fatal is None
        assert system.problems("solo") == set()
        assert system.value("ai_tokens_today", account="solo") == 1000 * (system.clock.now.hour + 1)
