"""`replay`: what rules would have done on the ledger's past, and the same as they did at the time."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Literal

import pytest
import yaml

from exporter.backtest.past_source import PastSource
from exporter.backtest.promtool import AlertEpisode, find_alert_episodes
from exporter.backtest.promtool_series import STEP, PromtoolSeries
from exporter.backtest.sampling import (
    CONSTANT_SERIES,
    SAMPLED_FAMILIES,
    STEPS_PER_HOUR,
    PastAccount,
    families_in_rules,
    render_past,
    sample_series,
)
from exporter.cli.offline import open_ledger
from exporter.config.configuration import Budget, BudgetMatch
from exporter.metrics.families import (
    ACCOUNT_ALERT_THRESHOLD,
    API_REQUESTS,
    BALANCE,
    BALANCE_EXHAUSTION,
    BUDGET_ALERT_THRESHOLD,
    BUDGET_EXHAUSTION_TIME,
    BUDGET_SPENT_THRESHOLD,
    CHANGE_TIME,
    COST_DAILY_ESTIMATE,
    COST_DAILY_ONE_TIME,
    COST_TODAY_HIGH,
    COST_TODAY_LOW,
    CROSSCHECK,
    ESTIMATE_ERROR,
    FAMILIES,
    INCOMPLETE_BILLS,
    LAST_SUCCESS,
    MISSING_BILLS,
    POLL_DURATION,
    POLL_FAILURES,
    POLLS,
    RELOAD_TIME,
    REQUESTS,
    SIGNAL_FAMILIES,
    UNITS,
    UNPRICED_TOKENS,
)
from exporter.model import DAY, HOUR
from exporter.providers import PROVIDERS
from exporter.simulator.billing_terms import LineDelay
from exporter.simulator.world import World
from exporter.snapshot.builder import SnapshotBuilder
from exporter.snapshot.offline import stored_accounts
from exporter.windows import TimeRange, floor
from tests.command import run_command
from tests.paths import ROOT
from tests.servers import BIN_DIRS, VERSIONS
from tests.system import Clock, System, make_account, midnight, parse_samples, start_system
from tests.timelapse import increase_spend, start_timelapse

Provider = Literal["openai", "anthropic", "cursor"]
Labels = frozenset[tuple[str, str]]
RULES = ROOT / "prometheus" / "rules"
TUESDAY = datetime(2026, 11, 17, 9, 2, 30, tzinfo=UTC)


@pytest.fixture(name="folder", scope="module")
def _write_ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger of three weeks up to now, with a spike of two hours three days ago, and its configuration."""
    folder, clock = tmp_path_factory.mktemp("site"), Clock(datetime.now(UTC))
    accounts = [
        increase_spend(make_account("openai", "acme")),
        increase_spend(make_account("anthropic", "labs"), "research"),
    ]
    world = World(accounts, clock, start_time=midnight(clock.now) - 25 * DAY)
    for hour in (13, 14):
        world.revise("acme", midnight(clock.now) - 3 * DAY + hour * HOUR, 25, "proj_web")
    with start_system(folder, world, clock, history="20d") as system, system.run_exporter():
        system.poll_until_idle()
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["budgets"] = [{"name": "tiny", "owner": "finance", "period": "day", "limit_usd": 1}]
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def replay_flags(folder: Path, version: str = "debian", rules: Path = RULES) -> list[str]:
    """Return the arguments of the command."""
    program = f"--promtool={BIN_DIRS[version] / 'promtool'}"
    return [
        f"--config.file={folder / 'config.yaml'}",
        f"--storage.path={folder / 'ledger'}",
        f"--rules={rules}",
        program,
    ]


def yesterday() -> datetime:
    """Return the start of the UTC day before today."""
    return midnight(datetime.now(UTC)) - DAY


