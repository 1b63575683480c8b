"""The valuer: open days at list prices, billed days to the nano-USD, and consistent sums in every window."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from exporter.config.configuration import Price
from exporter.model import COST, DAY, HOUR, NANO, TOKEN_METERS
from exporter.pricing.list_prices import Rates, list_rates
from exporter.simulator.accounts import SimAccount, Stream
from exporter.simulator.world import World
from tests.system import NOON, Clock, System, make_account, midnight, start_small_system, start_system

MINUTE = timedelta(minutes=1)
TODAY = midnight(NOON)
BILLED_DAYS = (TODAY - 2 * DAY, TODAY - DAY)
"""The days of a history of two that are billed at noon."""


def make_complex_account() -> SimAccount:
    """Return an OpenAI account whose bill has a discount, units other than tokens, and unattributed costs."""
    small = make_account("openai", "openai")
    more = (
        Stream("proj_web", "gpt-5-2025-08-07", "", "key_web", "web_search_calls", 40, (("web_searches", 1.0),)),
        Stream("proj_lab", "", "", "", "vector_stores", 1, (("bytes", 46e9),), "steady"),
        Stream("proj_lab", "gpt-99-secret", "flex", "key_lab", daily_requests=30, load_profile="nightly"),
    )
    return replace(small, streams=small.streams + more, discount=0.1, amount_format="string")


@pytest.fixture(name="system")
def _start_system(tmp_path: Path) -> Iterator[System]:
    claude = replace(make_account("anthropic", "anthropic"), discount=0.07)
    with start_small_system(tmp_path, make_complex_account(), claude, make_account("cursor", "cursor")) as system:
        system.poll_until_idle()
        yield system


def simulated_bill(system: System, account: str, day: datetime) -> int:
    """Return the simulator's final bill of a day, in nano-USD."""
    return sum(row.value for row in system.world.bill(account, day))


def exported_daily_costs(system: System, account: str) -> dict[str, int]:
    """Return date -> nano-USD as shown."""
    shown = system.samples()["ai_cost_daily_usd"]
    labels = ((dict(series), value) for series, value in shown.items())
    return {one["date"]: round(value * NANO) for one, value in labels if one["account"] == account}


def exported_costs(system: System, metric: str, account: str) -> Counter[tuple[str, ...]]:
    """Return (workspace, model, tier) -> nano-USD as shown, where it is not 0."""
    shown: Counter[tuple[str, ...]] = Counter()
    for series, value in system.samples()[metric].items():
        labels = dict(series)
        if labels["account"] == account:
            shown[tuple(labels.get(label, "") for label in ("workspace", "model", "tier"))] += round(value * NANO)
    return +shown


def test_every_billed_day_is_its_bill(system: System) -> None:
    """Each closed day of each kind of account costs its bill, to the nano-dollar, and so does the month."""
    for account in system.world.accounts:
        bills = {f"{day:%Y-%m-%d}": simulated_bill(system, account, day) for day in BILLED_DAYS}
        assert all(bills.values())
        assert exported_daily_costs(system, account).items() >= bills.items()
        assert system.nano_usd("ai_cost_month_billed_usd", account=account) == sum(bills.values())


def test_a_days_bill_is_attributed_by_its_lines(system: System) -> None:
    """Per workspace, the billed days and the open day sum to the bills and to today's cost."""
    for account, simulated_account in system.world.accounts.items():
        billed: Counter[str] = Counter()
        for day in BILLED_DAYS:
            for row in system.world.bill(account, day):
                billed[simulated_account.workspaces[row.workspace]] += row.value
        shown = Counter[str]()
        for (workspace, *_), value in exported_costs(system, "ai_cost_30d_usd", account).items():
            shown[workspace] += value
        for (workspace, *_), value in exported_costs(system, "ai_cost_today_usd", account).items():
            shown[workspace] -= value
        assert shown == billed


