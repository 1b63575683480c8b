"""The running process: what it answers over HTTP, how signals end and reload it, and what a broken disk does."""

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
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
import yaml
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from exporter.metrics.exposition import OPENMETRICS, TEXT
from exporter.metrics.families import HISTORY_FAMILIES
from tests.command import ANYWHERE, Exporter, Site, ended, site, started, until
from tests.history.ledger_days import LIKE, request, results
from tests.system import lone

PATHS = ("/", "/metrics", "/-/healthy", "/-/ready")
POSTED = ("/-/reload", "/api/v1/read")
RELOADED = "ai_exporter_config_last_reload_successful"


@pytest.fixture(scope="module", name="it")
def _served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exporter]:
    folder = tmp_path_factory.mktemp("serve")
    with site(folder, lone("openai", "acme"), lone("anthropic", "labs")) as here, started(*here.flags) as it:
        it.until_up("acme", "labs")
        yield it


@pytest.mark.parametrize("path", PATHS)
def test_every_page_answers_get_and_head(it: Exporter, path: str) -> None:
    """GET gives 200 and a body; HEAD gives the same head and no body."""
    whole, head = it.get(path), httpx.head(it.url + path)
    assert whole.status_code == head.status_code == 200
    assert whole.text
    assert head.content == b""
    assert head.headers["content-type"] == whole.headers["content-type"]
    assert int(head.headers["content-length"]) == pytest.approx(int(whole.headers["content-length"]), rel=0.01)


@pytest.mark.parametrize("path", ["/nothing", "/metrics/nothing", "/-/quit", "/../config.yaml", "//"])
def test_other_paths_are_not_found(it: Exporter, path: str) -> None:
    """What is not served answers 404."""
    with httpx.Client() as client:
        assert client.send(httpx.Request("GET", httpx.URL(it.url, raw_path=path.encode()))).status_code == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [*itertools.product(("POST", "DELETE"), PATHS), *itertools.product(("GET", "DELETE"), POSTED)],
)
def test_wrong_methods_are_told_the_right_ones(it: Exporter, method: str, path: str) -> None:
    """A method that a page does not have answers 405, and Allow names those that it has."""
    answer = httpx.request(method, it.url + path)
    assert answer.status_code == 405
    right = {"POST"} if path in POSTED else {"GET", "HEAD"}
    assert right <= {one.strip() for one in answer.headers["allow"].split(",")}


def test_a_remote_read_is_answered_as_the_protocol_wants(it: Exporter) -> None:
    """The answer is snappy of protobuf and says so, and holds every account."""
    answer = httpx.post(f"{it.url}/api/v1/read", content=request((LIKE, "__name__", "ai_hourly_.+")))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/x-protobuf"
    assert answer.headers["content-encoding"] == "snappy"
    (found,) = results(answer.content)
    assert {dict(one)["account"] for one in found} == {"acme", "labs"}
    assert {dict(one)["__name__"] for one in found} == {family.name for family in HISTORY_FAMILIES}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"hello", "the body is not compressed with snappy's block format"),
        (request((LIKE, "model", "(")), "the pattern of the matcher on model cannot be read: ("),
    ],
)
def test_a_remote_read_that_is_refused_says_why(it: Exporter, body: bytes, reason: str) -> None:
    """What cannot be answered is 400 with the reason, and the exporter goes on."""
    answer = httpx.post(f"{it.url}/api/v1/read", content=body)
    assert (answer.status_code, answer.text) == (400, f"Remote read refused: {reason}.\n")
    assert it.get("/-/healthy").status_code == 200


def test_the_limit_of_samples_is_a_flag(tmp_path: Path) -> None:
    """--storage.remote.read-sample-limit bounds what one read is answered with."""
    limit = "--storage.remote.read-sample-limit=20"
    with site(tmp_path, lone("openai", "acme")) as here, started(*here.flags, limit) as it:
        it.until_up("acme")
        answer = httpx.post(f"{it.url}/api/v1/read", content=request((LIKE, "__name__", "ai_hourly_.+")))
    assert answer.status_code == 400
    assert "more than 20 samples" in answer.text
    assert "--storage.remote.read-sample-limit" in answer.text


