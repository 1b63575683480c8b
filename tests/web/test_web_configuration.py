"""--web.config.file: TLS, users, headers and the rate limit, in the format of Prometheus's exporters."""

from __future__ import annotations

import logging
import re
import shutil
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from ipaddress import ip_address
from pathlib import Path

import bcrypt
import httpx
import pytest
import yaml
from cryptography import x509

from exporter.config.web_configuration import load
from exporter.web import WebConfigReloader
from exporter.web.config_reload import CHECK_INTERVAL
from tests.certificates import CertificateAuthority
from tests.command import (
    ANY_PORT_FLAG,
    ExporterProcess,
    Sandbox,
    run_command,
    start_exporter,
    start_sandbox,
    wait_until,
)
from tests.file_opens import watch_opens
from tests.paths import ROOT
from tests.servers import VERSIONS, Prometheus, run_promtool, start_prometheus
from tests.system import make_account
from tests.web_server import TLS, ManualClock, hash_password, serve, write_web_config

EXAMPLE = ROOT / "docs" / "web-config.example.yml"
PATHS = ("/", "/metrics", "/-/healthy", "/-/ready", "/-/reload", "/-/reread", "/api/v1/read", "/nothing")
RELOAD_METRIC = "ai_exporter_config_last_reload_successful"
ALICE = ("alice", "in wonderland")


def make_reloader(folder: Path, clock: ManualClock | None = None, **sections: object) -> WebConfigReloader:
    """Write and load a web configuration; without a clock its files are never checked again."""
    return WebConfigReloader(write_web_config(folder, **sections), clock or ManualClock())


@pytest.fixture(name="authority")
def _authority(tmp_path: Path) -> CertificateAuthority:
    authority = CertificateAuthority(tmp_path)
    authority.sign("server")
    return authority


def make_client_context(authority: CertificateAuthority, client: str = "") -> ssl.SSLContext:
    """Return the context of a client that trusts an authority; `client` names its own certificate, if it has one."""
    context = ssl.create_default_context(cafile=str(authority.file))
    if client:
        context.load_cert_chain(authority.file.parent / f"{client}.crt", authority.file.parent / f"{client}.key")
    return context


def tls_status(address: str, ssl_context: ssl.SSLContext) -> int:
    """Return the status of a page over TLS; 0 if the connection fails."""
    try:
        return httpx.get(f"https://{address}/-/healthy", verify=ssl_context).status_code
    except httpx.TransportError:
        return 0


# The file


@pytest.mark.parametrize("version", VERSIONS)
def test_example(version: str, tmp_path: Path) -> None:
    """promtool and the exporter accept the example, also with its commented lines."""
    CertificateAuthority(tmp_path, "clients").sign("server")
    path = Path(shutil.copy(EXAMPLE, tmp_path))
    checked = run_promtool(version, "check", "web-config", str(path))
    assert checked.returncode == 0, checked.stderr

    config = WebConfigReloader(path, ManualClock()).config
    assert config.tls is not None
    assert len(config.headers) == 5
    assert bcrypt.checkpw(b"change-me", config.users["alice"].reveal().encode())
    assert config.rate_limit is None
    path.write_text(re.sub(r"^# (?=rate_limit|  interval|  burst)", "", path.read_text(), flags=re.MULTILINE))
    path.write_text(path.read_text().replace("# client_allowed", "client_allowed"))
    config = load(path)
    assert config.rate_limit is not None
    assert (config.rate_limit.interval, config.rate_limit.burst) == (0.1, 20)
    assert config.tls is not None
    assert config.tls.allowed_sans == {"prometheus.example.com"}


def test_a_bad_file_stops_the_start(tmp_path: Path) -> None:
    """With an invalid file the exporter does not start: status 1, every problem, no traceback."""
    path = write_web_config(tmp_path, tls_server_config=TLS, basic_auth_user={})
    with start_sandbox(tmp_path, make_account("openai", "acme")) as sandbox:
        result = run_command("run", ANY_PORT_FLAG, *sandbox.flags, f"--web.config.file={path}")
    assert result.returncode == 1
    assert "3 problems in the configuration:" in result.stderr
    assert f"{path}:2: tls_server_config.cert_file: {tmp_path}/server.crt: it does not exist" in result.stderr
    assert f"{path}:4: basic_auth_user: unknown key; did you mean basic_auth_users?" in result.stderr
    assert "Traceback" not in result.stderr


