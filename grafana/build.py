"""Generates the dashboards: `python -m grafana.build` writes dashboards/*.json; a test checks that they are current."""

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
from grafana.dashboard_sources.shared import DashboardRows
from grafana.dashboard_sources.signals import signal_rows
from grafana.dashboard_sources.spend import spend_rows
from grafana.dashboard_sources.telemetry import telemetry_rows
from grafana.panels import DATA_SOURCE

DASHBOARDS_FOLDER = Path(__file__).parent / "dashboards"
TAG = "ai-spend"
GRID_WIDTH = 24
"""Columns of Grafana's grid."""


@dataclass(frozen=True)
class DashboardSpec:
    """A dashboard: its metadata, the names of its variables, its rows of panels, and its time range."""

    uid: str
    title: str
    description: str
    variables: Sequence[str]
    rows: DashboardRows
    time_from: str = "now-30d"


DASHBOARD_SPECS = (
    DashboardSpec(
        "ai-spend",
        "AI spend",
        "Spend by provider, account, workspace and model, and whether it is unusual.",
        ("provider", "owner", "account", "workspace", "model", "group_by"),
        spend_rows(),
    ),
    DashboardSpec(
        "ai-spend-budgets",
        "AI budgets",
        "All budgets: spend, burn rate, forecast and exhaustion time.",
        ("owner", "budget"),
        budget_rows(),
    ),
    DashboardSpec(
        "ai-spend-signals",
        "AI signals",
        "Actual and expected cost, contributors to changes, and alerts.",
        ("provider", "owner", "account", "workspace"),
        signal_rows(),
        "now-7d",
    ),
    DashboardSpec(
        "ai-spend-account",
        "AI account",
        "One account in detail: workspaces, models, tiers, bills and restatements.",
        ("provider", "owner", "single_account"),
        account_rows(),
    ),
    DashboardSpec(
        "ai-spend-telemetry",
        "AI telemetry",
        "Health of the data: polls, data delay, problems, and the exporter itself.",
        ("provider", "owner", "account"),
        telemetry_rows(),
        "now-6h",
    ),
)


def build_dashboard(dashboard: DashboardSpec) -> dict[str, Any]:
    """Return a dashboard as Grafana's JSON model.

    Panels fill a grid of 24 columns from left to right, in lines as high as their tallest panel.
    """
    builder = (
        build.Dashboard(dashboard.title)
        .uid(dashboard.uid)
        .description(dashboard.description)
        .tags([TAG])
        .timezone("utc")
    )
    builder = builder.time(dashboard.time_from, "now").refresh("1m").tooltip(d.DashboardCursorSync.CROSSHAIR).editable()
    builder = builder.link(_dashboard_links()).annotation(_alert_annotation()).annotation(_change_annotation())
    for variable in (_datasource_variable(), *map(_build_variable, dashboard.variables)):
        builder = builder.with_variable(variable)
    _add_rows(builder, dashboard.rows)
    document: dict[str, Any] = json.loads(json.dumps(builder.build(), cls=JSONEncoder))
    return document


def _add_rows(builder: build.Dashboard, rows: DashboardRows) -> None:
    """Add the rows and their panels with positions and ids."""
    panel_id = y = 0
    for spec in rows:
        panel_id += 1
        row = build.Row(spec.title).id(panel_id).grid_pos(d.GridPos(x=0, y=y, w=GRID_WIDTH, h=1))
        panels = []
        y += 1
        x = line_height = 0
        for panel in spec.panels:
            if x + panel.width > GRID_WIDTH:
                y += line_height
                x = line_height = 0
            panel_id += 1
            panels.append(panel.panel.id(panel_id).grid_pos(d.GridPos(x=x, y=y, w=panel.width, h=panel.height)))
            x += panel.width
            line_height = max(line_height, panel.height)
        if spec.collapsed:
            # A collapsed row holds its panels, and the rows below it move up.
            for panel in panels:
                row = row.with_panel(panel)
            builder.with_row(row)
        else:
            builder.with_row(row.collapsed(False))
            for panel in panels:
                builder.with_panel(panel)
            y += line_height


