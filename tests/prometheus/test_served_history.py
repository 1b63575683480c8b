"""Real Prometheus servers read past hours from the ledger: every series and day is correct, and restated at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

import pytest

from exporter.metrics.families import HOURLY_SAMPLE_LEAD
from exporter.model import DAY, HOUR, NANO, REQUESTS, TOKEN_METERS
from tests.command import run_command, start_exporter, start_sandbox, wait_until
from tests.servers import (
    UNUSED_ADDRESS,
    VERSIONS,
    LabelSet,
    Prometheus,
    run_promtool,
    start_prometheus,
    write_prometheus_config,
)
from tests.system import NOON, System, make_account, midnight, start_small_system, start_system

TODAY = midnight(NOON)
FIRST_DAY = TODAY - 30 * DAY
EXPORT_DAYS = 10
EXPORT_START = TODAY - EXPORT_DAYS * DAY
DAILY = "sum_over_time({}[1d] offset -1d)"
DailyValues = dict[LabelSet, dict[datetime, float]]
ServerFactory = Callable[[str], Prometheus]


@pytest.fixture(scope="module", name="system")
def _start_system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Run an exporter that has polled thirty days of the demo's accounts; nothing changes afterwards."""
    with start_system(tmp_path_factory.mktemp("history")) as system, system.run_exporter():
        system.poll_until_idle()
        yield system


@pytest.fixture(scope="module", name="start_server")
def _start_servers(system: System, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerFactory]:
    """Yield a function that returns a Prometheus of a version on the exporter, started at the first call."""
    folder, running = tmp_path_factory.mktemp("servers"), dict[str, Prometheus]()
    config = write_prometheus_config(folder, system.url.removeprefix("http://"))
    with ExitStack() as stack:

        def get(version: str) -> Prometheus:
            if version not in running:
                running[version] = stack.enter_context(start_prometheus(version, folder, config))
            return running[version]

        yield get


def simulated_usage(system: System, name: str) -> DailyValues:
    """Return tokens or requests according to the simulator: labels -> day -> units."""
    totals: dict[LabelSet, Counter[datetime]] = {}
    for account in system.world.accounts.values():
        for hour, row in system.world.reported_rows(account.name, FIRST_DAY, TODAY):
            if row.meter not in (TOKEN_METERS if name == "ai_hourly_tokens" else {REQUESTS}):
                continue
            labels = {
                "provider": account.provider,
                "account": account.name,
                "workspace": system.workspace_name(account.name, row.workspace),
                "model": row.model,
                "tier": row.tier,
                "type": row.meter if row.meter in TOKEN_METERS else "",
            }
            series = frozenset((key, value) for key, value in labels.items() if value)
            totals.setdefault(series, Counter())[midnight(hour)] += row.value
    return {series: dict(days) for series, days in totals.items()}


def final_bills(system: System) -> DailyValues:
    """Return the bills of closed days: account and workspace -> day -> nano-USD."""
    totals: dict[LabelSet, Counter[datetime]] = {}
    for account in system.world.accounts.values():
        for number in range(30):
            day = FIRST_DAY + number * DAY
            if day + 2 * DAY <= system.clock.now:
                for row in system.world.bill(account.name, day):
                    labels = {"account": account.name, "workspace": system.workspace_name(account.name, row.workspace)}
                    series = frozenset((key, value) for key, value in labels.items() if value)
                    totals.setdefault(series, Counter())[day] += row.value
    return {series: dict(days) for series, days in totals.items()}


def drop_zeros(days: DailyValues) -> DailyValues:
    """Remove days with a value of 0, because a series without usage on a day may be absent."""
    nonzero = {series: {day: value for day, value in values.items() if value} for series, values in days.items()}
    return {series: values for series, values in nonzero.items() if values}


@pytest.mark.parametrize("name", ["ai_hourly_tokens", "ai_hourly_requests"])
@pytest.mark.parametrize("version", VERSIONS)
def test_daily_sums_of_thirty_days_match_the_ground_truth_for_every_series(
    system: System, start_server: ServerFactory, version: str, name: str
) -> None:
    """Tokens and requests of every series and UTC day equal the simulator's exactly."""
    served = start_server(version).query_daily(DAILY.format(name), FIRST_DAY, 30)
    truth = simulated_usage(system, name)
    assert drop_zeros(served) == truth
    assert len(truth) > 50
    assert {day for days in truth.values() for day in days} == {FIRST_DAY + number * DAY for number in range(30)}


@pytest.mark.parametrize("version", VERSIONS)
def test_daily_cost_is_the_bill(system: System, start_server: ServerFactory, version: str) -> None:
    """The hours of every billed day sum to the bill of each workspace, to float precision."""
    served = start_server(version).query_daily(
        f"sum by (account, workspace) ({DAILY.format('ai_hourly_cost_usd')})", FIRST_DAY, 30
    )
    truth = final_bills(system)
    billed = {series: {day: usd for day, usd in days.items() if day < TODAY - DAY} for series, days in served.items()}
    assert {series: set(days) for series, days in billed.items()} == {
        series: set(days) for series, days in truth.items()
    }
    for series, days in truth.items():
        for day, nano in days.items():
            assert billed[series][day] * NANO == pytest.approx(nano, abs=10), (series, day)
    assert sum(map(len, truth.values())) > 300


