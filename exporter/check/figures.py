"""Totals of an account's days, grouped as on a provider's own pages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import reduce
from operator import add

from exporter.model import DAY, TOKEN_METERS, UNIT_METERS, RowLabels
from exporter.snapshot.account_snapshot import AccountSnapshot
from exporter.snapshot.aggregation import Totals, aggregate_days, sum_days
from exporter.snapshot.labels import SpendLabels
from exporter.windows import TimeRange, floor, slots


@dataclass(frozen=True, slots=True)
class DaySummary:
    """One UTC day. Money in nano-USD."""

    start: datetime
    total: Totals
    """Cost is billed where the day is billed, estimated otherwise."""
    billed: bool
    estimate: int | None
    """nano-USD estimated without the bill; None where there was no estimate."""

    error_ratio: float | None
    """(estimated - billed) / billed, as exported; None where the day has no bill or had no estimate."""

    @property
    def difference(self) -> int | None:
        """The estimate of a billed day less its bill."""
        return None if self.estimate is None or not self.billed else self.estimate - self.total.cost


@dataclass(frozen=True, slots=True)
class AccountTotals:
    """Totals of an account over a time range."""

    days: tuple[DaySummary, ...]
    """Oldest first, without a gap; today is the last."""
    workspaces: Mapping[str, Totals]
    """By name, most expensive first; so are models and tiers."""
    models: Mapping[str, Totals]
    tiers: Mapping[str, Totals]
    tokens: Mapping[str, int]
    """By disjoint type."""
    units: Mapping[str, int]
    """Other units such as searches and images; of a gauge meter the largest hour."""
    unpriced: Mapping[str, int]
    """Model -> tokens of unbilled days without a known price."""

    @property
    def total(self) -> Totals:
        """The sum over all days, which is also the sum over each grouping."""
        return reduce(add, (day.total for day in self.days))

    @property
    def billed(self) -> list[DaySummary]:
        """Billed days."""
        return [day for day in self.days if day.billed]

    @property
    def unbilled(self) -> list[DaySummary]:
        """Days without a bill yet: today, and days with any usage."""
        return [day for day in self.days if not day.billed and (day is self.days[-1] or day.total != Totals())]


def compute_account_totals(snapshot: AccountSnapshot, time_range: TimeRange) -> AccountTotals:
    """Sum up the UTC days of a time range, the last of which still runs, under the names of /metrics."""
    days = list(slots(time_range.start, time_range.end, DAY))
    window = TimeRange(time_range.start, floor(time_range.end, DAY) + DAY)
    sums = sum_days(snapshot, window)
    unpriced = Counter[str]()
    for day in days:
        unpriced.update(snapshot.unpriced_tokens.get(day, {}))
    return AccountTotals(
        days=tuple(_summarize_day(snapshot, day) for day in days),
        workspaces=_by_label(snapshot, window, lambda labels: labels.workspace),
        models=_by_label(snapshot, window, lambda labels: labels.model),
        tiers=_by_label(snapshot, window, lambda labels: labels.tier),
        tokens=_sum_by_meter(sums, TOKEN_METERS),
        units=_sum_by_meter(sums, UNIT_METERS),
        unpriced=dict(unpriced.most_common()),
    )


def _summarize_day(snapshot: AccountSnapshot, start: datetime) -> DaySummary:
    groups = aggregate_days([snapshot], TimeRange(start, start + DAY), lambda *_: None)
    total = groups.get(None, Totals())
    known = next((day for day in snapshot.day_costs if day.start == start), None)
    if known is None or not known.billed:
        return DaySummary(start, total, billed=False, estimate=total.cost, error_ratio=None)
    return DaySummary(start, total, billed=True, estimate=known.estimate, error_ratio=known.estimate_error)


def _by_label(
    snapshot: AccountSnapshot, time_range: TimeRange, get_value: Callable[[SpendLabels], str]
) -> dict[str, Totals]:
    groups = aggregate_days([snapshot], time_range, lambda _, labels: get_value(labels))
    used = {name: totals for name, totals in groups.items() if totals.cost or totals.tokens or totals.requests}
    return dict(sorted(used.items(), key=lambda item: (-item[1].cost, -item[1].tokens, item[0])))


def _sum_by_meter(rows: Mapping[RowLabels, int], meters: frozenset[str]) -> dict[str, int]:
    counts = Counter[str]()
    for labels, value in rows.items():
        if labels.meter in meters:
            counts[labels.meter] += value
    return dict(counts.most_common())
