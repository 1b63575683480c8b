"""The running process: HTTP responses, signals, reloads, and failures of the disk."""

from __future__ import annotations

import gzip
import http.client
import itertools
import re
import resource
import shutil
import signal
import socket
import subprocess
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import cramjam
import httpx
import pytest
import yaml
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from exporter.metrics.exposition import OPENMETRICS_CONTENT_TYPE, TEXT_CONTENT_TYPE
from exporter.metrics.families import HOURLY_FAMILIES
from tests.command import (
    ANY_PORT_FLAG,
    TIMEOUT,
    ExporterProcess,
    Sandbox,
    run_command,
    start_exporter,
    start_sandbox,
    wait_until,
)
from tests.file_opens import watch_opens
from tests.history.ledger_days import REGEX, decode_read_response, encode_read_request
from tests.system import make_account

PATHS = ("/", "/metrics", "/-/healthy", "/-/ready")
POST_PATHS = ("/-/reload", "/-/reread", "/api/v1/read")
RELOAD_METRIC = "ai_exporter_config_last_reload_successful"


@pytest.fixture(scope="module", name="exporter")
def _start_exporter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExporterProcess]:
    folder = tmp_path_factory.mktemp("serve")
    with (
        start_sandbox(folder, make_account("openai", "acme"), make_account("anthropic", "labs")) as here,
        start_exporter(*here.flags) as exporter,
    ):
        exporter.wait_until_up("acme", "labs")
        yield exporter


@pytest.mark.parametrize("path", PATHS)
def test_every_page_answers_get_and_head(exporter: ExporterProcess, path: str) -> None:
    """GET returns 200 and a body; HEAD returns the same headers without a body."""
    get, head = exporter.get(path), httpx.head(exporter.url + path)
    assert get.status_code == head.status_code == 200
    assert get.text
    assert head.content == b""
    assert head.headers["content-type"] == get.headers["content-type"]
    assert int(head.headers["content-length"]) == pytest.approx(int(get.headers["content-length"]), rel=0.01)


@pytest.mark.parametrize("path", ["/nothing", "/metrics/nothing", "/-/quit", "/../config.yaml", "//"])
def test_other_paths_are_not_found(exporter: ExporterProcess, path: str) -> None:
    """Other paths return 404."""
    with httpx.Client() as client:
        assert client.send(httpx.Request("GET", httpx.URL(exporter.url, raw_path=path.encode()))).status_code == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [*itertools.product(("POST", "DELETE"), PATHS), *itertools.product(("GET", "DELETE"), POST_PATHS)],
)
def test_wrong_methods_get_the_allowed_ones(exporter: ExporterProcess, method: str, path: str) -> None:
    """A method that a path does not have returns 405 with the allowed methods."""
    response = httpx.request(method, exporter.url + path)
    assert response.status_code == 405
    allowed = {"POST"} if path in POST_PATHS else {"GET", "HEAD"}
    assert allowed <= {name.strip() for name in response.headers["allow"].split(",")}


def test_a_remote_read_follows_the_protocol(exporter: ExporterProcess) -> None:
    """The response is protobuf compressed with snappy, with the matching headers, and has every account."""
    answer = httpx.post(f"{exporter.url}/api/v1/read", content=encode_read_request((REGEX, "__name__", "ai_hourly_.+")))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/x-protobuf"
    assert answer.headers["content-encoding"] == "snappy"
    (found,) = decode_read_response(answer.content)
    assert {dict(labels)["account"] for labels in found} == {"acme", "labs"}
    assert {dict(labels)["__name__"] for labels in found} == {family.name for family in HOURLY_FAMILIES}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"hello", "the body is not compressed with snappy's block format"),
        (encode_read_request((REGEX, "model", "(")), "the pattern of the matcher on model cannot be read: ("),
        # The encoding of 14,000 queries without any field.
        (bytes(cramjam.snappy.compress_raw(b"\n\0" * 14_000)), "the request has 14000 queries, and 100 are allowed"),
    ],
)
def test_a_rejected_remote_read_has_a_reason(exporter: ExporterProcess, body: bytes, reason: str) -> None:
    """An invalid remote read returns 400 with the reason, and the exporter continues."""
    answer = httpx.post(f"{exporter.url}/api/v1/read", content=body)
    assert (answer.status_code, answer.text) == (400, f"Remote read refused: {reason}.\n")
    assert exporter.get("/-/healthy").status_code == 200


