"""Random inputs of every parser: only documented errors, bounded CPU time, bounded memory."""

from __future__ import annotations

import gzip
import json
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import cramjam
import httpx
import pytest
import yaml

from exporter.config import configuration, keys, web_configuration
from exporter.config.encryption import MASTER_KEY_VARIABLE, generate_master_key
from exporter.errors import ConfigError, ProviderError, PushError, QueryRejected
from exporter.history.remote_read import RemoteReadHandler
from exporter.history.remote_read_protocol import MESSAGES
from exporter.model import DAY, HOUR, Secret
from exporter.providers import PROVIDERS, create_provider, provider_options_model
from exporter.providers.base import Provider, ProviderWithBalance
from exporter.providers.http import ClientConfig
from exporter.push.parse import decode_body, parse_batch, parse_change_event, parse_events, parse_json
from exporter.simulator.accounts import SimAccount, Stream
from exporter.simulator.server import Simulator
from exporter.simulator.world import World
from exporter.simulator.xai import TEAM
from exporter.web.tls import build_ssl_context
from exporter.windows import floor
from tests.certificates import CertificateAuthority
from tests.faults.http_inputs import RequestRejectedError, serve_requests
from tests.faults.machine import measure_slowness
from tests.faults.mutations import MAX_BYTES, dump_json, make_odd_value, mutate_bytes, mutate_json
from tests.faults.results import Results
from tests.history.ledger_days import DAY1, cost_row, open_ledger
from tests.paths import ROOT
from tests.system import NOON, make_account

SHORT_SECONDS = 0.4
LONG_SECONDS = 40.0
"""CPU time for the inputs of each parser."""
MAX_SECONDS = 0.1
"""CPU time of a case, on a machine of the reference speed."""
SHORT_FORM_FACTOR = 10
"""The short form fails at so many times MAX_SECONDS: it runs beside other tests."""
MAX_GROWTH_BYTES = 200 << 20
MAX_PUSH_BYTES = 1 << 20
MAX_ANSWER_BYTES = 1 << 16
"""Of a changed answer of a provider: a longer one takes longer, in proportion."""


@dataclass
class Parser:
    """A parser, and how its random inputs are made."""

    make_input: Callable[[Random], bytes]
    parse: Callable[[bytes], object]
    errors: tuple[type[Exception], ...]
    """The documented ones."""
    clock: Callable[[], float] = time.thread_time
    """The CPU seconds so far of what parses."""


@dataclass
class Measured:
    """What the cases of a parser took."""

    cases: int = 0
    rejected: int = 0
    seconds: float = 0.0
    """CPU time."""
    slowest: float = 0.0
    """CPU time of the slowest case, the least of three repetitions."""
    slow_cases: list[int] = field(default_factory=list)
    """Numbers of the cases that took too long."""


def measure_case(parser: Parser, data: bytes) -> tuple[float, bool]:
    """Return the CPU seconds of parsing, and whether the input was rejected with a documented error."""
    began = parser.clock()
    try:
        parser.parse(data)
    except parser.errors as error:
        seconds = parser.clock() - began
        # What is shown of an error has to be text that can be sent and stored.
        str(error).encode()
        return seconds, True
    return parser.clock() - began, False


def run_cases(
    parser: Parser, name: str, seed: int, max_seconds: float, *, seconds_in_total: float, inputs: int = 0
) -> Measured:
    """Parse random inputs, each from a seed of its own, so that a case can be repeated alone.

    There are as many as are parsed in `seconds_in_total` of CPU time, or `inputs` where that is not 0.
    """
    measured = Measured()
    while measured.cases < inputs if inputs else measured.seconds < seconds_in_total:
        data = parser.make_input(Random(f"{seed} {name} {measured.cases}"))
        seconds, is_rejected = measure_case(parser, data)
        measured.seconds += seconds
        measured.rejected += is_rejected
        if seconds > measured.slowest:
            # A collection of garbage may have come in between.
            seconds = min(seconds, measure_case(parser, data)[0], measure_case(parser, data)[0])
            measured.slowest = max(measured.slowest, seconds)
        if seconds > max_seconds:
            measured.slow_cases.append(measured.cases)
        measured.cases += 1
    return measured


_YAML_TOKENS = (
    b"\n- ",
    b": ",
    b"&a ",
    b"*a",
    b"!!binary x",
    b"|\n",
    b">-\n",
    b"<<: ",
    b"? ",
    b"---\n",
    b"%YAML 9\n",
    b"\0",
)


