"""The ledger's past as scraped gauges: what the page would have shown every few minutes, had everything come in time.

An hour's use is told evenly within the hour, and the hour is complete when the provider's usual delay has passed.
Corrections are in it from the beginning: of each hour, the ledger keeps the newest telling only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from exporter.analysis.baselines import HourlySeries, baseline
from exporter.analysis.budgets import budget_share
from exporter.backtest.account_history import AccountHistory
from exporter.backtest.promtool_series import STEP, PromtoolSeries
from exporter.config.configuration import Budget
from exporter.errors import PROBLEM_REASONS
from exporter.metrics import families as metrics
from exporter.metrics.budgets import budget_samples
from exporter.metrics.exposition import format_labels, format_usd
from exporter.metrics.families import Family
from exporter.metrics.signals import MIN_COST_DEVIATION, MIN_REQUESTS_DEVIATION, MIN_TOKENS_DEVIATION
from exporter.model import HOUR
from exporter.windows import TimeRange, calendar_windows, slots

STEPS_PER_HOUR = int(HOUR / STEP)
SCRAPE_LABELS = 'instance="replay",job="ai-spend"'
_BILLING_DELAY = 8 * HOUR


def build_series(
    account_histories: Sequence[AccountHistory], budgets: Sequence[Budget], time_range: TimeRange
) -> Iterator[PromtoolSeries]:
    """Yield every gauge that rules could look at, from the start of a span of whole hours to its end."""
    hours = list(slots(time_range.start, time_range.end, HOUR))
    for name in ("up", metrics.RELOAD_SUCCESSFUL.name):
        yield _constant_series(f"{name}{{{SCRAPE_LABELS}}}", len(hours), "1")
    for past in account_histories:
        yield from _health_series(past, hours)
        yield from _window_series(past, hours)
        yield from _signal_series(past, hours)
    for budget in budgets:
        yield from _budget_series(budget, account_histories, hours)


def _new_series(family: Family, labels: str) -> PromtoolSeries:
    return PromtoolSeries(f"{family.name}{{{labels},{SCRAPE_LABELS}}}")


def _constant_series(selector: str, hour_count: int, value: str) -> PromtoolSeries:
    course = PromtoolSeries(selector)
    course.add_constant(hour_count * STEPS_PER_HOUR, value)
    return course


def _health_series(account_history: AccountHistory, hours: Sequence[datetime]) -> Iterator[PromtoolSeries]:
    """Yield an account that was always well: the ledger does not remember how polls went."""
    values = (account_history.account.provider, account_history.account.name)
    own, start = format_labels(metrics.ACCOUNT_LABELS, values), hours[0]
    yield _constant_series(_new_series(metrics.ACCOUNT_UP, own).selector, len(hours), "1")
    yield _constant_series(
        _new_series(
            metrics.ACCOUNT_INFO, format_labels(metrics.ACCOUNT_INFO.labels, (*values, account_history.account.owner))
        ).selector,
        len(hours),
        "1",
    )
    for reason in PROBLEM_REASONS:
        labels = format_labels(metrics.ACCOUNT_PROBLEM.labels, (*values, reason))
        yield _constant_series(_new_series(metrics.ACCOUNT_PROBLEM, labels).selector, len(hours), "0")
    for report in account_history.reports:
        labels = format_labels(metrics.LAST_SUCCESS.labels, (*values, report.name))
        success, complete = _new_series(metrics.LAST_SUCCESS, labels), _new_series(metrics.COMPLETE_UNTIL, labels)
        # promtool's clock begins at 0 where the span does.
        success.add_ramp(len(hours) * STEPS_PER_HOUR, 0, int(STEP.total_seconds()), str)
        for hour in hours:
            for moment, count in _split_at_watermark(hour, report.lag):
                seen = account_history.watermark(report, moment) - start
                complete.add_constant(count, f"{seen.total_seconds():.0f}")
        yield success
        yield complete
    error = _new_series(metrics.ESTIMATE_ERROR, own)
    for hour in hours:
        error.add_constant(STEPS_PER_HOUR, account_history.estimate_error(hour - _BILLING_DELAY))
    if error.has_values:
        yield error


def _split_at_watermark(hour: datetime, lag: timedelta) -> Iterator[tuple[datetime, int]]:
    """Yield a moment and the number of steps of both parts of an hour: before and after a watermark moves on in it."""
    before = -(-(lag % HOUR) // STEP)
    if before:
        yield hour, before
    yield hour + before * STEP, STEPS_PER_HOUR - before


def _window_series(account_history: AccountHistory, hours: Sequence[datetime]) -> Iterator[PromtoolSeries]:
    """Yield cost, tokens and requests in their windows."""
    for families, told in (
        (metrics.COST, account_history.cost),
        (metrics.TOKENS, account_history.tokens),
        (metrics.REQUESTS, account_history.requests),
    ):
        tell = format_usd if families is metrics.COST else str
        for labels, series in told.items():
            for name, family in families.items():
                course = _new_series(family, labels)
                for hour in hours:
                    spans = calendar_windows(hour, None)
                    if not series.has_usage(TimeRange(min(spans["month"].start, spans["30d"].start), hour + HOUR)):
                        course.add_constant(STEPS_PER_HOUR, None)
                    elif name == "last_hour":
                        for moment, count in _split_at_watermark(hour, account_history.lag):
                            end = account_history.complete_until(moment)
                            course.add_constant(count, tell(series.total(TimeRange(end - HOUR, end))))
                    else:
                        known, running = series.total(TimeRange(spans[name].start, hour)), series.at(hour)
                        course.add_ramp(STEPS_PER_HOUR, known, running // STEPS_PER_HOUR, tell)
                if course.has_values:
                    yield course


def _signal_series(account_history: AccountHistory, hours: Sequence[datetime]) -> Iterator[PromtoolSeries]:
    """Yield what was expected, per workspace."""
    for workspace, series in account_history.by_workspace("cost").items():
        judge = BaselineCache(series.to_hourly_series(account_history.known_since), MIN_COST_DEVIATION)
        yield from _baseline_series(
            account_history, workspace, hours, judge, format_usd, metrics.COST_EXPECTED, metrics.COST_UPPER_BOUND
        )
        this, excess = (
            _new_series(family, workspace) for family in (metrics.COST_THIS_HOUR_UPPER_BOUND, metrics.COST_EXCESS)
        )
        for hour in hours:
            this.add_constant(STEPS_PER_HOUR, judge.format_values(hour, format_usd)[1])
            for moment, count in _split_at_watermark(hour, account_history.lag):
                above = judge.excess(account_history.complete_until(moment))
                excess.add_constant(count, None if above is None else format_usd(above))
        yield from (course for course in (this, excess) if course.has_values)
    for workspace, series in account_history.by_workspace("requests").items():
        judge = BaselineCache(series.to_hourly_series(account_history.known_since), MIN_REQUESTS_DEVIATION)
        yield from _baseline_series(
            account_history, workspace, hours, judge, str, metrics.REQUESTS_EXPECTED, metrics.REQUESTS_UPPER_BOUND
        )
    for workspace, series in account_history.by_workspace("tokens").items() if not account_history.requests else ():
        judge = BaselineCache(series.to_hourly_series(account_history.known_since), MIN_TOKENS_DEVIATION)
        yield from _baseline_series(
            account_history, workspace, hours, judge, str, metrics.TOKENS_EXPECTED, metrics.TOKENS_UPPER_BOUND
        )


@dataclass(slots=True)
class BaselineCache:
    """Judges the hours of a workspace, each once: whatever came after an hour changes nothing of it."""

    hourly_series: HourlySeries
    min_deviation: int
    _baselines: dict[datetime, tuple[int, int] | None]

    def __init__(self, hourly_series: HourlySeries, min_deviation: int) -> None:
        self.hourly_series, self.min_deviation, self._baselines = hourly_series, min_deviation, {}

    def get(self, hour: datetime) -> tuple[int, int] | None:
        """Return what was expected of an hour, and its high value."""
        if hour not in self._baselines:
            found = baseline(self.hourly_series, hour, self.min_deviation)
            self._baselines[hour] = None if found is None else (found.expected, found.upper_bound)
        return self._baselines[hour]

    def format_values(self, hour: datetime, format_value: Callable[[int], str]) -> tuple[str | None, str | None]:
        """Return both as they are told."""
        found = self.get(hour)
        return (None, None) if found is None else (format_value(found[0]), format_value(found[1]))

    def excess(self, until: datetime) -> int | None:
        """Return by how much the 24 hours before were above their high values."""
        judged = [(hour, self.get(hour)) for hour in (until - number * HOUR for number in range(1, 25))]
        above = [max(0, self.hourly_series.at(hour) - one[1]) for hour, one in judged if one is not None]
        return sum(above) if above else None


def _baseline_series(
    account_history: AccountHistory,
    workspace: str,
    hours: Sequence[datetime],
    baseline_cache: BaselineCache,
    format_value: Callable[[int], str],
    *families: Family,
) -> Iterator[PromtoolSeries]:
    """Yield expected and high value of the newest complete hour."""
    both = [_new_series(family, workspace) for family in families]
    for hour in hours:
        for moment, count in _split_at_watermark(hour, account_history.lag):
            for course, value in zip(
                both,
                baseline_cache.format_values(account_history.complete_until(moment) - HOUR, format_value),
                strict=True,
            ):
                course.add_constant(count, value)
    yield from (course for course in both if course.has_values)


def _budget_series(
    budget: Budget, account_histories: Sequence[AccountHistory], hours: Sequence[datetime]
) -> Iterator[PromtoolSeries]:
    """Yield a budget as it would have stood; what is spent rises within the hour."""
    counted = [(past, past.budget_cost(budget)) for past in account_histories]
    found: defaultdict[str, PromtoolSeries] = defaultdict(lambda: PromtoolSeries(""))
    for place, hour in enumerate(hours):
        parts = [
            budget_share(
                budget.period, one.to_hourly_series(past.known_since), hour, past.complete_until(hour + HOUR / 2)
            )
            for past, one in counted
            if one is not None
        ]
        running = sum(one.at(hour) for _, one in counted if one is not None)
        told = {
            _selector(family, labels): (family, value) for family, labels, value in budget_samples(budget, parts, hour)
        }
        for text in told.keys() - found.keys():
            found[text] = PromtoolSeries(text)
            found[text].add_constant(place * STEPS_PER_HOUR, None)
        for text, course in found.items():
            family, value = told.get(text, (None, None))
            if family is metrics.BUDGET_SPENT:
                spent = sum(one.spent for one in parts) - running
                course.add_ramp(STEPS_PER_HOUR, spent, running // STEPS_PER_HOUR, format_usd)
            else:
                course.add_constant(STEPS_PER_HOUR, value)
    yield from found.values()


def _selector(family: Family, labels: str) -> str:
    return _new_series(family, labels).selector