@pytest.mark.parametrize("encoding", ["", "gzip"])
@pytest.mark.parametrize(
    ("accept", "form"), [("", TEXT), ("text/plain", TEXT), ("application/openmetrics-text; version=1.0.0", OPENMETRICS)]
)
def test_the_page_comes_in_the_form_that_was_asked_for(it: Exporter, accept: str, form: str, encoding: str) -> None:
    """Accept chooses text or OpenMetrics, Accept-Encoding gzip; type, Vary and length are right, the page is whole."""
    host = it.url.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=10)
    connection.request("GET", "/metrics", headers={"Accept": accept, "Accept-Encoding": encoding})
    answer = connection.getresponse()
    raw = answer.read()
    connection.close()

    assert answer.status == 200
    assert answer.getheader("content-type") == form
    assert {one.strip().lower() for one in str(answer.getheader("vary")).split(",")} == {"accept", "accept-encoding"}
    assert answer.getheader("content-encoding", "") == encoding
    assert answer.getheader("content-length") == str(len(raw))
    if encoding:
        # curl and Go's client stop behind the first gzip member: there may be one only.
        squeezed = zlib.decompressobj(16 + zlib.MAX_WBITS)
        plain = squeezed.decompress(raw)
        assert squeezed.eof
        assert squeezed.unused_data == b""
    else:
        plain = raw
    parse = parse_openmetrics if form is OPENMETRICS else parse_text
    families = {family.name for family in parse(plain.decode())}
    assert {"ai_cost_today_usd", "ai_account_up", "ai_exporter_build_info", "process_cpu_seconds"} <= families
    assert plain.endswith(b"# EOF\n") == (form is OPENMETRICS)


def test_curl_reads_the_compressed_page_to_its_end(it: Exporter) -> None:
    """`curl --compressed` prints the families that the plain page has."""
    curl = shutil.which("curl")
    command = [curl, "-sS", "--compressed", f"{it.url}/metrics"] if curl else ["gzip", "-dc"]
    raw = b"" if curl else gzip.compress(it.get().content)
    told = subprocess.run(command, input=raw, capture_output=True, check=True).stdout.decode()
    assert _families(told) == _families(it.get().text)


def _families(page: str) -> list[str]:
    return re.findall(r"^# TYPE (\S+)", page, re.MULTILINE)


def test_scrapes_at_the_same_time_all_get_whole_pages(it: Exporter) -> None:
    """Two hundred scrapes by sixteen at a time are all answered, with the same accounts."""
    with ThreadPoolExecutor(16) as pool:
        pages = list(pool.map(lambda _: it.get(), range(200)))
    assert {page.status_code for page in pages} == {200}
    assert {len(re.findall(r"^ai_account_up{.*} 1$", page.text, re.MULTILINE)) for page in pages} == {2}


def test_a_scrape_during_changes_is_never_half_a_page(tmp_path: Path) -> None:
    """While accounts come and go, every page is whole, and shows the money of exactly the accounts that it lists."""
    with ExitStack() as stack:
        here = stack.enter_context(site(tmp_path, lone("openai", "acme"), lone("anthropic", "labs")))
        it = stack.enter_context(started(*here.flags, "--web.enable-lifecycle"))
        pool = stack.enter_context(ThreadPoolExecutor(4))
        it.until_up("acme", "labs")
        changing = pool.submit(_come_and_go, here, it, 25)
        seen = set()
        while not changing.done():
            for page in pool.map(lambda _: it.get().text, range(3)):
                listed = frozenset(_accounts(page, "ai_account_info"))
                assert frozenset(_accounts(page, "ai_cost_month_usd")) == listed
                assert re.search(r"^process_open_fds ", page, re.MULTILINE)
                seen.add(listed)
        changing.result()
    assert seen == {frozenset({"acme", "labs"}), frozenset({"acme"})}


def _come_and_go(here: Site, it: Exporter, times: int) -> None:
    for _ in range(times):
        for names in (["acme"], ["acme", "labs"]):
            here.write(*names)
            assert it.reload().status_code == 200


def _accounts(page: str, metric: str) -> set[str]:
    return set(re.findall(rf'^{metric}{{.*\baccount="([^"]+)"', page, re.MULTILINE))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_though_clients_and_providers_hang(tmp_path: Path, number: int) -> None:
    """SIGTERM and SIGINT end with status 0 within seconds, past idle connections, half requests and slow providers."""
    with ExitStack() as stack:
        here = stack.enter_context(site(tmp_path, lone("openai", "acme"), lone("anthropic", "labs")))
        here.simulator.fault("acme", "slow", seconds=60)
        it = stack.enter_context(started(*here.flags))
        it.until_up("labs")
        idle = stack.enter_context(httpx.Client(base_url=it.url))
        assert idle.get("/-/healthy").status_code == 200
        silent = stack.enter_context(_connected(it))
        silent.sendall(b"GET /metrics HTTP/1.1\r\n")
        began = time.monotonic()
        assert it.end(number) == 0
        assert time.monotonic() - began < 6
    assert it.said[-1].endswith("msg=Stopped\n")
    assert not [line for line in it.said if "level=error" in line or "Traceback" in line]


