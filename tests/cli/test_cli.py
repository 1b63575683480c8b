"""The command line: output, messages and exit status of each command, for good and bad input."""

from __future__ import annotations

import json
import re
import signal
import socket
import sqlite3
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

import click
import pytest
import yaml

from exporter import __version__
from exporter.cli import flag_types, main
from exporter.ledger.sqlite_store import LEDGER_FILE_NAME
from tests.command import (
    ANY_PORT_FLAG,
    ENVIRONMENT,
    run_command,
    start_exporter,
    start_sandbox,
    unprivileged_prefix,
    wait_until,
)
from tests.paths import ROOT
from tests.system import make_account

KEY = "sk-admin-0123456789abcdef"
UNREACHABLE_URL = "http://127.0.0.1:9/v1"
"""Where nobody listens: polls fail at once."""
LOGFMT = re.compile(r'\w+=("(\\.|[^"\\])*"|[^\s"=]+)( \w+=("(\\.|[^"\\])*"|[^\s"=]+))*')


def _write_config(folder: Path, *names: str, **fields: object) -> Path:
    """Write a configuration of OpenAI accounts that share a valid key file."""
    (folder / "good.key").touch(mode=0o600)
    (folder / "good.key").write_text(KEY)
    common = {"provider": "openai", "api_key_file": "good.key", "base_url": UNREACHABLE_URL, **fields}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({"accounts": [{"name": name, **common} for name in names]}))
    return path


def _run_failing(folder: Path, *arguments: str, prefix: tuple[str, ...] = ()) -> tuple[int, str]:
    """Run `run`, which has to fail; return its status and stderr."""
    flags = (f"--config.file={folder / 'config.yaml'}", f"--storage.path={folder / 'ledger'}", ANY_PORT_FLAG)
    failed = run_command("run", *flags, *arguments, prefix=prefix)
    _assert_fits_a_screen(failed.stderr)
    assert failed.stdout == ""
    return failed.returncode, failed.stderr


def _assert_fits_a_screen(output: str) -> None:
    assert 1 <= sum(1 + len(line) // 100 for line in output.splitlines()) <= 24, output
    assert "Traceback" not in output


def test_a_missing_configuration_is_reported(tmp_path: Path) -> None:
    """A missing file, or a folder in its place, is reported with advice; status 1."""
    path = tmp_path / "config.yaml"
    assert _run_failing(tmp_path) == (
        1,
        f"1 problem in the configuration:\n  {path}: it does not exist; create it or correct the path\n",
    )
    path.mkdir()
    status, stderr = _run_failing(tmp_path)
    assert (status, "it is a directory; name a file in it" in stderr) == (1, True)
    assert not (tmp_path / "ledger").exists()


INVALID_CONFIG = """\
defaults:
  poll_interval: 5
accounts:
- name: acme
  provider: openia
  api_key_file: good.key
- name: acme
  provider: openai
  api_key_file: good.key
  colour: red
"""


@pytest.mark.parametrize("command", ["run", "check config", "check keys"])
def test_every_problem_of_a_configuration_is_reported_at_once(tmp_path: Path, command: str) -> None:
    """All problems are reported together, each with file, line and advice; status 1."""
    path = tmp_path / "config.yaml"
    path.write_text(INVALID_CONFIG)
    arguments = [*command.split(), str(path) if command == "check config" else f"--config.file={path}"]
    failed = run_command(*arguments)
    assert failed.returncode == 1
    assert failed.stdout == ""
    _assert_fits_a_screen(failed.stderr)
    head, *problems = failed.stderr.splitlines()
    assert head == "4 problems in the configuration:"
    assert [re.match(rf"  {path}:(\d+): ", line)[1] for line in problems] == ["2", "5", "7", "10"]  # type: ignore[index]
    assert "did you mean openai?" in problems[1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "it does not exist"),
        ("", "it is empty; write the key there"),
        (" \n", "it is empty; write the key there"),
        (f"{KEY}\nsk-admin-second\n", "it has several lines; write only the key there"),
        ("a folder", "this is a directory or a device"),
        ("unreadable", "this user may not read it; check its owner and mode"),
    ],
)
def test_a_key_file_without_a_key_is_reported(tmp_path: Path, content: str | None, message: str) -> None:
    """`run` fails with the account's line, the file and the problem; for `check config` the same is a warning."""
    path = _write_config(tmp_path, "acme", api_key_file="acme.key")
    key = tmp_path / "acme.key"
    if content == "a folder":
        key.mkdir()
    elif content is not None:
        key.write_text(content)
        key.chmod(0o000 if content == "unreadable" else 0o600)
    prefix = tuple(unprivileged_prefix())

    status, stderr = _run_failing(tmp_path, prefix=prefix)
    assert status == 1
    assert f"{path}:2: api_key_file {key}: {message}" in stderr
    assert "sk-admin-second" not in stderr
    checked = run_command("check", "config", str(path), prefix=prefix)
    assert checked.returncode == 0
    assert f"warning: {path}:2: api_key_file {key}: {message}" in checked.stderr
    assert checked.stdout.endswith(
        "1 account; 1 of the keys and tokens cannot be read here, and `run` needs them all\n"
    )


