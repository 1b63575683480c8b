"""The spend lines: names, folding, and windows that move with the clock, not with the provider."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from exporter.config.configuration import load
from exporter.model import DAY, HOUR, NANO
from exporter.providers import PROVIDERS
from exporter.simulator.accounts import SimAccount
from tests.system import NOON, SPEND_NAMES, Samples, Stage, lone, midnight, play

MINUTE = timedelta(minutes=1)
Sums = Counter[tuple[str, ...]]


def crowded() -> SimAccount:
    """Return an account of eight combinations of workspace, model and tier."""
    small = lone("openai")
    models = ("gpt-5-2025-08-07", "gpt-5-mini-2025-08-07", "gpt-4.1-2025-04-14", "gpt-4o-2024-08-06")
    streams = [
        replace(one, model=model, size=one.size * (place + 1))
        for one in small.streams
        for place, model in enumerate(models)
    ]
    return replace(small, streams=tuple(streams))


def sums(samples: Samples, *labels: str) -> Sums:
    """Return every spend metric's sums over all labels but these, exact to the nano-dollar."""
    found: Sums = Counter()
    for name, series in samples.items():
        if name.startswith(SPEND_NAMES) and name.count("_") > 1:
            for one, value in series.items():
                told = dict(one)
                found[(name, *(told.get(label, "") for label in labels))] += round(value * NANO)
    return found


def label(it: Stage, metric: str, name: str) -> set[str]:
    """Return the values of a label of a metric."""
    return {dict(one).get(name, "") for one in it.samples()[metric]}


def test_a_renamed_workspace_keeps_its_series(tmp_path: Path) -> None:
    """After the next look at the names all of a workspace's past is under its new name, nothing under the old."""
    account = lone("anthropic")
    names = dict(account.workspaces)
    with play(tmp_path, replace(account, workspaces=names)) as it:
        it.settle()
        assert label(it, "ai_cost_30d_usd", "workspace") == {"Web", "Lab"}
        before = it.nano("ai_cost_month_billed_usd")
        names["wrkspc_web"] = "Shop"
        it.later(7 * HOUR)
        for metric in ("ai_cost_30d_usd", "ai_tokens_today", "ai_cost_this_hour_usd"):
            assert label(it, metric, "workspace") == {"Shop", "Lab"}
        assert it.nano("ai_cost_month_billed_usd") == before
        assert (it.nano("ai_cost_30d_usd", workspace="Shop") or 0) > (it.nano("ai_cost_30d_usd", workspace="Lab") or 0)


def test_two_workspaces_of_one_name_stay_apart(tmp_path: Path) -> None:
    """They are told by the tails of their ids, each with its own money."""
    account = replace(lone("openai"), workspaces={"proj_web": "Team", "proj_lab": "Team"})
    with play(tmp_path, account) as it:
        it.settle()
        assert label(it, "ai_cost_30d_usd", "workspace") == {"Team (oj_web)", "Team (oj_lab)"}
        assert label(it, "ai_tokens_today", "workspace") == {"Team (oj_web)", "Team (oj_lab)"}
        tokens = sum(n for (_, _, _, tier, _), n in it.told("today")[0].items() if tier == "batch")
        assert it.value("ai_tokens_today", workspace="Team (oj_lab)") == tokens


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_archived_workspaces_keep_their_names(tmp_path: Path, provider: str) -> None:
    """The money of a workspace that was archived is shown under its name."""
    account = lone("openai" if provider == "openai" else "anthropic")
    with play(tmp_path, replace(account, archived=frozenset(account.workspaces))) as it:
        it.settle()
        assert label(it, "ai_cost_30d_usd", "workspace") == {"Web", "Lab"}


@pytest.mark.parametrize("fault", ["server_error", "malformed", "missing_scope", "rate_limited"])
def test_names_that_cannot_be_read_do_not_stop_the_use(tmp_path: Path, fault: str) -> None:
    """Whatever happens to the list of workspaces, their use is read, and shown by id until there are names."""
    with play(tmp_path, lone("openai")) as it:
        it.simulator.fault("solo", fault, path="/projects")
        it.settle()
        for _ in range(4):
            it.later(5 * MINUTE)
        assert label(it, "ai_cost_today_usd", "workspace") == {"proj_web", "proj_lab"}
        assert it.value("ai_account_last_success_timestamp_seconds", report="completions") == it.clock.now.timestamp()
        assert it.value("ai_account_up") == (1 if fault == "missing_scope" else 0)

        it.simulator.clear()
        it.later(DAY)
        assert label(it, "ai_cost_today_usd", "workspace") == {"Web", "Lab"}
        assert it.value("ai_account_up") == 1