def test_a_signal_ends_it_though_a_connection_cannot_be_made(tmp_path: Path) -> None:
    """A provider whose host swallows every packet does not delay the end."""
    with ExitStack() as stack:
        here = stack.enter_context(site(tmp_path, lone("openai", "acme")))
        host = stack.enter_context(_black_hole())
        here.config.write_text(here.config.read_text().replace(here.simulator.url, f"http://{host}"))
        it = stack.enter_context(started(*here.flags))
        until("a poll", lambda: _connecting(host))
        began = time.monotonic()
        assert it.end(seconds=60) == 0
        assert time.monotonic() - began < 10


@contextmanager
def _black_hole() -> Iterator[str]:
    """Listen with a full queue: the system drops what more would connect."""
    with socket.socket() as listener, ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(2):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield "{}:{}".format(*listener.getsockname())


def _connecting(host: str) -> int:
    """Tell whether another socket waits for the black hole's answer (state SYN_SENT in /proc/net/tcp)."""
    port = f":{int(host.rpartition(':')[2]):04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return len([row for row in rows if row[2].endswith(port) and row[3] == "02"]) > 1


@contextmanager
def _connected(it: Exporter) -> Iterator[socket.socket]:
    host, _, port = it.url.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port))) as opened:
        yield opened


def test_sighup_takes_over_what_changed_and_keeps_the_old_where_it_is_wrong(tmp_path: Path) -> None:
    """SIGHUP adds and removes accounts; a broken file changes nothing but the metric and the log, until mended."""
    with site(tmp_path, lone("openai", "acme"), lone("anthropic", "labs"), lone("cursor", "crew")) as here:
        here.write("acme", "labs")
        with started(*here.flags) as it:
            it.until_up("acme", "labs")
            here.write("acme", "crew")
            it.send(signal.SIGHUP)
            it.until_up("crew")
            assert it.accounts() == it.accounts("ai_cost_month_usd") == {"acme", "crew"}
            at = float(it.value(f"{RELOADED.removesuffix('successful')}success_timestamp_seconds"))

            good = here.config.read_text()
            here.config.write_text(good.replace("provider: openai", "provider: openia"))
            it.send(signal.SIGHUP)
            until("the refusal", lambda: it.value(RELOADED) == "0.0")
            assert it.accounts("ai_account_up", "1") == {"acme", "crew"}
            assert float(it.value(f"{RELOADED.removesuffix('successful')}success_timestamp_seconds")) == at
            line = next(one for one in it.said if "not reloaded" in one)
            assert "level=error" in line
            assert "did you mean openai?" in line

            here.config.write_text(good)
            it.send(signal.SIGHUP)
            until("the mended file", lambda: it.value(RELOADED) == "1.0")
            assert float(it.value(f"{RELOADED.removesuffix('successful')}success_timestamp_seconds")) > at
            assert it.end() == 0


def test_files_that_change_are_taken_over_by_themselves(tmp_path: Path) -> None:
    """With --config.auto-reload-interval an added file is enough; a broken one is told once, and changes nothing."""
    with site(tmp_path, lone("openai", "acme"), lone("anthropic", "labs")) as here:
        document = yaml.safe_load(here.config.read_text())
        added, extra = document["accounts"].pop(), tmp_path / "more" / "labs.yaml"
        document["account_files"] = ["more/*.yaml"]
        here.config.write_text(yaml.safe_dump(document))
        extra.parent.mkdir()
        with started(*here.flags, "--config.auto-reload-interval=1s") as it:
            it.until_up("acme")
            extra.write_text(yaml.safe_dump({"accounts": [added]}))
            it.until_up("acme", "labs")
            extra.write_text("accounts: [{name: labs}]")
            until("the refusal", lambda: it.value(RELOADED) == "0.0")
            assert it.accounts("ai_account_up", "1") == {"acme", "labs"}
            time.sleep(2.5)
            extra.unlink()
            until("the mended folder", lambda: it.value(RELOADED) == "1.0")
            assert it.accounts() == {"acme"}
            assert it.end() == 0
    assert len([line for line in it.said if "not reloaded" in line]) == 1


def test_reload_over_http_is_off_unless_allowed(it: Exporter) -> None:
    """Without --web.enable-lifecycle POST /-/reload is forbidden and says which flag allows it."""
    answer = it.reload()
    assert answer.status_code == 403
    assert "--web.enable-lifecycle" in answer.text