def test_a_variable_without_a_key_is_reported(tmp_path: Path) -> None:
    """An environment variable that is not set stops `run`, and is a warning of `check config`."""
    path = tmp_path / "config.yaml"
    path.write_text("accounts: [{name: acme, provider: openai, api_key_env: ACME_KEY}]\n")
    status, stderr = _run_failing(tmp_path)
    assert status == 1
    assert "api_key_env ACME_KEY: the environment variable is not set" in stderr
    warned = run_command("check", "config", str(path))
    assert (warned.returncode, warned.stderr.startswith("warning: ")) == (0, True)
    assert "api_key_env ACME_KEY: the environment variable is not set" in warned.stderr
    assert run_command("check", "config", str(path), env={**ENVIRONMENT, "ACME_KEY": KEY}).stderr == ""


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("localhost", "not an address; write :10042"),
        ("127.0.0.1:http", "not an address; write :10042"),
        (":99999", "not an address; write :10042"),
        (":٣٣٣٣", "not an address; write :10042"),
        ("no.such.host.invalid:0", "Give --web.listen-address an address of this machine"),
        ("a..b:0", "--web.listen-address"),
        ("192.0.2.1:0", "Cannot assign requested address. Give --web.listen-address an address of this machine"),
    ],
)
def test_an_unusable_listen_address_is_reported(tmp_path: Path, address: str, message: str) -> None:
    """An address that is invalid or not of this machine is reported with a valid form; status 1."""
    _write_config(tmp_path, "acme")
    status, stderr = _run_failing(tmp_path, f"--web.listen-address={address}")
    assert status == 1
    assert address in stderr
    assert message in stderr


def test_a_port_in_use_is_reported(tmp_path: Path) -> None:
    """If the port is in use, the message has the command that finds its user; status 1."""
    _write_config(tmp_path, "acme")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        status, stderr = _run_failing(tmp_path, f"--web.listen-address=127.0.0.1:{port}")
    assert status == 1
    assert f"Cannot listen on 127.0.0.1:{port}: Address already in use" in stderr
    assert f"ss -ltnp 'sport = :{port}'" in stderr


def test_a_ledger_of_a_newer_version_is_reported_and_left_alone(tmp_path: Path) -> None:
    """A file written by a newer release is rejected with status 1 and is not changed."""
    _write_config(tmp_path, "acme")
    file = tmp_path / "ledger" / LEDGER_FILE_NAME
    file.parent.mkdir()
    with sqlite3.connect(file) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE novelty (x)")
        db.execute("PRAGMA user_version = 99")
    db.close()
    before = file.read_bytes()
    status, stderr = _run_failing(tmp_path)
    assert status == 1
    assert f"{file} was written by a newer ai-spend-exporter (ledger version 99;" in stderr
    assert "Run the newer release again" in stderr
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("locked", "Permission denied. Make it writable for this user"),
        ("locked/below", "Permission denied. Make it writable for this user"),
        ("file", "cannot be used as the ledger's folder"),
        ("file/below", "cannot be used as the ledger's folder"),
        ("garbage", "The file is damaged: move it away, restore a backup and start again"),
        ("readonly", "Make the folder and the file writable for this user"),
    ],
)
def test_an_unusable_ledger_is_reported(tmp_path: Path, place: str, message: str) -> None:
    """A folder that cannot be written, or a file that is no ledger, is reported with advice; status 1."""
    _write_config(tmp_path, "acme")
    (tmp_path / "locked").mkdir(mode=0o500)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "garbage").mkdir()
    (tmp_path / "garbage" / LEDGER_FILE_NAME).write_text("no ledger " * 500)
    (tmp_path / "readonly").mkdir()
    (tmp_path / "readonly" / LEDGER_FILE_NAME).touch(mode=0o400)
    status, stderr = _run_failing(tmp_path, f"--storage.path={tmp_path / place}", prefix=tuple(unprivileged_prefix()))
    assert status == 1
    assert str(tmp_path / place) in stderr
    assert message in stderr
    assert (tmp_path / "file").read_text() == "mine"


