"""The daily cost as bars: SVG in percent of its box, so that it fits any width and its hatching stays even."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor, log10

from exporter.model import NANO
from exporter.ui.format import DASH, format_day, format_money
from exporter.ui.page_data import Bar
from exporter.ui.table import Column, render_table

MAX_GRID_LINES = 5
_TICK_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
SPARKLINE_HEIGHT = 20
"""In units of its view box; CSS gives it its size."""
MIN_SPARKLINE_DAYS = 2
_HEADING = '<section aria-labelledby="days"><h2 id="days">Daily cost</h2>\n'


def axis_ticks(maximum: int) -> list[int]:
    """Return round amounts in nano-USD from 0 to at least `most`, at most five steps of at least a cent."""
    least = max(maximum / NANO / MAX_GRID_LINES, 0.01)
    power = 10.0 ** floor(log10(least))
    step = next(round(factor * power * NANO) for factor in _TICK_STEPS if factor * power >= least * 0.999_999)
    return [number * step for number in range(max(1, ceil(maximum / step)) + 1)]


def render_chart(bars: Sequence[Bar]) -> str:
    """Render the daily cost as a bar chart; the last day is still running."""
    if not any(bar.has_data for bar in bars):
        return f"{_HEADING}<p>No day has been read yet.</p>\n</section>\n"
    lines = axis_ticks(max((bar.billed + bar.estimated for bar in bars), default=0))
    top, width = lines[-1], 100 / max(1, len(bars))
    scale = "".join(
        f'<span style="bottom:calc({100 * tick / top:.2f}% - .6rem)">{_format_tick(tick)}</span>' for tick in lines
    )
    grid = "".join(
        f'<line class="grid" x1="0" x2="100%" y1="{100 - 100 * tick / top:.2f}%" y2="{100 - 100 * tick / top:.2f}%"/>'
        for tick in lines
    )
    drawn = "".join(
        _render_day_bar(bar, place * width, width, top, last=bar is bars[-1]) for place, bar in enumerate(bars)
    )
    dates = "".join(
        f'<span style="left:{(place + 0.5) * width:.2f}%">{format_day(bar.start)}</span>'
        for place, bar in enumerate(bars[:-1])
        if (len(bars) - 1 - place) % 7 == 0
    )
    return (
        f'{_HEADING}<div class="chart"><div class="scale" aria-hidden="true">{scale}</div>'
        f'<svg role="group" aria-label="Cost of each of the last {len(bars)} UTC days">{grid}{drawn}</svg>'
        f'<div class="dates" aria-hidden="true">{dates}<span class="last">today</span></div></div>\n'
        f"{_LEGEND}{_render_table(bars)}</section>\n"
    )


def describe_bar(bar: Bar, *, running: bool) -> str:
    """Return a day in words: `2026-11-17: $12.00, billed`."""
    if not bar.has_data:
        return f"{bar.start:%Y-%m-%d}: not read"
    return f"{bar.start:%Y-%m-%d}: {_format_amount(bar)}, {_describe_state(bar, running=running)}"


def _format_amount(bar: Bar) -> str:
    return format_money(bar.billed + bar.estimated) if bar.has_data else "not read"


def _describe_state(bar: Bar, *, running: bool) -> str:
    if not bar.has_data:
        return "not read"
    if bar.billed and bar.estimated:
        state = f"{format_money(bar.billed)} billed, {format_money(bar.estimated)} estimated"
    else:
        state = "estimated" if bar.estimated else "billed" if bar.billed else "nothing used"
    return f"today, still running, {state}" if running else state


def _render_day_bar(bar: Bar, left: float, width: float, top: int, *, last: bool) -> str:
    # A credit may make a day's cost negative: there is nothing to draw of it.
    solid, hatched = (100 * max(0, cost) / top for cost in (bar.billed, bar.estimated))
    x, wide = f"{left + width * 0.12:.2f}%", f"{width * 0.76:.2f}%"
    parts = [
        f'<rect class="{kind}" x="{x}" y="{100 - above - height:.2f}%" width="{wide}" height="{height:.2f}%"/>'
        for kind, above, height in (("billed", 0.0, solid), ("open", solid, hatched))
        if height > 0
    ]
    if last:
        parts.append(f'<rect class="now" x="{left:.2f}%" y="0" width="{width:.2f}%" height="100%"/>')
    return (
        f'<g role="img"><title>{describe_bar(bar, running=last)}</title>'
        f'<rect class="back" x="{left:.2f}%" y="0" width="{width:.2f}%" height="100%"/>{"".join(parts)}</g>'
    )


_LEGEND_ITEM = '<svg aria-hidden="true"><rect class="{}" x="1" y="1" width="85%" height="85%"/></svg> {}'
_LEGEND = (
    '<p class="key"><small>'
    + "".join(
        f"<span>{_LEGEND_ITEM.format(kind, name)}</span>"
        for kind, name in (("billed", "billed"), ("open", "estimated"), ("now", "today, still running"))
    )
    + "</small></p>\n"
)


def _render_table(bars: Sequence[Bar]) -> str:
    rows = (
        (f"{bar.start:%Y-%m-%d}", _format_amount(bar), _describe_state(bar, running=bar is bars[-1]))
        for bar in reversed(bars)
        if bar.has_data
    )
    table = render_table("Daily cost", (Column("Day"), Column("Cost", "n"), Column("State")), rows, "narrow")
    return f"<details><summary>The days as a table</summary>{table}</details>\n"


def render_sparkline(costs: Sequence[int | None]) -> str:
    """Return daily costs as a small line; a day that was not read is a gap, and without two days there is a dash."""
    known = [max(0, cost) for cost in costs if cost is not None]
    if len(known) < MIN_SPARKLINE_DAYS:
        return f'<span class="muted" title="fewer than two days were read">{DASH}</span>'
    top = max(known) or 1
    points = [
        None if cost is None else f"{number} {SPARKLINE_HEIGHT * (1 - max(0, cost) / top):.1f}"
        for number, cost in enumerate(costs)
    ]
    path = "".join(
        f"{'M' if number == 0 or points[number - 1] is None else 'L'}{point}"
        for number, point in enumerate(points)
        if point is not None
    )
    label = f"Daily cost of {len(known)} days, from {format_money(min(known))} to {format_money(max(known))}"
    return (
        f'<svg class="spark" role="img" aria-label="{label}" viewBox="0 -1 {len(costs) - 1} {SPARKLINE_HEIGHT + 2}" '
        f'preserveAspectRatio="none"><title>{label}</title><path d="{path}"/></svg>'
    )


def _format_tick(nano_usd: int) -> str:
    dollars = nano_usd / NANO
    if dollars >= 1_000_000:
        return f"${dollars / 1_000_000:g}M"
    return f"${dollars:,.0f}" if nano_usd % NANO == 0 else f"${dollars:,.2f}"
