"""The spend lines: names, folding, and windows that move with the clock, not with the provider."""

from __future__ import annotations

from collections import Counter
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from exporter.config.configuration import load
from exporter.model import DAY, HOUR, NANO
from exporter.providers import PROVIDERS
from exporter.simulator.accounts import ExtraCharge, SimAccount
from exporter.simulator.billing_terms import LineDelay
from exporter.simulator.world import World
from tests.system import (
    NOON,
    SPEND_PREFIXES,
    Clock,
    Samples,
    System,
    make_account,
    midnight,
    start_small_system,
    start_system,
)

MINUTE = timedelta(minutes=1)
Sums = Counter[tuple[str, ...]]


def make_large_account() -> SimAccount:
    """Return an account of eight combinations of workspace, model and tier."""
    small = make_account("openai")
    models = ("gpt-5-2025-08-07", "gpt-5-mini-2025-08-07", "gpt-4.1-2025-04-14", "gpt-4o-2024-08-06")
    streams = [
        replace(stream, model=model, daily_requests=stream.daily_requests * (place + 1))
        for stream in small.streams
        for place, model in enumerate(models)
    ]
    return replace(small, streams=tuple(streams))


def sum_by(samples: Samples, *labels: str) -> Sums:
    """Return every spend metric's sums over all labels but these, exact to the nano-dollar."""
    found: Sums = Counter()
    for name, series in samples.items():
        if name.startswith(SPEND_PREFIXES) and name.count("_") > 1:
            for series_labels, value in series.items():
                label_values = dict(series_labels)
                found[(name, *(label_values.get(label, "") for label in labels))] += round(value * NANO)
    return found


def label_values(system: System, metric: str, name: str) -> set[str]:
    """Return the values of a label of a metric."""
    return {dict(series).get(name, "") for series in system.samples()[metric]}


def test_a_renamed_workspace_keeps_its_series(tmp_path: Path) -> None:
    """After the next look at the names all of a workspace's past is under its new name, nothing under the old."""
    account = make_account("anthropic")
    names = dict(account.workspaces)
    with start_small_system(tmp_path, replace(account, workspaces=names)) as system:
        system.poll_until_idle()
        assert label_values(system, "ai_cost_30d_usd", "workspace") == {"Web", "Lab"}
        before = system.nano_usd("ai_cost_month_billed_usd")
        names["wrkspc_web"] = "Shop"
        system.advance(7 * HOUR)
        for metric in ("ai_cost_30d_usd", "ai_tokens_today", "ai_cost_this_hour_usd"):
            assert label_values(system, metric, "workspace") == {"Shop", "Lab"}
        assert system.nano_usd("ai_cost_month_billed_usd") == before
        assert (system.nano_usd("ai_cost_30d_usd", workspace="Shop") or 0) > (
            system.nano_usd("ai_cost_30d_usd", workspace="Lab") or 0
        )


def test_two_workspaces_of_one_name_stay_apart(tmp_path: Path) -> None:
    """They are named by the tails of their ids, each with its own money."""
    account = replace(make_account("openai"), workspaces={"proj_web": "Team", "proj_lab": "Team"})
    with start_small_system(tmp_path, account) as system:
        system.poll_until_idle()
        assert label_values(system, "ai_cost_30d_usd", "workspace") == {"Team (oj_web)", "Team (oj_lab)"}
        assert label_values(system, "ai_tokens_today", "workspace") == {"Team (oj_web)", "Team (oj_lab)"}
        tokens = sum(n for (_, _, _, tier, _), n in system.expected_totals("today")[0].items() if tier == "batch")
        assert system.value("ai_tokens_today", workspace="Team (oj_lab)") == tokens


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_archived_workspaces_keep_their_names(tmp_path: Path, provider: str) -> None:
    """The money of a workspace that was archived is shown under its name."""
    account = make_account("openai" if provider == "openai" else "anthropic")
    with start_small_system(tmp_path, replace(account, archived_workspaces=frozenset(account.workspaces))) as system:
        system.poll_until_idle()
        assert label_values(system, "ai_cost_30d_usd", "workspace") == {"Web", "Lab"}


