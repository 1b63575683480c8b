"""The section of docs/estimates.md on irregular bills: the errors before this kind of bill was handled, and now."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from tests.scenarios.irregular_before import BEFORE
from tests.scenarios.irregular_bills import SCENARIOS, IrregularScenario, Measurement
from tests.scenarios.results_table import (
    IRREGULAR_HEADING,
    MIN_ERROR,
    PATH,
    format_percent,
    parse_percent,
    read_section,
    write_section,
)

__all__ = ["MIN_ERROR", "TableRow", "parse_row", "read_rows", "render_row", "write_row"]

_TEXT = """
Each row is a simulated account, read by the whole exporter over HTTP: first 15 days of history, then six days with
five observations a day. *Before* was measured once, before irregular bills were handled; *after* is this version.

- *Yesterday*, *today*, *month* and *forecast* are the largest error at any observation: `ai_cost_daily_usd` of the day
  before; `ai_cost_today_usd`, compared with the final cost of the hours until then; `ai_cost_month_usd`; and
  `ai_budget_forecast_usd` of a monthly budget, compared with what the whole month is billed if charges that occur on
  single days do not occur again. A charge that occurs on single days, and a later change of a bill, count from the time
  at which the provider answers with them.
- *Wrong hours* are hours of the day of an observation or the day before, of 168, that were exported with another cost
  than the final one: by more than 5 % and 0.05 USD.
- *Spikes* are observations, of 30, at which a condition of a spike alert was met although usage had not increased: a
  workspace's running or newest hour, or one of the newest 24, above its upper bound.
- *Billed early* are days, of 6, that were exported as billed before the provider had issued their whole bill.

| situation | what happens | yesterday | today | month | forecast | wrong hours | spikes | billed early |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""
_ERRORS = ("yesterday", "today", "month", "forecast")
_COUNTS = ("wrong_hours", "spikes", "premature_days")
_ARROW = " → "
_ROW = re.compile(r"^\| (?!situation|---)(.+) \|$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class TableRow:
    """One row of the table; errors are parts of the true value."""

    description: str
    before: Mapping[str, float]
    after: Mapping[str, float]


def read_rows() -> dict[str, TableRow]:
    """Return situation -> row of the document."""
    return {_cells(row)[0]: parse_row(row) for row in _read_lines()}


def write_row(name: str, measured: Measurement) -> None:
    """Replace the row of a scenario in the document; rows are in the order of the scenarios."""
    lines = {_cells(line)[0]: line for line in _read_lines()} | {name: render_row(SCENARIOS[name], measured)}
    rows = "".join(f"{lines[scenario]}\n" for scenario in SCENARIOS if scenario in lines)
    write_section(PATH, IRREGULAR_HEADING, _TEXT + rows)


def render_row(scenario: IrregularScenario, measured: Measurement) -> str:
    """Return the row of a scenario, without a line break."""
    before = BEFORE[scenario.name]
    errors = [
        f"{format_percent(getattr(before, name))}{_ARROW}{format_percent(getattr(measured, name))}" for name in _ERRORS
    ]
    counts = [f"{getattr(before, name)}{_ARROW}{getattr(measured, name)}" for name in _COUNTS]
    return f"| {' | '.join([scenario.name, scenario.description, *errors, *counts])} |"


def parse_row(line: str) -> TableRow:
    """Return the values of a row."""
    _, description, *cells = _cells(line)
    values: tuple[dict[str, float], dict[str, float]] = ({}, {})
    for name, cell in zip((*_ERRORS, *_COUNTS), cells, strict=True):
        for side, text in zip(values, cell.split(_ARROW), strict=True):
            side[name] = parse_percent(text) if name in _ERRORS else float(text)
    return TableRow(description, *values)


def _read_lines() -> list[str]:
    return [match[0] for match in _ROW.finditer(read_section(PATH, IRREGULAR_HEADING))]


def _cells(line: str) -> list[str]:
    return line.strip("| ").split(" | ")
