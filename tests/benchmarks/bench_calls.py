"""Calls of a first poll, of an hour and of a day, beside the fewest that the providers' limits allow."""

from __future__ import annotations

from pathlib import Path

from exporter.model import DAY, HOUR
from tests.benchmarks.calls import start_call_counter
from tests.benchmarks.minimum_calls import CallCounts


def test_no_call_more_than_the_limits_ask_for(tmp_path: Path) -> None:
    """A first poll, an hour of steady polling and a day with its deep read and names make exactly the fewest calls."""
    with start_call_counter(tmp_path) as it:
        taken = {
            "first poll": it.run_first_poll(),
            "hour": it.run_steady_polling(HOUR),
            "day": it.run_steady_polling(DAY),
        }
    print(_format_table(taken))
    for when, (asked, fewest) in taken.items():
        assert asked == fewest, when


def _format_table(counts: dict[str, tuple[CallCounts, CallCounts]]) -> str:
    """Lay the counts out: asked / fewest, a line per report and one per provider."""
    lines = ["", f"  {'asked / fewest':<38}" + "".join(f"{when:>16}" for when in counts)]
    reports = sorted({key for pair in counts.values() for calls in pair for key in calls})
    for provider in sorted({provider for provider, _ in reports}):
        mine = [report for report in reports if report[0] == provider]
        lines += [_format_row(f"{provider} {name}", counts, [(provider, name)]) for _, name in mine]
        lines.append(_format_row(f"{provider}, all", counts, mine))
    return "\n".join(lines)


def _format_row(title: str, counts: dict[str, tuple[CallCounts, CallCounts]], reports: list[tuple[str, str]]) -> str:
    cells = (" / ".join(str(sum(calls[report] for report in reports)) for calls in pair) for pair in counts.values())
    return f"  {title:<38}" + "".join(f"{cell:>16}" for cell in cells)
