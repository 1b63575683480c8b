"""Expected hours and budgets on /metrics, from a whole exporter against simulated providers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from statistics import median
from typing import Literal

import pytest
import yaml

from exporter.analysis.baselines import BASELINE_DAYS, HourlySeries, baseline
from exporter.config.configuration import Budget, BudgetMatch
from exporter.config.schema import AccountAlerts, BudgetAlerts
from exporter.model import DAY, HOUR, NANO, REQUESTS, TOKEN_METERS
from exporter.simulator.world import World
from exporter.windows import TimeRange, floor, slots
from tests.servers import VERSIONS, run_promtool
from tests.system import NOON, Clock, System, make_account, midnight, start_system

COST_SIGNALS = (
    "ai_cost_last_hour_expected_usd",
    "ai_cost_last_hour_upper_bound_usd",
    "ai_cost_this_hour_upper_bound_usd",
    "ai_cost_excess_24h_usd",
)
Provider = Literal["openai", "anthropic", "cursor"]


def make_budget(
    name: str = "all", period: str = "month", limit: int = 1000, owner: str = "platform", **match: str
) -> Budget:
    """Return a budget."""
    assert period in ("day", "week", "month")
    return Budget(name=name, owner=owner, period=period, limit_usd=Decimal(limit), match=BudgetMatch(**match))  # type: ignore[arg-type]


@contextmanager
def start_system_with_history(
    folder: Path, *names: Provider, days: int = 20, now: datetime = NOON, **defaults: str
) -> Iterator[System]:
    """Run an exporter on an account of each provider with some weeks of past."""
    clock = Clock(now)
    world = World([make_account(name, name) for name in names], clock, start_time=midnight(now) - 40 * DAY)
    with start_system(folder, world, clock, history=f"{days}d", **defaults) as system, system.run_exporter():
        system.poll_until_idle()
        yield system


def cost_by_workspace(system: System, hour: datetime) -> Counter[str]:
    """Return nano-USD of an hour as the ledger has them now, by workspace id."""
    found: Counter[str] = Counter()
    for member in system.app.polled_accounts.values():
        for labels, nano in system.app.ledger.costs.total(
            member.ledger_account.id, TimeRange(hour, hour + HOUR)
        ).items():
            found[labels[1]] += nano
    return found


def newest_complete_hour(system: System, account: str) -> datetime:
    """Return the start of the newest complete hour."""
    return system.window_range("last_hour", account).start


def require_nano_usd(system: System, name: str, **labels: str) -> int:
    """Return the sum of a money metric, which has to be there, in nano-USD."""
    exported = system.nano_usd(name, **labels)
    assert exported is not None, name
    return exported


def apply_budgets(system: System, *budgets: Budget) -> None:
    """Apply the configuration with these budgets."""
    system.config = system.config.model_copy(update={"budgets": budgets})
    system.app.apply(system.config)


def days_before(values: Mapping[datetime, int], hour: datetime) -> HourlySeries:
    """Return hour -> value of the days before an hour as a series, hours without a value as 0."""
    first, end = floor(hour, DAY) - BASELINE_DAYS * DAY, floor(hour, DAY)
    return HourlySeries(first, [values.get(time, 0) for time in slots(first, end, HOUR)], known_since=first)


def test_what_an_hour_was_expected_to_cost(tmp_path: Path) -> None:
    """Expected is the median of the days' same hour, per workspace under its name; high is at least twice that."""
    with start_system_with_history(tmp_path, "openai") as system:
        hour = newest_complete_hour(system, "openai")
        for workspace, name in (("proj_web", "Web"), ("proj_lab", "Lab")):
            first, end = floor(hour, DAY) - BASELINE_DAYS * DAY, floor(hour, DAY)
            costs = {time: cost_by_workspace(system, time)[workspace] for time in slots(first, end, HOUR)}
            known = baseline(days_before(costs, hour), hour, NANO)
            assert known is not None
            expected = known.expected
            # Steady usage: what is expected is about the median of the same hour.
            assert expected == pytest.approx(median(costs[hour - number * DAY] for number in range(1, 15)), rel=0.1)
            assert require_nano_usd(system, COST_SIGNALS[0], workspace=name) == pytest.approx(expected, abs=1)
            assert require_nano_usd(system, COST_SIGNALS[1], workspace=name) >= max(2 * expected, expected + NANO) - 1
        assert system.value(COST_SIGNALS[3]) == 0
        assert require_nano_usd(system, "ai_cost_last_hour_usd") < require_nano_usd(system, COST_SIGNALS[1])


