"""--web.config.file: TLS, users, headers and the rate limit, as Prometheus's own exporters take them."""

from __future__ import annotations

import logging
import re
import shutil
import ssl
import statistics
import time
from collections.abc import Iterator, Sequence
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
from tests.paths import ROOT
from tests.servers import VERSIONS, Prometheus, run_promtool, start_prometheus
from tests.system import make_account
from tests.web_server import TLS, hash_password, serve, write_web_config

EXAMPLE = ROOT / "docs" / "web-config.example.yml"
PATHS = ("/", "/metrics", "/-/healthy", "/-/ready", "/-/reload", "/api/v1/read", "/nothing")
RELOAD_METRIC = "ai_exporter_config_last_reload_successful"
ALICE = ("alice", "in wonderland")


def make_reloader(folder: Path, **sections: object) -> WebConfigReloader:
    return WebConfigReloader(write_web_config(folder, **sections), time.monotonic)


@pytest.fixture(name="authority")
def _authority(tmp_path: Path) -> CertificateAuthority:
    authority = CertificateAuthority(tmp_path)
    authority.sign("server")
    return authority


def make_client_context(authority: CertificateAuthority, client: str = "") -> ssl.SSLContext:
    """Return how a client connects that trusts an authority, perhaps with a certificate of its own."""
    made = ssl.create_default_context(cafile=str(authority.file))
    if client:
        made.load_cert_chain(authority.file.parent / f"{client}.crt", authority.file.parent / f"{client}.key")
    return made


def tls_status(address: str, ssl_context: ssl.SSLContext) -> int:
    """Return the status of a page over TLS; 0 where no connection comes about."""
    try:
        return httpx.get(f"https://{address}/-/healthy", verify=ssl_context).status_code
    except httpx.TransportError:
        return 0


# The file


@pytest.mark.parametrize("version", VERSIONS)
def test_example(version: str, tmp_path: Path) -> None:
    """promtool accepts the example and so do we, and what its comments promise holds."""
    CertificateAuthority(tmp_path, "clients").sign("server")
    path = Path(shutil.copy(EXAMPLE, tmp_path))
    checked = run_promtool(version, "check", "web-config", str(path))
    assert checked.returncode == 0, checked.stderr

    config = WebConfigReloader(path, time.monotonic).config
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
    """With a bad file nothing starts: status 1, every problem, no traceback."""
    path = write_web_config(tmp_path, tls_server_config=TLS, basic_auth_user={})
    with start_sandbox(tmp_path, make_account("openai", "acme")) as sandbox:
        refused = run_command("run", ANY_PORT_FLAG, *sandbox.flags, f"--web.config.file={path}")
    assert refused.returncode == 1
    assert "3 problems in the configuration:" in refused.stderr
    assert f"{path}:2: tls_server_config.cert_file: {tmp_path}/server.crt: it does not exist" in refused.stderr
    assert f"{path}:4: basic_auth_user: unknown key; did you mean basic_auth_users?" in refused.stderr
    assert "Traceback" not in refused.stderr


# TLS


def test_versions_ciphers_and_curves_are_those_of_the_file(tmp_path: Path, authority: CertificateAuthority) -> None:
    """A client gets the version and the cipher that the file allows, and none where they have nothing in common."""
    old, new, other = make_client_context(authority), make_client_context(authority), make_client_context(authority)
    old.maximum_version, new.minimum_version = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
    other.maximum_version = ssl.TLSVersion.TLSv1_2
    other.set_ciphers("ECDHE-ECDSA-AES256-GCM-SHA384")
    chosen: dict[str, object] = {"min_version": "TLS13", "curve_preferences": ["CurveP384"]}
    with serve(make_reloader(tmp_path, tls_server_config=TLS | chosen)) as address:
        assert [tls_status(address, one) for one in (old, new)] == [0, 200]
        new.set_ecdh_curve("prime256v1")
        assert tls_status(address, new) == 0
        new.set_ecdh_curve("secp384r1")
        assert tls_status(address, new) == 200
    chosen = {"max_version": "TLS12", "cipher_suites": ["TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"]}
    with serve(make_reloader(tmp_path, tls_server_config=TLS | chosen)) as address:
        assert [tls_status(address, one) for one in (old, new, other)] == [200, 0, 0]


