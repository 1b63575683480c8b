"""The table of docs/estimates.md: for each scenario the error of our estimates beside that of two simpler ways."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median

from tests.paths import ROOT
from tests.scenarios.run_scenario import Estimate, ScenarioRun

PATH = ROOT / "docs" / "estimates.md"
MIN_ERROR = 0.0001
"""Errors below this, 0.01 %, are shown as smaller than it."""
IRREGULAR_HEADING = "## Irregular bills\n"
"""The heading of the document's second section, which `irregular_table` writes; `parse_document` ignores it."""

_HEADER = """# Accuracy of estimates

Written by `make estimates`; do not edit. Each row is a simulated account, run day by day through the whole exporter
over HTTP. A day's cost is read from `ai_cost_daily_usd` when all its usage is reported and its bill is not available
yet, and compared with the amount that the provider bills afterwards: |estimate - bill| / bill, the median of the days
and, in brackets, the worst day. *Claimed* is the largest error that the tests accept for this exporter on any day.
*List price* is usage times published prices. *Last bill* takes the newest billed day as the day's cost.

Included are the days that are estimated after the first bill was available. Where something changes that no bill can
show yet (the day of a price change, the first day of a model without a list price), that day is not included for any
of the three.

| situation | what happens | claimed | ours | list price | last bill |
| --- | --- | --- | --- | --- | --- |
"""
_ROW = re.compile(r"^\| (?!situation|---)(.+?) \| (.+?) \| (.+?) \| (.+?) \| (.+?) \| (.+?) \|$", re.MULTILINE)
_PAIR = re.compile(r"(?:<\s)?([\d.]+) % \((?:<\s)?([\d.]+) %\)")

METHODS = ("ours", "list price", "last bill")


def errors(run: ScenarioRun) -> dict[str, list[float]]:
    """Return each way's absolute errors, as parts of the bill, on the days that count; days without a bill do not."""
    last: dict[str, Estimate] = {
        f"{estimate.day}": estimate for estimate in run.counted_estimates() if run.bills[estimate.day]
    }
    return {
        "ours": [_relative_error(estimate.nano, run.bills[estimate.day]) for estimate in last.values()],
        "list price": [
            _relative_error(run.list_costs[estimate.day], run.bills[estimate.day]) for estimate in last.values()
        ],
        "last bill": [
            _relative_error(estimate.newest_bill or 0, run.bills[estimate.day]) for estimate in last.values()
        ],
    }


def render_document(runs: Iterable[ScenarioRun]) -> str:
    """Return the document."""
    return _HEADER + "".join(_render_row(run) for run in runs)


def parse_document(text: str) -> Mapping[str, tuple[str, Mapping[str, tuple[float, float]]]]:
    """Return situation -> (what is claimed, way -> (median, worst)) of a document; errors as parts of the bill."""
    return {
        name: (claimed, {way: _parse_pair(cell) for way, cell in zip(METHODS, cells, strict=True)})
        for name, _, claimed, *cells in _ROW.findall(text.partition(IRREGULAR_HEADING)[0])
    }


def read_section(path: Path, heading: str) -> str:
    """Return the text below a heading up to the end of the document; empty where it has no such heading."""
    return path.read_text().partition(heading)[2]


def write_section(path: Path, heading: str, text: str) -> None:
    """Replace a heading and everything below it."""
    first_section = path.read_text().partition(heading)[0].rstrip("\n")
    path.write_text(f"{first_section}\n\n{heading}{text}")


def write_first_section(path: Path, text: str) -> None:
    """Replace everything above IRREGULAR_HEADING."""
    second_section = read_section(path, IRREGULAR_HEADING)
    path.write_text(f"{text}\n{IRREGULAR_HEADING}{second_section}" if second_section else text)


def _render_row(run: ScenarioRun) -> str:
    found, scenario = errors(run), run.scenario
    cells = [f"{format_percent(median(found[way]))} ({format_percent(max(found[way]))})" for way in METHODS]
    max_error = f"{scenario.max_error:.1%}".replace("%", " %")
    return f"| {' | '.join([scenario.name, scenario.description, max_error, *cells])} |\n"


def format_percent(error: float) -> str:
    """Write two significant digits; an error below MIN_ERROR as smaller than it."""
    if error < MIN_ERROR:
        return f"< {MIN_ERROR * 100:g} %"
    percent = float(f"{error * 100:.2g}")
    return f"{percent:.0f} %" if percent >= 10 else f"{percent:g} %"


def parse_percent(text: str) -> float:
    """Return the error that `format_percent` wrote, as part of the true value."""
    return float(text.removeprefix("< ").removesuffix(" %")) / 100


def _parse_pair(cell: str) -> tuple[float, float]:
    found = _PAIR.fullmatch(cell)
    assert found is not None, cell
    return float(found[1]) / 100, float(found[2]) / 100


def _relative_error(estimate: int, bill: int) -> float:
    return abs(estimate - bill) / bill
