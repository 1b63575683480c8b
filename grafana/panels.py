"""Builders for panels in a common style: a title, a description, a unit and colour thresholds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from grafana_foundation_sdk.builders import (
    barchart,
    common,
    prometheus,
    stat,
    statetimeline,
    statushistory,
    table,
    timeseries,
)
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders.dashboard import ThresholdsConfig
from grafana_foundation_sdk.models import common as c
from grafana_foundation_sdk.models import dashboard as d
from grafana_foundation_sdk.models import prometheus as p

DATA_SOURCE = d.DataSourceRef(type_val="prometheus", uid="${datasource}")
USD = "currencyUSD"
"""Compact, such as $53.2K: for axes."""
USD_TO_THE_CENT = "locale"
"""Such as 53,188.29: where people compare amounts with a bill. Grafana's units of currencies abbreviate, so that titles
name the currency."""
TOKENS, RATIO, SECONDS, TIME = "short", "percentunit", "s", "dateTimeFromNow"
CENTS = 2
"""Decimals of amounts."""
NO_VALUE = "\N{EN DASH}"
REF_IDS = "ABCDEFGHIJKLMN"
"""Grafana's names of a panel's queries, in order."""
ThresholdSteps = Sequence[tuple[float | None, str]]
NO_THRESHOLDS: ThresholdSteps = ((None, "blue"),)
"""A single colour without a meaning."""
PLAIN_TEXT: ThresholdSteps = ((None, "text"),)

PROVIDER_COLOURS = {"openai": "green", "anthropic": "orange", "cursor": "purple"}
"""Provider -> its colour in every chart, whichever other providers there are."""


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


def table_query(expr: str) -> Query:
    """Return the query of a table's column: the present values with their labels."""
    return Query(expr, instant=True, table=True)


@dataclass(frozen=True)
class Link:
    """A link of a panel, or of each value in it; `url` may have variables such as `${__value.raw}`."""

    title: str
    url: str

    def build(self) -> build.DashboardLink:
        """Return the link for the SDK."""
        return build.DashboardLink(self.title).url(self.url)

    @property
    def model(self) -> dict[str, object]:
        """The link as a column's property."""
        return {"title": self.title, "url": self.url}


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
    panel: Any,
    title: str,
    description: str,
    unit: str,
    queries: Sequence[Query],
    thresholds: ThresholdSteps,
    no_value: str = NO_VALUE,
    links: Sequence[Link] = (),
) -> Any:
    panel = (
        panel.title(title)
        .description(description)
        .unit(unit)
        .datasource(DATA_SOURCE)
        .thresholds(_thresholds(thresholds))
        .no_value(no_value)
    )
    if unit == USD_TO_THE_CENT:
        panel = panel.decimals(CENTS)
    if links:
        panel = panel.data_links([link.build() for link in links])
    for index, query in enumerate(queries):
        panel = panel.with_target(_target(query, index))
    if queries and all(query.instant for query in queries):
        # Grafana evaluates an instant query at the last multiple of the step. At 30 days and the width of a tile the
        # step is three hours: the value would be that old, and missing in the first hours. A short range of its own
        # makes the step that of the scrapes: these panels show the present, whatever the dashboard's time range is.
        panel = panel.time_from("1h").hide_time_override(True)
    return panel


def _newest_value() -> common.ReduceDataOptions:
    return common.ReduceDataOptions().calcs(["lastNotNull"]).fields("").values(False)


def stat_panel(
    title: str,
    description: str,
    *queries: Query,
    unit: str = USD_TO_THE_CENT,
    thresholds: ThresholdSteps = NO_THRESHOLDS,
    width: int = 4,
    height: int = 4,
    no_value: str = NO_VALUE,
    links: Sequence[Link] = (),
) -> PanelSpec:
    """Return a panel with one large number: the newest value."""
    panel = (
        stat.Panel()
        .reduce_options(_newest_value())
        .color_mode(c.BigValueColorMode.VALUE)
        .graph_mode(c.BigValueGraphMode.NONE)
    )
    # Instant, because the last step of a query over a long time range may be an hour old.
    queries = tuple(replace(query, instant=True) for query in queries)
    panel = _configure_panel(panel, title, description, unit, queries, thresholds, no_value, links)
    return PanelSpec(panel, width, height, queries)