def test_inline_pems_serve_as_files_do(tmp_path: Path, authority: CertificateAuthority) -> None:
    """Certificate, key and authority may stand in the file itself."""
    names = {"cert": "server.crt", "key": "server.key", "client_ca": "authority.crt"}
    inline = {name: "# Zürich\n" + (tmp_path / file).read_text() for name, file in names.items()}
    authority.sign("client")
    given = {**inline, "client_auth_type": "RequireAndVerifyClientCert"}
    with serve(make_reloader(tmp_path, tls_server_config=given)) as address:
        assert tls_status(address, make_client_context(authority, "client")) == 200
        assert tls_status(address, make_client_context(authority)) == 0


def test_only_clients_with_the_right_certificate_come_in(tmp_path: Path, authority: CertificateAuthority) -> None:
    """A client needs a certificate of the authority, with an allowed name; a policy may leave it to clients."""
    (tmp_path / "strangers").mkdir()
    strange = CertificateAuthority(tmp_path / "strangers")
    strange.sign("client", x509.DNSName("prometheus.example.com"))
    foreign = make_client_context(authority)
    foreign.load_cert_chain(tmp_path / "strangers" / "client.crt", tmp_path / "strangers" / "client.key")
    authority.sign("named", x509.DNSName("prometheus.example.com"))
    authority.sign("at6", x509.IPAddress(ip_address("fd00::7")))
    authority.sign("other", x509.DNSName("example.com"))
    clients = [make_client_context(authority, name) for name in ("", "named", "at6", "other")] + [foreign]

    asking = TLS | {"client_ca_file": "authority.crt", "client_auth_type": "VerifyClientCertIfGiven"}
    with serve(make_reloader(tmp_path, tls_server_config=asking)) as address:
        assert [tls_status(address, one) for one in clients] == [200, 200, 200, 200, 0]
    asking["client_auth_type"] = "RequireAndVerifyClientCert"
    with serve(make_reloader(tmp_path, tls_server_config=asking)) as address:
        assert [tls_status(address, one) for one in clients] == [0, 200, 200, 200, 0]
    allowed = {"client_allowed_sans": ["prometheus.example.com", "fd00::7"]}
    with serve(make_reloader(tmp_path, tls_server_config=asking | allowed)) as address:
        assert [tls_status(address, one) for one in clients] == [0, 200, 200, 0, 0]


def test_a_renewed_certificate_is_shown_to_the_next_client(
    tmp_path: Path, authority: CertificateAuthority, caplog: pytest.LogCaptureFixture
) -> None:
    """Renewed files count without a restart; a certificate without its key does not, and is logged once."""
    caplog.set_level(logging.INFO)
    door = make_reloader(tmp_path, tls_server_config=TLS)
    with serve(door) as address:
        first = _serial_number(address)
        (tmp_path / "old.key").write_bytes((tmp_path / "server.key").read_bytes())
        second = authority.sign("server")
        new = (tmp_path / "server.key").read_bytes()
        (tmp_path / "server.key").write_bytes((tmp_path / "old.key").read_bytes())
        wait_until("the refusal", lambda: _serial_number(address) and not door.healthy)
        time.sleep(CHECK_INTERVAL)
        assert _serial_number(address) == first != second
        (tmp_path / "server.key").write_bytes(new)
        wait_until("the renewal", lambda: _serial_number(address) == second)
        assert door.healthy
    said = [record.getMessage() for record in caplog.records if "Web configuration" in record.getMessage()]
    assert said == ["Web configuration not reloaded; the old one stays", "Web configuration reloaded"]


def _serial_number(address: str) -> int:
    host, _, port = address.rpartition(":")
    return x509.load_pem_x509_certificate(ssl.get_server_certificate((host, int(port))).encode()).serial_number


# Users


