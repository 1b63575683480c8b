"""What an open day will be billed beside its use: storage, sessions and the like, as the newest billed days had it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from exporter.pricing.bill_evidence import Lesson, Standing
from exporter.pricing.learned_rates import ALIKE
from exporter.pricing.list_prices import Rates
from exporter.pricing.usage import MEASURES, Kind, Use, apportion

_MOVED = 4 * ALIKE
"""Use that differs by more shows whether money follows it."""

_Used = dict[Kind, int]
"""Kind -> units."""
_Items = dict[tuple[str, str, str, str], Standing]
"""By all its labels."""


def standing_money(
    lessons: Sequence[Lesson], uses: Sequence[Use], rates: Rates, last_hour: int
) -> Iterator[tuple[Standing, dict[int, int]]]:
    """Yield money that no use explains, and the part of it that each hour up to the last has (hour -> nano-USD).

    What was the same on two billed days whose use differed, or was billed without any use, is a fee: the newest
    billed day's, evenly per hour. Everything else grows with what its workspace uses, in proportion to the newest
    billed day on which it used anything. A credit is not promised again until it was given twice.
    """
    days = [_Day.of(lesson) for lesson in lessons]
    for workspace in sorted({one.workspace for lesson in lessons for one in lesson.standing}):
        today = [use for use in uses if use.workspace == workspace]
        told = [(day.used.get(workspace, {}), day.items.get(workspace, {})) for day in days]
        for one, growth in _Workspace(told, today, rates).expected():
            yield one, (_evenly(one.nano, last_hour) if growth is None else _by_use(one.nano, growth))


@dataclass(frozen=True, slots=True)
class _Day:
    """A lesson, by workspace."""

    used: Mapping[str, _Used]
    items: Mapping[str, _Items]

    @classmethod
    def of(cls, lesson: Lesson) -> _Day:
        used: defaultdict[str, _Used] = defaultdict(dict)
        for one in lesson.taught:
            used[one.workspace][one.model, one.meter, one.tier] = one.units
        items: defaultdict[str, _Items] = defaultdict(dict)
        for money in lesson.standing:
            items[money.workspace][money[:4]] = money
        return cls(used, items)


class _Growth(NamedTuple):
    """Today's use beside that of a day of the past, by one measure."""

    hours: Mapping[int, int]
    """Hour -> weight today."""
    whole: int
    """Weight of the whole day of the past."""


class _Workspace:
    """What one workspace used and was billed beside, on the days of the lessons and today."""

    def __init__(self, days: Sequence[tuple[_Used, _Items]], today: Sequence[Use], rates: Rates) -> None:
        self._days, self._today, self._rates = days, today, rates

    def expected(self) -> Iterator[tuple[Standing, _Growth | None]]:
        """Yield what is expected, and what it grows with; None: a fee."""
        used, base = next((day for day in self._days if day[0]), ({}, {}))
        growth = self._growth(used) if used and self._today else None
        for label in sorted({label for _, items in self._days for label in items}):
            told = [(use, items[label].nano) for use, items in self._days if label in items]
            if _is_one_off(told):
                continue
            if self._is_fee(told):
                if label in self._days[0][1]:
                    yield self._days[0][1][label], None
            elif growth is not None and label in base:
                yield base[label], growth

    def _is_fee(self, told: Sequence[tuple[_Used, int]]) -> bool:
        (used, nano), *older = told
        for before, amount in older if used else ():
            weight = self._weights(used, before)
            now, then = (sum(weight[kind] * units for kind, units in one.items()) for one in (used, before))
            if abs(then - now) > _MOVED * now:
                return abs(amount - nano) <= ALIKE * abs(nano)
        return not used

    def _growth(self, then: _Used) -> _Growth:
        weight = self._weights(then, (use.kind for use in self._today))
        hours: defaultdict[int, int] = defaultdict(int)
        for use in self._today:
            for hour, _, units in use.parts:
                hours[hour] += weight[use.kind] * units
        return _Growth(
            {hour: hours[hour] for hour in sorted(hours)}, sum(weight[kind] * units for kind, units in then.items())
        )

    def _weights(self, measured: _Used, others: Iterable[Kind]) -> dict[Kind, int]:
        """Weigh units by the first measure that tells anything of the use that is measured by."""
        kinds = sorted({*measured, *others})
        told = (dict(zip(kinds, measure(kinds, self._rates), strict=True)) for measure in MEASURES)
        return next(weight for weight in told if any(weight[kind] for kind in measured))


def _is_one_off(told: Sequence[tuple[_Used, int]]) -> bool:
    """Tell whether an item, newest day first, is a credit that was given once."""
    return told[0][1] < 0 and (len(told) < 2 or told[1][1] >= 0)


def _evenly(nano: int, last_hour: int) -> dict[int, int]:
    return dict(enumerate(apportion(nano, [1] * 24)[: last_hour + 1]))


def _by_use(nano: int, growth: _Growth) -> dict[int, int]:
    weights = growth.hours.values()
    if not any(weights):
        return {}
    due = round(Fraction(nano * sum(weights), growth.whole))
    return dict(zip(growth.hours, apportion(due, list(weights)), strict=True))
