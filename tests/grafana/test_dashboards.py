"""The dashboards: current, complete, and full of data when a real Prometheus is asked what their panels ask."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from exporter.config.configuration import Budget, BudgetMatch
from exporter.metrics.families import FAMILIES
from exporter.model import DAY
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
"""Empty in the demo: nothing new is used there."""


def test_the_dashboards_are_current() -> None:
    """grafana/dashboards holds what grafana/build.py makes, and nothing else."""
    made = dict(render_files())
    assert set(made) == set(DASHBOARDS_FOLDER.glob("*"))
    for path, text in made.items():
        assert path.read_text() == text, "run make dashboards"


@pytest.mark.parametrize("uid", DASHBOARDS)
def test_a_dashboard_can_be_linked_to(uid: str) -> None:
    """Fixed uid and tag, UTC, a templated data source, links that carry variables and time, alerts as annotations."""
    board = DASHBOARDS[uid]
    assert board["uid"] == uid
    assert board["tags"] == ["ai-spend"]
    assert board["timezone"] == "utc"
    assert board["title"]
    assert board["description"]
    assert board["templating"]["list"][0]["type"] == "datasource"
    (link,) = board["links"]
    assert (link["includeVars"], link["keepTime"], link["tags"]) == (True, True, ["ai-spend"])
    assert any("ALERTS" in one.get("expr", "") for one in board["annotations"]["list"])
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))


def test_every_link_of_an_alert_leads_to_a_dashboard() -> None:
    """What alerts link to exists, with the variables that they set."""
    for path in (ROOT / "prometheus" / "rules").glob("*.yml"):
        for uid, rest in re.findall(r"/d/([a-z-]+)(\S*?)'", path.read_text()):
            names = {one["name"] for one in DASHBOARDS[uid]["templating"]["list"]}
            assert set(re.findall(r"var-(\w+)=", rest)) <= names, (path.name, uid)


@each_panel
def test_a_panel_explains_itself(uid: str, panel: dict[str, Any]) -> None:
    """Title, description and unit; whatever is coloured by thresholds says in words what the colours mean."""
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
    """Whatever sums up days is asked for at UTC midnights: anything else would shift the bars."""
    del uid
    for target in panel["targets"]:
        if "[1d] offset -1d" in target["expr"]:
            assert (panel["interval"], target["interval"]) == ("1d", "1d")


@each_panel
def test_a_panel_asks_for_metrics_that_there_are(uid: str, panel: dict[str, Any]) -> None:
    """Every name is a metric of ours, a recorded one, or Prometheus's own."""
    del uid
    for target in panel["targets"]:
        told = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^]]*\]|(on|by) \([^)]*\)|group_left \(\)', " ", target["expr"])
        names = set(re.findall(r"[a-zA-Z_][\w:]*_[\w:]+|ALERTS", told)) - FUNCTIONS
        assert names <= {family.name for family in FAMILIES} | RECORDING_RULES | EXTERNAL_METRICS


@dataclass(frozen=True)
class DashboardServer:
    """A running Prometheus, and how panels' variables are filled in."""

    server: Prometheus
    accounts: str

    def expand_variables(self, expr: str, group: str = "provider") -> str:
        """Return an expression with every variable filled in."""
        values = {"account": self.accounts, "group_by": group, "__rate_interval": "1m", "__interval": "1h"}
        values["__range"] = "30d"
        return re.sub(r"\$(\w+)", lambda found: values.get(found[1], ".*"), expr)

    def query_panel(self, target: dict[str, Any], group: str = "provider") -> list[dict[str, Any]]:
        """Ask as Grafana would, and return the series."""
        expr = self.expand_variables(target["expr"], group)
        now = datetime.now(UTC)
        if target.get("instant"):
            told = self.server.call_api("query", query=expr, time=now.timestamp())
        else:
            step = {"1d": DAY, "1h": timedelta(hours=1)}.get(target.get("interval", ""), timedelta(seconds=15))
            first = floor(now, DAY) - 3 * DAY if step > timedelta(minutes=1) else now - timedelta(seconds=60)
            told = self.server.call_api(
                "query_range", query=expr, start=first.timestamp(), end=now.timestamp(), step=step.total_seconds()
            )
        assert not told.get("warnings"), told
        series: list[dict[str, Any]] = told["data"]["result"]
        return series


