"""Past days of accounts by the hour, summed as their newest days are for signals and budgets."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import datetime

from exporter.history.cache import LRUCache
from exporter.history.hourly import HistoryAccount
from exporter.ledger import Ledger
from exporter.model import DAY
from exporter.snapshot.account_snapshot import HourlyTotals
from exporter.snapshot.hourly import BudgetMatcher, HourlyDay, RawDay, join_days, sum_day
from exporter.windows import TimeRange, slots

_UNKNOWN_DAY = HourlyDay({}, {}, {}, {}, {}, {})


@dataclass(frozen=True, slots=True)
class _PastDay:
    day: HourlyDay
    is_known: bool
    """False where only the day's sums are kept."""


class PastDays:
    """Reads days of any age from the ledger. Safe for several threads."""

    def __init__(self, ledger: Ledger, max_cache_bytes: int) -> None:
        self._ledger = ledger
        self._cache: LRUCache[tuple[int, datetime, bool], _PastDay] = LRUCache(max_cache_bytes)

    def versions(self, history_account: HistoryAccount, time_range: TimeRange) -> tuple[object, ...]:
        """Return values that differ when a day of a time range, its labels or its budgets differ.

        To be read before what is made from the days.
        """
        number, mapper = history_account.ledger_account.id, history_account.label_mapper
        days = slots(time_range.start, time_range.end, DAY)
        versions = (self._ledger.hours.version(number, day) for day in days)
        return (*versions, mapper.remapped, mapper.names, history_account.budgets)

    def join(self, history_account: HistoryAccount, time_range: TimeRange, *, with_usage: bool) -> HourlyTotals:
        """Return cost and, if wanted, usage of whole days, without a gap. Raises LedgerError.

        Hours before the account's first known one, and of days whose hours are no longer kept, are unknown.
        """
        known_since = history_account.known_since
        days = []
        for day in slots(time_range.start, time_range.end, DAY):
            past_day = self._read(history_account, day, with_usage=with_usage)
            days.append(past_day.day)
            if not past_day.is_known:
                known_since = max(known_since, day + DAY)
        return join_days(time_range.start, known_since, days, history_account.budgets)

    def _read(self, history_account: HistoryAccount, day: datetime, *, with_usage: bool) -> _PastDay:
        key = (history_account.ledger_account.id, day, with_usage)
        version = self.versions(history_account, TimeRange(day, day + DAY))
        past_day = self._cache.get(key, version)
        if past_day is None:
            past_day = self._sum(history_account, day, with_usage=with_usage)
            self._cache.put(key, version, past_day, _size(past_day.day))
        return past_day

    def _sum(self, history_account: HistoryAccount, day: datetime, *, with_usage: bool) -> _PastDay:
        ledger_account = history_account.ledger_account
        reports = [report.name for report in ledger_account.usage_reports]
        raw_day = RawDay(
            self._ledger.hours.cost(ledger_account.id, day),
            self._ledger.hours.units(ledger_account.id, reports, day) if with_usage else None,
        )
        if raw_day.is_rolled_up:
            return _PastDay(_UNKNOWN_DAY, is_known=False)
        fixed_costs = self._ledger.costs.fixed_costs(ledger_account.id, day)
        mapper = history_account.label_mapper
        matcher = BudgetMatcher(history_account.account, history_account.budgets, mapper.names)
        return _PastDay(sum_day(raw_day, fixed_costs, mapper, matcher), is_known=True)


def _size(day: HourlyDay) -> int:
    sums = (day.usage_cost, day.fixed_cost, day.budgets, day.one_time_cost, day.requests, day.tokens)
    return sum(sys.getsizeof(values) + sum(map(sys.getsizeof, values.values())) for values in sums)
