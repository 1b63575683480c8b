"""The JSON API against its OpenAPI document: generated requests that the document allows, and others."""

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
from exporter.web.api import REREAD_PATH
from exporter.web.openapi import build_openapi_document
from tests.command import ExporterProcess, start_exporter

TOKEN = "gateway-token-8d24b0a6"
MAX_EXAMPLES = 30
"""Random requests of each operation, besides those at the limits of its schema."""

STATUSES = {
    "positive_data_acceptance": ["2xx", "409"],
    "negative_data_rejection": ["207", "400", "401", "405", "409", "413", "422"],
}
CONFIG = schemathesis.Config.from_dict(
    {"checks": {check: {"expected-statuses": statuses} for check, statuses in STATUSES.items()}}
)
API = schemathesis.pytest.from_fixture("api")
PUSH_API, REREAD_API = API.exclude(path=REREAD_PATH), API.include(path=REREAD_PATH)
"""A push needs a token; the days that may be read again depend on what the exporter has read.

Loaded when its tests run: every test process collects all tests, and generating these requests takes seconds."""


@pytest.fixture(scope="module", name="document")
def _load_document() -> schemathesis.BaseSchema:
    document = json.loads(json.dumps(build_openapi_document(__version__)))
    return schemathesis.openapi.from_dict(document, config=CONFIG)


@pytest.fixture(name="api")
def _prepare_api(request: pytest.FixtureRequest, document: schemathesis.BaseSchema) -> schemathesis.BaseSchema:
    """Return the document. schemathesis 4.32 reads an attribute that tests have lost in pytest 9.2."""
    request.node._nodeid = request.node.nodeid
    return document


@pytest.fixture(scope="module", name="exporter")
def _start_exporter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExporterProcess]:
    folder = tmp_path_factory.mktemp("document")
    (folder / "token").touch(mode=0o600)
    (folder / "token").write_text(TOKEN)
    (folder / "config.yaml").write_text("ingest: {sources: [{name: gateway, token_file: token}]}\n")
    flags = (f"--config.file={folder / 'config.yaml'}", f"--storage.path={folder / 'ledger'}")
    with start_exporter(*flags, "--web.enable-lifecycle") as exporter:
        yield exporter


def test_the_served_document_is_the_tested_one(exporter: ExporterProcess, document: schemathesis.BaseSchema) -> None:
    """The server serves the document from which the requests of these tests are generated."""
    assert exporter.get("/api/v1/openapi.json").json() == document.raw_schema


@settings(max_examples=MAX_EXAMPLES, deadline=None, derandomize=True)
@PUSH_API.parametrize()
def test_with_a_token_every_answer_is_a_documented_one(exporter: ExporterProcess, case: Case[Any]) -> None:
    """Valid requests are accepted, invalid ones rejected, and every response is in the document; none is a 5xx."""
    valid = case.meta is not None and case.meta.generation.mode is GenerationMode.POSITIVE
    body: Any = case.body
    if valid and isinstance(body, dict):
        for event in body.get("events", [body]):
            _make_valid(event)
    response = case.call_and_validate(base_url=exporter.url, headers={"Authorization": f"Bearer {TOKEN}"})
    if valid and response.status_code == 207:
        assert {rejected["status"] for rejected in response.json()["rejected"]} == {409}


def test_a_number_of_any_length_is_rejected(exporter: ExporterProcess) -> None:
    """A number with more digits than Python parses is answered with 422, like any number out of range."""
    assert exporter.get(f"/api/v1/ai/usage/summary?days={'9' * 5000}").status_code == 422


@settings(max_examples=MAX_EXAMPLES // 4, deadline=None, derandomize=True)
@PUSH_API.include(method="POST").parametrize()
def test_without_a_token_nothing_is_accepted(exporter: ExporterProcess, case: Case[Any]) -> None:
    """Without a token every push is answered with 401, valid or not."""
    case.headers.pop("Authorization", None)
    response = case.call_and_validate(base_url=exporter.url, excluded_checks=[positive_data_acceptance])
    assert response.status_code == (401 if case.method == "POST" else 405)


@settings(max_examples=MAX_EXAMPLES // 4, deadline=None, derandomize=True)
@REREAD_API.parametrize()
def test_every_answer_about_days_to_read_again_is_a_documented_one(exporter: ExporterProcess, case: Case[Any]) -> None:
    """Any days and names have a documented answer, 400 or 404 where there is nothing to read."""
    response = case.call_and_validate(base_url=exporter.url, excluded_checks=[positive_data_acceptance])
    assert response.status_code in (400, 404, 405)


def _make_valid(body: dict[str, Any]) -> None:
    """Give an event what a schema cannot require: a recent time, printable names, integers that are not 1.0."""
    body.update({name: datetime.now(UTC).isoformat() for name in body.keys() & {"time", "timestamp"}})
    for name, value in body.items():
        if isinstance(value, str):
            body[name] = "".join(filter(str.isprintable, value)) or "x" * bool(value)
        elif isinstance(value, float) and value.is_integer():
            body[name] = int(value)
    if "provider" in body:
        body.update(provider="vllm", promptTokens=10**9, cacheWriteTokens=0)