@pytest.mark.parametrize("fault", ["server_error", "malformed", "missing_scope", "rate_limited"])
def test_names_that_cannot_be_read_do_not_stop_the_use(tmp_path: Path, fault: str) -> None:
    """Whatever happens to the list of workspaces, their use is read, and shown by id until there are names."""
    with start_small_system(tmp_path, make_account("openai")) as system:
        system.simulator.add_fault("solo", fault, path="/projects")
        system.poll_until_idle()
        for _ in range(4):
            system.advance(5 * MINUTE)
        assert label_values(system, "ai_cost_today_usd", "workspace") == {"proj_web", "proj_lab"}
        assert (
            system.value("ai_account_last_success_timestamp_seconds", report="completions")
            == system.clock.now.timestamp()
        )
        assert system.value("ai_account_up") == (1 if fault == "missing_scope" else 0)

        system.simulator.clear_faults()
        system.advance(DAY)
        assert label_values(system, "ai_cost_today_usd", "workspace") == {"Web", "Lab"}
        assert system.value("ai_account_up") == 1


def test_aggregation_keeps_every_sum(tmp_path: Path) -> None:
    """Above max_series the small ones are shown together; by workspace and by type every sum stays the same."""
    with start_small_system(tmp_path, make_large_account()) as system:
        system.poll_until_idle()
        whole = system.samples()
        assert system.value("ai_account_aggregated_series") == 0
        system.change_account("solo", lambda account: account.model_copy(update={"max_series": 3}))
        folded = system.samples()

        assert system.value("ai_account_aggregated_series") == 5
        for labels in ((), ("workspace",), ("type",), ("date",), ("workspace", "type")):
            assert sum_by(folded, *labels) == sum_by(whole, *labels)
        kept = sorted(whole["ai_cost_30d_usd"].items(), key=lambda item: -item[1])[:3]
        for name in ("ai_cost_30d_usd", "ai_cost_this_hour_usd"):
            rest = set(folded[name]) - {series for series, _ in kept}
            assert len(folded[name]) == 3 + len(rest) <= 5
            assert {dict(series)["model"] for series in rest} == {"other"}
        assert dict(folded["ai_cost_30d_usd"]).items() >= dict(kept).items()


def test_an_account_may_show_its_api_keys(tmp_path: Path) -> None:
    """With labels: [api_key] spend is shown by key too, under the keys' names, and every sum stays the same."""
    (tmp_path / "without").mkdir()
    (tmp_path / "with").mkdir()
    exported = []
    for folder, labels in (("without", ()), ("with", ("api_key",))):
        streams = make_account("openai").streams
        again = replace(streams[0], api_key="key_canary")
        with start_small_system(
            tmp_path / folder, replace(make_account("openai"), streams=(*streams, again))
        ) as system:
            update = {"labels": frozenset(labels)}
            system.change_account("solo", lambda account, update=update: account.model_copy(update=update))  # type: ignore[misc]
            system.poll_until_idle()
            exported.append(system.samples())
            keys = {"web-production", "lab-notebook", "key_canary"} if labels else {""}
            for metric in ("ai_cost_30d_usd", "ai_tokens_today", "ai_requests_last_hour"):
                assert label_values(system, metric, "api_key") == keys
    without, keyed = (sum_by(samples, "workspace", "model", "tier", "type") for samples in exported)
    assert without.keys() == keyed.keys()
    for name, value in without.items():
        # An open hour's estimate is rounded once per key.
        assert abs(keyed[name] - value) <= (100 if "cost" in name[0] else 0)
    assert exported[0]["ai_cost_month_billed_usd"] == exported[1]["ai_cost_month_billed_usd"]


