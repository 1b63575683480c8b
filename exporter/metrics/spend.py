"""What an account spent, as sample lines: windows by the calendar, summed from the ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime

from exporter.ledger import Ledger
from exporter.ledger.series import Labels
from exporter.metrics.exposition import dollars, labelled, render
from exporter.metrics.families import (
    ACCOUNT,
    COST,
    COST_DAILY,
    COST_DAILY_ESTIMATE,
    ESTIMATE_ERROR,
    FOLDED,
    MONTH_BILLED,
    REQUESTS,
    RESTATED,
    SPEND,
    TOKENS,
    UNITS,
    UNPRICED,
    Family,
)
from exporter.metrics.labels import Combination, Places, combination
from exporter.model import COST as MONEY_METER
from exporter.model import DAY, TOKEN_METERS, UNIT_METERS
from exporter.model import REQUESTS as REQUESTS_METER
from exporter.polling.account_state import Member
from exporter.pricing.valuer import Book
from exporter.windows import DAYS_SHOWN, Span, calendar, days_back, floor, slots

Sums = Mapping[Labels, int]
Shown = tuple[str, str, str, str, str]
"""A combination and, for tokens and units, the meter."""


def spend_chunks(member: Member, ledger: Ledger, now: datetime) -> tuple[dict[Family, bytes], Places]:
    """Return the lines of every family that follows from what was told, and where the account's series are shown."""
    windows = calendar(now, member.complete_until(ledger))
    number, usage = member.book.number, [report.name for report in member.book.usage]
    cost = {name: ledger.costs.total(number, span) for name, span in windows.items()}
    units = {name: ledger.buckets.units(number, usage, span) for name, span in windows.items() if name != "this_hour"}
    view = _View(member, ledger, _lately(cost), _lately(units))
    chunks = {COST[name]: view.lines(COST[name], view.cost, sums) for name, sums in cost.items()}
    for name, sums in units.items():
        chunks[TOKENS[name]] = view.lines(TOKENS[name], view.tokens, sums)
        chunks[REQUESTS[name]] = view.lines(REQUESTS[name], view.requests, sums)
        if name in UNITS:
            chunks[UNITS[name]] = view.lines(UNITS[name], view.units, sums)
    chunks[FOLDED] = render(FOLDED, [(view.account, str(view.places.folded))])
    chunks |= _daily(member, ledger, now, windows["month"])
    chunks |= _unpriced(member, ledger, now)
    return chunks, view.places


def places_at(book: Book, limit: int, ledger: Ledger, now: datetime) -> Places:
    """Return where an account's series, at most `limit` under their own labels, would be shown on a page of now."""
    windows, usage = calendar(now, None), [report.name for report in book.usage]
    cost = {name: ledger.costs.total(book.number, windows[name]) for name in _LATELY}
    units = {name: ledger.buckets.units(book.number, usage, windows[name]) for name in _LATELY}
    return _places(book, limit, ledger, _lately(cost), _lately(units))


_LATELY = ("month", "30d")
"""On the 31st the month began a day before the last 30 days did."""


def _lately(sums: Mapping[str, Sums]) -> Sums:
    return {labels: value for name in _LATELY for labels, value in sums[name].items()}


def _places(book: Book, limit: int, ledger: Ledger, cost: Sums, units: Sums) -> Places:
    lately = dict.fromkeys(map(combination, (*cost, *units)), 0)
    for labels, value in cost.items():
        lately[combination(labels)] += value
    known = map(combination, ledger.hours.labels(book.number, [report.name for report in book.usage]))
    return Places.of(lately, known, ledger.names.all(book.number), limit)


