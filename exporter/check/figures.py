"""What a ledger knows of an account's days, summed up in the ways that a provider's own pages sum it up."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import reduce
from operator import add

from exporter.ledger import Ledger
from exporter.metrics.spend import build_label_mapper
from exporter.model import COST, DAY, REQUESTS, TOKEN_METERS, UNIT_METERS, RowLabels
from exporter.pricing.valuer import LedgerAccount
from exporter.snapshot.labels import LabelMapper
from exporter.windows import TimeRange, floor, slots

RowValues = list[tuple[RowLabels, int]]


@dataclass(frozen=True, slots=True)
class Total:
    """What was used, and the nano-USD that it cost."""

    tokens: int = 0
    requests: int = 0
    cost: int = 0

    def __add__(self, other: Total) -> Total:
        return Total(self.tokens + other.tokens, self.requests + other.requests, self.cost + other.cost)


@dataclass(frozen=True, slots=True)
class DaySummary:
    """One UTC day. Money in nano-USD."""

    start: datetime
    total: Total
    """Its cost is as billed where it is billed, as estimated otherwise."""
    billed: bool
    estimate: int | None
    """What it was, or is, estimated at without its bill; None where nobody could tell."""

    @property
    def difference(self) -> int | None:
        """By how much the estimate of a billed day was above its bill."""
        return None if self.estimate is None or not self.billed else self.estimate - self.total.cost

    @property
    def error_ratio(self) -> float | None:
        """The same as a part of the bill."""
        return None if self.difference is None or not self.total.cost else self.difference / self.total.cost


@dataclass(frozen=True, slots=True)
class AccountTotals:
    """All that is compared."""

    days: tuple[DaySummary, ...]
    """Oldest first, without a gap; today is the last."""
    workspaces: Mapping[str, Total]
    """By name, the dearest first, as the next two."""
    models: Mapping[str, Total]
    tiers: Mapping[str, Total]
    tokens: Mapping[str, int]
    """By type; they add up."""
    units: Mapping[str, int]
    """Searches, images and the like; of a stock the largest hour."""
    unpriced: Mapping[str, int]
    """Model -> tokens of days that are not billed yet for which no price is known."""

    @property
    def total(self) -> Total:
        """The sum of all days, and of each of the groups."""
        return reduce(add, (day.total for day in self.days))

    @property
    def billed(self) -> list[DaySummary]:
        """The days that are billed."""
        return [day for day in self.days if day.billed]

    @property
    def unbilled(self) -> list[DaySummary]:
        """The days whose bill is to come: today, and those that had any use."""
        return [day for day in self.days if not day.billed and (day is self.days[-1] or day.total != Total())]


def compute_account_totals(
    ledger: Ledger, ledger_account: LedgerAccount, max_series: int, time_range: TimeRange
) -> AccountTotals:
    """Sum up the UTC days of a span, the last of which still runs; names are those that /metrics shows."""
    days = list(slots(time_range.start, time_range.end, DAY))
    window = TimeRange(time_range.start, floor(time_range.end, DAY) + DAY)
    sums, places = (
        _read_rows(ledger, ledger_account, window),
        build_label_mapper(ledger_account, max_series, ledger, time_range.end),
    )
    workspaces, models, tiers = (_group_by_label(sums, places, part) for part in range(3))
    return AccountTotals(
        days=tuple(_summarize_day(ledger, ledger_account, day) for day in days),
        workspaces=workspaces,
        models=models,
        tiers=tiers,
        tokens=_sum_by_meter(sums, TOKEN_METERS),
        units=_sum_by_meter(sums, UNIT_METERS),
        unpriced=_unpriced_tokens(ledger, ledger_account, days),
    )


def _read_rows(ledger: Ledger, ledger_account: LedgerAccount, time_range: TimeRange) -> RowValues:
    used = ledger.buckets.units(ledger_account.id, [report.name for report in ledger_account.usage_reports], time_range)
    # Where use carries its money, that is among what was told, and what it was valued at is the same once more.
    return [
        *ledger.costs.total(ledger_account.id, time_range).items(),
        *(one for one in used.items() if one[0][0] != COST),
    ]


def _summarize_day(ledger: Ledger, ledger_account: LedgerAccount, start: datetime) -> DaySummary:
    span = TimeRange(start, start + DAY)
    total = _sum_rows(_read_rows(ledger, ledger_account, span))
    known = ledger.costs.days(ledger_account.id, span)
    billed = any(one.billed for one in known)
    return DaySummary(start, total, billed, known[0].estimate if billed else total.cost)


def _sum_rows(rows: RowValues) -> Total:
    counts = Counter[str]()
    for (meter, *_), value in rows:
        counts["tokens" if meter in TOKEN_METERS else meter] += value
    return Total(counts["tokens"], counts[REQUESTS], counts[COST])


def _group_by_label(rows: RowValues, label_mapper: LabelMapper, label_index: int) -> dict[str, Total]:
    groups: defaultdict[str, RowValues] = defaultdict(list)
    for labels, value in rows:
        groups[label_mapper.label_values(label_mapper.remap(labels))[label_index]].append((labels, value))
    totals = {name: total for name, group in groups.items() if (total := _sum_rows(group)) != Total()}
    return dict(sorted(totals.items(), key=lambda one: (-one[1].cost, -one[1].tokens, one[0])))


def _sum_by_meter(rows: RowValues, meters: frozenset[str]) -> dict[str, int]:
    counts = Counter[str]()
    for (meter, *_), value in rows:
        if meter in meters:
            counts[meter] += value
    return dict(counts.most_common())


def _unpriced_tokens(ledger: Ledger, ledger_account: LedgerAccount, days: Iterable[datetime]) -> dict[str, int]:
    tokens = Counter[str]()
    for day in days:
        tokens.update(ledger.costs.unpriced_tokens(ledger_account.id, TimeRange(day, day + DAY)).get(day, {}))
    return dict(tokens.most_common())
