"""One account read for a trial: its figures are those of a running exporter, and of the simulator's own books."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest

from exporter.check import AccountTotals, Backfill, Total, batches, compute_account_totals
from exporter.check.backfill import BATCH_DAYS, DEFAULT_WAIT_SECONDS, MAX_WAIT_SECONDS, MAX_WAITS
from exporter.errors import KeyRejected, RateLimited
from exporter.ledger import Ledger
from exporter.model import DAY, NANO, Secret
from exporter.pricing.valuer import LedgerAccount
from exporter.providers import PROVIDERS, create_provider
from exporter.providers.http import ClientConfig
from exporter.simulator.accounts import PriceChange
from exporter.simulator.server import Simulator
from exporter.simulator.world import World
from exporter.windows import TimeRange
from tests.system import NOON, Clock, Samples, System, make_account, make_small_world, midnight, start_system

TODAY = midnight(NOON)
Waits = list[float]


@pytest.fixture(name="system", scope="module")
def _start_system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """An exporter that has read thirty days of an account at each provider."""
    clock = Clock()
    with (
        start_system(tmp_path_factory.mktemp("trial"), make_small_world(clock), clock) as system,
        system.run_exporter(),
    ):
        system.poll_until_idle()
        yield system


@contextmanager
def _open_backfill(
    folder: Path, simulator: Simulator, name: str, waits: Waits
) -> Iterator[tuple[Backfill, Ledger, LedgerAccount]]:
    """Open an account of the simulator for a trial; nobody waits, but how long is written down."""
    account = simulator.world.accounts[name]
    kind = PROVIDERS[account.provider]
    access = ClientConfig(Secret(account.key), simulator.base_url(name))
    with closing(create_provider(kind, access)) as provider, closing(Ledger(folder)) as ledger:
        book = LedgerAccount(ledger.buckets.register_account(name, account.provider), account.provider, kind.reports)
        yield Backfill(provider, book, ledger, lambda seconds, _: waits.append(seconds)), ledger, book


def _backfill_totals(folder: Path, simulator: Simulator, name: str, days: int) -> AccountTotals:
    now = simulator.world.clock()
    with _open_backfill(folder, simulator, name, []) as (pull, ledger, book):
        pull.read(batches(book, days, now), lambda: None)
        return compute_account_totals(ledger, book, 2000, TimeRange(TODAY - (days - 1) * DAY, now))


def _exported_totals(page: Samples, account: str, label: str) -> dict[str, Total]:
    """Return the thirty days of an account on /metrics by one of its labels."""
    sums = {metric: Counter[str]() for metric in ("ai_tokens_30d", "ai_requests_30d", "ai_cost_30d_usd")}
    for metric, told in sums.items():
        for series, value in page.get(metric, {}).items():
            if ("account", account) in series:
                told[dict(series).get(label, "")] += (
                    round(value * NANO) if metric == "ai_cost_30d_usd" else round(value)
                )
    tokens, requests, cost = sums.values()
    totals = {name: Total(tokens[name], requests[name], cost[name]) for name in {*tokens, *requests, *cost}}
    return {name: total for name, total in totals.items() if total != Total()}


@pytest.mark.parametrize("account", ["labs-openai", "research-anthropic", "acme-cursor"])
def test_the_totals_match_metrics(system: System, tmp_path: Path, account: str) -> None:
    """Every day, workspace, model, tier and token type is told as by a running exporter; a billed day is its bill."""
    found, page = _backfill_totals(tmp_path, system.simulator, account, 30), system.samples()
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
    assert list(found.models.values()) == sorted(found.models.values(), key=lambda one: -one.cost)


def _newest_by_date(page: Samples, name: str, account: str, days: int) -> dict[datetime, int]:
    """Return the newest of what a metric tells by date, in nano-USD."""
    told = {dict(one)["date"]: round(value * NANO) for one, value in page[name].items() if ("account", account) in one}
    return {datetime.fromisoformat(f"{date}T00:00Z"): told[date] for date in sorted(told)[-days:]}


@pytest.mark.parametrize("account", ["labs-openai", "research-anthropic"])
def test_estimates_are_those_that_a_running_exporter_would_have_shown(
    system: System, tmp_path: Path, account: str
) -> None:
    """A day's estimate knows only the bills before it, and a trial of two days estimates as well as one of fourteen."""
    few = _backfill_totals(tmp_path / "few", system.simulator, account, 2).days
    days = _backfill_totals(tmp_path / "weeks", system.simulator, account, 14).days
    assert days[-2:] == few
    shown = _newest_by_date(system.samples(), "ai_cost_daily_estimate_usd", account, 5)
    assert {day.start: day.estimate for day in days if day.start in shown} == shown
    assert len(shown) == 5
    assert days[-2].error_ratio == pytest.approx(
        system.value("ai_account_estimate_error_ratio", account=account), abs=1e-6
    )
    assert days[-1].estimate == system.nano_usd("ai_cost_today_usd", account=account)


