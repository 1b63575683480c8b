"""The figures of an account as a person reads them: tables to lay beside the provider's own pages, and sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table

from exporter.check import Day, Figures, Total
from exporter.metrics.families import ESTIMATE_ERROR
from exporter.model import LEVEL_METERS, NANO
from exporter.ui.format import counted, money, percent

MOST_ROWS = 20
"""In a table by name; what is smaller is one row together."""
CENT = NANO // 100
SLIGHT = 0.0001
"""A part of a bill that two decimals of a percentage do not show."""


def tables(figures: Figures, *, bills: bool) -> Iterator[Table]:
    """Yield what was used and what it cost, by day and by name; `bills` says that bills come after use."""
    yield _by_day(figures, bills=bills)
    for heading, totals in (
        ("Workspace", figures.workspaces),
        ("Model or item", figures.models),
        ("Tier", figures.tiers),
    ):
        yield _by_name(heading, totals, figures.total)
    yield _by_type(figures.tokens)
    if figures.units:
        names = [f"{unit} (largest hour)" if unit in LEVEL_METERS else unit for unit in figures.units]
        yield _table({"Other units": names, "Number": [f"{number:,}" for number in figures.units.values()]})


def sentences(figures: Figures, *, bills: bool) -> Iterator[str]:
    """Yield what the tables mean: what is billed, how near estimates were, what has no price."""
    today = figures.days[-1].start
    if not bills:
        yield f"Use carries its price here, so there is no bill to wait for. {today:%Y-%m-%d} still grows."
    else:
        yield from _billed(figures)
        yield from _nearness([day for day in figures.days if day.error is not None])
    if figures.unpriced:
        models = ", ".join(f"{plain(model)} ({number:,})" for model, number in figures.unpriced.items())
        yield f"Tokens without a known price, whose cost is missing until they are billed: {models}."


def plain(text: str) -> str:
    """Return foreign text as it may be shown on a terminal: on one line, without control characters."""
    return "".join(one if one.isprintable() else " " for one in text)


@dataclass(frozen=True, slots=True)
class _Line:
    """A row of the table by day; money in nano-USD, None where there is none to show."""

    label: str
    total: Total
    estimate: int | None = None
    billed: int | None = None
    difference: int | None = None
    unbilled: str = ""
    """Stands for a bill that is not there."""


def _by_day(figures: Figures, *, bills: bool) -> Table:
    unbilled = figures.unbilled
    lines = [_line(day, "not yet" if day in unbilled else "-") for day in figures.days]
    lines += [*(_subtotals(figures) if bills else ()), _Line("Total", figures.total)]
    columns: dict[str, list[str]] = {"Day (UTC)": [line.label for line in lines]}
    columns |= _used([line.total for line in lines])
    if not bills:
        return _table(columns | {"Cost": [_usd(line.total.cost) for line in lines]}, totals=1)
    columns["Estimate"] = [_or_blank(_usd, line.estimate) for line in lines]
    columns["Billed"] = [_or_blank(_usd, line.billed) or line.unbilled for line in lines]
    columns["Difference"] = [_or_blank(_signed, line.difference) for line in lines]
    return _table(columns, totals=len(lines) - len(figures.days))


def _line(day: Day, unbilled: str) -> _Line:
    billed = day.total.cost if day.billed else None
    return _Line(f"{day.start:%Y-%m-%d}", day.total, day.estimate, billed, day.difference, unbilled)


def _subtotals(figures: Figures) -> Iterator[_Line]:
    if billed := figures.billed:
        differences, total = [day.difference or 0 for day in billed], _sum(billed)
        yield _Line(f"{len(billed)} billed", total, _estimated(billed), total.cost, sum(differences))
    unbilled = figures.unbilled
    yield _Line(f"{len(unbilled)} unbilled", _sum(unbilled), _estimated(unbilled))


def _sum(days: Iterable[Day]) -> Total:
    return sum((day.total for day in days), Total())


def _estimated(days: Iterable[Day]) -> int:
    return sum(day.estimate or 0 for day in days)


def _by_name(heading: str, totals: Mapping[str, Total], whole: Total) -> Table:
    rows = [(plain(name) or "(none)", total) for name, total in totals.items()][:MOST_ROWS]
    if rest := [*totals.values()][MOST_ROWS:]:
        rows.append((f"and {len(rest)} more", sum(rest, Total())))
    rows.append(("Total", whole))
    columns: dict[str, list[str]] = {heading: [name for name, _ in rows]}
    columns |= _used([total for _, total in rows])
    columns["Cost"] = [_usd(total.cost) for _, total in rows]
    columns["Share"] = [percent(total.cost, whole.cost) for _, total in rows]
    return _table(columns, totals=1)


def _by_type(tokens: Mapping[str, int]) -> Table:
    whole = sum(tokens.values())
    rows = [*tokens.items(), ("Total", whole)]
    return _table(
        {
            "Token type": [name for name, _ in rows],
            "Tokens": [f"{number:,}" for _, number in rows],
            "Share": [percent(number, whole) for _, number in rows],
        },
        totals=1,
    )


def _used(totals: Sequence[Total]) -> dict[str, list[str]]:
    columns = {"Tokens": [f"{total.tokens:,}" for total in totals]}
    if any(total.requests for total in totals):
        columns["Requests"] = [f"{total.requests:,}" if total.requests else "" for total in totals]
    return columns


def _table(columns: Mapping[str, Sequence[str]], totals: int = 0) -> Table:
    """Return a table of columns, the first of names and the others of numbers; its last rows are totals."""
    table = Table(box=None, pad_edge=False)
    for number, heading in enumerate(columns):
        table.add_column(heading, justify="right" if number else "left", overflow="fold")
    rows = [*zip(*columns.values(), strict=True)]
    for number, row in enumerate(rows):
        table.add_row(*row, style="bold" if number >= len(rows) - totals else "")
    return table


def _billed(figures: Figures) -> Iterator[str]:
    billed, estimated = _sum(figures.billed).cost, _sum(figures.unbilled).cost
    yield f"Cost: {_usd(billed + estimated)}, of which {_usd(billed)} is billed and {_usd(estimated)} estimated."
    yield f"Not billed yet by the provider: {', '.join(f'{day.start:%Y-%m-%d}' for day in figures.unbilled)}."


def _nearness(judged: Sequence[Day]) -> Iterator[str]:
    """Yield how near the estimates were that were made from earlier bills only."""
    if not judged:
        yield "No day is billed yet, so nothing can be said of how near estimates are."
        return
    newest, farthest = judged[-1], max(judged, key=lambda day: abs(day.error or 0))
    yield (
        f"Before their bills, {counted(len(judged), 'day')} would have been estimated at {_usd(_estimated(judged))}; "
        f"they were billed at {_usd(_sum(judged).cost)}."
    )
    yield f"Farthest: {farthest.start:%Y-%m-%d}, {_off(farthest)}."
    yield f"Newest: {newest.start:%Y-%m-%d}, {_off(newest)}; {ESTIMATE_ERROR.name} shows that one."


def _off(day: Day) -> str:
    error = day.error or 0.0
    if abs(error) < SLIGHT:
        return "less than 0.01 % off"
    return f"{100 * abs(error):.2f} % {'above' if error > 0 else 'below'} its bill"


def _or_blank(tell: Callable[[int], str], nano: int | None) -> str:
    return "" if nano is None else tell(nano)


def _usd(nano: int) -> str:
    return "< $0.01" if 0 < abs(nano) < CENT else money(nano)


def _signed(nano: int) -> str:
    return f"+{_usd(nano)}" if nano >= CENT else _usd(nano)
