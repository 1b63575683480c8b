"""Builds an account's snapshot. A day is read from the source again only when its version changed."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from exporter.analysis.baselines import BASELINE_DAYS, Baseline, HourlySeries, baseline, excess
from exporter.analysis.budgets import SpendSeries, budget_share, matches
from exporter.config.configuration import Account, Budget
from exporter.ledger import FixedCost, HourlyValues
from exporter.ledger.hours import add_hourly_values
from exporter.model import COST, DAY, HOUR, NANO, REQUESTS, TOKEN_METERS, RowLabels
from exporter.polling.account_state import AccountView
from exporter.polling.schedule import complete_until
from exporter.snapshot.account_snapshot import (
    AccountSnapshot,
    DayTotals,
    HourlyTotals,
    ReportCoverage,
    RowTotals,
    WorkspaceSignals,
    merge_totals,
)
from exporter.snapshot.day_reads import find_day_reads
from exporter.snapshot.labels import LabelMapper, SpendLabels, to_spend_labels
from exporter.snapshot.source import SnapshotSource, sum_hours
from exporter.windows import DAYS_EXPORTED, TimeRange, calendar_windows, days_back, floor, slots

MIN_COST_INCREASE = 1 * NANO
"""An hour is unusual only where it cost at least a dollar more than expected, however steady its workspace is."""
MIN_REQUESTS_INCREASE = 100
MIN_TOKENS_INCREASE = 100_000

RECENT_WINDOWS = ("month", "30d")
"""A series with cost or usage in one of these is exported. On the 31st the month began a day before the 30 days did."""

_USAGE_DAYS = BASELINE_DAYS + 2
"""Days of hourly usage that signals look at: yesterday's hours are compared with the days before them."""
_ZERO_DAY = array("q", [0] * int(DAY / HOUR))

_HourlySums = dict[str, Sequence[int]]
"""Workspace id or budget -> nano-USD, requests or tokens of the hours of a day."""
_WHOLE_ACCOUNT = ""
"""Key of the whole account among budgets: no budget has an empty name."""


def matching_budgets(account: Account, budgets: Iterable[Budget]) -> tuple[Budget, ...]:
    """Return the budgets that may count something of an account."""
    labels = _account_match_labels(account)
    return tuple(
        budget
        for budget in budgets
        if matches({name: glob for name, glob in budget.match.globs.items() if name in labels}, labels)
    )


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
class _RawDay:
    """One UTC day as the source has it."""

    cost: HourlyValues
    usage: HourlyValues | None
    """None for days that are too old for baselines: only their totals are needed."""


@dataclass(frozen=True, slots=True)
class _HourlyDay:
    """One UTC day by the hour, grouped."""

    version: int
    usage_cost: _HourlySums
    fixed_cost: _HourlySums
    budgets: _HourlySums
    one_time_cost: _HourlySums
    requests: _HourlySums
    tokens: _HourlySums