def _make_yaml_parser(folder: Path, bases: list[bytes], valid: list[object], load: Callable[[Path], object]) -> Parser:
    """Return a parser of a file. Its inputs are changes of the text of files that a user may have written, and changes
    of the values of valid files.

    A change of the text mostly ends at its syntax, one of a value is judged together with all others.
    """
    tokens = [*_YAML_TOKENS, *[token for base in bases for token in base.split()][:400]]
    path = folder / "file.yaml"

    def make_input(random: Random) -> bytes:
        if random.random() < 0.5:
            return mutate_bytes(random, random.choice(bases), tokens)
        # JSON is YAML, in the style with brackets.
        return json.dumps(mutate_json(random, random.choice(valid))).encode()[:MAX_BYTES]

    def parse(data: bytes) -> object:
        path.write_bytes(data)
        return load(path)

    for document in valid:
        parse(json.dumps(document).encode())
    return Parser(make_input, parse, (ConfigError,))


@contextmanager
def make_configuration_parser(folder: Path) -> Iterator[Parser]:
    """The configuration file, and the keys that it names."""
    files = sorted((ROOT / "tests" / "config" / "bad").glob("*.yaml"))
    bases = [file.read_bytes() for file in files]
    # Its value is a pattern of files: a random one may search the whole disk, as it says.
    bases = [base for base in bases if b"account_files" not in base]
    example = yaml.safe_load((ROOT / "config.example.yaml").read_bytes())
    del example["account_files"]
    environ = {"CURSOR_ADMIN_KEY": "crsr_0000", MASTER_KEY_VARIABLE: generate_master_key()}

    def load(path: Path) -> None:
        config = configuration.load(path, PROVIDERS)
        for problem in keys.check(config, environ):
            str(problem).encode()

    yield _make_yaml_parser(folder, [*bases, yaml.safe_dump(example).encode()], [example], load)


@contextmanager
def make_web_configuration_parser(folder: Path) -> Iterator[Parser]:
    """The file of --web.config.file, and the certificates and keys in it."""
    files = sorted((ROOT / "tests" / "config" / "bad_web").glob("*.y*ml"))
    authority = CertificateAuthority(folder)
    authority.sign("server")
    example = yaml.safe_load((ROOT / "docs" / "web-config.example.yml").read_bytes())
    example["tls_server_config"]["client_ca_file"] = authority.file.name
    tls = {
        "cert": (folder / "server.crt").read_text(),
        "key": (folder / "server.key").read_text(),
        "client_ca": authority.file.read_text(),
        "client_auth_type": "RequireAndVerifyClientCert",
        "client_allowed_sans": ["prometheus.example.com"],
    }
    inline = {"tls_server_config": tls, "rate_limit": {"interval": "100ms", "burst": 20}}

    def load(path: Path) -> None:
        config = web_configuration.load(path)
        if config.tls is not None:
            build_ssl_context(config.tls)

    bases = [*(file.read_bytes() for file in files), *(yaml.safe_dump(valid).encode() for valid in (example, inline))]
    yield _make_yaml_parser(folder, bases, [example, inline], load)


@contextmanager
def make_request_parser(folder: Path) -> Iterator[Parser]:
    """HTTP requests of all routes, with their headers, parameters and credentials."""
    with serve_requests(folder) as (make_request, send):
        # The server is in other threads of this process.
        yield Parser(make_request, send, (RequestRejectedError,), time.process_time)


_EVENT = {
    "provider": "vllm",
    "model": "m",
    "timestamp": NOON.isoformat(),
    "promptTokens": 100,
    "completionTokens": 20,
    "costUsd": "0.25",
    "id": "call-1",
    "workspace": "search",
    "apiKey": "name",
    "tier": "batch",
    "cacheReadTokens": 5,
}
_CHANGE = {"title": "deploy", "time": NOON.timestamp(), "service": "api", "link": "https://x.example/1"}


@contextmanager
def make_push_parser(_: Path) -> Iterator[Parser]:
    """Bodies of pushed events and change events; the first byte says what is pushed and how."""

    def make_input(random: Random) -> bytes:
        kind = random.randrange(4)
        events: object = [dict(_EVENT, id=str(number)) for number in range(random.choice((1, 2, 10)))]
        document = _CHANGE if kind == 3 else {"events": events} if random.random() < 0.5 else events
        data = dump_json(random, mutate_json(random, document))[: MAX_BYTES * 2]
        if kind == 2:
            data = (
                mutate_bytes(random, gzip.compress(data), [b"\x1f\x8b", b"\0" * 8]) if random.random() < 0.5 else data
            )
        return bytes([kind]) + data

    def parse(data: bytes) -> object:
        kind, body = data[0], data[1:]
        if kind == 3:
            return parse_change_event(body, NOON)
        body = decode_body(body, "gzip" if kind == 2 else "", MAX_PUSH_BYTES)
        parsed = parse_events(parse_batch(parse_json(body)), idempotency_key="k", include_api_keys=True, now=NOON)
        # The reasons are sent to the client.
        return [rejected.reason.encode() for rejected in parsed.rejected]

    yield Parser(make_input, parse, (PushError,))


