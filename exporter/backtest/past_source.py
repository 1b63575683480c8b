"""An account's stored data as it was at a moment of the past: the source of past snapshots.

The ledger keeps the newest version of every hour, so a later correction is in the past from the beginning. What the
exporter knew at a moment follows from the reports' delays: an hour is complete once its report's lag has passed, a day
is billed once the lag of its bill has. The running hour grows evenly. The ledger does not record how polls went: every
report counts as polled at that moment, successfully.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property

from exporter.ledger import Coverage, DayCost, HourlyValues, Ledger
from exporter.model import DAY, GAUGE_METERS, HOUR, Report, RowLabels
from exporter.polling.account_state import AccountView, Crosscheck
from exporter.snapshot.source import LedgerSource, sum_hours
from exporter.windows import DAYS_EXPORTED, TimeRange, floor, slots


@dataclass
class PastSource:
    """One account at `now`, which may be set forward and back over a time range."""

    ledger: Ledger
    view: AccountView
    time_range: TimeRange
    now: datetime = field(init=False)
    _days: dict[tuple[str, datetime], HourlyValues] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.now = self.time_range.start

    def coverage(self, report: Report) -> Coverage | None:
        """Return how far a report had been read."""
        known = self._coverage.get(report)
        return None if known is None else Coverage(known.since, self.now, self.now)

    def last_reads(self, reports: Sequence[str], time_range: TimeRange) -> Mapping[datetime, datetime]:  # noqa: ARG002
        """Return nothing: the ledger knows the newest read of a day only."""
        return {}

    def day_version(self, day: datetime) -> int:
        """Return a number that changes with `now` on the running day, and never on others."""
        return int((self.now - day).total_seconds()) if day == floor(self.now, DAY) else -1

    def hourly_cost(self, day: datetime) -> HourlyValues:
        """Return nano-USD of a UTC day, up to `now`."""
        return self._until_now(day, self._day("cost", day, self._source.hourly_cost))

    def hourly_usage(self, day: datetime) -> HourlyValues:
        """Return units of a UTC day, up to `now`."""
        return self._until_now(day, self._day("usage", day, self._source.hourly_usage))

    def daily_usage(self, day: datetime) -> Mapping[RowLabels, int]:
        """Return units of a UTC day by row labels, up to `now`."""
        return sum_hours(self.hourly_usage(day))

    def cost(self, time_range: TimeRange) -> Mapping[RowLabels, int]:
        """Return nano-USD of one hour by row labels."""
        return self._hour(time_range, self.hourly_cost)

    def usage(self, time_range: TimeRange) -> Mapping[RowLabels, int]:
        """Return units of one hour by row labels."""
        return self._hour(time_range, self.hourly_usage)

    def day_costs(self, time_range: TimeRange) -> Sequence[DayCost]:
        """Return the valued days; a day counts as billed once the lag of its bill has passed."""
        today, days = floor(self.now, DAY), []
        for day in self._day_costs:
            if time_range.start <= day.start < time_range.end and day.start <= today:
                if day.start == today:
                    day = replace(day, cost=sum(map(sum, self.hourly_cost(today).values())))  # noqa: PLW2901
                if day.start + DAY + self._bill_lag > self.now:
                    day = _without_bill(day)  # noqa: PLW2901
                days.append(day)
        return days

    def unpriced_tokens(self, time_range: TimeRange) -> Mapping[datetime, Mapping[str, int]]:
        """Return start of a UTC day -> model -> tokens without a known price."""
        return {
            day: tokens
            for day, tokens in self._unpriced_tokens.items()
            if time_range.start <= day < time_range.end and day <= self.now
        }

    def restated(self) -> int:
        """Return 0: the ledger knows by how much a day was corrected, but not when."""
        return 0

    def known_labels(self) -> Collection[RowLabels]:
        """Return the labels of every row that was ever stored."""
        return self._known_labels

    def names(self) -> Mapping[str, str]:
        """Return id of a workspace or an API key -> its present name."""
        return self._names

    def crosscheck_tokens(self, crosscheck: Crosscheck, hour: TimeRange) -> int | None:
        """Return the tokens that another source reported of an hour."""
        return self._source.crosscheck_tokens(crosscheck, hour)

    @property
    def _source(self) -> LedgerSource:
        return LedgerSource(self.ledger, self.view.ledger_account)

    @cached_property
    def _coverage(self) -> Mapping[Report, Coverage | None]:
        return {report: self._source.coverage(report) for report in self.view.reports}

    @cached_property
    def _day_costs(self) -> Sequence[DayCost]:
        first = floor(self.time_range.start, DAY) - DAYS_EXPORTED * DAY
        days = self._source.day_costs(TimeRange(first, self.time_range.end))
        # The ledger knows which bills are incomplete now, but not since when, nor which ones were before.
        return [replace(day, bill_is_incomplete=False) for day in days]

    @cached_property
    def _unpriced_tokens(self) -> Mapping[datetime, Mapping[str, int]]:
        first = floor(self.time_range.start, DAY) - DAYS_EXPORTED * DAY
        return self._source.unpriced_tokens(TimeRange(first, self.time_range.end))

    @cached_property
    def _known_labels(self) -> Collection[RowLabels]:
        return self._source.known_labels()

    @cached_property
    def _names(self) -> Mapping[str, str]:
        return self._source.names()

    @cached_property
    def _bill_lag(self) -> timedelta:
        reports = self.view.ledger_account.bill_reports or self.view.ledger_account.usage_reports
        return max(report.lag for report in reports)

    def _day(self, kind: str, day: datetime, read: Callable[[datetime], HourlyValues]) -> HourlyValues:
        if (kind, day) not in self._days:
            self._days[kind, day] = read(day)
        return self._days[kind, day]

    def _until_now(self, day: datetime, values: HourlyValues) -> HourlyValues:
        if day + DAY <= self.now:
            return values
        if day > self.now:
            return {}
        running_hour = (self.now - day) // HOUR
        elapsed, covered = self._elapsed_of_running_hour(day + running_hour * HOUR)
        known: dict[RowLabels, Sequence[int]] = {}
        for labels, hours in values.items():
            # Of a day that was rolled up only the sum is left, and it is longer ago than any backtest reaches.
            if len(hours) > running_hour:
                # A level, such as bytes, does not grow within its hour.
                is_level = labels.meter in GAUGE_METERS and elapsed > 0
                grown = hours[running_hour] if is_level else hours[running_hour] * elapsed // covered
                cut = [*hours[:running_hour], grown, *([0] * (len(hours) - running_hour - 1))]
                if any(cut):
                    known[labels] = cut
        return known

    def _elapsed_of_running_hour(self, hour: datetime) -> tuple[int, int]:
        """Return the seconds of an hour up to `now`, and those that the ledger covers: fewer in the newest hour."""
        until = max((known.until for known in self._coverage.values() if known is not None), default=self.now)
        covered = min(HOUR, until - hour) if until > hour else HOUR
        return int(min(self.now - hour, covered).total_seconds()), max(1, int(covered.total_seconds()))

    def _hour(self, time_range: TimeRange, read: Callable[[datetime], HourlyValues]) -> dict[RowLabels, int]:
        totals: dict[RowLabels, int] = {}
        for hour in slots(time_range.start, time_range.end, HOUR):
            day = floor(hour, DAY)
            place = (hour - day) // HOUR
            for labels, values in read(day).items():
                if len(values) > place and values[place]:
                    totals[labels] = totals.get(labels, 0) + values[place]
        return totals


def _without_bill(day: DayCost) -> DayCost:
    """Return a day as it was before its bill: no charge of a single day was known."""
    recurring = {labels: fixed for labels, fixed in day.fixed_costs.items() if fixed.frequency != "one_time"}
    return replace(day, billed=False, first_bill=0, restatement=0, estimate=None, fixed_costs=recurring)
