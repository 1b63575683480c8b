"""`check account`: its totals are those of a running exporter, and the simulator's ground truth."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

import pytest

from exporter.check import (
    AccountTotals,
    Backfill,
    PolledHistory,
    compute_account_totals,
    replay_days,
)
from exporter.check.backfill import BATCH_DAYS, MAX_WAIT_SECONDS, MAX_WAITS
from exporter.config.configuration import Account
from exporter.errors import KeyRejected, Malformed, ProviderError, RateLimited, Unavailable
from exporter.ledger import Coverage, Ledger
from exporter.model import DAY, NANO
from exporter.polling.account_state import AccountState
from exporter.polling.connection import build_account_config
from exporter.polling.poller import INITIAL_BACKOFF
from exporter.providers import PROVIDERS
from exporter.simulator.accounts import PriceChange
from exporter.simulator.server import Simulator
from exporter.simulator.world import World
from exporter.snapshot.aggregation import Totals
from exporter.snapshot.offline import build_snapshot
from exporter.windows import TimeRange
from tests.system import NOON, Clock, Samples, System, make_account, make_small_world, midnight, start_system

TODAY = midnight(NOON)
MAX_SERIES = 2000


@pytest.fixture(name="system", scope="module")
def _start_system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """An exporter that has read thirty days of an account at each provider."""
    clock = Clock()
    with (
        start_system(tmp_path_factory.mktemp("check"), make_small_world(clock), clock) as system,
        system.run_exporter(),
    ):
        system.poll_until_idle()
        yield system


@dataclass(frozen=True)
class CheckResult:
    """The results of a check, and its waits."""

    history: PolledHistory
    totals: AccountTotals
    waits: Sequence[float]
    """Seconds of each wait for a rate limit."""
    coverage: Mapping[str, Coverage | None]
    """By report."""


def _check_account(
    folder: Path, simulator: Simulator, name: str, days: int, waits: list[float] | None = None
) -> CheckResult:
    """Read an account of the simulator; waiting only moves the clock, and `waits` gets the seconds."""
    clock = Clock(simulator.world.clock())
    start = clock.now
    waits = [] if waits is None else waits

    def wait(until: datetime, _: RateLimited) -> None:
        waits.append((until - clock.now).total_seconds())
        clock.now = until

    account = simulator.world.accounts[name]
    configured = Account(
        name=name,
        provider=account.provider,
        api_key_env="KEY",
        poll_interval=timedelta(minutes=5),
        history=DAY,
        max_series=MAX_SERIES,
        timeout=timedelta(seconds=30),
        base_url=simulator.base_url(name),
    )
    with closing(Ledger(folder)) as polled, closing(Ledger(folder / "replayed")) as replayed:
        number = polled.buckets.register_account(name, account.provider)
        replayed.buckets.register_account(name, account.provider)
        config = build_account_config(configured, PROVIDERS, number, {"KEY": account.key}, time.monotonic)
        history = Backfill(polled, config, days, clock, time.monotonic, wait).run()
        replay_days(polled, replayed, config.ledger_account, days, start)
        time_range = TimeRange(TODAY - (days - 1) * DAY, start)
        return CheckResult(
            history=history,
            totals=compute_account_totals(
                build_snapshot(replayed, AccountState(config).view(), time_range.end), time_range
            ),
            waits=waits,
            coverage={
                report.name: polled.buckets.coverage(number, report.name) for report in config.ledger_account.reports
            },
        )


def _exported_totals(page: Samples, account: str, label: str) -> dict[str, Totals]:
    """Return the totals of an account's 30-day metrics by one of their labels."""
    sums = {metric: Counter[str]() for metric in ("ai_tokens_30d", "ai_requests_30d", "ai_cost_30d_usd")}
    for metric, totals_by_label in sums.items():
        for series, value in page.get(metric, {}).items():
            if ("account", account) in series:
                totals_by_label[dict(series).get(label, "")] += (
                    round(value * NANO) if metric == "ai_cost_30d_usd" else round(value)
                )
    tokens, requests, cost = sums.values()
    totals = {name: Totals(cost[name], tokens[name], requests.get(name)) for name in {*tokens, *requests, *cost}}
    return {name: total for name, total in totals.items() if total != Totals()}


