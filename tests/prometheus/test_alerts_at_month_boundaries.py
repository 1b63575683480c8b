"""A real exporter through what goes wrong in real months: the right alerts come of it, and only they."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from exporter.config.configuration import Budget
from exporter.model import DAY, HOUR
from exporter.windows import floor
from tests.system import lone
from tests.timelapse import busy, filmed

TUESDAY = datetime(2026, 11, 17, 9, 2, 30, tzinfo=UTC)
EVENING = datetime(2026, 11, 30, 20, 2, 30, tzinfo=UTC)


def test_a_month_changes_and_the_exporter_restarts_in_silence(tmp_path: Path) -> None:
    """Over the last evening of a month and a restart of minutes nothing fires: budgets and windows begin anew."""
    with filmed(tmp_path, EVENING) as film:
        spent = film.it.value("ai_cost_month_usd")
        assert spent is not None
        # Below its limit, but by little: what is told twice, or added to the new month, would exceed it.
        film.it.config = replace(
            film.it.config, budgets=(Budget("month", "platform", "month", Decimal(round(spent * 1.4)), {}),)
        )
        film.it.app.apply(film.it.config)
        film.roll(5 * HOUR)
        film.restart(timedelta(minutes=4))
        film.roll(5 * HOUR)
        assert film.it.nano("ai_budget_spent_usd") == film.it.nano("ai_cost_month_usd")
    assert film.fired() == []


def test_five_hours_without_a_provider_are_no_spike(tmp_path: Path) -> None:
    """While nothing can be read, that is told; what is told all at once afterwards is not taken for a spike."""
    with filmed(tmp_path, TUESDAY) as film:
        film.roll(HOUR)
        film.it.simulator.fault("acme", "server_error")
        film.roll(5 * HOUR)
        film.it.simulator.clear("acme")
        film.roll(4 * HOUR)
        assert film.it.app.complete
    assert film.names() == {("AIAccountStale", "acme"), ("AIAccountDataLate", "acme")}
    assert all(one.until is not None for one in film.fired())


def test_a_spike_inside_an_outage_is_told_afterwards(tmp_path: Path) -> None:
    """An hour that ran away while the exporter itself was stopped is told when it is back, once, and not as a spike."""
    with filmed(tmp_path, TUESDAY) as film:
        film.roll(HOUR)
        film.it.world.revise("acme", floor(film.it.clock.now, HOUR) + 2 * HOUR, 25, "proj_web")
        film.restart(6 * HOUR)
        film.roll(3 * HOUR)
    told = [one for one in film.fired() if one.alert != "AIExporterDown"]
    assert [(one.alert, one.labels["workspace"]) for one in told] == [("AIUnexpectedSpend", "Web")]


def test_a_spike_is_told_while_it_lasts_and_once(tmp_path: Path) -> None:
    """Spend that runs away pages within the hour; the hour that is then complete and the day are not told again."""
    with filmed(tmp_path, TUESDAY) as film:
        film.roll(HOUR)
        for number in (0, 1):
            film.it.world.revise("acme", floor(film.it.clock.now, HOUR) + number * HOUR, 25, "proj_web")
        film.roll(8 * HOUR)
    episodes = [one for one in film.fired() if one.labels["severity"] != "info"]
    assert [(one.alert, one.labels["workspace"], one.labels["owner"]) for one in episodes] == [
        ("AIRunawaySpend", "Web", "platform")
    ]
    assert episodes[0].since < TUESDAY + HOUR + timedelta(minutes=50)
    assert episodes[0].until is not None
    assert episodes[0].until < TUESDAY + 4 * HOUR


def test_a_corrected_bill_is_told_as_that(tmp_path: Path) -> None:
    """A provider that restates a billed day by half is told as restated; no hour of it is taken for a spike."""
    with filmed(tmp_path, TUESDAY) as film:
        film.roll(HOUR)
        film.it.world.restate("acme", floor(film.it.clock.now, DAY) - 3 * DAY, 1.5)
        # Bills are read again in depth once a day.
        film.it.clock.now += 15 * HOUR
        film.it.settle()
        film.start += 15 * HOUR
        film.roll(2 * HOUR)
    assert film.names() == {("AICostRestated", "acme")}


def test_a_day_without_use_is_a_day_like_others(tmp_path: Path) -> None:
    """Nobody works on Sundays: spend that stops for the day, as on every Sunday, is no news."""
    saturday = datetime(2026, 11, 21, 23, 2, 30, tzinfo=UTC)
    account = busy(lone("openai", "acme"), weekdays=(1, 1, 1, 1, 1, 1, 0))
    with filmed(tmp_path, saturday, account) as film:
        film.roll(9 * HOUR)
    assert film.fired() == []


def test_use_that_stops_is_told(tmp_path: Path) -> None:
    """Where a workspace that spends around the clock stops, that is told after two complete hours."""
    with filmed(tmp_path, TUESDAY) as film:
        film.roll(HOUR)
        for number in range(12):
            film.it.world.revise("acme", floor(film.it.clock.now, HOUR) + number * HOUR, 0, "proj_web")
        film.roll(6 * HOUR)
    (told,) = film.fired()
    assert (told.alert, told.labels["workspace"]) == ("AISpendStopped", "Web")
    assert TUESDAY + 3 * HOUR < told.since < TUESDAY + 5 * HOUR
