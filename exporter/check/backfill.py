"""Reads an account's last days into a ledger one by one, as an exporter that runs all the time meets them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TypeVar

from exporter.errors import KeyRejected, RateLimited, Unsupported
from exporter.ledger import Ledger
from exporter.model import DAY, Bucket, Report
from exporter.polling.schedule import NAMES_REPORT
from exporter.pricing.list_prices import list_rates
from exporter.pricing.valuer import EVIDENCE_DAYS, LedgerAccount, PriceList, Valuer
from exporter.providers.base import Provider
from exporter.windows import TimeRange, days_back, slots

BATCH_DAYS = 4
"""Days that a report is asked for at a time: few enough to see it move."""
DEFAULT_WAIT_SECONDS = 15.0
"""Seconds, where a provider that limits its rate does not say how long."""
MAX_WAIT_SECONDS = 120.0
"""Seconds; who asks for more is not waited for."""
MAX_WAITS = 8
"""For one question."""

WaitCallback = Callable[[float, RateLimited], None]
"""Waits for so many seconds, and says why."""
_Answer = TypeVar("_Answer")


def batches(ledger_account: LedgerAccount, days: int, now: datetime) -> list[TimeRange]:
    """Return what each report is asked for, oldest first: so many UTC days, of which today is the last.

    Where bills come after use, it begins as many days earlier as ever teach what an open day costs, so that the first
    day shown is estimated as well as by an exporter that has run for long.
    """
    first, end = days_back(now, days - 1 + (EVIDENCE_DAYS if ledger_account.bill_reports else 0)), days_back(now, -1)
    starts = list(slots(first, end, DAY))[::BATCH_DAYS]
    return [TimeRange(start, min(start + BATCH_DAYS * DAY, now)) for start in starts]


class Backfill:
    """Asks a provider for all that it tells of one account. Waits where it has to; tries nothing else again."""

    def __init__(
        self,
        provider: Provider,
        ledger_account: LedgerAccount,
        ledger: Ledger,
        wait: WaitCallback,
        prices: PriceList = list_rates,
    ) -> None:
        self._provider = provider
        self._ledger_account = ledger_account
        self._ledger = ledger
        self._wait = wait
        self._valuer = Valuer(ledger, prices)
        self.unsupported: list[str] = []
        """Optional reports, `names` among them, that this key or plan does not have."""

    def verify(self) -> str:
        """Say whose key it is. Raises ProviderError."""
        return self._request_with_retries(self._provider.verify)

    def read(self, time_ranges: Sequence[TimeRange], on_progress: Callable[[], None]) -> None:
        """Read names and days into the ledger; `moved` is called for every report of every span.

        Raises ProviderError where a report fails that an account has to have.
        """
        now = time_ranges[-1].end
        self._ledger.names.put(
            self._ledger_account.id, self._request_if_supported(NAMES_REPORT, self._provider.names, {})
        )
        for span in time_ranges:
            told: list[Bucket] = []
            for report in self._ledger_account.reports:
                told += self._fetch(report, span, now)
                on_progress()
            self._replay_days(told, span, now)

    def _fetch(self, report: Report, time_range: TimeRange, now: datetime) -> list[Bucket]:
        since = max(time_range.start, days_back(now, report.history // DAY))
        if since >= time_range.end or report.name in self.unsupported:
            return []
        return self._request_if_supported(report, lambda: list(self._provider.fetch(report, since, time_range.end)), [])

    def _replay_days(self, all_buckets: Sequence[Bucket], time_range: TimeRange, now: datetime) -> None:
        """Value each day when its bill is there and the next day's is not: an estimate knows no later bill."""
        for day in slots(time_range.start, time_range.end, DAY):
            for report in self._ledger_account.reports:
                buckets = [one for one in all_buckets if one.report == report.name and day <= one.start < day + DAY]
                if any(one.rows for one in buckets):
                    self._ledger.buckets.put(
                        self._ledger_account.id, report.name, TimeRange(day, min(day + DAY, now)), buckets
                    )
            self._valuer.value_days(self._ledger_account, min(day + 2 * DAY, now))

    def _request_if_supported(self, report: Report, request: Callable[[], _Answer], default: _Answer) -> _Answer:
        try:
            return self._request_with_retries(request)
        except (KeyRejected, Unsupported) as error:
            # Only a missing scope can be a matter of this report: a key that is refused is refused for everything.
            if not report.optional or (isinstance(error, KeyRejected) and error.reason != "missing_scope"):
                raise
            self.unsupported.append(report.name)
            return default

    def _request_with_retries(self, request: Callable[[], _Answer]) -> _Answer:
        for _ in range(MAX_WAITS):
            try:
                return request()
            except RateLimited as error:
                seconds = error.retry_after or DEFAULT_WAIT_SECONDS
                if seconds > MAX_WAIT_SECONDS:
                    raise
                self._wait(seconds, error)
        return request()