def fail_after_first_poll(system: System) -> Samples:
    """Read everything once, then let the provider fail for ever; return the exported samples."""
    system.poll_until_idle()
    shown = system.samples()
    system.simulator.add_fault("solo", "server_error")
    return shown


def is_all_zero(samples: Samples, metric: str) -> bool:
    """Tell whether a metric has series, and all of them are 0."""
    return bool(samples[metric]) and not any(samples[metric].values())


def test_the_hour_changes_without_a_provider(tmp_path: Path) -> None:
    """When the clock passes an hour, the running hour begins at 0 for every series; nothing else changes."""
    with start_small_system(tmp_path, make_account("anthropic")) as system:
        before = fail_after_first_poll(system)
        system.advance(midnight(NOON) + 13 * HOUR - system.clock.now - timedelta(seconds=1))
        assert system.samples()["ai_cost_this_hour_usd"] == before["ai_cost_this_hour_usd"]
        system.advance(timedelta(seconds=1))
        after = system.samples()
        assert is_all_zero(after, "ai_cost_this_hour_usd")
        for name in before:
            if name.startswith(SPEND_PREFIXES):
                assert after[name].keys() == before[name].keys()
                assert name == "ai_cost_this_hour_usd" or after[name] == before[name]


def test_midnight_passes_without_a_provider(tmp_path: Path) -> None:
    """Today begins at 0 for every series; the day that was is kept, and the new one is not claimed to cost nothing."""
    with start_small_system(tmp_path, make_account("anthropic")) as system:
        before = fail_after_first_poll(system)
        system.advance(midnight(NOON) + DAY - system.clock.now)
        after = system.samples()
        for name in ("ai_cost_today_usd", "ai_tokens_today"):
            assert is_all_zero(after, name)
            assert after[name].keys() == before[name].keys()
        for name in ("ai_cost_month_usd", "ai_cost_30d_usd", "ai_tokens_month", "ai_tokens_30d"):
            assert after[name] == before[name]
        assert after["ai_cost_daily_usd"].items() >= before["ai_cost_daily_usd"].items()

        system.simulator.clear_faults()
        system.advance(20 * MINUTE)
        assert system.nano_usd("ai_cost_daily_usd", date="2026-11-19") == system.nano_usd("ai_cost_today_usd")
        assert not is_all_zero(system.samples(), "ai_cost_today_usd")


def test_an_unpolled_day_is_not_exported_as_zero(tmp_path: Path) -> None:
    """In an outage of days, ai_cost_daily_usd holds the days that were read, and no others at 0."""
    with start_small_system(tmp_path, make_account("anthropic")) as system:
        before = fail_after_first_poll(system)
        system.advance(3 * DAY)
        assert system.samples()["ai_cost_daily_usd"].keys() == before["ai_cost_daily_usd"].keys()


def test_a_month_ends_without_a_provider(tmp_path: Path) -> None:
    """The new month begins at 0, its billed part too, while the last 30 days still include the old month."""
    with start_small_system(tmp_path, make_account("anthropic")) as system:
        before = fail_after_first_poll(system)
        system.advance(datetime(2026, 12, 1, tzinfo=UTC) - system.clock.now)
        after = system.samples()
        for name in ("ai_cost_month_usd", "ai_tokens_month", "ai_cost_today_usd"):
            assert is_all_zero(after, name)
            assert after[name].keys() == before[name].keys()
        assert system.nano_usd("ai_cost_month_billed_usd") == 0
        assert after["ai_tokens_30d"] == before["ai_tokens_30d"]
        assert system.nano_usd("ai_cost_30d_usd") == system.nano_usd("ai_cost_daily_usd")


