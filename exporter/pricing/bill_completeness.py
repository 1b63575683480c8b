"""Whether a bill is complete: providers write some rows of a day's bill hours or days after the others.

A bill that lacks rows must not count as the bill: its day would be far too cheap, and the missing rows would be taken
for free usage when the rates of later days are learned. So a bill is compared with the earlier ones of the account.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from fractions import Fraction

from exporter.model import DAY, Row
from exporter.pricing.bill_evidence import BillEvidence, PricedUsage
from exporter.pricing.list_prices import PriceKey, Rates
from exporter.pricing.unattributed_costs import expected_costs
from exporter.pricing.usage import LAST_HOUR, DayUsage, to_day_usage
from exporter.pricing.valuation import DayValuation

MAX_WAIT = timedelta(hours=72)
"""A bill counts as complete so long after its day, whatever it lacks: usage may have become free."""
MIN_STABLE_TIME = timedelta(hours=6)
"""A bill that is lower than expected counts as complete when it has been unchanged for so long: prices may fall."""
_MAX_UNPAID_SHARE = Fraction(5, 1000)
"""The share of the expected cost that no row of the bill pays for; rows of a few cents may be left out."""
_MAX_SHORTFALL = Fraction(2, 100)
"""The share of the expected cost by which a bill may be lower without being suspected of still growing."""


def bill_complete_at(
    day: datetime,
    usage: DayUsage | Mapping[int, Sequence[Row]],
    billed: DayValuation,
    evidence: Sequence[BillEvidence],
    rates: Rates,
    estimate: int,
    unchanged_since: datetime,
) -> datetime:
    """Return from when on the bill of a UTC day counts as complete if it does not change: at the latest 72 h after it.

    `billed` is the day valued by this bill, `evidence` that of earlier bills, newest first, and `rates` are learned
    from them; `estimate` is the whole day's cost at these rates, in nano-USD; `unchanged_since` is when this version of
    the bill was first seen. An account without earlier bills has nothing to compare with: its first bill is taken as it
    is.
    """
    day_end = day + DAY
    if not evidence or estimate <= 0:
        return day_end
    unpaid = _unpaid_usage(billed.bill_evidence, evidence, rates)
    unpaid += _missing_costs(to_day_usage(usage), billed.bill_evidence, evidence, rates)
    if unpaid > _MAX_UNPAID_SHARE * estimate:
        return day_end + MAX_WAIT
    if billed.total < (1 - _MAX_SHORTFALL) * estimate:
        return min(unchanged_since + MIN_STABLE_TIME, day_end + MAX_WAIT)
    return day_end


def _unpaid_usage(bill: BillEvidence, evidence: Sequence[BillEvidence], rates: Rates) -> Fraction:
    """Return the expected cost, in nano-USD, of usage that earlier bills paid for and this one does not."""
    paid_by_workspace: dict[tuple[str, PriceKey], bool] = {}
    paid_by_key: dict[PriceKey, bool] = {}
    for earlier in reversed(evidence):  # newest first: newer bills overwrite older ones
        paid_that_day: dict[PriceKey, bool] = {}
        for priced in earlier.priced_usage:
            price_key = _price_key(priced)
            paid_by_workspace[priced.workspace, price_key] = priced.nano_usd != 0
            paid_that_day[price_key] = paid_that_day.get(price_key, False) or priced.nano_usd != 0
        paid_by_key.update(paid_that_day)
    unpaid = Fraction(0)
    for priced in bill.priced_usage:
        price_key = _price_key(priced)
        was_paid = paid_by_workspace.get((priced.workspace, price_key), paid_by_key.get(price_key, False))
        if not priced.nano_usd and was_paid:
            unpaid += (rates.rate(*price_key) or 0) * priced.units
    return unpaid


def _missing_costs(usage: DayUsage, bill: BillEvidence, evidence: Sequence[BillEvidence], rates: Rates) -> int:
    """Return the unattributed costs, in nano-USD, that earlier bills lead to expect and this one lacks."""
    billed_labels = {cost.labels for cost in bill.unattributed_costs}
    return sum(
        max(0, sum(expected.nano_usd_by_hour.values()))
        for expected in expected_costs(evidence, usage.by_key, rates, LAST_HOUR)
        if expected.labels not in billed_labels
    )


def _price_key(priced: PricedUsage) -> PriceKey:
    return PriceKey(priced.model, priced.meter, priced.tier)