@pytest.mark.parametrize("version", VERSIONS)
def test_replay_reports_what_would_have_fired_when_and_for_how_long(folder: Path, version: str) -> None:
    """The spike of three days ago pages within its hour and not again; a budget is exceeded; the rest is silent."""
    day = midnight(datetime.now(UTC)) - 3 * DAY
    run = run_command("replay", *replay_flags(folder, version), f"--from={day:%Y-%m-%d}", f"--to={day:%Y-%m-%d}")
    assert (run.returncode, run.stderr) == (0, "")
    rows = [line.split() for line in run.stdout.splitlines() if line.startswith("20")]
    (runaway,) = (row for row in rows if "AIRunawaySpend" in row)
    assert runaway[0] == f"{day:%Y-%m-%d}"
    assert "13:04" <= runaway[1] <= "13:40"
    assert runaway[2:6] == ["7", "h", runaway[4], "min"]
    assert {"critical", "account=acme", "owner=platform", "workspace=Web"} <= set(runaway)
    (exceeded,) = (row for row in rows if "AIBudgetExceeded" in row)
    assert {"budget=tiny", "owner=finance"} <= set(exceeded)
    assert not [row for row in rows if "AICostSpike" in row]
    silent = next(line for line in run.stdout.splitlines() if line.startswith("Silent: "))
    assert {"AICostSpike", "AIUnexpectedSpend", "AINewModel", "AIOneTimeCost"} <= set(re.findall(r"\w+", silent))
    reasons = not_judged(run.stdout)
    assert not reasons.keys() & set(re.findall(r"\w+", silent))
    on_time = "the ledger does not record when data arrived: all of it counts as on time"
    assert {name: reason for name, reason in reasons.items() if not name.startswith("AIBudget")} == {
        "AIAccountDataLate": on_time,
        "AIAccountKeyRejected": "the ledger does not record the past of ai_account_problem",
        "AIAccountStale": "the ledger does not record the past of ai_account_last_success_timestamp_seconds, "
        "ai_account_up, process_start_time_seconds",
        "AIBalanceExhausted": "the ledger does not record the past of ai_account_balance_usd",
        "AIBalanceLow": "the ledger does not record the past of ai_account_balance_exhaustion_timestamp_seconds, "
        "ai_account_balance_usd",
        "AIConfigReloadFailed": "the ledger does not record the past of ai_exporter_config_last_reload_successful",
        "AIBillIncomplete": "the ledger does not record the past of ai_account_incomplete_bills",
        "AIBillMissing": "the ledger does not record the past of ai_account_missing_bills",
        "AICostRestated": "the ledger does not record the past of ai_account_restated_usd_total",
        "AIExporterDown": "the ledger does not record the past of up",
        "AIProviderRateLimited": "the ledger does not record the past of ai_account_poll_failures_total",
        "AISpendStopped": "needs 3d1h5m of values; these days have 1d",
        "AIUsageCrosscheckMismatch": "no values of ai_account_crosscheck_ratio in these days",
    }


def not_judged(stdout: str) -> dict[str, str]:
    """Return alert -> reason of the alerts that a replay lists as not judged."""
    lines = stdout.rpartition("Not judged:\n")[2].splitlines()
    return dict(line.strip().split(": ", 1) for line in lines)


def test_replay_matches_what_happened(tmp_path: Path) -> None:
    """An exporter is scraped through a spike and a stop of usage; a replay of its ledger reports the same alerts."""
    with start_timelapse(tmp_path, TUESDAY) as timelapse:
        hour = floor(timelapse.system.clock.now, HOUR)
        timelapse.advance(HOUR)
        timelapse.system.world.revise("acme", hour + HOUR, 25, "proj_web")
        for number in range(3, 10):
            timelapse.system.world.revise("acme", hour + number * HOUR, 0, "proj_lab")
        timelapse.advance(9 * HOUR)
        live = timelapse.evaluate_rules()
        run = replay_rules(timelapse.system, TimeRange(hour, hour + 9 * HOUR))
    names = [(episode.alert, episode.labels.get("workspace")) for episode in live]
    assert {name for name, _ in names} >= {"AIRunawaySpend", "AISpendStopped"}
    assert sorted(names, key=str) == sorted(
        ((episode.alert, episode.labels.get("workspace")) for episode in run), key=str
    )
    for episode in live:
        replayed = next(candidate for candidate in run if candidate.alert == episode.alert)
        assert abs(episode.since - replayed.since) <= timedelta(minutes=30), (episode, replayed)