def _sum_totals(totals: Mapping[str, Total]) -> Total:
    return sum(totals.values(), Total())


def test_an_estimate_knows_the_bills_before_its_day_and_no_later_one(tmp_path: Path) -> None:
    """An account that pays half is estimated at half from the first day on, and a new price from its second day on."""
    clock, changed = Clock(), TODAY - 5 * DAY
    account = replace(make_account("openai"), discount=0.5, price_changes=(PriceChange(changed.date(), 2.0),))
    with Simulator(World([account], clock, start_time=TODAY - 20 * DAY)) as simulator:
        *billed, _ = _backfill_totals(tmp_path, simulator, "solo", 12).days
    assert len(billed) == 11
    for day in billed:
        assert day.error_ratio == pytest.approx(-0.5 if day.start == changed else 0, abs=1e-4)


def test_batches_join_without_a_gap() -> None:
    """Reports are asked for whole days up to now, a few at a time, a week further back where there are bills."""
    for provider, days, earlier in (("openai", 14, 7), ("cursor", 30, 0), ("anthropic", 1, 7)):
        spans = batches(LedgerAccount(1, provider, PROVIDERS[provider].reports), days, NOON)
        assert spans[0].start == TODAY - (days - 1 + earlier) * DAY
        assert spans[-1].end == NOON
        assert all(left.end == right.start for left, right in pairwise(spans))
        assert all(span.start == midnight(span.start) and span.end - span.start <= BATCH_DAYS * DAY for span in spans)


@contextmanager
def _backfill_with_faults(
    folder: Path, provider: str, *faults: Mapping[str, object]
) -> Iterator[tuple[Backfill, AccountTotals, Waits]]:
    """Read three days of an account with faults."""
    clock, waits = Clock(), Waits()
    world = World([make_account(provider)], clock, start_time=TODAY - 4 * DAY)  # type: ignore[arg-type]
    with Simulator(world) as simulator:
        for fault in faults:
            simulator.add_fault("solo", **fault)  # type: ignore[arg-type]
        with _open_backfill(folder, simulator, "solo", waits) as (pull, ledger, book):
            pull.read(batches(book, 3, NOON), lambda: None)
            yield pull, compute_account_totals(ledger, book, 2000, TimeRange(TODAY - 2 * DAY, NOON)), waits


def test_what_a_plan_does_not_have_is_left_out(tmp_path: Path) -> None:
    """A refused optional report is asked for once and noted, refused names leave the ids, and the rest is read."""
    refused = ({"kind": "missing_scope", "path": "images"}, {"kind": "missing_scope", "path": "projects"})
    with _backfill_with_faults(tmp_path, "openai", *refused) as (pull, found, _):
        assert pull.unsupported == ["names", "images"]
        assert set(found.workspaces) == {"proj_web", "proj_lab"}
        assert found.total.requests > 0


@pytest.mark.parametrize(("fault", "path"), [("missing_scope", "costs"), ("revoked", "images")])
def test_what_an_account_has_to_have_ends_it(tmp_path: Path, fault: str, path: str) -> None:
    """A refused bill, and a key that is refused altogether, are told as they are."""
    with pytest.raises(KeyRejected), _backfill_with_faults(tmp_path, "openai", {"kind": fault, "path": path}):
        pass


def test_a_rate_limit_is_waited_for(tmp_path: Path) -> None:
    """As long as the provider says, or a usual time, again and again; then everything is there."""
    with _backfill_with_faults(tmp_path / "quiet", "anthropic") as (_, whole, none):
        assert none == []
    limits = (
        {"kind": "rate_limited", "path": "messages", "times": 2, "retry_after": 7},
        {"kind": "rate_limited", "path": "cost_report", "times": 1},
    )
    with _backfill_with_faults(tmp_path / "limited", "anthropic", *limits) as (_, found, waits):
        assert waits == [7, 7, DEFAULT_WAIT_SECONDS]
        assert found == whole


@pytest.mark.parametrize("told", [MAX_WAIT_SECONDS + 1, 1])
def test_waiting_has_an_end(tmp_path: Path, told: float) -> None:
    """A provider that asks for too long a wait is not waited for, nor one that limits for ever."""
    limit = {"kind": "rate_limited", "retry_after": told}
    clock, waits = Clock(), Waits()
    with Simulator(World([make_account("cursor")], clock, start_time=TODAY - DAY)) as simulator:
        simulator.add_fault("solo", **limit)  # type: ignore[arg-type]
        with pytest.raises(RateLimited), _open_backfill(tmp_path, simulator, "solo", waits) as (pull, _, _):
            pull.verify()
    assert waits == ([] if told > MAX_WAIT_SECONDS else [told] * MAX_WAITS)
