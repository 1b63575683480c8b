"""The JSON Schema that editors check a configuration with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from exporter.config.json_schema import render_json_schema
from exporter.providers import PROVIDERS
from tests.paths import ROOT

FILE = ROOT / "docs" / "config.schema.json"
EXAMPLE = ROOT / "config.example.yaml"
INVALID_DIR = Path(__file__).parent / "bad"


def _schema_errors(document: Any) -> list[str]:
    return [error.message for error in Draft202012Validator(json.loads(FILE.read_text())).iter_errors(document)]


def test_the_schema_is_current(request: pytest.FixtureRequest) -> None:
    """docs/config.schema.json is what the shapes of the configuration give; `make golden` writes it."""
    if request.config.getoption("--write-golden"):
        FILE.write_text(render_json_schema(PROVIDERS))
    assert FILE.read_text() == render_json_schema(PROVIDERS)
    Draft202012Validator.check_schema(json.loads(FILE.read_text()))


def test_the_example_names_the_schema_and_fits_it() -> None:
    """config.example.yaml tells editors where the schema is, and is good by it."""
    text = EXAMPLE.read_text()
    assert text.startswith("# yaml-language-server: $schema=docs/config.schema.json\n")
    assert _schema_errors(yaml.safe_load(text)) == []


def test_the_example_shows_every_key() -> None:
    """Whatever the schema knows stands in config.example.yaml."""
    text, known = EXAMPLE.read_text(), json.loads(FILE.read_text())
    for shape in (known, *known["$defs"].values()):
        for name in shape["properties"]:
            assert f"{name}:" in text, name


@pytest.mark.parametrize("name", ["two-keys", "unknown-keys", "unknown-provider", "durations", "labels", "encrypted"])
def test_the_schema_rejects_what_a_start_rejects(name: str) -> None:
    """What is wrong in one place only is seen in the editor already."""
    assert _schema_errors(yaml.safe_load((INVALID_DIR / f"{name}.yaml").read_text())) != []
