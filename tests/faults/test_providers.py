"""Every fault of a provider in every request of every provider: the error's class, what stands, and the recovery."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from datetime import timedelta
from typing import Literal, NamedTuple

import pytest

from exporter.model import HOUR
from exporter.simulator.faults import FAULT_KINDS
from tests.faults.results import Results
from tests.system import System, Totals, make_account, start_small_system

ProviderName = Literal["openai", "anthropic", "cursor"]
PROVIDER_NAMES: tuple[ProviderName, ...] = ("openai", "anthropic", "cursor")
MINUTE = timedelta(minutes=1)
FAULTY = {("account", "faulty")}
KEY_REASONS = {"key_rejected", "missing_scope", "wrong_key_kind"}
EXPECTED: Mapping[str, set[str]] = {
    "rate_limited": {"rate_limited"},
    "overloaded": {"unavailable"},
    "server_error": {"unavailable"},
    "slow": {"unavailable"},
    "revoked": {"key_rejected"},
    "expired": {"key_rejected"},
    "missing_scope": {"missing_scope"},
    "wrong_key": {"key_rejected", "missing_scope", "wrong_key_kind"},
    "truncated": {"malformed"},
    "malformed": {"malformed"},
    "mistyped": {"malformed"},
    "html": {"malformed"},
    "empty": {"malformed"},
    "shortened": {"malformed"},
}
"""Fault -> the reasons of which one must be the problem."""


def test_every_fault_has_an_expectation() -> None:
    """A fault that is added to the simulator is tested here, too."""
    assert set(EXPECTED) == FAULT_KINDS


@pytest.fixture(name="system_of", scope="module")
def _system_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[ProviderName], System]]:
    """Return the running system of a provider, which all of its faults share: each has to end without a trace."""
    systems: dict[ProviderName, System] = {}
    with ExitStack() as stack:

        def start(provider: ProviderName) -> System:
            if provider not in systems:
                accounts = make_account(provider, "faulty"), make_account(provider, "other")
                folder = tmp_path_factory.mktemp(provider)
                systems[provider] = stack.enter_context(start_small_system(folder, *accounts, timeout="1s"))
                systems[provider].poll_until_idle()
            return systems[provider]

        yield start


def paths_of(system: System, account: str) -> list[str]:
    """Return the paths that are requested of an account, one for each report and name list."""
    return sorted({served.path for served in system.simulator.requests if served.account == account})


@pytest.mark.parametrize("fault", sorted(FAULT_KINDS))
@pytest.mark.parametrize("provider", PROVIDER_NAMES)
def test_a_fault_is_reported_harms_nothing_else_and_ends_without_a_restart(
    system_of: Callable[[ProviderName], System],
    results: Results,
    provider: ProviderName,
    fault: str,
    *,
    long: bool,
    seed: int,
) -> None:
    """The problem has the fault's class, no number becomes smaller, the other account is exact, and so is this one
    once the fault has ended.
    """
    system = system_of(provider)
    paths = paths_of(system, "faulty")
    if not long:
        paths = random.Random(f"{seed} {provider} {fault}").sample(paths, 1)
    unseen = []
    for path in paths:
        before = State.of(system, path)
        system.simulator.add_fault("faulty", fault, path=path, seconds=3 if fault == "slow" else 0)
        try:
            advance_through_fault(system, path, long=long)
            found = system.problems("faulty")
            if not found:
                unseen.append(path)
            check_fault(system, fault, path, found, before)
        finally:
            system.simulator.clear_faults()
        # A key that was rejected is tried again after a reload; everything else recovers by itself.
        if found & KEY_REASONS:
            system.app.apply(system.config)
        for _ in range(3):
            system.advance(20 * MINUTE)
        if not found:
            system.advance(25 * HOUR)
        assert system.problems("faulty") == set(), path
        assert system.value("ai_account_up", account="faulty") == 1
        for account in ("faulty", "other"):
            assert system.exported_totals("ai_tokens_today", account) == system.expected_totals("today", account)[0]
    figures = f"{len(paths)} of the provider's requests, 0 failed"
    results.add(
        "provider", f"{provider}: {fault}", figures + (f"; no problem by design in {len(unseen)}" if unseen else "")
    )


def advance_through_fault(system: System, path: str, *, long: bool) -> None:
    """Let hours pass, in the long form seven, in the short form until an hour after the first request with the fault.

    Every report is due within an hour, names within six, and reports that were unsupported within a day.
    """
    is_reached = False
    for _ in range(7):
        requests_before = system.count_calls("faulty", path)
        system.advance(HOUR)
        if is_reached and not long:
            return
        is_reached = is_reached or system.count_calls("faulty", path) > requests_before


class State(NamedTuple):
    """What has to change during a fault of an account, or must not."""

    tokens: Totals
    """Of the last 30 days."""
    requests: int
    """To the path with the fault, so far."""
    failures: Counter[str]
    """Failed polls by reason, so far."""

    @classmethod
    def of(cls, system: System, path: str) -> State:
        """Return the present state."""
        series = system.samples().get("ai_account_poll_failures_total", {})
        failures = {dict(labels)["reason"]: int(value) for labels, value in series.items() if labels >= FAULTY}
        tokens = system.exported_totals("ai_tokens_30d", "faulty")
        requests = sum(served.account == "faulty" and served.path == path for served in system.simulator.requests)
        return cls(tokens, requests, Counter(failures))


def is_harmless(fault: str, path: str) -> bool:
    """Return whether a fault need not be a problem of the account."""
    # A report that the plan may lack is noted as such where it alone is forbidden.
    if fault in {"missing_scope", "wrong_key"}:
        return True
    # Only some plans have groups: whatever rejects their list, usage is read without them.
    if path.endswith("/teams/groups"):
        return fault in {"revoked", "expired", "mistyped", "empty", "shortened"}
    # A list of names may be of any length; that of buckets and of events may not.
    if fault in {"empty", "shortened"}:
        return path.rpartition("/")[2] in {"workspaces", "projects", "api_keys", "users", "members", "spend"}
    # These answers have no whole number that could be mistyped.
    return fault == "mistyped" and path.rpartition("/")[2] in {"workspaces", "projects", "api_keys", "cost_report"}


def check_fault(system: System, fault: str, path: str, found: set[str], before: State) -> None:
    """Check an account that has had a fault for hours, and the account beside it."""
    now = State.of(system, path)
    assert now.requests > before.requests, f"{path} was not requested during the fault"
    if found or not is_harmless(fault, path):
        assert len(found & EXPECTED[fault]) == 1, (path, found)
        assert len(found) == 1, (path, found)
        assert system.value("ai_account_up", account="faulty") == 0
        reason = min(found)
        assert now.failures[reason] > before.failures[reason]
    if fault in {"empty", "shortened"} and path.endswith("/teams/groups"):
        # Cursor's members belong to their groups: without these, usage is of another workspace and not less.
        assert now.tokens.total() >= before.tokens.total()
    else:
        assert all(now.tokens[series] >= value for series, value in before.tokens.items()), path
    assert system.value("ai_account_up", account="other") == 1, path
    assert system.exported_totals("ai_tokens_today", "other") == system.expected_totals("today", "other")[0]
