"""A real exporter through the failures of real months: the right alerts fire, and no others."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from exporter.config.configuration import Budget
from exporter.model import DAY, HOUR
from exporter.windows import floor
from tests.system import make_account
from tests.timelapse import alert_subjects, increase_spend, start_timelapse

TUESDAY = datetime(2026, 11, 17, 9, 2, 30, tzinfo=UTC)
EVENING = datetime(2026, 11, 30, 20, 2, 30, tzinfo=UTC)


def test_a_month_change_and_a_restart_fire_no_alert(tmp_path: Path) -> None:
    """No alert fires across the change of the month and a short restart, although budgets and windows start at 0."""
    with start_timelapse(tmp_path, EVENING) as timelapse:
        spent = timelapse.system.value("ai_cost_month_usd")
        assert spent is not None
        # Slightly below its limit: spend counted twice, or in the wrong month, would exceed it.
        budget = Budget(name="month", owner="platform", period="month", limit_usd=Decimal(round(spent * 1.4)))
        timelapse.system.config = timelapse.system.config.model_copy(update={"budgets": (budget,)})
        timelapse.system.app.apply(timelapse.system.config)
        timelapse.advance(5 * HOUR)
        timelapse.restart(timedelta(minutes=4))
        timelapse.advance(5 * HOUR)
        assert timelapse.system.nano_usd("ai_budget_spent_usd") == timelapse.system.nano_usd("ai_cost_month_usd")
    # The month that ends has spent most of its budget.
    episodes = [episode for episode in timelapse.evaluate_rules() if episode.alert != "AIBudgetThresholdReached"]
    assert episodes == []


def test_five_hours_without_a_provider_are_no_spike(tmp_path: Path) -> None:
    """During an outage of the provider only health alerts fire, and the data reported afterwards is no spike."""
    with start_timelapse(tmp_path, TUESDAY) as timelapse:
        timelapse.advance(HOUR)
        timelapse.system.simulator.add_fault("acme", "server_error")
        timelapse.advance(5 * HOUR)
        timelapse.system.simulator.clear_faults("acme")
        timelapse.advance(4 * HOUR)
        assert timelapse.system.app.up_to_date
    episodes = timelapse.evaluate_rules()
    assert alert_subjects(episodes) == {("AIAccountStale", "acme"), ("AIAccountDataLate", "acme")}
    assert all(episode.until is not None for episode in episodes)


def test_a_spike_inside_an_outage_alerts_afterwards(tmp_path: Path) -> None:
    """A spike while the exporter was stopped fires one alert after the restart: AIUnexpectedSpend, not AICostSpike."""
    with start_timelapse(tmp_path, TUESDAY) as timelapse:
        timelapse.advance(HOUR)
        timelapse.system.world.revise("acme", floor(timelapse.system.clock.now, HOUR) + 2 * HOUR, 25, "proj_web")
        timelapse.restart(6 * HOUR)
        timelapse.advance(3 * HOUR)
    episodes = [episode for episode in timelapse.evaluate_rules() if episode.alert != "AIExporterDown"]
    assert [(episode.alert, episode.labels["workspace"]) for episode in episodes] == [("AIUnexpectedSpend", "Web")]


def test_a_spike_alerts_once_while_it_lasts(tmp_path: Path) -> None:
    """Runaway spend fires within the hour, and no second alert fires for the complete hour or the day."""
    with start_timelapse(tmp_path, TUESDAY) as timelapse:
        timelapse.advance(HOUR)
        for number in (0, 1):
            timelapse.system.world.revise(
                "acme", floor(timelapse.system.clock.now, HOUR) + number * HOUR, 25, "proj_web"
            )
        timelapse.advance(11 * HOUR)
    episodes = [episode for episode in timelapse.evaluate_rules() if episode.labels["severity"] != "info"]
    subjects = [(episode.alert, episode.labels["workspace"], episode.labels["owner"]) for episode in episodes]
    assert subjects == [("AIRunawaySpend", "Web", "platform")]
    assert episodes[0].since < TUESDAY + HOUR + timedelta(minutes=50)
    assert episodes[0].until is not None
    # The last hour above its bound ends at 12:00; the alert lasts for six more.
    assert TUESDAY + 8 * HOUR < episodes[0].until < TUESDAY + 9 * HOUR + timedelta(minutes=10)


def test_an_incident_of_many_hours_is_one_alert(tmp_path: Path) -> None:
    """Nine hours of spend far above the usual, of which every third is hardly unusual, fire one alert, not six."""
    with start_timelapse(tmp_path, TUESDAY) as timelapse:
        timelapse.advance(HOUR)
        for number in range(9):
            timelapse.system.world.revise(
                "acme",
                floor(timelapse.system.clock.now, HOUR) + number * HOUR,
                1.2 if number % 3 == 2 else 20,
                "proj_web",
            )
        timelapse.advance(18 * HOUR)
    episodes = [episode for episode in timelapse.evaluate_rules() if episode.labels["severity"] != "info"]
    assert [(episode.alert, episode.labels["workspace"]) for episode in episodes] == [("AIRunawaySpend", "Web")]
    assert episodes[0].until is not None
    assert episodes[0].until < TUESDAY + 16 * HOUR


def test_a_corrected_bill_alerts_as_a_restatement(tmp_path: Path) -> None:
    """A billed day restated by 50 % fires AICostRestated only; none of its hours is a spike."""
    with start_timelapse(tmp_path, TUESDAY) as timelapse:
        timelapse.advance(HOUR)
        timelapse.system.world.restate("acme", floor(timelapse.system.clock.now, DAY) - 3 * DAY, 1.5)
        # All bills that may still be restated are fetched again once a day.
        timelapse.system.clock.now += 15 * HOUR
        timelapse.system.poll_until_idle()
        timelapse.start += 15 * HOUR
        timelapse.advance(2 * HOUR)
    assert alert_subjects(timelapse.evaluate_rules()) == {("AICostRestated", "acme")}


def test_a_weekly_day_without_usage_fires_no_alert(tmp_path: Path) -> None:
    """No alert fires for a day without usage that is idle every week, such as a Sunday."""
    saturday = datetime(2026, 11, 21, 23, 2, 30, tzinfo=UTC)
    account = increase_spend(make_account("openai", "acme"), weekdays=(1, 1, 1, 1, 1, 1, 0))
    with start_timelapse(tmp_path, saturday, account) as timelapse:
        timelapse.advance(9 * HOUR)
    assert timelapse.evaluate_rules() == []


def test_stopped_usage_alerts(tmp_path: Path) -> None:
    """AISpendStopped fires after two complete hours without cost in a workspace that spends around the clock."""
    with start_timelapse(tmp_path, TUESDAY) as timelapse:
        timelapse.advance(HOUR)
        for number in range(12):
            timelapse.system.world.revise(
                "acme", floor(timelapse.system.clock.now, HOUR) + number * HOUR, 0, "proj_web"
            )
        timelapse.advance(6 * HOUR)
    (episode,) = timelapse.evaluate_rules()
    assert (episode.alert, episode.labels["workspace"]) == ("AISpendStopped", "Web")
    assert TUESDAY + 3 * HOUR < episode.since < TUESDAY + 5 * HOUR