_PATTERNS = (
    "",
    ".*",
    ".+",
    "a|b",
    "(a|b)*c",
    "(x+x+)+y",
    "[a-z]{1,200}",
    "(?i)gpt.*",
    "[[:alpha:]]",
    "(",
    "\\",
    "^$",
    "é+",
)


@contextmanager
def make_remote_read_parser(folder: Path) -> Iterator[Parser]:
    """Remote reads of a small ledger."""
    with open_ledger(folder) as history:
        models = [f"model-{number}" for number in range(50)]
        for hour in range(24):
            history.put_cost(DAY1, {hour: [cost_row(10**9, model) for model in models]})
        names = ("__name__", "account", "provider", "workspace", "model", "tier", "job", "")

        def make_input(random: Random) -> bytes:
            request: Any = MESSAGES["ReadRequest"](accepted_response_types=random.choice(([], [0], [1], [1, 0], [7])))
            for _ in range(random.choice((0, 1, 1, 1, 3, 20))):
                times = [random.choice((0, -1, 2**62, -(2**63), int(DAY1.timestamp() * 1000))) for _ in range(2)]
                query = request.queries.add(start_timestamp_ms=times[0], end_timestamp_ms=times[1])
                for _ in range(random.choice((0, 1, 2, 8))):
                    value = random.choice(_PATTERNS) * random.choice((1, 1, 1, 30, 300))
                    if random.random() < 0.3:
                        value = random.choice((*models, "ai_cost_hourly_usd", str(make_odd_value(random))[:2000]))
                    value = value.encode(errors="replace").decode()
                    query.matchers.add(type=random.randrange(4), name=random.choice(names), value=value)
            data = request.SerializeToString()
            if random.random() < 0.4:
                data = mutate_bytes(random, data, [b"\xff" * 9, b"\x0a", b"\x12\x00"])
            data = bytes(cramjam.snappy.compress_raw(data))
            return mutate_bytes(random, data, [b"\xff\xff\xff\xff\x0f", b"\0"]) if random.random() < 0.2 else data

        # The exporter builds its snapshots before the request, too.
        known_history = history.history()
        handler = RemoteReadHandler(history.ledger, lambda: known_history, history.max_samples)
        yield Parser(make_input, handler.handle, (QueryRejected,))


@dataclass
class ProviderAnswers:
    """The answers of a simulated provider, by report and path; one of them can be replaced."""

    simulator: Simulator
    report_name: str = ""
    """The report that is read now, or `names`."""
    answers: dict[tuple[str, str], bytes] = field(default_factory=dict)
    changed: tuple[str, bytes] = ("", b"")
    """A path, and what `make_response` makes of its answer."""

    def respond(self, request: httpx.Request) -> httpx.Response:
        """Return the changed answer, the recorded one, or at first that of the simulator."""
        path, key = request.url.path, (self.report_name, request.url.path)
        if path == self.changed[0]:
            return make_response(self.changed[1])
        if key not in self.answers:
            url = self.simulator.url + request.url.raw_path.decode()
            headers = {
                name: value for name, value in request.headers.items() if name not in ("host", "accept-encoding")
            }
            answer = httpx.request(request.method, url, headers=headers, content=request.content)
            assert answer.status_code in (200, 404), answer.text
            self.answers[key] = answer.content if answer.status_code == 200 else b"{}"
        return httpx.Response(200, stream=httpx.ByteStream(self.answers[key]))

    def read(self, provider: Provider, report_name: str) -> None:
        """Read some time of a report, or the names."""
        self.report_name = report_name
        if report_name == "names":
            provider.names()
        if report_name == "balance":
            assert isinstance(provider, ProviderWithBalance)
            provider.balance()
        end = NOON.replace(minute=0, second=0)
        for report in provider.reports:
            if report.name == report_name:
                start = end - 6 * HOUR if report.width == HOUR else end - 3 * DAY
                list(provider.fetch(report, floor(start, report.width), end))


_STATUSES = (200, 204, 206, 301, 400, 401, 403, 404, 409, 418, 429, 500, 503, 529)
_HEADERS = (
    b"Retry-After: 120",
    b"Retry-After: Wed, 18 Nov 2026 12:10:00 GMT",
    b"Date: Wed, 18 Nov 2026 12:07:30 GMT",
    b"Content-Encoding: gzip",
    b"Content-Type: application/json",
    b"Location: https://other.example/",
    b"x-ratelimit-reset-requests: 1s",
)


def make_response(data: bytes) -> httpx.Response:
    """Return the response that an input describes: a byte of its status, lines of headers, an empty line, the body."""
    head, _, body = data[1:].partition(b"\n\n")
    lines = (line.partition(b":") for line in head.split(b"\n"))
    headers = [(name, value.strip()) for name, _, value in lines]
    return httpx.Response(_STATUSES[data[0] % len(_STATUSES)], headers=headers, stream=httpx.ByteStream(body))


