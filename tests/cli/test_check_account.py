"""`check account` on the command line: its output, its errors, and that no temporary file is left."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from itertools import takewhile
from pathlib import Path

import pytest

from exporter.cli.check_account import _temporary_folder
from exporter.errors import ExporterError
from exporter.model import COST, NANO
from exporter.providers import PROVIDERS, provider_console
from exporter.providers.cursor import Cursor
from exporter.simulator.accounts import CHAT, SimAccount, Stream
from tests.command import COMMAND, ENVIRONMENT, Sandbox, run_command, start_sandbox, wait_until
from tests.system import make_account

CENT = NANO // 100
MODELS = 24
"""More than the twenty that a table lists by name."""
_EXEC_WITH_DEFAULT_SIGNALS = """
import os, signal, sys
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""
DEFAULT_SIGNALS = (sys.executable, "-c", _EXEC_WITH_DEFAULT_SIGNALS)
"""Runs a command with these signals' default actions: a test run by nohup or in the background ignores some of them,
and every process that it starts inherits that."""


def _many_models() -> SimAccount:
    account = make_account("openai", "acme")
    models = (f"gpt-5-{number:02}" for number in range(MODELS))
    streams = (Stream("proj_web", model, daily_requests=20.0 + 9 * n, mix=CHAT) for n, model in enumerate(models))
    return replace(account, streams=(*account.streams, *streams))


@pytest.fixture(name="sandbox", scope="module")
def _start_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """Three accounts with three days of usage, the first with many models."""
    accounts = (_many_models(), make_account("anthropic", "labs"), make_account("cursor", "crew"))
    with start_sandbox(tmp_path_factory.mktemp("check"), *accounts) as sandbox:
        yield sandbox


@pytest.fixture(autouse=True)
def _clear_faults(sandbox: Sandbox) -> Iterator[None]:
    yield
    sandbox.simulator.clear_faults()


