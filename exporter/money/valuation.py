"""What each hour of a day cost: an open day is estimated at rates, a billed day sums to its bill to the nano-dollar."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import NamedTuple

from exporter.model import COST, REQUESTS, TOKEN_METERS, UNIT_METERS, Row
from exporter.money.rates import Rates


@dataclass(frozen=True, slots=True)
class Key:
    """Whom money is told of; `item` names what no token explains, in the provider's words where it has some."""

    workspace: str = ""
    model: str = ""
    tier: str = ""
    api_key: str = ""
    item: str = ""


@dataclass(frozen=True, slots=True)
class DayValue:
    """What one account's day cost."""

    hours: Mapping[tuple[int, Key], int]
    """(hour 0..23, key) -> nano-USD; what was used or billed for nothing is there with 0."""
    billed: bool
    unpriced: Mapping[str, int]
    """Model -> tokens of an open day that have no price; never 0."""


def value_day(
    usage: Mapping[int, Sequence[Row]], bill: Sequence[Row] | None, rates: Rates, last_hour: int = 23
) -> DayValue:
    """Price a day from its usage (hour 0..23 -> rows) and its bill; None: the day is open.

    A row of usage whose meter is `cost` is money (nano-USD). A day that has such rows tells its money itself: its
    tokens are not priced a second time. A bill's rows hold nano-USD, and as meter what they pay for, `cost` where
    unknown; all of it reaches the hours, and nothing else does. `last_hour` ends the hours that share what no usage
    explains. The order of rows does not matter.
    """
    if bill is None:
        return _estimate(usage, rates)
    used = _Used(usage, bill, rates)
    hours: defaultdict[tuple[int, Key], int] = defaultdict(int)
    for row in bill:
        for place, share in _spread(row, used, last_hour):
            hours[place] += share
    return DayValue(dict(hours), billed=True, unpriced={})


def apportion(amount: int, weights: Sequence[int]) -> list[int]:
    """Cut an amount into shares in proportion to weights (none negative, not all 0) that sum to it exactly.

    A share is less than 1 away from its proportion and has the amount's sign: a credit mirrors its charge.
    """
    sign, size, total = (-1 if amount < 0 else 1), abs(amount), sum(weights)
    shares, weighed, given = [], 0, 0
    for weight in weights:
        weighed += weight
        due = size * weighed // total
        shares.append(sign * (due - given))
        given = due
    return shares


def _estimate(usage: Mapping[int, Sequence[Row]], rates: Rates) -> DayValue:
    hours: defaultdict[tuple[int, Key], int] = defaultdict(int)
    unpriced: defaultdict[str, int] = defaultdict(int)
    tells_money = any(row.meter == COST for _, row in _rows(usage))
    for hour, row in _rows(usage):
        if tells_money and row.meter != COST:
            continue
        worth = row.value if tells_money else _worth(row, rates)
        if worth is not None:
            hours[hour, Key(row.workspace, row.model, row.tier, row.api_key, _item(row))] += worth
        elif row.meter in TOKEN_METERS:
            unpriced[row.model] += row.value
    return DayValue(dict(hours), billed=False, unpriced={model: tokens for model, tokens in unpriced.items() if tokens})


def _rows(usage: Mapping[int, Sequence[Row]]) -> Iterator[tuple[int, Row]]:
    return ((hour, row) for hour, rows in usage.items() for row in rows if row.meter != REQUESTS)


def _worth(use: Row | _Use, rates: Rates) -> int | None:
    rate = rates.rate(use.model, use.meter, use.tier)
    return None if rate is None else round(rate * use.value)


def _item(row: Row) -> str:
    if row.meter in TOKEN_METERS:
        return ""
    return row.item or (row.meter if row.meter in UNIT_METERS else "")


class _Use(NamedTuple):
    """What one hour used of one meter; ordered by hour, then by labels."""

    hour: int
    workspace: str
    model: str
    tier: str
    api_key: str
    meter: str
    value: int


def _uses(usage: Mapping[int, Sequence[Row]]) -> list[_Use]:
    return sorted(
        _Use(hour, row.workspace, row.model, row.tier, row.api_key, row.meter, row.value)
        for hour, row in _rows(usage)
        if row.value > 0 and row.meter != COST
    )


_Labels = tuple[str, str, str]
"""Workspace, model, meter."""

_ANY = "*"


