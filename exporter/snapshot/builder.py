"""Builds an account's snapshot. A day is read from the source again only when its version changed."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from exporter.analysis.baselines import BASELINE_DAYS
from exporter.analysis.budgets import budget_share
from exporter.config.configuration import Budget
from exporter.ledger import FixedCost
from exporter.model import COST, DAY, TOKEN_METERS, RowLabels
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


@dataclass(frozen=True, slots=True)
class _VersionedDay:
    """A day by the hour, and the version of the source's day that it was summed from."""

    version: int
    day: HourlyDay


@dataclass(slots=True)
class SnapshotBuilder:
    """Builds snapshots of one account, one at a time, and keeps the totals of each day."""

    _totals: dict[datetime, tuple[int, DayTotals]] = field(default_factory=dict)
    """Day -> its version and totals."""
    _labels: dict[tuple[RowLabels, ...], tuple[RowLabels, ...]] = field(default_factory=dict)
    """Sets of labels, so that days of equal labels share them."""
    _grouping: _Grouping | None = None
    _hourly: dict[datetime, _VersionedDay] = field(default_factory=dict)

    def build(
        self, view: AccountView, source: SnapshotSource, budgets: Iterable[Budget], now: datetime
    ) -> AccountSnapshot:
        """Build the account's snapshot of `now`. Raises LedgerError."""
        reports = report_coverages(view, source)
        watermark, covered = account_watermark(view, reports), covered_range(reports)
        exported = _exported_range(now)
        raw_days = self._read_days(source, exported)
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
            days={day: totals for day, (_, totals) in self._totals.items() if totals.labels},
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
            crosscheck_ratios=_crosscheck_ratios(view, source, windows, now, watermark),
        )

    def _read_days(self, source: SnapshotSource, exported: TimeRange) -> dict[datetime, RawDay]:
        """Bring the days' totals up to date; return the days that were read for it."""
        previous, self._totals = self._totals, {}
        raw_days = {}
        for day in slots(exported.start, exported.end, DAY):
            # The version is read before the day: a change in between makes the next build read the day again.
            version, known = source.day_version(day), previous.get(day)
            if known is None or known[0] != version:
                raw_days[day] = raw = _read_day(source, day, exported)
                usage = source.daily_usage(day) if raw.usage is None else sum_hours(raw.usage)
                known = (version, self._day_totals(sum_hours(raw.cost), usage))
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
                    merge_totals(totals, self._totals[day][1].items())
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
        self._grouping, self._hourly = grouping, {}
        for day, (version, _) in self._totals.items():
            known = previous.get(day)
            if known is None or known.version != version:
                raw_day = raw_days.get(day) or _read_day(source, day, exported)
                known = _VersionedDay(version, sum_day(raw_day, fixed_costs.get(day, {}), label_mapper, matcher))
            self._hourly[day] = known
        return [known.day for known in self._hourly.values()]


def _exported_range(now: datetime) -> TimeRange:
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
    with_usage = exported.end - day <= _USAGE_DAYS * DAY
    return RawDay(source.hourly_cost(day), source.hourly_usage(day) if with_usage else None)


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
