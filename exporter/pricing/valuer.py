"""Keeps cost in step with what was told: values the days that changed and writes their hours back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from importlib.metadata import version

from exporter.ledger import Ledger, ValuedDay
from exporter.model import COST, DAY, HOUR, Report, Row
from exporter.pricing.bill_evidence import BillEvidence
from exporter.pricing.learned_rates import NegotiatedPrice, learned_rates
from exporter.pricing.list_prices import Rates
from exporter.pricing.valuation import DayValuation, value_day
from exporter.windows import DAYS_EXPORTED, TimeRange, days_back, slots

METHOD = f"3 genai-prices {version('genai-prices')}"
"""Names how days are valued: where it differs from a day's, the day is valued again."""
EVIDENCE_DAYS = 7
"""How many billed days teach what an open one costs."""
MAX_ESTIMATE_AGE = 7 * DAY
"""A bill that is older than this when it is first read judges no estimate: nobody was shown one."""

PriceList = Callable[[str, datetime], Rates]


@dataclass(frozen=True, slots=True)
class LedgerAccount:
    """One account as the ledger knows it: its number there, its provider, that provider's reports, agreed prices."""

    id: int
    provider: str
    reports: tuple[Report, ...]
    negotiated_prices: tuple[NegotiatedPrice, ...] = ()
    days_close: bool = True
    """Whether its days become final; those of a source may be told more at any time."""

    @property
    def usage_reports(self) -> tuple[Report, ...]:
        """The reports that tell use."""
        return tuple(report for report in self.reports if report.kind == "usage")

    @property
    def bill_reports(self) -> tuple[Report, ...]:
        """The reports that tell money per day; none where use itself carries its money."""
        return tuple(report for report in self.reports if report.kind == "bill")

    @property
    def method(self) -> str:
        """How its days are valued: another price list or other agreed prices are another method."""
        return (
            f"{METHOD} {blake2b(repr(self.negotiated_prices).encode(), digest_size=4).hexdigest()}"
            if self.negotiated_prices
            else METHOD
        )


