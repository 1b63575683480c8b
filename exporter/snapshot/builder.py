"""Builds an account's snapshot. A day is read from the source again only when its version changed."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import blake2b
from types import MappingProxyType

from exporter.analysis.baselines import BASELINE_DAYS
from exporter.analysis.budgets import SpendSeries, budget_share, exhaustion_time
from exporter.config.configuration import Budget
from exporter.ledger import DayRevision, FixedCost
from exporter.ledger.snapshot_days import UNKNOWN_DAY
from exporter.model import COST, DAY, HOUR, TOKEN_METERS, RowLabels
from exporter.polling.account_state import AccountView
from exporter.polling.schedule import complete_until
from exporter.snapshot.account_snapshot import (
    RECENT_WINDOWS,
    AccountSnapshot,
    DayTotals,
    ReportCoverage,
    RowTotals,
    merge_totals,
)
from exporter.snapshot.day_reads import find_day_reads
from exporter.snapshot.hourly import BudgetMatcher, HourlyDay, RawDay, join_days, matching_budgets, sum_day
from exporter.snapshot.labels import LabelMapper, SpendLabels, to_spend_labels
from exporter.snapshot.signals import compute_signals
from exporter.snapshot.source import SnapshotSource, sum_hours
from exporter.snapshot.stored_days import NO_STORED_DAYS, StoredDay, StoredDays
from exporter.windows import DAYS_EXPORTED, TimeRange, calendar_windows, days_back, floor, slots

_USAGE_DAYS = BASELINE_DAYS + 2
"""Days of hourly usage that signals look at: yesterday's hours are compared with the days before them."""


def report_coverages(view: AccountView, source: SnapshotSource) -> tuple[ReportCoverage, ...]:
    """Return how far each report of an account has been read, and its watermark."""
    coverages = ((report, source.coverage(report)) for report in view.reports)
    return tuple(ReportCoverage(report, known, complete_until(report, known)) for report, known in coverages)


def account_watermark(view: AccountView, reports: Sequence[ReportCoverage]) -> datetime | None:
    """Return the time up to which all usage of an account is known; None until that can be said."""
    usage = [
        known
        for known in reports
        if known.report.kind == "usage"
        # An optional report that has failed from the beginning may not be in this plan: it holds nothing up.
        and not (known.coverage is None and known.report.optional and known.report.name in view.health.problems)
    ]
    watermarks = [known.complete_until for known in usage if known.complete_until is not None]
    return min(watermarks, default=None) if len(watermarks) == len(usage) else None


def covered_range(reports: Sequence[ReportCoverage]) -> TimeRange | None:
    """Return the time range of which all usage is known; None until each usage report was read once."""
    usage = [known.coverage for known in reports if known.report.kind == "usage"]
    covered = [coverage for coverage in usage if coverage is not None]
    if not covered or len(covered) < len(usage):
        return None
    return TimeRange(max(coverage.since for coverage in covered), min(coverage.until for coverage in covered))


