"""`check health`: its exit status against servers with and without TLS, passwords and client certificates."""

from __future__ import annotations

import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest

from exporter.web import WebConfigReloader
from tests.certificates import CertificateAuthority
from tests.command import free_port, run_command
from tests.web_server import TLS, hash_password, make_handlers, serve, write_web_config

PASSWORD = "in wonderland"


def test_a_process_that_serves_is_healthy() -> None:
    """Over plain HTTP the address, the status and the answer are printed, with exit status 0."""
    with serve() as address:
        result = run_command("check", "health", f"--url=http://{address}/")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == f"http://{address}/-/healthy: 200 ai-spend-exporter is healthy.\n"


def test_a_process_that_is_not_ready_fails_only_with_ready() -> None:
    """Before the accounts are loaded the process is healthy and not ready; the reason is printed."""
    with serve(handlers=replace(make_handlers(), not_ready_reason=lambda: "The ledger is being opened.")) as address:
        healthy = run_command("check", "health", f"--url=http://{address}")
        ready = run_command("check", "health", f"--url=http://{address}", "--ready")
    assert healthy.returncode == 0
    assert (ready.returncode, ready.stdout) == (1, f"http://{address}/-/ready: 503 The ledger is being opened.\n")


def test_the_default_address_is_that_of_run() -> None:
    """Without --url the port of `run` on loopback is requested."""
    result = run_command("check", "health")
    # Somebody may run an exporter on this machine.
    assert "http://127.0.0.1:10042/-/healthy" in result.stdout + result.stderr


def test_tls_of_the_web_configuration_is_used(tmp_path: Path) -> None:
    """With --web.config.file the exporter's own certificate is expected, for whatever name it was issued."""
    other = tmp_path / "other"
    other.mkdir()
    CertificateAuthority(tmp_path).sign("server")
    CertificateAuthority(other).sign("server")
    web = write_web_config(tmp_path, tls_server_config=TLS)
    with serve(WebConfigReloader(web, time.monotonic)) as address:
        url = f"--url=https://localhost:{address.rpartition(':')[2]}"
        assert run_command("check", "health", url, f"--web.config.file={web}").returncode == 0
        foreign = write_web_config(other, tls_server_config=TLS)
        results = {
            "the certificate cannot be verified": run_command("check", "health", url),
            "unable to get local issuer certificate": run_command(
                "check", "health", url, f"--web.config.file={foreign}"
            ),
        }
        default = run_command("check", "health", f"--web.config.file={web}")
    for message, result in results.items():
        assert result.returncode == 1
        assert message in result.stderr
    assert "https://127.0.0.1:10042/-/healthy" in default.stdout + default.stderr


def test_a_password_is_not_needed_to_see_that_the_process_serves(tmp_path: Path) -> None:
    """401 without --user is healthy; --ready and a wrong password fail, and the right password succeeds."""
    web = write_web_config(tmp_path, basic_auth_users={"alice": hash_password(PASSWORD)})
    (tmp_path / "right").write_text(f"{PASSWORD}\n")
    (tmp_path / "wrong").write_text("in the rabbit hole")
    with serve(WebConfigReloader(web, time.monotonic)) as address:
        command = ("check", "health", f"--url=http://{address}", f"--web.config.file={web}")
        right, wrong = (("--user=alice", f"--password-file={tmp_path / name}") for name in ("right", "wrong"))
        statuses = {
            arguments: run_command(*command, *arguments).returncode
            for arguments in ((), ("--ready",), right, ("--ready", *right), wrong)
        }
    assert list(statuses.values()) == [0, 1, 0, 0, 1]


def test_a_client_certificate_is_sent(tmp_path: Path) -> None:
    """A server that verifies clients is healthy with a certificate, and the message without one says what to give."""
    authority = CertificateAuthority(tmp_path)
    for name in ("server", "client"):
        authority.sign(name)
    tls = {**TLS, "client_ca_file": "authority.crt", "client_auth_type": "RequireAndVerifyClientCert"}
    web = write_web_config(tmp_path, tls_server_config=tls)
    with serve(WebConfigReloader(web, time.monotonic)) as address:
        command = ("check", "health", f"--url=https://{address}", f"--web.config.file={web}")
        client = (f"--cert-file={tmp_path / 'client.crt'}", f"--key-file={tmp_path / 'client.key'}")
        assert run_command(*command, *client).returncode == 0
        assert run_command(*command[:-1], f"--ca-file={authority.file}", *client).returncode == 0
        without = run_command(*command)
    assert without.returncode == 1
    assert "requires a client certificate" in without.stderr
    assert "give --cert-file and --key-file" in without.stderr


def test_a_server_that_does_not_answer_is_unhealthy() -> None:
    """A server that accepts connections and sends nothing fails after --timeout; other protocols fail too."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"--url=http://127.0.0.1:{silent.getsockname()[1]}"
        result = run_command("check", "health", url, "--timeout=0.2")
    assert (result.returncode, result.stdout) == (1, "")
    assert "cannot be reached: timed out" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--url=127.0.0.1:10042", "not an address such as http://localhost:10042"),
        ("--user=alice", "needs --password-file"),
        ("--password-file=x", "needs --user"),
        ("--key-file=x", "needs --cert-file"),
        ("--timeout=0", "0.0 is not in the range x>0"),
    ],
)
def test_misuse_has_a_status_of_its_own(arguments: str, message: str) -> None:
    """A value that no exporter accepts is reported with status 2."""
    result = run_command("check", "health", *arguments.split())
    assert result.returncode == 2
    assert message in " ".join(result.stderr.split())


def test_an_unusable_file_is_reported(tmp_path: Path) -> None:
    """A web configuration or a certificate that cannot be read fails with status 1 and no traceback."""
    url = f"--url=https://127.0.0.1:{free_port()}"
    for argument in ("--web.config.file=missing", "--ca-file=missing"):
        result = run_command("check", "health", url, argument, cwd=tmp_path)
        assert result.returncode == 1
        assert "missing" in result.stderr
        assert "Traceback" not in result.stderr