def test_every_path_wants_a_password(tmp_path: Path) -> None:
    """Without a user's name and password every path, those that do not exist too, is 401 and says what is wanted."""
    wrong = [None, ("alice", "wrong"), ("bob", ALICE[1]), ("", ""), ("alice", "")]
    odd = [b"Basic", b"Basic !!!", b"Basic YWxpY2U=", b"Bearer x", b"Basic \xff"]
    with serve(make_reloader(tmp_path, basic_auth_users={"alice": hash_password(ALICE[1])})) as address:
        for url in (f"http://{address}{path}" for path in PATHS):
            # A connection for each path: after a 500 the server closes it.
            with httpx.Client() as client:
                refused = [client.get(url, auth=one) for one in wrong]
                refused += [client.get(url, headers={b"authorization": one}) for one in odd]
            assert {answer.status_code for answer in refused} == {401}
            assert {answer.headers["www-authenticate"] for answer in refused} == {'Basic realm="ai-spend-exporter"'}
            assert httpx.get(url, auth=ALICE).status_code in (200, 403, 404, 405, 500)


def test_long_passwords_are_cut_as_by_htpasswd(tmp_path: Path) -> None:
    """Of a password bcrypt knows 72 bytes; a longer one works nevertheless."""
    long = "x" * 100
    with serve(make_reloader(tmp_path, basic_auth_users={"alice": hash_password(long[:72])})) as address:
        assert httpx.get(f"http://{address}/metrics", auth=("alice", long)).status_code == 200
        assert httpx.get(f"http://{address}/metrics", auth=("alice", long[:71])).status_code == 401


def test_an_unknown_user_takes_as_long_as_a_known_one(tmp_path: Path) -> None:
    """How long a refusal takes does not tell which users there are."""
    with serve(make_reloader(tmp_path, basic_auth_users={"alice": hash_password("x", 9)})) as address:
        known = statistics.median(measure_scrapes(address, 401, [("alice", str(one)) for one in range(9)]))
        unknown = statistics.median(measure_scrapes(address, 401, [("mallory", str(one)) for one in range(9)]))
    assert known > 0.01
    assert 0.6 < unknown / known < 1.6


def test_password_checks_are_cached(tmp_path: Path) -> None:
    """From its second request on, who knows the password waits hardly longer than where none is wanted."""
    with serve() as address:
        plain = measure_scrapes(address, 200, [None] * 100)
    with serve(make_reloader(tmp_path, basic_auth_users={"alice": hash_password(ALICE[1], 10)})) as address:
        first, *rest = measure_scrapes(address, 200, [ALICE] * 101)
    assert first > 3 * statistics.median(rest)
    assert statistics.median(rest) < 2 * statistics.median(plain)


def measure_scrapes(address: str, wanted: int, users: Sequence[tuple[str, str] | None]) -> list[float]:
    """Scrape as each of the users; return how long every answer took, which has to have a status."""
    took = []
    with httpx.Client() as client:
        for user in users:
            began = time.perf_counter()
            assert client.get(f"http://{address}/metrics", auth=user).status_code == wanted
            took.append(time.perf_counter() - began)
    return took


# Headers and the rate limit


def test_headers_are_added_to_every_answer(tmp_path: Path) -> None:
    """Whatever is answered, a refusal and a defect too, carries the headers of the file; an empty one is left out."""
    headers = {"X-Frame-Options": "deny", "Strict-Transport-Security": "max-age=60", "X-XSS-Protection": ""}
    door = make_reloader(
        tmp_path, http_server_config={"headers": headers}, basic_auth_users={"alice": hash_password(ALICE[1])}
    )
    with serve(door) as address:
        answers = [httpx.request("GET", f"http://{address}{path}", auth=ALICE) for path in PATHS]
        answers += [httpx.get(f"http://{address}/"), httpx.post(f"http://{address}/", content=bytes(9999), auth=ALICE)]
    assert {200, 401, 404, 405, 413, 500} <= {answer.status_code for answer in answers}
    for answer in answers:
        assert answer.headers["x-frame-options"] == "deny"
        assert answer.headers["strict-transport-security"] == "max-age=60"
        assert "x-xss-protection" not in answer.headers


