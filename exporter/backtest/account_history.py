"""One account's past, hour by hour, as the ledger knows it now."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from itertools import accumulate

from exporter.analysis.baselines import HourlySeries
from exporter.config.configuration import Account, Budget
from exporter.history.hourly import HistoryAccount, HistorySeriesKey, read_day, series_labels
from exporter.ledger import Ledger
from exporter.metrics.exposition import format_labels
from exporter.metrics.families import ACCOUNT_LABELS, HOURLY_COST, HOURLY_REQUESTS, HOURLY_TOKENS, Family
from exporter.metrics.hourly_totals import BudgetMatcher, matching_budgets
from exporter.model import DAY, HOUR, Report
from exporter.windows import TimeRange, floor, slots

LOOKBACK = 36 * DAY
"""What windows, baselines and forecasts look back."""
_IDLE = [0] * 24


class CumulativeSeries:
    """Values hour by hour from a UTC midnight on, with sums over any span of hours."""

    def __init__(self, since: datetime, values: array[int]) -> None:
        self.since, self.values = since, values
        self._sums = array("q", accumulate(values, initial=0))
        self._active_hours = array("q", accumulate((value != 0 for value in values), initial=0))

    def at(self, hour: datetime) -> int:
        """Return the value of the hour that starts then."""
        return self.values[self._index(hour)]

    def total(self, time_range: TimeRange) -> int:
        """Return the sum over a span of whole hours."""
        return self._sums[self._index(time_range.end)] - self._sums[self._index(time_range.start)]

    def has_usage(self, time_range: TimeRange) -> bool:
        """Tell whether anything was used in a span."""
        return self._active_hours[self._index(time_range.end)] > self._active_hours[self._index(time_range.start)]

    def to_hourly_series(self, known_since: datetime) -> HourlySeries:
        """Return the values as they are judged, known from a moment on."""
        return HourlySeries(self.since, self.values, known_since)

    def _index(self, hour: datetime) -> int:
        return min(max(0, (hour - self.since) // HOUR), len(self.values))


@dataclass(frozen=True)
class AccountHistory:
    """What an account used and cost, from long enough before a span to its end; labels as text."""

    ledger: Ledger
    account: Account
    history_account: HistoryAccount
    reports: Sequence[Report]
    """Those that were ever told."""
    known_since: datetime
    """From here on all use is known."""
    time_range: TimeRange

    @cached_property
    def lag(self) -> timedelta:
        """How long after its end an hour is complete."""
        return max(one.lag for one in self.reports if one.kind == "usage")

    def complete_until(self, now: datetime) -> datetime:
        """Return the end of the hour that was the newest complete one."""
        return floor(now - self.lag, HOUR)

    @staticmethod
    def watermark(report: Report, now: datetime) -> datetime:
        """Return a report's watermark at a moment."""
        return floor(now - report.lag, report.width)

    @cached_property
    def cost(self) -> Mapping[str, CumulativeSeries]:
        """nano-USD per series of the page."""
        return self._series_by_labels(HOURLY_COST)

    @cached_property
    def tokens(self) -> Mapping[str, CumulativeSeries]:
        """Tokens per series, by type."""
        return self._series_by_labels(HOURLY_TOKENS)

    @cached_property
    def requests(self) -> Mapping[str, CumulativeSeries]:
        """Requests per series; empty where the provider counts none."""
        return self._series_by_labels(HOURLY_REQUESTS)

    def _series_by_labels(self, family: Family) -> Mapping[str, CumulativeSeries]:
        return {
            f"{self._account_labels},{rest}"
            if (rest := _labels_text(series_labels(self.history_account, shown)))
            else self._account_labels: series
            for shown, series in sorted(self._series(family).items())
        }

    def by_workspace(self, quantity: str) -> Mapping[str, CumulativeSeries]:
        """Return cost, requests or tokens per workspace."""
        family = {"cost": HOURLY_COST, "requests": HOURLY_REQUESTS, "tokens": HOURLY_TOKENS}[quantity]
        found: dict[str, array[int]] = {}
        for (place, _), series in self._series(family).items():
            name = self.history_account.label_mapper.workspace_name(place[0])
            text = format_labels((*ACCOUNT_LABELS, "workspace"), (self.account.provider, self.account.name, name))
            found[text] = (
                array("q", map(sum, zip(found[text], series.values, strict=True))) if text in found else series.values
            )
        return {text: CumulativeSeries(self._start, values) for text, values in sorted(found.items())}

    def budget_cost(self, budget: Budget) -> CumulativeSeries | None:
        """Return what a budget counts of the account; None where it counts nothing of it whatever it uses."""
        if not matching_budgets(self.account, [budget]):
            return None
        counted = BudgetMatcher(self.account, [budget], self.history_account.label_mapper.names)
        values = array("q", [0] * self._hour_count)
        for place, day in self._indexed_days():
            for labels, told in self.ledger.hours.cost(self.history_account.ledger_account.id, day).items():
                if counted.match(labels):
                    for hour, value in enumerate(told[:24]):
                        values[place + hour] += value
        return CumulativeSeries(self._start, values)

    def estimate_error(self, billed_before: datetime) -> str | None:
        """Return how far the newest day that had been billed by then was estimated from its first bill."""
        ended = [error for day, error in self._estimate_errors if day + DAY <= billed_before]
        return ended[-1] if ended else None

    @cached_property
    def _estimate_errors(self) -> Sequence[tuple[datetime, str]]:
        days = self.ledger.costs.days(
            self.history_account.ledger_account.id, TimeRange(self._start, self.time_range.end)
        )
        return [
            (day.start, f"{(day.estimate - day.first_bill) / day.first_bill:.6f}")
            for day in days
            if day.estimate is not None and day.first_bill
        ]

    @property
    def _account_labels(self) -> str:
        return format_labels(ACCOUNT_LABELS, (self.account.provider, self.account.name))

    @property
    def _start(self) -> datetime:
        return floor(self.time_range.start, DAY) - LOOKBACK

    @property
    def _hour_count(self) -> int:
        return (floor(self.time_range.end - HOUR, DAY) + DAY - self._start) // HOUR

    def _indexed_days(self) -> list[tuple[int, datetime]]:
        return [((day - self._start) // HOUR, day) for day in slots(self._start, self.time_range.end, DAY)]

    @cached_property
    def _series_cache(self) -> dict[Family, Mapping[HistorySeriesKey, CumulativeSeries]]:
        return {}

    def _series(self, family: Family) -> Mapping[HistorySeriesKey, CumulativeSeries]:
        if family not in self._series_cache:
            self._series_cache[family] = self._read_series(family)
        return self._series_cache[family]

    def _read_series(self, family: Family) -> Mapping[HistorySeriesKey, CumulativeSeries]:
        found: dict[HistorySeriesKey, array[int]] = {}
        for place, day in self._indexed_days():
            for shown, told in read_day(self.ledger, family, self.history_account, day).items():
                values = found.setdefault(shown, array("q", [0] * self._hour_count))
                values[place : place + len(told)] = array("q", told)
        return {shown: CumulativeSeries(self._start, values) for shown, values in found.items()}


def _labels_text(labels: Mapping[str, str]) -> str:
    return format_labels(list(labels), list(labels.values()))
