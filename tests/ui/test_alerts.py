"""The landing page's alerts and trends: what the exporter knows to be unusual, in agreement with the gauges."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from decimal import Decimal
from html import unescape
from pathlib import Path

import pytest

from exporter.config.configuration import Budget, BudgetMatch
from exporter.model import DAY, HOUR
from exporter.simulator.world import World
from exporter.ui.format import DASH, format_change, format_money
from exporter.windows import floor
from tests.metrics.test_signals import cost_by_workspace
from tests.system import NOON, Clock, System, make_account, midnight, start_system


@contextmanager
def start_system_with_past(folder: Path, days: int = 20) -> Iterator[System]:
    """Run an exporter on an OpenAI account with some days of past."""
    clock = Clock()
    world = World([make_account("openai")], clock, start_time=midnight(NOON) - 40 * DAY)
    with start_system(folder, world, clock, history=f"{days}d") as system, system.run_exporter():
        system.poll_until_idle()
        yield system


def page_text(system: System) -> str:
    """Return the page in words."""
    body = system.app.handlers().landing_page().partition("<body>")[2]
    return " ".join(unescape(re.sub("<title>.*?</title>|<[^>]*>", " ", body)).split())


def exported_money(system: System, name: str, **labels: str) -> str:
    """Return a sum of /metrics as the page writes it."""
    nano = system.nano_usd(name, **labels)
    assert nano is not None, name
    return format_money(nano)


def test_a_spike_is_an_alert_with_the_values_of_the_gauges(tmp_path: Path) -> None:
    """The headline is never green while an hour is above its upper bound; two such hours in a row are one alert."""
    with start_system_with_past(tmp_path) as system:
        assert "● No alerts 1 account: up." in page_text(system)
        spike = floor(system.clock.now, HOUR) + HOUR
        for hour in (spike, spike + HOUR):
            system.world.revise("solo", hour, 300, "proj_web")
        system.advance(3 * HOUR)
        text = page_text(system)
        cost, expected, upper_bound = (
            exported_money(system, f"ai_cost_last_hour{name}_usd", workspace="Web")
            for name in ("", "_expected", "_upper_bound")
        )
        total = exported_money(system, "ai_cost_incident_usd", workspace="Web")
        assert system.nano_usd("ai_cost_incident_usd") == sum(
            cost_by_workspace(system, hour)["proj_web"] for hour in (spike, spike + HOUR)
        )
        assert system.value("ai_cost_incident_start_timestamp_seconds") == spike.timestamp()
    assert "▲ 1 cost spike 1 account: up." in text
    assert "● No alerts" not in text
    assert (
        f"Cost spike: solo / Web owner platform · since Nov 18 13:00 UTC (2 h), {total} in total "
        f"{cost} in the hour from Nov 18" in text
    )
    assert f"expected {expected}, upper bound {upper_bound}. Largest: gpt-5-2025-08-07 {cost}." in text
    assert "Next step: Ask platform whether this is intended." in text
    assert "AICostSpike" in text
    assert "▲ solo" in text, "the account's row has the sign of its worst alert"


def test_a_running_hour_above_its_upper_bound_is_an_alert(tmp_path: Path) -> None:
    """An hour that is not over and has cost more than its whole upper bound and $25 is the worst that can be."""
    with start_system_with_past(tmp_path) as system:
        system.world.revise("solo", floor(system.clock.now, HOUR) + HOUR, 30_000, "proj_web")
        system.advance(90 * timedelta(minutes=1))
        text = page_text(system)
        cost = exported_money(system, "ai_cost_this_hour_usd", workspace="Web")
        upper_bound = exported_money(system, "ai_cost_this_hour_upper_bound_usd", workspace="Web")
    assert "✖ 1 runaway cost" in text
    assert "Runaway cost: solo / Web owner platform · since Nov 18 13:00 UTC (37 min)" in text
    assert f"{cost} in the running hour so far; expected of the whole hour: " in text
    assert f"upper bound {upper_bound}." in text


def test_a_spike_of_an_earlier_hour_is_unexpected_cost(tmp_path: Path) -> None:
    """Once the newest hour is usual again, what the day cost above its upper bounds needs attention, less urgently."""
    with start_system_with_past(tmp_path) as system:
        spike = floor(system.clock.now, HOUR) + HOUR
        system.world.revise("solo", spike, 3000, "proj_web")
        system.advance(5 * HOUR)
        text, excess = page_text(system), exported_money(system, "ai_cost_excess_24h_usd", workspace="Web")
    assert "▲ 1 unexpected cost" in text
    assert f"{excess} above the upper bounds, in 1 of the 24 newest complete hours." in text
    assert "since Nov 18 13:00 UTC" in text


@pytest.mark.parametrize(
    ("limit_ratio", "headline", "title"),
    [
        (0.5, "✖ 1 budget exceeded", "Budget exceeded: all owner platform · since Nov "),
        (1.1, "▲ 1 budget nearly spent", "Budget nearly spent: all owner platform · since Nov "),
        (1.4, "▲ 1 budget forecast to be exceeded", "forecast to be exceeded: all owner platform · runs out Nov "),
        (3.0, "● No alerts", ""),
    ],
)
def test_a_budget_is_an_alert_with_the_values_of_the_gauges(
    tmp_path: Path, limit_ratio: float, headline: str, title: str
) -> None:
    """A budget in danger has one alert, the worst, with spend, limit and forecast as on /metrics."""
    with start_system_with_past(tmp_path, days=35) as system:
        spent = system.value("ai_cost_month_usd")
        assert spent is not None
        limit = round(Decimal(spent * limit_ratio), 2)
        budget = Budget(name="all", owner="platform", period="month", limit_usd=limit, match=BudgetMatch())
        system.app.apply(system.config.model_copy(update={"budgets": (budget,)}))
        text = page_text(system)
        spent_text, limit_text, forecast_text = (
            exported_money(system, f"ai_budget_{name}_usd") for name in ("spent", "limit", "forecast")
        )
    assert headline in text
    assert title in text
    if title:
        amounts = re.escape(f"{spent_text} of {limit_text} ") + r"\(\d+ %\) spent this month; forecast "
        assert re.search(amounts + re.escape(forecast_text), text)


def test_the_trend_compares_the_last_complete_weeks(tmp_path: Path) -> None:
    """The change is that of the daily cost on /metrics, over fourteen complete days."""
    with start_system_with_past(tmp_path) as system:
        for age in range(1, 8):
            system.world.restate("solo", midnight(NOON) - age * DAY, 1.5)
        system.advance(2 * HOUR)
        sums = []
        for first in (1, 8):
            dates = [f"{NOON - age * DAY:%Y-%m-%d}" for age in range(first, first + 7)]
            sums.append(sum(system.nano_usd("ai_cost_daily_usd", date=date) or 0 for date in dates))
        change = format_change(*sums)
        assert change.startswith("+")
        page = system.app.handlers().landing_page()
    assert f">{change}</span>" in page
    assert "7-day change <span" in page


def test_without_two_complete_weeks_there_is_no_trend(tmp_path: Path) -> None:
    """Ten days are not compared with anything: there is a dash, and a title that says why."""
    with start_system_with_past(tmp_path, days=10) as system:
        page = system.app.handlers().landing_page()
    assert f'title="fewer than fourteen complete days were read">{DASH}</span>' in page


@pytest.mark.parametrize(
    ("value", "previous", "text"),
    [
        (112, 100, "+12 %"),
        (99.5, 100, "\N{MINUS SIGN}0.5 %"),
        (100, 100, "±0 %"),
        (700, 100, "+600 %"),
        (5, 0, "new"),
        (0, 0, DASH),
    ],
)
def test_changes_have_a_sign(value: float, previous: float, text: str) -> None:
    """A change has a sign and at most one decimal; from nothing there is no percentage."""
    assert format_change(value, previous) == text