def test_requests_above_the_rate_limit_are_rejected(tmp_path: Path) -> None:
    """After a burst there is one answer per interval, and 429 with the time to wait for the others."""
    with serve(make_reloader(tmp_path, rate_limit={"interval": "2s", "burst": 3})) as address:
        answers = [httpx.get(f"http://{address}/metrics") for _ in range(5)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
        assert answers[-1].headers["retry-after"] == "2"
        time.sleep(2.1)
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
    asking = {"client_ca_file": "authority.crt", "client_auth_type": "RequireAndVerifyClientCert"}
    allowed = {"client_allowed_sans": ["prometheus.example.com"]}
    path = write_web_config(
        sandbox.folder,
        tls_server_config=TLS | asking | allowed,
        basic_auth_users={ALICE[0]: hash_password(ALICE[1], 10)},
    )
    path.chmod(0o644)
    with start_exporter(*sandbox.flags, f"--web.config.file={path}") as it:
        yield it, authority, it.url.removeprefix("http://")


def test_prometheus_scrapes_and_reads_with_certificate_and_password(
    secured: tuple[ExporterProcess, CertificateAuthority, str], tmp_path: Path
) -> None:
    """Prometheus is up with TLS, certificate and password, and reads history so; with anything amiss it is down."""
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
        {"job_name": name, "scrape_interval": "1s", "static_configs": [{"targets": [address]}], **how}
        for name, how in clients.items()
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
    """The log tells of TLS and of the file that everyone may read, and of no password."""
    it, _, _ = secured
    said = "".join(it.stderr_lines)
    assert re.search(r'msg="Web configuration loaded" file=\S+web.yml tls=true', said)
    assert re.search(r'level=warn msg="A file with secrets is unsafe" warning="\S+web.yml: everyone', said)
    assert ALICE[1] not in said
    assert "$2b$" not in said


def test_a_changed_password_counts_and_a_broken_change_does_not(sandbox: Sandbox) -> None:
    """A new password works at the next request; a broken file keeps the old one, in log and metric, until mended."""
    bob = ("bob", "the builder")
    path = write_web_config(sandbox.folder, basic_auth_users={"alice": hash_password(ALICE[1])})
    flags = (f"--config.file={sandbox.config}", f"--storage.path={sandbox.folder / 'other'}")
    with start_exporter(*flags, f"--web.config.file={path}") as it:

        def told(auth: tuple[str, str]) -> str:
            """Return the metric, or the status where there is none to be had."""
            answer = it.client.get(f"{it.url}/metrics", auth=auth)
            found = re.search(rf"^{RELOAD_METRIC} (.*)$", answer.text, re.MULTILINE)
            return found[1] if found else str(answer.status_code)

        assert (told(ALICE), told(bob)) == ("1.0", "401")
        write_web_config(sandbox.folder, basic_auth_users={"bob": hash_password(bob[1])})
        wait_until("the new password", lambda: told(bob) == "1.0")
        assert told(ALICE) == "401"

        write_web_config(sandbox.folder, basic_auth_users={"alice": "plain text"})
        wait_until("the refusal", lambda: told(bob) == "0.0")
        time.sleep(CHECK_INTERVAL)
        assert told(bob) == "0.0"
        line = next(line for line in it.stderr_lines if "not reloaded" in line)
        assert "level=error" in line
        assert f"{path}:2: basic_auth_users.alice: expected a bcrypt hash" in line
        assert sum("not reloaded" in line for line in it.stderr_lines) == 1

        CertificateAuthority(sandbox.folder).sign("server")
        write_web_config(sandbox.folder, tls_server_config=TLS)
        wait_until("the advice", lambda: told(bob) and any("by a restart only" in line for line in it.stderr_lines))
        assert told(bob) == "0.0"

        write_web_config(sandbox.folder, basic_auth_users={"alice": hash_password(ALICE[1])})
        wait_until("the mended file", lambda: told(ALICE) == "1.0")
        assert it.stop() == 0
    assert "Traceback" not in "".join(it.stderr_lines)
