"""Every hour of the past, from the ledger, under the labels that the page shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from exporter.ledger import Ledger
from exporter.ledger.hours import added
from exporter.metrics.families import ACCOUNT, HOURLY_COST, HOURLY_TOKENS, SPEND, Family
from exporter.metrics.labels import Combination, Places
from exporter.model import DAY, HOUR, REQUESTS, TOKEN_METERS
from exporter.pricing.valuer import Book

Shown = tuple[Combination, str]
"""Where a row is shown, and the type of its tokens; all in ids."""
Hourly = Mapping[Shown, Sequence[int]]
"""nano-USD, tokens or requests of the 24 hours of a UTC day; one value where only the day's sum is kept."""

HOUR_MS = int(HOUR.total_seconds()) * 1000


@dataclass(frozen=True, slots=True)
class Teller:
    """An account whose history is told: until when it is complete, and where its series are shown."""

    name: str
    book: Book
    places: Places
    until: datetime


def hourly(ledger: Ledger, family: Family, teller: Teller, day: datetime) -> Hourly:
    """Return what a family tells of one UTC day of an account.

    A series that was active on a day has every hour of it, idle ones as 0; on other days it is absent.
    """
    book = teller.book
    if family is HOURLY_COST:
        told = ledger.hours.cost(book.number, day)
    else:
        told = ledger.hours.units(book.number, [report.name for report in book.usage], day)
    found: dict[Shown, Sequence[int]] = {}
    for labels, values in told.items():
        if family is HOURLY_COST:
            where = (teller.places.place(labels), "")
        elif family is HOURLY_TOKENS and labels[0] in TOKEN_METERS:
            where = (teller.places.place(labels), labels[0])
        elif family is not HOURLY_TOKENS and labels[0] == REQUESTS:
            where = (teller.places.place(labels), "")
        else:
            continue
        found[where] = added(found[where], values) if where in found else values
    return found


def account_labels(teller: Teller) -> dict[str, str]:
    """Return the labels that all series of an account share."""
    return dict(zip(ACCOUNT, (teller.book.provider, teller.name), strict=True))


def series_labels(teller: Teller, shown: Shown) -> dict[str, str]:
    """Return the labels that tell an account's series apart; those without a value are left out."""
    names = (*SPEND[len(ACCOUNT) :], "api_key", "type")
    values = (*teller.places.values(shown[0]), shown[1])
    return {name: value for name, value in zip(names, values, strict=True) if value}


def stamps(day: datetime) -> list[int]:
    """Return when the 24 samples of a UTC day stand, in milliseconds: a sample stands in the hour that it tells of.

    At the hour's very end it would belong to two days on a Prometheus whose ranges are closed.
    """
    start = int(day.timestamp()) * 1000
    return [start + (hour + 1) * HOUR_MS - 1 for hour in range(int(DAY / HOUR))]