def test_reload_over_http_tells_every_problem(tmp_path: Path) -> None:
    """POST /-/reload answers 200, or 500 with every problem by file and line while the old accounts stay."""
    with site(tmp_path, lone("openai", "acme")) as here, started(*here.flags, "--web.enable-lifecycle") as it:
        it.until_up("acme")
        good = here.config.read_text()
        document = yaml.safe_load(good)
        document["accounts"][0] |= {"api_key_file": "gone.key", "colour": "red", "max_series": 0}
        here.config.write_text(yaml.safe_dump(document, sort_keys=False))
        refused = it.reload()
        assert refused.status_code == 500
        assert len(re.findall(rf"^{here.config}:\d+: ", refused.text, re.MULTILINE)) == 2
        assert "colour" in refused.text
        assert "max_series" in refused.text
        assert it.value(RELOADED) == "0.0"
        assert it.accounts("ai_account_up", "1") == {"acme"}

        here.config.write_text(good.replace("acme.key", "gone.key"))
        refused = it.reload()
        assert refused.status_code == 500
        assert "gone.key: it does not exist" in refused.text

        here.config.write_text(good)
        assert it.reload().status_code == 200
        assert it.value(RELOADED) == "1.0"


def test_a_full_disk_ends_it_and_loses_nothing(tmp_path: Path) -> None:
    """When writes fail it ends with status 1 and says so; once there is space, everything told before is there."""
    with site(tmp_path, lone("openai", "acme"), lone("cursor", "crew")) as here:
        here.simulator.fault("crew", "slow", seconds=3)
        with started(*here.flags) as it:
            it.until_up("acme")
            before = _kept(it.get().text)
            _fill_the_disk(it)
            assert it.process.wait(20) == 1
        _tells_the_ledger(it, here)
        here.simulator.clear()
        here.simulator.fault("acme", "server_error")
        with started(*here.flags) as again:
            after = _kept(again.get().text)
            assert {name: after.get(name) for name in before} == before
            again.until_up("crew")
            assert again.end() == 0
    assert len(before) > 5


def test_a_full_disk_that_a_reload_meets_ends_it(tmp_path: Path) -> None:
    """Where the first write that fails is the one for a new account, it ends with status 1 and says why."""
    with site(tmp_path, lone("openai", "acme"), lone("cursor", "crew")) as here:
        here.write("acme")
        with started(*here.flags) as it:
            it.until_up("acme")
            _fill_the_disk(it)
            here.write("acme", "crew")
            it.send(signal.SIGHUP)
            assert it.process.wait(20) == 1
        _tells_the_ledger(it, here)


def _fill_the_disk(it: Exporter) -> None:
    """Let every write beyond 16 KiB of a file fail from now on."""
    resource.prlimit(it.process.pid, resource.RLIMIT_FSIZE, (16384, resource.RLIM_INFINITY))


def _kept(page: str) -> dict[str, str]:
    """Return what does not change from one minute to the next: the money of past days, and which series there are."""
    today = time.strftime("%Y-%m-%d", time.gmtime())
    days = re.findall(r"^(ai_cost_daily_usd{.*}) (.*)$", page, re.MULTILINE)
    tokens = re.findall(r"^(ai_tokens_30d{.*}) (.*)$", page, re.MULTILINE)
    return {name: value for name, value in days if today not in name} | {name: "there" for name, _ in tokens}


def _tells_the_ledger(it: Exporter, here: Site) -> None:
    told = [line for line in it.said if "level=error" in line]
    assert len(told) == 1, it.said
    assert str(here.folder / "ledger" / "ledger.db") in told[0]
    assert "Check the disk" in told[0] or "free some space" in told[0]
    assert it.said[-1] == told[0]
    assert "Traceback" not in "".join(it.said)


def test_a_disk_that_is_full_from_the_beginning_is_told(tmp_path: Path) -> None:
    """Where not even an empty ledger can be written, the start fails with status 1 and the message."""
    with site(tmp_path, lone("openai", "acme")) as here:
        failed = ended("run", ANYWHERE, *here.flags, prefix=["prlimit", "--fsize=16384"])
    assert failed.returncode == 1
    assert "Error: The ledger" in failed.stderr
    assert "Check the disk" in failed.stderr or "free some space" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_a_ledger_that_is_damaged_while_in_use_ends_it(tmp_path: Path) -> None:
    """When something writes over the ledger's files, it ends with status 1 and says what to do."""
    with site(tmp_path, lone("openai", "acme"), lone("cursor", "crew")) as here:
        here.simulator.fault("crew", "slow", seconds=3)
        with started(*here.flags) as it:
            it.until_up("acme")
            for name in ("ledger.db-wal", "ledger.db"):
                path = here.folder / "ledger" / name
                path.write_bytes(b"not a ledger" * (path.stat().st_size // 12))
            assert it.process.wait(20) == 1
    told = [line for line in it.said if "level=error" in line]
    assert "move it away and start again" in told[-1]
    assert "Traceback" not in "".join(it.said)
