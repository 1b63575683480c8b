"""The table of providers, the plug-ins of installed packages, and the construction of providers."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from exporter.config.keys import diagnose, find_key_kind
from exporter.errors import ConfigError
from exporter.model import DAY, HOUR, Report, Secret
from exporter.providers import (
    PROVIDERS,
    ProviderType,
    create_provider,
    known_key_kinds,
    load_providers,
    provider_options_model,
)
from exporter.providers.anthropic import Anthropic
from exporter.providers.base import ClientConfig, NoOptions
from exporter.providers.cursor import Cursor
from exporter.providers.openai import OpenAI

PLUGIN = """
from exporter.providers.anthropic import Anthropic
from exporter.providers.base import KeyKind

class Local:
    reports = ()
    key_kinds = (KeyKind("local-", "key"),)
    base_url = "http://127.0.0.1"
    def __init__(self, client_config, options): pass
    def fetch(self, report, since, until): return iter(())
    def names(self): return {}
    def verify(self): return "ok"
    def close(self): pass

class Half:
    reports = ()

class OneArgument(Local):
    def __init__(self, client_config): pass

class OtherOptions(Local):
    options_model = dict
"""


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, entries: str) -> None:
    """Put a package with these entry points onto the path."""
    info = folder / "plug_in-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plug-in\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[ai_spend_exporter.providers]\n{entries}\n")
    (folder / "plug_in_module.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(folder))


def test_the_built_in_providers() -> None:
    """Without plug-ins the table has the built-in providers; each accepts some type of key."""
    assert load_providers() == PROVIDERS
    for kind in PROVIDERS.values():
        assert any(not key.advice for key in kind.key_kinds)
        assert kind.base_url.startswith("https://")


def test_a_package_adds_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package's entry point is another provider."""
    install(tmp_path, monkeypatch, "local = plug_in_module:Local")
    assert load_providers()["local"].base_url == "http://127.0.0.1"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("openai = plug_in_module:Local", "exists already"),
        ("local = no_such_module:Local", "cannot be loaded"),
        ("local = plug_in_module:Missing", "cannot be loaded"),
        ("local = plug_in_module:OneArgument", r"does not take \(client_config, options\)"),
        ("local = plug_in_module:OtherOptions", "its options_model is not a pydantic model"),
        ("local = plug_in_module:Half", "it has no key_kinds, base_url, fetch, names, verify, close"),
    ],
)
def test_packages_that_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str, message: str) -> None:
    """An entry point whose name is taken, or that is broken or not a provider, is an error with its name."""
    install(tmp_path, monkeypatch, entry)
    with pytest.raises(ConfigError, match=f"entry point {entry.split(maxsplit=1)[0]} .*{message}"):
        load_providers()


@pytest.mark.parametrize(
    ("provider", "key", "kind"),
    [
        ("openai", "sk-admin-x", ""),
        ("openai", "sk-proj-x", "project key"),
        ("openai", "sk-svcacct-x", "service account key"),
        ("openai", "sk-x", "personal key"),
        ("openai", "sk-ant-admin01-x", "anthropic key"),
        ("anthropic", "sk-ant-admin01-x", ""),
        ("anthropic", "sk-ant-oat01-x", ""),
        ("anthropic", "sk-ant-api03-x", "workspace key"),
        ("anthropic", "sk-ant-api01-x", "Enterprise analytics key"),
        ("anthropic", "sk-admin-x", "openai key"),
        ("cursor", "crsr_x", ""),
        ("cursor", "key_x", ""),
        ("cursor", "sk-x", "openai key"),
    ],
)
def test_kinds_of_keys(provider: str, key: str, kind: str) -> None:
    """The longest prefix decides the type of a key; a type that cannot work comes with advice."""
    key_kind = find_key_kind(Secret(key), known_key_kinds(provider, PROVIDERS))
    assert key_kind is not None
    assert (key_kind.name if key_kind.advice else "") == kind


def test_the_keys_of_a_plugin_are_known_to_every_provider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plug-in's prefixes are recognised in accounts of the other providers, without a change to those."""
    install(tmp_path, monkeypatch, "local = plug_in_module:Local")
    rejected = diagnose(Secret("local-key"), known_key_kinds("openai", load_providers()))
    assert rejected is not None
    assert rejected.advice == "This is a key of local: give the account `provider: local`."
    assert diagnose(Secret("local-key"), known_key_kinds("local", load_providers())) is None


class RegionOptions(BaseModel):
    """The options of a provider that requires one."""

    region: str


class Regional(OpenAI):
    """A provider with an option."""

    options_model = RegionOptions

    def __init__(self, client_config: ClientConfig, options: RegionOptions) -> None:
        super().__init__(client_config, NoOptions())
        self.region = options.region


def test_a_provider_gets_its_options() -> None:
    """The options of the account reach the constructor; a provider that requires some cannot do without."""
    client_config = ClientConfig(Secret("a-key"), "http://127.0.0.1:9")
    regional: ProviderType = Regional
    provider = create_provider(regional, client_config, RegionOptions(region="eu"))
    assert isinstance(provider, Regional)
    assert provider.region == "eu"
    provider.close()
    with pytest.raises(ConfigError, match="the provider requires region"):
        create_provider(regional, client_config)


def test_a_provider_without_an_options_model_has_no_options() -> None:
    """Without an options model of its own, a provider accepts no option."""
    for provider_type in (OpenAI, Anthropic, Cursor):
        model = provider_options_model(provider_type)
        assert model is NoOptions
        with pytest.raises(ValueError, match="region"):
            model.model_validate({"region": "eu"})


@pytest.mark.parametrize("kind", ["usage", "bill"])
@pytest.mark.parametrize("width", [HOUR, DAY])
def test_both_kinds_of_report_have_both_widths(kind: Literal["usage", "bill"], width: timedelta) -> None:
    """Usage and bills are reported by hour or by day."""
    report = Report("r", kind, width, HOUR, DAY, DAY, HOUR, DAY)
    assert (report.kind, report.width) == (kind, width)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": ""}, "no name"),
        ({"kind": "costs"}, "neither usage nor bill"),
        ({"width": timedelta(minutes=1)}, "neither an hour nor a day"),
        ({"poll_interval": timedelta(milliseconds=900)}, "shorter than a second"),
        ({"poll_interval": timedelta(0)}, "shorter than a second"),
        ({"lag": -HOUR}, "negative"),
        ({"overlap": -HOUR}, "negative"),
    ],
)
def test_reports_that_cannot_be_polled_are_rejected(change: dict[str, Any], message: str) -> None:
    """A report with another kind or width, or without a usable interval, cannot be constructed."""
    with pytest.raises(ValueError, match=message):
        replace(Report("r", "usage", HOUR, HOUR, DAY, DAY, HOUR, DAY), **change)
