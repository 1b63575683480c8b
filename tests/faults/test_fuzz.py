"""Random inputs of every parser: only documented errors, bounded CPU time, bounded memory."""

from __future__ import annotations

import gzip
import json
import resource
import statistics
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

from exporter.config import configuration, web_configuration
from exporter.errors import ConfigError, ProviderError, PushError, QueryRejected
from exporter.history.remote_read import RemoteReadHandler
from exporter.history.remote_read_protocol import MESSAGES
from exporter.model import DAY, HOUR, Secret
from exporter.providers import PROVIDERS, create_provider
from exporter.providers.base import Provider
from exporter.providers.http import ClientConfig
from exporter.push.parse import decode_body, parse_batch, parse_change_event, parse_events, parse_json
from exporter.simulator.server import Simulator
from exporter.simulator.world import World
from exporter.windows import floor
from tests.faults.mutations import MAX_BYTES, dump_json, make_odd_value, mutate_bytes, mutate_json
from tests.faults.results import Results
from tests.history.ledger_days import DAY1, cost_row, open_ledger
from tests.paths import ROOT
from tests.system import NOON, make_account

SHORT_SECONDS = 0.4
LONG_SECONDS = 40.0
"""CPU time for the inputs of each parser."""
MAX_SECONDS = 0.1
"""CPU time of a case, on a machine that takes REFERENCE_SECONDS for the reference work."""
REFERENCE_SECONDS = 0.02
SHORT_FORM_FACTOR = 10
"""The short form fails at so many times MAX_SECONDS: it runs beside other tests."""
MAX_GROWTH_BYTES = 200 << 20
MAX_PUSH_BYTES = 1 << 20


@dataclass
class Parser:
    """A parser, and how its random inputs are made."""

    make_input: Callable[[Random], bytes]
    parse: Callable[[bytes], object]
    errors: tuple[type[Exception], ...]
    """The documented ones."""


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


def measure_reference() -> float:
    """Return the CPU seconds of a fixed piece of work in Python, the median of some repetitions."""

    def work() -> float:
        began = time.thread_time()
        json.loads(json.dumps([{"name": f"value {number}", "number": number} for number in range(9000)]))
        return time.thread_time() - began

    return statistics.median(work() for _ in range(5))


def measure_case(parser: Parser, data: bytes) -> tuple[float, bool]:
    """Return the CPU seconds of parsing, and whether the input was rejected with a documented error."""
    began = time.thread_time()
    try:
        parser.parse(data)
    except parser.errors as error:
        seconds = time.thread_time() - began
        # What is shown of an error has to be text that can be sent and stored.
        str(error).encode()
        return seconds, True
    return time.thread_time() - began, False


def run_cases(parser: Parser, name: str, seed: int, max_seconds: float, *, long: bool) -> Measured:
    """Parse random inputs, each from a seed of its own, so that a case can be repeated alone."""
    measured = Measured()
    while measured.seconds < (LONG_SECONDS if long else SHORT_SECONDS):
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


def _make_yaml_parser(folder: Path, bases: list[bytes], load: Callable[[Path], object]) -> Parser:
    """Return a parser of a file; the inputs are changes of files that a user may have written."""
    tokens = [token for base in bases for token in base.split()][:400]
    tokens += [
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
    ]
    path = folder / "file.yaml"

    def make_input(random: Random) -> bytes:
        return mutate_bytes(random, random.choice(bases)[:2048], tokens)

    def parse(data: bytes) -> object:
        path.write_bytes(data)
        return load(path)

    return Parser(make_input, parse, (ConfigError,))


@contextmanager
def make_configuration_parser(folder: Path) -> Iterator[Parser]:
    """The configuration file."""
    files = sorted((ROOT / "tests" / "config" / "bad").glob("*.yaml"))
    bases = [(ROOT / "config.example.yaml").read_bytes(), *(file.read_bytes() for file in files)]
    # Its value is a pattern of files: a random one may search the whole disk, as it says.
    bases = [base for base in bases if b"account_files" not in base]
    yield _make_yaml_parser(folder, bases, lambda path: configuration.load(path, PROVIDERS))


