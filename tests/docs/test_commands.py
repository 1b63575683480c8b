"""Every command of the documents, run as a reader would: in order, against an exporter with simulated providers.

The commands of docs/push.md are run by test_push_examples, which also compares the metrics.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from exporter.model import DAY
from tests.command import ENVIRONMENT, ExporterProcess, Sandbox, start_exporter, start_sandbox
from tests.docs.documents import DOCUMENTS, Command, read_commands, relative_path
from tests.paths import ROOT
from tests.servers import BIN_DIRS
from tests.system import make_account, midnight

NOT_RUN = {
    "pip install .": "test_package installs the wheel",
    "docker build": "test_package and test_compose check the image's recipe",
    "docker run": "test_package and test_compose check the image's recipe",
    "apt-get install": "it changes the machine",
    "sudo ": "it changes the machine",
    "helm ": "`make deploy-check` renders the chart with the flags of these commands",
    "kubectl ": "it needs a cluster",
    "cosign ": "it needs a released image",
}
"""Beginnings of commands that download something or need a daemon, and the reason why they are not run."""

RULE_TESTS = "promtool test rules "

TIMEOUT = 120
"""Seconds for one command."""

REPOSITORY_PATHS = (
    "alerting",
    "config.example.yaml",
    "deploy",
    "docs",
    "exporter",
    "grafana",
    "prometheus",
    "tests",
    ".venv",
)
"""Present in the reader's folder, as in a clone of the repository."""

_NUMBER = re.compile(r"[-+]?\$?\d[\d,.:]*")

COMMANDS = {path: list(read_commands(path)) for path in DOCUMENTS if path.name != "push.md"}


@dataclass
class Reader:
    """Someone who pastes the commands of one document into a shell, one after the other."""

    sandbox: Sandbox
    home: Path
    stack: ExitStack
    exporter: ExporterProcess | None = None
    environment: dict[str, str] = field(default_factory=dict)

    def run(self, command: Command) -> None:
        """Run a command; it has to succeed and to print the output in the document."""
        text = self._localize(command.text)
        words = text.split()
        if words[0] == "make":
            text = f"make --dry-run -C {ROOT} {' '.join(words[1:])}"
        elif words[0].endswith("pytest"):
            text += " --collect-only -p no:cacheprovider"
        elif text.startswith(RULE_TESTS):
            # test_rules runs every file of the folder with two versions of promtool.
            text = f"ls {text.removeprefix(RULE_TESTS)}"
        elif words[:2] == ["ai-spend-exporter", "run"] and "--help" not in words:
            self._start_exporter(words[2:])
            return
        elif words[0] == "ai-spend-exporter" and words[1] in ("digest", "history", "replay"):
            self._start_exporter([])  # which fills the ledger
            if words[1] == "replay":
                # A day takes promtool seconds; test_replay has the default range.
                text += f" --from={midnight(datetime.now(UTC)) - DAY:%Y-%m-%d}"
        output = self._run_in_shell(text)
        if words[0] != "make":
            _check_output(command.output, output)
        if "config.yaml <<" in text:
            self._use_simulated_providers()

    def _run_in_shell(self, text: str) -> str:
        """Run a command and keep the variables that it exports."""
        exported = self.home / "exported"
        done = subprocess.run(
            ["sh", "-c", f"{text}\nstatus=$?\nenv > {exported}\nexit $status"],
            cwd=self.home,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
        lines = exported.read_text().splitlines()
        self.environment |= {
            name: value for name, _, value in (line.partition("=") for line in lines) if name.startswith("AI_SPEND_")
        }
        return done.stdout + done.stderr

    def _localize(self, text: str) -> str:
        """Replace the documents' folders and addresses by those of this test."""
        for folder in ("/run/secrets", "/etc/ai-spend-exporter", "/var/lib/ai-spend-exporter"):
            text = text.replace(folder, str(self.home / Path(folder).name))
        for address in ("http://localhost:10042", "http://127.0.0.1:10042", "http://ai-spend-exporter:10042"):
            if address in text:
                text = text.replace(address, self._start_exporter([]).url)
        return text

    def _start_exporter(self, flags: list[str]) -> ExporterProcess:
        """Start the exporter on a free port unless it runs, and wait until its accounts have been read."""
        if self.exporter is None:
            storage = f"--storage.path={self.home / 'ai-spend-exporter'}"
            flags = flags or [f"--config.file={self.home / 'config.yaml'}", storage]
            flags = [flag.replace("=config.yaml", f"={self.home / 'config.yaml'}") for flag in flags]
            self.exporter = self.stack.enter_context(start_exporter(*flags, "--web.enable-lifecycle"))
            accounts = yaml.safe_load((self.home / "config.yaml").read_text())["accounts"]
            self.exporter.wait_until_up(*(account["name"] for account in accounts))
        return self.exporter

    def _use_simulated_providers(self) -> None:
        """Point the accounts of a configuration that was just written to the simulator."""
        path = self.home / "config.yaml"
        document = yaml.safe_load(path.read_text())
        simulated = yaml.safe_load(self.sandbox.config.read_text())["accounts"]
        base_urls = {account["name"]: account["base_url"] for account in simulated}
        for account in document["accounts"]:
            account["base_url"] = base_urls[account["name"]]
        path.write_text(yaml.safe_dump(document, sort_keys=False))


@pytest.fixture(name="reader")
def _start_reader(tmp_path: Path) -> Iterator[Reader]:
    home = tmp_path / "home"
    programs = home / "bin"
    programs.mkdir(parents=True)
    program = programs / "ai-spend-exporter"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m exporter "$@"\n')
    program.chmod(0o755)
    for name in REPOSITORY_PATHS:
        (home / name).symlink_to(ROOT / name)
    for name in ("secrets", "ai-spend-exporter"):
        (home / name).mkdir()
    with ExitStack() as stack:
        account = make_account("openai", "acme-openai")
        sandbox = stack.enter_context(start_sandbox(tmp_path, account))
        (home / "config.yaml").write_text(sandbox.config.read_text())
        key = home / "secrets" / "openai"
        key.touch(mode=0o600)
        key.write_text(account.key)
        path = os.pathsep.join((str(programs), ENVIRONMENT["PATH"], str(BIN_DIRS["debian"])))
        yield Reader(sandbox, home, stack, environment={**ENVIRONMENT, "PATH": path})


def _normalize(line: str) -> str:
    """Return a line with all numbers alike and without its layout."""
    return " ".join(_NUMBER.sub("0", line).split())


def _check_output(documented: str, printed: str) -> None:
    """Check that the documented lines are printed in this order; `…` is any text, on a line of its own any lines."""
    lines = [line for line in map(_normalize, documented.splitlines()) if line]
    if not lines:
        return
    pattern = r"\n".join(r"(?:.*\n)*?.*" if line == "…" else re.escape(line).replace("…", ".*") for line in lines)
    text = "\n".join(_normalize(line) for line in printed.splitlines() if line.strip())
    assert re.fullmatch(pattern, text), f"documented:\n{documented}\nprinted:\n{printed}"


@pytest.mark.parametrize("document", [path for path, commands in COMMANDS.items() if commands], ids=relative_path)
def test_every_command_of_a_document_succeeds(document: Path, reader: Reader) -> None:
    """Pasting the commands of a document one after the other works, and prints the output that it shows."""
    for command in COMMANDS[document]:
        if not command.text.startswith(tuple(NOT_RUN)):
            reader.run(command)
