"""Builders for panels in a common style: a title, a description, a unit and colour thresholds."""

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
NO_VALUE = "\N{EN DASH}"
REF_IDS = "ABCDEFGHIJ"
"""Grafana's names of a panel's queries, in order."""
ThresholdSteps = Sequence[tuple[float | None, str]]
NO_THRESHOLDS: ThresholdSteps = ((None, "blue"),)
"""A single colour without a meaning."""


@dataclass(frozen=True)
class Query:
    """A PromQL expression and its legend, a template with `{{label}}`.

    Instant queries are evaluated at the end of the dashboard's time range. `interval` is the minimum step, such
    as `1d`.
    """

    expr: str
    legend: str = "__auto"
    instant: bool = False
    table: bool = False
    interval: str = ""


@dataclass(frozen=True)
class PanelSpec:
    """A panel without a position: its builder, its size in grid units (24 columns), and its queries."""

    panel: Any
    width: int
    height: int
    queries: Sequence[Query] = field(default_factory=tuple)


MAX_POINTS = 11_000
"""The most steps for which Prometheus answers a query."""


def _target(query: Query, index: int) -> prometheus.Dataquery:
    builder = prometheus.Dataquery().datasource(DATA_SOURCE).expr(query.expr).legend_format(query.legend)
    builder = builder.ref_id(REF_IDS[index]).editor_mode(p.QueryEditorMode.CODE)
    builder = builder.format(p.PromQueryFormat.TABLE if query.table else p.PromQueryFormat.TIME_SERIES)
    builder = builder.instant() if query.instant else builder.range()
    return builder.interval(query.interval) if query.interval else builder


def _value_columns(headings: Sequence[str]) -> dict[str, str]:
    """Return Grafana's name of each query's value column (`Value`, or `Value #A` of several) -> heading."""
    if len(headings) == 1:
        return {"Value": headings[0]}
    return {f"Value #{ref_id}": heading for ref_id, heading in zip(REF_IDS, headings, strict=False)}


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
    for index, query in enumerate(queries):
        panel = panel.with_target(_target(query, index))
    # Grafana evaluates an instant query at the last multiple of the step. At 30 days and the width of a tile the step
    # is three hours: the value would be that old, and missing in the first hours. This makes the step minutes.
    return panel.max_data_points(MAX_POINTS) if queries and all(query.instant for query in queries) else panel


def stat_panel(
    title: str,
    description: str,
    *queries: Query,
    unit: str = USD,
    thresholds: ThresholdSteps = NO_THRESHOLDS,
    width: int = 4,
    decimals: int | None = None,
) -> PanelSpec:
    """Return a panel with one large number: the newest value."""
    newest_value = common.ReduceDataOptions().calcs(["lastNotNull"]).fields("").values(False)
    panel = (
        stat.Panel()
        .reduce_options(newest_value)
        .color_mode(c.BigValueColorMode.VALUE)
        .graph_mode(c.BigValueGraphMode.NONE)
    )
    # Instant, because the last step of a query over a long time range may be an hour old.
    queries = tuple(replace(query, instant=True) for query in queries)
    panel = _configure_panel(panel, title, description, unit, queries, thresholds).no_value(NO_VALUE)
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
    """Return a graph over time.

    `time_from` (such as `24h`) overrides the dashboard's time range, `interval` the step.
    """
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
    if len(thresholds) > 1:
        panel = panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(c.GraphThresholdsStyleMode.DASHED))
    panel = panel.time_from(time_from) if time_from else panel
    return PanelSpec(panel.interval(interval) if interval else panel, width, height, queries)