def test_every_window_is_the_same_money(system: System) -> None:
    """Summed over workspace, model and tier, the windows are sums of the days."""
    for account in system.world.accounts:
        days = exported_daily_costs(system, account)
        assert system.nano_usd("ai_cost_today_usd", account=account) == days[f"{TODAY:%Y-%m-%d}"] > 0
        assert system.nano_usd("ai_cost_30d_usd", account=account) == sum(days.values())
        assert system.nano_usd("ai_cost_month_usd", account=account) == sum(days.values())
        assert 0 < (system.nano_usd("ai_cost_this_hour_usd", account=account) or 0) < days[f"{TODAY:%Y-%m-%d}"]
        assert 0 < (system.nano_usd("ai_cost_last_hour_usd", account=account) or 0) < days[f"{TODAY:%Y-%m-%d}"]


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_an_open_day_costs_what_the_price_list_says(tmp_path: Path, provider: str) -> None:
    """Before there is any bill to learn from, each hour's tokens are priced at the list price."""
    clock = Clock()
    account = make_account("openai" if provider == "openai" else "anthropic")
    with (
        start_system(tmp_path, World([account], clock, start_time=TODAY), clock, history="1d") as system,
        system.run_exporter(),
    ):
        system.poll_until_idle()
        rates = list_rates(provider, TODAY)
        expected: Counter[tuple[str, ...]] = Counter()
        for _, row in system.world.reported_rows("solo", TODAY, clock.now):
            rate = rates.rate(row.model, row.meter, row.tier)
            if row.meter in TOKEN_METERS:
                assert rate is not None
                expected[account.workspaces[row.workspace], row.model, row.tier] += round(rate * row.value)
        assert len(expected) == 2
        assert exported_costs(system, "ai_cost_today_usd", "solo") == expected
        assert system.nano_usd("ai_cost_month_billed_usd") == 0


def test_cursor_costs_what_its_events_say(system: System) -> None:
    """At Cursor every call reports its charge: by group, model and kind the cost is the sum of the charges."""
    for window, start in (("today", TODAY), ("30d", BILLED_DAYS[0]), ("this_hour", NOON.replace(minute=0, second=0))):
        charged: Counter[tuple[str, ...]] = Counter()
        for _, row in system.world.reported_rows("cursor", start, system.clock.now):
            if row.meter == COST:
                workspace = system.world.accounts["cursor"].workspaces[row.workspace]
                charged[workspace, row.model, row.tier] += row.value
        assert exported_costs(system, f"ai_cost_{window}_usd", "cursor") == +charged


def test_a_day_becomes_billed_when_only_time_passes(tmp_path: Path) -> None:
    """A bill that is out before its lag has passed counts when it has, although the provider reports nothing more."""
    with start_small_system(tmp_path, replace(make_complex_account(), bill_delay=4 * HOUR)) as system:
        system.poll_until_idle()
        before = system.nano_usd("ai_cost_month_billed_usd")
        system.advance(13 * HOUR)
        system.advance(6 * HOUR)
        assert system.clock.now == TODAY + DAY + timedelta(hours=7, minutes=7, seconds=30)
        system.simulator.add_fault("openai", "server_error")
        system.advance(52 * MINUTE)
        assert (
            system.nano_usd("ai_cost_month_billed_usd")
            == before
            == sum(simulated_bill(system, "openai", day) for day in BILLED_DAYS)
        )

        system.advance(MINUTE)
        today = simulated_bill(system, "openai", TODAY)
        assert system.nano_usd("ai_cost_month_billed_usd") == before + today
        assert exported_daily_costs(system, "openai")[f"{TODAY:%Y-%m-%d}"] == today
        assert system.problems("openai") == {"unavailable"}


