"""The systemd unit: its flags, its folders and its credentials fit the program and the documents."""

from __future__ import annotations

import click

from exporter.cli import main
from tests.paths import ROOT

UNIT = ROOT / "deploy" / "systemd" / "ai-spend-exporter.service"


def _settings() -> dict[str, str]:
    """Return the settings of the unit by name; of those given several times, the last."""
    lines = UNIT.read_text().replace("\\\n", " ").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def test_the_service_starts_the_program_with_flags_that_it_knows() -> None:
    """The command is `run` with known flags, and the ledger is in the service's own folder."""
    settings = _settings()
    program, command, *flags = settings["ExecStart"].split()
    called = main.get_command(click.Context(main), command)
    assert called
    values = dict(flag.split("=") for flag in flags)
    assert values.keys() <= {option for parameter in called.params for option in parameter.opts}
    assert values["--storage.path"] == f"/var/lib/{settings['StateDirectory']}"
    assert program == "/opt/ai-spend-exporter/bin/ai-spend-exporter"
    assert settings["ExecReload"] == "/bin/kill -HUP $MAINPID"


def test_the_service_has_no_rights() -> None:
    """A dynamic user without capabilities, and nothing writable but the ledger; keys are credentials."""
    settings = _settings()
    assert settings["DynamicUser"] == "yes"
    assert settings["ProtectSystem"] == "strict"
    assert settings["CapabilityBoundingSet"] == settings["AmbientCapabilities"] == ""
    assert not {"User", "ReadWritePaths", "Environment", "EnvironmentFile"} & settings.keys()
    name, _, folder = settings["LoadCredential"].partition(":")
    documented = (ROOT / "docs" / "kubernetes.md").read_text()
    assert f"api_key_file: /run/credentials/{UNIT.name}/{name}_openai" in documented
    assert f"{folder}/openai" in documented