class _View:
    """An account's sums under the labels that are shown: what was active lately in every window, at 0 if need be."""

    def __init__(self, member: Member, ledger: Ledger, cost: Sums, units: Sums) -> None:
        self.places = _places(member.book, member.account.max_series, ledger, cost, units)
        self.account = labelled(ACCOUNT, (member.account.provider, member.account.name))
        self._lately = (*cost, *units)
        self._texts: dict[Combination, str] = {}

    def cost(self, labels: Labels) -> Shown | None:
        """Return where money is shown."""
        return (*self.places.place(labels), "") if labels[0] == MONEY_METER else None

    def tokens(self, labels: Labels) -> Shown | None:
        """Return where tokens are shown: by type."""
        return (*self.places.place(labels), f'type="{labels[0]}"') if labels[0] in TOKEN_METERS else None

    def requests(self, labels: Labels) -> Shown | None:
        """Return where requests are shown."""
        return (*self.places.place(labels), "") if labels[0] == REQUESTS_METER else None

    def units(self, labels: Labels) -> Shown | None:
        """Return where other units are shown: by unit, without tier and API key."""
        if labels[0] not in UNIT_METERS:
            return None
        workspace, model, _, _ = self.places.place(labels)
        return (workspace, model, "", "", f'unit="{labels[0]}"')

    def lines(self, family: Family, shown: Callable[[Labels], Shown | None], sums: Sums) -> bytes:
        """Return a family's lines: every series of late, with its sum in this window."""
        totals: dict[Shown, int] = {}
        for labels in self._lately:
            where = shown(labels)
            if where is not None:
                totals[where] = 0
        for labels, value in sums.items():
            where = shown(labels)
            if where in totals:
                totals[where] += value
        tell = dollars if family in COST.values() else str
        return render(family, ((self._text(where), tell(value)) for where, value in sorted(totals.items())))

    def _text(self, where: Shown) -> str:
        one, last = where[:4], where[4]
        if one not in self._texts:
            rest = labelled((*SPEND[2:], "api_key"), self.places.values(one))
            self._texts[one] = f"{self.account},{rest}" if rest else self.account
        return f"{self._texts[one]},{last}" if last else self._texts[one]


def _daily(member: Member, ledger: Ledger, now: datetime, month: Span) -> dict[Family, bytes]:
    shown = Span(days_back(now, DAYS_SHOWN - 1), floor(now, DAY) + DAY)
    days = ledger.costs.days(member.book.number, shown)
    # A day that was told and had no use cost 0, which is not the same as a day that nobody was asked about.
    told = member.told_span(ledger)
    cost = dict.fromkeys(slots(max(shown.start, told.start), told.end, DAY), 0) if told is not None else {}
    cost |= {day.start: day.cost for day in days}
    values = (member.account.provider, member.account.name)
    estimated = {day.start: day.estimate for day in days if day.billed and day.estimate is not None}
    billed = sum(day.cost for day in days if day.billed and day.start >= month.start)
    account = labelled(ACCOUNT, values)
    errors = [f"{(day.estimate - day.first) / day.first:.6f}" for day in days if day.estimate is not None and day.first]
    return {
        COST_DAILY: render(COST_DAILY, _dated(COST_DAILY, values, cost)),
        COST_DAILY_ESTIMATE: render(COST_DAILY_ESTIMATE, _dated(COST_DAILY_ESTIMATE, values, estimated)),
        MONTH_BILLED: render(MONTH_BILLED, [(account, dollars(billed))]),
        ESTIMATE_ERROR: render(ESTIMATE_ERROR, [(account, error) for error in errors[-1:]]),
        RESTATED: render(RESTATED, [(account, dollars(ledger.costs.restated(member.book.number)))]),
    }


def _dated(family: Family, values: tuple[str, str], cost: Mapping[datetime, int]) -> Iterator[tuple[str, str]]:
    for day, nano in sorted(cost.items()):
        yield labelled(family.labels, (*values, day.strftime("%Y-%m-%d"))), dollars(nano)


def _unpriced(member: Member, ledger: Ledger, now: datetime) -> dict[Family, bytes]:
    today: Iterable[tuple[str, int]] = sorted(ledger.costs.unpriced(member.book.number, floor(now, DAY)).items())
    values = (member.account.provider, member.account.name)
    return {
        UNPRICED: render(UNPRICED, ((labelled(UNPRICED.labels, (*values, model)), str(n)) for model, n in today)),
    }