_PREPAID_ACCOUNTS = {
    "xai": SimAccount(
        "solo",
        "xai",
        "platform",
        "xai-token-1",
        "Acme",
        (Stream("", "grok-4.3", report="xai_usage"),),
        prepaid_usd=9,
        options={"team_id": TEAM},
    ),
    "deepseek": SimAccount("solo", "deepseek", "platform", "sk-1", "Acme", (), prepaid_usd=9),
    "openrouter": SimAccount(
        "solo",
        "openrouter",
        "platform",
        "sk-or-v1-1",
        "Acme",
        (Stream("w1", "gpt-5.4-2026-03-05", "OpenAI", report="openrouter_usage"),),
        {"w1": "Web"},
        prepaid_usd=9,
    ),
}


@contextmanager
def make_provider_parser(provider_name: str) -> Iterator[Parser]:
    """Answers of a provider: one of the simulator's answers has random changes in its body, or status and headers."""
    account = _PREPAID_ACCOUNTS.get(provider_name) or make_account(provider_name)  # type: ignore[arg-type]
    with Simulator(World([account], lambda: NOON, start_time=NOON - timedelta(days=4))) as simulator:
        answers = ProviderAnswers(simulator)
        # Without a network, over which most of the time of a case would be spent.
        transport = httpx.MockTransport(answers.respond)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(httpx, "Client", partial(httpx.Client, transport=transport))
            config = ClientConfig(Secret(account.key), simulator.base_url(account.name))
            options = provider_options_model(PROVIDERS[provider_name]).model_validate(dict(account.options))
            provider = create_provider(PROVIDERS[provider_name], config, options)
        balance = ("balance",) if isinstance(provider, ProviderWithBalance) else ()
        for name in ("names", *(report.name for report in provider.reports), *balance):
            answers.read(provider, name)
    reports_and_paths = sorted(answers.answers)

    def make_input(random: Random) -> bytes:
        number = random.randrange(len(reports_and_paths))
        body = answers.answers[reports_and_paths[number]]
        if random.random() < 0.8:
            changed = dump_json(random, mutate_json(random, json.loads(body)))
            return bytes([number, 0]) + b"\n\n" + changed[:MAX_ANSWER_BYTES]
        headers = b"\n".join(random.sample(_HEADERS, random.randint(1, 3)))
        status = random.randrange(len(_STATUSES))
        return bytes([number, status]) + mutate_bytes(random, headers, _HEADERS) + b"\n\n" + body[:MAX_BYTES]

    def parse(data: bytes) -> None:
        report_name, path = reports_and_paths[data[0]]
        answers.changed = (path, data[1:])
        answers.read(provider, report_name)

    with closing(provider):
        yield Parser(make_input, parse, (ProviderError,))


def _provider_parser(name: str) -> Callable[[Path], AbstractContextManager[Parser]]:
    return lambda _: make_provider_parser(name)


PARSERS: Mapping[str, Callable[[Path], AbstractContextManager[Parser]]] = {
    "configuration": make_configuration_parser,
    "web configuration": make_web_configuration_parser,
    "HTTP requests": make_request_parser,
    "push": make_push_parser,
    "remote read": make_remote_read_parser,
    **{f"answers of {name}": _provider_parser(name) for name in PROVIDERS},
}


@pytest.mark.parametrize("name", PARSERS)
def test_random_inputs_are_parsed_or_rejected_in_time(
    tmp_path: Path, results: Results, name: str, inputs_per_parser: int, *, long: bool, seed: int
) -> None:
    """No input raises anything but documented errors, takes more than 100 ms of CPU time, or keeps memory."""
    slowness = measure_slowness()
    max_seconds = MAX_SECONDS * slowness * (1 if long else SHORT_FORM_FACTOR)
    with PARSERS[name](tmp_path) as parser:
        measured = run_cases(parser, name, seed, max_seconds, seconds_in_total=SHORT_SECONDS)
        # What the first inputs fill, such as caches, is not counted.
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        if long:
            measured = run_cases(
                parser, name, seed + 1, max_seconds, seconds_in_total=LONG_SECONDS, inputs=inputs_per_parser
            )
        growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) - before
    assert not measured.slow_cases, (measured.slow_cases, measured.slowest, max_seconds)
    assert growth < MAX_GROWTH_BYTES
    per_minute = measured.cases / measured.seconds * 60
    figures = (
        f"{measured.cases} inputs, {measured.rejected / measured.cases:.0%} rejected, slowest "
        f"{measured.slowest * 1000:.0f} ms of CPU time (machine: {slowness:.2f} times the reference), "
        f"{per_minute:.0f} a minute, memory +{growth >> 20} MiB"
    )
    results.add("input", name, figures)