def replay_rules(system: System, time_range: TimeRange) -> list[AlertEpisode]:
    """Evaluate the rules over a time range of the system's ledger."""
    found = list(backtest_gauges(system, time_range))
    return find_alert_episodes(
        BIN_DIRS["debian"] / "promtool",
        sorted(RULES.glob("*.yml")),
        found,
        time_range.start,
        (time_range.end - time_range.start) // STEP,
    )


def backtest_gauges(system: System, time_range: TimeRange) -> Iterator[PromtoolSeries]:
    """Yield the gauges of a time range, which may reach into the running hour."""
    with open_past_accounts(system, time_range) as accounts:
        yield from sample_series(accounts, system.config.budgets, SAMPLED_FAMILIES, time_range)


@contextmanager
def open_past_accounts(system: System, time_range: TimeRange) -> Iterator[list[PastAccount]]:
    """Open the ledger of a system for reading, beside it."""
    with open_ledger(system.folder / "ledger") as ledger:
        views = stored_accounts(ledger, system.config.accounts, system.config.sources, PROVIDERS)
        yield [PastAccount(PastSource(ledger, view, time_range), SnapshotBuilder()) for view in views]


def test_every_family_that_rules_use_is_sampled() -> None:
    """A metric that a rule names exists in a backtest: rendered from snapshots, or constant for the process."""
    text = "".join(file.read_text() for file in sorted(RULES.glob("*.yml")))
    used = {family.name for family in FAMILIES if re.search(rf"\b{family.name}\b", text)}
    sampled = {family.name for family in families_in_rules(text)} | CONSTANT_SERIES.keys()
    assert used - sampled == {CHANGE_TIME.name, RELOAD_TIME.name}, "used in annotations and links only"


def expand_values(series: PromtoolSeries) -> list[float | None]:
    """Return a course step by step; where it rises, the value with which it begins."""
    found: list[float | None] = []
    for token in series.values.split():
        value, _, count = token.partition("x")
        times = int(count or 0) + (value != "_")
        found += [None if value == "_" else float(re.split(r"(?<=\d)[+-]", value)[0])] * times
    return found


@pytest.mark.parametrize("provider", ["openai", "anthropic", "cursor"])
def test_past_gauges_match_the_metrics_page(tmp_path: Path, provider: Provider) -> None:
    """A past snapshot of the time of a page renders that page: every family of an account and of budgets."""
    clock = Clock(TUESDAY.replace(minute=45, second=0))
    account = make_account(provider, "acme")
    # The API of a Cursor account returns every single call: more of them would only take longer.
    world = World(
        [account if provider == "cursor" else increase_spend(account)], clock, start_time=midnight(clock.now) - 40 * DAY
    )
    match = BudgetMatch(workspace="Web")
    budget = Budget(name="web", owner="finance", period="month", limit_usd=Decimal(900), match=match)
    hour = floor(clock.now, HOUR)
    with start_system(tmp_path, world, clock, history="36d") as system:
        system.config = system.config.model_copy(update={"budgets": (budget,)})
        with system.run_exporter():
            system.poll_until_idle()
            page = system.samples()
            with open_past_accounts(system, TimeRange(hour, hour + HOUR)) as accounts:
                rendered = render_past(accounts, [budget], SAMPLED_FAMILIES, clock.now)
            series = list(backtest_gauges(system, TimeRange(hour - 5 * HOUR, hour + HOUR)))
    past = parse_samples(b"".join(text for lines in rendered for text in lines.values()).decode())
    compared = {family.name for family in SAMPLED_FAMILIES if family not in POLL_FAMILIES} & page.keys()
    for name in compared:
        assert past[name] == {labels: pytest.approx(value, abs=1e-6) for labels, value in page[name].items()}, name
    assert {family.name for family in SAMPLED_FAMILIES} - compared <= {family.name for family in NOT_ON_THE_PAGE}
    # At the beginning of the running hour the windows do not hold it yet.
    for window in ("today", "month", "30d"):
        for labels, value in page[f"ai_cost_{window}_usd"].items():
            running = page["ai_cost_this_hour_usd"][labels]
            found = _values_of(series, f"ai_cost_{window}_usd", labels)
            assert found[5 * STEPS_PER_HOUR] == pytest.approx(value - running, abs=1e-6)
    for labels, value in page["ai_account_complete_until_timestamp_seconds"].items():
        found = _values_of(series, "ai_account_complete_until_timestamp_seconds", labels)
        assert (hour - 5 * HOUR).timestamp() + (found[5 * STEPS_PER_HOUR + 11] or 0) == value