class Valuer:
    """Values days: an open one from rates that the newest bills teach, a billed one from its bill."""

    def __init__(self, ledger: Ledger, price_list: PriceList) -> None:
        self._ledger = ledger
        self._price_list = price_list

    def value_days(self, ledger_account: LedgerAccount, now: datetime, *, hour_changed: bool = False) -> bool:
        """Value every day that changed since it was valued, or whose bill has become final; tell whether any was.

        A bill that comes teaches new rates, so the open days after it are valued again. When an hour has `turned`,
        so are those that cost money without use: by the hour, they have cost an hour more.
        """
        days = {
            *self._ledger.costs.unvalued_days(ledger_account.id, ledger_account.method),
            *self._newly_final_days(ledger_account, now),
        }
        if hour_changed and any(lesson.unattributed_costs for lesson in self._read_evidence(ledger_account, now)):
            days.update(self._open_days(ledger_account, now))
        # All read before any is valued: a bill that comes together with it must not flatter a day's estimate.
        earlier = {
            day: self._read_evidence(ledger_account, day) for day in sorted(days) if _is_final(ledger_account, day, now)
        }
        billed = [day for day, lessons in earlier.items() if self._value_day(ledger_account, day, now, lessons)]
        rest = days - earlier.keys()
        if billed:
            since = self._ledger.costs.days(ledger_account.id, TimeRange(billed[0], now))
            rest |= {day.start for day in since if not day.billed} - earlier.keys()
        for day in sorted(rest):
            self._value_day(ledger_account, day, now, ())
        return bool(days)

    def _newly_final_days(self, ledger_account: LedgerAccount, now: datetime) -> Sequence[datetime]:
        since = days_back(now, DAYS_EXPORTED)
        told = self._ledger.buckets.days(
            ledger_account.id,
            [report.name for report in ledger_account.bill_reports or ledger_account.usage_reports],
            since,
        )
        return [
            day
            for day in told.difference(self._ledger.costs.billed_days(ledger_account.id, since))
            if _is_final(ledger_account, day, now)
        ]

    def _open_days(self, ledger_account: LedgerAccount, now: datetime) -> Iterator[datetime]:
        """Yield the days since the newest billed one of which use was told, be it that there was none."""
        billed = self._ledger.costs.billed_days(ledger_account.id, days_back(now, DAYS_EXPORTED))
        covered = [
            self._ledger.buckets.coverage(ledger_account.id, report.name) for report in ledger_account.usage_reports
        ]
        until = max((one.until for one in covered if one is not None), default=now)
        return slots(billed[-1] + DAY, until, DAY) if billed else iter(())

    def _value_day(
        self, ledger_account: LedgerAccount, day: datetime, now: datetime, earlier_evidence: Sequence[BillEvidence]
    ) -> bool:
        """Value one day and tell whether it is billed; `earlier` lessons are those from before its bill came."""
        told = self._ledger.costs.revision(ledger_account.id, day)
        usage, bill = (
            self._read_usage(ledger_account, day),
            self._read_bill(ledger_account, day) if _is_final(ledger_account, day, now) else [],
        )
        lessons, listed = self._read_evidence(ledger_account, day), self._price_list(ledger_account.provider, day)
        rates, estimate = learned_rates(lessons, listed, ledger_account.negotiated_prices), None
        if bill:
            worth = value_day(usage, bill, rates)
            if now - day < MAX_ESTIMATE_AGE:
                known = earlier_evidence or lessons
                before = learned_rates(known, listed, ledger_account.negotiated_prices)
                estimate = sum(value_day(usage, None, before, evidence=known).hours.values())
        else:
            worth = value_day(usage, None, rates, min(23, (now - day) // HOUR), lessons)
        billed = bool(bill) if ledger_account.bill_reports else _is_final(ledger_account, day, now)
        valued = ValuedDay(
            hours=_rows_by_hour(worth),
            unpriced_tokens=worth.unpriced_tokens,
            method=ledger_account.method,
            billed=billed,
            estimate=estimate,
            bill_evidence=json.dumps(worth.bill_evidence.to_plain()) if bill else "",
        )
        self._ledger.costs.put(ledger_account.id, day, valued, told, still_open=not ledger_account.days_close)
        return bool(bill)

    def _read_evidence(self, ledger_account: LedgerAccount, before: datetime) -> list[BillEvidence]:
        return [
            BillEvidence.from_plain(json.loads(one))
            for one in self._ledger.costs.bill_evidence(ledger_account.id, before, EVIDENCE_DAYS)
        ]

    def _read_usage(self, ledger_account: LedgerAccount, day: datetime) -> dict[int, list[Row]]:
        usage: dict[int, list[Row]] = {}
        for report in ledger_account.usage_reports:
            for hour, rows in self._ledger.buckets.rows(ledger_account.id, report.name, day).items():
                usage.setdefault(hour, []).extend(rows)
        return usage

    def _read_bill(self, ledger_account: LedgerAccount, day: datetime) -> list[Row]:
        told = (
            self._ledger.buckets.rows(ledger_account.id, report.name, day) for report in ledger_account.bill_reports
        )
        return [row for hours in told for rows in hours.values() for row in rows]


def _rows_by_hour(valuation: DayValuation) -> dict[int, list[Row]]:
    hours: dict[int, list[Row]] = {}
    for (hour, key), value in valuation.hours.items():
        row = Row(COST, value, key.workspace, key.model, key.tier, key.api_key, key.item)
        hours.setdefault(hour, []).append(row)
    return hours


def _is_final(ledger_account: LedgerAccount, day: datetime, now: datetime) -> bool:
    """Tell whether a day is closed for good and every report that bills it has had its lag."""
    return ledger_account.days_close and all(
        day + DAY + report.lag <= now for report in ledger_account.bill_reports or ledger_account.usage_reports
    )
