"""The dashboards: current, complete, and with data for each panel's queries in a real Prometheus."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from exporter.config.configuration import Budget, BudgetMatch
from exporter.metrics.families import FAMILIES
from exporter.model import DAY, HOUR
from exporter.simulator.world import demo_world, start_incident
from exporter.windows import floor
from grafana.build import DASHBOARD_SPECS, DASHBOARDS_FOLDER, render_files
from grafana.dashboard_sources.shared import RUNBOOKS
from tests.command import wait_until
from tests.paths import ROOT
from tests.prometheus.test_rules import RECORDING_RULES
from tests.servers import VERSIONS, Prometheus, start_prometheus, write_prometheus_config
from tests.system import Clock, System, start_system

DASHBOARDS: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text()) for path in sorted(DASHBOARDS_FOLDER.glob("*.json"))
}
PANELS = [
    (uid, panel)
    for uid, board in DASHBOARDS.items()
    for shown in board["panels"]
    for panel in (shown, *shown.get("panels", ()))
    if panel["type"] != "row"
]
"""Every panel with its dashboard's uid, those of collapsed rows included."""
each_panel = pytest.mark.parametrize(("uid", "panel"), PANELS, ids=[f"{uid}-{panel['title']}" for uid, panel in PANELS])
GROUPS = ("provider", "owner", "account", "workspace", "model", "tier")
EXTERNAL_METRICS = {"ALERTS", "ALERTS_FOR_STATE", "process_resident_memory_bytes", "process_cpu_seconds_total"}
EXTERNAL_METRICS |= {"scrape_duration_seconds", "scrape_samples_scraped"}
LAST_START_MINUTE = 57
"""The minute of an hour from which on the servers wait for the next hour: at most three minutes."""
FIRING_QUERY = 'ALERTS{alertname="AIBudgetExceeded",alertstate="firing"}'
FUNCTIONS = {"label_replace", "sum_over_time", "last_over_time", "days_in_month", "day_of_month", "day_of_week"}
FUNCTIONS |= {"group_left"}
EMPTY_IN_DEMO = {
    "New models",
    "Change event",
    "vs. last week",
    "Balance (USD)",
    "Used up in",
    "Balance over time",
}
"""Panels, columns and comparisons without data in the demo: it has no new models, change events and prepaid accounts,
and there is nothing to compare before the first hour of a day is complete."""


def test_the_dashboards_are_current() -> None:
    """grafana/dashboards contains exactly the files that grafana/build.py generates."""
    rendered = dict(render_files())
    assert set(rendered) == set(DASHBOARDS_FOLDER.glob("*"))
    for path, text in rendered.items():
        assert path.read_text() == text, "run make dashboards"


@pytest.mark.parametrize("uid", DASHBOARDS)
def test_a_dashboard_can_be_linked_to(uid: str) -> None:
    """A dashboard has a fixed uid and tag, UTC, a data source variable, links to the others, and alert annotations."""
    board = DASHBOARDS[uid]
    assert board["uid"] == uid
    assert board["tags"] == ["ai-spend"]
    assert board["timezone"] == "utc"
    assert board["title"]
    assert board["description"]
    assert board["templating"]["list"][0]["type"] == "datasource"
    (link,) = board["links"]
    assert (link["includeVars"], link["keepTime"], link["tags"]) == (True, False, ["ai-spend"])
    assert any("ALERTS" in annotation.get("expr", "") for annotation in board["annotations"]["list"])
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))


def test_links_between_dashboards_pass_valid_selections() -> None:
    """A dashboard link passes every variable on, so a variable that exists in several can select all in each."""
    accepts_all: dict[str, set[bool]] = {}
    for board in DASHBOARDS.values():
        for variable in board["templating"]["list"]:
            accepts_all.setdefault(variable["name"], set()).add(bool(variable.get("includeAll")))
    assert {name: values for name, values in accepts_all.items() if len(values) > 1} == {}


