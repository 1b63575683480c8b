"""Every provider, built in or added by an installed package, has a contract test."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from exporter.providers import PROVIDERS, load_providers
from exporter.providers.openai import OpenAI
from exporter.providers.testing import providers_without_contract
from tests.paths import ROOT
from tests.providers.test_provider_table import install


def _import_contract_tests() -> None:
    """Import every test module of this folder, so that all contract tests are known."""
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))


def test_every_provider_has_a_contract_test() -> None:
    """A provider in the table or behind an installed entry point passes the contract in this folder."""
    _import_contract_tests()
    assert providers_without_contract(load_providers()) == []


def test_a_provider_without_a_contract_test_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plug-in that no contract test names is reported, as is a new class in the table."""
    _import_contract_tests()
    install(tmp_path, monkeypatch, "local = plug_in_module:Local")
    assert providers_without_contract(load_providers()) == ["local"]

    class Derived(OpenAI):
        """A provider that inherits everything but is not tested itself."""

    assert providers_without_contract({**PROVIDERS, "derived": Derived}) == ["derived"]