def test_bills_count_as_complete_in_the_past(tmp_path: Path) -> None:
    """The ledger does not know since when a bill is incomplete, so the past has none, even where there is one now."""
    clock = Clock(TUESDAY)
    late_line = LineDelay("*, output", timedelta(hours=60))
    account = replace(increase_spend(make_account("openai", "acme")), line_delays=(late_line,))
    world = World([account], clock, start_time=midnight(clock.now) - 25 * DAY)
    hour = floor(clock.now, HOUR)
    with start_system(tmp_path, world, clock, history="20d") as system:
        with system.run_exporter():
            system.poll_until_idle()
            assert (system.value("ai_account_incomplete_bills") or 0) > 0
        series = list(backtest_gauges(system, TimeRange(hour - DAY, hour + HOUR)))
    (values,) = (expand_values(found) for found in series if found.selector.startswith(INCOMPLETE_BILLS.name))
    assert set(values) == {0}


def _values_of(series: Sequence[PromtoolSeries], name: str, labels: Labels) -> list[float | None]:
    for known in series:
        found, _, rest = known.selector.partition("{")
        pairs = re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', rest)
        own = frozenset((key, value.replace('\\"', '"')) for key, value in pairs if key not in ("job", "instance"))
        if (found, own) == (name, labels):
            return expand_values(known)
    raise AssertionError(f"no series {name} {labels}")


POLL_FAMILIES = {POLLS, POLL_FAILURES, API_REQUESTS, POLL_DURATION, LAST_SUCCESS}
"""Alerts that depend on the success of polls, which the ledger does not record."""
NOT_ON_THE_PAGE = {
    *POLL_FAMILIES,
    *UNITS.values(),
    *REQUESTS.values(),
    *SIGNAL_FAMILIES,
    ACCOUNT_ALERT_THRESHOLD,
    BALANCE,
    BALANCE_EXHAUSTION,
    BUDGET_ALERT_THRESHOLD,
    BUDGET_EXHAUSTION_TIME,
    BUDGET_SPENT_THRESHOLD,
    COST_DAILY_ESTIMATE,
    COST_DAILY_ONE_TIME,
    COST_TODAY_HIGH,
    COST_TODAY_LOW,
    CROSSCHECK,
    ESTIMATE_ERROR,
    INCOMPLETE_BILLS,
    MISSING_BILLS,
    UNPRICED_TOKENS,
}
"""Alerts whose inputs a small account may not have."""


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"--promtool": "/nowhere/promtool"}, "/nowhere/promtool cannot be run: No such file or directory."),
        ({"--rules": "README.md"}, "README.md is not a rule file"),
        ({"--rules": "tests/cli/recording_rules.yml"}, "There is no alert in"),
        ({"--storage.path": "/nowhere"}, "There is no ledger in /nowhere"),
        ({"--config.file": "/nowhere.yaml"}, "/nowhere.yaml"),
    ],
)
def test_errors_are_clear(folder: Path, change: dict[str, str], complaint: str) -> None:
    """An error results in status 1 and a message with advice, without a traceback."""
    given = dict(flag.split("=", 1) for flag in replay_flags(folder)) | {"--from": f"{yesterday():%Y-%m-%d}"} | change
    run = run_command("replay", *(f"{name}={value}" for name, value in given.items()), cwd=ROOT)
    assert run.returncode == 1
    assert complaint in run.stderr
    assert "Traceback" not in run.stderr
    assert run.stdout == ""