def test_every_link_of_an_alert_opens_a_dashboard() -> None:
    """Every dashboard that an alert links to exists and has the variables that the link sets."""
    for path in (ROOT / "prometheus" / "rules").glob("*.yml"):
        for uid, rest in re.findall(r"/d/([a-z-]+)(\S*?)'", path.read_text()):
            names = {variable["name"] for variable in DASHBOARDS[uid]["templating"]["list"]}
            assert set(re.findall(r"var-(\w+)=", rest)) <= names, (path.name, uid)


@each_panel
def test_a_panel_explains_itself(uid: str, panel: dict[str, Any]) -> None:
    """A panel has a title, a description and a unit, and its description explains colours that depend on thresholds."""
    del uid
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    colours = {step["color"] for step in panel["fieldConfig"]["defaults"].get("thresholds", {}).get("steps", ())}
    if panel["type"] in ("stat", "bargauge") and len(colours) > 1:
        assert re.search(r"[Oo]range|[Rr]ed|0:", panel["description"])
    assert panel["datasource"]["uid"] == "${datasource}"


@each_panel
def test_a_daily_panel_has_daily_steps(uid: str, panel: dict[str, Any]) -> None:
    """Queries that sum days have steps of exactly a day, because any other step would shift the bars."""
    del uid
    for target in panel["targets"]:
        if "[1d] offset -1d" in target["expr"]:
            assert target["interval"] == "1d"
            # A tile's other query has a step of its own.
            assert panel["type"] == "stat" or panel["interval"] == "1d"


@each_panel
def test_a_panel_queries_only_existing_metrics(uid: str, panel: dict[str, Any]) -> None:
    """Every metric in a query is an exported metric, a recorded one, or one of Prometheus itself."""
    del uid
    for target in panel["targets"]:
        expr = re.sub(
            r'\$\{[^}]*\}|\$\w+|"[^"]*"|\{[^}]*\}|\[[^]]*\]|(on|by|group_left) \([^)]*\)', " ", target["expr"]
        )
        names = set(re.findall(r"[a-zA-Z_][\w:]*_[\w:]+|ALERTS", expr)) - FUNCTIONS
        assert names <= {family.name for family in FAMILIES} | RECORDING_RULES | EXTERNAL_METRICS


@dataclass(frozen=True)
class DashboardServer:
    """A running Prometheus, and the values of the dashboards' variables."""

    server: Prometheus
    accounts: str
    time: datetime
    """The time of the exporter's clock, which stands still."""

    @property
    def now(self) -> datetime:
        """The present, or the end of the exporter's running hour: in the next hour its gauges are of the past."""
        return min(datetime.now(UTC), floor(self.time, HOUR) + HOUR - timedelta(seconds=1))

    def expand_variables(
        self, expr: str, group: str = "provider", step: timedelta = HOUR, end: datetime | None = None
    ) -> str:
        """Return an expression with the value of every variable, for a time range that ends now or at `end`."""
        seconds = int(step.total_seconds())
        values = {
            "account": self.accounts,
            "group_by": group,
            "__rate_interval": "1m",
            "__interval": f"{seconds}s",
            "__interval_ms": str(1000 * seconds),
            "__range": "30d",
            "__to": str(int(1000 * (end or self.now).timestamp())),
        }
        expr = expr.replace("${__to:date:seconds}", str(int(values["__to"]) // 1000))
        return re.sub(r"\$(\w+)", lambda match: values.get(match[1], ".*"), expr)

    def query_panel(self, target: dict[str, Any], group: str = "provider") -> list[dict[str, Any]]:
        """Run a panel's query as Grafana does, and return the series."""
        now = self.now
        step = {"1d": DAY, "6h": 6 * HOUR, "1h": HOUR}.get(target.get("interval", ""), timedelta(seconds=15))
        expr = self.expand_variables(target["expr"], group, step, now)
        if target.get("instant"):
            answer = self.server.call_api("query", query=expr, time=now.timestamp())
        else:
            first = floor(now, DAY) - 3 * DAY if step > timedelta(minutes=1) else now - timedelta(seconds=60)
            answer = self.server.call_api(
                "query_range", query=expr, start=first.timestamp(), end=now.timestamp(), step=step.total_seconds()
            )
        assert not answer.get("warnings"), answer
        series: list[dict[str, Any]] = answer["data"]["result"]
        return series


@pytest.fixture(name="dashboard_servers", scope="module")
def _start_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, DashboardServer]]:
    """Run every version of Prometheus on the demo's accounts, with a spike, a nearly spent and an exceeded budget."""
    # Prometheus has to scrape in the hour of the exporter's clock, which stands still.
    while datetime.now(UTC).minute >= LAST_START_MINUTE:
        time.sleep(1)
    folder, clock = tmp_path_factory.mktemp("dashboards"), Clock(datetime.now(UTC))
    world = demo_world(clock)
    start_incident(world)
    with ExitStack() as stack:
        # Two weeks for baselines and comparisons with the week before; reading more only takes longer.
        system: System = stack.enter_context(start_system(folder, world, clock, history="16d"))
        exceeded = Budget(
            name="exceeded", owner="research", period="month", limit_usd=Decimal(1), match=BudgetMatch(owner="research")
        )
        stack.enter_context(system.run_exporter())
        system.poll_until_idle()
        month = system.value("ai_cost_month_usd") or 0
        nearly_spent = Budget(
            name="nearly-spent", owner="platform", period="month", limit_usd=Decimal(round(month * 1.01))
        )
        system.config = system.config.model_copy(update={"budgets": (nearly_spent, exceeded)})
        system.app.apply(system.config)
        servers: dict[str, DashboardServer] = {}
        for version in VERSIONS:
            (folder / version).mkdir()
            config = write_prometheus_config(folder / version, system.url.removeprefix("http://"), rules=True)
            server = stack.enter_context(start_prometheus(version, folder / version, config))
            servers[version] = DashboardServer(server, "|".join(system.world.accounts), clock.now)
        for running in servers.values():
            wait_until("an alert", partial(_is_alert_firing, running.server), 40)
        yield servers