@pytest.mark.parametrize("provider", ["openai", "anthropic", "cursor"])
def test_requests_are_judged_where_they_are_counted_and_tokens_elsewhere(tmp_path: Path, provider: Provider) -> None:
    """An account has the one or the other, and both of its workspaces."""
    with start_system_with_history(tmp_path, provider) as system:
        counted = provider != "anthropic"
        for unit, there in (("requests", counted), ("tokens", not counted)):
            for what in ("expected", "upper_bound"):
                exported = system.samples().get(f"ai_{unit}_last_hour_{what}", {})
                assert len(exported) == (2 if there else 0)
        hour, meters = newest_complete_hour(system, provider), {REQUESTS} if counted else TOKEN_METERS
        values = Counter[datetime]()
        for time, row in system.world.ground_truth(provider, floor(hour, DAY) - BASELINE_DAYS * DAY, floor(hour, DAY)):
            if row.meter in meters and row.workspace.endswith("web"):
                values[time] += row.value
        known = baseline(days_before(values, hour), hour, min_increase=0)
        assert known is not None
        unit = "requests" if counted else "tokens"
        assert system.value(f"ai_{unit}_last_hour_expected", workspace="Web") == pytest.approx(known.expected, abs=1)


def test_with_two_days_of_history_nothing_is_expected(tmp_path: Path) -> None:
    """A new account has no baseline: the metrics are absent, not zero."""
    with start_system_with_history(tmp_path, "openai", days=2) as system:
        assert system.value("ai_cost_last_hour_usd") is not None
        assert not {*COST_SIGNALS, "ai_requests_last_hour_expected"} & system.samples().keys()


def test_a_spike_is_judged_by_the_hour_of_its_usage(tmp_path: Path) -> None:
    """A workspace's hour above its high value shows in that hour, then as excess for a day, and nowhere else."""
    with start_system_with_history(tmp_path, "openai") as system:
        spike = floor(system.clock.now, HOUR) + HOUR
        system.world.revise("openai", spike, 300, "proj_web")
        system.advance(HOUR + timedelta(minutes=50))
        assert require_nano_usd(system, "ai_cost_this_hour_usd", workspace="Web") > require_nano_usd(
            system, COST_SIGNALS[2], workspace="Web"
        )
        system.advance(HOUR)
        assert newest_complete_hour(system, "openai") == spike
        cost, high = (
            require_nano_usd(system, "ai_cost_last_hour_usd", workspace="Web"),
            require_nano_usd(system, COST_SIGNALS[1], workspace="Web"),
        )
        assert cost > high
        assert require_nano_usd(system, COST_SIGNALS[3], workspace="Web") == pytest.approx(cost - high, abs=1)
        assert require_nano_usd(system, COST_SIGNALS[3], workspace="Lab") == 0
        system.advance(5 * HOUR)
        assert require_nano_usd(system, "ai_cost_last_hour_usd", workspace="Web") < require_nano_usd(
            system, COST_SIGNALS[1], workspace="Web"
        )
        assert require_nano_usd(system, COST_SIGNALS[3], workspace="Web") > 0
        system.advance(20 * HOUR)
        assert require_nano_usd(system, COST_SIGNALS[3], workspace="Web") == 0


def test_a_spike_inside_an_outage_of_ours_still_shows(tmp_path: Path) -> None:
    """After five hours without a poll the newest hour is usual and the excess shows the spike in between."""
    with start_system_with_history(tmp_path, "anthropic") as system:
        spike = floor(system.clock.now, HOUR) + 2 * HOUR
        system.world.revise("anthropic", spike, 300, "wrkspc_lab")
        system.advance(6 * HOUR)
        assert require_nano_usd(system, "ai_cost_last_hour_usd", workspace="Lab") < require_nano_usd(
            system, COST_SIGNALS[1], workspace="Lab"
        )
        assert require_nano_usd(system, COST_SIGNALS[3], workspace="Lab") > NANO
        assert system.value(COST_SIGNALS[3], workspace="Web") == 0


def test_signals_come_back_with_a_restart(tmp_path: Path) -> None:
    """After a restart the same is expected before any request."""
    with start_system_with_history(tmp_path, "openai") as system:
        apply_budgets(system, make_budget())
        before = {name: system.samples()[name] for name in (*COST_SIGNALS, "ai_budget_forecast_usd")}
    requests_before = len(system.simulator.requests)
    with system.run_exporter():
        assert {name: system.samples()[name] for name in before} == before
        assert len(system.simulator.requests) == requests_before


