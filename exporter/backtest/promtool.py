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

from exporter.backtest.promtool_series import STEP, PromtoolSeries
from exporter.errors import ExporterError

FIRING_ALERTS_QUERY = 'ALERTS{alertstate="firing"}'


class ReplayError(ExporterError):
    """The rules cannot be run; the message includes the remedy."""


@dataclass(frozen=True, slots=True)
class AlertEpisode:
    """An alert that fired."""

    alert: str
    labels: Mapping[str, str]
    """Without the alert's name."""
    since: datetime
    until: datetime | None
    """None: it still fired at the end."""


def find_alert_episodes(
    promtool: Path,
    rules: Sequence[Path],
    all_series: Iterable[PromtoolSeries],
    start: datetime,
    step_count: int,
    step_width: timedelta = STEP,
) -> list[AlertEpisode]:
    """Return every episode of every alert, in order of time, to the step.

    Courses begin at `start` and have a value every `step_width`, whole minutes, at which the rules are evaluated;
    promtool's own time begins at 1970 and is moved there. Raises ReplayError.
    """
    minutes = _in_minutes(step_width)
    with tempfile.TemporaryDirectory(prefix="ai-spend-replay-") as folder:
        path = Path(folder) / "replay.yml"
        with path.open("w", encoding="utf-8") as file:
            file.write(f"rule_files: [{', '.join(_quote(str(rule_file.absolute())) for rule_file in rules)}]\n")
            file.write(f"evaluation_interval: {minutes}m\ntests:\n- interval: {minutes}m\n")
            file.write("  input_series:\n")
            for course in all_series:
                file.write(f"  - {{series: {_quote(course.selector)}, values: {_quote(course.values)}}}\n")
            file.write("  promql_expr_test:\n")
            for step in range(step_count):
                file.write(
                    f"  - {{expr: {_quote(FIRING_ALERTS_QUERY)}, eval_time: {step * minutes}m, exp_samples: []}}\n"
                )
        ended = _run_promtool(promtool, path)
    return _parse_episodes(ended, start, step_count, step_width)


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _in_minutes(duration: timedelta) -> int:
    return duration // timedelta(minutes=1)


def _run_promtool(promtool: Path, path: Path) -> str:
    try:
        ended = subprocess.run(  # noqa: S603 - the program that the user names
            [str(promtool), "test", "rules", str(path)], capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise ReplayError(f"{promtool} cannot be run: {error.strerror}. Give its place with --promtool.") from error
    output = ended.stdout + ended.stderr
    # promtool reports every firing alert as a failed expectation, because the test expects none.
    if ended.returncode and not _FAILED_EXPECTATION.search(output):
        raise ReplayError(f"{promtool} rejects the rules:\n{output.replace(str(path), 'replay').strip()}")
    return output


_FAILED_EXPECTATION = re.compile(
    rf"expr: {re.escape(json.dumps(FIRING_ALERTS_QUERY))}, time: (\S+),\s+exp: ?\S*\s+got: (.*)"
)
_SERIES = re.compile(r'\{((?:[^{}"]|"(?:[^"\\]|\\.)*")*)\}')
_LABEL = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*")')
_DURATION_PART = re.compile(r"(\d+)(ms|[ywdhms])")
_SECONDS = {"y": 31_536_000, "w": 604_800, "d": 86_400, "h": 3600, "m": 60, "s": 1, "ms": 0}


def _parse_episodes(output: str, start: datetime, step_count: int, step_width: timedelta) -> list[AlertEpisode]:
    firing: dict[frozenset[tuple[str, str]], list[int]] = {}
    for found in _FAILED_EXPECTATION.finditer(output):
        seconds = sum(int(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(found[1]))
        for series in _SERIES.findall(found[2]):
            labels = {name: str(json.loads(value)) for name, value in _LABEL.findall(series)}
            firing.setdefault(frozenset(labels.items()), []).append(seconds // int(step_width.total_seconds()))
    episodes = [
        AlertEpisode(
            dict(labels)["alertname"],
            {name: value for name, value in sorted(labels) if name not in ("__name__", "alertname", "alertstate")},
            start + first * step_width,
            None if last == step_count - 1 else start + (last + 1) * step_width,
        )
        for labels, at in firing.items()
        for first, last in _consecutive_ranges(sorted(at))
    ]
    return sorted(episodes, key=lambda episode: (episode.since, episode.alert, sorted(episode.labels.items())))


def _consecutive_ranges(steps: Sequence[int]) -> Iterable[tuple[int, int]]:
    first = before = steps[0]
    for step in steps[1:]:
        if step != before + 1:
            yield first, before
            first = step
        before = step
    yield first, before