def _is_alert_firing(server: Prometheus) -> bool:
    return bool(server.query(FIRING_QUERY, datetime.now(UTC)))


@pytest.fixture(name="dashboard_server", params=VERSIONS)
def _select_server(request: pytest.FixtureRequest, dashboard_servers: dict[str, DashboardServer]) -> DashboardServer:
    return dashboard_servers[request.param]


@each_panel
def test_a_panel_shows_data_in_the_demo(uid: str, panel: dict[str, Any], dashboard_server: DashboardServer) -> None:
    """Each query of each panel succeeds without a warning and returns data."""
    del uid
    assert panel["targets"]
    for target in panel["targets"]:
        series = dashboard_server.query_panel(target)
        names = {panel["title"], target["legendFormat"], _column_heading(panel, target["refId"])}
        assert series or names & EMPTY_IN_DEMO, target["expr"]


def _column_heading(panel: dict[str, Any], ref_id: str) -> str:
    """Return the heading of a table's column by the name of its query; empty in other panels."""
    for transformation in panel.get("transformations", ()):
        if "renameByName" in transformation["options"]:
            return str(transformation["options"]["renameByName"].get(f"Value #{ref_id}", ""))
    return ""


def test_sums_do_not_depend_on_how_they_are_grouped(dashboard_server: DashboardServer) -> None:
    """The cost has the same total for every hour, however it is grouped."""
    (panel,) = (panel for uid, panel in PANELS if uid == "ai-spend" and panel["title"].startswith("Cost by"))
    sums = []
    for group in GROUPS:
        days: dict[float, float] = {}
        for series in dashboard_server.query_panel(panel["targets"][0], group):
            for timestamp, value in series["values"]:
                days[timestamp] = days.get(timestamp, 0) + float(value)
        sums.append(days)
    assert len(sums[0]) >= 3
    for days in sums[1:]:
        assert days == {timestamp: pytest.approx(value, rel=1e-9) for timestamp, value in sums[0].items()}


