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

SOURCE = d.DataSourceRef(type_val="prometheus", uid="${datasource}")
USD, TOKENS, REQUESTS, RATIO, SECONDS, TIME = "currencyUSD", "short", "short", "percentunit", "s", "dateTimeFromNow"
Steps = Sequence[tuple[float | None, str]]
PLAIN: Steps = ((None, "blue"),)
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
class Spec:
    """A panel before it has a place: its width of 24 and its height."""

    panel: Any
    width: int
    height: int
    queries: Sequence[Query] = field(default_factory=tuple)


def _target(query: Query, place: int) -> prometheus.Dataquery:
    one = prometheus.Dataquery().datasource(SOURCE).expr(query.expr).legend_format(query.legend)
    one = one.ref_id("ABCDEFGHIJ"[place]).editor_mode(p.QueryEditorMode.CODE)
    one = one.format(p.PromQueryFormat.TABLE if query.table else p.PromQueryFormat.TIME_SERIES)
    one = one.instant() if query.instant else one.range()
    return one.interval(query.interval) if query.interval else one


def _thresholds(steps: Steps) -> ThresholdsConfig:
    return (
        ThresholdsConfig().mode(d.ThresholdsMode.ABSOLUTE).steps([d.Threshold(value, color) for value, color in steps])
    )


def _finished(panel: Any, title: str, text: str, unit: str, queries: Sequence[Query], steps: Steps) -> Any:
    panel = panel.title(title).description(text).unit(unit).datasource(SOURCE).thresholds(_thresholds(steps))
    for place, query in enumerate(queries):
        panel = panel.with_target(_target(query, place))
    return panel


def figure(
    title: str,
    text: str,
    *queries: Query,
    unit: str = USD,
    steps: Steps = PLAIN,
    width: int = 4,
    decimals: int | None = None,
) -> Spec:
    """Return one large figure: the newest value."""
    shown = common.ReduceDataOptions().calcs(["lastNotNull"]).fields("").values(False)
    panel = (
        stat.Panel().reduce_options(shown).color_mode(c.BigValueColorMode.VALUE).graph_mode(c.BigValueGraphMode.NONE)
    )
    # At the end of the time range: the last step of a long range may be an hour old.
    queries = tuple(replace(query, instant=True) for query in queries)
    panel = _finished(panel, title, text, unit, queries, steps).no_value("none")
    return Spec(panel if decimals is None else panel.decimals(decimals), width, 4, queries)


def lines(
    title: str,
    text: str,
    *queries: Query,
    unit: str = USD,
    steps: Steps = PLAIN,
    width: int = 12,
    height: int = 9,
    stacked: bool = False,
    bars: bool = False,
    interval: str = "",
    last: str = "",
) -> Spec:
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
    panel = _finished(panel, title, text, unit, queries, steps)
    panel = panel.time_from(last) if last else panel
    return Spec(panel.interval(interval) if interval else panel, width, height, queries)


def columns(
    title: str, text: str, *queries: tuple[str, Query], x: str, unit: str = USD, width: int = 12, height: int = 9
) -> Spec:
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
    panel = _finished(panel, title, text, unit, told, PLAIN)
    named = {f"Value #{'ABCDEFGHIJ'[place]}" if several else "Value": one[0] for place, one in enumerate(queries)}
    if several:
        panel = panel.with_transformation(d.DataTransformerConfig(id_val="merge", options={}))
    for kind, options in (
        ("organize", {"excludeByName": {"Time": True}, "renameByName": named}),
        ("sortBy", {"sort": [{"field": x}]}),
    ):
        panel = panel.with_transformation(d.DataTransformerConfig(id_val=kind, options=options))
    return Spec(panel, width, height, told)


def gauges(
    title: str,
    text: str,
    *queries: Query,
    unit: str = RATIO,
    steps: Steps = PLAIN,
    width: int = 12,
    height: int = 9,
    most: float | None = None,
) -> Spec:
    """Return a bar per series: the newest values."""
    shown = common.ReduceDataOptions().calcs(["lastNotNull"]).fields("").values(False)
    panel = bargauge.Panel().reduce_options(shown).orientation(c.VizOrientation.HORIZONTAL).min(0)
    panel = panel.display_mode(c.BarGaugeDisplayMode.BASIC).value_mode(c.BarGaugeValueMode.TEXT)
    queries = tuple(replace(query, instant=True) for query in queries)
    panel = _finished(panel, title, text, unit, queries, steps).no_value("none")
    return Spec(panel if most is None else panel.max(most), width, height, queries)


def rows(
    title: str,
    text: str,
    queries: Sequence[tuple[str, Query, str]],
    *,
    hidden: Sequence[str] = (),
    sort: str = "",
    words: Mapping[str, Mapping[str, tuple[str, str]]] | None = None,
    width: int = 12,
    height: int = 9,
) -> Spec:
    """Return a table: of each query (heading, query, unit) a column, joined by labels.

    `words`: column -> value -> what is shown for it, and its colour.
    """
    told = tuple(query for _, query, _ in queries)
    panel = _finished(table.Panel(), title, text, "short", told, PLAIN).no_value("none")
    named = {f"Value #{'ABCDEFGHIJ'[place]}" if len(told) > 1 else "Value": one[0] for place, one in enumerate(queries)}
    for heading, _, unit in queries:
        panel = panel.override_by_name(heading, [d.DynamicConfigValue("unit", unit)])
    for label in ("model", "alertname", "workspace", "reason"):
        panel = panel.override_by_name(label, [d.DynamicConfigValue("custom.width", 190)])
    for label, meanings in (words or {}).items():
        named[label] = label.replace("_", " ")
        panel = panel.override_by_name(named[label], _in_words(meanings))
    gone = {"Time": True} | dict.fromkeys(hidden, True)
    first = ("Value",) if len(queries) == 1 and queries[0][2] == TIME else ()
    order = {name: place for place, name in enumerate((*first, "alertname", "budget", "account", "workspace", "model"))}
    if len(told) > 1:
        panel = panel.with_transformation(d.DataTransformerConfig(id_val="merge", options={}))
    panel = panel.with_transformation(
        d.DataTransformerConfig(
            id_val="organize", options={"excludeByName": gone, "renameByName": named, "indexByName": order}
        )
    )
    if sort:
        panel = panel.sort_by([common.TableSortByFieldState().display_name(sort).desc(True)])
    return Spec(panel, width, height, told)


def _in_words(meanings: Mapping[str, tuple[str, str]]) -> list[d.DynamicConfigValue]:
    shown = {
        value: {"text": told, "color": color, "index": place}
        for place, (value, (told, color)) in enumerate(meanings.items())
    }
    return [
        d.DynamicConfigValue("mappings", [{"type": "value", "options": shown}]),
        d.DynamicConfigValue("custom.displayMode", "color-text"),
        d.DynamicConfigValue("custom.cellOptions", {"type": "color-text"}),
    ]


def states(
    title: str, text: str, *queries: Query, mappings: Sequence[tuple[str, str, str]], width: int = 24, height: int = 8
) -> Spec:
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
    return Spec(_finished(panel, title, text, "short", queries, PLAIN).no_value("none"), width, height, queries)
