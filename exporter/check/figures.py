"""What a ledger knows of an account's days, summed up in the ways that a provider's own pages sum it up."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import reduce
from operator import add

from exporter.ledger import Ledger
from exporter.ledger.series import Labels
from exporter.metrics.labels import Places
from exporter.metrics.spend import places_at
from exporter.model import COST, DAY, REQUESTS, TOKEN_METERS, UNIT_METERS
from exporter.pricing.valuer import Book
from exporter.windows import Span, floor, slots

Sums = list[tuple[Labels, int]]


@dataclass(frozen=True, slots=True)
class Total:
    """What was used, and the nano-USD that it cost."""

    tokens: int = 0
    requests: int = 0
    cost: int = 0

    def __add__(self, other: Total) -> Total:
        return Total(self.tokens + other.tokens, self.requests + other.requests, self.cost + other.cost)


@dataclass(frozen=True, slots=True)
class Day:
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
    def error(self) -> float | None:
        """The same as a part of the bill."""
        return None if self.difference is None or not self.total.cost else self.difference / self.total.cost


@dataclass(frozen=True, slots=True)
class Figures:
    """All that is compared."""

    days: tuple[Day, ...]
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
    def billed(self) -> list[Day]:
        """The days that are billed."""
        return [day for day in self.days if day.billed]

    @property
    def unbilled(self) -> list[Day]:
        """The days whose bill is to come: today, and those that had any use."""
        return [day for day in self.days if not day.billed and (day is self.days[-1] or day.total != Total())]


def figures(ledger: Ledger, book: Book, max_series: int, span: Span) -> Figures:
    """Sum up the UTC days of a span, the last of which still runs; names are those that /metrics shows."""
    days = list(slots(span.start, span.end, DAY))
    window = Span(span.start, floor(span.end, DAY) + DAY)
    sums, places = _sums(ledger, book, window), places_at(book, max_series, ledger, span.end)
    workspaces, models, tiers = (_grouped(sums, places, part) for part in range(3))
    return Figures(
        days=tuple(_day(ledger, book, day) for day in days),
        workspaces=workspaces,
        models=models,
        tiers=tiers,
        tokens=_metered(sums, TOKEN_METERS),
        units=_metered(sums, UNIT_METERS),
        unpriced=_unpriced(ledger, book, days),
    )


def _sums(ledger: Ledger, book: Book, span: Span) -> Sums:
    used = ledger.buckets.units(book.number, [report.name for report in book.usage], span)
    # Where use carries its money, that is among what was told, and what it was valued at is the same once more.
    return [*ledger.costs.total(book.number, span).items(), *(one for one in used.items() if one[0][0] != COST)]


def _day(ledger: Ledger, book: Book, start: datetime) -> Day:
    span = Span(start, start + DAY)
    total = _total(_sums(ledger, book, span))
    known = ledger.costs.days(book.number, span)
    billed = any(one.billed for one in known)
    return Day(start, total, billed, known[0].estimate if billed else total.cost)


def _total(sums: Sums) -> Total:
    counts = Counter[str]()
    for (meter, *_), value in sums:
        counts["tokens" if meter in TOKEN_METERS else meter] += value
    return Total(counts["tokens"], counts[REQUESTS], counts[COST])


def _grouped(sums: Sums, places: Places, part: int) -> dict[str, Total]:
    groups: defaultdict[str, Sums] = defaultdict(list)
    for labels, value in sums:
        groups[places.values(places.place(labels))[part]].append((labels, value))
    totals = {name: total for name, group in groups.items() if (total := _total(group)) != Total()}
    return dict(sorted(totals.items(), key=lambda one: (-one[1].cost, -one[1].tokens, one[0])))


def _metered(sums: Sums, meters: frozenset[str]) -> dict[str, int]:
    counts = Counter[str]()
    for (meter, *_), value in sums:
        if meter in meters:
            counts[meter] += value
    return dict(counts.most_common())


def _unpriced(ledger: Ledger, book: Book, days: Iterable[datetime]) -> dict[str, int]:
    tokens = Counter[str]()
    for day in days:
        tokens.update(ledger.costs.unpriced(book.number, day))
    return dict(tokens.most_common())