# TLS


def test_versions_ciphers_and_curves_are_those_of_the_file(tmp_path: Path, authority: CertificateAuthority) -> None:
    """Clients connect with the versions, ciphers and curves that the file allows, and with no others."""
    old, new, other = make_client_context(authority), make_client_context(authority), make_client_context(authority)
    old.maximum_version, new.minimum_version = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
    other.maximum_version = ssl.TLSVersion.TLSv1_2
    other.set_ciphers("ECDHE-ECDSA-AES256-GCM-SHA384")
    settings: dict[str, object] = {"min_version": "TLS13", "curve_preferences": ["CurveP384"]}
    with serve(make_reloader(tmp_path, tls_server_config=TLS | settings)) as address:
        assert [tls_status(address, client) for client in (old, new)] == [0, 200]
        new.set_ecdh_curve("prime256v1")
        assert tls_status(address, new) == 0
        new.set_ecdh_curve("secp384r1")
        assert tls_status(address, new) == 200
    settings = {"max_version": "TLS12", "cipher_suites": ["TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"]}
    with serve(make_reloader(tmp_path, tls_server_config=TLS | settings)) as address:
        assert [tls_status(address, client) for client in (old, new, other)] == [200, 0, 0]


def test_inline_pems_serve_as_files_do(tmp_path: Path, authority: CertificateAuthority) -> None:
    """Certificate, key and authority may be written in the file itself."""
    names = {"cert": "server.crt", "key": "server.key", "client_ca": "authority.crt"}
    inline = {name: "# Zürich\n" + (tmp_path / file).read_text() for name, file in names.items()}
    authority.sign("client")
    section = {**inline, "client_auth_type": "RequireAndVerifyClientCert"}
    with serve(make_reloader(tmp_path, tls_server_config=section)) as address:
        assert tls_status(address, make_client_context(authority, "client")) == 200
        assert tls_status(address, make_client_context(authority)) == 0


def test_only_clients_with_the_right_certificate_are_accepted(tmp_path: Path, authority: CertificateAuthority) -> None:
    """Clients need a certificate of the authority with an allowed name; VerifyClientCertIfGiven makes it optional."""
    (tmp_path / "strangers").mkdir()
    other_authority = CertificateAuthority(tmp_path / "strangers")
    other_authority.sign("client", x509.DNSName("prometheus.example.com"))
    foreign = make_client_context(authority)
    foreign.load_cert_chain(tmp_path / "strangers" / "client.crt", tmp_path / "strangers" / "client.key")
    authority.sign("named", x509.DNSName("prometheus.example.com"))
    authority.sign("at6", x509.IPAddress(ip_address("fd00::7")))
    authority.sign("other", x509.DNSName("example.com"))
    clients = [*(make_client_context(authority, name) for name in ("", "named", "at6", "other")), foreign]

    section = TLS | {"client_ca_file": "authority.crt", "client_auth_type": "VerifyClientCertIfGiven"}
    with serve(make_reloader(tmp_path, tls_server_config=section)) as address:
        assert [tls_status(address, client) for client in clients] == [200, 200, 200, 200, 0]
    section["client_auth_type"] = "RequireAndVerifyClientCert"
    with serve(make_reloader(tmp_path, tls_server_config=section)) as address:
        assert [tls_status(address, client) for client in clients] == [0, 200, 200, 200, 0]
    allowed = {"client_allowed_sans": ["prometheus.example.com", "fd00::7"]}
    with serve(make_reloader(tmp_path, tls_server_config=section | allowed)) as address:
        assert [tls_status(address, client) for client in clients] == [0, 200, 200, 0, 0]


