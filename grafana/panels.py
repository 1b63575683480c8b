"""Panels as this project makes them: every one has a title, a description, a unit and colours that mean something."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from grafana_foundation_sdk.builders import (
    barchart,
    bargauge,
    common,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.builders.dashboard import ThresholdsConfig
from grafana_foundation_sdk.models import common as c
from grafana_foundation_sdk.models import dashboard as d
from grafana_foundation_sdk.models import prometheus as p

DATA_SOURCE = d.DataSourceRef(type_val="prometheus", uid="${datasource}")
USD, TOKENS, REQUESTS, RATIO, SECONDS, TIME = "currencyUSD", "short", "short", "percentunit", "s", "dateTimeFromNow"
ThresholdSteps = Sequence[tuple[float | None, str]]
NO_THRESHOLDS: ThresholdSteps = ((None, "blue"),)
"""No meaning in the colour."""


@dataclass(frozen=True)
class Query:
    """A PromQL expression; `{{label}}` in the legend. Instant queries show the end of the time range."""

    expr: str
    legend: str = "__auto"
    instant: bool = False
    table: bool = False
    interval: str = ""


@dataclass(frozen=True)
class PanelSpec:
    """A panel before it has a place: its width of 24 and its height."""

    panel: Any
    width: int
    height: int
    queries: Sequence[Query] = field(default_factory=tuple)


def _target(query: Query, index: int) -> prometheus.Dataquery:
    one = prometheus.Dataquery().datasource(DATA_SOURCE).expr(query.expr).legend_format(query.legend)
    one = one.ref_id("ABCDEFGHIJ"[index]).editor_mode(p.QueryEditorMode.CODE)
    one = one.format(p.PromQueryFormat.TABLE if query.table else p.PromQueryFormat.TIME_SERIES)
    one = one.instant() if query.instant else one.range()
    return one.interval(query.interval) if query.interval else one


def _thresholds(thresholds: ThresholdSteps) -> ThresholdsConfig:
    return (
        ThresholdsConfig()
        .mode(d.ThresholdsMode.ABSOLUTE)
        .steps([d.Threshold(value, color) for value, color in thresholds])
    )


def _configure_panel(
    panel: Any, title: str, description: str, unit: str, queries: Sequence[Query], thresholds: ThresholdSteps
) -> Any:
    panel = (
        panel.title(title)
        .description(description)
        .unit(unit)
        .datasource(DATA_SOURCE)
        .thresholds(_thresholds(thresholds))
    )
    for place, query in enumerate(queries):
        panel = panel.with_target(_target(query, place))
    return panel


def stat_panel(
    title: str,
    description: str,
    *queries: Query,
    unit: str = USD,
    thresholds: ThresholdSteps = NO_THRESHOLDS,
    width: int = 4,
    decimals: int | None = None,
) -> PanelSpec:
    """Return one large figure: the newest value."""
    shown = common.ReduceDataOptions().calcs(["lastNotNull"]).fields("").values(False)
    panel = (
        stat.Panel().reduce_options(shown).color_mode(c.BigValueColorMode.VALUE).graph_mode(c.BigValueGraphMode.NONE)
    )
    # At the end of the time range: the last step of a long range may be an hour old.
    queries = tuple(replace(query, instant=True) for query in queries)
    panel = _configure_panel(panel, title, description, unit, queries, thresholds).no_value("none")
    return PanelSpec(panel if decimals is None else panel.decimals(decimals), width, 4, queries)


def time_series_panel(
    title: str,
    description: str,
    *queries: Query,
    unit: str = USD,
    thresholds: ThresholdSteps = NO_THRESHOLDS,
    width: int = 12,
    height: int = 9,
    stacked: bool = False,
    bars: bool = False,
    interval: str = "",
    time_from: str = "",
) -> PanelSpec:
    """Return values over time; `last`: of the last such time, whatever the dashboard shows."""
    panel = timeseries.Panel().draw_style(c.GraphDrawStyle.BARS if bars else c.GraphDrawStyle.LINE)
    panel = panel.fill_opacity(70 if bars else 30 if stacked else 0).line_width(1).show_points(c.VisibilityMode.NEVER)
    panel = panel.legend(
        common.VizLegendOptions()
        .display_mode(c.LegendDisplayMode.TABLE)
        .placement(c.LegendPlacement.BOTTOM)
        .show_legend(True)
        .calcs(["sum"] if bars else ["lastNotNull", "max"])
    )
    panel = panel.tooltip(common.VizTooltipOptions().mode(c.TooltipDisplayMode.MULTI).sort(c.SortOrder.DESCENDING))
    if stacked:
        panel = panel.stacking(common.StackingConfig().group("A").mode(c.StackingMode.NORMAL))
    if bars:
        panel = panel.bar_alignment(c.BarAlignment.AFTER).axis_soft_min(0)
    panel = _configure_panel(panel, title, description, unit, queries, thresholds)
    panel = panel.time_from(time_from) if time_from else panel
    return PanelSpec(panel.interval(interval) if interval else panel, width, height, queries)


def bar_chart_panel(
    title: str, description: str, *queries: tuple[str, Query], x: str, unit: str = USD, width: int = 12, height: int = 9
) -> PanelSpec:
    """Return a column per value of a label, in its order; of each query (name, query) one."""
    told = tuple(query for _, query in queries)
    several = len(told) > 1
    panel = (
        barchart.Panel()
        .x_field(x)
        .show_value(c.VisibilityMode.NEVER)
        .x_tick_label_rotation(-45)
        .x_tick_label_spacing(100)
    )
    legend = common.VizLegendOptions().placement(c.LegendPlacement.BOTTOM).calcs([]).show_legend(several)
    panel = panel.legend(legend.display_mode(c.LegendDisplayMode.LIST if several else c.LegendDisplayMode.HIDDEN))
    panel = _configure_panel(panel, title, description, unit, told, NO_THRESHOLDS)
    named = {f"Value #{'ABCDEFGHIJ'[place]}" if several else "Value": one[0] for place, one in enumerate(queries)}
    if several:
        panel = panel.with_transformation(d.DataTransformerConfig(id_val="merge", options={}))
    for kind, options in (
        ("organize", {"excludeByName": {"Time": True}, "renameByName": named}),
        ("sortBy", {"sort": [{"field": x}]}),
    ):
        panel = panel.with_transformation(d.DataTransformerConfig(id_val=kind, options=options))
    return PanelSpec(panel, width, height, told)


def bar_gauge_panel(
    title: str,
    description: str,
    *queries: Query,
    unit: str = RATIO,
    thresholds: ThresholdSteps = NO_THRESHOLDS,
    width: int = 12,
    height: int = 9,
    max_value: float | None = None,
) -> PanelSpec:
    """Return a bar per series: the newest values."""
    shown = common.ReduceDataOptions().calcs(["lastNotNull"]).fields("").values(False)
    panel = bargauge.Panel().reduce_options(shown).orientation(c.VizOrientation.HORIZONTAL).min(0)
    panel = panel.display_mode(c.BarGaugeDisplayMode.BASIC).value_mode(c.BarGaugeValueMode.TEXT)
    queries = tuple(replace(query, instant=True) for query in queries)
    panel = _configure_panel(panel, title, description, unit, queries, thresholds).no_value("none")
    return PanelSpec(panel if max_value is None else panel.max(max_value), width, height, queries)


def table_panel(
    title: str,
    description: str,
    queries: Sequence[tuple[str, Query, str]],
    *,
    hidden_columns: Sequence[str] = (),
    sort_by: str = "",
    value_mappings: Mapping[str, Mapping[str, tuple[str, str]]] | None = None,
    width: int = 12,
    height: int = 9,
) -> PanelSpec:
    """Return a table: of each query (heading, query, unit) a column, joined by labels.

    `words`: column -> value -> what is shown for it, and its colour.
    """
    told = tuple(query for _, query, _ in queries)
    panel = _configure_panel(table.Panel(), title, description, "short", told, NO_THRESHOLDS).no_value("none")
    named = {f"Value #{'ABCDEFGHIJ'[place]}" if len(told) > 1 else "Value": one[0] for place, one in enumerate(queries)}
    for heading, _, unit in queries:
        panel = panel.override_by_name(heading, [d.DynamicConfigValue("unit", unit)])
    for label in ("model", "alertname", "workspace", "reason"):
        panel = panel.override_by_name(label, [d.DynamicConfigValue("custom.width", 190)])
    for label, meanings in (value_mappings or {}).items():
        named[label] = label.replace("_", " ")
        panel = panel.override_by_name(named[label], _value_mapping_overrides(meanings))
    gone = {"Time": True} | dict.fromkeys(hidden_columns, True)
    first = ("Value",) if len(queries) == 1 and queries[0][2] == TIME else ()
    order = {name: place for place, name in enumerate((*first, "alertname", "budget", "account", "workspace", "model"))}
    if len(told) > 1:
        panel = panel.with_transformation(d.DataTransformerConfig(id_val="merge", options={}))
    panel = panel.with_transformation(
        d.DataTransformerConfig(
            id_val="organize", options={"excludeByName": gone, "renameByName": named, "indexByName": order}
        )
    )
    if sort_by:
        panel = panel.sort_by([common.TableSortByFieldState().display_name(sort_by).desc(True)])
    return PanelSpec(panel, width, height, told)


def _value_mapping_overrides(mappings: Mapping[str, tuple[str, str]]) -> list[d.DynamicConfigValue]:
    shown = {
        value: {"text": told, "color": color, "index": place}
        for place, (value, (told, color)) in enumerate(mappings.items())
    }
    return [
        d.DynamicConfigValue("mappings", [{"type": "value", "options": shown}]),
        d.DynamicConfigValue("custom.displayMode", "color-text"),
        d.DynamicConfigValue("custom.cellOptions", {"type": "color-text"}),
    ]


def state_timeline_panel(
    title: str,
    description: str,
    *queries: Query,
    mappings: Sequence[tuple[str, str, str]],
    width: int = 24,
    height: int = 8,
) -> PanelSpec:
    """Return a line of coloured states per series; mappings: value, words, colour."""
    told = {
        value: d.ValueMappingResult(text=words, color=color, index=place)
        for place, (value, words, color) in enumerate(mappings)
    }
    panel = statetimeline.Panel().mappings([d.ValueMap(options=told)]).show_value(c.VisibilityMode.AUTO).row_height(0.8)
    panel = panel.legend(
        common.VizLegendOptions()
        .display_mode(c.LegendDisplayMode.LIST)
        .show_legend(True)
        .placement(c.LegendPlacement.BOTTOM)
        .calcs([])
    )
    return PanelSpec(
        _configure_panel(panel, title, description, "short", queries, NO_THRESHOLDS).no_value("none"),
        width,
        height,
        queries,
    )
