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
from tests.command import COMMAND, ENVIRONMENT, Site, ended, site, started
from tests.history.ledger_days import LIKE, request, results
from tests.history.test_openmetrics import parsed
from tests.system import lone, midnight

NOW = datetime.now(UTC)
NEWEST = midnight(NOW - DAY / 8) - DAY


@pytest.fixture(scope="module", name="here")
def _polled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A configuration whose two accounts have been polled; the exporter has ended."""
    with site(tmp_path_factory.mktemp("history"), lone("openai", "acme"), lone("anthropic", "labs")) as here:
        with started(*here.flags) as it:
            it.until_up("acme", "labs")
            assert it.end() == 0
        yield here


def history(here: Site, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command on the site's ledger."""
    return ended("history", *here.flags, *arguments)


def test_the_file_holds_the_days_that_were_asked_for(here: Site, tmp_path: Path) -> None:
    """--from and --to are both included; the file is on stdout, or complete under the name that was given."""
    days = (f"--from={NEWEST:%Y-%m-%d}", f"--to={NEWEST:%Y-%m-%d}")
    shown, kept = history(here, *days), history(here, *days, f"--output={tmp_path / 'it.om'}")
    assert shown.returncode == kept.returncode == 0
    assert shown.stdout == (tmp_path / "it.om").read_text()
    assert kept.stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == ["it.om"]
    told = parsed(shown.stdout)
    assert {dict(one)["account"] for one in told} == {"acme", "labs"}
    start = round(NEWEST.timestamp() * 1000)
    assert {time for times in told.values() for time in times} == {start + (n + 1) * 3_600_000 - 1 for n in range(24)}


def test_without_days_everything_up_to_the_newest_safe_one_is_written(here: Site) -> None:
    """Nothing later than the newest day that ended three hours ago, and what to do next is told."""
    made = history(here)
    times = [time for told in parsed(made.stdout).values() for time in told]
    assert max(times) == round((NEWEST + DAY).timestamp() * 1000) - 1
    assert min(times) < max(times) - DAY.total_seconds() * 1000
    assert f"to {NEWEST:%Y-%m-%d}, UTC" in made.stderr
    assert "promtool tsdb create-blocks-from openmetrics --max-block-duration=36h FILE" in made.stderr
    assert "/api/v1/import/prometheus" in made.stderr


def test_it_works_beside_a_running_exporter(here: Site) -> None:
    """The ledger is read while the exporter has it, and tells what remote read tells."""
    with started(*here.flags) as it:
        it.until_up("acme", "labs")
        made = history(here, f"--to={NEWEST:%Y-%m-%d}")
        answer = it.client.post(f"{it.url}/api/v1/read", content=request((LIKE, "__name__", "ai_.*")))
    assert made.returncode == 0, made.stderr
    end = round((NEWEST + DAY).timestamp() * 1000)
    (served,) = results(answer.content)
    read = {one: {time: value for time, value in told.items() if time < end} for one, told in served.items()}
    assert parsed(made.stdout) == {one: told for one, told in read.items() if told}


def test_a_terminal_is_shown_how_far_it_is(here: Site, tmp_path: Path) -> None:
    """On a terminal a bar counts accounts and families; elsewhere there is none."""
    ours, theirs = pty.openpty()
    command = [*COMMAND, "history", *here.flags, f"--output={tmp_path / 'it.om'}"]
    made = subprocess.run(command, stderr=theirs, env={**ENVIRONMENT, "TERM": "xterm"}, check=False)
    os.close(theirs)
    said = b""
    while piece := _read(ours):
        said += piece
    os.close(ours)
    assert made.returncode == 0
    assert "Writing history" in said.decode()
    assert "100%" in said.decode()
    assert "Writing history" not in history(here).stderr


def _read(terminal: int) -> bytes:
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
        (["--to=2020-01-01"], 1, "The ledger knows nothing of the configured accounts up to 2020-01-01"),
        (["--storage.path=/nonexistent"], 1, "There is no ledger in /nonexistent. Point --storage.path at"),
        (["--output=/nonexistent/it.om"], 1, "/nonexistent/it.om cannot be written: No such file or directory"),
        (["--config.file=/nonexistent.yaml"], 1, "/nonexistent.yaml"),
    ],
)
def test_what_cannot_be_written_is_told(here: Site, arguments: list[str], status: int, said: str) -> None:
    """Whatever is wrong, the message says what to do, without a traceback, and nothing is written."""
    days = {"today": f"{NOW:%Y-%m-%d}", "newest": f"{NEWEST:%Y-%m-%d}", "before": f"{NEWEST - DAY:%Y-%m-%d}"}
    made = history(here, *(one.format(**days) for one in arguments))
    assert made.returncode == status
    assert said.format(**days) in " ".join(made.stderr.split())
    assert "Traceback" not in made.stderr
    assert made.stdout == ""
