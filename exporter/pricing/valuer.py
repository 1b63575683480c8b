"""Keeps cost in step with what was told: values the days that changed and writes their hours back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from importlib.metadata import version

from exporter.ledger import Ledger, Worth
from exporter.model import COST, DAY, HOUR, Report, Row
from exporter.pricing.bill_evidence import Lesson
from exporter.pricing.learned_rates import Agreed, learned_rates
from exporter.pricing.list_prices import Rates
from exporter.pricing.valuation import DayValue, value_day
from exporter.windows import DAYS_SHOWN, Span, days_back, slots

METHOD = f"3 genai-prices {version('genai-prices')}"
"""Names how days are valued: where it differs from a day's, the day is valued again."""
LESSONS = 7
"""How many billed days teach what an open one costs."""
JUDGED = 7 * DAY
"""A bill that is older than this when it is first read judges no estimate: nobody was shown one."""

PriceList = Callable[[str, datetime], Rates]


@dataclass(frozen=True, slots=True)
class Book:
    """One account as the ledger knows it: its number there, its provider, that provider's reports, agreed prices."""

    number: int
    provider: str
    reports: tuple[Report, ...]
    agreed: tuple[Agreed, ...] = ()
    closes: bool = True
    """Whether its days become final; those of a source may be told more at any time."""

    @property
    def usage(self) -> tuple[Report, ...]:
        """The reports that tell use."""
        return tuple(report for report in self.reports if report.kind == "usage")

    @property
    def bills(self) -> tuple[Report, ...]:
        """The reports that tell money per day; none where use itself carries its money."""
        return tuple(report for report in self.reports if report.kind == "bill")

    @property
    def method(self) -> str:
        """How its days are valued: another price list or other agreed prices are another method."""
        return f"{METHOD} {blake2b(repr(self.agreed).encode(), digest_size=4).hexdigest()}" if self.agreed else METHOD


class Books:
    """Values days: an open one from rates that the newest bills teach, a billed one from its bill."""

    def __init__(self, ledger: Ledger, prices: PriceList) -> None:
        self._ledger = ledger
        self._prices = prices

    def value(self, book: Book, now: datetime, *, turned: bool = False) -> bool:
        """Value every day that changed since it was valued, or whose bill has become final; tell whether any was.

        A bill that comes teaches new rates, so the open days after it are valued again. When an hour has `turned`,
        so are those that cost money without use: by the hour, they have cost an hour more.
        """
        days = {*self._ledger.costs.unvalued(book.number, book.method), *self._ripe(book, now)}
        if turned and any(lesson.standing for lesson in self._lessons(book, now)):
            days.update(self._open(book, now))
        # All read before any is valued: a bill that comes together with it must not flatter a day's estimate.
        earlier = {day: self._lessons(book, day) for day in sorted(days) if _final(book, day, now)}
        billed = [day for day, lessons in earlier.items() if self._value_day(book, day, now, lessons)]
        rest = days - earlier.keys()
        if billed:
            since = self._ledger.costs.days(book.number, Span(billed[0], now))
            rest |= {day.start for day in since if not day.billed} - earlier.keys()
        for day in sorted(rest):
            self._value_day(book, day, now, ())
        return bool(days)

    def _ripe(self, book: Book, now: datetime) -> Sequence[datetime]:
        since = days_back(now, DAYS_SHOWN)
        told = self._ledger.buckets.days(book.number, [report.name for report in book.bills or book.usage], since)
        return [day for day in told.difference(self._ledger.costs.billed(book.number, since)) if _final(book, day, now)]

    def _open(self, book: Book, now: datetime) -> Iterator[datetime]:
        """Yield the days since the newest billed one of which use was told, be it that there was none."""
        billed = self._ledger.costs.billed(book.number, days_back(now, DAYS_SHOWN))
        covered = [self._ledger.buckets.coverage(book.number, report.name) for report in book.usage]
        until = max((one.until for one in covered if one is not None), default=now)
        return slots(billed[-1] + DAY, until, DAY) if billed else iter(())

    def _value_day(self, book: Book, day: datetime, now: datetime, earlier: Sequence[Lesson]) -> bool:
        """Value one day and tell whether it is billed; `earlier` lessons are those from before its bill came."""
        told = self._ledger.costs.told(book.number, day)
        usage, bill = self._usage(book, day), self._bill(book, day) if _final(book, day, now) else []
        lessons, listed = self._lessons(book, day), self._prices(book.provider, day)
        rates, estimate = learned_rates(lessons, listed, book.agreed), None
        if bill:
            worth = value_day(usage, bill, rates)
            if now - day < JUDGED:
                known = earlier or lessons
                before = learned_rates(known, listed, book.agreed)
                estimate = sum(value_day(usage, None, before, standing=known).hours.values())
        else:
            worth = value_day(usage, None, rates, min(23, (now - day) // HOUR), lessons)
        billed = bool(bill) if book.bills else _final(book, day, now)
        valued = Worth(
            hours=_by_hour(worth),
            unpriced=worth.unpriced,
            method=book.method,
            billed=billed,
            estimate=estimate,
            lesson=json.dumps(worth.lesson.plain()) if bill else "",
        )
        self._ledger.costs.put(book.number, day, valued, told, moving=not book.closes)
        return bool(bill)

    def _lessons(self, book: Book, before: datetime) -> list[Lesson]:
        return [Lesson.of(json.loads(one)) for one in self._ledger.costs.lessons(book.number, before, LESSONS)]

    def _usage(self, book: Book, day: datetime) -> dict[int, list[Row]]:
        usage: dict[int, list[Row]] = {}
        for report in book.usage:
            for hour, rows in self._ledger.buckets.rows(book.number, report.name, day).items():
                usage.setdefault(hour, []).extend(rows)
        return usage

    def _bill(self, book: Book, day: datetime) -> list[Row]:
        told = (self._ledger.buckets.rows(book.number, report.name, day) for report in book.bills)
        return [row for hours in told for rows in hours.values() for row in rows]


def _by_hour(worth: DayValue) -> dict[int, list[Row]]:
    hours: dict[int, list[Row]] = {}
    for (hour, key), value in worth.hours.items():
        row = Row(COST, value, key.workspace, key.model, key.tier, key.api_key, key.item)
        hours.setdefault(hour, []).append(row)
    return hours


def _final(book: Book, day: datetime, now: datetime) -> bool:
    """Tell whether a day is closed for good and every report that bills it has had its lag."""
    return book.closes and all(day + DAY + report.lag <= now for report in book.bills or book.usage)