def _dashboard_links() -> build.DashboardLink:
    link = build.DashboardLink("AI spend").type(d.DashboardLinkType.DASHBOARDS).tags([TAG]).as_dropdown(False)
    # Each dashboard has a time range that suits it: polls of 30 days, or a month's budget of 6 hours, show nothing.
    return link.include_vars(True).keep_time(False)


def _alert_annotation() -> build.AnnotationQuery:
    # Off at first: an exceeded budget would colour every panel red until the month ends.
    query = build.AnnotationQuery().name("Alerts").datasource(DATA_SOURCE).enable(False).icon_color("red")
    # Alerts of budgets and of the exporter itself have no account.
    return query.expr('ALERTS{alertname=~"AI.*",alertstate="firing",severity!="info",account=~"|$account"}')


class _ChangeAnnotation(d.AnnotationQuery):
    """Change events, each at its own time instead of its samples' time.

    The SDK's builder has no fields for that, so they are added to the JSON.
    """

    def to_json(self) -> dict[str, object]:
        formats = {
            "useValueForTime": True,
            "titleFormat": "{{title}}",
            "textFormat": "{{service}} {{account}} {{link}}",
        }
        return {**super().to_json(), **formats}

    def build(self) -> d.AnnotationQuery:
        return self


def _change_annotation() -> Any:
    expr = 'ai_change_timestamp_seconds{account=~"|$account"} * 1000'
    return _ChangeAnnotation(name="Changes", datasource=DATA_SOURCE, enable=True, icon_color="blue", expr=expr)


def _datasource_variable() -> build.DatasourceVariable:
    # Without a current value Grafana would take the first data source by name.
    default = d.VariableOption(text="default", value="default", selected=True)
    return build.DatasourceVariable("datasource").label("Prometheus").type("prometheus").current(default)


_VARIABLE_QUERIES = {
    "provider": ("Provider", "label_values(ai_account_info, provider)"),
    "owner": ("Owner", "label_values(ai_account_info, owner)"),
    "account": ("Account", 'label_values(ai_account_info{provider=~"$provider",owner=~"$owner"}, account)'),
    "workspace": ("Workspace", 'label_values(ai_cost_30d_usd{account=~"$account"}, workspace)'),
    "model": ("Model", 'label_values(ai_cost_30d_usd{account=~"$account",workspace=~"$workspace"}, model)'),
    "budget": ("Budget", 'label_values(ai_budget_limit_usd{owner=~"$owner"}, budget)'),
}
_SINGLE = "single_"
"""Prefix of a variable that selects the first value at first, not all."""
MATCH_ALL = ".*"
"""Selects all series, including those without the label."""


def _build_variable(name: str) -> Any:
    if name == "group_by":
        variable = (
            build.CustomVariable("group_by")
            .label("Group by")
            .values("provider,owner,account,workspace,model,tier,api_key")
        )
        return variable.current(d.VariableOption(text="provider", value="provider", selected=True))
    label, query = _VARIABLE_QUERIES[name.removeprefix(_SINGLE)]
    builder = build.QueryVariable(name.removeprefix(_SINGLE)).label(label).datasource(DATA_SOURCE).query(query)
    builder = builder.refresh(d.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(d.VariableSort.ALPHABETICAL_ASC)
    if name.startswith(_SINGLE):
        # Links from dashboards where all accounts are selected pass that selection on.
        return builder.include_all(True)
    builder = builder.multi(True).include_all(True)
    builder = builder.current(d.VariableOption(text=["All"], value=["$__all"], selected=True))
    # "All" accounts expands to the names of the selected owners' accounts, because served history has no owner label.
    return builder if name == "account" else builder.all_value(MATCH_ALL)


def render_files() -> Iterator[tuple[Path, str]]:
    """Yield the path and the content of every generated file."""
    for dashboard in DASHBOARD_SPECS:
        text = json.dumps(build_dashboard(dashboard), indent=1, sort_keys=True) + "\n"
        yield DASHBOARDS_FOLDER / f"{dashboard.uid}.json", text


if __name__ == "__main__":
    DASHBOARDS_FOLDER.mkdir(exist_ok=True)
    for path, text in render_files():
        path.write_text(text)