def test_the_limit_of_samples_is_a_flag(tmp_path: Path) -> None:
    """--storage.remote.read-sample-limit limits the samples of one response."""
    limit = "--storage.remote.read-sample-limit=20"
    with (
        start_sandbox(tmp_path, make_account("openai", "acme")) as here,
        start_exporter(*here.flags, limit) as exporter,
    ):
        exporter.wait_until_up("acme")
        answer = httpx.post(
            f"{exporter.url}/api/v1/read", content=encode_read_request((REGEX, "__name__", "ai_hourly_.+"))
        )
    assert answer.status_code == 400
    assert "more than 20 samples" in answer.text
    assert "--storage.remote.read-sample-limit" in answer.text


@pytest.mark.parametrize("encoding", ["", "gzip"])
@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("", TEXT_CONTENT_TYPE),
        ("text/plain", TEXT_CONTENT_TYPE),
        ("application/openmetrics-text; version=1.0.0", OPENMETRICS_CONTENT_TYPE),
    ],
)
def test_metrics_are_served_in_the_requested_format(
    exporter: ExporterProcess, accept: str, form: str, encoding: str
) -> None:
    """Accept selects text or OpenMetrics, Accept-Encoding gzip; headers are correct and the page is complete."""
    host = exporter.url.removeprefix("http://")
    with closing(http.client.HTTPConnection(host, timeout=TIMEOUT)) as connection:
        connection.request("GET", "/metrics", headers={"Accept": accept, "Accept-Encoding": encoding})
        answer = connection.getresponse()
        raw = answer.read()

    assert answer.status == 200
    assert answer.getheader("content-type") == form
    assert {name.strip().lower() for name in str(answer.getheader("vary")).split(",")} == {"accept", "accept-encoding"}
    assert answer.getheader("content-encoding", "") == encoding
    assert answer.getheader("content-length") == str(len(raw))
    if encoding:
        # curl and Go's client stop after the first gzip member: there must be only one.
        decompressor = zlib.decompressobj(16 + zlib.MAX_WBITS)
        plain = decompressor.decompress(raw)
        assert decompressor.eof
        assert decompressor.unused_data == b""
    else:
        plain = raw
    parse = parse_openmetrics if form is OPENMETRICS_CONTENT_TYPE else parse_text
    families = {family.name for family in parse(plain.decode())}
    assert {"ai_cost_today_usd", "ai_account_up", "ai_exporter_build_info", "process_cpu_seconds"} <= families
    assert plain.endswith(b"# EOF\n") == (form is OPENMETRICS_CONTENT_TYPE)


def test_curl_reads_the_compressed_page_to_its_end(exporter: ExporterProcess) -> None:
    """`curl --compressed` prints the same families as the plain page has."""
    curl = shutil.which("curl")
    command = [curl, "-sS", "--compressed", f"{exporter.url}/metrics"] if curl else ["gzip", "-dc"]
    raw = b"" if curl else gzip.compress(exporter.get().content)
    output = subprocess.run(command, input=raw, capture_output=True, check=True).stdout.decode()
    assert _families(output) == _families(exporter.get().text)


def _families(page: str) -> list[str]:
    return re.findall(r"^# TYPE (\S+)", page, re.MULTILINE)


def test_concurrent_scrapes_get_complete_pages(exporter: ExporterProcess) -> None:
    """Two hundred scrapes, sixteen at a time, are all answered, with the same accounts."""
    with ThreadPoolExecutor(16) as pool:
        pages = list(pool.map(lambda _: exporter.get(), range(200)))
    assert {page.status_code for page in pages} == {200}
    assert {len(re.findall(r"^ai_account_up{.*} 1$", page.text, re.MULTILINE)) for page in pages} == {2}