WIDTHS = (450, 690, 1840)
"""Pixels, and so the most data points, of a panel: a narrow one, half of a screen, and a wide screen."""
RANGES = (timedelta(hours=1), DAY, 7 * DAY, 30 * DAY, 90 * DAY)
NICE_STEPS = [timedelta(seconds=seconds) for seconds in (15, 20, 30, 60, 120, 300, 600, 900, 1200, 1800)]
NICE_STEPS += [timedelta(hours=hours) for hours in (1, 2, 3, 6, 12, 24, 168)]
"""The intervals to which Grafana rounds."""


def grafana_interval(time_range: timedelta, width: int, minimum: timedelta) -> timedelta:
    """Return the interval of a panel, of which its width in pixels has at least one each."""
    exact = time_range / width
    below = [step for step in NICE_STEPS if step <= exact]
    above = next(step for step in NICE_STEPS if step > exact)
    # Grafana rounds to the nearer of the two.
    rounded = above if not below or exact >= (below[-1] + above) / 2 else below[-1]
    return max(rounded, minimum)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("time_range", RANGES, ids=str)
def test_totals_do_not_depend_on_the_time_range_and_the_width(
    dashboard_server: DashboardServer, time_range: timedelta, width: int
) -> None:
    """The bars of any range at any width sum to the hours that they cover, the running one included, without a hole."""
    (panel,) = (panel for uid, panel in PANELS if uid == "ai-spend" and panel["title"].startswith("Cost by"))
    now = dashboard_server.now
    step = grafana_interval(time_range, width, HOUR)
    start = floor(now - time_range, step)
    bars = _bars(dashboard_server, panel["targets"][0]["expr"], start, now, step)
    hours = int((floor(now, HOUR) - start) / HOUR)
    ended = dashboard_server.server.query(
        f"sum(sum_over_time(ai_hourly_cost_usd[{hours}h]))" if hours else "vector(0)", floor(now, HOUR)
    )
    (running,) = dashboard_server.server.query("sum(ai_cost_this_hour_usd)", now).values()
    assert sum(bars.values()) == pytest.approx(sum(ended.values()) + running, rel=1e-9)
    # The demo has cost in every hour of its sixteen days.
    known = max(start, floor(now - 15 * DAY, step) + step)
    expected = [known + number * step for number in range(int((now - known) / step) + 1)]
    assert [time for time in sorted(bars) if time >= known] == expected


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("time_range", RANGES, ids=str)
def test_tokens_do_not_depend_on_the_time_range_and_the_width(
    dashboard_server: DashboardServer, time_range: timedelta, width: int
) -> None:
    """The points of the chart of tokens sum to the tokens of all ended hours that it covers."""
    (panel,) = (panel for _, panel in PANELS if panel["title"] == "Tokens by type")
    now = dashboard_server.now
    step = grafana_interval(time_range, width, HOUR)
    start = floor(now - time_range, step)
    bars = _bars(dashboard_server, panel["targets"][0]["expr"], start, now, step)
    hours = int((floor(now, HOUR) - start) / HOUR)
    ended = dashboard_server.server.query(
        f"sum(sum_over_time(ai_hourly_tokens[{hours}h]))" if hours else "vector(0)", floor(now, HOUR)
    )
    assert sum(bars.values()) == sum(ended.values())


@pytest.mark.parametrize("time_range", RANGES, ids=str)
def test_every_chart_works_at_every_time_range(dashboard_server: DashboardServer, time_range: timedelta) -> None:
    """No query of a chart fails, warns, or returns a point of the future, at a time range of an hour or of 90 days."""
    now = dashboard_server.now
    for uid, panel in PANELS:
        for target in panel["targets"]:
            if target.get("instant"):
                continue
            minimum = {"1d": DAY, "6h": 6 * HOUR, "1h": HOUR}.get(target.get("interval", ""), timedelta(seconds=15))
            step = grafana_interval(time_range, WIDTHS[1], minimum)
            start, end = floor(now - time_range, step), floor(now, step)
            answer = dashboard_server.server.call_api(
                "query_range",
                query=dashboard_server.expand_variables(target["expr"], step=step, end=now),
                start=start.timestamp(),
                end=end.timestamp(),
                step=step.total_seconds(),
            )
            where = (uid, panel["title"], target["refId"])
            assert answer["status"] == "success", (where, answer)
            assert not answer.get("warnings"), (where, answer)
            newest = [float(series["values"][-1][0]) for series in answer["data"]["result"]]
            assert all(timestamp <= now.timestamp() for timestamp in newest), where


