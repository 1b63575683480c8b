"""An account's hours of late, summed for its signals and for budgets; a day is read again only when it changed."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from exporter.analysis.baselines import DAYS, Hourly
from exporter.analysis.budgets import matches
from exporter.config.configuration import Account, Budget
from exporter.ledger import Ledger
from exporter.ledger.hours import added
from exporter.ledger.series import Labels
from exporter.metrics.labels import Combination, Places, combination
from exporter.model import DAY, HOUR, REQUESTS, TOKEN_METERS
from exporter.polling.account_state import Member
from exporter.windows import DAYS_SHOWN, days_back, floor, slots

Sums = dict[str, Sequence[int]]
"""Workspace id or budget -> nano-USD, requests or tokens of the hours of a day."""

_JUDGED = DAYS + 2
"""Days of use that a signal looks at: yesterday's hours are judged by the days before them."""
_IDLE = array("q", [0] * int(DAY / HOUR))


@dataclass(frozen=True, slots=True)
class Trail:
    """What an account cost and used by the hour: by workspace (its id, as the page places it), or by budget."""

    cost: Mapping[str, Hourly]
    requests: Mapping[str, Hourly]
    """Empty where the provider counts none."""
    tokens: Mapping[str, Hourly]
    """Empty where it counts requests."""
    budgets: Mapping[str, Hourly]
    """Every budget that may count something of the account."""


def counting(account: Account, budgets: Iterable[Budget]) -> tuple[Budget, ...]:
    """Return the budgets that may count something of an account."""
    labels = _labels(account)
    return tuple(one for one in budgets if matches({k: v for k, v in one.match.items() if k in labels}, labels))


def _labels(account: Account) -> dict[str, str]:
    return {"account": account.name, "provider": account.provider, "owner": account.owner}


@dataclass(frozen=True, slots=True)
class _Scheme:
    """How rows are summed; another way of it is a reason to read every day again."""

    account: int
    moved: Mapping[Combination, Combination]
    names: Mapping[str, str]
    budgets: tuple[Budget, ...]


@dataclass(frozen=True, slots=True)
class _Day:
    """What was made of one UTC day."""

    version: int
    cost: Sums
    budgets: Sums
    requests: Sums
    tokens: Sums


@dataclass(slots=True)
class Trails:
    """Follows one account, and keeps what it made of each day."""

    ledger: Ledger
    _scheme: _Scheme | None = None
    _days: dict[datetime, _Day] = field(default_factory=dict)

    def follow(self, member: Member, places: Places, budgets: Iterable[Budget], now: datetime) -> Trail:
        """Return the account's trail as the ledger knows it."""
        number, today = member.book.number, floor(now, DAY)
        scheme = _Scheme(number, places.moved, places.names, counting(member.account, budgets))
        before, self._scheme = self._days if scheme == self._scheme else {}, scheme
        self._days = {}
        days = list(slots(days_back(now, DAYS_SHOWN - 1), today + DAY, DAY))
        for day in days:
            # Read before the day is: what changes meanwhile is a reason to read it again.
            version, old = self.ledger.hours.version(number, day), before.get(day)
            if old is None or old.version != version:
                old = self._read(member, places, scheme, day, version, used=today - day < _JUDGED * DAY)
            self._days[day] = old
        told = member.told_span(self.ledger)
        known = today + DAY if told is None else told.start
        cost, counted, requests, tokens = (
            _joined(days[0], known, [getattr(self._days[day], part) for day in days])
            for part in ("cost", "budgets", "requests", "tokens")
        )
        idle = _hourly(days[0], known, [_IDLE] * len(days))
        every = {budget.name: counted.get(budget.name, idle) for budget in scheme.budgets}
        return Trail(cost, requests, {} if requests else tokens, every)

    def _read(
        self, member: Member, places: Places, scheme: _Scheme, day: datetime, version: int, *, used: bool
    ) -> _Day:
        book, counted = member.book, Counted(member.account, scheme.budgets, scheme.names)
        cost: Sums = {}
        budgets: Sums = {}
        requests: Sums = {}
        tokens: Sums = {}
        for labels, values in self.ledger.hours.cost(book.number, day).items():
            _add(cost, places.place(labels)[0], values)
            for budget in counted.by(labels):
                _add(budgets, budget, values)
        told = self.ledger.hours.units(book.number, [one.name for one in book.usage], day) if used else {}
        for labels, values in told.items():
            if labels[0] == REQUESTS:
                _add(requests, places.place(labels)[0], values)
            elif labels[0] in TOKEN_METERS:
                _add(tokens, places.place(labels)[0], values)
        return _Day(version, *map(_packed, (cost, budgets, requests, {} if requests else tokens)))


@dataclass(slots=True)
class Counted:
    """Which budgets count a row of an account."""

    account: Account
    budgets: Sequence[Budget]
    names: Mapping[str, str]
    _known: dict[Combination, list[str]] = field(default_factory=dict)

    def by(self, labels: Labels) -> list[str]:
        """Return the names of the budgets; they count a model that is folded under its own name."""
        one = combination(labels)
        if one not in self._known:
            workspace, model = self.names.get(one[0], one[0]), one[1]
            told = _labels(self.account) | {"workspace": workspace, "model": model}
            self._known[one] = [budget.name for budget in self.budgets if matches(budget.match, told)]
        return self._known[one]


def _add(sums: Sums, name: str, values: Sequence[int]) -> None:
    sums[name] = added(sums[name], values) if name in sums else values


def _packed(sums: Sums) -> Sums:
    return {name: array("q", values) for name, values in sums.items()}


def _joined(since: datetime, known: datetime, days: Sequence[Sums]) -> dict[str, Hourly]:
    names = sorted({name for day in days for name in day})
    return {name: _hourly(since, known, [day.get(name, _IDLE) for day in days]) for name in names}


def _hourly(since: datetime, known: datetime, days: Sequence[Sequence[int]]) -> Hourly:
    values = array("q")
    for day in days:
        values.extend(day)
    return Hourly(since, values, known)
