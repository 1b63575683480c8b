"""A real exporter through what goes wrong in real months: the right alerts come of it, and only they."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from exporter.config.configuration import Budget
from exporter.model import DAY, HOUR
from exporter.windows import floor
from tests.system import make_account
from tests.timelapse import increase_spend, start_timelapse

TUESDAY = datetime(2026, 11, 17, 9, 2, 30, tzinfo=UTC)
EVENING = datetime(2026, 11, 30, 20, 2, 30, tzinfo=UTC)


def test_a_month_change_and_a_restart_fire_no_alert(tmp_path: Path) -> None:
    """Over the last evening of a month and a restart of minutes nothing fires: budgets and windows begin anew."""
    with start_timelapse(tmp_path, EVENING) as film:
        spent = film.system.value("ai_cost_month_usd")
        assert spent is not None
        # Below its limit, but by little: what is told twice, or added to the new month, would exceed it.
        limit = Decimal(round(spent * 1.4))
        budget = Budget(name="month", owner="platform", period="month", limit_usd=limit)
        film.system.config = film.system.config.model_copy(update={"budgets": (budget,)})
        film.system.app.apply(film.system.config)
        film.advance(5 * HOUR)
        film.restart(timedelta(minutes=4))
        film.advance(5 * HOUR)
        assert film.system.nano_usd("ai_budget_spent_usd") == film.system.nano_usd("ai_cost_month_usd")
    assert film.evaluate_rules() == []


def test_five_hours_without_a_provider_are_no_spike(tmp_path: Path) -> None:
    """While nothing can be read, that is told; what is told all at once afterwards is not taken for a spike."""
    with start_timelapse(tmp_path, TUESDAY) as film:
        film.advance(HOUR)
        film.system.simulator.add_fault("acme", "server_error")
        film.advance(5 * HOUR)
        film.system.simulator.clear_faults("acme")
        film.advance(4 * HOUR)
        assert film.system.app.up_to_date
    assert film.fired_alerts() == {("AIAccountStale", "acme"), ("AIAccountDataLate", "acme")}
    assert all(one.until is not None for one in film.evaluate_rules())


def test_a_spike_inside_an_outage_alerts_afterwards(tmp_path: Path) -> None:
    """An hour that ran away while the exporter itself was stopped is told when it is back, once, and not as a spike."""
    with start_timelapse(tmp_path, TUESDAY) as film:
        film.advance(HOUR)
        film.system.world.revise("acme", floor(film.system.clock.now, HOUR) + 2 * HOUR, 25, "proj_web")
        film.restart(6 * HOUR)
        film.advance(3 * HOUR)
    told = [one for one in film.evaluate_rules() if one.alert != "AIExporterDown"]
    assert [(one.alert, one.labels["workspace"]) for one in told] == [("AIUnexpectedSpend", "Web")]


def test_a_spike_alerts_once_while_it_lasts(tmp_path: Path) -> None:
    """Spend that runs away pages within the hour; the hour that is then complete and the day are not told again."""
    with start_timelapse(tmp_path, TUESDAY) as film:
        film.advance(HOUR)
        for number in (0, 1):
            film.system.world.revise("acme", floor(film.system.clock.now, HOUR) + number * HOUR, 25, "proj_web")
        film.advance(8 * HOUR)
    episodes = [one for one in film.evaluate_rules() if one.labels["severity"] != "info"]
    assert [(one.alert, one.labels["workspace"], one.labels["owner"]) for one in episodes] == [
        ("AIRunawaySpend", "Web", "platform")
    ]
    assert episodes[0].since < TUESDAY + HOUR + timedelta(minutes=50)
    assert episodes[0].until is not None
    assert episodes[0].until < TUESDAY + 4 * HOUR


def test_a_corrected_bill_alerts_as_a_restatement(tmp_path: Path) -> None:
    """A provider that restates a billed day by half is told as restated; no hour of it is taken for a spike."""
    with start_timelapse(tmp_path, TUESDAY) as film:
        film.advance(HOUR)
        film.system.world.restate("acme", floor(film.system.clock.now, DAY) - 3 * DAY, 1.5)
        # Bills are read again in depth once a day.
        film.system.clock.now += 15 * HOUR
        film.system.poll_until_idle()
        film.start += 15 * HOUR
        film.advance(2 * HOUR)
    assert film.fired_alerts() == {("AICostRestated", "acme")}


def test_a_day_without_use_is_a_day_like_others(tmp_path: Path) -> None:
    """Nobody works on Sundays: spend that stops for the day, as on every Sunday, is no news."""
    saturday = datetime(2026, 11, 21, 23, 2, 30, tzinfo=UTC)
    account = increase_spend(make_account("openai", "acme"), weekdays=(1, 1, 1, 1, 1, 1, 0))
    with start_timelapse(tmp_path, saturday, account) as film:
        film.advance(9 * HOUR)
    assert film.evaluate_rules() == []


def test_stopped_usage_alerts(tmp_path: Path) -> None:
    """Where a workspace that spends around the clock stops, that is told after two complete hours."""
    with start_timelapse(tmp_path, TUESDAY) as film:
        film.advance(HOUR)
        for number in range(12):
            film.system.world.revise("acme", floor(film.system.clock.now, HOUR) + number * HOUR, 0, "proj_web")
        film.advance(6 * HOUR)
    (told,) = film.evaluate_rules()
    assert (told.alert, told.labels["workspace"]) == ("AISpendStopped", "Web")
    assert TUESDAY + 3 * HOUR < told.since < TUESDAY + 5 * HOUR
