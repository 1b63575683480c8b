"""The API for those who push, asked in the ways that its own document allows, and in many that it does not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import schemathesis
from hypothesis import settings
from schemathesis import Case, GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from exporter import __version__
from exporter.web.openapi import build_openapi_document
from tests.command import ExporterProcess, start_exporter

TOKEN = "gateway-token-8d24b0a6"
MAX_EXAMPLES = 60
"""Random ones of each operation, beside those that its limits suggest."""

STATUSES = {
    "positive_data_acceptance": ["2xx", "409"],
    "negative_data_rejection": ["207", "400", "401", "405", "409", "413", "422"],
}
CONFIG = schemathesis.Config.from_dict(
    {"checks": {check: {"expected-statuses": statuses} for check, statuses in STATUSES.items()}}
)
API = schemathesis.openapi.from_dict(json.loads(json.dumps(build_openapi_document(__version__))), config=CONFIG)


@pytest.fixture(scope="module", name="exporter")
def _start_exporter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExporterProcess]:
    folder = tmp_path_factory.mktemp("document")
    (folder / "token").touch(mode=0o600)
    (folder / "token").write_text(TOKEN)
    (folder / "config.yaml").write_text("ingest: {sources: [{name: gateway, token_file: token}]}\n")
    with start_exporter(f"--config.file={folder / 'config.yaml'}", f"--storage.path={folder / 'ledger'}") as exporter:
        yield exporter


def test_the_served_document_is_the_tested_one(exporter: ExporterProcess) -> None:
    """The running server's own document is what the cases below are made from."""
    assert exporter.get("/api/v1/openapi.json").json() == API.raw_schema


@API.parametrize()
@settings(max_examples=MAX_EXAMPLES, deadline=None, derandomize=True)
def test_with_a_token_every_answer_is_a_documented_one(exporter: ExporterProcess, case: Case[Any]) -> None:
    """What fits is taken, what does not fit is refused, and no answer is a 5xx, or unknown to the document."""
    fits = case.meta is not None and case.meta.generation.mode is GenerationMode.POSITIVE
    body: Any = case.body
    if fits and isinstance(body, dict):
        for one in body.get("events", [body]):
            _make_valid(one)
    answer = case.call_and_validate(base_url=exporter.url, headers={"Authorization": f"Bearer {TOKEN}"})
    if fits and answer.status_code == 207:
        assert {refused["status"] for refused in answer.json()["rejected"]} == {409}


def test_a_number_of_any_length_is_rejected(exporter: ExporterProcess) -> None:
    """More digits than Python reads as a number are 422 like any number that is out of range."""
    assert exporter.get(f"/api/v1/ai/usage/summary?days={'9' * 5000}").status_code == 422


@API.include(method="POST").parametrize()
@settings(max_examples=MAX_EXAMPLES // 4, deadline=None, derandomize=True)
def test_without_a_token_nothing_is_accepted(exporter: ExporterProcess, case: Case[Any]) -> None:
    """Whatever is pushed without a source's token, well-formed or not, is 401 as documented."""
    case.headers.pop("Authorization", None)
    answer = case.call_and_validate(base_url=exporter.url, excluded_checks=[positive_data_acceptance])
    assert answer.status_code == (401 if case.method == "POST" else 405)


def _make_valid(body: dict[str, Any]) -> None:
    """Give an event or a change what a schema cannot ask for: a time of late, printable names, 1 and not 1.0."""
    body.update({name: datetime.now(UTC).isoformat() for name in body.keys() & {"time", "timestamp"}})
    for name, value in body.items():
        if isinstance(value, str):
            body[name] = "".join(filter(str.isprintable, value)) or "x" * bool(value)
        elif isinstance(value, float) and value.is_integer():
            body[name] = int(value)
    if "provider" in body:
        body.update(provider="vllm", promptTokens=10**9, cacheWriteTokens=0)
