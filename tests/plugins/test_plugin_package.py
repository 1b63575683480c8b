"""A provider in a package of its own: installed, found by its entry point, tested by the contract, and used."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from exporter.errors import ConfigError
from exporter.providers import PROVIDERS, known_key_kinds, load_providers, provider_console, provider_options_model
from exporter.providers.testing import FakeApi, ReceivedRequest, Reply
from tests.paths import ROOT

PACKAGE = ROOT / "tests" / "plugin_package"
DOCUMENT = (ROOT / "docs" / "providers.md").read_text()
FILES = ("pyproject.toml", "metered.py", "test_metered.py")


@pytest.fixture(scope="module", name="source")
def _copy_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the three files that docs/providers.md shows into a folder of their own."""
    folder = tmp_path_factory.mktemp("metered")
    for name in FILES:
        shutil.copy(PACKAGE / name, folder)
    return folder


@pytest.fixture(scope="module", name="installed")
def _install(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the package and install it into a folder, without a network."""
    target = tmp_path_factory.mktemp("installed")
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-index", "--no-build-isolation"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


def _environment(installed: Path) -> dict[str, str]:
    paths = os.pathsep.join([str(installed), str(ROOT)])
    return {"PATH": os.environ["PATH"], "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1", "LANG": "C.UTF-8"}


def test_the_document_shows_the_package() -> None:
    """The example in docs/providers.md is the package that the tests of this file install and run."""
    shown = dict(re.findall(r"`([\w.]+)`:\n\n```\w+\n(.*?)```", DOCUMENT, re.DOTALL))
    assert shown == {name: (PACKAGE / name).read_text() for name in FILES}


def test_an_installed_package_is_a_provider(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After installation the provider is in the table under its entry point's name, with all of its parts."""
    monkeypatch.syspath_prepend(str(installed))
    providers = load_providers()
    assert set(providers) == {*PROVIDERS, "metered"}
    metered = providers["metered"]
    assert [(report.name, report.kind) for report in metered.reports] == [("usage", "usage"), ("costs", "bill")]
    console = provider_console(metered)
    assert console is not None
    assert console.url == "https://metered.example/usage"
    assert set(provider_options_model(metered).model_fields) == {"organization"}
    assert "mtr-admin-" in {kind.prefix for kind in known_key_kinds("openai", providers)}


def test_the_package_passes_the_contract(installed: Path, source: Path) -> None:
    """The package's own tests, which subclass the contract, pass where it is installed; none is skipped."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_metered.py"]
    done = subprocess.run(
        command, cwd=source, env=_environment(installed), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    summary = re.fullmatch(r"(\d+) passed in .*", done.stdout.strip().splitlines()[-1])
    assert summary is not None, done.stdout
    assert int(summary[1]) > 25


def _respond(request: ReceivedRequest) -> Reply:
    """Answer as the organization of the key, which has used a model today."""
    path = request.path.removeprefix("/v1/organizations/me")
    if path == "":
        return Reply({"name": "Acme"})
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    entries: dict[str, list[dict[str, object]]] = {
        "/usage": [{"date": today, "model": "small", "input_tokens": 7, "output_tokens": 3, "requests": 1}],
        "/costs": [{"date": today, "item": "small usage", "usd": "1.5"}],
        "/workspaces": [],
    }
    return Reply({"data": entries[path], "total": len(entries[path])})


@pytest.mark.parametrize(("key", "output"), [("mtr-admin-1", "ok, organization Acme"), ("mtr-1", "inference key")])
def test_the_exporter_uses_the_package(installed: Path, tmp_path: Path, key: str, output: str) -> None:
    """`check keys` reads every report of an account of the new provider, and rejects its other type of key."""
    (tmp_path / "key").write_text(key)
    (tmp_path / "key").chmod(0o600)
    with FakeApi(_respond, key=key) as api:
        account = {"name": "metered", "provider": "metered", "api_key_file": "key", "base_url": api.base_url}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump({"accounts": [account]}))
        command = [sys.executable, "-m", "exporter", "check", "keys", "--config.file=config.yaml"]
        done = subprocess.run(
            command, cwd=tmp_path, env=_environment(installed), capture_output=True, text=True, timeout=60, check=False
        )
    assert output in " ".join(done.stdout.split()), done.stdout + done.stderr
    assert done.returncode == (0 if key == "mtr-admin-1" else 1)
    if done.returncode == 0:
        assert "reads usage, costs, names" in done.stdout
    else:
        assert api.statuses == []


def test_two_packages_of_one_name_are_an_error(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When two packages add a provider of the same name, loading fails with the second one's entry point."""
    info = tmp_path / "other-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ai_spend_exporter.providers]\nmetered = metered:Metered\n")
    monkeypatch.syspath_prepend(str(installed))
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match=r"entry point metered = metered:Metered: .* exists already"):
        load_providers()