def test_hours_days_and_windows_agree(dashboard_server: DashboardServer) -> None:
    """Hourly bars of a day sum to its daily bar; the days of the month and the last 30 days sum to their tiles."""
    server, now = dashboard_server.server, dashboard_server.now
    today = floor(now, DAY)
    (hourly,) = (panel for uid, panel in PANELS if uid == "ai-spend" and panel["title"].startswith("Cost by"))
    (daily,) = (panel for uid, panel in PANELS if panel["title"] == "Cost per day, last 35 days")
    by_date: dict[str, float] = {}
    for target in daily["targets"]:
        for series in dashboard_server.query_panel(target):
            date = series["metric"]["date"]
            by_date[date] = by_date.get(date, 0) + float(series["value"][1])
    for number in range(10):
        day = today - number * DAY
        end = min(now, day + DAY)
        bars = _bars(dashboard_server, hourly["targets"][0]["expr"], day, end, HOUR)
        total = sum(value for time, value in bars.items() if day <= time < day + DAY)
        assert total == pytest.approx(by_date[f"{day:%Y-%m-%d}"], rel=1e-9), day
    for metric, since in (("30d", today - 29 * DAY), ("month", today.replace(day=1)), ("today", today)):
        (tile,) = server.query(f"sum(ai_cost_{metric}_usd)", now).values()
        days = sum(usd for date, usd in by_date.items() if date >= f"{since:%Y-%m-%d}")
        assert tile == pytest.approx(days, rel=1e-9), metric


def test_tiles_have_the_value_of_their_gauge(dashboard_server: DashboardServer) -> None:
    """The newest value of a tile with a graph is the gauge's, although the graph is from served history."""
    now = dashboard_server.now
    for title, gauge in (
        ("Today (USD)", "ai_cost_today_usd"),
        ("This month (USD)", "ai_cost_month_usd"),
        ("Month forecast (USD)", "ai_cost_month_forecast_usd"),
    ):
        (panel,) = (panel for uid, panel in PANELS if uid == "ai-spend" and panel["title"] == title)
        step = {"1d": DAY, "6h": 6 * HOUR}[panel["targets"][0]["interval"]]
        graph = _bars(dashboard_server, panel["targets"][0]["expr"], floor(now - 10 * DAY, step), now, step)
        (value,) = dashboard_server.server.query(f"sum({gauge})", now).values()
        assert graph[max(graph)] == pytest.approx(value, rel=1e-9), title
        assert len(graph) > 10 * DAY / step - 1, title


def _bars(server: DashboardServer, expr: str, start: datetime, end: datetime, step: timedelta) -> dict[datetime, float]:
    """Return the sum of a panel's series at each step, which Grafana aligns to multiples of the step."""
    expanded = server.expand_variables(expr, step=step, end=end)
    answer = server.server.call_api(
        "query_range",
        query=expanded,
        start=start.timestamp(),
        end=floor(end, step).timestamp(),
        step=step.total_seconds(),
    )
    bars: dict[datetime, float] = {}
    for series in answer["data"]["result"]:
        for timestamp, value in series["values"]:
            time = datetime.fromtimestamp(timestamp, UTC)
            bars[time] = bars.get(time, 0) + float(value)
    return bars


@pytest.mark.parametrize("uid", DASHBOARDS)
def test_variables_find_values(uid: str, dashboard_server: DashboardServer) -> None:
    """Every variable's query finds values in scraped series, because served history cannot list label values."""
    for variable in DASHBOARDS[uid]["templating"]["list"]:
        if variable["type"] == "query":
            query = variable["query"]
            selector, label = re.fullmatch(r"label_values\((.*), (\w+)\)", query).groups()  # type: ignore[union-attr]
            answer = dashboard_server.server.call_api(
                f"label/{label}/values", **{"match[]": dashboard_server.expand_variables(selector)}
            )
            assert answer["data"], variable["name"]


