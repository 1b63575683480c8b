"""`python -m tests.benchmarks.provider_process PROVIDER COMBINATIONS`: a provider's API until stdin is closed.

The simulator answers, in a process of its own, so that its CPU time is not that of the exporter. An answer is computed
once. GET /clock?now=SECONDS sets the time; GET /answers returns the address and body of every answer since the last
GET /answers, so that the same bytes can be received and parsed in other ways.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Literal, NamedTuple, cast
from urllib.parse import urlencode

from exporter.model import utc
from exporter.providers.testing import ReceivedRequest, Reply, start_canned_server
from exporter.simulator import anthropic, openai
from exporter.simulator.accounts import SimAccount, Stream
from exporter.simulator.http import Api, Call
from exporter.simulator.world import World
from tests.benchmarks.process import report_and_wait
from tests.system import NOON, Clock

ProviderName = Literal["openai", "anthropic"]


class _Kind(NamedTuple):
    """What an account of a provider uses."""

    api: Api
    report: str
    workspace_prefix: str
    models: tuple[str, str]


_TIERS = ("standard", "batch")
_KINDS: Mapping[ProviderName, _Kind] = {
    "openai": _Kind(openai, "completions", "proj", ("gpt-5-2025-08-07", "gpt-5-mini-2025-08-07")),
    "anthropic": _Kind(anthropic, "messages", "wrkspc", ("claude-sonnet-5", "claude-haiku-4-5-20251001")),
}


def make_account(provider: ProviderName, combinations: int) -> SimAccount:
    """Return an account of so many combinations of workspace, model and tier, each used in every hour."""
    kind = _KINDS[provider]
    streams = []
    for number in range(combinations):
        rest, tier = divmod(number, len(_TIERS))
        workspace, model = divmod(rest, len(kind.models))
        streams.append(
            Stream(
                f"{kind.workspace_prefix}_{workspace:04d}",
                kind.models[model],
                _TIERS[tier],
                report=kind.report,
                daily_requests=5000 + 1000 * number,
                load_profile="steady",
            )
        )
    workspaces = {stream.workspace: f"Team {stream.workspace[-4:]}" for stream in streams}
    # Only the running hour changes between two polls: what else a poll costs is the cost of unchanged buckets.
    return SimAccount(provider, provider, "", "a-key", "Acme", tuple(streams), workspaces, prompt_usage=True)


class _Answers:
    """The answers of one account, each computed once."""

    def __init__(self, provider: ProviderName, combinations: int) -> None:
        self._clock = Clock(NOON)
        self._api = _KINDS[provider].api
        self._account = make_account(provider, combinations)
        self._world = World([self._account], self._clock)
        self._bodies: dict[tuple[str, float], bytes] = {}
        self._served: list[tuple[str, str]] = []

    def respond(self, request: ReceivedRequest) -> Reply:
        """Answer a request as the provider does, or one of the benchmark's own."""
        if request.path == "/clock":
            self._clock.now = utc(float(request.query["now"][0]))
            return Reply({})
        if request.path == "/answers":
            served, self._served = self._served, []
            return Reply({"answers": served})
        address = f"{request.path}?{urlencode(request.query, doseq=True)}"
        key = (address, self._clock.now.timestamp())
        if key not in self._bodies:
            query = {name.removesuffix("[]"): tuple(values) for name, values in request.query.items()}
            answer = self._api.handle(self._world, self._account, Call("GET", request.path, query, request.headers, {}))
            self._bodies[key] = json.dumps(answer.body, separators=(",", ":")).encode()
        self._served.append((address, self._bodies[key].decode()))
        return Reply(self._bodies[key])


def main() -> None:
    """Serve until the benchmark is over."""
    provider, combinations = cast(ProviderName, sys.argv[1]), int(sys.argv[2])
    with start_canned_server(_Answers(provider, combinations).respond) as server:
        report_and_wait({"port": int(server.url.rpartition(":")[2])})


if __name__ == "__main__":
    main()