@pytest.mark.parametrize("version", VERSIONS)
def test_history_has_the_labels_of_the_page(system: System, start_server: ServerFactory, version: str) -> None:
    """Served series have the labels of the exported gauges, without those of a scrape target."""
    served = start_server(version).query(
        "sum without () (count_over_time(ai_hourly_cost_usd[29d12h]))", system.clock.now
    )
    page = {series for series, value in system.samples()["ai_cost_30d_usd"].items() if value}
    assert not any(("job", "ai-spend") in series for series in served)
    assert page <= set(served)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_day_holds_exactly_its_hours(system: System, start_server: ServerFactory, version: str) -> None:
    """At midnight [1d] contains 24 samples of a series in both versions, whether ranges are closed or left-open."""
    counts = start_server(version).query_daily("count_over_time(ai_hourly_cost_usd[1d] offset -1d)", FIRST_DAY, 30)
    assert {count for days in counts.values() for count in days.values()} == {24}
    steady = 'sum(sum_over_time(ai_hourly_cost_usd{account="acme-openai"}[1h]))'
    for time in (TODAY, TODAY + 5 * HOUR):
        (hour,) = start_server(version).query(steady, time).values()
        (instant,) = start_server(version).query('sum(ai_hourly_cost_usd{account="acme-openai"})', time).values()
        assert hour == instant > 0


@pytest.mark.parametrize("version", VERSIONS)
def test_the_newest_samples_are_those_of_reported_hours(
    system: System, start_server: ServerFactory, version: str
) -> None:
    """Hours that have ended are served as far as anything is known of them; baselines up to the watermark."""
    newest = {
        name: _newest_samples(start_server(version), name)
        for name in ("ai_hourly_cost_usd", "ai_hourly_cost_upper_bound_usd")
    }
    for account in system.world.accounts:
        watermark = system.window_range("last_hour", account).end
        assert newest["ai_hourly_cost_upper_bound_usd"][account] == (watermark - HOURLY_SAMPLE_LEAD).timestamp()
        assert (watermark - HOURLY_SAMPLE_LEAD).timestamp() <= newest["ai_hourly_cost_usd"][account] < NOON.timestamp()
    assert newest["ai_hourly_cost_usd"] != newest["ai_hourly_cost_upper_bound_usd"]


def _newest_samples(server: Prometheus, name: str) -> dict[str, float]:
    """Return account -> time of its newest sample."""
    newest: dict[str, float] = {}
    for series in server.call_api("query", query=f"{name}[2d]", time=(NOON + HOUR).timestamp())["data"]["result"]:
        account = series["metric"]["account"]
        newest[account] = max(newest.get(account, 0), series["values"][-1][0])
    return newest


@pytest.mark.parametrize("version", VERSIONS)
def test_the_hours_of_today_sum_to_today(system: System, start_server: ServerFactory, version: str) -> None:
    """Ended hours from history and the running hour from its gauge are the gauge of the day, for every account."""
    server = start_server(version)
    ended = server.query("sum by (account) (sum_over_time(ai_hourly_cost_usd[12h]))", TODAY + 12 * HOUR)
    page = system.samples()
    for account in system.world.accounts:
        totals = {
            name: sum(value for series, value in page[name].items() if ("account", account) in series)
            for name in ("ai_cost_today_usd", "ai_cost_this_hour_usd")
        }
        (hours,) = (value for series, value in ended.items() if ("account", account) in series)
        assert hours + totals["ai_cost_this_hour_usd"] == pytest.approx(totals["ai_cost_today_usd"], abs=1e-7)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("matchers", "accounts"),
    [
        ('provider="openai"', {"acme-openai", "labs-openai"}),
        ('provider!="openai"', {"acme-anthropic", "research-anthropic", "acme-cursor"}),
        ('account=~"acme-.*",provider!~"cursor|openai"', {"acme-anthropic"}),
        ('account=~"(?i)ACME-.+",job=""', {"acme-openai", "acme-anthropic", "acme-cursor"}),
        ('job!=""', set()),
        ('account=~"acme"', set()),
        ('account=~"|acme-cursor"', {"acme-cursor"}),
    ],
)
def test_matchers_reach_the_ledger(
    start_server: ServerFactory, version: str, matchers: str, accounts: set[str]
) -> None:
    """All four kinds of label matchers select the same series as for scraped metrics."""
    query = f"count by (account) (count_over_time(ai_hourly_cost_usd{{{matchers}}}[2d]))"
    assert {dict(series)["account"] for series in start_server(version).query(query, NOON)} == accounts


