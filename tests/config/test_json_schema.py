"""The JSON Schema of the configuration, for editors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from pydantic import BaseModel

from exporter.config.json_schema import render_json_schema
from exporter.providers import PROVIDERS
from tests.paths import ROOT

FILE = ROOT / "docs" / "config.schema.json"
EXAMPLE = ROOT / "config.example.yaml"
INVALID_DIR = Path(__file__).parent / "bad"


def _schema_errors(document: Any) -> list[str]:
    return [error.message for error in Draft202012Validator(json.loads(FILE.read_text())).iter_errors(document)]


def test_the_schema_is_current(request: pytest.FixtureRequest) -> None:
    """docs/config.schema.json is generated from the models of the configuration; `make golden` writes it."""
    if request.config.getoption("--write-golden"):
        FILE.write_text(render_json_schema(PROVIDERS))
    assert FILE.read_text() == render_json_schema(PROVIDERS)
    Draft202012Validator.check_schema(json.loads(FILE.read_text()))


def test_the_example_names_the_schema_and_is_valid() -> None:
    """config.example.yaml names the schema for editors, and is valid by it."""
    text = EXAMPLE.read_text()
    assert text.startswith("# yaml-language-server: $schema=docs/config.schema.json\n")
    assert _schema_errors(yaml.safe_load(text)) == []


def test_the_example_shows_every_key() -> None:
    """config.example.yaml contains every key of the schema."""
    text, known = EXAMPLE.read_text(), json.loads(FILE.read_text())
    for definition in (known, *known["$defs"].values()):
        for name in definition["properties"]:
            assert f"{name}:" in text, name


@pytest.mark.parametrize(
    "name", ["two-keys", "unknown-keys", "unknown-provider", "durations", "labels", "encrypted", "options"]
)
def test_the_schema_rejects_what_a_start_rejects(name: str) -> None:
    """The schema finds errors of single values, so that an editor shows them."""
    assert _schema_errors(yaml.safe_load((INVALID_DIR / f"{name}.yaml").read_text())) != []


class _Region(BaseModel):
    name: str


class _Options(BaseModel):
    organisation: str
    regions: list[_Region] = []


class _Hosted:
    options_model = _Options


@pytest.mark.parametrize(
    ("options", "valid"),
    [
        ({"organisation": "acme", "regions": [{"name": "eu"}]}, True),
        ({"organisation": "acme", "regions": [{"nam": "eu"}]}, False),
        ({"organisation": "acme", "team": 7}, False),
        ({}, False),
        (None, False),
    ],
)
def test_the_schema_contains_the_options_of_each_provider(options: Any, valid: bool) -> None:
    """An account's options are checked with its provider's model, and required where the model requires them."""
    schema = json.loads(render_json_schema({**PROVIDERS, "hosted": _Hosted}))
    account = {"name": "acme", "provider": "hosted", "api_key_env": "KEY"}
    if options is not None:
        account["options"] = options
    assert Draft202012Validator(schema).is_valid({"accounts": [account]}) is valid
    assert Draft202012Validator(schema).is_valid({"accounts": [{**account, "provider": "openai", "options": {}}]})