class _Used:
    """A billed day's use, found by what a bill's row says of it."""

    def __init__(self, usage: Mapping[int, Sequence[Row]], bill: Iterable[Row], rates: Rates) -> None:
        self._rates = rates
        self._uses: defaultdict[_Labels, list[_Use]] = defaultdict(list)
        for use in _uses(usage):
            models = (use.model, _alike(use.model), _ANY)
            for labels in product((use.workspace,), models, (use.meter, _ANY)):
                self._uses[labels].append(use)
        self._pace: dict[str, dict[int, int]] = {}
        self._claimed: set[tuple[str, str, str, str]] = set()
        for row in bill:
            found, own_meter = self._said(row)
            if row.tier and own_meter:
                self._claimed.update(_claim(use) for use in found if use.tier == row.tier)

    def paid_by(self, row: Row) -> list[tuple[_Use, int]]:
        """Return the uses that a bill's row pays for, with their weights; none where its model and meter say nothing.

        The first that is there wins: the meter of the model, by units; the meter of the model spelled otherwise; the
        tokens of the model, by worth; those of the model spelled otherwise. A row without a model pays for its meter
        in every model. Of what is found, the row pays for its tier.
        """
        found, own_meter = self._said(row)
        uses = self._of_tier(found, row.tier)
        return list(zip(uses, [use.value for use in uses] if own_meter else self._weights(uses), strict=True))

    def pace(self, workspace: str) -> dict[int, int]:
        """Return hour -> weight of all that a workspace used; empty where it used nothing."""
        if workspace not in self._pace:
            uses = self._uses.get((workspace, _ANY, _ANY), [])
            hours: defaultdict[int, int] = defaultdict(int)
            for use, weight in zip(uses, self._weights(uses), strict=True):
                hours[use.hour] += weight
            self._pace[workspace] = dict(hours)
        return self._pace[workspace]

    def _said(self, row: Row) -> tuple[list[_Use], bool]:
        """Return what a row's model and meter match, and whether by its own meter."""
        models = (row.model, _alike(row.model)) if row.model else (_ANY,)
        for model in models:
            if found := self._uses.get((row.workspace, model, row.meter)):
                return found, True
        for model in models if row.model else ():
            if found := self._uses.get((row.workspace, model, _ANY)):
                return [use for use in found if use.meter in TOKEN_METERS] or found, False
        return [], False

    def _of_tier(self, uses: list[_Use], tier: str) -> list[_Use]:
        """Narrow to a tier: an unsaid one takes what no other row of the bill claims, a said one its nearest."""
        if not tier:
            return [use for use in uses if _claim(use) not in self._claimed] or uses
        for nearest in (tier, tier.removesuffix("_long_context"), ""):
            if found := [use for use in uses if use.tier == nearest]:
                return found
        return uses

    def _weights(self, uses: Sequence[_Use]) -> list[int]:
        """Weigh uses of several meters: by worth, else by tokens, else by units."""
        worth = [_worth(use, self._rates) or 0 for use in uses]
        if any(worth):
            return worth
        tokens = [use.value if use.meter in TOKEN_METERS else 0 for use in uses]
        return tokens if any(tokens) else [use.value for use in uses]


def _claim(use: _Use) -> tuple[str, str, str, str]:
    return use.workspace, use.model, use.tier, use.meter


_SNAPSHOT = re.compile(r"[-@](\d{4}-\d{2}-\d{2}|\d{8}|latest)$")


@lru_cache(maxsize=4096)
def _alike(model: str) -> str:
    """Return what all spellings of a model have in common, marked so that it is no model's name."""
    return "~" + _SNAPSHOT.sub("", model.lower())


def _spread(row: Row, used: _Used, last_hour: int) -> Iterator[tuple[tuple[int, Key], int]]:
    """Yield a bill row's shares and their places: by what it pays for, else by its workspace's pace, else evenly."""
    if paid := used.paid_by(row):
        item = _item(row)
        places = [(use.hour, Key(use.workspace, use.model, use.tier, use.api_key, item)) for use, _ in paid]
        weights = [weight for _, weight in paid]
    else:
        pace = used.pace(row.workspace) or dict.fromkeys(range(last_hour + 1), 1)
        key = Key(row.workspace, row.model, row.tier, row.api_key, row.item)
        places = [(hour, key) for hour in pace]
        weights = list(pace.values())
    return zip(places, apportion(row.value, weights), strict=True)
