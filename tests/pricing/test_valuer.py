"""The books: open days at list prices, billed days to the nano-dollar, and every sum the same money."""

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
from tests.system import NOON, Clock, Stage, lone, midnight, play, stage

MINUTE = timedelta(minutes=1)
TODAY = midnight(NOON)
BILLED = (TODAY - 2 * DAY, TODAY - DAY)
"""The days of a history of two that are billed at noon."""


def many_sided() -> SimAccount:
    """Return an OpenAI account whose bill has a discount, units that are no tokens, and money without use."""
    small = lone("openai", "openai")
    more = (
        Stream("proj_web", "gpt-5-2025-08-07", "", "key_web", "web_search_calls", 40, (("web_searches", 1.0),)),
        Stream("proj_lab", "", "", "", "vector_stores", 1, (("bytes", 46e9),), "steady"),
        Stream("proj_lab", "gpt-99-secret", "flex", "key_lab", size=30, shape="nightly"),
    )
    return replace(small, streams=small.streams + more, discount=0.1, amount_as="string")


@pytest.fixture(name="it")
def _stage(tmp_path: Path) -> Iterator[Stage]:
    claude = replace(lone("anthropic", "anthropic"), discount=0.07)
    with play(tmp_path, many_sided(), claude, lone("cursor", "cursor")) as it:
        it.settle()
        yield it


def bill(it: Stage, account: str, day: datetime) -> int:
    """Return what the simulator finally bills for a day, in nano-USD."""
    return sum(row.value for row in it.world.bill(account, day))


def daily(it: Stage, account: str) -> dict[str, int]:
    """Return date -> nano-USD as shown."""
    shown = it.samples()["ai_cost_daily_usd"]
    labels = ((dict(series), value) for series, value in shown.items())
    return {one["date"]: round(value * NANO) for one, value in labels if one["account"] == account}


def by_labels(it: Stage, metric: str, account: str) -> Counter[tuple[str, ...]]:
    """Return (workspace, model, tier) -> nano-USD as shown, where it is not 0."""
    shown: Counter[tuple[str, ...]] = Counter()
    for series, value in it.samples()[metric].items():
        labels = dict(series)
        if labels["account"] == account:
            shown[tuple(labels.get(one, "") for one in ("workspace", "model", "tier"))] += round(value * NANO)
    return +shown


def test_every_billed_day_is_its_bill(it: Stage) -> None:
    """Each closed day of each kind of account costs what its bill says, to the nano-dollar, and so does the month."""
    for account in it.world.accounts:
        bills = {f"{day:%Y-%m-%d}": bill(it, account, day) for day in BILLED}
        assert all(bills.values())
        assert daily(it, account).items() >= bills.items()
        assert it.nano("ai_cost_month_billed_usd", account=account) == sum(bills.values())


def test_a_days_bill_is_shared_out_as_its_lines_say(it: Stage) -> None:
    """Per workspace, the billed days and the open one sum to the bills and to what today shows."""
    for account, one in it.world.accounts.items():
        billed: Counter[str] = Counter()
        for day in BILLED:
            for row in it.world.bill(account, day):
                billed[one.workspaces[row.workspace]] += row.value
        shown = Counter[str]()
        for (workspace, *_), value in by_labels(it, "ai_cost_30d_usd", account).items():
            shown[workspace] += value
        for (workspace, *_), value in by_labels(it, "ai_cost_today_usd", account).items():
            shown[workspace] -= value
        assert shown == billed


def test_every_window_is_the_same_money(it: Stage) -> None:
    """Summed over workspace, model and tier, the windows are sums of the days."""
    for account in it.world.accounts:
        days = daily(it, account)
        assert it.nano("ai_cost_today_usd", account=account) == days[f"{TODAY:%Y-%m-%d}"] > 0
        assert it.nano("ai_cost_30d_usd", account=account) == sum(days.values())
        assert it.nano("ai_cost_month_usd", account=account) == sum(days.values())
        assert 0 < (it.nano("ai_cost_this_hour_usd", account=account) or 0) < days[f"{TODAY:%Y-%m-%d}"]
        assert 0 < (it.nano("ai_cost_last_hour_usd", account=account) or 0) < days[f"{TODAY:%Y-%m-%d}"]


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_an_open_day_costs_what_the_price_list_says(tmp_path: Path, provider: str) -> None:
    """Before there is any bill to learn from, each hour's tokens are priced at the list price."""
    clock = Clock()
    account = lone("openai" if provider == "openai" else "anthropic")
    with stage(tmp_path, World([account], clock, began=TODAY), clock, history="1d") as it, it.running():
        it.settle()
        rates = list_rates(provider, TODAY)
        expected: Counter[tuple[str, ...]] = Counter()
        for _, row in it.world.visible("solo", TODAY, clock.now):
            rate = rates.rate(row.model, row.meter, row.tier)
            if row.meter in TOKEN_METERS:
                assert rate is not None
                expected[account.workspaces[row.workspace], row.model, row.tier] += round(rate * row.value)
        assert len(expected) == 2
        assert by_labels(it, "ai_cost_today_usd", "solo") == expected
        assert it.nano("ai_cost_month_billed_usd") == 0