@pytest.mark.parametrize("account", ["labs-openai", "research-anthropic", "acme-cursor"])
def test_the_totals_match_metrics(system: System, tmp_path: Path, account: str) -> None:
    """Every day, workspace, model, tier and token type is as on /metrics; a billed day equals its bill."""
    found, page = _check_account(tmp_path, system.simulator, account, 30).totals, system.samples()
    assert [day.start for day in found.days] == [TODAY - number * DAY for number in range(29, -1, -1)]
    assert {day.start: day.total.cost for day in found.days} == _newest_by_date(page, "ai_cost_daily_usd", account, 30)
    for day in found.days[:-1]:
        assert day.billed
        assert day.total.cost == sum(row.value for row in system.world.bill(account, day.start))
    assert not found.days[-1].billed
    assert found.workspaces == _exported_totals(page, account, "workspace")
    assert found.models == _exported_totals(page, account, "model")
    assert found.tiers == _exported_totals(page, account, "tier")
    assert found.tokens == {
        name: total.tokens for name, total in _exported_totals(page, account, "type").items() if total.tokens
    }
    assert _sum_totals(found.workspaces) == _sum_totals(found.models) == _sum_totals(found.tiers) == found.total
    assert sum(found.tokens.values()) == found.total.tokens
    assert list(found.models.values()) == sorted(found.models.values(), key=lambda total: -total.cost)


def _newest_by_date(page: Samples, name: str, account: str, days: int) -> dict[datetime, int]:
    """Return the newest samples of a metric by date, in nano-USD."""
    samples = {labels: value for labels, value in page[name].items() if ("account", account) in labels}
    by_date = {dict(labels)["date"]: round(value * NANO) for labels, value in samples.items()}
    return {datetime.fromisoformat(f"{date}T00:00Z"): by_date[date] for date in sorted(by_date)[-days:]}


@pytest.mark.parametrize("account", ["labs-openai", "research-anthropic"])
def test_estimates_are_those_that_a_running_exporter_would_have_shown(
    system: System, tmp_path: Path, account: str
) -> None:
    """A day's estimate knows only earlier bills, and a check of two days estimates as well as one of fourteen."""
    few = _check_account(tmp_path / "few", system.simulator, account, 2).totals.days
    days = _check_account(tmp_path / "weeks", system.simulator, account, 14).totals.days
    assert days[-2:] == few
    shown = _newest_by_date(system.samples(), "ai_cost_daily_estimate_usd", account, 5)
    assert {day.start: day.estimate for day in days if day.start in shown} == shown
    assert len(shown) == 5
    assert days[-2].error_ratio == pytest.approx(
        system.value("ai_account_estimate_error_ratio", account=account), abs=1e-6
    )
    assert days[-1].estimate == system.nano_usd("ai_cost_today_usd", account=account)


def _sum_totals(totals: Mapping[str, Totals]) -> Totals:
    return sum(totals.values(), Totals())


def test_an_estimate_knows_the_bills_before_its_day_and_no_later_one(tmp_path: Path) -> None:
    """An account that pays half is estimated at half from the first day on, and a new price from its second day on."""
    clock, changed = Clock(), TODAY - 5 * DAY
    account = replace(make_account("openai"), discount=0.5, price_changes=(PriceChange(changed.date(), 2.0),))
    with Simulator(World([account], clock, start_time=TODAY - 20 * DAY)) as simulator:
        *billed, _ = _check_account(tmp_path, simulator, "solo", 12).totals.days
    assert len(billed) == 11
    for day in billed:
        assert day.error_ratio == pytest.approx(-0.5 if day.start == changed else 0, abs=1e-4)


@pytest.mark.parametrize(("provider", "days", "earlier"), [("openai", 5, 7), ("cursor", 9, 0), ("anthropic", 1, 7)])
def test_days_are_read_in_batches_without_a_gap(
    tmp_path: Path, provider: Literal["openai", "cursor", "anthropic"], days: int, earlier: int
) -> None:
    """Every report is covered from a midnight up to now, a week further back where there are bills."""
    clock = Clock()
    with Simulator(World([make_account(provider)], clock, start_time=TODAY - 20 * DAY)) as simulator:
        result = _check_account(tmp_path, simulator, "solo", days)
    assert days + earlier > BATCH_DAYS
    for coverage in result.coverage.values():
        assert coverage is not None
        assert (coverage.since, coverage.until) == (TODAY - (days - 1 + earlier) * DAY, NOON)


