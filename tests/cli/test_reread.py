"""`reread` on the command line: its output, its exit status, TLS and passwords."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pytest

from exporter.model import DAY
from tests.certificates import CertificateAuthority
from tests.command import ExporterProcess, Sandbox, free_port, run_command, start_exporter, start_sandbox, wait_until
from tests.system import make_account
from tests.web_server import TLS, hash_password, make_handlers, serve, write_web_config

PASSWORD = "in wonderland"


class _Days(NamedTuple):
    """Days that the exporter of these tests has read, as text."""

    first: str
    last: str


def _recent_days() -> _Days:
    now = datetime.now(UTC)
    return _Days(f"{now - 2 * DAY:%Y-%m-%d}", f"{now - DAY:%Y-%m-%d}")


@pytest.fixture(name="sandbox", scope="module")
def _start_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    accounts = (make_account("anthropic", "labs"), make_account("cursor", "crew"))
    with start_sandbox(tmp_path_factory.mktemp("reread"), *accounts) as sandbox:
        yield sandbox


@pytest.fixture(name="exporter", scope="module")
def _start_exporter(sandbox: Sandbox) -> Iterator[ExporterProcess]:
    with start_exporter(*sandbox.flags, "--web.enable-lifecycle") as exporter:
        exporter.wait_until_up("labs", "crew")
        yield exporter


def test_the_days_that_will_be_read_are_printed(exporter: ExporterProcess) -> None:
    """Every account is printed with its reports and days; the exporter reads them, and its log confirms it."""
    first, last = _recent_days()
    result = run_command("reread", f"--from={first}", f"--to={last}", f"--url={exporter.url}/")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "labs (anthropic):",
        f"  {first} to {last}: messages, costs",
        "crew (cursor):",
        f"  {first} to {last}: usage_events",
    ]
    exporter.wait_for_log("Reading days again finished", times=3)
    requested = f'msg="Reading days again requested" days="{first} to {last}" accounts=2'
    assert any(requested in line for line in exporter.stderr_lines)


def test_a_single_account_is_selected(exporter: ExporterProcess) -> None:
    """--account and --provider select accounts."""
    days = [f"--from={_recent_days().last}", f"--to={_recent_days().last}", f"--url={exporter.url}"]
    for selection in ("--account=crew", "--provider=cursor"):
        result = run_command("reread", *days, selection)
        assert result.returncode == 0
        assert result.stdout.splitlines()[0] == "crew (cursor):"
        assert "labs" not in result.stdout


def test_days_that_are_skipped_are_warnings(exporter: ExporterProcess) -> None:
    """Days before the history are not read: the command lists the days that are read and why others are not."""
    first = f"{datetime.now(UTC) - 30 * DAY:%Y-%m-%d}"
    result = run_command(
        "reread", f"--from={first}", f"--to={_recent_days().last}", "--account=labs", f"--url={exporter.url}"
    )
    assert result.returncode == 0
    assert result.stderr.startswith(f"warning: labs: days before {_recent_days().first} are skipped: they were never")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--account=lab",), 'there is no polled account "lab"; did you mean labs?'),
        (("--from=2020-01-01",), "the ledger keeps hours for 93 days, so the oldest day that can be read again is"),
    ],
)
def test_a_rejected_request_fails_with_the_reason(
    exporter: ExporterProcess, arguments: tuple[str, ...], message: str
) -> None:
    """Where the exporter reads nothing, its reason is printed, with status 1."""
    first, last = _recent_days()
    result = run_command("reread", f"--from={first}", f"--to={last}", f"--url={exporter.url}", *arguments)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: the exporter rejects the request: ")
    assert message in result.stderr


def test_an_exporter_without_the_flag_rejects_the_request(sandbox: Sandbox, tmp_path: Path) -> None:
    """Without --web.enable-lifecycle the command fails and names the flag."""
    flags = (sandbox.flags[0], f"--storage.path={tmp_path}")
    with start_exporter(*flags) as exporter:
        result = run_command("reread", *_options(), f"--url={exporter.url}")
    assert result.returncode == 1
    assert "start with --web.enable-lifecycle to allow this" in result.stderr


def _options() -> tuple[str, str]:
    first, last = _recent_days()
    return f"--from={first}", f"--to={last}"


def test_other_servers_are_recognised(tmp_path: Path) -> None:
    """A server that does not listen, or is no exporter, fails with status 1 and without a traceback."""
    with serve(handlers=make_handlers()) as address:
        results = {
            "answered 404: this is no ai-spend-exporter, or an older one": f"http://{address}/metrics",
            "cannot be reached": f"http://127.0.0.1:{free_port()}",
            "gave no answer": f"https://{address}",
        }
        for message, url in results.items():
            result = run_command("reread", *_options(), f"--url={url}", cwd=tmp_path)
            assert result.returncode == 1, result.stderr
            assert message in result.stderr or (url.startswith("https") and "cannot be reached" in result.stderr)
            assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--to=2026-01-02", "Missing option '--from'"),
        ("--from=2026-01-02", "Missing option '--to'"),
        ("--from=yesterday --to=2026-01-02", "'yesterday' does not match the format '%Y-%m-%d'"),
        ("--from=2026-01-03 --to=2026-01-02", "2026-01-03 is after --to=2026-01-02"),
        ("--from=2026-01-03 --to=2999-01-02", "2999-01-02 is in the future"),
        ("--from=2026-01-01 --to=2026-01-02 --url=localhost:10042", "not an address such as http://localhost:10042"),
        ("--from=2026-01-01 --to=2026-01-02 --url=http://me:secret@localhost", "--password-file"),
        ("--from=2026-01-01 --to=2026-01-02 --url=http://localhost/?x=1", "give the address only"),
        ("--from=2026-01-01 --to=2026-01-02 --password-file=x", "needs --user"),
        ("--from=2026-01-01 --to=2026-01-02 --key-file=x", "needs --cert-file"),
    ],
)
def test_misuse_has_a_status_of_its_own(arguments: str, message: str) -> None:
    """A value that no exporter accepts is reported with status 2, before anything is requested."""
    result = run_command("reread", *arguments.split())
    assert result.returncode == 2
    assert message in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--ca-file=missing", "missing cannot be read: No such file or directory."),
        ("--ca-file=text", "--ca-file, --cert-file or --key-file is not usable"),
        ("--cert-file=missing", "missing cannot be read"),
        ("--user=alice --password-file=missing", "--password-file missing cannot be read: No such file or directory."),
    ],
)
def test_an_unusable_file_is_reported(tmp_path: Path, option: str, message: str) -> None:
    """A file that is missing, or has no certificates, is reported with status 1."""
    (tmp_path / "text").write_text("no certificate")
    result = run_command("reread", *_options(), "--url=https://127.0.0.1:1", *option.split(), cwd=tmp_path)
    assert (result.returncode, result.stderr.startswith("Error: ")) == (1, True)
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def _retry_until_read(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command until the first poll has ended: before that there is nothing to read again."""
    results: list[subprocess.CompletedProcess[str]] = []

    def has_read() -> bool:
        results.append(run_command("reread", *_options(), *arguments))
        return "nothing was read yet" not in results[-1].stderr

    wait_until("the first poll", has_read)
    return results[-1]