def test_series_older_than_thirty_days_are_removed(tmp_path: Path) -> None:
    """The last 30 days lose a day at each midnight, and a series goes when its last use has left them."""
    with start_small_system(tmp_path, make_account("anthropic")) as system:
        fail_after_first_poll(system)
        system.advance(midnight(NOON) + 29 * DAY - system.clock.now)
        day = system.nano_usd("ai_cost_daily_usd", date="2026-11-18")
        assert system.nano_usd("ai_cost_30d_usd") == day
        assert day
        system.advance(DAY)
        gone = system.samples()
        assert "ai_cost_daily_usd" in gone
        for window in ("this_hour", "today", "month", "30d"):
            assert f"ai_cost_{window}_usd" not in gone
            assert f"ai_tokens_{window}" not in gone
        assert system.nano_usd("ai_cost_daily_usd", date="2026-11-18") == day
        system.advance(5 * DAY)
        assert system.nano_usd("ai_cost_daily_usd", date="2026-11-18") is None


def test_an_hour_of_last_month_is_not_the_last_hour(tmp_path: Path) -> None:
    """After thirty days without any usage, the newest complete hour leaves the page with all other series."""
    with start_small_system(tmp_path, make_account("anthropic")) as system:
        fail_after_first_poll(system)
        system.advance(31 * DAY)
        assert "ai_cost_last_hour_usd" not in system.samples()
        assert "ai_tokens_last_hour" not in system.samples()


def test_a_removed_account_returns_with_its_history(tmp_path: Path) -> None:
    """Without it in the configuration its series are gone; with it again they are there before any request."""
    with start_small_system(tmp_path, make_account("openai", "stays"), make_account("anthropic", "goes")) as system:
        system.poll_until_idle()
        both, stays, before = system.config, system.app.polled_accounts["stays"], system.samples()
        system.app.apply(both.model_copy(update={"accounts": both.accounts[:1]}))
        system.poll_until_idle()
        ours = [
            series_labels
            for name, series in system.samples().items()
            if name.startswith("ai_")
            for series_labels in series
        ]
        assert not [series_labels for series_labels in ours if ("account", "goes") in series_labels]
        assert [series_labels for series_labels in ours if ("account", "stays") in series_labels]

        system.simulator.requests.clear()
        system.app.apply(both)
        assert {name: series for name, series in system.spend_samples().items() if series} == {
            name: series for name, series in before.items() if name.startswith(SPEND_PREFIXES)
        }
        system.poll_until_idle()
        assert system.simulator.requests == []
        assert system.value("ai_account_up", account="goes") == 1
        assert system.app.polled_accounts["stays"] is stays
        polls = "ai_account_polls_total"
        assert system.value(polls, account="stays") == sum(
            value for one, value in before[polls].items() if ("account", "stays") in one
        )


def test_an_account_of_another_owner_is_exported_under_the_new_name(tmp_path: Path) -> None:
    """A renamed owner is shown at once; its account and the others stay exported, and nothing is requested again."""
    with start_small_system(tmp_path, make_account("openai", "stays"), make_account("anthropic", "changes")) as system:
        system.poll_until_idle()
        stays, changes = system.app.polled_accounts["stays"], system.app.polled_accounts["changes"]
        system.simulator.requests.clear()
        system.change_account("changes", lambda account: account.model_copy(update={"owner": "research"}))
        system.poll_until_idle()
        assert system.app.polled_accounts["stays"] is stays
        assert system.app.polled_accounts["changes"] is changes
        assert system.value("ai_account_info", account="changes", owner="research") == 1
        assert system.value("ai_account_info", account="changes", owner="platform") is None
        assert system.simulator.requests == []


def test_an_account_that_only_moved_in_its_file_keeps_its_counters(tmp_path: Path) -> None:
    """A line added further up changes the line of an account, and nothing else: its counters keep their values."""
    with start_small_system(tmp_path, make_account("anthropic")) as system:
        system.poll_until_idle()
        member, polls = system.app.polled_accounts["solo"], system.value("ai_account_polls_total", account="solo")
        path = system.config.path
        path.write_text("# The accounts of our platform.\n" + path.read_text())
        assert system.app.reload(lambda: load(path, PROVIDERS)) == ""
        assert system.value("ai_account_polls_total", account="solo") == polls
        assert system.app.polled_accounts["solo"] is member


