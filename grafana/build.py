"""Writes the dashboards: `python -m grafana.build` makes dashboards/*.json anew; a test compares them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as d

from grafana.dashboard_sources.account import account_rows
from grafana.dashboard_sources.budgets import budget_rows
from grafana.dashboard_sources.signals import signal_rows
from grafana.dashboard_sources.spend import spend_rows
from grafana.dashboard_sources.telemetry import telemetry_rows
from grafana.panels import DATA_SOURCE, PanelSpec

DASHBOARDS_FOLDER = Path(__file__).parent / "dashboards"
TAG = "ai-spend"


@dataclass(frozen=True)
class DashboardSpec:
    """A dashboard before it is built."""

    uid: str
    title: str
    description: str
    variables: Sequence[str]
    rows: Sequence[tuple[str, Sequence[PanelSpec]]]
    time_from: str = "now-30d"


DASHBOARD_SPECS = (
    DashboardSpec(
        "ai-spend",
        "AI spend",
        "What is spent, on what, by whom, and whether it is unusual.",
        ("provider", "owner", "account", "workspace", "model", "group_by"),
        spend_rows(),
    ),
    DashboardSpec(
        "ai-spend-budgets",
        "AI budgets",
        "Every budget: spent, pace, forecast, and when it runs out.",
        ("owner", "budget"),
        budget_rows(),
        "now-24h",
    ),
    DashboardSpec(
        "ai-spend-signals",
        "AI signals",
        "What was expected, what came, who moved, and which alerts fire.",
        ("provider", "owner", "account", "workspace"),
        signal_rows(),
        "now-24h",
    ),
    DashboardSpec(
        "ai-spend-account",
        "AI account",
        "One account in depth: workspaces, models, tiers, bills and corrections.",
        ("provider", "owner", "one_account"),
        account_rows(),
    ),
    DashboardSpec(
        "ai-spend-telemetry",
        "AI telemetry",
        "Whether the numbers can be trusted: polls, watermarks, problems, ourselves.",
        ("provider", "owner", "account"),
        telemetry_rows(),
        "now-6h",
    ),
)


def build_dashboard(dashboard: DashboardSpec) -> dict[str, Any]:
    """Return a dashboard as Grafana reads it."""
    one = (
        build.Dashboard(dashboard.title)
        .uid(dashboard.uid)
        .description(dashboard.description)
        .tags([TAG])
        .timezone("utc")
    )
    one = one.time(dashboard.time_from, "now").refresh("1m").tooltip(d.DashboardCursorSync.CROSSHAIR).editable()
    one = one.link(_dashboard_links()).annotation(_alert_annotation()).annotation(_change_annotation())
    for variable in (_datasource_variable(), *map(_build_variable, dashboard.variables)):
        one = one.with_variable(variable)
    number = line = 0
    for title, specs in dashboard.rows:
        number += 1
        one = one.with_row(build.Row(title).id(number).grid_pos(d.GridPos(x=0, y=line, w=24, h=1)))
        line, column, tallest = line + 1, 0, 0
        for spec in specs:
            if column + spec.width > 24:
                line, column, tallest = line + tallest, 0, 0
            number += 1
            place = d.GridPos(x=column, y=line, w=spec.width, h=spec.height)
            one = one.with_panel(spec.panel.id(number).grid_pos(place))
            column, tallest = column + spec.width, max(tallest, spec.height)
        line += tallest
    told: dict[str, Any] = json.loads(json.dumps(one.build(), cls=JSONEncoder))
    return told


def _dashboard_links() -> build.DashboardLink:
    link = build.DashboardLink("AI spend").type(d.DashboardLinkType.DASHBOARDS).tags([TAG]).as_dropdown(False)
    return link.include_vars(True).keep_time(True)


def _alert_annotation() -> build.AnnotationQuery:
    query = build.AnnotationQuery().name("Alerts").datasource(DATA_SOURCE).enable(True).icon_color("red")
    return query.expr('ALERTS{alertname=~"AI.*",alertstate="firing",severity!="info"}')


class _ChangeAnnotation(d.AnnotationQuery):
    """What CI told, each at its own time and not at that of its samples; the builders lack the fields for it."""

    def to_json(self) -> dict[str, object]:
        told = {"useValueForTime": True, "titleFormat": "{{title}}", "textFormat": "{{service}} {{account}} {{link}}"}
        return {**super().to_json(), **told}

    def build(self) -> d.AnnotationQuery:
        return self


def _change_annotation() -> Any:
    expr = 'ai_change_timestamp_seconds{account=~"|$account"} * 1000'
    return _ChangeAnnotation(name="Changes", datasource=DATA_SOURCE, enable=True, icon_color="blue", expr=expr)


def _datasource_variable() -> build.DatasourceVariable:
    return build.DatasourceVariable("datasource").label("Prometheus").type("prometheus")


_VARIABLE_QUERIES = {
    "provider": ("Provider", "label_values(ai_account_info, provider)"),
    "owner": ("Owner", "label_values(ai_account_info, owner)"),
    "account": ("Account", 'label_values(ai_account_info{provider=~"$provider",owner=~"$owner"}, account)'),
    "workspace": ("Workspace", 'label_values(ai_cost_30d_usd{account=~"$account"}, workspace)'),
    "model": ("Model", 'label_values(ai_cost_30d_usd{account=~"$account",workspace=~"$workspace"}, model)'),
    "budget": ("Budget", 'label_values(ai_budget_limit_usd{owner=~"$owner"}, budget)'),
}
MATCH_ALL = ".*"
"""All, labels that are not there included."""


def _build_variable(name: str) -> Any:
    if name == "group_by":
        groups = build.CustomVariable("group_by").label("Group by").values("provider,account,workspace,model")
        return groups.current(d.VariableOption(text="provider", value="provider", selected=True))
    label, query = _VARIABLE_QUERIES[name.removeprefix("one_")]
    found = build.QueryVariable(name.removeprefix("one_")).label(label).datasource(DATA_SOURCE).query(query)
    found = found.refresh(d.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(d.VariableSort.ALPHABETICAL_ASC)
    if name.startswith("one_"):
        return found
    found = found.multi(True).include_all(True)
    found = found.current(d.VariableOption(text=["All"], value=["$__all"], selected=True))
    # Accounts are listed one by one, so that those of the chosen owners are meant; served history knows no owners.
    return found if name == "account" else found.all_value(MATCH_ALL)


def render_files() -> Iterator[tuple[Path, str]]:
    """Yield every file and what it has to hold."""
    for board in DASHBOARD_SPECS:
        yield (
            DASHBOARDS_FOLDER / f"{board.uid}.json",
            json.dumps(build_dashboard(board), indent=1, sort_keys=True) + "\n",
        )


if __name__ == "__main__":
    DASHBOARDS_FOLDER.mkdir(exist_ok=True)
    for path, text in render_files():
        path.write_text(text)
