"""What an account spent, as sample lines: windows by the calendar, summed from the ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime

from exporter.ledger import Ledger
from exporter.metrics.exposition import format_labels, format_usd, render_samples
from exporter.metrics.families import (
    ACCOUNT_LABELS,
    AGGREGATED_SERIES,
    COST,
    COST_DAILY,
    COST_DAILY_ESTIMATE,
    COST_MONTH_BILLED,
    ESTIMATE_ERROR,
    REQUESTS,
    RESTATED_COST,
    SPEND_LABELS,
    TOKENS,
    UNITS,
    UNPRICED_TOKENS,
    Family,
)
from exporter.model import COST as COST_METER
from exporter.model import DAY, TOKEN_METERS, UNIT_METERS, RowLabels
from exporter.model import REQUESTS as REQUESTS_METER
from exporter.polling.account_state import AccountState
from exporter.pricing.valuer import LedgerAccount
from exporter.snapshot.labels import LabelMapper, SpendLabels, to_spend_labels
from exporter.windows import DAYS_EXPORTED, TimeRange, calendar_windows, days_back, floor, slots

RowTotals = Mapping[RowLabels, int]
SpendSeriesKey = tuple[str, str, str, str, str]
"""A combination and, for tokens and units, the meter."""


def render_spend(account_state: AccountState, ledger: Ledger, now: datetime) -> tuple[dict[Family, bytes], LabelMapper]:
    """Return the lines of every family that follows from what was told, and where the account's series are shown."""
    windows = calendar_windows(now, account_state.complete_until(ledger))
    number, usage = (
        account_state.ledger_account.id,
        [report.name for report in account_state.ledger_account.usage_reports],
    )
    cost = {name: ledger.costs.total(number, span) for name, span in windows.items()}
    units = {name: ledger.buckets.units(number, usage, span) for name, span in windows.items() if name != "this_hour"}
    view = _SpendRenderer(account_state, ledger, _recent_totals(cost), _recent_totals(units))
    chunks = {COST[name]: view.render(COST[name], view.cost_series, sums) for name, sums in cost.items()}
    for name, sums in units.items():
        chunks[TOKENS[name]] = view.render(TOKENS[name], view.tokens_series, sums)
        chunks[REQUESTS[name]] = view.render(REQUESTS[name], view.requests_series, sums)
        if name in UNITS:
            chunks[UNITS[name]] = view.render(UNITS[name], view.units_series, sums)
    chunks[AGGREGATED_SERIES] = render_samples(
        AGGREGATED_SERIES, [(view.account_labels, str(view.label_mapper.aggregated_series))]
    )
    chunks |= _render_daily(account_state, ledger, now, windows["month"])
    chunks |= _render_unpriced(account_state, ledger, now)
    return chunks, view.label_mapper


def build_label_mapper(ledger_account: LedgerAccount, max_series: int, ledger: Ledger, now: datetime) -> LabelMapper:
    """Return where an account's series, at most `limit` under their own labels, would be shown on a page of now."""
    windows, usage = calendar_windows(now, None), [report.name for report in ledger_account.usage_reports]
    cost = {name: ledger.costs.total(ledger_account.id, windows[name]) for name in _RECENT_WINDOWS}
    units = {name: ledger.buckets.units(ledger_account.id, usage, windows[name]) for name in _RECENT_WINDOWS}
    return _build_label_mapper(ledger_account, max_series, ledger, _recent_totals(cost), _recent_totals(units))


_RECENT_WINDOWS = ("month", "30d")
"""On the 31st the month began a day before the last 30 days did."""


def _recent_totals(window_totals: Mapping[str, RowTotals]) -> RowTotals:
    return {labels: value for name in _RECENT_WINDOWS for labels, value in window_totals[name].items()}


def _build_label_mapper(
    ledger_account: LedgerAccount, max_series: int, ledger: Ledger, cost: RowTotals, units: RowTotals
) -> LabelMapper:
    lately = dict.fromkeys(map(to_spend_labels, (*cost, *units)), 0)
    for labels, value in cost.items():
        lately[to_spend_labels(labels)] += value
    known = map(
        to_spend_labels,
        ledger.hours.labels(ledger_account.id, [report.name for report in ledger_account.usage_reports]),
    )
    return LabelMapper.build(lately, known, ledger.names.all(ledger_account.id), max_series)