def test_a_renewed_certificate_is_used_for_new_connections(
    tmp_path: Path, authority: CertificateAuthority, caplog: pytest.LogCaptureFixture
) -> None:
    """Renewed files are used without a restart; a certificate that does not match its key is rejected and logged."""
    caplog.set_level(logging.INFO)
    clock = ManualClock()
    reloader = make_reloader(tmp_path, clock, tls_server_config=TLS)
    key = tmp_path / "server.key"
    with serve(reloader) as address:
        first, old_key = _serial_number(address), key.read_bytes()
        second, new_key = authority.sign("server"), key.read_bytes()
        assert _serial_number(address) == first != second  # The files are not checked yet.
        key.write_bytes(old_key)
        for _ in range(2):
            clock.advance(CHECK_INTERVAL)
            assert _serial_number(address) == first
            assert not reloader.healthy
        key.write_bytes(new_key)
        clock.advance(CHECK_INTERVAL)
        assert _serial_number(address) == second
        assert reloader.healthy
    messages = [record.getMessage() for record in caplog.records if "web configuration" in record.getMessage().lower()]
    assert messages == [
        "Reloading the web configuration failed; keeping the previous one",
        "Web configuration reloaded",
    ]


def _serial_number(address: str) -> int:
    host, _, port = address.rpartition(":")
    return x509.load_pem_x509_certificate(ssl.get_server_certificate((host, int(port))).encode()).serial_number


# Users


def test_every_path_requires_a_password(tmp_path: Path) -> None:
    """Without the name and password of a user every path is answered with 401 and WWW-Authenticate, known or not."""
    wrong = [None, ("alice", "wrong"), ("bob", ALICE[1]), ("", ""), ("alice", "")]
    malformed = [b"Basic", b"Basic !!!", b"Basic YWxpY2U=", b"Bearer x", b"Basic \xff"]
    with serve(make_reloader(tmp_path, basic_auth_users={"alice": hash_password(ALICE[1])})) as address:
        for url in (f"http://{address}{path}" for path in PATHS):
            # A client for each path: the server closes the connection after a 500.
            with httpx.Client() as client:
                responses = [client.get(url, auth=credentials) for credentials in wrong]
                responses += [client.get(url, headers={b"authorization": header}) for header in malformed]
                assert client.get(url, auth=ALICE).status_code in (200, 403, 404, 405, 500)
            assert {response.status_code for response in responses} == {401}
            assert {response.headers["www-authenticate"] for response in responses} == {
                'Basic realm="ai-spend-exporter"'
            }


def test_long_passwords_are_cut_as_by_htpasswd(tmp_path: Path) -> None:
    """bcrypt uses the first 72 bytes of a password; a longer password works nevertheless."""
    long = "x" * 100
    with serve(make_reloader(tmp_path, basic_auth_users={"alice": hash_password(long[:72])})) as address:
        assert httpx.get(f"http://{address}/metrics", auth=("alice", long)).status_code == 200
        assert httpx.get(f"http://{address}/metrics", auth=("alice", long[:71])).status_code == 401


