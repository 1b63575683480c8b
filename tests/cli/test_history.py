"""`history`: beside a running exporter, with valid and invalid days, with and without a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from exporter.model import DAY, HOUR
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
        with start_exporter(*sandbox.flags) as exporter:
            exporter.wait_until_up("acme", "labs")
            assert exporter.stop() == 0
        yield sandbox


def run_history(sandbox: Sandbox, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command on the site's ledger."""
    return run_command("history", *sandbox.flags, *arguments)


def test_the_file_has_the_requested_days(sandbox: Sandbox, tmp_path: Path) -> None:
    """--from and --to are both included; the file is on stdout, or complete under the name that was given."""
    days = (f"--from={NEWEST_DAY:%Y-%m-%d}", f"--to={NEWEST_DAY:%Y-%m-%d}")
    printed, written = run_history(sandbox, *days), run_history(sandbox, *days, f"--output={tmp_path / 'it.om'}")
    assert printed.returncode == written.returncode == 0
    assert printed.stdout == (tmp_path / "it.om").read_text()
    assert written.stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == ["it.om"]
    samples = parse_openmetrics(printed.stdout)
    assert {dict(series)["account"] for series in samples} == {"acme", "labs"}
    start = round(NEWEST_DAY.timestamp() * 1000)
    assert {time for times in samples.values() for time in times} == {
        start + (n + 1) * 3_600_000 - 1000 for n in range(24)
    }


def test_without_days_everything_up_to_the_newest_safe_one_is_written(sandbox: Sandbox) -> None:
    """The newest day ended at least three hours ago, and stderr has the next steps."""
    made = run_history(sandbox)
    times = [time for values in parse_openmetrics(made.stdout).values() for time in values]
    assert max(times) == round((NEWEST_DAY + DAY).timestamp() * 1000) - 1000
    oldest_day = midnight(NOW) - 2 * DAY  # as far as the configuration has it read
    assert min(times) == round((oldest_day + HOUR).timestamp() * 1000) - 1000
    assert f"to {NEWEST_DAY:%Y-%m-%d}, UTC" in made.stderr
    assert "promtool tsdb create-blocks-from openmetrics --max-block-duration=36h FILE" in made.stderr
    assert "/api/v1/import/prometheus" in made.stderr


def test_history_works_beside_a_running_exporter(sandbox: Sandbox) -> None:
    """The ledger is read while an exporter uses it, with the same samples as remote read."""
    with start_exporter(*sandbox.flags) as exporter:
        exporter.wait_until_up("acme", "labs")
        made = run_history(sandbox, f"--to={NEWEST_DAY:%Y-%m-%d}")
        answer = exporter.client.post(
            f"{exporter.url}/api/v1/read", content=encode_read_request((REGEX, "__name__", "ai_hourly_.*"))
        )
    assert made.returncode == 0, made.stderr
    end = round((NEWEST_DAY + DAY).timestamp() * 1000)
    (served,) = decode_read_response(answer.content)
    read = {series: {time: value for time, value in values.items() if time < end} for series, values in served.items()}
    assert parse_openmetrics(made.stdout) == {series: values for series, values in read.items() if values}


def test_a_terminal_is_shown_how_far_it_is(sandbox: Sandbox, tmp_path: Path) -> None:
    """On a terminal a bar counts accounts and families; elsewhere there is none."""
    ours, theirs = pty.openpty()
    command = [*COMMAND, "history", *sandbox.flags, f"--output={tmp_path / 'it.om'}"]
    made = subprocess.run(command, stderr=theirs, env={**ENVIRONMENT, "TERM": "xterm"}, check=False)
    os.close(theirs)
    output = b""
    while piece := _read_terminal(ours):
        output += piece
    os.close(ours)
    assert made.returncode == 0
    assert "Writing history" in output.decode()
    assert "100%" in output.decode()
    assert "Writing history" not in run_history(sandbox).stderr


def _read_terminal(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:
        return b""


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
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
def test_a_write_error_is_reported(sandbox: Sandbox, arguments: list[str], status: int, message: str) -> None:
    """Every error has a message with advice and no traceback, and nothing is written."""
    days = {"today": f"{NOW:%Y-%m-%d}", "newest": f"{NEWEST_DAY:%Y-%m-%d}", "before": f"{NEWEST_DAY - DAY:%Y-%m-%d}"}
    made = run_history(sandbox, *(argument.format(**days) for argument in arguments))
    assert made.returncode == status
    assert message.format(**days) in " ".join(made.stderr.split())
    assert "Traceback" not in made.stderr
    assert made.stdout == ""
