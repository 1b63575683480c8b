"""What grows by how much when accounts, series or days double, each alone."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

from tests.benchmarks.results import write_results
from tests.paths import ROOT

RUNS = 3
MAX_RATIO = 2.5
"""Of a doubled size: linear growth, fuller processor caches, and what a run differs from the next."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much there is."""

    accounts: int
    label_sets: int
    """Combinations of workspace, model and tier of an account."""
    days: int


@dataclass(frozen=True, slots=True)
class Growth:
    """The costs of a size, each divided by that of the base."""

    doubled: str
    ratios: Mapping[str, float]


BASE = Size(accounts=8, label_sets=48, days=14)


def measure_growth(folder: Path, base: Size = BASE, runs: int = RUNS) -> tuple[Mapping[str, float], list[Growth]]:
    """Return the costs of the base, and the growth by each dimension that is doubled; medians."""
    sizes = {"": base} | {name: replace(base, **{name: 2 * value}) for name, value in asdict(base).items()}
    costs: dict[str, list[Mapping[str, float]]] = {name: [] for name in sizes}
    for run in range(runs):
        for name, size in sizes.items():
            costs[name].append(_measure(folder / f"{run}-{name}", size))
    medians = {name: {key: median(cost[key] for cost in found) for key in found[0]} for name, found in costs.items()}
    growths = [
        Growth(name, {key: value / medians[""][key] for key, value in medians[name].items()}) for name in sizes if name
    ]
    return medians[""], growths


def test_costs_grow_linearly_or_less(tmp_path: Path) -> None:
    """Twice as many accounts, series or days cost at most about twice as much of anything."""
    base, growths = measure_growth(tmp_path)
    print(f"\n  {BASE}; CPU time and sizes, and their growth when a dimension is doubled, medians of {RUNS}")
    print(f"  {'':<22}{'base':>10}" + "".join(f"{growth.doubled:>14}" for growth in growths))
    for key, value in base.items():
        print(f"  {key:<22}{value:>10,.0f}" + "".join(f"{growth.ratios[key]:>14.2f}" for growth in growths))
    write_results("growth", growths)
    for growth in growths:
        for key, ratio in growth.ratios.items():
            assert ratio <= MAX_RATIO, (growth.doubled, key)


def _measure(folder: Path, size: Size) -> Mapping[str, float]:
    folder.mkdir()
    command = [sys.executable, "-m", "tests.benchmarks.growth_process", str(folder), *map(str, asdict(size).values())]
    output = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
    costs: Mapping[str, float] = json.loads(output)
    return costs