@pytest.fixture(name="bcrypt_checks")
def _bcrypt_checks(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Record the hash of every bcrypt check in this process; the checks themselves are real."""
    hashes = list[bytes]()
    check_password = bcrypt.checkpw

    def recording_check(password: bytes, bcrypt_hash: bytes) -> bool:
        hashes.append(bcrypt_hash)
        return check_password(password, bcrypt_hash)

    monkeypatch.setattr(bcrypt, "checkpw", recording_check)
    return hashes


def test_an_unknown_user_costs_as_much_as_the_most_expensive_one(tmp_path: Path, bcrypt_checks: list[bytes]) -> None:
    """For an unknown name a password is checked too, at the highest cost: response times reveal no users."""
    cheap, expensive = hash_password("x", 4), hash_password("x", 6)
    with serve(make_reloader(tmp_path, basic_auth_users={"bob": cheap, "alice": expensive})) as address:
        for name in ("alice", "mallory"):
            assert httpx.get(f"http://{address}/metrics", auth=(name, "guess")).status_code == 401
    assert bcrypt_checks == [expensive.encode()] * 2


def test_password_checks_are_cached(tmp_path: Path, bcrypt_checks: list[bytes]) -> None:
    """A valid password is checked with bcrypt once, whatever the number of scrapes; invalid ones every time."""
    with (
        serve(make_reloader(tmp_path, basic_auth_users={"alice": hash_password(ALICE[1])})) as address,
        httpx.Client(base_url=f"http://{address}") as client,
    ):
        assert {client.get("/metrics", auth=ALICE).status_code for _ in range(100)} == {200}
        assert len(bcrypt_checks) == 1
        assert {client.get("/metrics", auth=("alice", "guess")).status_code for _ in range(3)} == {401}
        assert len(bcrypt_checks) == 4


# Headers and the rate limit


def test_headers_are_added_to_every_answer(tmp_path: Path) -> None:
    """Every response has the headers of the file, errors too; an empty header is left out."""
    headers = {"X-Frame-Options": "deny", "Strict-Transport-Security": "max-age=60", "X-XSS-Protection": ""}
    reloader = make_reloader(
        tmp_path, http_server_config={"headers": headers}, basic_auth_users={"alice": hash_password(ALICE[1])}
    )
    with serve(reloader) as address:
        answers = [httpx.request("GET", f"http://{address}{path}", auth=ALICE) for path in PATHS]
        answers += [httpx.get(f"http://{address}/"), httpx.post(f"http://{address}/", content=bytes(9999), auth=ALICE)]
    assert {200, 401, 404, 405, 413, 500} <= {answer.status_code for answer in answers}
    for answer in answers:
        assert answer.headers["x-frame-options"] == "deny"
        assert answer.headers["strict-transport-security"] == "max-age=60"
        assert "x-xss-protection" not in answer.headers


def test_requests_above_the_rate_limit_are_rejected(tmp_path: Path) -> None:
    """After a burst one request per interval is answered; the others get 429 with the time to wait."""
    clock = ManualClock()
    with serve(make_reloader(tmp_path, clock, rate_limit={"interval": "2s", "burst": 3})) as address:
        responses = [httpx.get(f"http://{address}/metrics") for _ in range(5)]
        assert [response.status_code for response in responses] == [200, 200, 200, 429, 429]
        assert responses[-1].headers["retry-after"] == "2"
        clock.advance(2)
        assert [httpx.get(f"http://{address}/metrics").status_code for _ in range(2)] == [200, 429]


# The running exporter


@pytest.fixture(scope="module", name="sandbox")
def _start_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with start_sandbox(tmp_path_factory.mktemp("web"), make_account("openai", "acme")) as sandbox:
        yield sandbox


@pytest.fixture(scope="module", name="secured")
def _start_secured(sandbox: Sandbox) -> Iterator[tuple[ExporterProcess, CertificateAuthority, str]]:
    authority = CertificateAuthority(sandbox.folder)
    authority.sign("server")
    authority.sign("client", x509.DNSName("prometheus.example.com"))
    authority.sign("nobody", x509.DNSName("nobody.example.com"))
    client_auth = {"client_ca_file": "authority.crt", "client_auth_type": "RequireAndVerifyClientCert"}
    allowed = {"client_allowed_sans": ["prometheus.example.com"]}
    path = write_web_config(
        sandbox.folder,
        tls_server_config=TLS | client_auth | allowed,
        basic_auth_users={ALICE[0]: hash_password(ALICE[1], 10)},
    )
    path.chmod(0o644)
    with start_exporter(*sandbox.flags, f"--web.config.file={path}") as exporter:
        yield exporter, authority, exporter.url.removeprefix("http://")


def test_prometheus_scrapes_and_reads_with_certificate_and_password(
    secured: tuple[ExporterProcess, CertificateAuthority, str], tmp_path: Path
) -> None:
    """With certificate and password, Prometheus scrapes and reads history over TLS; without one of them it cannot."""
    _, authority, address = secured

    def client(scheme: str = "https", certificate: str = "client", password: str = ALICE[1]) -> dict[str, object]:
        tls = {"ca_file": str(authority.file)}
        if certificate:
            file = authority.file.parent / certificate
            tls |= {"cert_file": f"{file}.crt", "key_file": f"{file}.key"}
        auth = {"username": ALICE[0], "password": password}
        return {"scheme": scheme, "basic_auth": auth, **({"tls_config": tls} if scheme == "https" else {})}

    clients = {
        "right": client(),
        "no-certificate": client(certificate=""),
        "other-name": client(certificate="nobody"),
        "wrong-password": client(password="guess"),
        "plain": client(scheme="http"),
    }
    jobs = [
        {"job_name": name, "scrape_interval": "1s", "static_configs": [{"targets": [address]}], **settings}
        for name, settings in clients.items()
    ]
    reading = {name: value for name, value in clients["right"].items() if name != "scheme"}
    remote = {"url": f"https://{address}/api/v1/read", "read_recent": True, **reading}
    config = tmp_path / "prometheus.yml"
    config.write_text(yaml.safe_dump({"scrape_configs": jobs, "remote_read": [remote]}))
    with ExitStack() as stack:
        for server in [stack.enter_context(start_prometheus(version, tmp_path, config)) for version in VERSIONS]:
            wait_until("every scrape", partial(_has_samples, server, "count(up) == 5"))
            assert _has_samples(server, 'up{job="right"} == 1')
            assert not _has_samples(server, 'up{job!="right"} != 0')
            wait_until(
                "history", partial(_has_samples, server, "sum by (account) (sum_over_time(ai_hourly_cost_usd[2d])) > 0")
            )


def _has_samples(server: Prometheus, expression: str) -> bool:
    return bool(server.query(expression, datetime.now(UTC)))


def test_the_start_logs_tls_and_unsafe_files(secured: tuple[ExporterProcess, CertificateAuthority, str]) -> None:
    """The log reports TLS and a file that everyone may read, and contains no password."""
    exporter, _, _ = secured
    log = "".join(exporter.stderr_lines)
    assert re.search(r'msg="Web configuration loaded" file=\S+web.yml tls=true', log)
    assert re.search(r'level=warn msg="A file with secrets is unsafe" warning="\S+web.yml: everyone', log)
    assert ALICE[1] not in log
    assert "$2b$" not in log


def test_a_changed_password_is_used_and_an_invalid_change_is_not(sandbox: Sandbox) -> None:
    """A new password works without a restart; an invalid file changes nothing but the log and a metric, until fixed."""
    bob = ("bob", "the builder")
    path = write_web_config(sandbox.folder, basic_auth_users={"alice": hash_password(ALICE[1])})
    flags = (f"--config.file={sandbox.config}", f"--storage.path={sandbox.folder / 'other'}")
    with start_exporter(*flags, f"--web.config.file={path}") as exporter:

        def reload_metric(auth: tuple[str, str]) -> str:
            """Return the metric's value, or the status code if the scrape failed."""
            response = exporter.client.get(f"{exporter.url}/metrics", auth=auth)
            found = re.search(rf"^{RELOAD_METRIC} (.*)$", response.text, re.MULTILINE)
            return found[1] if found else str(response.status_code)

        assert (reload_metric(ALICE), reload_metric(bob)) == ("1.0", "401")
        write_web_config(sandbox.folder, basic_auth_users={"bob": hash_password(bob[1])})
        wait_until("the new password", lambda: reload_metric(bob) == "1.0")
        assert reload_metric(ALICE) == "401"

        write_web_config(sandbox.folder, basic_auth_users={"alice": "plain text"})
        wait_until("the failed reload", lambda: reload_metric(bob) == "0.0")
        with watch_opens(path) as count_checks:
            wait_until("another check", lambda: reload_metric(bob) == "0.0" and count_checks() > 0)
        assert reload_metric(bob) == "0.0"
        line = next(line for line in exporter.stderr_lines if "Reloading the web configuration failed" in line)
        assert "level=error" in line
        assert f"{path}:2: basic_auth_users.alice: expected a bcrypt hash" in line
        assert sum("Reloading the web configuration failed" in line for line in exporter.stderr_lines) == 1

        CertificateAuthority(sandbox.folder).sign("server")
        write_web_config(sandbox.folder, tls_server_config=TLS)
        wait_until(
            "the advice to restart",
            lambda: reload_metric(bob) and any("by a restart only" in line for line in exporter.stderr_lines),
        )
        assert reload_metric(bob) == "0.0"

        write_web_config(sandbox.folder, basic_auth_users={"alice": hash_password(ALICE[1])})
        wait_until("the fixed file", lambda: reload_metric(ALICE) == "1.0")
        assert exporter.stop() == 0
    assert "Traceback" not in "".join(exporter.stderr_lines)