def test_a_scrape_during_reloads_is_complete(tmp_path: Path) -> None:
    """While accounts are added and removed, every page is complete and has cost of exactly the accounts it lists."""
    with ExitStack() as stack:
        here = stack.enter_context(
            start_sandbox(tmp_path, make_account("openai", "acme"), make_account("anthropic", "labs"))
        )
        exporter = stack.enter_context(start_exporter(*here.flags, "--web.enable-lifecycle"))
        pool = stack.enter_context(ThreadPoolExecutor(4))
        exporter.wait_until_up("acme", "labs")
        changing = pool.submit(_toggle_account, here, exporter, 25)
        seen = set()
        while not changing.done():
            for page in pool.map(lambda _: exporter.get().text, range(3)):
                listed = frozenset(_accounts(page, "ai_account_info"))
                assert frozenset(_accounts(page, "ai_cost_month_usd")) == listed
                assert re.search(r"^process_open_fds ", page, re.MULTILINE)
                seen.add(listed)
        changing.result()
    assert seen == {frozenset({"acme", "labs"}), frozenset({"acme"})}


def _toggle_account(sandbox: Sandbox, exporter: ExporterProcess, times: int) -> None:
    for _ in range(times):
        for names in (["acme"], ["acme", "labs"]):
            sandbox.write_accounts(*names)
            assert exporter.reload().status_code == 200


def _accounts(page: str, metric: str) -> set[str]:
    return set(re.findall(rf'^{metric}{{.*\baccount="([^"]+)"', page, re.MULTILINE))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_exporter_while_clients_and_providers_hang(tmp_path: Path, number: int) -> None:
    """SIGTERM and SIGINT end with status 0, without waiting for idle clients, partial requests or slow providers."""
    with ExitStack() as stack:
        here = stack.enter_context(
            start_sandbox(tmp_path, make_account("openai", "acme"), make_account("anthropic", "labs"))
        )
        here.simulator.add_fault("acme", "slow", seconds=600)
        exporter = stack.enter_context(start_exporter(*here.flags))
        exporter.wait_until_up("labs")
        idle = stack.enter_context(httpx.Client(base_url=exporter.url))
        assert idle.get("/-/healthy").status_code == 200
        silent = stack.enter_context(_connect(exporter))
        silent.sendall(b"GET /metrics HTTP/1.1\r\n")
        assert exporter.stop(number, timeout=60) == 0
    assert exporter.stderr_lines[-1].endswith("msg=Stopped\n")
    # On a busy machine the shutdown takes longer than uvicorn waits for: it says so, and goes on.
    lines = [line for line in exporter.stderr_lines if "timeout graceful shutdown exceeded" not in line]
    assert not [line for line in lines if "level=error" in line or "Traceback" in line]


def test_a_signal_stops_the_exporter_while_it_is_connecting(tmp_path: Path) -> None:
    """A provider whose host drops every packet does not delay the exit."""
    with ExitStack() as stack:
        here = stack.enter_context(start_sandbox(tmp_path, make_account("openai", "acme")))
        host = stack.enter_context(_black_hole())
        document = yaml.safe_load(here.config.read_text().replace(here.simulator.url, f"http://{host}"))
        document["defaults"]["timeout"] = "5m"
        here.config.write_text(yaml.safe_dump(document))
        exporter = stack.enter_context(start_exporter(*here.flags))
        wait_until("a poll", lambda: _is_connecting(host))
        assert exporter.stop(timeout=60) == 0


@contextmanager
def _black_hole() -> Iterator[str]:
    """Listen with a full queue: the kernel drops further connection attempts."""
    with socket.socket() as listener, ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(2):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield "{}:{}".format(*listener.getsockname())


def _is_connecting(host: str) -> int:
    """Return whether another socket waits for the black hole (state SYN_SENT in /proc/net/tcp)."""
    port = f":{int(host.rpartition(':')[2]):04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return len([row for row in rows if row[2].endswith(port) and row[3] == "02"]) > 1