class _SpendRenderer:
    """An account's sums under the labels that are shown: what was active lately in every window, at 0 if need be."""

    def __init__(self, account_state: AccountState, ledger: Ledger, cost: RowTotals, units: RowTotals) -> None:
        self.label_mapper = _build_label_mapper(
            account_state.ledger_account, account_state.account.max_series, ledger, cost, units
        )
        self.account_labels = format_labels(
            ACCOUNT_LABELS, (account_state.account.provider, account_state.account.name)
        )
        self._recent_rows = (*cost, *units)
        self._label_texts: dict[SpendLabels, str] = {}

    def cost_series(self, labels: RowLabels) -> SpendSeriesKey | None:
        """Return where money is shown."""
        return (*self.label_mapper.remap(labels), "") if labels[0] == COST_METER else None

    def tokens_series(self, labels: RowLabels) -> SpendSeriesKey | None:
        """Return where tokens are shown: by type."""
        return (*self.label_mapper.remap(labels), f'type="{labels[0]}"') if labels[0] in TOKEN_METERS else None

    def requests_series(self, labels: RowLabels) -> SpendSeriesKey | None:
        """Return where requests are shown."""
        return (*self.label_mapper.remap(labels), "") if labels[0] == REQUESTS_METER else None

    def units_series(self, labels: RowLabels) -> SpendSeriesKey | None:
        """Return where other units are shown: by unit, without tier and API key."""
        if labels[0] not in UNIT_METERS:
            return None
        workspace, model, _, _ = self.label_mapper.remap(labels)
        return (workspace, model, "", "", f'unit="{labels[0]}"')

    def render(
        self, family: Family, series_of: Callable[[RowLabels], SpendSeriesKey | None], row_totals: RowTotals
    ) -> bytes:
        """Return a family's lines: every series of late, with its sum in this window."""
        totals: dict[SpendSeriesKey, int] = {}
        for labels in self._recent_rows:
            where = series_of(labels)
            if where is not None:
                totals[where] = 0
        for labels, value in row_totals.items():
            where = series_of(labels)
            if where in totals:
                totals[where] += value
        tell = format_usd if family in COST.values() else str
        return render_samples(
            family, ((self._format_series(where), tell(value)) for where, value in sorted(totals.items()))
        )

    def _format_series(self, series_key: SpendSeriesKey) -> str:
        one, last = SpendLabels(*series_key[:4]), series_key[4]
        if one not in self._label_texts:
            rest = format_labels((*SPEND_LABELS[2:], "api_key"), self.label_mapper.label_values(one))
            self._label_texts[one] = f"{self.account_labels},{rest}" if rest else self.account_labels
        return f"{self._label_texts[one]},{last}" if last else self._label_texts[one]


def _render_daily(account_state: AccountState, ledger: Ledger, now: datetime, month: TimeRange) -> dict[Family, bytes]:
    shown = TimeRange(days_back(now, DAYS_EXPORTED - 1), floor(now, DAY) + DAY)
    days = ledger.costs.days(account_state.ledger_account.id, shown)
    # A day that was told and had no use cost 0, which is not the same as a day that nobody was asked about.
    told = account_state.usage_time_range(ledger)
    cost = dict.fromkeys(slots(max(shown.start, told.start), told.end, DAY), 0) if told is not None else {}
    cost |= {day.start: day.cost for day in days}
    values = (account_state.account.provider, account_state.account.name)
    estimated = {day.start: day.estimate for day in days if day.billed and day.estimate is not None}
    billed = sum(day.cost for day in days if day.billed and day.start >= month.start)
    account = format_labels(ACCOUNT_LABELS, values)
    errors = [
        f"{(day.estimate - day.first_bill) / day.first_bill:.6f}"
        for day in days
        if day.estimate is not None and day.first_bill
    ]
    return {
        COST_DAILY: render_samples(COST_DAILY, _daily_samples(COST_DAILY, values, cost)),
        COST_DAILY_ESTIMATE: render_samples(
            COST_DAILY_ESTIMATE, _daily_samples(COST_DAILY_ESTIMATE, values, estimated)
        ),
        COST_MONTH_BILLED: render_samples(COST_MONTH_BILLED, [(account, format_usd(billed))]),
        ESTIMATE_ERROR: render_samples(ESTIMATE_ERROR, [(account, error) for error in errors[-1:]]),
        RESTATED_COST: render_samples(
            RESTATED_COST, [(account, format_usd(ledger.costs.total_restatement(account_state.ledger_account.id)))]
        ),
    }


def _daily_samples(
    family: Family, values: tuple[str, str], cost_by_day: Mapping[datetime, int]
) -> Iterator[tuple[str, str]]:
    for day, nano in sorted(cost_by_day.items()):
        yield format_labels(family.labels, (*values, day.strftime("%Y-%m-%d"))), format_usd(nano)


def _render_unpriced(account_state: AccountState, ledger: Ledger, now: datetime) -> dict[Family, bytes]:
    midnight = floor(now, DAY)
    by_day = ledger.costs.unpriced_tokens(account_state.ledger_account.id, TimeRange(midnight, midnight + DAY))
    today: Iterable[tuple[str, int]] = sorted(by_day.get(midnight, {}).items())
    values = (account_state.account.provider, account_state.account.name)
    return {
        UNPRICED_TOKENS: render_samples(
            UNPRICED_TOKENS, ((format_labels(UNPRICED_TOKENS.labels, (*values, model)), str(n)) for model, n in today)
        ),
    }