def _check_with_faults(
    folder: Path, provider: Literal["openai", "cursor", "anthropic"], *faults: Mapping[str, object]
) -> CheckResult:
    """Check three days of an account with faults."""
    clock = Clock()
    world = World([make_account(provider)], clock, start_time=TODAY - 4 * DAY)
    with Simulator(world) as simulator:
        for fault in faults:
            simulator.add_fault("solo", **fault)  # type: ignore[arg-type]
        return _check_account(folder, simulator, "solo", 3)


@pytest.mark.parametrize(
    ("provider", "path", "unsupported", "workspaces"),
    [
        ("openai", "images", "images", {"Web", "Lab"}),
        ("anthropic", "organizations/workspaces", "names", {"wrkspc_web", "wrkspc_lab"}),
    ],
)
def test_reports_outside_of_the_plan_are_left_out(
    tmp_path: Path,
    provider: Literal["openai", "anthropic"],
    path: str,
    unsupported: str,
    workspaces: set[str],
) -> None:
    """A rejected optional report is listed, rejected names leave the ids, and the rest is read."""
    result = _check_with_faults(tmp_path, provider, {"kind": "missing_scope", "path": path})
    assert result.history.unsupported == (unsupported,)
    assert set(result.totals.workspaces) == workspaces
    assert result.totals.total.tokens > 0


@pytest.mark.parametrize(("fault", "path"), [("missing_scope", "costs"), ("revoked", "images")])
def test_a_rejected_required_report_ends_the_check(tmp_path: Path, fault: str, path: str) -> None:
    """A rejected bill, and a key that is rejected altogether, are raised as they are."""
    with pytest.raises(KeyRejected):
        _check_with_faults(tmp_path, "openai", {"kind": fault, "path": path})


@pytest.mark.parametrize(("fault", "error"), [("server_error", Unavailable), ("malformed", Malformed)])
def test_other_failures_are_not_waited_for(tmp_path: Path, fault: str, error: type[ProviderError]) -> None:
    """A provider that is down or answers with something unknown ends the check at the first failure."""
    with pytest.raises(error):
        _check_with_faults(tmp_path, "openai", {"kind": fault, "path": "completions"})


def test_a_rate_limit_is_waited_for(tmp_path: Path) -> None:
    """Each wait is as long as the provider says, else the poller's first back-off; the totals are complete."""
    without_limits = _check_with_faults(tmp_path / "quiet", "anthropic")
    assert without_limits.waits == []
    limits = (
        {"kind": "rate_limited", "path": "organizations/me", "times": 1, "retry_after": 3},
        {"kind": "rate_limited", "path": "messages", "times": 2, "retry_after": 7},
        {"kind": "rate_limited", "path": "cost_report", "times": 1},
    )
    result = _check_with_faults(tmp_path / "limited", "anthropic", *limits)
    assert result.waits == [3, 7, 7, INITIAL_BACKOFF.total_seconds() * 0.75]
    assert result.totals == without_limits.totals


@pytest.mark.parametrize(
    ("retry_after", "path"), [(MAX_WAIT_SECONDS + 1, "members"), (1, "members"), (1, "usage-events")]
)
def test_waiting_has_an_end(tmp_path: Path, retry_after: float, path: str) -> None:
    """A limit that lasts too long is not waited for, nor one that never ends."""
    clock = Clock()
    waits: list[float] = []
    with Simulator(World([make_account("cursor")], clock, start_time=TODAY - DAY)) as simulator:
        simulator.add_fault("solo", "rate_limited", retry_after=int(retry_after), path=path)
        with pytest.raises(RateLimited):
            _check_account(tmp_path, simulator, "solo", 3, waits)
    assert waits == ([] if retry_after > MAX_WAIT_SECONDS else [retry_after] * MAX_WAITS)