@dataclass(frozen=True)
class Comparison:
    """A second, smaller value in a tile: what the first is compared with."""

    name: str
    expr: str
    unit: str = RATIO
    thresholds: ThresholdSteps = PLAIN_TEXT


def tile_panel(
    title: str,
    description: str,
    query: Query,
    *comparisons: Comparison,
    width: int = 6,
    height: int = 5,
) -> PanelSpec:
    """Return a panel with the newest value of a query over a graph of 30 days, and values that it is compared with.

    An instant query has no graph.
    """
    compared = tuple(Query(comparison.expr, comparison.name, instant=True) for comparison in comparisons)
    panel = (
        stat.Panel()
        .reduce_options(_newest_value())
        .color_mode(c.BigValueColorMode.VALUE)
        .graph_mode(c.BigValueGraphMode.AREA)
        .text_mode(c.BigValueTextMode.VALUE_AND_NAME)
        .orientation(c.VizOrientation.VERTICAL)
        .justify_mode(c.BigValueJustifyMode.AUTO)
        .text(common.VizTextDisplayOptions().title_size(13).value_size(28))
    )
    queries = (query, *compared)
    panel = _configure_panel(panel, title, description, USD_TO_THE_CENT, queries, NO_THRESHOLDS)
    for comparison in comparisons:
        steps = [{"value": value, "color": colour} for value, colour in comparison.thresholds]
        panel = panel.override_by_name(
            comparison.name,
            [
                d.DynamicConfigValue("unit", comparison.unit),
                d.DynamicConfigValue("decimals", CENTS if comparison.unit == USD_TO_THE_CENT else 0),
                d.DynamicConfigValue("thresholds", {"mode": "absolute", "steps": steps}),
            ],
        )
    if not query.instant:
        # Grafana evaluates the comparison at the last multiple of the panel's step: many points make that minutes. The
        # query of the graph has its own interval.
        panel = panel.time_from("30d").hide_time_override(True).max_data_points(MAX_POINTS)
    return PanelSpec(panel, width, height, queries)


@dataclass(frozen=True)
class Style:
    """How one series of a chart is drawn."""

    name: str
    """The series' name in the legend."""
    colour: str = ""
    is_dashed: bool = False
    fill_below_to: str = ""
    """The name of a series; the area between the two is filled."""
    fill_opacity: int | None = None

    @property
    def properties(self) -> list[d.DynamicConfigValue]:
        """The style as an override."""
        properties = []
        if self.colour:
            properties.append(d.DynamicConfigValue("color", {"mode": "fixed", "fixedColor": self.colour}))
        if self.is_dashed:
            properties.append(d.DynamicConfigValue("custom.lineStyle", {"fill": "dash", "dash": [8, 8]}))
        if self.fill_below_to:
            properties.append(d.DynamicConfigValue("custom.fillBelowTo", self.fill_below_to))
        if self.fill_opacity is not None:
            properties.append(d.DynamicConfigValue("custom.fillOpacity", self.fill_opacity))
        return properties