def test_cursor_costs_what_its_events_say(it: Stage) -> None:
    """At Cursor every call carries its charge: by group, model and kind the money is the sum of the charges."""
    for window, start in (("today", TODAY), ("30d", BILLED[0]), ("this_hour", NOON.replace(minute=0, second=0))):
        charged: Counter[tuple[str, ...]] = Counter()
        for _, row in it.world.visible("cursor", start, it.clock.now):
            if row.meter == COST:
                workspace = it.world.accounts["cursor"].workspaces[row.workspace]
                charged[workspace, row.model, row.tier] += row.value
        assert by_labels(it, f"ai_cost_{window}_usd", "cursor") == +charged


def test_a_day_turns_billed_when_only_time_passes(tmp_path: Path) -> None:
    """A bill that is out before its lag has passed counts when it has, though the provider says nothing more."""
    with play(tmp_path, replace(many_sided(), bill_after=4 * HOUR)) as it:
        it.settle()
        before = it.nano("ai_cost_month_billed_usd")
        it.later(13 * HOUR)
        it.later(6 * HOUR)
        assert it.clock.now == TODAY + DAY + timedelta(hours=7, minutes=7, seconds=30)
        it.simulator.fault("openai", "server_error")
        it.later(52 * MINUTE)
        assert it.nano("ai_cost_month_billed_usd") == before == sum(bill(it, "openai", day) for day in BILLED)

        it.later(MINUTE)
        today = bill(it, "openai", TODAY)
        assert it.nano("ai_cost_month_billed_usd") == before + today
        assert daily(it, "openai")[f"{TODAY:%Y-%m-%d}"] == today
        assert it.problems("openai") == {"unavailable"}


def test_a_bill_that_is_late_is_awaited(tmp_path: Path) -> None:
    """A day whose bill is not out yet stays estimated, however long ago it closed, and is never shown as nothing."""
    with play(tmp_path, replace(lone("openai"), bill_after=13 * HOUR)) as it:
        it.settle()
        yesterday = f"{TODAY - DAY:%Y-%m-%d}"
        assert daily(it, "solo")[yesterday] > 0
        assert it.nano("ai_cost_month_billed_usd") == bill(it, "solo", BILLED[0])
        it.later(2 * HOUR)
        assert daily(it, "solo")[yesterday] == bill(it, "solo", TODAY - DAY)
        assert it.nano("ai_cost_month_billed_usd") == sum(bill(it, "solo", day) for day in BILLED)


@pytest.mark.parametrize("account", ["openai", "anthropic"])
@pytest.mark.parametrize("factor", [0.5, 1.25])
def test_a_restated_bill_is_shown_with_the_next_read(it: Stage, account: str, factor: float) -> None:
    """A billed day that the provider changes, up or down, is right again an hour later, in every window."""
    others = {one: daily(it, one) for one in it.world.accounts if one != account}
    before = bill(it, account, BILLED[1])
    it.world.restate(account, BILLED[1], factor)
    assert abs(bill(it, account, BILLED[1]) - factor * before) < 100
    it.later(65 * MINUTE)
    test_every_billed_day_is_its_bill(it)
    assert it.nano("ai_cost_30d_usd", account=account) == sum(daily(it, account).values())
    for one, days in others.items():
        assert {date: days[date] for date in list(days)[:2]}.items() <= daily(it, one).items()


def test_a_bill_restated_weeks_later_is_shown_within_a_day(tmp_path: Path) -> None:
    """Once a day bills are read over all that the provider may still revise."""
    clock = Clock()
    world = World([lone("anthropic")], clock, began=TODAY - 30 * DAY)
    with stage(tmp_path, world, clock, history="30d") as it, it.running():
        it.settle()
        old = TODAY - 25 * DAY
        it.world.restate("solo", old, 0.25)
        for _ in range(25):
            it.later(HOUR)
        assert daily(it, "solo")[f"{old:%Y-%m-%d}"] == bill(it, "solo", old)