def test_folding_keeps_every_sum(tmp_path: Path) -> None:
    """Above max_series the small ones are shown together; by workspace and by type every sum stays the same."""
    with play(tmp_path, crowded()) as it:
        it.settle()
        whole = it.samples()
        assert it.value("ai_account_folded_series") == 0
        it.change("solo", lambda account: replace(account, max_series=3))
        folded = it.samples()

        assert it.value("ai_account_folded_series") == 5
        for labels in ((), ("workspace",), ("type",), ("date",), ("workspace", "type")):
            assert sums(folded, *labels) == sums(whole, *labels)
        kept = sorted(whole["ai_cost_30d_usd"].items(), key=lambda one: -one[1])[:3]
        for name in ("ai_cost_30d_usd", "ai_cost_this_hour_usd"):
            rest = set(folded[name]) - {one for one, _ in kept}
            assert len(folded[name]) == 3 + len(rest) <= 5
            assert {dict(one)["model"] for one in rest} == {"other"}
        assert dict(folded["ai_cost_30d_usd"]).items() >= dict(kept).items()


def test_an_account_may_show_its_api_keys(tmp_path: Path) -> None:
    """With labels: [api_key] spend is told by key too, under the keys' names, and every sum stays the same."""
    (tmp_path / "without").mkdir()
    (tmp_path / "with").mkdir()
    told = []
    for folder, labels in (("without", ()), ("with", ("api_key",))):
        streams = lone("openai").streams
        again = replace(streams[0], api_key="key_canary")
        with play(tmp_path / folder, replace(lone("openai"), streams=(*streams, again))) as it:
            it.change("solo", lambda account, shown=labels: replace(account, labels=frozenset(shown)))  # type: ignore[misc]
            it.settle()
            told.append(it.samples())
            keys = {"web-production", "lab-notebook", "key_canary"} if labels else {""}
            for metric in ("ai_cost_30d_usd", "ai_tokens_today", "ai_requests_last_hour"):
                assert label(it, metric, "api_key") == keys
    without, keyed = (sums(one, "workspace", "model", "tier", "type") for one in told)
    assert without.keys() == keyed.keys()
    for name, value in without.items():
        # An open hour's estimate is rounded once per key.
        assert abs(keyed[name] - value) <= (100 if "cost" in name[0] else 0)
    assert told[0]["ai_cost_month_billed_usd"] == told[1]["ai_cost_month_billed_usd"]


def quiet(it: Stage) -> Samples:
    """Read everything once, then let the provider fail for ever; return what was shown."""
    it.settle()
    shown = it.samples()
    it.simulator.fault("solo", "server_error")
    return shown


def all_zero(samples: Samples, metric: str) -> bool:
    """Tell whether a metric has series, and all of them are 0."""
    return bool(samples[metric]) and not any(samples[metric].values())


def test_an_hour_turns_without_a_provider(tmp_path: Path) -> None:
    """When the clock passes an hour, the running hour begins at 0 for every series; nothing else changes."""
    with play(tmp_path, lone("anthropic")) as it:
        before = quiet(it)
        it.later(midnight(NOON) + 13 * HOUR - it.clock.now - timedelta(seconds=1))
        assert it.samples()["ai_cost_this_hour_usd"] == before["ai_cost_this_hour_usd"]
        it.later(timedelta(seconds=1))
        after = it.samples()
        assert all_zero(after, "ai_cost_this_hour_usd")
        for name in before:
            if name.startswith(SPEND_NAMES):
                assert after[name].keys() == before[name].keys()
                assert name == "ai_cost_this_hour_usd" or after[name] == before[name]


def test_midnight_passes_without_a_provider(tmp_path: Path) -> None:
    """Today begins at 0 for every series; the day that was is kept, and the new one is not claimed to cost nothing."""
    with play(tmp_path, lone("anthropic")) as it:
        before = quiet(it)
        it.later(midnight(NOON) + DAY - it.clock.now)
        after = it.samples()
        for name in ("ai_cost_today_usd", "ai_tokens_today"):
            assert all_zero(after, name)
            assert after[name].keys() == before[name].keys()
        for name in ("ai_cost_month_usd", "ai_cost_30d_usd", "ai_tokens_month", "ai_tokens_30d"):
            assert after[name] == before[name]
        assert after["ai_cost_daily_usd"].items() >= before["ai_cost_daily_usd"].items()

        it.simulator.clear()
        it.later(20 * MINUTE)
        assert it.nano("ai_cost_daily_usd", date="2026-11-19") == it.nano("ai_cost_today_usd")
        assert not all_zero(it.samples(), "ai_cost_today_usd")


def test_a_day_that_nobody_was_asked_about_is_not_shown_as_free(tmp_path: Path) -> None:
    """In an outage of days, ai_cost_daily_usd holds the days that were told, and no others at 0."""
    with play(tmp_path, lone("anthropic")) as it:
        before = quiet(it)
        it.later(3 * DAY)
        assert it.samples()["ai_cost_daily_usd"].keys() == before["ai_cost_daily_usd"].keys()


