"""The uncertainty of an account's unbilled days: the range of today's bill, usage without a price, one-time costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from exporter.analysis.estimates import EstimateRange, estimate_range
from exporter.model import COST, DAY, NANO, TOKEN_METERS
from exporter.snapshot.account_snapshot import AccountSnapshot
from exporter.windows import floor

MISSING_BILL_MARGIN = timedelta(days=1)
"""Time after the usual delay of a day's bill from which on the bill is missing."""
_MIN_COST_OF_MISSING_BILL = NANO // 100
"""nano-USD: a day whose usage costs less may have no bill."""


@dataclass(frozen=True, slots=True)
class UnpricedUsage:
    """Tokens of all unbilled days for which no price is known."""

    tokens: Mapping[str, int]
    """Model -> tokens."""
    cost_ratio: float
    """The estimated share of the unbilled days' cost that is missing, 0 to 1."""


@dataclass(frozen=True, slots=True)
class OneTimeCost:
    """A charge or a credit of one day that no other day is expected to have."""

    day: datetime
    workspace: str
    """Its exported name."""
    item: str
    """As on the bill."""
    nano_usd: int


def today_range(snapshot: AccountSnapshot) -> EstimateRange | None:
    """Return the range in which the bill for today's known usage is expected; None before a bill was compared."""
    today = floor(snapshot.time, DAY)
    cost = sum(day.cost for day in snapshot.day_costs if day.start == today)
    errors = [day.bill_error for day in snapshot.day_costs]
    return estimate_range(cost, [error for error in errors if error is not None])


def unpriced_usage(snapshot: AccountSnapshot) -> UnpricedUsage:
    """Return the usage of unbilled days whose cost is missing.

    The missing cost is estimated at the mean cost of the unbilled days' other tokens: a model without a price may be
    cheaper or dearer, but a share of half of the tokens should not go unnoticed.
    """
    billed = {day.start for day in snapshot.day_costs if day.billed}
    unpriced: Counter[str] = Counter()
    for day, tokens in snapshot.unpriced_tokens.items():
        if day not in billed:
            unpriced.update(tokens)
    if not unpriced:
        return UnpricedUsage({}, 0.0)
    cost = all_tokens = 0
    for day, totals in snapshot.days.items():
        if day not in billed:
            for labels, value in totals.items():
                cost += value if labels.meter == COST else 0
                all_tokens += value if labels.meter in TOKEN_METERS else 0
    priced_tokens = all_tokens - unpriced.total()
    if priced_tokens <= 0 or cost <= 0:
        return UnpricedUsage(unpriced, 1.0)
    missing = unpriced.total() * cost / priced_tokens
    return UnpricedUsage(unpriced, missing / (cost + missing))


def one_time_costs(snapshot: AccountSnapshot) -> list[OneTimeCost]:
    """Return the one-time charges and credits of the exported days, newest first."""
    return [
        OneTimeCost(
            day=day.start,
            workspace=snapshot.label_mapper.workspace_name(labels.workspace),
            item=labels.item or labels.model,
            nano_usd=fixed.nano_usd,
        )
        for day in reversed(snapshot.day_costs)
        for labels, fixed in sorted(day.fixed_costs.items())
        if fixed.frequency == "one_time" and fixed.nano_usd
    ]


def missing_bills(snapshot: AccountSnapshot) -> list[datetime]:
    """Return the closed UTC days with usage of which no bill at all has arrived, oldest first.

    A day's bill is missing a day after its report's usual delay, as of the newest successful poll of every bill: while
    polls fail, nothing is known of newer bills. Days before the first billed day of the last 35 do not count, so that
    an account without any bill has no missing ones. A day with an incomplete bill is not missing one.
    """
    complete_until = [known.complete_until for known in snapshot.reports if known.report.kind == "bill"]
    billed = [day.start for day in snapshot.day_costs if day.billed]
    known_until = [time for time in complete_until if time is not None]
    if not billed or not known_until or len(known_until) < len(complete_until):
        return []
    last_end = min(known_until) - MISSING_BILL_MARGIN
    return [
        day.start
        for day in snapshot.day_costs
        if not day.billed
        and not day.bill_is_incomplete
        and day.cost >= _MIN_COST_OF_MISSING_BILL
        and day.start > billed[0]
        and day.start + DAY <= last_end
    ]