PROVIDER_STYLES = tuple(Style(name, colour) for name, colour in PROVIDER_COLOURS.items())


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
    styles: Sequence[Style] = (),
    no_value: str = NO_VALUE,
    links: Sequence[Link] = (),
    repeat: str = "",
) -> PanelSpec:
    """Return a graph over time, its legend sorted by the largest value: on the right where there is room.

    `time_from` (such as `24h`) overrides the dashboard's time range, `interval` the step; `repeat` is the variable for
    each of whose values there is a panel.
    """
    panel = timeseries.Panel().draw_style(c.GraphDrawStyle.BARS if bars else c.GraphDrawStyle.LINE)
    panel = panel.fill_opacity(70 if bars else 30 if stacked else 0).line_width(1).show_points(c.VisibilityMode.NEVER)
    has_room = width > 12
    legend = (
        common.VizLegendOptions()
        .display_mode(c.LegendDisplayMode.TABLE if has_room else c.LegendDisplayMode.LIST)
        .placement(c.LegendPlacement.RIGHT if has_room else c.LegendPlacement.BOTTOM)
        .show_legend(True)
        .calcs(["sum"] if bars else ["lastNotNull", "max"] if has_room else ["lastNotNull"])
        .sort_by("Total" if bars else "Last *")
        .sort_desc(True)
    )
    panel = panel.legend(legend)
    panel = panel.tooltip(common.VizTooltipOptions().mode(c.TooltipDisplayMode.MULTI).sort(c.SortOrder.DESCENDING))
    if stacked:
        panel = panel.stacking(common.StackingConfig().group("A").mode(c.StackingMode.NORMAL))
    if bars:
        panel = panel.bar_alignment(c.BarAlignment.AFTER).axis_soft_min(0)
    panel = _configure_panel(panel, title, description, unit, queries, thresholds, no_value, links)
    for style in styles:
        panel = panel.override_by_name(style.name, style.properties)
    if len(thresholds) > 1:
        panel = panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(c.GraphThresholdsStyleMode.DASHED))
    panel = panel.time_from(time_from) if time_from else panel
    if repeat:
        panel = panel.repeat(repeat).repeat_direction("h").max_per_row(24 // width)
    return PanelSpec(panel.interval(interval) if interval else panel, width, height, queries)


def bar_chart_panel(
    title: str,
    description: str,
    *queries: tuple[str, Query],
    x: str,
    unit: str = USD,
    width: int = 12,
    height: int = 9,
    stacked: bool = False,
    styles: Sequence[Style] = (),
    no_value: str = NO_VALUE,
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
        .stacking(c.StackingMode.NORMAL if stacked else c.StackingMode.NONE)
        .tooltip(common.VizTooltipOptions().mode(c.TooltipDisplayMode.MULTI).sort(c.SortOrder.NONE))
    )
    legend = common.VizLegendOptions().placement(c.LegendPlacement.BOTTOM).calcs(["sum"]).show_legend(has_legend)
    panel = panel.legend(legend.display_mode(c.LegendDisplayMode.LIST if has_legend else c.LegendDisplayMode.HIDDEN))
    panel = _configure_panel(panel, title, description, unit, targets, NO_THRESHOLDS, no_value)
    for style in styles:
        panel = panel.override_by_name(style.name, style.properties)
    if has_legend:
        panel = panel.with_transformation(d.DataTransformerConfig(id_val="merge", options={}))
    columns = {"excludeByName": {"Time": True}, "renameByName": _value_columns(names)}
    panel = panel.with_transformation(d.DataTransformerConfig(id_val="organize", options=columns))
    panel = panel.with_transformation(d.DataTransformerConfig(id_val="sortBy", options={"sort": [{"field": x}]}))
    return PanelSpec(panel, width, height, targets)


@dataclass(frozen=True)
class Column:
    """A column of a table: its heading, its query, and how values are displayed."""

    heading: str
    query: Query
    unit: str = "short"
    decimals: int | None = None
    thresholds: ThresholdSteps = ()
    """With thresholds, the text has the colour of the value."""
    max_gauge: float | None = None
    """With a maximum, the cell has a bar up to it."""
    width: int = 0

    @property
    def properties(self) -> list[d.DynamicConfigValue]:
        """The display of the values as an override."""
        decimals = CENTS if self.unit == USD_TO_THE_CENT else self.decimals
        # The panel's text for no value is for a table without rows.
        properties = [d.DynamicConfigValue("unit", self.unit), d.DynamicConfigValue("noValue", NO_VALUE)]
        if decimals is not None:
            properties.append(d.DynamicConfigValue("decimals", decimals))
        if self.width:
            properties.append(d.DynamicConfigValue("custom.width", self.width))
        if self.thresholds:
            steps = [{"value": value, "color": colour} for value, colour in self.thresholds]
            properties.append(d.DynamicConfigValue("thresholds", {"mode": "absolute", "steps": steps}))
        # Grafana 9 has `displayMode`, later versions have `cellOptions`.
        if self.max_gauge is not None:
            properties += [
                d.DynamicConfigValue("min", 0),
                d.DynamicConfigValue("max", self.max_gauge),
                d.DynamicConfigValue("custom.displayMode", "basic"),
                d.DynamicConfigValue("custom.cellOptions", {"type": "gauge", "mode": "basic"}),
            ]
        elif self.thresholds:
            properties += [
                d.DynamicConfigValue("custom.displayMode", "color-text"),
                d.DynamicConfigValue("custom.cellOptions", {"type": "color-text"}),
            ]
        return properties


def table_panel(
    title: str,
    description: str,
    columns: Sequence[Column],
    *,
    hidden_columns: Sequence[str] = (),
    label_columns: Mapping[str, str] | None = None,
    label_widths: Mapping[str, int] | None = None,
    sort_by: str = "",
    value_mappings: Mapping[str, Mapping[str, tuple[str, str]]] | None = None,
    links: Mapping[str, Sequence[Link]] | None = None,
    width: int = 12,
    height: int = 9,
    no_value: str = NO_VALUE,
) -> PanelSpec:
    """Return a table with a column per query, joined by labels.

    `label_columns`: label -> heading, in their order. `value_mappings`: column -> value -> (displayed text, colour).
    `links`: column -> links of its cells.
    """
    targets = tuple(column.query for column in columns)
    # A filter in each heading: a thousand accounts are searched by name.
    panel = _configure_panel(
        table.Panel().filterable(True), title, description, "short", targets, NO_THRESHOLDS, no_value
    )
    headings = label_columns or {}
    for column in columns:
        panel = panel.override_by_name(column.heading, column.properties)
    for heading in headings.values():
        properties = [d.DynamicConfigValue("noValue", NO_VALUE)]
        if heading in (label_widths or {}):
            properties.append(d.DynamicConfigValue("custom.width", (label_widths or {})[heading]))
        panel = panel.override_by_name(heading, properties)
    for heading, mappings in (value_mappings or {}).items():
        panel = panel.override_by_name(heading, _value_mapping_overrides(mappings))
    for heading, cell_links in (links or {}).items():
        panel = panel.override_by_name(heading, [d.DynamicConfigValue("links", [link.model for link in cell_links])])
    renamed = _value_columns([column.heading for column in columns])
    hidden = {"Time": True} | dict.fromkeys(hidden_columns, True)
    order = {name: index for index, name in enumerate((*headings, *renamed))}
    if len(targets) > 1:
        panel = panel.with_transformation(d.DataTransformerConfig(id_val="merge", options={}))
    panel = panel.with_transformation(
        d.DataTransformerConfig(
            id_val="organize",
            options={"excludeByName": hidden, "renameByName": {**headings, **renamed}, "indexByName": order},
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
        d.DynamicConfigValue("custom.cellOptions", {"type": "color-text", "wrapText": True}),
    ]


def _value_map(mappings: Sequence[tuple[str, str, str]]) -> d.ValueMap:
    options: dict[str, d.ValueMappingResult] = {
        value: d.ValueMappingResult(text=text, color=color, index=index)
        for index, (value, text, color) in enumerate(mappings)
    }
    return d.ValueMap(options=options)


def state_timeline_panel(
    title: str,
    description: str,
    *queries: Query,
    mappings: Sequence[tuple[str, str, str]],
    width: int = 24,
    height: int = 8,
    no_value: str = NO_VALUE,
) -> PanelSpec:
    """Return a line of coloured states per series. `mappings`: (value, displayed text, colour)."""
    panel = statetimeline.Panel().mappings([_value_map(mappings)]).show_value(c.VisibilityMode.AUTO).row_height(0.8)
    panel = panel.legend(
        common.VizLegendOptions()
        .display_mode(c.LegendDisplayMode.LIST)
        .show_legend(True)
        .placement(c.LegendPlacement.BOTTOM)
        .calcs([])
    )
    panel = _configure_panel(panel, title, description, "short", queries, NO_THRESHOLDS, no_value)
    return PanelSpec(panel, width, height, queries)


def heat_map_panel(
    title: str,
    description: str,
    query: Query,
    *,
    unit: str,
    thresholds: ThresholdSteps,
    time_from: str,
    width: int = 24,
    height: int = 10,
    no_value: str = NO_VALUE,
    links: Sequence[Link] = (),
) -> PanelSpec:
    """Return a row of coloured cells per series, a cell per interval of the query."""
    panel = (
        statushistory.Panel()
        .show_value(c.VisibilityMode.NEVER)
        .row_height(0.85)
        .col_width(1)
        .color_scheme(build.FieldColor().mode(d.FieldColorModeId.THRESHOLDS))
        .legend(common.VizLegendOptions().show_legend(False).display_mode(c.LegendDisplayMode.HIDDEN).calcs([]))
    )
    panel = _configure_panel(panel, title, description, unit, (query,), thresholds, no_value, links)
    # Grafana widens the step where a panel has fewer points than its time range has intervals.
    panel = panel.interval(query.interval).max_data_points(MAX_POINTS).time_from(time_from)
    return PanelSpec(panel, width, height, (query,))