@pytest.fixture(name="dashboard_servers", scope="module")
def _start_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, DashboardServer]]:
    """Every version of Prometheus on the demo's accounts, with a spike and budgets in every state."""
    folder, clock = tmp_path_factory.mktemp("dashboards"), Clock(datetime.now(UTC))
    world = demo_world(clock)
    start_incident(world)
    with ExitStack() as stack:
        it: System = stack.enter_context(start_system(folder, world, clock))
        tight = Budget(
            name="tight", owner="research", period="month", limit_usd=Decimal(1), match=BudgetMatch(owner="research")
        )
        stack.enter_context(it.run_exporter())
        it.poll_until_idle()
        soon = Budget(
            name="soon",
            owner="platform",
            period="month",
            limit_usd=Decimal(round((it.value("ai_cost_month_usd") or 0) * 1.01)),
        )
        it.config = it.config.model_copy(update={"budgets": (soon, tight)})
        it.app.apply(it.config)
        found: dict[str, DashboardServer] = {}
        for version in VERSIONS:
            (folder / version).mkdir()
            config = write_prometheus_config(folder / version, it.url.removeprefix("http://"), rules=True)
            server = stack.enter_context(start_prometheus(version, folder / version, config))
            found[version] = DashboardServer(server, "|".join(it.world.accounts))
        for one in found.values():
            wait_until("an alert", lambda one=one: one.server.query(FIRING_QUERY, datetime.now(UTC)), 40)  # type: ignore[misc]
        yield found


@pytest.fixture(name="dashboard_server", params=VERSIONS)
def _select_server(request: pytest.FixtureRequest, dashboard_servers: dict[str, DashboardServer]) -> DashboardServer:
    return dashboard_servers[request.param]


@each_panel
def test_a_panel_shows_data_in_the_demo(uid: str, panel: dict[str, Any], dashboard_server: DashboardServer) -> None:
    """Each query of each panel parses, answers without error or warning, and returns data."""
    del uid
    assert panel["targets"]
    for target in panel["targets"]:
        found = dashboard_server.query_panel(target)
        assert found or panel["title"] in EMPTY_IN_DEMO, target["expr"]


def test_sums_do_not_depend_on_how_they_are_grouped(dashboard_server: DashboardServer) -> None:
    """The daily cost by provider, account, workspace and model comes to the same for every day."""
    (panel,) = (panel for uid, panel in PANELS if uid == "ai-spend" and panel["title"].startswith("Daily cost"))
    sums = []
    for group in GROUPS:
        days: dict[float, float] = {}
        for series in dashboard_server.query_panel(panel["targets"][0], group):
            for at, value in series["values"]:
                days[at] = days.get(at, 0) + float(value)
        sums.append(days)
    assert len(sums[0]) >= 3
    for days in sums[1:]:
        assert days == {at: pytest.approx(value, rel=1e-9) for at, value in sums[0].items()}


@pytest.mark.parametrize("uid", DASHBOARDS)
def test_variables_find_values(uid: str, dashboard_server: DashboardServer) -> None:
    """Every variable's query finds something in what is scraped: served history does not tell label values."""
    for variable in DASHBOARDS[uid]["templating"]["list"]:
        if variable["type"] == "query":
            query = variable["query"]
            selector, label = re.fullmatch(r"label_values\((.*), (\w+)\)", query).groups()  # type: ignore[union-attr]
            told = dashboard_server.server.call_api(
                f"label/{label}/values", **{"match[]": dashboard_server.expand_variables(selector)}
            )
            assert told["data"], variable["name"]


def test_provisioning_finds_them() -> None:
    """What alerts link to is what is provisioned: every dashboard has a file, in the folder that compose mounts."""
    assert {board.uid for board in DASHBOARD_SPECS} == set(DASHBOARDS)
    assert "/etc/grafana/dashboards" in (ROOT / "grafana" / "provisioning" / "dashboards" / "ai-spend.yml").read_text()
    assert "./grafana/dashboards:/etc/grafana/dashboards:ro" in (ROOT / "docker-compose.yml").read_text()
    assert isinstance(DASHBOARDS_FOLDER, Path)
