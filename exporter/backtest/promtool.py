"""Runs rules over courses with promtool, and finds out which alerts fired when."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from exporter.backtest.promtool_series import STEP, Course
from exporter.errors import ExporterError

QUERY = 'ALERTS{alertstate="firing"}'


class ReplayError(ExporterError):
    """The rules cannot be run; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Episode:
    """An alert that fired."""

    alert: str
    labels: Mapping[str, str]
    """Without the alert's name."""
    since: datetime
    until: datetime | None
    """None: it still fired at the end."""


def fired(
    promtool: Path, rules: Sequence[Path], courses: Iterable[Course], start: datetime, steps: int
) -> list[Episode]:
    """Return every episode of every alert, in order of time, to the step.

    Courses begin at `start`; promtool's own time begins at 1970 and is moved there. Raises ReplayError.
    """
    with tempfile.TemporaryDirectory(prefix="ai-spend-replay-") as folder:
        path = Path(folder) / "replay.yml"
        with path.open("w", encoding="utf-8") as file:
            file.write(f"rule_files: [{', '.join(_quoted(str(one.absolute())) for one in rules)}]\n")
            file.write(f"evaluation_interval: {_minutes(STEP)}m\ntests:\n- interval: {_minutes(STEP)}m\n")
            file.write("  input_series:\n")
            for course in courses:
                file.write(f"  - {{series: {_quoted(course.text)}, values: {_quoted(course.values)}}}\n")
            file.write("  promql_expr_test:\n")
            for step in range(steps):
                file.write(f"  - {{expr: {_quoted(QUERY)}, eval_time: {step * _minutes(STEP)}m, exp_samples: []}}\n")
        ended = _run(promtool, path)
    return _episodes(ended, start, steps)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _minutes(span: timedelta) -> int:
    return span // timedelta(minutes=1)


def _run(promtool: Path, path: Path) -> str:
    try:
        ended = subprocess.run(  # noqa: S603 - the program that the user names
            [str(promtool), "test", "rules", str(path)], capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise ReplayError(f"{promtool} cannot be run: {error.strerror}. Give its place with --promtool.") from error
    told = ended.stdout + ended.stderr
    # Whatever fires is told as a failed expectation, because none was expected to fire.
    if ended.returncode and not _FAILED.search(told):
        raise ReplayError(f"{promtool} refuses the rules:\n{told.replace(str(path), 'replay').strip()}")
    return told


_FAILED = re.compile(rf"expr: {re.escape(json.dumps(QUERY))}, time: (\S+),\s+exp: ?\S*\s+got: (.*)")
_SERIES = re.compile(r'\{((?:[^{}"]|"(?:[^"\\]|\\.)*")*)\}')
_LABEL = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*")')
_PART = re.compile(r"(\d+)(ms|[ywdhms])")
_SECONDS = {"y": 31_536_000, "w": 604_800, "d": 86_400, "h": 3600, "m": 60, "s": 1, "ms": 0}


def _episodes(told: str, start: datetime, steps: int) -> list[Episode]:
    firing: dict[frozenset[tuple[str, str]], list[int]] = {}
    for found in _FAILED.finditer(told):
        seconds = sum(int(number) * _SECONDS[unit] for number, unit in _PART.findall(found[1]))
        for series in _SERIES.findall(found[2]):
            labels = {name: str(json.loads(value)) for name, value in _LABEL.findall(series)}
            firing.setdefault(frozenset(labels.items()), []).append(seconds // int(STEP.total_seconds()))
    episodes = [
        Episode(
            dict(labels)["alertname"],
            {name: value for name, value in sorted(labels) if name not in ("__name__", "alertname", "alertstate")},
            start + first * STEP,
            None if last == steps - 1 else start + (last + 1) * STEP,
        )
        for labels, at in firing.items()
        for first, last in _stretches(sorted(at))
    ]
    return sorted(episodes, key=lambda one: (one.since, one.alert, sorted(one.labels.items())))


def _stretches(steps: Sequence[int]) -> Iterable[tuple[int, int]]:
    first = before = steps[0]
    for step in steps[1:]:
        if step != before + 1:
            yield first, before
            first = step
        before = step
    yield first, before