@dataclass(slots=True)
class SnapshotBuilder:
    """Builds snapshots of one account, one at a time, and keeps the totals of each day."""

    _totals: dict[datetime, tuple[int, DayTotals]] = field(default_factory=dict)
    """Day -> its version and totals."""
    _labels: dict[tuple[RowLabels, ...], tuple[RowLabels, ...]] = field(default_factory=dict)
    """Sets of labels, so that days of equal labels share them."""
    _grouping: _Grouping | None = None
    _hourly: dict[datetime, _HourlyDay] = field(default_factory=dict)

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
        hourly = self._hourly_totals(
            view.account, source, label_mapper, grouping, raw_days, fixed_costs, exported, known_since
        )
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
            signals=_compute_signals(hourly, label_mapper, watermark, now) if view.has_hourly_usage else (),
            budget_shares={
                budget.name: budget_share(budget.period, hourly.budgets[budget.name], now, watermark)
                for budget in own_budgets
            },
            month_forecast=budget_share("month", hourly.account, now, watermark).forecast,
            crosscheck_ratios=_crosscheck_ratios(view, source, windows, now, watermark),
        )

    def _read_days(self, source: SnapshotSource, exported: TimeRange) -> dict[datetime, _RawDay]:
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

    def _hourly_totals(
        self,
        account: Account,
        source: SnapshotSource,
        label_mapper: LabelMapper,
        grouping: _Grouping,
        raw_days: Mapping[datetime, _RawDay],
        fixed_costs: Mapping[datetime, Mapping[RowLabels, FixedCost]],
        exported: TimeRange,
        known_since: datetime,
    ) -> HourlyTotals:
        previous = self._hourly if grouping == self._grouping else {}
        self._grouping, self._hourly = grouping, {}
        matcher = BudgetMatcher(account, grouping.budgets, grouping.names)
        for day, (version, _) in self._totals.items():
            known = previous.get(day)
            if known is None or known.version != version:
                raw = raw_days.get(day) or _read_day(source, day, exported)
                known = _group_day(version, raw, fixed_costs.get(day, {}), label_mapper, matcher)
            self._hourly[day] = known
        days = [*self._hourly.values()]

        def join(sums: Iterable[_HourlySums]) -> dict[str, HourlySeries]:
            return _join_days(exported.start, known_since, list(sums))

        unused = HourlySeries(exported.start, array("q", bytes(8 * len(_ZERO_DAY) * len(days))), known_since)
        usage_cost, fixed_cost = join(day.usage_cost for day in days), join(day.fixed_cost for day in days)
        requests = join(day.requests for day in days)
        budgets, one_time_cost = join(day.budgets for day in days), join(day.one_time_cost for day in days)

        def spend(name: str) -> SpendSeries:
            return SpendSeries(budgets.get(name, unused), one_time_cost.get(name))

        return HourlyTotals(
            usage_cost=dict.fromkeys(fixed_cost, unused) | usage_cost,
            fixed_cost=fixed_cost,
            requests=requests,
            tokens={} if requests else join(day.tokens for day in days),
            account=spend(_WHOLE_ACCOUNT),
            budgets={budget.name: spend(budget.name) for budget in grouping.budgets},
        )


@dataclass(slots=True)
class BudgetMatcher:
    """Finds the budgets that count a row of an account."""

    account: Account
    budgets: Sequence[Budget]
    names: Mapping[str, str]
    _matches: dict[SpendLabels, list[str]] = field(default_factory=dict)

    def match(self, labels: RowLabels) -> list[str]:
        """Return the names of the budgets. A model that is aggregated in metrics is matched under its own name."""
        series = to_spend_labels(labels)
        if series not in self._matches:
            workspace = self.names.get(series.workspace, series.workspace)
            values = _account_match_labels(self.account) | {"workspace": workspace, "model": series.model}
            self._matches[series] = [budget.name for budget in self.budgets if matches(budget.match.globs, values)]
        return self._matches[series]


def _exported_range(now: datetime) -> TimeRange:
    return TimeRange(days_back(now, DAYS_EXPORTED - 1), floor(now, DAY) + DAY)


def _account_match_labels(account: Account) -> dict[str, str]:
    return {"account": account.name, "provider": account.provider, "owner": account.owner}


def _build_label_mapper(windows: Mapping[str, RowTotals], source: SnapshotSource, max_series: int) -> LabelMapper:
    """Return the labels of every series, from the usage and cost of the recent windows."""
    recent = {labels: value for name in RECENT_WINDOWS for labels, value in windows[name].items()}
    recent_cost = dict.fromkeys(map(to_spend_labels, recent), 0)
    for labels, value in recent.items():
        if labels.meter == COST:
            recent_cost[to_spend_labels(labels)] += value
    return LabelMapper.build(recent_cost, map(to_spend_labels, source.known_labels()), source.names(), max_series)


def _read_day(source: SnapshotSource, day: datetime, exported: TimeRange) -> _RawDay:
    with_usage = exported.end - day <= _USAGE_DAYS * DAY
    return _RawDay(source.hourly_cost(day), source.hourly_usage(day) if with_usage else None)


