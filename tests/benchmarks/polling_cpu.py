"""CPU time of polling an account, from the first byte of an answer to rendered bytes, beside json.loads of these bytes.

The provider is another process; what it takes to receive its answers is measured by receiving them once more, and
subtracted. Ratios to json.loads in the same run are comparable between machines, CPU times are not.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import ClassVar, NamedTuple

import httpx
import yaml

from exporter.app import App, Dependencies
from exporter.config.configuration import load
from exporter.model import HOUR, Report
from exporter.providers import ProviderType
from exporter.providers.anthropic import Anthropic
from exporter.providers.openai import OpenAI
from tests.benchmarks.process import run_process
from tests.benchmarks.provider_process import ProviderName
from tests.system import NOON, Clock, Samples, parse_samples, poller_of

STEADY_OVERLAP = 72 * HOUR
POLL_INTERVAL = HOUR / 12
MAX_POLL_SECONDS = 300
PARSE_RUNS = 5


def _with_long_overlap(report: Report) -> Report:
    return replace(report, overlap=STEADY_OVERLAP)


# An account that uses a single usage report: the empty buckets of the other ones are not the subject.
class OpenAIWithOneReport(OpenAI):
    """OpenAI's completions and costs; every poll reads 72 hours again."""

    reports: ClassVar[tuple[Report, ...]] = (_with_long_overlap(OpenAI.reports[0]), OpenAI.reports[1])


class AnthropicWithLongOverlap(Anthropic):
    """Anthropic; every poll reads 72 hours again."""

    reports: ClassVar[tuple[Report, ...]] = (_with_long_overlap(Anthropic.reports[0]), Anthropic.reports[1])


MEASURED_PROVIDERS: dict[str, ProviderType] = {"openai": OpenAIWithOneReport, "anthropic": AnthropicWithLongOverlap}
_KEYS = {"openai": "sk-admin-benchmark", "anthropic": "sk-ant-admin01-benchmark"}


class _Answer(NamedTuple):
    address: str
    body: bytes


@dataclass(frozen=True, slots=True)
class PollCost:
    """CPU seconds of a poll."""

    body_bytes: int
    """Bytes of all answers."""
    poll: float
    """From the received bytes to the rendered ones."""
    parse: float
    """json.loads of the same bytes."""

    @property
    def ratio(self) -> float:
        """The poll beside json.loads."""
        return self.poll / self.parse

    def format_row(self, name: str) -> str:
        """Return a line of the table."""
        return (
            f"  {name:<18}{self.body_bytes / 1e6:6.2f} MB   poll {self.poll * 1000:7.1f} ms"
            f"   json.loads {self.parse * 1000:6.1f} ms   ratio {self.ratio:5.1f}"
        )


@dataclass(slots=True)
class PolledProvider:
    """An exporter with a single account, and the provider that it polls."""

    app: App
    clock: Clock
    url: str
    client: httpx.Client

    def measure_poll(self) -> PollCost:
        """Poll whatever is due, until it is rendered."""
        began = time.process_time()
        self.app.tick()
        assert poller_of(self.app).wait_until_idle(MAX_POLL_SECONDS)
        self.app.refresh_metrics()
        assert self.app.up_to_date
        cpu_seconds = time.process_time() - began
        answers = self._take_answers()
        receive = _median_cpu_seconds(lambda: self._receive(answers))
        self._take_answers()
        return PollCost(
            body_bytes=sum(len(answer.body) for answer in answers),
            poll=cpu_seconds - receive,
            parse=_median_cpu_seconds(lambda: _parse(answers)),
        )

    def measure_steady_polls(self, polls: int) -> PollCost:
        """Let time pass in steps of a poll interval, each of which changes the running hour; return the median poll."""
        costs = []
        for _ in range(polls):
            self.clock.now += POLL_INTERVAL
            self.client.get(f"{self.url}/clock", params={"now": self.clock.now.timestamp()})
            costs.append(self.measure_poll())
        return sorted(costs, key=lambda cost: cost.poll)[len(costs) // 2]

    def samples(self) -> Samples:
        """Return the samples of /metrics."""
        page = self.app.handlers().page()
        return parse_samples((page.spend.plain + page.text.plain).decode())

    def _take_answers(self) -> list[_Answer]:
        served = self.client.get(f"{self.url}/answers").json()["answers"]
        return [_Answer(address, body.encode()) for address, body in served]

    def _receive(self, answers: Sequence[_Answer]) -> None:
        for answer in answers:
            assert self.client.get(self.url + answer.address).content == answer.body


@contextmanager
def start_polled_provider(folder: Path, provider: ProviderName, url: str) -> Iterator[PolledProvider]:
    """Start an exporter on an empty ledger that polls the provider at an address; nothing is requested yet."""
    clock = Clock(NOON)
    account = {"name": "a", "provider": provider, "api_key_env": "KEY", "base_url": url, "poll_interval": "5m"}
    folder.mkdir()
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({"accounts": [account]}))
    app = App(folder / "ledger", Dependencies(clock, clock.monotonic, {"KEY": _KEYS[provider]}, MEASURED_PROVIDERS))
    app.apply(load(path, MEASURED_PROVIDERS))
    with httpx.Client(timeout=MAX_POLL_SECONDS) as client:
        client.get(f"{url}/clock", params={"now": clock.now.timestamp()})
        try:
            yield PolledProvider(app, clock, url, client)
        finally:
            app.stop()


def measure_polling(
    folder: Path, provider: ProviderName, combinations: int, *, first_polls: int = 3, steady_polls: int = 9
) -> Mapping[str, PollCost]:
    """Return the costs of a `first` poll of thirty days and of a `steady` poll, medians."""
    with run_process("tests.benchmarks.provider_process", provider, str(combinations)) as info:
        url = f"http://127.0.0.1:{int(info['port'])}"
        first = []
        # The first of these loads modules and price lists, and waits for answers that are not computed yet.
        for number in range(first_polls + 1):
            with start_polled_provider(folder / str(number), provider, url) as polled:
                first.append(polled.measure_poll())
                if number == first_polls:
                    steady = polled.measure_steady_polls(steady_polls)
        return {"first": sorted(first[1:], key=lambda cost: cost.poll)[first_polls // 2], "steady": steady}


def _parse(answers: Sequence[_Answer]) -> None:
    for answer in answers:
        json.loads(answer.body)


def _median_cpu_seconds(action: Callable[[], object]) -> float:
    durations = []
    for _ in range(PARSE_RUNS):
        began = time.process_time()
        action()
        durations.append(time.process_time() - began)
    return median(durations)