def test_a_bill_that_is_late_is_awaited(tmp_path: Path) -> None:
    """A day whose bill is not out yet stays estimated, however long ago it closed, and is never shown as nothing."""
    with start_small_system(tmp_path, replace(make_account("openai"), bill_delay=13 * HOUR)) as system:
        system.poll_until_idle()
        yesterday = f"{TODAY - DAY:%Y-%m-%d}"
        assert exported_daily_costs(system, "solo")[yesterday] > 0
        assert system.nano_usd("ai_cost_month_billed_usd") == simulated_bill(system, "solo", BILLED_DAYS[0])
        system.advance(2 * HOUR)
        assert exported_daily_costs(system, "solo")[yesterday] == simulated_bill(system, "solo", TODAY - DAY)
        assert system.nano_usd("ai_cost_month_billed_usd") == sum(
            simulated_bill(system, "solo", day) for day in BILLED_DAYS
        )


@pytest.mark.parametrize("account", ["openai", "anthropic"])
@pytest.mark.parametrize("factor", [0.5, 1.25])
def test_a_restated_bill_is_shown_with_the_next_read(system: System, account: str, factor: float) -> None:
    """A billed day that the provider changes, up or down, is right again an hour later, in every window."""
    others = {other: exported_daily_costs(system, other) for other in system.world.accounts if other != account}
    before = simulated_bill(system, account, BILLED_DAYS[1])
    system.world.restate(account, BILLED_DAYS[1], factor)
    assert abs(simulated_bill(system, account, BILLED_DAYS[1]) - factor * before) < 100
    system.advance(65 * MINUTE)
    test_every_billed_day_is_its_bill(system)
    assert system.nano_usd("ai_cost_30d_usd", account=account) == sum(exported_daily_costs(system, account).values())
    for one, days in others.items():
        assert {date: days[date] for date in list(days)[:2]}.items() <= exported_daily_costs(system, one).items()


def test_a_bill_restated_weeks_later_is_shown_within_a_day(tmp_path: Path) -> None:
    """Once a day bills are read over all that the provider may still revise."""
    clock = Clock()
    world = World([make_account("anthropic")], clock, start_time=TODAY - 30 * DAY)
    with start_system(tmp_path, world, clock, history="30d") as system, system.run_exporter():
        system.poll_until_idle()
        old = TODAY - 25 * DAY
        system.world.restate("solo", old, 0.25)
        for _ in range(25):
            system.advance(HOUR)
        assert exported_daily_costs(system, "solo")[f"{old:%Y-%m-%d}"] == simulated_bill(system, "solo", old)


def test_use_that_cursor_corrects_changes_a_closed_day(system: System) -> None:
    """Hours of a closed day that Cursor corrects are read and valued again within a day."""
    before = simulated_bill(system, "cursor", BILLED_DAYS[1])
    system.world.revise("cursor", BILLED_DAYS[1] + 9 * HOUR, 3.0)
    system.advance(DAY)
    after = simulated_bill(system, "cursor", BILLED_DAYS[1])
    assert after > before
    assert exported_daily_costs(system, "cursor")[f"{BILLED_DAYS[1]:%Y-%m-%d}"] == after


def test_use_that_is_corrected_after_its_bill_moves_no_money(system: System) -> None:
    """A billed day keeps the cost of its bill when only its usage is corrected."""
    day, before = BILLED_DAYS[1], simulated_bill(system, "anthropic", BILLED_DAYS[1])
    system.world.revise("anthropic", day + 9 * HOUR, 2.0)
    system.world.restate("anthropic", day, before / simulated_bill(system, "anthropic", day))
    assert abs(simulated_bill(system, "anthropic", day) - before) < 100
    tokens = system.value("ai_tokens_30d", account="anthropic") or 0
    system.advance(DAY)
    assert (system.value("ai_tokens_30d", account="anthropic") or 0) > tokens
    assert exported_daily_costs(system, "anthropic")[f"{day:%Y-%m-%d}"] == simulated_bill(system, "anthropic", day)