def test_billed_days_are_told_apart_from_estimated_ones(tmp_path: Path) -> None:
    """A day is in ai_cost_daily_billed_usd, at the same cost, from its bill on; today and yesterday are estimated."""
    with start_small_system(tmp_path, make_account("openai"), history="5d") as system:
        system.poll_until_idle()
        page = system.samples()
        billed, daily = page["ai_cost_daily_billed_usd"], page["ai_cost_daily_usd"]
        assert billed.items() <= daily.items()
        today = midnight(system.clock.now)
        estimated = {dict(series)["date"] for series in daily.keys() - billed.keys()}
        assert f"{today:%Y-%m-%d}" in estimated
        assert f"{today - 3 * DAY:%Y-%m-%d}" not in estimated
        month = {series: usd for series, usd in billed.items() if dict(series)["date"] >= f"{today:%Y-%m}-01"}
        assert sum(month.values()) == pytest.approx(system.value("ai_cost_month_billed_usd"))
        system.advance(DAY)
        later = system.samples()["ai_cost_daily_billed_usd"]
        assert len(later) == len(billed) + 1


def start_account(folder: Path, account: SimAccount, days: int = 12) -> AbstractContextManager[System]:
    """Start the exporter with an account that has used AI for some days."""
    clock = Clock()
    world = World([account], clock, start_time=midnight(NOON) - days * DAY)
    return start_system(folder, world, clock, history=f"{days}d")


def test_one_time_costs_of_the_newest_days_are_exported_by_day(tmp_path: Path) -> None:
    """A charge is exported with its day until the day is five days old; older charges and usual days are not."""
    days = [midnight(NOON) - number * DAY for number in (5, 4, 1)]
    charge = ExtraCharge("proj_web", "Onboarding", 250.0, dates=frozenset(day.date() for day in days))
    with (
        start_account(tmp_path, replace(make_account("openai"), extra_charges=(charge,))) as system,
        system.run_exporter(),
    ):
        system.poll_until_idle()
        one_time = {
            dict(labels)["date"]: value for labels, value in system.samples()["ai_cost_daily_one_time_usd"].items()
        }
        assert one_time == {f"{day:%Y-%m-%d}": 250 for day in days[1:]}
        system.advance(DAY)
        assert label_values(system, "ai_cost_daily_one_time_usd", "date") == {f"{days[-1]:%Y-%m-%d}"}


def test_days_without_a_bill_are_counted_one_day_after_it_usually_arrives(tmp_path: Path) -> None:
    """Bills that are 80 hours late are missing from 32 hours after their day on; failed polls count nothing more."""
    account = replace(make_account("openai"), line_delays=(LineDelay("*", 80 * HOUR),))
    with start_account(tmp_path, account) as system, system.run_exporter():
        system.poll_until_idle()
        # November 15 and 16. The bill of the 17th would be missing from November 19, 08:00, on.
        assert system.value("ai_account_missing_bills") == 2
        system.simulator.add_fault("solo", "server_error", path="/costs")
        system.advance(DAY)
        assert system.value("ai_account_missing_bills") == 2


def test_an_account_without_any_bill_has_no_missing_bills(tmp_path: Path) -> None:
    """Bills that never arrived are not missing, nor is that of a provider whose usage carries its cost exported."""
    account = replace(make_account("openai"), line_delays=(LineDelay("*", 1000 * HOUR),))
    with start_account(tmp_path, account) as system, system.run_exporter():
        system.poll_until_idle()
        assert system.value("ai_account_missing_bills") == 0
    (tmp_path / "cursor").mkdir()
    with start_account(tmp_path / "cursor", make_account("cursor")) as system, system.run_exporter():
        system.poll_until_idle()
        assert "ai_account_missing_bills" not in system.samples()