def test_two_exporters_do_not_share_a_ledger(tmp_path: Path) -> None:
    """A second process on the same folder exits with status 1 and the reason; a killed process leaves no lock."""
    path = _write_config(tmp_path, "acme")
    flags = (f"--config.file={path}", f"--storage.path={tmp_path / 'ledger'}")
    with start_exporter(*flags) as first:
        status, stderr = _run_failing(tmp_path)
        assert status == 1
        assert f"{tmp_path / 'ledger'} is in use by another ai-spend-exporter. Stop that one" in stderr
        assert first.get("/-/ready").status_code == 200
        first.process.kill()
        first.process.wait()
    with start_exporter(*flags) as second:
        assert second.get("/-/ready").status_code == 200


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("run --shard=0/3", "'0/3' is not I/N with I from 1 to N, such as 2/8"),
        ("run --shard=4/3", "'4/3' is not I/N"),
        ("run --shard=2", "'2' is not I/N"),
        ("run --shard=auto", "'auto' is not I/N with I from 1 to N, such as 2/8, and not auto/N"),
        ("run --config.auto-reload-interval=0s", "'0s' is not a duration in whole seconds such as 30s or 5m"),
        ("run --config.auto-reload-interval=1500ms", "'1500ms' is not a duration in whole seconds"),
        ("run --config.auto-reload-interval=soon", "'soon' is not a duration"),
        ("encrypt --rotate --new-master-key", "cannot be combined; run one after the other"),
        ("run --storage.retention.hours=93", "'93' is not a duration such as 93d, 12w or 3y"),
        ("run --storage.retention.hours=30d", "30d is shorter than 36d: bills are corrected"),
        ("run --storage.retention.days=-1d", "'-1d' is not a duration"),
        ("run --storage.retention.days=0d", "'0d' is not a duration"),
        ("run --storage.retention.days=9999y", "9999y is more than 100y"),
        ("run --storage.retention.days=30d", "30d is shorter than --storage.retention.hours=93d"),
        ("run --web.grafana-url=grafana:3000", "'grafana:3000' is not an address such as https://grafana.example.com"),
        ("run --web.grafana-url=javascript:alert(1)", "is not an address"),
        ("run --web.grafana-url=https://", "'https://' is not an address"),
        ("run --web.docs-url=https://docs.example/<b>", "is not an address"),
        ("run --web.docs-url=https://docs.example:port", "is not an address"),
        ("run --web.docs-url=https://docs.example?x=1", "paths are appended to the address"),
        ("demo --web.docs-url=https://me:secret@docs.example", "paths are appended to the address"),
        ("run --log.level=loud", "'loud' is not one of 'debug', 'info', 'warn', 'error'"),
        ("run --log.format=xml", "'xml' is not one of 'logfmt', 'json'"),
        ("run --config.fil=x", "No such option"),
        ("run --storage.path", "Option '--storage.path' requires an argument"),
        ("run --storage.url=db.internal/ai_spend", "it does not begin with postgresql://"),
        ("run --storage.url=postgresql://me:secret@db/ai_spend", "it contains a password, which every user"),
        (
            "digest --storage.url=postgresql://db/x?password=secret",
            "use --storage.password-file, PGPASSWORD or a pgpass",
        ),
        (
            "run --storage.url=postgresql://db/x --storage.path=data",
            "--storage.path and --storage.url name two ledgers",
        ),
        ("history --storage.password-file=secret", "--storage.password-file is for --storage.url, which is missing"),
        ("ledger copy data", "Missing argument 'TO'"),
        ("run config.yaml", "Got unexpected extra argument (config.yaml)"),
        ("rum", "No such command 'rum'"),
        ("check", "Usage: python -m exporter check"),
        ("check confg x", "No such command 'confg'"),
        ("check config", "Missing argument 'FILE'"),
        ("demo --prometheus.port=many", "'many' is not a valid integer"),
    ],
)
def test_misuse_of_the_command_line_has_a_status_of_its_own(tmp_path: Path, arguments: str, message: str) -> None:
    """An invalid flag, value or command is reported with status 2 before anything is read."""
    failed = run_command(*arguments.split(), cwd=tmp_path)
    assert failed.returncode == 2
    # Click breaks long messages into lines.
    assert message in " ".join((failed.stdout + failed.stderr).split())
    _assert_fits_a_screen(failed.stdout + failed.stderr)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["run", "check config config.yaml", "check keys"])