def test_signals_are_aggregated_with_the_series(tmp_path: Path) -> None:
    """Where even workspaces are too many to be shown, expected and actual cost have the same labels."""
    with start_system_with_history(tmp_path, "openai", max_series="1") as system:
        for name in ("ai_cost_last_hour_usd", *COST_SIGNALS):
            exported = {dict(series).get("workspace") for series in system.samples()[name]}
            assert exported == {dict(series).get("workspace") for series in system.samples()["ai_cost_30d_usd"]}


def test_overlapping_budgets_count_what_fits(tmp_path: Path) -> None:
    """Budgets over everything, a provider, a workspace by name, a model and an owner each equal the page's own sums."""
    with start_system_with_history(tmp_path, "openai", "anthropic", "cursor", days=35) as system:
        apply_budgets(
            system,
            make_budget("all"),
            make_budget("day", "day"),
            make_budget("web", workspace="Web"),
            make_budget("claude", model="claude-*"),
            make_budget("mine", owner="platform", account="open*"),
            make_budget("nobody", model="llama-*"),
        )
        spent = {
            dict(series)["budget"]: round(value * NANO)
            for series, value in system.samples()["ai_budget_spent_usd"].items()
        }
        assert spent == {
            "all": require_nano_usd(system, "ai_cost_month_usd"),
            "day": require_nano_usd(system, "ai_cost_today_usd"),
            "web": require_nano_usd(system, "ai_cost_month_usd", workspace="Web"),
            "claude": sum(
                round(value * NANO)
                for series, value in system.samples()["ai_cost_month_usd"].items()
                if dict(series)["model"].startswith("claude-")
            ),
            "mine": require_nano_usd(system, "ai_cost_month_usd", account="openai"),
            "nobody": 0,
        }
        labels = {"owner": "platform", "period": "month", "budget": "all"}
        assert system.value("ai_budget_limit_usd", **labels) == 1000
        assert {dict(series)["window"] for series in system.samples()["ai_budget_burn_rate"]} == {
            "1h",
            "6h",
            "1d",
            "3d",
        }
        assert require_nano_usd(system, "ai_budget_forecast_usd", budget="nobody") == 0


def test_a_budget_that_changes_by_reload_is_right_at_once(tmp_path: Path) -> None:
    """New, changed and removed budgets are on the page when the reload has returned; no request is sent for it."""
    with start_system_with_history(tmp_path, "openai", "anthropic") as system:
        requests_before = len(system.simulator.requests)
        apply_budgets(system, make_budget("one"))
        assert require_nano_usd(system, "ai_budget_spent_usd", budget="one") == require_nano_usd(
            system, "ai_cost_month_usd"
        )
        apply_budgets(system, make_budget("one", limit=7, account="openai"), make_budget("two", workspace="Lab"))
        assert system.value("ai_budget_limit_usd", budget="one") == 7
        assert require_nano_usd(system, "ai_budget_spent_usd", budget="one") == require_nano_usd(
            system, "ai_cost_month_usd", account="openai"
        )
        assert require_nano_usd(system, "ai_budget_spent_usd", budget="two") == require_nano_usd(
            system, "ai_cost_month_usd", workspace="Lab"
        )
        apply_budgets(system)
        assert not [name for name in system.samples() if name.startswith("ai_budget")]
        assert len(system.simulator.requests) == requests_before


def test_the_accounts_of_a_budget_add_up_to_its_spend(tmp_path: Path) -> None:
    """Each account that a budget counts has its part of the spend; the parts add up."""
    with start_system_with_history(tmp_path, "openai", "anthropic") as it:
        apply_budgets(it, make_budget("all"), make_budget("one", account="openai"))
        for account in ("openai", "anthropic"):
            part = require_nano_usd(it, "ai_budget_account_spent_usd", budget="all", account=account)
            assert part == require_nano_usd(it, "ai_cost_month_usd", account=account) > 0
        parts = require_nano_usd(it, "ai_budget_account_spent_usd", budget="all")
        assert parts == require_nano_usd(it, "ai_budget_spent_usd", budget="all")
        assert it.nano_usd("ai_budget_account_spent_usd", budget="one", account="anthropic") in (None, 0)


def test_own_thresholds_are_exported_and_follow_a_reload(tmp_path: Path) -> None:
    """Thresholds of an account and a budget are on the page after a reload, and absent where there are none."""
    with start_system_with_history(tmp_path, "openai", "anthropic") as it:
        apply_budgets(it, make_budget("all"))
        names = ("ai_account_alert_threshold_usd", "ai_budget_alert_threshold_ratio")
        assert not it.samples().keys() & set(names)
        alerts = AccountAlerts(cost_spike_usd=Decimal("0.5"), new_model_usd=Decimal(20))
        it.change_account("openai", lambda account: account.model_copy(update={"alerts": alerts}))
        ratios = BudgetAlerts(nearly_spent_ratio=Decimal("0.9"))
        apply_budgets(it, make_budget("all").model_copy(update={"alerts": ratios}))
        thresholds = {
            tuple(dict(series)[label] for label in ("account", "alert")): value
            for series, value in it.samples()[names[0]].items()
        }
        assert thresholds == {("openai", "AICostSpike"): 0.5, ("openai", "AINewModel"): 20}
        assert it.value(names[1], budget="all", alert="AIBudgetNearlySpent") == 0.9


