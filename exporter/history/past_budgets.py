"""Past states of budgets and months, computed by the function that computes the present one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from exporter.analysis.budgets import MAX_PROFILE_HISTORY, BudgetShare, PeriodType, budget_share, current_period
from exporter.config.configuration import Budget
from exporter.history.cache import LRUCache
from exporter.history.hourly import HistoryAccount
from exporter.history.past_days import PastDays
from exporter.history.remote_read_protocol import WorkBudget
from exporter.metrics.families import HOURLY_SAMPLE_LEAD
from exporter.model import DAY, HOUR
from exporter.windows import TimeRange, floor, slots

INTERVAL = 6 * HOUR
"""Time between two samples of a budget. A forecast takes 0.1 ms per account: with every hour of a month, a thousand
accounts would take more than a minute."""
_SHARE_WORK = 130
"""Units of work for an account's share of a budget at one time."""
_SHARE_BYTES = 500
"""Approximate size of a cached share at one time."""


@dataclass(frozen=True, slots=True)
class PastShare:
    """An account's share of a budget at one time, in nano-USD."""

    spent: int
    forecast: int
    window_spend: Mapping[str, int]
    """Burn-rate window -> spend."""


def sample_times(period_type: PeriodType, day: datetime) -> list[datetime]:
    """Return the times of the samples of a UTC day: of a budget per day each hour, of longer periods each INTERVAL."""
    interval = HOUR if period_type == "day" else INTERVAL
    return [start + interval - HOURLY_SAMPLE_LEAD for start in slots(day, day + DAY, interval)]


class PastShares:
    """The past shares of accounts in budgets, and in the spend of a month. Safe for several threads."""

    def __init__(self, past_days: PastDays, max_cache_bytes: int) -> None:
        self._past_days = past_days
        self._cache: LRUCache[tuple[int, str, datetime], tuple[PastShare, ...]] = LRUCache(max_cache_bytes)

    def read(
        self, history_account: HistoryAccount, budget: Budget | None, day: datetime, now: datetime, work: WorkBudget
    ) -> tuple[PastShare, ...]:
        """Return the share at the times of a day's samples up to `now`; empty where the account's part is not known.

        Without a budget it is the account's month.

        It is known for the running period, as that is on /metrics, and for earlier periods of which all is known.
        Raises LedgerError, and QueryRejected when the work exceeds its budget.
        """
        period_type: PeriodType = "month" if budget is None else budget.period
        period = current_period(period_type, day)
        is_running = now < period.end
        if day < floor(history_account.known_since, DAY) or (
            period.start < history_account.known_since and not is_running
        ):
            return ()
        times = [time for time in sample_times(period_type, day) if time <= now]
        # The forecast depends on four weeks before the day, and on the period so far.
        time_range = TimeRange(min(period.start, day - MAX_PROFILE_HISTORY), day + DAY)
        key = (history_account.ledger_account.id, "" if budget is None else budget.name, day)
        version = (
            self._past_days.versions(history_account, time_range),
            history_account.known_since,
            min(history_account.complete_until, day + DAY),
            len(times),
        )
        shares = self._cache.get(key, version)
        if shares is None:
            work.spend(_SHARE_WORK * (1 + len(times)))
            hourly = self._past_days.join(history_account, time_range, with_usage=False)
            spend = hourly.account if budget is None else hourly.budgets[budget.name]
            if spend.total.known_since > max(history_account.known_since, period.start):
                # Of a part of the period only the days' sums are kept.
                times = []
            shares = tuple(
                _past_share(budget_share(period_type, spend, time, history_account.complete_until)) for time in times
            )
            self._cache.put(key, version, shares, _SHARE_BYTES * (1 + len(times)))
        return shares


def _past_share(share: BudgetShare) -> PastShare:
    return PastShare(share.spent, share.forecast or 0, share.window_spend or {})


def sum_window_spend(shares: Sequence[PastShare]) -> dict[str, int]:
    """Return burn-rate window -> spend of all accounts."""
    totals: dict[str, int] = {}
    for share in shares:
        for window, nano_usd in share.window_spend.items():
            totals[window] = totals.get(window, 0) + nano_usd
    return totals
