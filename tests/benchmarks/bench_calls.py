"""Calls of a first poll, of an hour and of a day, beside the minimum that the providers' limits allow."""

from __future__ import annotations

from pathlib import Path

from exporter.model import DAY, HOUR
from tests.benchmarks.calls import start_call_counter
from tests.benchmarks.minimum_calls import CallCounts


def test_no_call_more_than_the_limits_require(tmp_path: Path) -> None:
    """A first poll, an hour of steady polling and a day of it make exactly the minimum of calls."""
    with start_call_counter(tmp_path) as counter:
        counts = {
            "first poll": counter.run_first_poll(),
            "hour": counter.run_steady_polling(HOUR),
            "day": counter.run_steady_polling(DAY),
        }
    print(_format_table(counts))
    for period, (made, minimum) in counts.items():
        assert made == minimum, period


def _format_table(counts: dict[str, tuple[CallCounts, CallCounts]]) -> str:
    """Return a table of calls made / minimum, a line per report and a line per provider."""
    lines = ["", f"  {'made / minimum':<38}" + "".join(f"{period:>16}" for period in counts)]
    reports = sorted({key for pair in counts.values() for calls in pair for key in calls})
    for provider in sorted({provider for provider, _ in reports}):
        own = [report for report in reports if report[0] == provider]
        lines += [_format_row(f"{provider} {name}", counts, [(provider, name)]) for _, name in own]
        lines.append(_format_row(f"{provider}, all", counts, own))
    return "\n".join(lines)


def _format_row(title: str, counts: dict[str, tuple[CallCounts, CallCounts]], reports: list[tuple[str, str]]) -> str:
    cells = (" / ".join(str(sum(calls[report] for report in reports)) for calls in pair) for pair in counts.values())
    return f"  {title:<38}" + "".join(f"{cell:>16}" for cell in cells)
