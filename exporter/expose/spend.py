"""What an account spent, as sample lines: windows by the calendar, summed from the ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime

from exporter.expose.exposition import dollars, labelled, render
from exporter.expose.metrics import (
    ACCOUNT,
    COST,
    COST_DAILY,
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
from exporter.expose.series import Combination, combination, fold, unique_names
from exporter.ledger import Ledger
from exporter.ledger.series import Labels
from exporter.members import Member
from exporter.model import COST as MONEY_METER
from exporter.model import DAY, TOKEN_METERS, UNIT_METERS
from exporter.model import REQUESTS as REQUESTS_METER
from exporter.windows import DAYS_SHOWN, Span, calendar, days_back, floor, slots

Sums = Mapping[Labels, int]
Shown = tuple[str, str, str, str, str]
"""A combination and, for tokens and units, the meter."""


def spend_chunks(member: Member, ledger: Ledger, now: datetime) -> dict[Family, bytes]:
    """Return the lines of every family that follows from what was told: family -> lines."""
    windows = calendar(now, member.complete_until(ledger))
    number, usage = member.book.number, [report.name for report in member.book.usage]
    cost = {name: ledger.costs.total(number, span) for name, span in windows.items()}
    units = {name: ledger.buckets.units(number, usage, span) for name, span in windows.items() if name != "this_hour"}
    # On the 31st the month began a day before the last 30 days did.
    view = _View(member, ledger, {**cost["month"], **cost["30d"]}, {**units["month"], **units["30d"]})
    chunks = {COST[name]: view.lines(COST[name], view.cost, sums) for name, sums in cost.items()}
    for name, sums in units.items():
        chunks[TOKENS[name]] = view.lines(TOKENS[name], view.tokens, sums)
        chunks[REQUESTS[name]] = view.lines(REQUESTS[name], view.requests, sums)
        if name in UNITS:
            chunks[UNITS[name]] = view.lines(UNITS[name], view.units, sums)
    chunks[FOLDED] = render(FOLDED, [(view.account, str(view.folding.folded))])
    return chunks | _daily(member, ledger, now, windows["month"]) | _unpriced(member, ledger, now)


class _View:
    """Under which labels an account's sums are shown: what was active lately in every window, at 0 if need be."""

    def __init__(self, member: Member, ledger: Ledger, cost: Sums, units: Sums) -> None:
        lately = {combination(labels) for labels in (*cost, *units)}
        totals = dict.fromkeys(lately, 0)
        for labels, value in cost.items():
            totals[combination(labels)] += value
        names = ledger.names.all(member.book.number)
        self.folding = fold(totals, member.account.max_series)
        self.account = labelled(ACCOUNT, (member.account.provider, member.account.name))
        self._lately = (*cost, *units)
        self._workspaces = unique_names(names, {one[0] for one in lately})
        self._keys = unique_names(names, {one[3] for one in lately if one[3]})
        self._texts: dict[Combination, str] = {}

    def cost(self, labels: Labels) -> Shown | None:
        """Return where money is shown."""
        return (*self._place(labels), "") if labels[0] == MONEY_METER else None

    def tokens(self, labels: Labels) -> Shown | None:
        """Return where tokens are shown: by type."""
        return (*self._place(labels), f'type="{labels[0]}"') if labels[0] in TOKEN_METERS else None

    def requests(self, labels: Labels) -> Shown | None:
        """Return where requests are shown."""
        return (*self._place(labels), "") if labels[0] == REQUESTS_METER else None

    def units(self, labels: Labels) -> Shown | None:
        """Return where other units are shown: by unit, without tier and API key."""
        if labels[0] not in UNIT_METERS:
            return None
        workspace, model, _, _ = self._place(labels)
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

    def _place(self, labels: Labels) -> Combination:
        return self.folding.place(combination(labels))

    def _text(self, where: Shown) -> str:
        one, last = where[:4], where[4]
        if one not in self._texts:
            workspace, model, tier, api_key = one
            values = (self._workspaces.get(workspace, workspace), model, tier, self._keys.get(api_key, api_key))
            rest = labelled((*SPEND[2:], "api_key"), values)
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
    daily = [
        (labelled(COST_DAILY.labels, (*values, day.strftime("%Y-%m-%d"))), dollars(nano))
        for day, nano in sorted(cost.items())
    ]
    billed = sum(day.cost for day in days if day.billed and day.start >= month.start)
    account = labelled(ACCOUNT, values)
    errors = [f"{(day.estimate - day.first) / day.first:.6f}" for day in days if day.estimate is not None and day.first]
    return {
        COST_DAILY: render(COST_DAILY, daily),
        MONTH_BILLED: render(MONTH_BILLED, [(account, dollars(billed))]),
        ESTIMATE_ERROR: render(ESTIMATE_ERROR, [(account, error) for error in errors[-1:]]),
        RESTATED: render(RESTATED, [(account, dollars(ledger.costs.restated(member.book.number)))]),
    }


def _unpriced(member: Member, ledger: Ledger, now: datetime) -> dict[Family, bytes]:
    today: Iterable[tuple[str, int]] = sorted(ledger.costs.unpriced(member.book.number, floor(now, DAY)).items())
    values = (member.account.provider, member.account.name)
    return {
        UNPRICED: render(UNPRICED, ((labelled(UNPRICED.labels, (*values, model)), str(n)) for model, n in today)),
    }
