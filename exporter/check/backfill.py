"""Reads an account's last days with the poller, and values them one by one, as an exporter that runs all the time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from exporter.errors import RateLimited
from exporter.ledger import Coverage, Ledger
from exporter.model import DAY, HOUR, Bucket, Report, Secret
from exporter.polling.account_state import PolledAccount, PolledAccountConfig, RequestObserver
from exporter.polling.poller import Poller
from exporter.polling.schedule import PollSettings
from exporter.pricing.list_prices import list_rates
from exporter.pricing.valuer import EVIDENCE_DAYS, LedgerAccount, PriceList, Valuer
from exporter.providers.base import Provider
from exporter.windows import TimeRange, days_back, slots

BATCH_DAYS = 4
"""Days that are requested of a report at a time: few enough that progress can be shown."""
MAX_WAIT_SECONDS = 120.0
"""A rate limit that lasts longer ends the check."""
MAX_WAITS = 8
"""Waits in a row without any progress in between."""
PROGRESS_INTERVAL = 0.1
"""Seconds between two looks at the progress of the poll."""

WaitCallback = Callable[[datetime, RateLimited], None]
"""Block until a time, because of a rate limit."""


@dataclass(frozen=True, slots=True)
class PolledHistory:
    """What is known of the account besides the content of the ledger."""

    key_description: str
    """Whose key it is, in the provider's words."""
    unsupported: tuple[str, ...]
    """Optional reports, `names` among them, that this key or plan does not have."""


def history_days(ledger_account: LedgerAccount, days: int) -> int:
    """Return how many UTC days before today are read, to show so many with today.

    Where bills follow usage, it is as many days more as estimates ever learn from: the first day shown is estimated
    as well as by an exporter that has run for long.
    """
    return days - 1 + (EVIDENCE_DAYS if ledger_account.bill_reports else 0)


class Backfill:
    """Polls one account until its last days are in a ledger of their own.

    All requests, retries and back-off are the poller's. Only a rate limit is waited for: any other failure ends it.
    """

    def __init__(
        self,
        ledger: Ledger,
        config: PolledAccountConfig,
        days: int,
        clock: Callable[[], datetime],
        monotonic: Callable[[], float],
        wait: WaitCallback,
        on_progress: Callable[[float], None] = lambda _: None,
        price_list: PriceList = list_rates,
    ) -> None:
        """`on_progress` is called with the part that is read, from 0 to 1."""
        self._ledger = ledger
        self._days = history_days(config.ledger_account, days)
        # A poll interval longer than any check: nothing is refreshed, so the poller comes to rest when all is read.
        settings = PollSettings(poll_interval=DAY, history=self._days * DAY, max_range=BATCH_DAYS * DAY)
        self._config = replace(config, poll_settings=settings, connect=self._connect)
        self._connect_unverified = config.connect
        self._account = PolledAccount(self._config)
        self._clock = clock
        self._wait = wait
        self._on_progress = on_progress
        self._key_description: str | None = None
        self._poller = Poller(
            ledger,
            Valuer(ledger, price_list),
            clock,
            monotonic,
            publish=lambda _: None,
            workers=1,
            jitter=lambda: 0.0,  # there is no other account to keep apart from
        )

    def run(self) -> PolledHistory:
        """Read everything. Raises ProviderError where a report fails that the account has to have, and LedgerError."""
        try:
            self._poller.set_accounts([self._account])
            self._poll_until_complete()
        finally:
            self._poller.close()
        unsupported = self._account.health.unsupported
        return PolledHistory(
            self._key_description or "",
            tuple(report.name for report in self._account.config.scheduled_reports if report.name in unsupported),
        )

    def _connect(self, key: Secret, observe: RequestObserver) -> Provider:
        """Connect as the poller does, and verify the key: its description is a part of the result."""
        provider = self._connect_unverified(key, observe)
        try:
            self._key_description = provider.verify()
        except BaseException:
            provider.close()
            raise
        return provider

    def _poll_until_complete(self) -> None:
        waits = 0
        progress = self._coverages()
        while True:
            self._poller.tick()
            self._poller.wait_until_idle(PROGRESS_INTERVAL)
            self._on_progress(self._part_read())
            # Read before the problems: once the poller rests until a later time, the problems do not change.
            due = self._poller.next_poll_at
            rate_limit = self._raise_failures()
            if due is None or due <= self._clock():
                continue
            if rate_limit is None:
                return
            waits = waits + 1 if progress == self._coverages() else 1
            progress = self._coverages()
            if waits > MAX_WAITS or due - self._clock() > timedelta(seconds=MAX_WAIT_SECONDS):
                raise rate_limit
            self._wait(due, rate_limit)

    def _raise_failures(self) -> RateLimited | None:
        """Raise any failure that is not a rate limit; return a rate limit, None where all is well."""
        if self._poller.fatal is not None:
            raise self._poller.fatal
        rate_limit = None
        for problem in self._account.health.current_problems:
            if not isinstance(problem, RateLimited):
                raise problem
            rate_limit = problem
        return rate_limit

    def _coverages(self) -> list[object]:
        reports = self._account.config.scheduled_reports
        return [self._key_description, *(self._coverage(report) for report in reports)]

    def _coverage(self, report: Report) -> Coverage | None:
        return self._ledger.buckets.coverage(self._config.ledger_account.id, report.name)

    def _part_read(self) -> float:
        reports = self._config.ledger_account.reports
        unsupported = self._account.health.unsupported
        return sum(report.name in unsupported or self._part_of_report(report) for report in reports) / len(reports)

    def _part_of_report(self, report: Report) -> float:
        coverage = self._coverage(report)
        if coverage is None:
            return 0.0
        first = max(days_back(coverage.until, self._days), days_back(coverage.until, report.history // DAY))
        if coverage.since <= first:
            return 1.0
        return (coverage.until - coverage.since) / (coverage.until - first)


def replay_days(
    polled: Ledger,
    replayed: Ledger,
    ledger_account: LedgerAccount,
    days: int,
    now: datetime,
    price_list: PriceList = list_rates,
) -> None:
    """Copy the days of one ledger into another, oldest first, and value each as if its bill had just arrived.

    The bill of a day is there and that of the next is not: no estimate is made from bills that came later. `days` is
    the number of days shown; `ledger_account` has the same number in both ledgers.
    """
    valuer = Valuer(replayed, price_list)
    replayed.names.put(ledger_account.id, polled.names.all(ledger_account.id))
    for day in slots(days_back(now, history_days(ledger_account, days)), now, DAY):
        for report in ledger_account.reports:
            rows_by_hour = polled.buckets.rows(ledger_account.id, report.name, day)
            if rows_by_hour:
                buckets = [
                    Bucket(report.name, day + hour * HOUR, day + (hour + 1) * HOUR, tuple(rows))
                    for hour, rows in rows_by_hour.items()
                ]
                replayed.buckets.put(ledger_account.id, report.name, TimeRange(day, min(day + DAY, now)), buckets)
        valuer.value_days(ledger_account, min(day + 2 * DAY, now))