def test_the_folder_has_a_uid_and_a_title_of_its_own() -> None:
    """Grafana does not provision a dashboard whose uid or title is that of its folder."""
    provisioning = yaml.safe_load((ROOT / "grafana" / "provisioning" / "dashboards" / "ai-spend.yml").read_text())
    (provider,) = provisioning["providers"]
    dashboards = [json.loads(path.read_text()) for path in sorted((ROOT / "grafana" / "dashboards").glob("*.json"))]
    uids = [provider["folderUid"], *(dashboard["uid"] for dashboard in dashboards)]
    titles = [provider["folder"], *(dashboard["title"] for dashboard in dashboards)]
    assert len(set(uids)) == len(uids) > 1
    assert len(set(titles)) == len(titles)


@each_panel
def test_instant_queries_show_the_present(uid: str, panel: dict[str, Any]) -> None:
    """Grafana aligns an instant query's time to the panel's step: a short range or many points keep it to minutes."""
    del uid
    if any(target.get("instant") for target in panel["targets"]):
        time_range = {"1h": HOUR, "30d": 30 * DAY}[panel["timeFrom"]]
        assert panel["hideTimeOverride"]
        assert time_range / panel.get("maxDataPoints", 100) < timedelta(minutes=5)


LINK = re.compile(r"/d/([a-z-]+)\?(\S*)")
FIXED_VARIABLES = {"group_by"}


@each_panel
def test_a_link_opens_an_existing_page(uid: str, panel: dict[str, Any]) -> None:
    """A link of a value opens a dashboard that exists, with variables that it has, a runbook, or a silence's form."""
    del uid
    overrides = panel["fieldConfig"]["overrides"]
    properties = [item for override in overrides for item in override["properties"] if item["id"] == "links"]
    links = [
        *panel["fieldConfig"]["defaults"].get("links", ()),
        *(link for item in properties for link in item["value"]),
    ]
    for link in links:
        assert link["title"]
        found = LINK.match(link["url"])
        if found is None:
            assert link["url"].startswith((f"{RUNBOOKS}#", "/alerting/silence/new?alertmanager=Alertmanager"))
            continue
        names = {variable["name"] for variable in DASHBOARDS[found[1]]["templating"]["list"]}
        for name in re.findall(r"var-([^=]+)=", found[2]):
            wanted = set(GROUPS) - {"owner"} if name == "${group_by}" else {name}
            # A group that the dashboard has no variable for is shown unfiltered.
            assert wanted & names or name in FIXED_VARIABLES, (link["url"], name)


def test_every_table_of_accounts_or_workspaces_links_to_them() -> None:
    """From each row a click leads to the account, the workspace, the budget or the alert."""
    for uid, panel in PANELS:
        if panel["type"] == "table":
            assert '"id": "links"' in json.dumps(panel["fieldConfig"]["overrides"]), (uid, panel["title"])


def test_charts_without_a_bound_are_limited() -> None:
    """A chart of scraped series by account or workspace shows the largest ones, because there may be a thousand."""
    for uid, panel in PANELS:
        for target in panel["targets"]:
            by_account = re.search(r"sum by \((account|account, workspace|account, report)\)", target["expr"])
            if by_account and uid in ("ai-spend", "ai-spend-telemetry", "ai-spend-signals"):
                assert re.search(r"topk\(", target["expr"]), (uid, panel["title"])


def test_provisioning_includes_every_dashboard() -> None:
    """Every dashboard has a file in the folder that docker-compose.yml mounts and Grafana's provisioning reads."""
    assert {dashboard.uid for dashboard in DASHBOARD_SPECS} == set(DASHBOARDS)
    assert "/etc/grafana/dashboards" in (ROOT / "grafana" / "provisioning" / "dashboards" / "ai-spend.yml").read_text()
    assert "./grafana/dashboards:/etc/grafana/dashboards:ro" in (ROOT / "docker-compose.yml").read_text()
    assert isinstance(DASHBOARDS_FOLDER, Path)
