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

from grafana.dashboard_sources.account import account
from grafana.dashboard_sources.budgets import budgets
from grafana.dashboard_sources.signals import signals
from grafana.dashboard_sources.spend import spend
from grafana.dashboard_sources.telemetry import telemetry
from grafana.panels import SOURCE, Spec

FOLDER = Path(__file__).parent / "dashboards"
TAG = "ai-spend"


@dataclass(frozen=True)
class Board:
    """A dashboard before it is built."""

    uid: str
    title: str
    text: str
    variables: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Spec]]]
    since: str = "now-30d"


BOARDS = (
    Board(
        "ai-spend",
        "AI spend",
        "What is spent, on what, by whom, and whether it is unusual.",
        ("provider", "owner", "account", "workspace", "model", "group_by"),
        spend(),
    ),
    Board(
        "ai-spend-budgets",
        "AI budgets",
        "Every budget: spent, pace, forecast, and when it runs out.",
        ("owner", "budget"),
        budgets(),
        "now-24h",
    ),
    Board(
        "ai-spend-signals",
        "AI signals",
        "What was expected, what came, who moved, and which alerts fire.",
        ("provider", "owner", "account", "workspace"),
        signals(),
        "now-24h",
    ),
    Board(
        "ai-spend-account",
        "AI account",
        "One account in depth: workspaces, models, tiers, bills and corrections.",
        ("provider", "owner", "one_account"),
        account(),
    ),
    Board(
        "ai-spend-telemetry",
        "AI telemetry",
        "Whether the numbers can be trusted: polls, watermarks, problems, ourselves.",
        ("provider", "owner", "account"),
        telemetry(),
        "now-6h",
    ),
)


def built(board: Board) -> dict[str, Any]:
    """Return a dashboard as Grafana reads it."""
    one = build.Dashboard(board.title).uid(board.uid).description(board.text).tags([TAG]).timezone("utc")
    one = one.time(board.since, "now").refresh("1m").tooltip(d.DashboardCursorSync.CROSSHAIR).editable()
    one = one.link(_links()).annotation(_alerts()).annotation(_changes())
    for variable in (_source(), *map(_variable, board.variables)):
        one = one.with_variable(variable)
    number = line = 0
    for title, specs in board.rows:
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


def _links() -> build.DashboardLink:
    link = build.DashboardLink("AI spend").type(d.DashboardLinkType.DASHBOARDS).tags([TAG]).as_dropdown(False)
    return link.include_vars(True).keep_time(True)


def _alerts() -> build.AnnotationQuery:
    query = build.AnnotationQuery().name("Alerts").datasource(SOURCE).enable(True).icon_color("red")
    return query.expr('ALERTS{alertname=~"AI.*",alertstate="firing",severity!="info"}')


class _Changes(d.AnnotationQuery):
    """What CI told, each at its own time and not at that of its samples; the builders lack the fields for it."""

    def to_json(self) -> dict[str, object]:
        told = {"useValueForTime": True, "titleFormat": "{{title}}", "textFormat": "{{service}} {{account}} {{link}}"}
        return {**super().to_json(), **told}

    def build(self) -> d.AnnotationQuery:
        return self


def _changes() -> Any:
    expr = 'ai_change_timestamp_seconds{account=~"|$account"} * 1000'
    return _Changes(name="Changes", datasource=SOURCE, enable=True, icon_color="blue", expr=expr)


def _source() -> build.DatasourceVariable:
    return build.DatasourceVariable("datasource").label("Prometheus").type("prometheus")


_QUERIES = {
    "provider": ("Provider", "label_values(ai_account_info, provider)"),
    "owner": ("Owner", "label_values(ai_account_info, owner)"),
    "account": ("Account", 'label_values(ai_account_info{provider=~"$provider",owner=~"$owner"}, account)'),
    "workspace": ("Workspace", 'label_values(ai_cost_30d_usd{account=~"$account"}, workspace)'),
    "model": ("Model", 'label_values(ai_cost_30d_usd{account=~"$account",workspace=~"$workspace"}, model)'),
    "budget": ("Budget", 'label_values(ai_budget_limit_usd{owner=~"$owner"}, budget)'),
}
ANY = ".*"
"""All, labels that are not there included."""


def _variable(name: str) -> Any:
    if name == "group_by":
        groups = build.CustomVariable("group_by").label("Group by").values("provider,account,workspace,model")
        return groups.current(d.VariableOption(text="provider", value="provider", selected=True))
    label, query = _QUERIES[name.removeprefix("one_")]
    found = build.QueryVariable(name.removeprefix("one_")).label(label).datasource(SOURCE).query(query)
    found = found.refresh(d.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(d.VariableSort.ALPHABETICAL_ASC)
    if name.startswith("one_"):
        return found
    found = found.multi(True).include_all(True)
    found = found.current(d.VariableOption(text=["All"], value=["$__all"], selected=True))
    # Accounts are listed one by one, so that those of the chosen owners are meant; served history knows no owners.
    return found if name == "account" else found.all_value(ANY)


def files() -> Iterator[tuple[Path, str]]:
    """Yield every file and what it has to hold."""
    for board in BOARDS:
        yield FOLDER / f"{board.uid}.json", json.dumps(built(board), indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for path, text in files():
        path.write_text(text)