def test_a_request_over_tls_with_a_password(sandbox: Sandbox, tmp_path: Path) -> None:
    """The command verifies the exporter's certificate, sends its own, and a password from a file or stdin."""
    authority = CertificateAuthority(tmp_path)
    for name in ("server", "client"):
        authority.sign(name)
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    tls = {**TLS, "client_ca_file": "authority.crt", "client_auth_type": "RequireAndVerifyClientCert"}
    web = write_web_config(tmp_path, tls_server_config=tls, basic_auth_users={"alice": hash_password(PASSWORD)})
    flags = (sandbox.flags[0], f"--storage.path={tmp_path / 'ledger'}", f"--web.config.file={web}")
    with start_exporter(*flags, "--web.enable-lifecycle") as exporter:
        exporter.wait_for_log("Listening")
        url = f"--url={exporter.url.replace('http:', 'https:')}"
        trusted = (url, f"--ca-file={authority.file}")
        client = (*trusted, f"--cert-file={tmp_path / 'client.crt'}", f"--key-file={tmp_path / 'client.key'}")
        user = (*client, "--user=alice")
        results = {
            "untrusted": run_command("reread", *_options(), url),
            "without certificate": run_command("reread", *_options(), *trusted),
            "without user": run_command("reread", *_options(), *client),
            "wrong password": run_command("reread", *_options(), *user, stdin="wrong\n"),
            "password file": _retry_until_read(*user, f"--password-file={tmp_path / 'password'}"),
            "typed password": run_command("reread", *_options(), *user, stdin=f"{PASSWORD}\n"),
        }
    statuses = {name: result.returncode for name, result in results.items()}
    assert statuses == dict.fromkeys(results, 1) | {"password file": 0, "typed password": 0}, results
    assert "CERTIFICATE_VERIFY_FAILED" in results["untrusted"].stderr
    for name in ("without user", "wrong password"):
        assert "requires a user and a password: give --user and --password-file" in results[name].stderr
    assert PASSWORD not in "".join(result.stdout + result.stderr for result in results.values())
