"""The table of providers, and what installed packages may add to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporter.errors import ConfigError
from exporter.providers import PROVIDERS, load_providers

PLUGIN = """
class Local:
    reports = ()
    key_kinds = ()
    base_url = "http://127.0.0.1"
    def __init__(self, config): pass
    def fetch(self, report, since, until): return iter(())
    def names(self): return {}
    def verify(self): return "ok"
    def close(self): pass

class Half:
    reports = ()
"""


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, entries: str) -> None:
    """Put a package with these entry points onto the path."""
    info = folder / "plug_in-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plug-in\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[ai_spend_exporter.providers]\n{entries}\n")
    (folder / "plug_in_module.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(folder))


def test_the_three_providers() -> None:
    """Without further packages the table is the literal one; each class says which key is the right one."""
    assert set(load_providers()) == set(PROVIDERS) == {"openai", "anthropic", "cursor"}
    for kind in PROVIDERS.values():
        assert any(not key.advice for key in kind.key_kinds)
        assert kind.base_url.startswith("https://")


def test_a_package_adds_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package's entry point is one more provider."""
    install(tmp_path, monkeypatch, "local = plug_in_module:Local")
    assert load_providers()["local"].base_url == "http://127.0.0.1"


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ("openai = plug_in_module:Local", "exists already"),
        ("local = no_such_module:Local", "cannot be loaded"),
        ("local = plug_in_module:Missing", "cannot be loaded"),
        ("local = plug_in_module:Half", "it has no key_kinds, base_url, fetch, names, verify, close"),
    ],
)
def test_packages_that_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str, complaint: str) -> None:
    """An entry point that is taken, broken or no provider is told with its name."""
    install(tmp_path, monkeypatch, entry)
    with pytest.raises(ConfigError, match=f"entry point {entry.split(maxsplit=1)[0]} .*{complaint}"):
        load_providers()


@pytest.mark.parametrize(
    ("provider", "key", "kind"),
    [
        ("openai", "sk-admin-x", ""),
        ("openai", "sk-proj-x", "project key"),
        ("openai", "sk-svcacct-x", "service account key"),
        ("openai", "sk-x", "personal key"),
        ("openai", "sk-ant-admin01-x", "Anthropic key"),
        ("anthropic", "sk-ant-admin01-x", ""),
        ("anthropic", "sk-ant-oat01-x", ""),
        ("anthropic", "sk-ant-api03-x", "workspace key"),
        ("anthropic", "sk-ant-api01-x", "Enterprise analytics key"),
        ("anthropic", "sk-admin-x", "OpenAI key"),
        ("cursor", "crsr_x", ""),
        ("cursor", "key_x", ""),
        ("cursor", "sk-x", "OpenAI key"),
    ],
)
def test_kinds_of_keys(provider: str, key: str, kind: str) -> None:
    """The longest prefix tells the kind of a key; wrong kinds come with advice."""
    fitting = [known for known in PROVIDERS[provider].key_kinds if key.startswith(known.prefix)]
    longest = max(fitting, key=lambda known: len(known.prefix))
    assert (longest.name if longest.advice else "") == kind