def _run_check(sandbox: Sandbox, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command with a folder for temporary files, and expect that it is empty afterwards."""
    env = {**ENVIRONMENT, "TMPDIR": str(folder)}
    result = run_command("check", "account", *arguments, f"--config.file={sandbox.config}", env=env)
    assert list(folder.iterdir()) == []
    assert "Traceback" not in result.stderr
    return result


@pytest.fixture(name="output", scope="module")
def _print_account(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The output for the account with many models."""
    result = _run_check(sandbox, tmp_path_factory.mktemp("tmp"), "acme", "--days=3")
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def _parse_tables(text: str) -> dict[str, list[list[str]]]:
    """Return the heading of a table's first column -> its rows, as cells."""
    blocks = [block.splitlines() for block in text.split("\n\n")[1:-1]]
    return {rows[0][0]: rows for rows in ([re.split(r"  +", line.strip()) for line in block] for block in blocks)}


def _parse_usd(cell: str) -> Decimal:
    return Decimal(0) if cell == "< $0.01" else Decimal(re.sub(r"[+$,]", "", cell))


def _parse_number(cell: str) -> int:
    return int(cell.replace(",", ""))


def _column(table: Sequence[Sequence[str]], heading: str) -> list[str]:
    place = table[0].index(heading)
    return [row[place] for row in table[1:]]


def test_what_was_billed_is_printed_to_the_cent(sandbox: Sandbox, output: str) -> None:
    """Each billed day costs the provider's bill; every table is at most 100 columns wide and sums to its total."""
    assert all(line.isprintable() and len(line) <= 100 for line in output.splitlines())
    head, tables = output.partition("\n\n")[0], _parse_tables(output)
    assert head.startswith("acme (openai): ok, an organization")
    assert "compare: https://platform.openai.com/usage" in head
    assert list(tables) == ["Day (UTC)", "Workspace", "Model or item", "Tier", "Token type"]
    days = tables["Day (UTC)"]
    assert days[0] == ["Day (UTC)", "Tokens", "Requests", "Estimate", "Billed", "Difference"]
    billed = [row for row in days[1:4] if row[4].startswith("$")]
    assert billed
    for day, _, _, estimate, bill, difference in billed:
        rows = sandbox.simulator.world.bill("acme", datetime.fromisoformat(f"{day}T00:00Z"))
        assert _parse_usd(bill) == Decimal(round(sum(row.value for row in rows) / CENT)) / 100
        assert abs(_parse_usd(estimate) - _parse_usd(bill) - _parse_usd(difference)) <= Decimal("0.01")
    for heading in ("Workspace", "Model or item", "Tier"):
        *costs, total = map(_parse_usd, _column(tables[heading], "Cost"))
        assert abs(sum(costs) - total) <= Decimal("0.005") * len(costs)
        assert f"Cost: ${total:,}, of which" in output
    for table in tables.values():
        *parts, whole = map(_parse_number, _column(table, "Tokens"))
        assert sum(parts) == whole * (2 if table is days else 1)
        assert _column(table, "Tokens")[-1] == days[-1][1]


def test_long_tables_are_truncated_and_keep_their_sums(output: str) -> None:
    """Twenty models are listed, the most expensive first; the others are summed up in a row."""
    models = _parse_tables(output)["Model or item"]
    costs = [*map(_parse_usd, _column(models, "Cost"))][:20]
    assert _column(models, "Model or item")[20:] == [f"and {MODELS + 1 - 20} more", "Total"]
    assert costs == sorted(costs, reverse=True)


def test_the_last_lines_explain_the_tables(sandbox: Sandbox, tmp_path: Path) -> None:
    """They list the error of estimates, unbilled days and costs that the API omits, and that nothing is stored."""
    result = _run_check(sandbox, tmp_path, "labs", "--days=3").stdout
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    assert re.search(rf"^Not billed yet by the provider: .*{today}\.$", result, re.MULTILINE)
    summary = " ".join(result.rpartition("\n\n")[2].split())
    assert re.search(r"Before their bills, \d days? would have been estimated at \$", summary)
    assert re.search(r"Newest: [-\d]+, .* (off|its bill); exported as ai_account_estimate_error_ratio\.", summary)
    assert "The priority tier is never in the cost report" in summary
    assert summary.endswith("Nothing was stored.")
    assert "Requests" not in result


def test_usage_with_its_own_cost_has_no_columns_for_bills(sandbox: Sandbox, tmp_path: Path) -> None:
    """Where usage carries its cost there is no estimate and no comparison, and the cost is the simulator's."""
    result = _run_check(sandbox, tmp_path, "crew", "--days=4").stdout
    days = _parse_tables(result)["Day (UTC)"]
    assert days[0] == ["Day (UTC)", "Tokens", "Requests", "Cost"]
    for day, _, _, cost in days[1:4]:
        start = datetime.fromisoformat(f"{day}T00:00Z")
        rows = [row for row in sandbox.simulator.world.bill("crew", start) if row.meter == COST]
        assert abs(_parse_usd(cost) * NANO - sum(row.value for row in rows)) <= CENT
    assert "there is no bill to wait for" in result
    assert "Seat fees are in no API." in result
    assert "Estimate" not in result
    assert "Before their bills" not in result


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_nothing_is_left_when_it_is_interrupted(sandbox: Sandbox, tmp_path: Path, number: int) -> None:
    """SIGINT, SIGTERM and SIGHUP during a poll leave no file and no traceback."""
    sandbox.simulator.add_fault("acme", "slow", path="usage/images", seconds=3)
    command = [*DEFAULT_SIGNALS, *COMMAND, "check", "account", "acme", f"--config.file={sandbox.config}"]
    env = {**ENVIRONMENT, "TMPDIR": str(tmp_path)}
    requests = len(sandbox.simulator.requests)
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_until("a ledger", lambda: list(tmp_path.glob("*/ledger.db")))
        wait_until("reading", lambda: len(sandbox.simulator.requests) > requests + 2)
        process.send_signal(number)
        output, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert (output, errors.strip()) == ("", "Aborted!")
    assert list(tmp_path.iterdir()) == []


def test_a_hangup_is_ignored_under_nohup(sandbox: Sandbox, tmp_path: Path) -> None:
    """A check whose parent ignores SIGHUP continues when the terminal is closed, and prints its result."""
    sandbox.simulator.add_fault("crew", "slow", path="usage-events", seconds=1)
    command = ["nohup", *COMMAND, "check", "account", "crew", "--days=1", f"--config.file={sandbox.config}"]
    env = {**ENVIRONMENT, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        command,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        wait_until("a ledger", lambda: list(tmp_path.glob("*/ledger.db")))
        process.send_signal(signal.SIGHUP)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert output.endswith("Nothing was stored.\n")
    assert list(tmp_path.iterdir()) == []


def test_a_terminal_shows_the_progress(sandbox: Sandbox) -> None:
    """On a terminal a progress bar is shown while the account is read."""
    ours, theirs = pty.openpty()
    command = [*COMMAND, "check", "account", "crew", f"--config.file={sandbox.config}"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=theirs, env={**ENVIRONMENT, "TERM": "xterm"}
    ) as process:
        os.close(theirs)
        output = b"".join(iter(lambda: _read_terminal(ours), b"")).decode()
        process.communicate()
    os.close(ours)
    assert process.returncode == 0
    assert "Reading crew" in output
    assert "100%" in output


def _read_terminal(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:
        return b""


def test_a_rate_limit_is_reported_and_waited_for(sandbox: Sandbox, tmp_path: Path) -> None:
    """The wait that the provider requests is printed on stderr, and then everything is read."""
    sandbox.simulator.add_fault("labs", "rate_limited", times=1, path="messages", retry_after=1)
    result = _run_check(sandbox, tmp_path, "labs", "--days=2")
    assert result.returncode == 0
    assert "429" in result.stderr
    assert result.stderr.endswith("Going on in 1 s.\n")


def test_reports_outside_of_the_plan_are_listed(sandbox: Sandbox, tmp_path: Path) -> None:
    """An optional report that is rejected is listed, and everything else is printed."""
    sandbox.simulator.add_fault("acme", "missing_scope", path="usage/audio_speeches")
    result = _run_check(sandbox, tmp_path, "acme", "--days=1")
    assert result.returncode == 0
    assert "Left out, because this key or plan does not have it: audio_speeches.\n" in result.stdout


def test_a_failure_is_reported_as_by_check_keys(sandbox: Sandbox, tmp_path: Path) -> None:
    """The error and the advice are those of `check keys`; the exit status is 1 and stdout is empty."""
    sandbox.simulator.add_fault("labs", "revoked")
    result = _run_check(sandbox, tmp_path, "labs")
    keys = run_command("check", "keys", f"--config.file={sandbox.config}").stdout
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: labs: GET /v1/organizations/me answered ")
    row = "".join(takewhile(lambda line: not line.startswith("crew"), keys.partition("\nlabs ")[2].splitlines(True)))
    assert _join_whitespace(result.stderr.partition("labs: ")[2]) in _join_whitespace(row)


def _join_whitespace(text: str) -> str:
    return " ".join(text.split())


def test_a_key_of_the_wrong_kind_is_rejected_without_an_api_call(sandbox: Sandbox, tmp_path: Path) -> None:
    """The message has the prefix and the advice, and not the key itself."""
    path, good = sandbox.folder / "acme.key", (sandbox.folder / "acme.key").read_text()
    path.write_text("sk-proj-3nM8bV5cR2Zq7wX9kT")
    requests = len(sandbox.simulator.requests)
    result = _run_check(sandbox, tmp_path, "acme")
    path.write_text("")
    empty = _run_check(sandbox, tmp_path, "acme")
    path.write_text(good)
    assert result.returncode == empty.returncode == 1
    assert (
        "Error: acme: the key starts with sk-proj-: project key.\n-> A project key cannot read usage." in result.stderr
    )
    assert "Zq7wX9kT" not in result.stderr
    assert "acme.key: it is empty; write the key there" in empty.stderr
    assert len(sandbox.simulator.requests) == requests


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("acmee", 'has no account "acmee"; did you mean acme? It has acme, labs, crew.'),
        ("sk-admin-9dKf3Lm2Zq7wX9kT", "has no account <secret>. It has acme, labs, crew."),
    ],
)
def test_an_unknown_account_is_reported(sandbox: Sandbox, tmp_path: Path, name: str, message: str) -> None:
    """The error suggests a similar name and lists some accounts, and does not repeat a key given by mistake."""
    result = _run_check(sandbox, tmp_path, name)
    assert result.returncode == 1
    assert result.stderr == f"Error: {sandbox.config} {message}\n"


def test_more_days_than_thirty_are_misuse(sandbox: Sandbox, tmp_path: Path) -> None:
    """A number of days out of range ends with exit status 2."""
    assert _run_check(sandbox, tmp_path, "acme", "--days=31").returncode == 2


def test_a_missing_temporary_folder_is_reported_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a writable folder, as in a read-only container, the error names the variable to set."""
    monkeypatch.setattr(tempfile, "tempdir", "/nonexistent")
    with (
        pytest.raises(ExporterError, match=r"\(No such file or directory\)\. Set TMPDIR to a folder"),
        _temporary_folder(),
    ):
        pass


def test_the_console_is_optional_for_a_plug_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each built-in provider has the address of its console; a provider without it is valid."""
    consoles = [provider_console(provider_type) for provider_type in PROVIDERS.values()]
    assert all(console is not None and console.url.startswith("https://") for console in consoles)
    monkeypatch.delattr(Cursor, "console")
    assert provider_console(Cursor) is None