def test_the_rules_that_come_along_are_the_usual_ones(folder: Path) -> None:
    """Without --rules, the rules that are shipped are used, from any working directory."""
    day = yesterday()
    given = [flag for flag in replay_flags(folder) if not flag.startswith("--rules")]
    run = run_command("replay", *given, f"--from={day:%Y-%m-%d}", f"--to={day:%Y-%m-%d}", cwd="/")
    assert run.returncode == 0
    assert "AIRunawaySpend" in next(line for line in run.stdout.splitlines() if line.startswith("Silent: "))


def test_data_that_does_not_reach_far_enough_is_reported(folder: Path, tmp_path: Path) -> None:
    """Baselines need days before them: their alerts are judged from their first value, or not at all."""
    rules = tmp_path / "rules.yml"
    expressions = {
        "Baseline": "ai_cost_last_hour_upper_bound_usd < 0",
        "Spend": "ai_cost_today_usd < 0",
        "MonthBefore": "ai_cost_today_usd < ai_cost_today_usd offset 30d",
        "Down": "up == 0",
    }
    alerts = [{"alert": name, "expr": expression} for name, expression in expressions.items()]
    rules.write_text(yaml.safe_dump({"groups": [{"name": "a", "rules": alerts}]}))
    first = midnight(datetime.now(UTC)) - 20 * DAY

    def run_days(days: int) -> str:
        last = first + (days - 1) * DAY
        flags = replay_flags(folder, rules=rules)
        run = run_command("replay", *flags, f"--from={first:%Y-%m-%d}", f"--to={last:%Y-%m-%d}")
        assert run.returncode == 0, run.stderr
        return run.stdout

    output = run_days(1)
    assert "\nSilent: Spend.\n" in output
    reasons = not_judged(output)
    assert reasons.pop("MonthBefore").startswith("needs 30d of values; these days have ")
    assert reasons == {
        "Baseline": "no values of ai_cost_last_hour_upper_bound_usd in these days",
        "Down": "the ledger does not record the past of up",
    }
    output = run_days(8)
    since = re.search(r"^Silent: Baseline \(judged from (.*)\), Spend\.$", output, re.MULTILINE)
    assert since
    assert first + 2 * DAY < datetime.fromisoformat(f"{since[1]}Z") < first + 7 * DAY
    assert not_judged(output).keys() == {"Down", "MonthBefore"}


def test_seven_days_and_today_are_replayed_by_default(folder: Path, tmp_path: Path) -> None:
    """Without --from and --to, the range is seven days and the complete hours of today."""
    rules = tmp_path / "rules.yml"
    rules.write_text("groups: [{name: a, rules: [{alert: A, expr: ai_exporter_build_info}]}]")
    run = run_command("replay", *replay_flags(folder, rules=rules))
    assert run.returncode == 0, run.stderr
    found = re.search(r"in [\d.]+ days, ([\d-]+) to ([\d-]+ [\d:]+) UTC:", run.stdout)
    assert found, run.stdout
    first, end = datetime.fromisoformat(f"{found[1]}T00:00Z"), datetime.fromisoformat(f"{found[2]}Z")
    assert (midnight(end) - first).days == 7
    assert midnight(datetime.now(UTC)) - DAY <= end <= datetime.now(UTC)


def test_an_invalid_time_range_is_misuse(folder: Path) -> None:
    """Days in the future cannot be replayed: status 2."""
    run = run_command("replay", *replay_flags(folder), "--from=2999-01-01")
    assert run.returncode == 2
    assert "is not before" in run.stderr


def test_a_rule_that_promtool_rejects_is_reported_with_its_message(folder: Path, tmp_path: Path) -> None:
    """If promtool rejects the rules, its message is printed."""
    rules = tmp_path / "rules.yml"
    rules.write_text("groups: [{name: a, rules: [{alert: A, expr: 'sum('}]}]")
    run = run_command("replay", *replay_flags(folder, rules=rules), f"--from={yesterday():%Y-%m-%d}")
    assert run.returncode == 1
    assert "rejects the rules" in run.stderr
    assert "parse error" in run.stderr