def test_a_month_ends_without_a_provider(tmp_path: Path) -> None:
    """The new month begins at 0, its billed part too, while the last 30 days still hold what was."""
    with play(tmp_path, lone("anthropic")) as it:
        before = quiet(it)
        it.later(datetime(2026, 12, 1, tzinfo=UTC) - it.clock.now)
        after = it.samples()
        for name in ("ai_cost_month_usd", "ai_tokens_month", "ai_cost_today_usd"):
            assert all_zero(after, name)
            assert after[name].keys() == before[name].keys()
        assert it.nano("ai_cost_month_billed_usd") == 0
        assert after["ai_tokens_30d"] == before["ai_tokens_30d"]
        assert it.nano("ai_cost_30d_usd") == it.nano("ai_cost_daily_usd")


def test_what_is_older_than_thirty_days_leaves(tmp_path: Path) -> None:
    """The last 30 days lose a day at each midnight, and a series goes when its last use has left them."""
    with play(tmp_path, lone("anthropic")) as it:
        quiet(it)
        it.later(midnight(NOON) + 29 * DAY - it.clock.now)
        day = it.nano("ai_cost_daily_usd", date="2026-11-18")
        assert it.nano("ai_cost_30d_usd") == day
        assert day
        it.later(DAY)
        gone = it.samples()
        assert "ai_cost_daily_usd" in gone
        for window in ("this_hour", "today", "month", "30d"):
            assert f"ai_cost_{window}_usd" not in gone
            assert f"ai_tokens_{window}" not in gone
        assert it.nano("ai_cost_daily_usd", date="2026-11-18") == day
        it.later(5 * DAY)
        assert it.nano("ai_cost_daily_usd", date="2026-11-18") is None


def test_an_hour_of_last_month_is_not_the_last_hour(tmp_path: Path) -> None:
    """After thirty days without any use told, the newest complete hour leaves the page with all other series."""
    with play(tmp_path, lone("anthropic")) as it:
        quiet(it)
        it.later(31 * DAY)
        assert "ai_cost_last_hour_usd" not in it.samples()
        assert "ai_tokens_last_hour" not in it.samples()


def test_a_removed_account_leaves_and_comes_back_with_its_past(tmp_path: Path) -> None:
    """Without it in the configuration its series are gone; with it again they are there before anyone is asked."""
    with play(tmp_path, lone("openai", "stays"), lone("anthropic", "goes")) as it:
        it.settle()
        both, stays, before = it.config, it.app._members["stays"], it.samples()
        it.app.apply(replace(both, accounts=both.accounts[:1]))
        it.settle()
        ours = [one for name, series in it.samples().items() if name.startswith("ai_") for one in series]
        assert not [one for one in ours if ("account", "goes") in one]
        assert [one for one in ours if ("account", "stays") in one]

        it.simulator.requests.clear()
        it.app.apply(both)
        assert {name: series for name, series in it.spend().items() if series} == {
            name: series for name, series in before.items() if name.startswith(SPEND_NAMES)
        }
        it.settle()
        assert it.simulator.requests == []
        assert it.value("ai_account_up", account="goes") == 1
        assert it.app._members["stays"] is stays
        polls = "ai_account_polls_total"
        assert it.value(polls, account="stays") == sum(
            value for one, value in before[polls].items() if ("account", "stays") in one
        )


def test_an_account_of_another_owner_goes_on_under_its_new_name(tmp_path: Path) -> None:
    """A renamed owner is shown at once; its account and the others go on, and nothing is asked again."""
    with play(tmp_path, lone("openai", "stays"), lone("anthropic", "changes")) as it:
        it.settle()
        stays, changes = it.app._members["stays"], it.app._members["changes"]
        it.simulator.requests.clear()
        it.change("changes", lambda account: replace(account, owner="research"))
        it.settle()
        assert it.app._members["stays"] is stays
        assert it.app._members["changes"] is changes
        assert it.value("ai_account_info", account="changes", owner="research") == 1
        assert it.value("ai_account_info", account="changes", owner="platform") is None
        assert it.simulator.requests == []


def test_an_account_that_only_moved_in_its_file_goes_on(tmp_path: Path) -> None:
    """A line added further up changes where an account stands, and nothing else: its counters go on."""
    with play(tmp_path, lone("anthropic")) as it:
        it.settle()
        member, polls = it.app._members["solo"], it.value("ai_account_polls_total", account="solo")
        path = it.config.path
        path.write_text("# The accounts of our platform.\n" + path.read_text())
        assert it.app.reload(lambda: load(path, PROVIDERS)) == ""
        assert it.value("ai_account_polls_total", account="solo") == polls
        assert it.app._members["solo"] is member