def test_a_plug_in_that_cannot_be_loaded_is_reported(tmp_path: Path, command: str) -> None:
    """A provider that cannot be imported is reported by its entry point; status 1."""
    _write_config(tmp_path, "acme")
    package = tmp_path / "packages" / "broken-1.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n")
    (package / "entry_points.txt").write_text("[ai_spend_exporter.providers]\nmistral = nowhere.at_all:Mistral\n")
    failed = run_command(*command.split(), cwd=tmp_path, env={**ENVIRONMENT, "PYTHONPATH": f"{ROOT}:{package.parent}"})
    assert failed.returncode == 1
    _assert_fits_a_screen(failed.stderr)
    assert "entry point mistral = nowhere.at_all:Mistral: cannot be loaded" in failed.stderr


def test_check_config_accepts_a_valid_configuration(tmp_path: Path) -> None:
    """A valid configuration results in status 0 and the number of accounts; unsafe keys are warnings."""
    path = _write_config(tmp_path, "acme", "labs")
    good = run_command("check", "config", str(path))
    assert (good.returncode, good.stdout) == (0, f"{path}: good, 2 accounts\n")
    assert good.stderr.endswith("labs has the same key as acme: what it spends counts twice\n")
    (tmp_path / "good.key").chmod(0o644)
    warned = run_command("check", "config", str(path))
    assert warned.returncode == 0
    assert "good.key: everyone on this machine may read it; give it mode 0400" in warned.stderr
    assert KEY not in warned.stderr


def test_the_example_passes_where_its_keys_are_not() -> None:
    """config.example.yaml is valid; missing keys are warnings, except with --syntax-only."""
    example = str(ROOT / "config.example.yaml")
    completed = run_command("check", "config", example)
    assert completed.returncode == 0
    assert completed.stdout.endswith(
        ": good, 7 accounts; 9 of the keys and tokens cannot be read here, and `run` needs them all\n"
    )
    assert "CURSOR_ADMIN_KEY" in completed.stderr
    quiet = run_command("check", "config", "--syntax-only", example)
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, f"{example}: good, 7 accounts\n", "")


def test_the_version_is_printed() -> None:
    """`--version` prints the exporter's and Python's version."""
    completed = run_command("--version", new_interpreter=True)
    assert completed.returncode == 0
    assert re.fullmatch(
        rf"ai-spend-exporter, version {re.escape(__version__)} \(python 3\.\d+\.\d+\)\n", completed.stdout
    )