def bar_chart_panel(
    title: str, description: str, *queries: tuple[str, Query], x: str, unit: str = USD, width: int = 12, height: int = 9
) -> PanelSpec:
    """Return a bar per value of the label `x`, sorted by it, for each query (name, query)."""
    names = [name for name, _ in queries]
    targets = tuple(query for _, query in queries)
    has_legend = len(targets) > 1
    panel = (
        barchart.Panel()
        .x_field(x)
        .show_value(c.VisibilityMode.NEVER)
        .x_tick_label_rotation(-45)
        .x_tick_label_spacing(100)
    )
    legend = common.VizLegendOptions().placement(c.LegendPlacement.BOTTOM).calcs([]).show_legend(has_legend)
    panel = panel.legend(legend.display_mode(c.LegendDisplayMode.LIST if has_legend else c.LegendDisplayMode.HIDDEN))
    panel = _configure_panel(panel, title, description, unit, targets, NO_THRESHOLDS)
    if has_legend:
        panel = panel.with_transformation(d.DataTransformerConfig(id_val="merge", options={}))
    columns = {"excludeByName": {"Time": True}, "renameByName": _value_columns(names)}
    panel = panel.with_transformation(d.DataTransformerConfig(id_val="organize", options=columns))
    panel = panel.with_transformation(d.DataTransformerConfig(id_val="sortBy", options={"sort": [{"field": x}]}))
    return PanelSpec(panel, width, height, targets)


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
    """Return a bar per series with its newest value."""
    newest_value = common.ReduceDataOptions().calcs(["lastNotNull"]).fields("").values(False)
    panel = bargauge.Panel().reduce_options(newest_value).orientation(c.VizOrientation.HORIZONTAL).min(0)
    panel = panel.display_mode(c.BarGaugeDisplayMode.BASIC).value_mode(c.BarGaugeValueMode.TEXT)
    queries = tuple(replace(query, instant=True) for query in queries)
    panel = _configure_panel(panel, title, description, unit, queries, thresholds).no_value(NO_VALUE)
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
    """Return a table with a column per query (heading, query, unit), joined by labels.

    `value_mappings`: column -> value -> (displayed text, colour).
    """
    targets = tuple(query for _, query, _ in queries)
    panel = _configure_panel(table.Panel(), title, description, "short", targets, NO_THRESHOLDS).no_value(NO_VALUE)
    column_names = _value_columns([heading for heading, _, _ in queries])
    for heading, _, unit in queries:
        panel = panel.override_by_name(heading, [d.DynamicConfigValue("unit", unit)])
    for label in ("model", "alertname", "workspace", "reason"):
        panel = panel.override_by_name(label, [d.DynamicConfigValue("custom.width", 190)])
    for label, mappings in (value_mappings or {}).items():
        panel = panel.override_by_name(label, _value_mapping_overrides(mappings))
    hidden = {"Time": True} | dict.fromkeys(hidden_columns, True)
    # A time as the only value comes first, as in a log; otherwise labels come before values.
    first = ("Value",) if len(queries) == 1 and queries[0][2] == TIME else ()
    label_order = (*first, "alertname", "budget", "account", "workspace", "model")
    order = {name: index for index, name in enumerate(label_order)}
    if len(targets) > 1:
        panel = panel.with_transformation(d.DataTransformerConfig(id_val="merge", options={}))
    panel = panel.with_transformation(
        d.DataTransformerConfig(
            id_val="organize", options={"excludeByName": hidden, "renameByName": column_names, "indexByName": order}
        )
    )
    if sort_by:
        panel = panel.sort_by([common.TableSortByFieldState().display_name(sort_by).desc(True)])
    return PanelSpec(panel, width, height, targets)


def _value_mapping_overrides(mappings: Mapping[str, tuple[str, str]]) -> list[d.DynamicConfigValue]:
    options = {
        value: {"text": text, "color": color, "index": index}
        for index, (value, (text, color)) in enumerate(mappings.items())
    }
    return [
        d.DynamicConfigValue("mappings", [{"type": "value", "options": options}]),
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
    """Return a line of coloured states per series. `mappings`: (value, displayed text, colour)."""
    options: dict[str, d.ValueMappingResult] = {
        value: d.ValueMappingResult(text=text, color=color, index=index)
        for index, (value, text, color) in enumerate(mappings)
    }
    panel = (
        statetimeline.Panel().mappings([d.ValueMap(options=options)]).show_value(c.VisibilityMode.AUTO).row_height(0.8)
    )
    panel = panel.legend(
        common.VizLegendOptions()
        .display_mode(c.LegendDisplayMode.LIST)
        .show_legend(True)
        .placement(c.LegendPlacement.BOTTOM)
        .calcs([])
    )
    return PanelSpec(
        _configure_panel(panel, title, description, "short", queries, NO_THRESHOLDS).no_value(NO_VALUE),
        width,
        height,
        queries,
    )
