"""Calls of a first poll, of an hour and of a day, beside the fewest that the providers' limits allow."""

from __future__ import annotations

from pathlib import Path

from exporter.model import DAY, HOUR
from tests.benchmarks.calls import counted
from tests.benchmarks.minimum_calls import Calls


def test_no_call_more_than_the_limits_ask_for(tmp_path: Path) -> None:
    """A first poll, an hour of steady polling and a day with its deep read and names make exactly the fewest calls."""
    with counted(tmp_path) as it:
        taken = {"first poll": it.first_poll(), "hour": it.steady(HOUR), "day": it.steady(DAY)}
    print(_table(taken))
    for when, (asked, fewest) in taken.items():
        assert asked == fewest, when


def _table(taken: dict[str, tuple[Calls, Calls]]) -> str:
    """Lay the counts out: asked / fewest, a line per report and one per provider."""
    lines = ["", f"  {'asked / fewest':<38}" + "".join(f"{when:>16}" for when in taken)]
    reports = sorted({key for pair in taken.values() for calls in pair for key in calls})
    for provider in sorted({provider for provider, _ in reports}):
        mine = [report for report in reports if report[0] == provider]
        lines += [_line(f"{provider} {name}", taken, [(provider, name)]) for _, name in mine]
        lines.append(_line(f"{provider}, all", taken, mine))
    return "\n".join(lines)


def _line(title: str, taken: dict[str, tuple[Calls, Calls]], reports: list[tuple[str, str]]) -> str:
    cells = (" / ".join(str(sum(calls[report] for report in reports)) for calls in pair) for pair in taken.values())
    return f"  {title:<38}" + "".join(f"{cell:>16}" for cell in cells)