def _walk_commands(
    command: click.Command, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            subcommand = command.get_command(context, name)
            assert subcommand
            yield from _walk_commands(subcommand, (*path, name))


@pytest.mark.parametrize("path", [" ".join(path) for path, _ in _walk_commands(main)])
def test_help_documents_every_flag(path: str) -> None:
    """The help of every command describes the command and each flag with its default, in 100 columns."""
    command = dict(_walk_commands(main))[tuple(path.split())]
    completed = run_command(*path.split(), "-h" if path == "run" else "--help", env={**ENVIRONMENT, "COLUMNS": "100"})
    assert completed.returncode == 0
    assert completed.stderr == ""
    assert max(map(len, completed.stdout.splitlines())) <= 100
    flat = " ".join(completed.stdout.split())
    assert " ".join((command.help or "").split()) in flat
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.opts[0] in flat
            assert option.help
            assert " ".join(option.help.split()) in flat
            if not option.is_flag:
                default = "" if isinstance(option.default, Enum) else option.default
                assert f"[default: {default}" in flat


def test_every_account_belongs_to_one_shard(tmp_path: Path) -> None:
    """Every account belongs to exactly one of three shards, the same in every release."""
    names = [f"account-{number}" for number in range(12)]
    path = _write_config(tmp_path, *names)
    parts = {}
    for number in (1, 2, 3):
        flags = (f"--config.file={path}", f"--storage.path={tmp_path / str(number)}", f"--shard={number}/3")
        with start_exporter(*flags) as exporter:
            parts[number] = {int(name.removeprefix("account-")) for name in exporter.accounts()}
            assert any(f"accounts={len(parts[number])}" in line for line in exporter.stderr_lines)
    assert parts == {1: {0, 4, 6}, 2: {1, 2, 3, 5, 8, 9, 10, 11}, 3: {7}}


def test_the_shard_of_a_pod_follows_from_its_host_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """With auto/N the ordinal at the end of the host name, from 0, selects the shard; other names are wrong usage."""

    def parse(host: str, value: str) -> flag_types.Shard:
        monkeypatch.setattr(socket, "gethostname", lambda: host)
        command = main.get_command(click.Context(main), "run")
        assert command is not None
        shard = next(option for option in command.params if option.name == "shard")
        return flag_types.parse_shard(click.Context(command), shard, value)

    assert parse("ai-spend-exporter-0", "auto/3") == flag_types.Shard(1, 3)
    assert parse("exporter-2-2", "auto/3") == flag_types.Shard(3, 3)
    assert parse("exporter-2", "1/3") == flag_types.Shard(1, 3)
    assert parse("exporter-0.exporters.ai.svc.cluster.local", "auto/3") == flag_types.Shard(1, 3)
    for host in ("laptop", "exporter-x", "exporter-01", "node.exporter-1"):
        with pytest.raises(click.BadParameter, match="auto needs a host name with an ordinal"):
            parse(host, "auto/3")
    with pytest.raises(click.BadParameter, match="is that of shard 4, and there are only 3"):
        parse("exporter-3", "auto/3")


@pytest.mark.parametrize("form", ["logfmt", "json"])
def test_every_line_of_the_log_can_be_read_by_a_machine(tmp_path: Path, form: str) -> None:
    """At level debug, through failing polls and reloads, every line is logfmt or JSON with time, level and message."""
    with start_sandbox(
        tmp_path, make_account("openai", "acme"), make_account("anthropic", "labs"), make_account("cursor", "crew")
    ) as here:
        here.simulator.add_fault("acme", "html")
        here.simulator.add_fault("labs", "revoked")
        with start_exporter(*here.flags, "--log.level=debug", f"--log.format={form}") as exporter:
            exporter.wait_until_up("crew")
            here.config.write_text(INVALID_CONFIG)
            exporter.send_signal(signal.SIGHUP)
            exporter.wait_for_log("Reloading the configuration failed")
            wait_until("the refusals", lambda: exporter.accounts("ai_account_problem", "1") == {"acme", "labs"})
            assert exporter.stop() == 0
    assert exporter.stdout_lines == []
    for line in exporter.stderr_lines:
        _assert_parses(form, line.removesuffix("\n"))


def _assert_parses(log_format: str, line: str) -> None:
    if log_format == "json":
        fields = json.loads(line)
        names = list(fields)
        assert fields["level"] in ("debug", "info", "warn", "error")
    else:
        assert LOGFMT.fullmatch(line), line
        names = re.findall(r'(?:^| )(\w+)=(?:"(?:\\.|[^"\\])*"|[^\s"=]+)', line)
    assert names[:3] == ["ts", "level", "msg"], line


def test_the_first_log_lines_describe_what_runs(tmp_path: Path) -> None:
    """The log begins with version, configuration and address, and warns of a key file that everyone may read."""
    path = _write_config(tmp_path, "acme")
    (tmp_path / "good.key").chmod(0o644)
    with start_exporter(f"--config.file={path}", f"--storage.path={tmp_path / 'ledger'}") as exporter:
        first = exporter.stderr_lines[:4]
        port = exporter.url.rpartition(":")[2]
    assert f'msg="Starting ai-spend-exporter" version={__version__} python=3.' in first[0]
    assert f'msg="Configuration loaded" file={path} accounts=1' in first[1]
    assert 'level=warn msg="Warning about a key"' in first[2]
    assert "give it mode 0400" in first[2]
    assert first[3].endswith(f"msg=Listening address=127.0.0.1:{port}\n")
    assert port != "0"