def test_a_bill_that_comes_while_its_day_is_valued_is_not_lost(tmp_path: Path) -> None:
    """When the hour changes, days are valued while accounts are polled; the newest bill wins in any order."""
    slow: list[System] = []

    def prices(provider: str, day: datetime) -> Rates:
        if slow and threading.current_thread() is threading.main_thread():
            app, deadline = slow.pop().app, time.monotonic() + 1
            while not app.idle and time.monotonic() < deadline:
                threading.Event().wait(0.005)
        return list_rates(provider, day)

    with start_small_system(tmp_path, replace(make_account("openai"), bill_delay=4 * HOUR), prices=prices) as system:
        system.poll_until_idle()
        system.advance(13 * HOUR)
        system.advance(6 * HOUR)
        system.world.restate("solo", TODAY, 2.0)
        slow.append(system)
        system.advance(61 * MINUTE)
        assert exported_daily_costs(system, "solo")[f"{TODAY:%Y-%m-%d}"] == simulated_bill(system, "solo", TODAY)


def test_tokens_without_a_price_have_no_cost(tmp_path: Path) -> None:
    """Tokens that no list knows have no cost, not a cost of 0, until their day is billed."""
    secret = Stream("proj_web", "gpt-99-secret", api_key="key_web", daily_requests=50, load_profile="steady")
    account = replace(make_account("openai"), streams=(*make_account("openai").streams, secret))
    clock = Clock()
    with (
        start_system(tmp_path, World([account], clock, start_time=TODAY), clock, history="1d") as system,
        system.run_exporter(),
    ):
        system.poll_until_idle()

        def tokens() -> int:
            return sum(
                n for (_, _, model, *_), n in system.expected_totals("today")[0].items() if model == "gpt-99-secret"
            )

        assert system.value("ai_account_unpriced_tokens", model="gpt-99-secret") == tokens() > 0
        assert set(system.samples()["ai_account_unpriced_tokens"]) == {
            frozenset({("provider", "openai"), ("account", "solo"), ("model", "gpt-99-secret")})
        }
        costs = [name for name in system.samples() if name.startswith("ai_cost_")]
        assert {"ai_cost_today_usd", "ai_cost_month_usd", "ai_cost_last_hour_usd"} < {*costs}
        assert all(system.value(name, model="gpt-99-secret") is None for name in costs)

        system.advance(21 * HOUR)
        billed = sum(row.value for row in system.world.bill("solo", TODAY) if row.model == "gpt-99-secret")
        running = system.nano_usd("ai_cost_today_usd", model="gpt-99-secret") or 0  # once billed, its rate may be known
        assert system.nano_usd("ai_cost_30d_usd", model="gpt-99-secret") == billed + running
        assert billed > 0
        assert system.nano_usd("ai_cost_daily_usd", date=f"{TODAY:%Y-%m-%d}") == simulated_bill(system, "solo", TODAY)


def test_a_negotiated_price_is_what_an_open_day_costs(system: System) -> None:
    """A price in the configuration wins over bills and lists from the next reload on; billed days stay their bill."""
    before, billed = (
        system.nano_usd("ai_cost_today_usd", account="anthropic"),
        exported_daily_costs(system, "anthropic"),
    )
    every = tuple(Price(model="claude-*", meter=meter, usd_per_million=Decimal(1)) for meter in sorted(TOKEN_METERS))
    system.change_account("anthropic", lambda account: account.model_copy(update={"prices": every}))
    system.advance(5 * MINUTE)

    tokens = sum(system.expected_totals("today", "anthropic")[0].values())
    assert system.nano_usd("ai_cost_today_usd", account="anthropic") == tokens * NANO // 1_000_000 != before
    assert all(
        exported_daily_costs(system, "anthropic")[f"{day:%Y-%m-%d}"] == billed[f"{day:%Y-%m-%d}"] for day in BILLED_DAYS
    )
    assert system.nano_usd("ai_account_restated_usd_total", account="anthropic") == 0
