"""One account's past, hour by hour, as the ledger knows it now."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from itertools import accumulate

from exporter.analysis.baselines import Hourly
from exporter.config.configuration import Account, Budget
from exporter.history.hourly import Shown, Teller, hourly, series_labels
from exporter.ledger import Ledger
from exporter.metrics.exposition import labelled
from exporter.metrics.families import ACCOUNT, HOURLY_COST, HOURLY_REQUESTS, HOURLY_TOKENS, Family
from exporter.metrics.hourly_totals import Counted, counting
from exporter.model import DAY, HOUR, Report
from exporter.windows import Span, floor, slots

BEFORE = 36 * DAY
"""What windows, baselines and forecasts look back."""
_IDLE = [0] * 24


class Series:
    """Values hour by hour from a UTC midnight on, with sums over any span of hours."""

    def __init__(self, since: datetime, values: array[int]) -> None:
        self.since, self.values = since, values
        self._sums = array("q", accumulate(values, initial=0))
        self._used = array("q", accumulate((value != 0 for value in values), initial=0))

    def at(self, hour: datetime) -> int:
        """Return the value of the hour that starts then."""
        return self.values[self._place(hour)]

    def total(self, span: Span) -> int:
        """Return the sum over a span of whole hours."""
        return self._sums[self._place(span.end)] - self._sums[self._place(span.start)]

    def any(self, span: Span) -> bool:
        """Tell whether anything was used in a span."""
        return self._used[self._place(span.end)] > self._used[self._place(span.start)]

    def hourly(self, known: datetime) -> Hourly:
        """Return the values as they are judged, known from a moment on."""
        return Hourly(self.since, self.values, known)

    def _place(self, hour: datetime) -> int:
        return min(max(0, (hour - self.since) // HOUR), len(self.values))


@dataclass(frozen=True)
class Past:
    """What an account used and cost, from long enough before a span to its end; labels as text."""

    ledger: Ledger
    account: Account
    teller: Teller
    reports: Sequence[Report]
    """Those that were ever told."""
    known: datetime
    """From here on all use is known."""
    span: Span

    @cached_property
    def lag(self) -> timedelta:
        """How long after its end an hour is complete."""
        return max(one.lag for one in self.reports if one.kind == "usage")

    def until(self, now: datetime) -> datetime:
        """Return the end of the hour that was the newest complete one."""
        return floor(now - self.lag, HOUR)

    @staticmethod
    def complete(report: Report, now: datetime) -> datetime:
        """Return a report's watermark at a moment."""
        return floor(now - report.lag, report.width)

    @cached_property
    def cost(self) -> Mapping[str, Series]:
        """nano-USD per series of the page."""
        return self._told(HOURLY_COST)

    @cached_property
    def tokens(self) -> Mapping[str, Series]:
        """Tokens per series, by type."""
        return self._told(HOURLY_TOKENS)

    @cached_property
    def requests(self) -> Mapping[str, Series]:
        """Requests per series; empty where the provider counts none."""
        return self._told(HOURLY_REQUESTS)

    def _told(self, family: Family) -> Mapping[str, Series]:
        return {
            f"{self._own},{rest}" if (rest := _text(series_labels(self.teller, shown))) else self._own: series
            for shown, series in sorted(self._series(family).items())
        }

    def workspaces(self, what: str) -> Mapping[str, Series]:
        """Return cost, requests or tokens per workspace."""
        family = {"cost": HOURLY_COST, "requests": HOURLY_REQUESTS, "tokens": HOURLY_TOKENS}[what]
        found: dict[str, array[int]] = {}
        for (place, _), series in self._series(family).items():
            name = self.teller.places.values((place[0], "", "", ""))[0]
            text = labelled((*ACCOUNT, "workspace"), (self.account.provider, self.account.name, name))
            found[text] = (
                array("q", map(sum, zip(found[text], series.values, strict=True))) if text in found else series.values
            )
        return {text: Series(self._since, values) for text, values in sorted(found.items())}

    def counted(self, budget: Budget) -> Series | None:
        """Return what a budget counts of the account; None where it counts nothing of it whatever it uses."""
        if not counting(self.account, [budget]):
            return None
        counted = Counted(self.account, [budget], self.teller.places.names)
        values = array("q", [0] * self._hours)
        for place, day in self._days():
            for labels, told in self.ledger.hours.cost(self.teller.book.number, day).items():
                if counted.by(labels):
                    for hour, value in enumerate(told[:24]):
                        values[place + hour] += value
        return Series(self._since, values)

    def estimate_error(self, billed: datetime) -> str | None:
        """Return how far the newest day that had been billed by then was estimated from its first bill."""
        ended = [error for day, error in self._errors if day + DAY <= billed]
        return ended[-1] if ended else None

    @cached_property
    def _errors(self) -> Sequence[tuple[datetime, str]]:
        days = self.ledger.costs.days(self.teller.book.number, Span(self._since, self.span.end))
        return [
            (day.start, f"{(day.estimate - day.first) / day.first:.6f}")
            for day in days
            if day.estimate is not None and day.first
        ]

    @property
    def _own(self) -> str:
        return labelled(ACCOUNT, (self.account.provider, self.account.name))

    @property
    def _since(self) -> datetime:
        return floor(self.span.start, DAY) - BEFORE

    @property
    def _hours(self) -> int:
        return (floor(self.span.end - HOUR, DAY) + DAY - self._since) // HOUR

    def _days(self) -> list[tuple[int, datetime]]:
        return [((day - self._since) // HOUR, day) for day in slots(self._since, self.span.end, DAY)]

    @cached_property
    def _read(self) -> dict[Family, Mapping[Shown, Series]]:
        return {}

    def _series(self, family: Family) -> Mapping[Shown, Series]:
        if family not in self._read:
            self._read[family] = self._days_of(family)
        return self._read[family]

    def _days_of(self, family: Family) -> Mapping[Shown, Series]:
        found: dict[Shown, array[int]] = {}
        for place, day in self._days():
            for shown, told in hourly(self.ledger, family, self.teller, day).items():
                values = found.setdefault(shown, array("q", [0] * self._hours))
                values[place : place + len(told)] = array("q", told)
        return {shown: Series(self._since, values) for shown, values in found.items()}


def _text(labels: Mapping[str, str]) -> str:
    return labelled(list(labels), list(labels.values()))