def test_use_that_cursor_corrects_changes_a_closed_day(it: Stage) -> None:
    """Hours of a closed day that Cursor corrects are read and valued again within a day."""
    before = bill(it, "cursor", BILLED[1])
    it.world.revise("cursor", BILLED[1] + 9 * HOUR, 3.0)
    it.later(DAY)
    after = bill(it, "cursor", BILLED[1])
    assert after > before
    assert daily(it, "cursor")[f"{BILLED[1]:%Y-%m-%d}"] == after


def test_use_that_is_corrected_after_its_bill_moves_no_money(it: Stage) -> None:
    """A billed day goes on costing what its bill says when only its use is corrected."""
    day, before = BILLED[1], bill(it, "anthropic", BILLED[1])
    it.world.revise("anthropic", day + 9 * HOUR, 2.0)
    it.world.restate("anthropic", day, before / bill(it, "anthropic", day))
    assert abs(bill(it, "anthropic", day) - before) < 100
    tokens = it.value("ai_tokens_30d", account="anthropic") or 0
    it.later(DAY)
    assert (it.value("ai_tokens_30d", account="anthropic") or 0) > tokens
    assert daily(it, "anthropic")[f"{day:%Y-%m-%d}"] == bill(it, "anthropic", day)


def test_a_bill_that_comes_while_its_day_is_valued_is_not_lost(tmp_path: Path) -> None:
    """At the turn of the hour days are valued while accounts are visited: the newest telling wins, whoever is last."""
    slow: list[Stage] = []

    def prices(provider: str, day: datetime) -> Rates:
        if slow and threading.current_thread() is threading.main_thread():
            app, deadline = slow.pop().app, time.monotonic() + 1
            while not app.idle and time.monotonic() < deadline:
                threading.Event().wait(0.005)
        return list_rates(provider, day)

    with play(tmp_path, replace(lone("openai"), bill_after=4 * HOUR), prices=prices) as it:
        it.settle()
        it.later(13 * HOUR)
        it.later(6 * HOUR)
        it.world.restate("solo", TODAY, 2.0)
        slow.append(it)
        it.later(61 * MINUTE)
        assert daily(it, "solo")[f"{TODAY:%Y-%m-%d}"] == bill(it, "solo", TODAY)


def test_tokens_without_a_price_have_no_cost(tmp_path: Path) -> None:
    """Tokens that no list knows have no cost, not a cost of 0, until their day is billed."""
    secret = Stream("proj_web", "gpt-99-secret", api_key="key_web", size=50, shape="steady")
    account = replace(lone("openai"), streams=(*lone("openai").streams, secret))
    clock = Clock()
    with stage(tmp_path, World([account], clock, began=TODAY), clock, history="1d") as it, it.running():
        it.settle()

        def tokens() -> int:
            return sum(n for (_, _, model, *_), n in it.told("today")[0].items() if model == "gpt-99-secret")

        assert it.value("ai_account_unpriced_tokens", model="gpt-99-secret") == tokens() > 0
        assert set(it.samples()["ai_account_unpriced_tokens"]) == {
            frozenset({("provider", "openai"), ("account", "solo"), ("model", "gpt-99-secret")})
        }
        costs = [name for name in it.samples() if name.startswith("ai_cost_")]
        assert len(costs) == 7
        assert all(it.value(name, model="gpt-99-secret") is None for name in costs)

        it.later(21 * HOUR)
        billed = sum(row.value for row in it.world.bill("solo", TODAY) if row.model == "gpt-99-secret")
        running = it.nano("ai_cost_today_usd", model="gpt-99-secret") or 0  # once billed, its rate may be known
        assert it.nano("ai_cost_30d_usd", model="gpt-99-secret") == billed + running
        assert billed > 0
        assert it.nano("ai_cost_daily_usd", date=f"{TODAY:%Y-%m-%d}") == bill(it, "solo", TODAY)


def test_an_agreed_price_is_what_an_open_day_costs(it: Stage) -> None:
    """A price in the configuration wins over bills and lists from the next reload on; billed days stay their bill."""
    before, billed = it.nano("ai_cost_today_usd", account="anthropic"), daily(it, "anthropic")
    every = tuple(Price("claude-*", meter, "", Decimal(1)) for meter in sorted(TOKEN_METERS))
    it.change("anthropic", lambda account: replace(account, prices=every))
    it.later(5 * MINUTE)

    tokens = sum(it.told("today", "anthropic")[0].values())
    assert it.nano("ai_cost_today_usd", account="anthropic") == tokens * NANO // 1_000_000 != before
    assert all(daily(it, "anthropic")[f"{day:%Y-%m-%d}"] == billed[f"{day:%Y-%m-%d}"] for day in BILLED)
    assert it.nano("ai_account_restated_usd_total", account="anthropic") == 0