@contextmanager
def make_web_configuration_parser(folder: Path) -> Iterator[Parser]:
    """The file of --web.config.file."""
    files = sorted((ROOT / "tests" / "config" / "bad_web").glob("*.y*ml"))
    yield _make_yaml_parser(folder, [file.read_bytes() for file in files], web_configuration.load)


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
    """A path, and the body that is sent in place of its answer."""

    def respond(self, request: httpx.Request) -> httpx.Response:
        """Return the changed answer, the recorded one, or at first that of the simulator."""
        path, key = request.url.path, (self.report_name, request.url.path)
        if path == self.changed[0]:
            return httpx.Response(200, stream=httpx.ByteStream(self.changed[1]))
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
        end = NOON.replace(minute=0, second=0)
        for report in provider.reports:
            if report.name == report_name:
                start = end - 6 * HOUR if report.width == HOUR else end - 3 * DAY
                list(provider.fetch(report, floor(start, report.width), end))


@contextmanager
def make_provider_parser(provider_name: str) -> Iterator[Parser]:
    """Answers of a provider: one of the simulator's answers has random changes."""
    account = make_account(provider_name)  # type: ignore[arg-type]
    with Simulator(World([account], lambda: NOON, start_time=NOON - timedelta(days=4))) as simulator:
        answers = ProviderAnswers(simulator)
        # Without a network, over which most of the time of a case would be spent.
        transport = httpx.MockTransport(answers.respond)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(httpx, "Client", partial(httpx.Client, transport=transport))
            config = ClientConfig(Secret(account.key), simulator.base_url(account.name))
            provider = create_provider(PROVIDERS[provider_name], config)
        for name in ("names", *(report.name for report in provider.reports)):
            answers.read(provider, name)
    keys = sorted(answers.answers)

    def make_input(random: Random) -> bytes:
        number = random.randrange(len(keys))
        return bytes([number]) + dump_json(random, mutate_json(random, json.loads(answers.answers[keys[number]])))

    def parse(data: bytes) -> None:
        report_name, path = keys[data[0]]
        answers.changed = (path, data[1:])
        answers.read(provider, report_name)

    with closing(provider):
        yield Parser(make_input, parse, (ProviderError,))


def _provider_parser(name: str) -> Callable[[Path], AbstractContextManager[Parser]]:
    return lambda _: make_provider_parser(name)


PARSERS: Mapping[str, Callable[[Path], AbstractContextManager[Parser]]] = {
    "configuration": make_configuration_parser,
    "web configuration": make_web_configuration_parser,
    "push": make_push_parser,
    "remote read": make_remote_read_parser,
    **{f"answers of {name}": _provider_parser(name) for name in PROVIDERS},
}


@pytest.mark.parametrize("name", PARSERS)
def test_random_inputs_are_parsed_or_rejected_in_time(
    tmp_path: Path, results: Results, name: str, *, long: bool, seed: int
) -> None:
    """No input raises anything but documented errors, takes more than 100 ms of CPU time, or keeps memory."""
    speed = measure_reference() / REFERENCE_SECONDS
    max_seconds = MAX_SECONDS * max(1.0, speed) * (1 if long else SHORT_FORM_FACTOR)
    with PARSERS[name](tmp_path) as parser:
        measured = run_cases(parser, name, seed, max_seconds, long=False)
        # What the first inputs fill, such as caches, is not counted.
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        if long:
            measured = run_cases(parser, name, seed + 1, max_seconds, long=True)
        growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) - before
    assert not measured.slow_cases, (measured.slow_cases, measured.slowest, max_seconds)
    assert growth < MAX_GROWTH_BYTES
    per_minute = measured.cases / measured.seconds * 60
    figures = (
        f"{measured.cases} inputs, {measured.rejected / measured.cases:.0%} rejected, slowest "
        f"{measured.slowest * 1000:.0f} ms of CPU time (machine: {speed:.2f} of the reference), "
        f"{per_minute:.0f} a minute, memory +{growth >> 20} MiB"
    )
    results.add("input", name, figures)