def _group_day(
    version: int,
    raw: _RawDay,
    fixed_costs: Mapping[RowLabels, FixedCost],
    label_mapper: LabelMapper,
    matcher: BudgetMatcher,
) -> _HourlyDay:
    usage_cost: _HourlySums = {}
    fixed_cost: _HourlySums = {}
    budgets: _HourlySums = {}
    one_time_cost: _HourlySums = {}
    requests: _HourlySums = {}
    tokens: _HourlySums = {}
    for labels, values in raw.cost.items():
        fixed = fixed_costs.get(labels)
        _add(usage_cost if fixed is None else fixed_cost, label_mapper.remap(labels).workspace, values)
        for budget in (_WHOLE_ACCOUNT, *matcher.match(labels)):
            _add(budgets, budget, values)
            if fixed is not None and fixed.frequency == "one_time":
                _add(one_time_cost, budget, values)
    for labels, values in (raw.usage or {}).items():
        if labels.meter == REQUESTS:
            _add(requests, label_mapper.remap(labels).workspace, values)
        elif labels.meter in TOKEN_METERS:
            _add(tokens, label_mapper.remap(labels).workspace, values)
    return _HourlyDay(
        version=version,
        usage_cost=_pack(usage_cost),
        fixed_cost=_pack(fixed_cost),
        budgets=_pack(budgets),
        one_time_cost=_pack(one_time_cost),
        requests=_pack(requests),
        tokens={} if requests else _pack(tokens),
    )


def _add(sums: _HourlySums, name: str, values: Sequence[int]) -> None:
    sums[name] = add_hourly_values(sums[name], values) if name in sums else values


def _pack(sums: _HourlySums) -> _HourlySums:
    return {name: array("q", values) for name, values in sums.items()}


def _join_days(since: datetime, known_since: datetime, days: Sequence[_HourlySums]) -> dict[str, HourlySeries]:
    joined = {}
    for name in sorted({name for day in days for name in day}):
        values = array("q")
        for day in days:
            values.extend(day.get(name, _ZERO_DAY))
        joined[name] = HourlySeries(since, values, known_since)
    return joined


def _compute_signals(
    hourly: HourlyTotals, label_mapper: LabelMapper, watermark: datetime | None, now: datetime
) -> tuple[WorkspaceSignals, ...]:
    if watermark is None:
        return ()
    last_hour, this_hour = floor(min(watermark, now), HOUR) - HOUR, floor(now, HOUR)

    def expect(
        values: Mapping[str, HourlySeries], workspace: str, hour: datetime, min_increase: int
    ) -> Baseline | None:
        return baseline(values[workspace], hour, min_increase) if workspace in values else None

    def expect_cost(workspace: str, hour: datetime) -> Baseline | None:
        """Return the baseline of the usage and the fixed costs that the hour has: those are known, not expected."""
        known = expect(hourly.usage_cost, workspace, hour, MIN_COST_INCREASE)
        if known is None or workspace not in hourly.fixed_cost:
            return known
        fixed = hourly.fixed_cost[workspace].at(hour)
        return Baseline(known.expected + fixed, known.upper_bound + fixed)

    return tuple(
        WorkspaceSignals(
            workspace=label_mapper.workspace_name(workspace),
            cost=expect_cost(workspace, last_hour),
            this_hour_cost=expect_cost(workspace, this_hour),
            requests=expect(hourly.requests, workspace, last_hour, MIN_REQUESTS_INCREASE),
            tokens=expect(hourly.tokens, workspace, last_hour, MIN_TOKENS_INCREASE),
            excess=excess(hourly.usage_cost[workspace], watermark, MIN_COST_INCREASE)
            if workspace in hourly.usage_cost
            else None,
            last_hour_cost=hourly.cost_at(workspace, last_hour),
        )
        for workspace in _recent_workspaces(hourly, now)
    )


def _recent_workspaces(hourly: HourlyTotals, now: datetime) -> list[str]:
    windows = calendar_windows(now, None)
    since = min(windows[name].start for name in RECENT_WINDOWS)
    return sorted(
        {
            workspace
            for values in (hourly.usage_cost, hourly.fixed_cost, hourly.requests, hourly.tokens)
            for workspace, series in values.items()
            if any(series.values[max(0, (since - series.since) // HOUR) :])
        }
    )


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
