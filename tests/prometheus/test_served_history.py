"""Real Prometheus servers read the past from the ledger: right for every series and day, corrected at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

import pytest

from exporter.model import DAY, HOUR, NANO, REQUESTS, TOKEN_METERS
from tests.command import run_command, wait_until
from tests.servers import VERSIONS, LabelSet, Prometheus, run_promtool, start_prometheus, write_prometheus_config
from tests.system import NOON, System, make_account, midnight, start_small_system, start_system

TODAY = midnight(NOON)
FIRST_DAY = TODAY - 30 * DAY
DAILY = "sum_over_time({}[1d] offset -1d)"
DailyValues = dict[LabelSet, dict[datetime, float]]
ServerFactory = Callable[[str], Prometheus]


@pytest.fixture(scope="module", name="system")
def _start_system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """The demo's accounts with thirty days of past, read; nothing changes any more."""
    with start_system(tmp_path_factory.mktemp("history")) as system, system.run_exporter():
        system.poll_until_idle()
        yield system


@pytest.fixture(scope="module", name="start_server")
def _start_servers(system: System, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerFactory]:
    """A Prometheus of each version that reads from the stage, started when it is first asked for."""
    folder, running = tmp_path_factory.mktemp("servers"), dict[str, Prometheus]()
    config = write_prometheus_config(folder, system.url.removeprefix("http://"))
    with ExitStack() as stack:

        def get(version: str) -> Prometheus:
            if version not in running:
                running[version] = stack.enter_context(start_prometheus(version, folder, config))
            return running[version]

        yield get


def simulated_usage(system: System, name: str) -> DailyValues:
    """Return what the simulator tells of tokens or requests: labels -> day -> units."""
    totals: dict[LabelSet, Counter[datetime]] = {}
    for account in system.world.accounts.values():
        for moment, row in system.world.reported_rows(account.name, FIRST_DAY, TODAY):
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
            totals.setdefault(series, Counter())[midnight(moment)] += row.value
    return {series: dict(days) for series, days in totals.items()}


def final_bills(system: System) -> DailyValues:
    """Return what was billed: account and workspace -> day -> nano-USD, of the days whose bill is taken as final."""
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
    """Leave out days of 0: a series of which nothing is told that day may be absent."""
    found = {series: {day: value for day, value in values.items() if value} for series, values in days.items()}
    return {series: values for series, values in found.items() if values}


@pytest.mark.parametrize("name", ["ai_hourly_tokens", "ai_hourly_requests"])
@pytest.mark.parametrize("version", VERSIONS)
def test_daily_sums_of_thirty_days_match_the_ground_truth_for_every_series(
    system: System, start_server: ServerFactory, version: str, name: str
) -> None:
    """Tokens and requests of every series and UTC day are those of the simulator, to the unit."""
    shown = start_server(version).query_daily(DAILY.format(name), FIRST_DAY, 30)
    truth = simulated_usage(system, name)
    assert drop_zeros(shown) == truth
    assert len(truth) > 50
    assert {day for days in truth.values() for day in days} == {FIRST_DAY + number * DAY for number in range(30)}


@pytest.mark.parametrize("version", VERSIONS)
def test_daily_cost_is_the_bill(system: System, start_server: ServerFactory, version: str) -> None:
    """Every billed day's hours sum to the bill, workspace by workspace, as nearly as floats add up."""
    shown = start_server(version).query_daily(
        f"sum by (account, workspace) ({DAILY.format('ai_hourly_cost_usd')})", FIRST_DAY, 30
    )
    truth = final_bills(system)
    billed = {series: {day: usd for day, usd in days.items() if day < TODAY - DAY} for series, days in shown.items()}
    assert {one: set(days) for one, days in billed.items()} == {one: set(days) for one, days in truth.items()}
    for series, days in truth.items():
        for day, nano in days.items():
            assert billed[series][day] * NANO == pytest.approx(nano, abs=10), (series, day)
    assert sum(map(len, truth.values())) > 300


@pytest.mark.parametrize("version", VERSIONS)
def test_history_has_the_labels_of_the_page(system: System, start_server: ServerFactory, version: str) -> None:
    """Every series of the last thirty days of cost is on the page under the same labels, and the other way round."""
    shown = start_server(version).query(
        "sum without () (count_over_time(ai_hourly_cost_usd[29d12h]))", system.clock.now
    )
    page = {one for one, value in system.samples()["ai_cost_30d_usd"].items() if value}
    assert {one for one in shown if ("job", "ai-spend") in one} == set()
    assert page <= set(shown)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_day_holds_exactly_its_hours(system: System, start_server: ServerFactory, version: str) -> None:
    """At midnight [1d] holds 24 samples of a series, whether ranges are closed or left-open, and every hour has one."""
    counts = start_server(version).query_daily("count_over_time(ai_hourly_cost_usd[1d] offset -1d)", FIRST_DAY, 30)
    assert {count for days in counts.values() for count in days.values()} == {24}
    steady = 'sum(sum_over_time(ai_hourly_cost_usd{account="acme-openai"}[1h]))'
    for moment in (TODAY, TODAY + 5 * HOUR):
        (hour,) = start_server(version).query(steady, moment).values()
        (instant,) = start_server(version).query('sum(ai_hourly_cost_usd{account="acme-openai"})', moment).values()
        assert hour == instant > 0


