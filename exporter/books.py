"""Keeps cost in step with what was told: values the days that changed and writes their hours back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version

from exporter.ledger import Ledger, Worth
from exporter.model import COST, DAY, Report, Row
from exporter.money.rates import Rates
from exporter.money.valuation import value_day
from exporter.windows import DAYS_SHOWN, Span, days_back

METHOD = f"1 genai-prices {version('genai-prices')}"
"""Names how days are valued: where it differs from a day's, the day is valued again."""

PriceList = Callable[[str, datetime], Rates]


@dataclass(frozen=True, slots=True)
class Book:
    """One account as the ledger knows it: its number there, its provider and that provider's reports."""

    number: int
    provider: str
    reports: tuple[Report, ...]

    @property
    def usage(self) -> tuple[Report, ...]:
        """The reports that tell use."""
        return tuple(report for report in self.reports if report.kind == "usage")

    @property
    def bills(self) -> tuple[Report, ...]:
        """The reports that tell money per day; none where use itself carries its money."""
        return tuple(report for report in self.reports if report.kind == "bill")


class Books:
    """Values days: an open one from rates, a billed one from its bill."""

    def __init__(self, ledger: Ledger, prices: PriceList) -> None:
        self._ledger = ledger
        self._prices = prices

    def value(self, book: Book, now: datetime) -> bool:
        """Value every day that changed since it was valued, or whose bill has become final; tell whether any was."""
        days = [*self._ledger.costs.unvalued(book.number, METHOD), *self._ripe(book, now)]
        for day in dict.fromkeys(days):
            self._value_day(book, day, now)
        return bool(days)

    def _ripe(self, book: Book, now: datetime) -> Sequence[datetime]:
        shown = Span(days_back(now, DAYS_SHOWN), now)
        told = self._ledger.buckets.days(book.number, [report.name for report in book.bills or book.usage], shown.start)
        billed = {day.start for day in self._ledger.costs.days(book.number, shown) if day.billed}
        return sorted(day for day in told - billed if _final(book, day, now))

    def _value_day(self, book: Book, day: datetime, now: datetime) -> None:
        usage: dict[int, list[Row]] = {}
        for report in book.usage:
            for hour, rows in self._ledger.buckets.rows(book.number, report.name, day).items():
                usage.setdefault(hour, []).extend(rows)
        bill = self._bill(book, day) if _final(book, day, now) else None
        worth = value_day(usage, bill or None, self._prices(book.provider, day))
        hours: dict[int, list[Row]] = {}
        for (hour, key), value in worth.hours.items():
            row = Row(COST, value, key.workspace, key.model, key.tier, key.api_key, key.item)
            hours.setdefault(hour, []).append(row)
        billed = bool(bill) if book.bills else _final(book, day, now)
        self._ledger.costs.put(book.number, day, Worth(hours, worth.unpriced, METHOD, billed))

    def _bill(self, book: Book, day: datetime) -> list[Row]:
        told = (self._ledger.buckets.rows(book.number, report.name, day) for report in book.bills)
        return [row for hours in told for rows in hours.values() for row in rows]


def _final(book: Book, day: datetime, now: datetime) -> bool:
    """Tell whether a day is closed and every report that bills it has had its lag."""
    return all(day + DAY + report.lag <= now for report in book.bills or book.usage)
