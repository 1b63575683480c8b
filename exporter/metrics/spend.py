"""Samples of cost, tokens, requests and other units: calendar windows, days, and their bills."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import NamedTuple

from exporter.metrics.exposition import format_usd
from exporter.metrics.families import (
    AGGREGATED_SERIES,
    COST,
    COST_DAILY,
    COST_DAILY_BILLED,
    COST_DAILY_ESTIMATE,
    COST_DAILY_ONE_TIME,
    COST_MONTH_BILLED,
    COST_MONTH_FORECAST,
    COST_MONTH_ONE_TIME,
    COST_TODAY_HIGH,
    COST_TODAY_LOW,
    ESTIMATE_ERROR,
    INCOMPLETE_BILLS,
    MISSING_BILLS,
    REQUESTS,
    RESTATED_COST,
    TOKENS,
    UNITS,
    UNPRICED_COST,
    UNPRICED_TOKENS,
    Family,
)
from exporter.metrics.label_text import LabelText, SampleFunctions, Samples
from exporter.model import COST as COST_METER
from exporter.model import DAY, TOKEN_METERS, UNIT_METERS, RowLabels
from exporter.model import REQUESTS as REQUESTS_METER
from exporter.snapshot.account_snapshot import RECENT_WINDOWS, AccountSnapshot
from exporter.snapshot.estimates import missing_bills, one_time_costs, today_range, unpriced_usage
from exporter.snapshot.labels import LabelMapper, SpendLabels
from exporter.windows import calendar_windows, floor, slots

DAYS_OF_ONE_TIME_COSTS = 4
"""Days before today whose one-time costs are exported by day: a bill may be complete only 72 hours after its day."""


class _Series(NamedTuple):
    """One series of a windowed family."""

    labels: SpendLabels
    meter: str
    """The value of the label `type` or `unit`; empty where the family has neither."""


_ToSeries = Callable[[LabelMapper, RowLabels], _Series | None]
"""Returns the series that counts a row; None where the family does not count it."""


def _cost_series(mapper: LabelMapper, labels: RowLabels) -> _Series | None:
    return _Series(mapper.remap(labels), "") if labels.meter == COST_METER else None


def _tokens_series(mapper: LabelMapper, labels: RowLabels) -> _Series | None:
    return _Series(mapper.remap(labels), labels.meter) if labels.meter in TOKEN_METERS else None


def _requests_series(mapper: LabelMapper, labels: RowLabels) -> _Series | None:
    return _Series(mapper.remap(labels), "") if labels.meter == REQUESTS_METER else None


def _units_series(mapper: LabelMapper, labels: RowLabels) -> _Series | None:
    if labels.meter not in UNIT_METERS:
        return None
    series = mapper.remap(labels)
    return _Series(SpendLabels(series.workspace, series.model, "", ""), labels.meter)


class _RecentSeries(NamedTuple):
    """The series of a kind that have recent usage: the same for every window of a snapshot."""

    by_row: Mapping[RowLabels, _Series]
    ordered: Sequence[_Series]


def _find_recent_series(snapshot: AccountSnapshot, to_series: _ToSeries) -> _RecentSeries:
    by_row: dict[RowLabels, _Series] = {}
    for name in RECENT_WINDOWS:
        for labels in snapshot.windows[name]:
            if labels not in by_row and (series := to_series(snapshot.label_mapper, labels)) is not None:
                by_row[labels] = series
    return _RecentSeries(by_row, sorted(set(by_row.values())))


def _window_samples(
    family: Family, window: str, to_series: _ToSeries, snapshot: AccountSnapshot, text: LabelText
) -> Samples:
    """Yield a window's sum for every series with recent usage: without usage in this window it is 0, not absent."""
    recent = text.memo.get(to_series)
    if recent is None:
        recent = text.memo[to_series] = _find_recent_series(snapshot, to_series)
    totals = dict.fromkeys(recent.ordered, 0)
    for labels, value in snapshot.windows.get(window, {}).items():
        # A row of a window is nearly always one of the recent windows as well.
        series = recent.by_row.get(labels) or to_series(snapshot.label_mapper, labels)
        if series is not None and series in totals:
            totals[series] += value
    format_value = format_usd if to_series is _cost_series else str
    meter_label = family.labels[-1]
    for series, value in totals.items():
        labels_text = text.series(series.labels)
        yield (
            f'{labels_text},{meter_label}="{series.meter}"' if series.meter else labels_text,
            format_value(value),
        )


def _last_hour_samples(family: Family, to_series: _ToSeries, snapshot: AccountSnapshot, text: LabelText) -> Samples:
    # Without a watermark no hour is complete: the family is absent rather than 0.
    return _window_samples(family, "last_hour", to_series, snapshot, text) if "last_hour" in snapshot.windows else ()


def _window_functions(families: Mapping[str, Family], to_series: _ToSeries) -> SampleFunctions:
    return {
        family: partial(_last_hour_samples, family, to_series)
        if window == "last_hour"
        else partial(_window_samples, family, window, to_series)
        for window, family in families.items()
    }


def _daily_samples(snapshot: AccountSnapshot, text: LabelText) -> Samples:
    # A day that was read and had no usage cost 0, which differs from a day that was not read.
    cost: dict[datetime, int] = {}
    if snapshot.covered is not None:
        first = max(snapshot.exported.start, snapshot.covered.start)
        cost = dict.fromkeys(slots(first, snapshot.covered.end, DAY), 0)
    cost |= {day.start: day.cost for day in snapshot.day_costs}
    return _dated(COST_DAILY, cost, text)