@pytest.mark.parametrize("version", VERSIONS)
def test_the_newest_sample_is_the_newest_complete_hour(
    system: System, start_server: ServerFactory, version: str
) -> None:
    """Nothing is told after an account's watermark, and the hour before it is."""
    told = start_server(version).call_api("query", query="ai_hourly_cost_usd[2d]", time=(NOON + HOUR).timestamp())
    newest: dict[str, float] = {}
    for one in told["data"]["result"]:
        account = one["metric"]["account"]
        newest[account] = max(newest.get(account, 0), one["values"][-1][0])
    assert newest == {
        name: system.window_range("last_hour", name).end.timestamp() - 0.001 for name in system.world.accounts
    }


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
    """Equal, unequal, alike and unlike select what they do for scraped series."""
    query = f"count by (account) (count_over_time(ai_hourly_cost_usd{{{matchers}}}[2d]))"
    assert {dict(one)["account"] for one in start_server(version).query(query, NOON)} == accounts


@pytest.mark.parametrize("version", VERSIONS)
def test_a_restated_day_is_right_at_the_next_query(tmp_path: Path, version: str) -> None:
    """When the provider changes the bill of a day, so does that day in Prometheus, and no other."""
    daily = f"sum({DAILY.format('ai_hourly_cost_usd')})"
    with start_small_system(tmp_path, make_account("openai"), history="6d") as system:
        system.poll_until_idle()
        config = write_prometheus_config(tmp_path, system.url.removeprefix("http://"))
        with start_prometheus(version, tmp_path, config) as start_server:
            (before,) = start_server.query_daily(daily, TODAY - 5 * DAY, 4).values()
            system.world.restate("solo", TODAY - 3 * DAY, 1.5)
            system.advance(DAY)
            (after,) = start_server.query_daily(daily, TODAY - 5 * DAY, 4).values()
    changed = {day for day in before if round(before[day], 6) != round(after[day], 6)}
    assert changed == {TODAY - 3 * DAY}
    assert after[TODAY - 3 * DAY] == pytest.approx(before[TODAY - 3 * DAY] * 1.5, rel=1e-6)


@pytest.mark.parametrize("version", VERSIONS)
def test_without_the_exporter_other_queries_work_and_history_is_warned_about(tmp_path: Path, version: str) -> None:
    """Queries of history succeed with a warning, those of scraped series as ever, and then history is back."""
    with start_small_system(tmp_path, make_account("openai")) as system:
        system.poll_until_idle()
        config = write_prometheus_config(tmp_path, system.url.removeprefix("http://"))
    with start_prometheus(version, tmp_path, config) as start_server:
        gone = start_server.call_api("query", query="sum_over_time(ai_hourly_cost_usd[30d])", time=NOON.timestamp())
        assert gone["data"]["result"] == []
        assert any("remote" in warning for warning in gone["warnings"])
        wait_until("a failed scrape", lambda: start_server.call_api("query", query="up")["data"]["result"])
        scraped = start_server.call_api("query", query='up{job="ai-spend"} or ai_cost_today_usd')
        assert not scraped.get("warnings")
        assert [one["value"][1] for one in scraped["data"]["result"]] == ["0"]


@pytest.mark.parametrize("version", VERSIONS)
def test_blocks_made_of_the_file_answer_the_same(
    system: System, start_server: ServerFactory, tmp_path: Path, version: str
) -> None:
    """What promtool makes of `history` answers the same sums as the ledger, without the exporter."""
    file, last = tmp_path / "history.om", TODAY - DAY
    flags = (f"--config.file={system.folder / 'config.yaml'}", f"--storage.path={system.folder / 'ledger'}")
    made = run_command("history", *flags, f"--from={FIRST_DAY:%Y-%m-%d}", f"--to={last:%Y-%m-%d}", f"--output={file}")
    assert made.returncode == 0, made.stderr
    make = ("tsdb", "create-blocks-from", "openmetrics", "--max-block-duration=36h")
    blocks = run_promtool(version, *make, str(file), str(tmp_path / "db"))
    assert blocks.returncode == 0, blocks.stderr
    config = tmp_path / "alone.yml"
    config.write_text("global: {scrape_interval: 15s}\n")
    with start_prometheus(version, tmp_path, config, data=tmp_path / "db") as alone:
        for name in ("ai_hourly_cost_usd", "ai_hourly_tokens", "ai_hourly_requests"):
            kept = alone.query_daily(DAILY.format(name), FIRST_DAY, 30)
            assert kept == start_server(version).query_daily(DAILY.format(name), FIRST_DAY, 30)
            assert len(kept) > 50