@contextmanager
def _connect(exporter: ExporterProcess) -> Iterator[socket.socket]:
    host, _, port = exporter.url.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port))) as opened:
        yield opened


def test_sighup_applies_valid_changes_and_keeps_the_old_configuration_on_errors(tmp_path: Path) -> None:
    """SIGHUP adds and removes accounts; an invalid file changes nothing but a metric and the log, until it is fixed."""
    with start_sandbox(
        tmp_path, make_account("openai", "acme"), make_account("anthropic", "labs"), make_account("cursor", "crew")
    ) as here:
        here.write_accounts("acme", "labs")
        with start_exporter(*here.flags) as exporter:
            exporter.wait_until_up("acme", "labs")
            here.write_accounts("acme", "crew")
            exporter.send_signal(signal.SIGHUP)
            exporter.wait_until_up("crew")
            assert exporter.accounts() == exporter.accounts("ai_cost_month_usd") == {"acme", "crew"}
            at = float(exporter.value(f"{RELOAD_METRIC.removesuffix('successful')}success_timestamp_seconds"))

            good = here.config.read_text()
            here.config.write_text(good.replace("provider: openai", "provider: openia"))
            exporter.send_signal(signal.SIGHUP)
            wait_until("the failed reload", lambda: exporter.value(RELOAD_METRIC) == "0.0")
            assert exporter.accounts("ai_account_up", "1") == {"acme", "crew"}
            assert float(exporter.value(f"{RELOAD_METRIC.removesuffix('successful')}success_timestamp_seconds")) == at
            line = next(line for line in exporter.stderr_lines if "Reloading the configuration failed" in line)
            assert "level=error" in line
            assert "did you mean openai?" in line

            here.config.write_text(good)
            exporter.send_signal(signal.SIGHUP)
            wait_until("the fixed file", lambda: exporter.value(RELOAD_METRIC) == "1.0")
            assert float(exporter.value(f"{RELOAD_METRIC.removesuffix('successful')}success_timestamp_seconds")) > at
            assert exporter.stop() == 0


def test_changed_files_are_reloaded_automatically(tmp_path: Path) -> None:
    """With --config.auto-reload-interval a new file is loaded; an invalid one is logged once and changes nothing."""
    with start_sandbox(tmp_path, make_account("openai", "acme"), make_account("anthropic", "labs")) as here:
        document = yaml.safe_load(here.config.read_text())
        added, extra = document["accounts"].pop(), tmp_path / "more" / "labs.yaml"
        document["account_files"] = ["more/*.yaml"]
        here.config.write_text(yaml.safe_dump(document))
        extra.parent.mkdir()
        with start_exporter(*here.flags, "--config.auto-reload-interval=1s") as exporter:
            exporter.wait_until_up("acme")
            extra.write_text(yaml.safe_dump({"accounts": [added]}))
            exporter.wait_until_up("acme", "labs")
            extra.write_text("accounts: [{name: labs}]")
            wait_until("the failed reload", lambda: exporter.value(RELOAD_METRIC) == "0.0")
            assert exporter.accounts("ai_account_up", "1") == {"acme", "labs"}
            with watch_opens(extra.parent) as count_checks:
                # A check lists the folder once; the first count may still be of the check that failed.
                wait_until("further checks", lambda: count_checks() >= 3)
            extra.unlink()
            wait_until("the fixed folder", lambda: exporter.value(RELOAD_METRIC) == "1.0")
            assert exporter.accounts() == {"acme"}
            assert exporter.stop() == 0
    assert len([line for line in exporter.stderr_lines if "Reloading the configuration failed" in line]) == 1


def test_reload_over_http_is_off_unless_allowed(exporter: ExporterProcess) -> None:
    """Without --web.enable-lifecycle POST /-/reload returns 403 and names the flag."""
    answer = exporter.reload()
    assert answer.status_code == 403
    assert "--web.enable-lifecycle" in answer.text


