"""The dashboards: current, complete, and with data for each panel's queries in a real Prometheus."""

from __future__ import annotations

import json
import re
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
from tests.command import wait_until
from tests.paths import ROOT
from tests.prometheus.test_rules import RECORDING_RULES
from tests.servers import VERSIONS, Prometheus, start_prometheus, write_prometheus_config
from tests.system import Clock, System, start_system

DASHBOARDS: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text()) for path in sorted(DASHBOARDS_FOLDER.glob("*.json"))
}
PANELS = [(uid, panel) for uid, board in DASHBOARDS.items() for panel in board["panels"] if panel["type"] != "row"]
each_panel = pytest.mark.parametrize(("uid", "panel"), PANELS, ids=[f"{uid}-{panel['title']}" for uid, panel in PANELS])
GROUPS = ("provider", "account", "workspace", "model")
EXTERNAL_METRICS = {"ALERTS", "ALERTS_FOR_STATE", "process_resident_memory_bytes", "process_cpu_seconds_total"}
EXTERNAL_METRICS |= {"scrape_duration_seconds", "scrape_samples_scraped"}
FIRING_QUERY = 'ALERTS{alertname="AIBudgetExceeded",alertstate="firing"}'
FUNCTIONS = {"label_replace", "sum_over_time", "last_over_time", "days_in_month", "day_of_month", "day_of_week"}
EMPTY_IN_DEMO = {"New models"}
"""Panels without data in the demo, which uses no new models."""


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
    assert (link["includeVars"], link["keepTime"], link["tags"]) == (True, True, ["ai-spend"])
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
            assert (panel["interval"], target["interval"]) == ("1d", "1d")


@each_panel
def test_a_panel_queries_only_existing_metrics(uid: str, panel: dict[str, Any]) -> None:
    """Every metric in a query is an exported metric, a recorded one, or one of Prometheus itself."""
    del uid
    for target in panel["targets"]:
        expr = re.sub(
            r'\$\{[^}]*\}|\$\w+|"[^"]*"|\{[^}]*\}|\[[^]]*\]|(on|by) \([^)]*\)|group_left \(\)', " ", target["expr"]
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
            "__to": str(int(1000 * (end or datetime.now(UTC)).timestamp())),
        }
        expr = expr.replace("${__to:date:seconds}", str(int(values["__to"]) // 1000))
        return re.sub(r"\$(\w+)", lambda match: values.get(match[1], ".*"), expr)

    def query_panel(self, target: dict[str, Any], group: str = "provider") -> list[dict[str, Any]]:
        """Run a panel's query as Grafana does, and return the series."""
        now = datetime.now(UTC)
        step = {"1d": DAY, "1h": HOUR}.get(target.get("interval", ""), timedelta(seconds=15))
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
        assert series or panel["title"] in EMPTY_IN_DEMO, target["expr"]


def test_sums_do_not_depend_on_how_they_are_grouped(dashboard_server: DashboardServer) -> None:
    """The daily cost has the same total for every day, grouped by provider, account, workspace or model."""
    (panel,) = (panel for uid, panel in PANELS if uid == "ai-spend" and panel["title"].startswith("Daily cost by"))
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


@pytest.mark.parametrize("days", [1, 7, 14])
@pytest.mark.parametrize("step_hours", [1, 2, 6])
def test_hourly_totals_do_not_depend_on_the_step(
    dashboard_servers: dict[str, DashboardServer], days: int, step_hours: int
) -> None:
    """However wide the bars are, the cost panels of whole past days sum to the days' cost, without a hole."""
    server = dashboard_servers[VERSIONS[0]]
    (panel,) = (panel for uid, panel in PANELS if uid == "ai-spend" and panel["title"].startswith("Cost by"))
    end = floor(server.time, DAY)
    shown = _sum_range(server, panel["targets"][0]["expr"], end - days * DAY, end, step_hours * HOUR)
    dates = "|".join(f"{end - number * DAY:%Y-%m-%d}" for number in range(1, days + 1))
    (total,) = server.server.query(f'sum(ai_cost_daily_usd{{date=~"{dates}"}})', datetime.now(UTC)).values()
    assert shown == pytest.approx(total, rel=1e-9)


def test_today_is_the_same_in_bars_and_tiles(dashboard_server: DashboardServer) -> None:
    """Today's bar of the daily panel is the tile, and the newest hourly bar contains the running hour once."""
    daily, hourly = (
        next(panel for uid, panel in PANELS if uid == "ai-spend" and panel["title"].startswith(title))["targets"][0]
        for title in ("Daily cost by", "Cost by")
    )
    now = datetime.now(UTC)
    (tile,) = dashboard_server.server.query("sum(ai_cost_today_usd)", now).values()
    (running,) = dashboard_server.server.query("sum(ai_cost_this_hour_usd)", now).values()
    today, hour = floor(now, DAY), floor(now, HOUR)
    assert _sum_range(dashboard_server, daily["expr"], today, now, DAY) == pytest.approx(tile)
    assert _sum_range(dashboard_server, hourly["expr"], hour, now, HOUR) == pytest.approx(running)


def _sum_range(server: DashboardServer, expr: str, start: datetime, end: datetime, step: timedelta) -> float:
    """Return the sum of a panel's bars that begin from `start` on and before `end`.

    As Grafana does, the query ends at the last step of the time range.
    """
    expanded = server.expand_variables(expr, step=step, end=end)
    last = floor(end, step)
    answer = server.server.call_api(
        "query_range", query=expanded, start=start.timestamp(), end=last.timestamp(), step=step.total_seconds()
    )
    return sum(
        float(value)
        for series in answer["data"]["result"]
        for timestamp, value in series["values"]
        if timestamp < end.timestamp()
    )


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


@pytest.mark.parametrize("uid", DASHBOARDS)
def test_instant_queries_are_evaluated_at_the_end_of_the_time_range(uid: str) -> None:
    """Grafana aligns an instant query's time to its step, which many points keep to a few minutes at 30 days."""
    for panel in DASHBOARDS[uid]["panels"]:
        for inner in (panel, *panel.get("panels", ())):
            targets = inner.get("targets", ())
            if targets and all(target.get("instant") for target in targets):
                assert timedelta(days=30) / inner["maxDataPoints"] < timedelta(minutes=5), inner["title"]


def test_provisioning_includes_every_dashboard() -> None:
    """Every dashboard has a file in the folder that docker-compose.yml mounts and Grafana's provisioning reads."""
    assert {dashboard.uid for dashboard in DASHBOARD_SPECS} == set(DASHBOARDS)
    assert "/etc/grafana/dashboards" in (ROOT / "grafana" / "provisioning" / "dashboards" / "ai-spend.yml").read_text()
    assert "./grafana/dashboards:/etc/grafana/dashboards:ro" in (ROOT / "docker-compose.yml").read_text()
    assert isinstance(DASHBOARDS_FOLDER, Path)
