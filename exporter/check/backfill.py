"""Reads an account's last days into a ledger one by one, as an exporter that runs all the time meets them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TypeVar

from exporter.errors import KeyRejected, RateLimited, Unsupported
from exporter.ledger import Ledger
from exporter.model import DAY, Bucket, Provider, Report
from exporter.polling.schedule import NAMES
from exporter.pricing.list_prices import list_rates
from exporter.pricing.valuer import LESSONS, Book, Books, PriceList
from exporter.windows import Span, days_back, slots

STRIDE = 4
"""Days that a report is asked for at a time: few enough to see it move."""
USUAL_WAIT = 15.0
"""Seconds, where a provider that limits its rate does not say how long."""
LONGEST_WAIT = 120.0
"""Seconds; who asks for more is not waited for."""
MOST_WAITS = 8
"""For one question."""

Wait = Callable[[float, RateLimited], None]
"""Waits for so many seconds, and says why."""
_Answer = TypeVar("_Answer")


def strides(book: Book, days: int, now: datetime) -> list[Span]:
    """Return what each report is asked for, oldest first: so many UTC days, of which today is the last.

    Where bills come after use, it begins as many days earlier as ever teach what an open day costs, so that the first
    day shown is estimated as well as by an exporter that has run for long.
    """
    first, end = days_back(now, days - 1 + (LESSONS if book.bills else 0)), days_back(now, -1)
    starts = list(slots(first, end, DAY))[::STRIDE]
    return [Span(start, min(start + STRIDE * DAY, now)) for start in starts]


class Pull:
    """Asks a provider for all that it tells of one account. Waits where it has to; tries nothing else again."""

    def __init__(
        self, provider: Provider, book: Book, ledger: Ledger, wait: Wait, prices: PriceList = list_rates
    ) -> None:
        self._provider = provider
        self._book = book
        self._ledger = ledger
        self._wait = wait
        self._books = Books(ledger, prices)
        self.refused: list[str] = []
        """Optional reports, `names` among them, that this key or plan does not have."""

    def verify(self) -> str:
        """Say whose key it is. Raises ProviderError."""
        return self._patiently(self._provider.verify)

    def read(self, spans: Sequence[Span], moved: Callable[[], None]) -> None:
        """Read names and days into the ledger; `moved` is called for every report of every span.

        Raises ProviderError where a report fails that an account has to have.
        """
        now = spans[-1].end
        self._ledger.names.put(self._book.number, self._unless_refused(NAMES, self._provider.names, {}))
        for span in spans:
            told: list[Bucket] = []
            for report in self._book.reports:
                told += self._fetched(report, span, now)
                moved()
            self._relive(told, span, now)

    def _fetched(self, report: Report, span: Span, now: datetime) -> list[Bucket]:
        since = max(span.start, days_back(now, report.history // DAY))
        if since >= span.end or report.name in self.refused:
            return []
        return self._unless_refused(report, lambda: list(self._provider.fetch(report, since, span.end)), [])

    def _relive(self, told: Sequence[Bucket], span: Span, now: datetime) -> None:
        """Value each day when its bill is there and the next day's is not: an estimate knows no later bill."""
        for day in slots(span.start, span.end, DAY):
            for report in self._book.reports:
                buckets = [one for one in told if one.report == report.name and day <= one.start < day + DAY]
                if any(one.rows for one in buckets):
                    self._ledger.buckets.put(self._book.number, report.name, Span(day, min(day + DAY, now)), buckets)
            self._books.value(self._book, min(day + 2 * DAY, now))

    def _unless_refused(self, report: Report, ask: Callable[[], _Answer], nothing: _Answer) -> _Answer:
        try:
            return self._patiently(ask)
        except (KeyRejected, Unsupported) as error:
            # Only a missing scope can be a matter of this report: a key that is refused is refused for everything.
            if not report.optional or (isinstance(error, KeyRejected) and error.reason != "missing_scope"):
                raise
            self.refused.append(report.name)
            return nothing

    def _patiently(self, ask: Callable[[], _Answer]) -> _Answer:
        for _ in range(MOST_WAITS):
            try:
                return ask()
            except RateLimited as error:
                seconds = error.retry_after or USUAL_WAIT
                if seconds > LONGEST_WAIT:
                    raise
                self._wait(seconds, error)
        return ask()
