"""Pasts of accounts: what was used in every hour, what it cost, and when the provider reported it.

Everything is computed from a seed: the same account has the same past in every run. Neither the simulator nor the
demo's accounts are used, so that the rules are not measured with the data that they were developed with.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fractions import Fraction

from exporter.model import COST, DAY, HOUR, NANO, REQUESTS, Row

Shape = Callable[[datetime], float]
"""Start of an hour -> its usage relative to the stream's mean hour."""
Mix = Mapping[str, float]
"""Meter -> tokens of a request."""

CHAT: Mix = {"uncached_input": 1000.0, "cache_read": 9000.0, "output": 500.0}
BROKEN_CACHE: Mix = {"uncached_input": 10_000.0, "output": 500.0}
USD_PER_MILLION: Mapping[str, Mapping[str, float]] = {
    "core-2": {"uncached_input": 3.0, "cache_read": 0.3, "output": 15.0},
    "mini-2": {"uncached_input": 0.6, "cache_read": 0.06, "output": 3.0},
    "premium-3": {"uncached_input": 15.0, "cache_read": 1.5, "output": 75.0},
}
"""List prices by model and meter."""


@dataclass(frozen=True, slots=True)
class ListPrices:
    """The published prices, as the valuer requests them."""

    def rate(self, model: str, meter: str, tier: str) -> Fraction | None:  # noqa: ARG002 - prices do not depend on tiers
        """Return nano-USD per token; None without a price."""
        usd = USD_PER_MILLION.get(model, {}).get(meter)
        return None if usd is None else Fraction(usd).limit_denominator(1000) * NANO / 1_000_000


def request_usd(model: str, mix: Mix = CHAT) -> float:
    """Return the list price of a request."""
    return sum(tokens * USD_PER_MILLION[model][meter] for meter, tokens in mix.items()) / 1_000_000


@dataclass(frozen=True, slots=True)
class Stream:
    """Usage of one model in one workspace."""

    workspace: str
    model: str
    usd_per_hour: float
    """Mean cost of an hour whose shape is 1."""
    shape: Shape
    noise: float = 0.2
    """Standard deviation of the logarithm of an hour's usage."""
    mix: Callable[[datetime], Mix] = lambda _: CHAT

    def rows(self, hour: datetime, seed: str) -> list[Row]:
        """Return the usage of an hour."""
        random_hour = random.Random(f"{seed} {self.workspace} {self.model} {hour:%Y%m%d%H}")
        level = self.shape(hour) * random_hour.lognormvariate(-self.noise * self.noise / 2, self.noise)
        requests = round(self.usd_per_hour * level / request_usd(self.model))
        if not requests:
            return []
        tokens = [
            Row(meter, round(requests * per_request), self.workspace, self.model)
            for meter, per_request in self.mix(hour).items()
        ]
        return [Row(REQUESTS, requests, self.workspace, self.model), *tokens]


@dataclass(frozen=True, slots=True)
class Charge:
    """A cost on a day's bill that pays for no usage."""

    day: datetime
    usd: float
    item: str = "onboarding fee"


@dataclass(frozen=True)
class PastAccount:
    """An account, everything that it used, and how its provider reported it."""

    name: str
    streams: Sequence[Stream]
    seed: str = ""
    delay: timedelta = timedelta(minutes=3)
    """The provider reports usage so long after it."""
    bill_delay: timedelta = 7 * HOUR
    """A day's bill is available so long after the day."""
    late_bills: Mapping[datetime, timedelta] = field(default_factory=dict)
    """Days whose bill is available later than usual, and how long after the day."""
    price_factor: Callable[[datetime], float] = lambda _: 1.0
    """Day -> what the provider bills relative to the list price."""
    charges: Sequence[Charge] = ()
    unavailable: tuple[datetime, datetime] | None = None
    """When the provider answers no request."""
    key_revoked_at: datetime | None = None
    _hours: dict[datetime, list[Row]] = field(default_factory=dict)

    def usage(self, hour: datetime) -> list[Row]:
        """Return all usage of an hour."""
        if hour not in self._hours:
            self._hours[hour] = [row for stream in self.streams for row in stream.rows(hour, self.seed or self.name)]
        return self._hours[hour]

    def reported_usage(self, hour: datetime, now: datetime) -> list[Row]:
        """Return the part of an hour's usage that the provider reports at a time; the hour grows evenly."""
        known = (now - self.delay - hour) / HOUR
        if known <= 0:
            return []
        if known >= 1:
            return self.usage(hour)
        return [row._replace(value=int(row.value * known)) for row in self.usage(hour) if int(row.value * known)]

    def bill(self, day: datetime) -> list[Row]:
        """Return a day's bill, in nano-USD."""
        totals: dict[tuple[str, str, str], int] = {}
        for number in range(24):
            for row in self.usage(day + number * HOUR):
                if row.meter != REQUESTS:
                    key = (row.workspace, row.model, row.meter)
                    totals[key] = totals.get(key, 0) + row.value
        factor = Fraction(self.price_factor(day)).limit_denominator(1000)
        prices = ListPrices()
        rows = [
            Row(meter, round(tokens * (prices.rate(model, meter, "") or 0) * factor), workspace, model)
            for (workspace, model, meter), tokens in totals.items()
        ]
        charged = [charge for charge in self.charges if charge.day == day]
        return rows + [Row(COST, round(charge.usd * NANO), item=charge.item) for charge in charged]

    def reported_bill(self, day: datetime, now: datetime) -> list[Row]:
        """Return the bill of a day that is available at a time."""
        delay = self.late_bills.get(day, self.bill_delay)
        return self.bill(day) if now >= day + DAY + delay else []

    def usd(self, hour: datetime) -> float:
        """Return the list price of an hour's usage."""
        return sum(
            row.value * USD_PER_MILLION[row.model][row.meter] / 1_000_000
            for row in self.usage(hour)
            if row.meter != REQUESTS
        )

    def usd_between(self, start: datetime, end: datetime) -> float:
        """Return the list price of the usage of whole hours."""
        return sum(self.usd(start + number * HOUR) for number in range((end - start) // HOUR))
