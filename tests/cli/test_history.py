"""`history` as a user meets it: beside a running exporter, with good and bad days, on a terminal and off it."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from exporter.model import DAY
from tests.command import COMMAND, ENVIRONMENT, Sandbox, run_command, start_exporter, start_sandbox
from tests.history.ledger_days import REGEX, decode_read_response, encode_read_request
from tests.history.test_openmetrics import parse_openmetrics
from tests.system import make_account, midnight

NOW = datetime.now(UTC)
NEWEST_DAY = midnight(NOW - DAY / 8) - DAY


@pytest.fixture(scope="module", name="sandbox")
def _start_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A configuration whose two accounts have been polled; the exporter has ended."""
    with start_sandbox(
        tmp_path_factory.mktemp("history"), make_account("openai", "acme"), make_account("anthropic", "labs")
    ) as sandbox:
        with start_exporter(*sandbox.flags) as it:
            it.wait_until_up("acme", "labs")
            assert it.stop() == 0
        yield sandbox


def run_history(sandbox: Sandbox, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command on the site's ledger."""
    return run_command("history", *sandbox.flags, *arguments)


def test_the_file_holds_the_days_that_were_asked_for(sandbox: Sandbox, tmp_path: Path) -> None:
    """--from and --to are both included; the file is on stdout, or complete under the name that was given."""
    days = (f"--from={NEWEST_DAY:%Y-%m-%d}", f"--to={NEWEST_DAY:%Y-%m-%d}")
    shown, kept = run_history(sandbox, *days), run_history(sandbox, *days, f"--output={tmp_path / 'it.om'}")
    assert shown.returncode == kept.returncode == 0
    assert shown.stdout == (tmp_path / "it.om").read_text()
    assert kept.stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == ["it.om"]
    told = parse_openmetrics(shown.stdout)
    assert {dict(one)["account"] for one in told} == {"acme", "labs"}
    start = round(NEWEST_DAY.timestamp() * 1000)
    assert {time for times in told.values() for time in times} == {start + (n + 1) * 3_600_000 - 1 for n in range(24)}


def test_without_days_everything_up_to_the_newest_safe_one_is_written(sandbox: Sandbox) -> None:
    """Nothing later than the newest day that ended three hours ago, and what to do next is told."""
    made = run_history(sandbox)
    times = [time for told in parse_openmetrics(made.stdout).values() for time in told]
    assert max(times) == round((NEWEST_DAY + DAY).timestamp() * 1000) - 1
    assert min(times) < max(times) - DAY.total_seconds() * 1000
    assert f"to {NEWEST_DAY:%Y-%m-%d}, UTC" in made.stderr
    assert "promtool tsdb create-blocks-from openmetrics --max-block-duration=36h FILE" in made.stderr
    assert "/api/v1/import/prometheus" in made.stderr


def test_history_works_beside_a_running_exporter(sandbox: Sandbox) -> None:
    """The ledger is read while the exporter has it, and tells what remote read tells."""
    with start_exporter(*sandbox.flags) as it:
        it.wait_until_up("acme", "labs")
        made = run_history(sandbox, f"--to={NEWEST_DAY:%Y-%m-%d}")
        answer = it.client.post(f"{it.url}/api/v1/read", content=encode_read_request((REGEX, "__name__", "ai_.*")))
    assert made.returncode == 0, made.stderr
    end = round((NEWEST_DAY + DAY).timestamp() * 1000)
    (served,) = decode_read_response(answer.content)
    read = {one: {time: value for time, value in told.items() if time < end} for one, told in served.items()}
    assert parse_openmetrics(made.stdout) == {one: told for one, told in read.items() if told}


def test_a_terminal_is_shown_how_far_it_is(sandbox: Sandbox, tmp_path: Path) -> None:
    """On a terminal a bar counts accounts and families; elsewhere there is none."""
    ours, theirs = pty.openpty()
    command = [*COMMAND, "history", *sandbox.flags, f"--output={tmp_path / 'it.om'}"]
    made = subprocess.run(command, stderr=theirs, env={**ENVIRONMENT, "TERM": "xterm"}, check=False)
    os.close(theirs)
    said = b""
    while piece := _read_terminal(ours):
        said += piece
    os.close(ours)
    assert made.returncode == 0
    assert "Writing history" in said.decode()
    assert "100%" in said.decode()
    assert "Writing history" not in run_history(sandbox).stderr


def _read_terminal(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:
        return b""


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--to={today}"], 2, "has not ended three hours ago; the newest day that has is {newest}"),
        (["--from={newest}", "--to={before}"], 2, "{newest} is after --to={before}"),
        (["--from=yesterday"], 2, "'yesterday' does not match the format '%Y-%m-%d'"),
        (["--format=csv"], 2, "'csv' is not 'openmetrics'"),
        (["--to=2020-01-01"], 1, "The ledger has no usage of the configured accounts up to 2020-01-01"),
        (["--storage.path=/nonexistent"], 1, "There is no ledger in /nonexistent. Point --storage.path at"),
        (["--output=/nonexistent/it.om"], 1, "/nonexistent/it.om cannot be written: No such file or directory"),
        (["--config.file=/nonexistent.yaml"], 1, "/nonexistent.yaml"),
    ],
)
def test_a_write_error_is_reported(sandbox: Sandbox, arguments: list[str], status: int, said: str) -> None:
    """Whatever is wrong, the message says what to do, without a traceback, and nothing is written."""
    days = {"today": f"{NOW:%Y-%m-%d}", "newest": f"{NEWEST_DAY:%Y-%m-%d}", "before": f"{NEWEST_DAY - DAY:%Y-%m-%d}"}
    made = run_history(sandbox, *(one.format(**days) for one in arguments))
    assert made.returncode == status
    assert said.format(**days) in " ".join(made.stderr.split())
    assert "Traceback" not in made.stderr
    assert made.stdout == ""