def test_reload_over_http_reports_every_problem(tmp_path: Path) -> None:
    """POST /-/reload returns 200, or 500 with every problem by file and line; then the previous accounts stay."""
    with (
        start_sandbox(tmp_path, make_account("openai", "acme")) as here,
        start_exporter(*here.flags, "--web.enable-lifecycle") as exporter,
    ):
        exporter.wait_until_up("acme")
        good = here.config.read_text()
        document = yaml.safe_load(good)
        document["accounts"][0] |= {"api_key_file": "gone.key", "colour": "red", "max_series": 0}
        here.config.write_text(yaml.safe_dump(document, sort_keys=False))
        rejected = exporter.reload()
        assert rejected.status_code == 500
        assert len(re.findall(rf"^{here.config}:\d+: ", rejected.text, re.MULTILINE)) == 2
        assert "colour" in rejected.text
        assert "max_series" in rejected.text
        assert exporter.value(RELOAD_METRIC) == "0.0"
        assert exporter.accounts("ai_account_up", "1") == {"acme"}

        here.config.write_text(good.replace("acme.key", "gone.key"))
        rejected = exporter.reload()
        assert rejected.status_code == 500
        assert "gone.key: it does not exist" in rejected.text

        here.config.write_text(good)
        assert exporter.reload().status_code == 200
        assert exporter.value(RELOAD_METRIC) == "1.0"


def test_a_full_disk_during_a_reload_is_reported(tmp_path: Path) -> None:
    """If the first write that fails is the one for a new account, the reload fails, and succeeds with space again."""
    with start_sandbox(tmp_path, make_account("openai", "acme"), make_account("cursor", "crew")) as here:
        here.write_accounts("acme")
        with start_exporter(*here.flags) as exporter:
            exporter.wait_until_up("acme")
            limit = resource.prlimit(exporter.process.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
            here.write_accounts("acme", "crew")
            exporter.send_signal(signal.SIGHUP)
            exporter.wait_for_log("Ledger unavailable; it is tried again")
            assert exporter.value(RELOAD_METRIC) == "0.0"
            assert exporter.accounts("ai_account_up", "1") == {"acme"}
            resource.prlimit(exporter.process.pid, resource.RLIMIT_FSIZE, limit)
            exporter.send_signal(signal.SIGHUP)
            exporter.wait_until_up("acme", "crew")
            assert exporter.value(RELOAD_METRIC) == "1.0"
            assert exporter.stop() == 0
        errors = [line for line in exporter.stderr_lines if "level=error" in line]
        assert str(here.folder / "ledger" / "ledger.db") in errors[0]
        assert "Check the disk" in errors[0] or "free some space" in errors[0]
        assert "Traceback" not in "".join(exporter.stderr_lines)


def test_a_disk_that_is_full_at_startup_is_reported(tmp_path: Path) -> None:
    """If not even an empty ledger can be written, the start fails with status 1 and the message."""
    with start_sandbox(tmp_path, make_account("openai", "acme")) as here:
        failed = run_command("run", ANY_PORT_FLAG, *here.flags, prefix=["prlimit", "--fsize=16384"])
    assert failed.returncode == 1
    assert "Error: The ledger" in failed.stderr
    assert "Check the disk" in failed.stderr or "free some space" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_a_ledger_damaged_while_in_use_stops_the_exporter(tmp_path: Path) -> None:
    """When the ledger's files are overwritten, the exporter exits with status 1 and advice."""
    with start_sandbox(tmp_path, make_account("openai", "acme"), make_account("cursor", "crew")) as here:
        here.simulator.add_fault("crew", "slow", seconds=3)
        with start_exporter(*here.flags) as exporter:
            exporter.wait_until_up("acme")
            for name in ("ledger.db-wal", "ledger.db"):
                path = here.folder / "ledger" / name
                path.write_bytes(b"not a ledger" * (path.stat().st_size // 12))
            assert exporter.process.wait(20) == 1
    errors = [line for line in exporter.stderr_lines if "level=error" in line]
    assert "move it away, restore a backup and start again" in errors[-1]
    assert "Traceback" not in "".join(exporter.stderr_lines)