@dataclass(frozen=True, slots=True)
class _Grouping:
    """How rows are summed by the hour; where it changes, every day is read again."""

    ledger_account: int
    remapped: Mapping[SpendLabels, SpendLabels]
    names: Mapping[str, str]
    budgets: tuple[Budget, ...]

    @property
    def digest(self) -> str:
        """The same in another process where rows are summed in the same way."""
        plain = [
            [self.ledger_account],
            sorted(self.remapped.items()),
            sorted(self.names.items()),
            [[budget.name, budget.match.globs] for budget in self.budgets],
        ]
        return blake2b(json.dumps(plain).encode(), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class _VersionedDay:
    """A day by the hour, and the version of the source's day that it was summed from."""

    version: int
    day: HourlyDay


@dataclass(frozen=True, slots=True)
class _KnownTotals:
    """The totals of a day, and what they were summed from."""

    version: int
    """The version of the source's day."""
    revision: DayRevision
    totals: DayTotals


@dataclass(slots=True)
class SnapshotBuilder:
    """Builds snapshots of one account, one at a time, and keeps the totals of each day."""

    _totals: dict[datetime, _KnownTotals] = field(default_factory=dict)
    _labels: dict[tuple[RowLabels, ...], tuple[RowLabels, ...]] = field(default_factory=dict)
    """Sets of labels, so that days of equal labels share them."""
    _grouping: _Grouping | None = None
    _hourly: dict[datetime, _VersionedDay] = field(default_factory=dict)
    _restored: StoredDays = NO_STORED_DAYS
    """Days of an earlier process, until the first snapshot is built."""

    def restore(
        self, stored: StoredDays, versions: Mapping[datetime, int], revisions: Mapping[datetime, DayRevision]
    ) -> None:
        """Begin with the days of an earlier process that have not changed since.

        `revisions` are the present ones, without days of which nothing is known. `versions` are those of the source's
        exported days, read before the revisions: a change after that makes the next build read the day.
        """
        days = {
            day: known
            for day, known in stored.days.items()
            if day in versions and known.revision == revisions.get(day, UNKNOWN_DAY)
        }
        self._restored = StoredDays(stored.grouping, days)
        for day, known in days.items():
            labels = self._labels.setdefault(tuple(known.totals.labels), tuple(known.totals.labels))
            totals = DayTotals(labels, known.totals.values)
            self._totals[day] = _KnownTotals(versions[day], known.revision, totals)

    def closed_days(self, now: datetime) -> StoredDays:
        """Return the days before today, to be stored for a later process."""
        grouping = "" if self._grouping is None else self._grouping.digest
        return StoredDays(
            grouping,
            {
                day: StoredDay(known.revision, known.totals, self._hourly[day].day)
                for day, known in self._totals.items()
                if day + DAY <= now
            },
        )

    def build(
        self,
        view: AccountView,
        source: SnapshotSource,
        budgets: Iterable[Budget],
        now: datetime,
        revisions: Mapping[datetime, DayRevision] = MappingProxyType({}),
    ) -> AccountSnapshot:
        """Build the account's snapshot of `now`. Raises LedgerError.

        `revisions` are needed only where `closed_days` are stored: of each exported day, read before the source is.
        """
        reports = report_coverages(view, source)
        watermark, covered = account_watermark(view, reports), covered_range(reports)
        exported = exported_range(now)
        raw_days = self._read_days(source, exported, revisions)
        windows = self._window_totals(source, now, watermark)
        label_mapper = _build_label_mapper(windows, source, view.account.max_series)
        own_budgets = matching_budgets(view.account, budgets)
        grouping = _Grouping(view.ledger_account.id, label_mapper.remapped, label_mapper.names, own_budgets)
        day_costs = source.day_costs(exported)
        fixed_costs = {day.start: day.fixed_costs for day in day_costs}
        known_since = exported.end if covered is None else covered.start
        matcher = BudgetMatcher(view.account, own_budgets, label_mapper.names)
        days = self._hourly_days(source, grouping, label_mapper, matcher, raw_days, fixed_costs, exported)
        hourly = join_days(exported.start, known_since, days, own_budgets)
        return AccountSnapshot(
            view=view,
            time=now,
            reports=reports,
            complete_until=watermark,
            covered=covered,
            up=not view.health.problems and all(known.coverage is not None for known in reports),
            label_mapper=label_mapper,
            windows=windows,
            days={day: known.totals for day, known in self._totals.items() if known.totals.labels},
            day_costs=tuple(day_costs),
            day_reads=find_day_reads(view, source, exported),
            unpriced_tokens=source.unpriced_tokens(exported),
            restated=source.restated(),
            hourly=hourly,
            signals=compute_signals(hourly, label_mapper, watermark, now) if view.has_hourly_usage else (),
            budget_shares={
                budget.name: budget_share(budget.period, hourly.budgets[budget.name], now, watermark)
                for budget in own_budgets
            },
            month_forecast=budget_share("month", hourly.account, now, watermark).forecast,
            balance_exhausted_at=_balance_exhausted_at(view, hourly.account, watermark),
            crosscheck_ratios=_crosscheck_ratios(view, source, windows, now, watermark),
        )

    def _read_days(
        self, source: SnapshotSource, exported: TimeRange, revisions: Mapping[datetime, DayRevision]
    ) -> dict[datetime, RawDay]:
        """Bring the days' totals up to date; return the days that were read for it."""
        previous, self._totals = self._totals, {}
        raw_days = {}
        for day in slots(exported.start, exported.end, DAY):
            # The version is read before the day: a change in between makes the next build read the day again.
            version, known = source.day_version(day), previous.get(day)
            if known is None or known.version != version:
                raw_days[day] = raw = _read_day(source, day, exported)
                usage = source.daily_usage(day) if raw.usage is None else sum_hours(raw.usage)
                totals = self._day_totals(sum_hours(raw.cost), usage)
                known = _KnownTotals(version, revisions.get(day, UNKNOWN_DAY), totals)
            self._totals[day] = known
        return raw_days

    def _day_totals(self, cost: Mapping[RowLabels, int], usage: Mapping[RowLabels, int]) -> DayTotals:
        # Where usage carries its cost, that cost is among what was valued: it would count twice.
        totals = {**cost, **{row: value for row, value in usage.items() if row.meter != COST}}
        labels = tuple(totals)
        return DayTotals(self._labels.setdefault(labels, labels), array("q", totals.values()))

    def _window_totals(self, source: SnapshotSource, now: datetime, watermark: datetime | None) -> dict[str, RowTotals]:
        windows: dict[str, RowTotals] = {}
        for name, window in calendar_windows(now, watermark).items():
            totals: dict[RowLabels, int] = {}
            if window.end - window.start < DAY:
                totals |= source.cost(window)
                if name != "this_hour":
                    totals |= {labels: n for labels, n in source.usage(window).items() if labels.meter != COST}
            else:
                for day in slots(window.start, window.end, DAY):
                    merge_totals(totals, self._totals[day].totals.items())
            windows[name] = totals
        return windows

    def _hourly_days(
        self,
        source: SnapshotSource,
        grouping: _Grouping,
        label_mapper: LabelMapper,
        matcher: BudgetMatcher,
        raw_days: Mapping[datetime, RawDay],
        fixed_costs: Mapping[datetime, Mapping[RowLabels, FixedCost]],
        exported: TimeRange,
    ) -> list[HourlyDay]:
        """Return every exported day by the hour; a day is summed again where it or the grouping has changed."""
        previous = self._hourly if grouping == self._grouping else {}
        if self._restored.days and self._restored.grouping == grouping.digest:
            # A day that was read again, because it changed since it was restored, is among the raw days.
            previous = {
                day: _VersionedDay(self._totals[day].version, known.hourly)
                for day, known in self._restored.days.items()
                if day in self._totals and day not in raw_days
            }
        self._restored = NO_STORED_DAYS
        self._grouping, self._hourly = grouping, {}
        for day, totals in self._totals.items():
            known, needs_usage = previous.get(day), _needs_usage(day, exported)
            if known is None or known.version != totals.version or (needs_usage and not known.day.has_usage):
                raw_day = raw_days.get(day) or _read_day(source, day, exported)
                hourly_day = sum_day(raw_day, fixed_costs.get(day, {}), label_mapper, matcher)
                known = _VersionedDay(totals.version, hourly_day)
            elif known.day.has_usage and not needs_usage:
                # As if it were read today: a process that ran for long exports the same as a new one.
                known = _VersionedDay(known.version, known.day.without_usage())
            self._hourly[day] = known
        return [known.day for known in self._hourly.values()]


def exported_range(now: datetime) -> TimeRange:
    """Return the UTC days that a snapshot holds."""
    return TimeRange(days_back(now, DAYS_EXPORTED - 1), floor(now, DAY) + DAY)


def _build_label_mapper(windows: Mapping[str, RowTotals], source: SnapshotSource, max_series: int) -> LabelMapper:
    """Return the labels of every series, from the usage and cost of the recent windows."""
    recent = {labels: value for name in RECENT_WINDOWS for labels, value in windows[name].items()}
    recent_cost = dict.fromkeys(map(to_spend_labels, recent), 0)
    for labels, value in recent.items():
        if labels.meter == COST:
            recent_cost[to_spend_labels(labels)] += value
    return LabelMapper.build(recent_cost, map(to_spend_labels, source.known_labels()), source.names(), max_series)


def _read_day(source: SnapshotSource, day: datetime, exported: TimeRange) -> RawDay:
    return RawDay(source.hourly_cost(day), source.hourly_usage(day) if _needs_usage(day, exported) else None)


def _needs_usage(day: datetime, exported: TimeRange) -> bool:
    """Return whether signals look at a day's hourly usage."""
    return exported.end - day <= _USAGE_DAYS * DAY


def _balance_exhausted_at(view: AccountView, spend: SpendSeries, watermark: datetime | None) -> datetime | None:
    if view.balance is None or watermark is None:
        return None
    return exhaustion_time(spend, view.balance.total, view.balance.read_at, floor(watermark, HOUR))


def _crosscheck_ratios(
    view: AccountView,
    source: SnapshotSource,
    windows: Mapping[str, RowTotals],
    now: datetime,
    watermark: datetime | None,
) -> dict[str, float]:
    if watermark is None or not view.crosschecks:
        return {}
    reported = sum(value for labels, value in windows["last_hour"].items() if labels.meter in TOKEN_METERS)
    ratios = {}
    for crosscheck in view.crosschecks:
        tokens = source.crosscheck_tokens(crosscheck, calendar_windows(now, watermark)["last_hour"])
        # Where neither side has any tokens there is nothing to compare.
        if tokens is not None and (tokens or reported):
            ratios[crosscheck.source] = tokens / reported if reported else float("inf")
    return ratios