@pytest.mark.parametrize("version", VERSIONS)
def test_a_restated_day_is_right_at_the_next_query(tmp_path: Path, version: str) -> None:
    """After a provider restates a day, the next query returns the restated day, and no other day changes."""
    daily = f"sum({DAILY.format('ai_hourly_cost_usd')})"
    with start_small_system(tmp_path, make_account("openai"), history="6d") as system:
        system.poll_until_idle()
        config = write_prometheus_config(tmp_path, system.url.removeprefix("http://"))
        with start_prometheus(version, tmp_path, config) as server:
            (before,) = server.query_daily(daily, TODAY - 5 * DAY, 4).values()
            system.world.restate("solo", TODAY - 3 * DAY, 1.5)
            system.advance(DAY)
            (after,) = server.query_daily(daily, TODAY - 5 * DAY, 4).values()
    changed = {day for day in before if round(before[day], 6) != round(after[day], 6)}
    assert changed == {TODAY - 3 * DAY}
    assert after[TODAY - 3 * DAY] == pytest.approx(before[TODAY - 3 * DAY] * 1.5, rel=1e-6)


@pytest.mark.parametrize("version", VERSIONS)
def test_without_the_exporter_other_queries_work_and_history_is_warned_about(tmp_path: Path, version: str) -> None:
    """While the exporter is unreachable, queries of history succeed with a warning and other queries without one."""
    config = write_prometheus_config(tmp_path, UNUSED_ADDRESS)
    with start_prometheus(version, tmp_path, config) as server:
        history = server.call_api("query", query="sum_over_time(ai_hourly_cost_usd[30d])", time=NOON.timestamp())
        assert history["data"]["result"] == []
        assert any("remote" in warning for warning in history["warnings"])
        wait_until("a failed scrape", lambda: server.call_api("query", query="up")["data"]["result"])
        scraped = server.call_api("query", query='up{job="ai-spend"} or ai_cost_today_usd')
        assert not scraped.get("warnings")
        assert [series["value"][1] for series in scraped["data"]["result"]] == ["0"]


def test_beyond_the_sample_limit_prometheus_returns_a_warning_and_no_data(tmp_path: Path) -> None:
    """A read of more samples than the limit is a success without data in Prometheus; its warning has the reason."""
    limit = "--storage.remote.read-sample-limit=20"
    with (
        start_sandbox(tmp_path, make_account("openai", "acme")) as sandbox,
        start_exporter(*sandbox.flags, limit) as exporter,
    ):
        exporter.wait_until_up("acme")
        config = write_prometheus_config(tmp_path, exporter.url.removeprefix("http://"))
        for version in VERSIONS:
            with start_prometheus(version, tmp_path, config) as server:
                rejected = server.call_api("query", query="sum_over_time(ai_hourly_cost_usd[2d])")
                assert rejected["data"]["result"] == []
                (warning,) = rejected["warnings"]
                assert "more than 20 samples" in warning
                assert "--storage.remote.read-sample-limit" in warning
                answered = server.call_api("query", query="sum_over_time(ai_hourly_cost_usd[6h])")
                assert answered["data"]["result"]
                assert not answered.get("warnings")


@pytest.fixture(scope="module", name="history_file")
def _export_history(system: System, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export ten days with `history`: fourteen blocks, for each of which promtool reads the file."""
    file, last = tmp_path_factory.mktemp("export") / "history.om", TODAY - DAY
    flags = (f"--config.file={system.folder / 'config.yaml'}", f"--storage.path={system.folder / 'ledger'}")
    exported = run_command(
        "history", *flags, f"--from={EXPORT_START:%Y-%m-%d}", f"--to={last:%Y-%m-%d}", f"--output={file}"
    )
    assert exported.returncode == 0, exported.stderr
    return file


@pytest.mark.parametrize("version", VERSIONS)
def test_blocks_from_the_exported_file_answer_the_same(
    start_server: ServerFactory, history_file: Path, tmp_path: Path, version: str
) -> None:
    """A database created by promtool from `history`'s file returns the same sums as the ledger."""
    subcommand = ("tsdb", "create-blocks-from", "openmetrics", "--max-block-duration=36h")
    blocks = run_promtool(version, *subcommand, str(history_file), str(tmp_path / "db"))
    assert blocks.returncode == 0, blocks.stderr
    config = tmp_path / "alone.yml"
    config.write_text("global: {scrape_interval: 15s}\n")
    with start_prometheus(version, tmp_path, config, data=tmp_path / "db") as alone:
        for name in ("ai_hourly_cost_usd", "ai_hourly_tokens", "ai_hourly_requests"):
            imported = alone.query_daily(DAILY.format(name), EXPORT_START, EXPORT_DAYS)
            assert imported == start_server(version).query_daily(DAILY.format(name), EXPORT_START, EXPORT_DAYS)
            assert len(imported) > 50