def _daily_billed_samples(snapshot: AccountSnapshot, text: LabelText) -> Samples:
    return _dated(COST_DAILY_BILLED, {day.start: day.cost for day in snapshot.day_costs if day.billed}, text)


def _daily_estimate_samples(snapshot: AccountSnapshot, text: LabelText) -> Samples:
    estimates = {day.start: day.estimate for day in snapshot.day_costs if day.billed and day.estimate is not None}
    return _dated(COST_DAILY_ESTIMATE, estimates, text)


def _dated(family: Family, cost: Mapping[datetime, int], text: LabelText) -> Iterator[tuple[str, str]]:
    for day, nano_usd in sorted(cost.items()):
        yield text.with_account(family, day.date().isoformat()), format_usd(nano_usd)


def _month_billed_samples(snapshot: AccountSnapshot, text: LabelText) -> Samples:
    month = calendar_windows(snapshot.time, None)["month"]
    billed = sum(day.cost for day in snapshot.day_costs if day.billed and day.start >= month.start)
    yield text.account, format_usd(billed)


def _month_forecast_samples(snapshot: AccountSnapshot, text: LabelText) -> Samples:
    if snapshot.month_forecast is not None:
        yield text.account, format_usd(snapshot.month_forecast)


def _month_one_time_samples(snapshot: AccountSnapshot, text: LabelText) -> Samples:
    month = calendar_windows(snapshot.time, None)["month"]
    one_time = sum(cost.nano_usd for cost in one_time_costs(snapshot) if cost.day >= month.start)
    yield text.account, format_usd(one_time)


def _daily_one_time_samples(snapshot: AccountSnapshot, text: LabelText) -> Samples:
    # Only days whose bill is new: the rules alert on every charge that is exported.
    first = floor(snapshot.time, DAY) - DAYS_OF_ONE_TIME_COSTS * DAY
    days = [day for day in snapshot.day_costs if day.start >= first]
    return _dated(COST_DAILY_ONE_TIME, {day.start: day.one_time_cost for day in days if day.one_time_cost}, text)


def _today_low_samples(snapshot: AccountSnapshot, text: LabelText) -> Samples:
    estimate_range = today_range(snapshot)
    if estimate_range is not None:
        yield text.account, format_usd(estimate_range.low)


def _today_high_samples(snapshot: AccountSnapshot, text: LabelText) -> Samples:
    estimate_range = today_range(snapshot)
    if estimate_range is not None:
        yield text.account, format_usd(estimate_range.high)


def _estimate_error_samples(snapshot: AccountSnapshot, text: LabelText) -> Samples:
    errors = [day.estimate_error for day in snapshot.day_costs if day.estimate_error is not None]
    for error in errors[-1:]:
        yield text.account, f"{error:.6f}"


def _restated_samples(snapshot: AccountSnapshot, text: LabelText) -> Samples:
    yield text.account, format_usd(snapshot.restated)


def _unpriced_samples(snapshot: AccountSnapshot, text: LabelText) -> Samples:
    for model, tokens in sorted(unpriced_usage(snapshot).tokens.items()):
        yield text.with_account(UNPRICED_TOKENS, model), str(tokens)


def _unpriced_cost_samples(snapshot: AccountSnapshot, text: LabelText) -> Samples:
    yield text.account, f"{unpriced_usage(snapshot).cost_ratio:.6f}"


def _incomplete_bills_samples(snapshot: AccountSnapshot, text: LabelText) -> Samples:
    if snapshot.ledger_account.bill_reports:
        yield text.account, str(sum(day.bill_is_incomplete for day in snapshot.day_costs))


def _missing_bills_samples(snapshot: AccountSnapshot, text: LabelText) -> Samples:
    if snapshot.ledger_account.bill_reports:
        yield text.account, str(len(missing_bills(snapshot)))


def _aggregated_samples(snapshot: AccountSnapshot, text: LabelText) -> Samples:
    yield text.account, str(snapshot.label_mapper.aggregated_series)


SPEND_SAMPLES: SampleFunctions = {
    **_window_functions(COST, _cost_series),
    **_window_functions(TOKENS, _tokens_series),
    **_window_functions(REQUESTS, _requests_series),
    **_window_functions(UNITS, _units_series),
    COST_DAILY: _daily_samples,
    COST_DAILY_BILLED: _daily_billed_samples,
    COST_DAILY_ESTIMATE: _daily_estimate_samples,
    COST_MONTH_BILLED: _month_billed_samples,
    COST_MONTH_FORECAST: _month_forecast_samples,
    COST_MONTH_ONE_TIME: _month_one_time_samples,
    COST_DAILY_ONE_TIME: _daily_one_time_samples,
    COST_TODAY_LOW: _today_low_samples,
    COST_TODAY_HIGH: _today_high_samples,
    ESTIMATE_ERROR: _estimate_error_samples,
    RESTATED_COST: _restated_samples,
    UNPRICED_TOKENS: _unpriced_samples,
    UNPRICED_COST: _unpriced_cost_samples,
    INCOMPLETE_BILLS: _incomplete_bills_samples,
    MISSING_BILLS: _missing_bills_samples,
    AGGREGATED_SERIES: _aggregated_samples,
}