def test_the_forecast_is_near_the_ground_truth(tmp_path: Path) -> None:
    """On the eighteenth, the month's forecast is within 5 % of its final cost."""
    with start_system_with_history(tmp_path, "openai", "cursor", days=35) as system:
        apply_budgets(system, make_budget())
        forecast = system.value("ai_budget_forecast_usd", budget="all")
        system.advance(12 * DAY - timedelta(hours=12, minutes=10))
        final = system.value("ai_cost_month_usd")
        assert forecast == pytest.approx(final, rel=0.05)


def test_budgets_restart_with_the_month(tmp_path: Path) -> None:
    """In a leap February's last minute all of it is spent, a minute later nothing; pace still looks back."""
    last = datetime(2028, 2, 29, 23, 59, 0, tzinfo=NOON.tzinfo)
    with start_system_with_history(tmp_path, "cursor", days=35, now=last) as system:
        apply_budgets(system, make_budget())
        spent = require_nano_usd(system, "ai_budget_spent_usd")
        assert spent == require_nano_usd(system, "ai_cost_month_usd")
        assert spent > 0
        burn = require_nano_usd(system, "ai_budget_burn_rate", window="3d")
        system.advance(timedelta(minutes=2))
        assert require_nano_usd(system, "ai_budget_spent_usd") == require_nano_usd(system, "ai_cost_month_usd") == 0
        # February has 29 days and March 31: an even pace is that much slower.
        assert require_nano_usd(system, "ai_budget_burn_rate", window="3d") == pytest.approx(burn * 31 / 29, rel=0.02)


def test_a_removed_account_takes_its_budget_share_along(tmp_path: Path) -> None:
    """A budget over two accounts has the spend of the remaining account once the other is removed."""
    with start_system_with_history(tmp_path, "openai", "anthropic") as system:
        apply_budgets(system, make_budget())
        system.config = system.config.model_copy(update={"accounts": system.config.accounts[:1]})
        system.app.apply(system.config)
        assert require_nano_usd(system, "ai_budget_spent_usd") == require_nano_usd(
            system, "ai_cost_month_usd", account="openai"
        )


def test_a_renamed_owner_moves_to_the_other_budget(tmp_path: Path) -> None:
    """The spend of an account counts for the budget of its new owner from the reload on."""
    with start_system_with_history(tmp_path, "openai") as system:
        match = BudgetMatch(owner="platform")
        budget = Budget(name="a", owner="x", period="month", limit_usd=Decimal(5), match=match)
        system.config = system.config.model_copy(update={"budgets": (budget,)})
        system.app.apply(system.config)
        assert require_nano_usd(system, "ai_budget_spent_usd") == require_nano_usd(system, "ai_cost_month_usd")
        system.change_account("openai", lambda account: account.model_copy(update={"owner": "search"}))
        assert require_nano_usd(system, "ai_budget_spent_usd") == 0


def test_budget_info_selects_what_the_budget_counts(tmp_path: Path) -> None:
    """The selector in ai_budget_info is PromQL that finds the series of the budget, whatever its globs contain."""
    with start_system_with_history(tmp_path, "openai", days=2) as system:
        apply_budgets(system, make_budget("odd", workspace='We"b\\ (1)*', model="gpt-5.?"), make_budget("all"))
        found = {dict(series)["budget"]: dict(series)["selector"] for series in system.samples()["ai_budget_info"]}
    assert found == {"odd": '{model=~"gpt-5\\\\..",workspace=~"We\\"b\\\\\\\\ \\\\(1\\\\).*"}', "all": "{}"}
    for version in VERSIONS:
        for query in found.values():
            assert (
                run_promtool(
                    version, "check", "rules", str(write_rule(tmp_path, f"sum(ai_cost_today_usd{query})"))
                ).returncode
                == 0
            )


def write_rule(folder: Path, expression: str) -> Path:
    """Write a file with one rule."""
    path = folder / "rule.yml"
    rules = [{"record": "a:b:c", "expr": expression}]
    path.write_text(yaml.safe_dump({"groups": [{"name": "a", "rules": rules}]}))
    return path
