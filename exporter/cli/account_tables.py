"""The totals of an account as text: tables to compare with the provider's own pages, and a summary."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table

from exporter.check import AccountTotals, DaySummary
from exporter.metrics.families import ESTIMATE_ERROR
from exporter.model import GAUGE_METERS, NANO
from exporter.snapshot.aggregation import Totals
from exporter.ui.format import format_count, format_money, format_percent

MAX_ROWS = 20
"""Of a table by name; the others are summed up in the last row."""
CENT = NANO // 100
MIN_DISPLAYED_ERROR = 0.0001
"""As a ratio of the bill: below it, two decimals of a percentage show 0."""


def build_tables(account_totals: AccountTotals, *, has_bills: bool) -> Iterator[Table]:
    """Yield usage and cost by day and by name; `has_bills` says that bills follow the usage."""
    yield _table_by_day(account_totals, has_bills=has_bills)
    for heading, totals in (
        ("Workspace", account_totals.workspaces),
        ("Model or item", account_totals.models),
        ("Tier", account_totals.tiers),
    ):
        yield _table_by_name(heading, totals, account_totals.total)
    yield _table_by_token_type(account_totals.tokens)
    if account_totals.units:
        names = [f"{unit} (largest hour)" if unit in GAUGE_METERS else unit for unit in account_totals.units]
        yield _build_table(
            {"Other units": names, "Number": [f"{number:,}" for number in account_totals.units.values()]}
        )


def summarize(account_totals: AccountTotals, *, has_bills: bool) -> Iterator[str]:
    """Yield lines about the tables: what is billed, how accurate estimates were, what has no price."""
    today = account_totals.days[-1].start
    if not has_bills:
        yield f"Usage carries its cost here, so there is no bill to wait for. {today:%Y-%m-%d} is not complete."
    else:
        yield from _summarize_billing(account_totals)
        yield from _summarize_estimates([day for day in account_totals.days if day.error_ratio is not None])
    if account_totals.unpriced:
        models = ", ".join(f"{sanitize(model)} ({number:,})" for model, number in account_totals.unpriced.items())
        yield f"Tokens without a known price, whose cost is missing until they are billed: {models}."


def sanitize(text: str) -> str:
    """Return text of others without line breaks and control characters, safe to print on a terminal."""
    return "".join(character if character.isprintable() else " " for character in text)


@dataclass(frozen=True, slots=True)
class _DayRow:
    """A row of the table by day; money in nano-USD, None where there is none to show."""

    label: str
    total: Totals
    estimate: int | None = None
    billed: int | None = None
    difference: int | None = None
    placeholder: str = ""
    """Shown in place of a missing bill."""


def _table_by_day(account_totals: AccountTotals, *, has_bills: bool) -> Table:
    unbilled = account_totals.unbilled
    rows = [_day_row(day, "not yet" if day in unbilled else "-") for day in account_totals.days]
    rows += [*(_subtotal_rows(account_totals) if has_bills else ()), _DayRow("Total", account_totals.total)]
    columns: dict[str, list[str]] = {"Day (UTC)": [row.label for row in rows]}
    columns |= _usage_columns([row.total for row in rows])
    if not has_bills:
        return _build_table(columns | {"Cost": [_format_usd(row.total.cost) for row in rows]}, totals=1)
    columns["Estimate"] = [_or_blank(_format_usd, row.estimate) for row in rows]
    columns["Billed"] = [_or_blank(_format_usd, row.billed) or row.placeholder for row in rows]
    columns["Difference"] = [_or_blank(_format_signed_usd, row.difference) for row in rows]
    return _build_table(columns, totals=len(rows) - len(account_totals.days))


def _day_row(day: DaySummary, placeholder: str) -> _DayRow:
    billed = day.total.cost if day.billed else None
    return _DayRow(f"{day.start:%Y-%m-%d}", day.total, day.estimate, billed, day.difference, placeholder)


def _subtotal_rows(account_totals: AccountTotals) -> Iterator[_DayRow]:
    if billed := account_totals.billed:
        differences, total = [day.difference or 0 for day in billed], _sum_totals(billed)
        yield _DayRow(f"{len(billed)} billed", total, _sum_estimates(billed), total.cost, sum(differences))
    unbilled = account_totals.unbilled
    yield _DayRow(f"{len(unbilled)} unbilled", _sum_totals(unbilled), _sum_estimates(unbilled))


def _sum_totals(days: Iterable[DaySummary]) -> Totals:
    return sum((day.total for day in days), Totals())


def _sum_estimates(days: Iterable[DaySummary]) -> int:
    return sum(day.estimate or 0 for day in days)


def _table_by_name(heading: str, totals: Mapping[str, Totals], grand_total: Totals) -> Table:
    rows = [(sanitize(name) or "(none)", total) for name, total in totals.items()][:MAX_ROWS]
    if others := [*totals.values()][MAX_ROWS:]:
        rows.append((f"and {len(others)} more", sum(others, Totals())))
    rows.append(("Total", grand_total))
    columns: dict[str, list[str]] = {heading: [name for name, _ in rows]}
    columns |= _usage_columns([total for _, total in rows])
    columns["Cost"] = [_format_usd(total.cost) for _, total in rows]
    columns["Share"] = [format_percent(total.cost, grand_total.cost) for _, total in rows]
    return _build_table(columns, totals=1)


def _table_by_token_type(tokens: Mapping[str, int]) -> Table:
    grand_total = sum(tokens.values())
    rows = [*tokens.items(), ("Total", grand_total)]
    return _build_table(
        {
            "Token type": [name for name, _ in rows],
            "Tokens": [f"{number:,}" for _, number in rows],
            "Share": [format_percent(number, grand_total) for _, number in rows],
        },
        totals=1,
    )


def _usage_columns(totals: Sequence[Totals]) -> dict[str, list[str]]:
    columns = {"Tokens": [f"{total.tokens:,}" for total in totals]}
    if any(total.requests for total in totals):
        columns["Requests"] = [f"{total.requests:,}" if total.requests else "" for total in totals]
    return columns


def _build_table(columns: Mapping[str, Sequence[str]], totals: int = 0) -> Table:
    """Return a table whose first column has names and whose others have numbers; the last `totals` rows are bold."""
    table = Table(box=None, pad_edge=False)
    for number, heading in enumerate(columns):
        table.add_column(heading, justify="right" if number else "left", overflow="fold")
    rows = [*zip(*columns.values(), strict=True)]
    for number, row in enumerate(rows):
        table.add_row(*row, style="bold" if number >= len(rows) - totals else "")
    return table


def _summarize_billing(account_totals: AccountTotals) -> Iterator[str]:
    billed, estimated = _sum_totals(account_totals.billed).cost, _sum_totals(account_totals.unbilled).cost
    yield (
        f"Cost: {_format_usd(billed + estimated)}, of which {_format_usd(billed)} is billed and "
        f"{_format_usd(estimated)} estimated."
    )
    yield f"Not billed yet by the provider: {', '.join(f'{day.start:%Y-%m-%d}' for day in account_totals.unbilled)}."


def _summarize_estimates(days: Sequence[DaySummary]) -> Iterator[str]:
    """Yield how accurate the estimates were; each was made from earlier bills only."""
    if not days:
        yield "No day is billed yet, so the error of estimates is not known."
        return
    newest, worst = days[-1], max(days, key=lambda day: abs(day.error_ratio or 0))
    yield (
        f"Before their bills, {format_count(len(days), 'day')} would have been estimated at "
        f"{_format_usd(_sum_estimates(days))}; "
        f"they were billed at {_format_usd(_sum_totals(days).cost)}."
    )
    yield f"Largest error: {worst.start:%Y-%m-%d}, {_format_estimate_error(worst)}."
    yield f"Newest: {newest.start:%Y-%m-%d}, {_format_estimate_error(newest)}; exported as {ESTIMATE_ERROR.name}."


def _format_estimate_error(day: DaySummary) -> str:
    error = day.error_ratio or 0.0
    if abs(error) < MIN_DISPLAYED_ERROR:
        return "less than 0.01 % off"
    return f"{100 * abs(error):.2f} % {'above' if error > 0 else 'below'} its bill"


def _or_blank(format_nano: Callable[[int], str], nano: int | None) -> str:
    return "" if nano is None else format_nano(nano)


def _format_usd(nano: int) -> str:
    return "< $0.01" if 0 < abs(nano) < CENT else format_money(nano)


def _format_signed_usd(nano: int) -> str:
    return f"+{_format_usd(nano)}" if nano >= CENT else _format_usd(nano)
