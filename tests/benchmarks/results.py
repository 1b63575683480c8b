"""Results of benchmarks as JSON, beside the printed table."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.paths import ROOT


def write_results(name: str, results: Sequence[Any]) -> None:
    """Write dataclasses to `NAME.json` in the folder of results, `build/benchmarks` unless BENCHMARK_RESULTS is set."""
    folder = Path(os.environ.get("BENCHMARK_RESULTS", ROOT / "build" / "benchmarks"))
    folder.mkdir(parents=True, exist_ok=True)
    content = [asdict(result) for result in results]
    (folder / f"{name}.json").write_text(f"{json.dumps(content, indent=1)}\n")
