"""Keeps the costs in the ledger current: finds the days to value, values them and stores their hours.

A day is valued again when its buckets have changed, when its bill has become final or complete, when the method has
changed (a new price list or other negotiated prices), and, while it is open, whenever a bill brings new evidence for
its rates.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from fractions import Fraction
from functools import cached_property
from hashlib import blake2b
from importlib.metadata import version
from typing import NamedTuple

from exporter.ledger import NO_BILL, BillState, FixedCost, Ledger, ValuedDay
from exporter.model import COST, DAY, HOUR, TOKEN_METERS, Report, Row, RowLabels
from exporter.pricing.bill_completeness import MAX_WAIT, bill_complete_at
from exporter.pricing.bill_evidence import BillEvidence
from exporter.pricing.free_allowances import learn_allowances
from exporter.pricing.learned_rates import NegotiatedPrice, learned_rates
from exporter.pricing.list_prices import Rates
from exporter.pricing.usage import LAST_HOUR
from exporter.pricing.valuation import DayValuation, value_day
from exporter.pricing.volume_tiers import (
    PriceFactors,
    VolumeTier,
    day_factor,
    is_contradicted,
    learn_tier,
    price_factors,
    tier_from_crossing,
    tokens_of,
    without_tiers,
)
from exporter.windows import DAYS_EXPORTED, TimeRange, days_back, slots

METHOD = f"4 genai-prices {version('genai-prices')}"
"""The method of valuation, stored with each day; a day with another method is valued again."""
EVIDENCE_DAYS = 7
"""The number of newest billed days whose evidence is used for an open day."""
DAYS_OF_CROSSING = 4
"""The billed days that show a volume tier: two before, one on, and one after which the volume is reached."""
MAX_ESTIMATE_AGE = 7 * DAY
"""A day this old or older when its bill is first read has no estimate error: its estimate was never exported."""

PriceList = Callable[[str, datetime], Rates]
"""Provider and UTC day -> its list prices."""


@dataclass(frozen=True, slots=True)
class LedgerAccount:
    """An account's number in the ledger, and everything that the valuation of its days depends on."""

    id: int
    provider: str
    reports: tuple[Report, ...]
    negotiated_prices: tuple[NegotiatedPrice, ...] = ()
    days_close: bool = True
    """Whether days become final. Those of a pushing source do not: it may push usage of any day at any time."""

    @property
    def usage_reports(self) -> tuple[Report, ...]:
        """The reports of usage."""
        return tuple(report for report in self.reports if report.kind == "usage")

    @property
    def bill_reports(self) -> tuple[Report, ...]:
        """The reports of costs per day; none where the provider reports costs with its usage."""
        return tuple(report for report in self.reports if report.kind == "bill")

    @property
    def final_reports(self) -> tuple[Report, ...]:
        """The reports that make a day final: the bill, or the usage that already includes its costs."""
        return self.bill_reports or self.usage_reports

    @property
    def method(self) -> str:
        """The method of valuation, with a digest of the negotiated prices where there are any."""
        if not self.negotiated_prices:
            return METHOD
        digest = blake2b(repr(self.negotiated_prices).encode(), digest_size=4).hexdigest()
        return f"{METHOD} {digest}"


class _DatedEvidence(NamedTuple):
    """The evidence of a billed day as it was stored."""

    day: datetime
    evidence: BillEvidence


@dataclass(frozen=True, slots=True)
class _KnownBills:
    """The newest billed days before a day."""

    stored: Sequence[_DatedEvidence] = ()
    """Newest first."""
    newest_first: Sequence[BillEvidence] = ()
    """Their evidence as if there were no volume tiers."""
    restated_last: Sequence[BillEvidence] = ()
    """The order in which rates are learned: a single corrected day must not win over others that agree."""

    @property
    def volume_tiers(self) -> dict[str, VolumeTier]:
        """Model -> its volume tier, as known with the newest bill."""
        tiers = self.stored[0].evidence.volume_tiers if self.stored else {}
        return {model: VolumeTier(*tier) for model, tier in tiers.items()}


@dataclass(frozen=True)
class _DayEstimator:
    """Estimates the value of a day, of which no bill is used."""

    usage: Mapping[int, Sequence[Row]]
    known_bills: _KnownBills
    rates: Rates
    factors: PriceFactors

    @property
    def evidence(self) -> Sequence[BillEvidence]:
        """The evidence of the newest billed days before this one, newest first."""
        return self.known_bills.newest_first

    def estimate(self, last_hour: int = LAST_HOUR) -> DayValuation:
        """Value the day up to and including an hour."""
        return value_day(self.usage, None, self.rates, last_hour, self.evidence, self.factors)

    @cached_property
    def whole_day(self) -> int:
        """The estimate of all 24 hours in nano-USD."""
        return sum(self.estimate().hours.values())


class Valuer:
    """Values days: an open day at rates learned from the newest bills, a billed day from its bill."""

    def __init__(self, ledger: Ledger, price_list: PriceList) -> None:
        self._ledger = ledger
        self._price_list = price_list

    def value_days(self, ledger_account: LedgerAccount, now: datetime, *, hour_changed: bool = False) -> bool:
        """Value every day that needs it; return whether any day changed or became final.

        Days with bills are valued first: they bring the evidence at which all later open days are then valued. When the
        hour has changed, open days whose unattributed costs grow by the hour are valued too.
        """
        days = {
            *self._ledger.costs.unvalued_days(ledger_account.id, ledger_account.method),
            *self._newly_final_days(ledger_account, now),
            *self._ledger.costs.withdrawn_days(ledger_account.id, now),
        }
        if hour_changed and self._has_unattributed_costs(ledger_account, now):
            days.update(self._open_days(ledger_account, now))

        final_days = sorted(day for day in days if _is_final(ledger_account, day, now))
        # All evidence is read before any day is valued. The error of a day's estimate is that of the estimate that was
        # exported: a bill that arrives together with this day's must not improve it in hindsight.
        bills_before = {day: self._read_bills(ledger_account, day) for day in final_days}
        billed_days = [day for day in final_days if self._value_day(ledger_account, day, now, bills_before[day])]

        remaining = days.difference(final_days)
        if billed_days:
            later_days = self._ledger.costs.days(ledger_account.id, TimeRange(billed_days[0], now))
            remaining |= {day.start for day in later_days if not day.billed}.difference(final_days)
        for day in sorted(remaining):
            self._value_day(ledger_account, day, now, _KnownBills())
        return bool(days)

    def _newly_final_days(self, ledger_account: LedgerAccount, now: datetime) -> Sequence[datetime]:
        """Return the days whose bill has become final or complete by the passing of time alone."""
        since = days_back(now, DAYS_EXPORTED)
        reports = [report.name for report in ledger_account.final_reports]
        reported_days = self._ledger.buckets.days(ledger_account.id, reports, since)
        unbilled_days = reported_days.difference(
            self._ledger.costs.billed_days(ledger_account.id, since),
            self._ledger.costs.incomplete_days(ledger_account.id, now),
        )
        return [day for day in unbilled_days if _is_final(ledger_account, day, now)]

    def _has_unattributed_costs(self, ledger_account: LedgerAccount, now: datetime) -> bool:
        known_bills = self._read_bills(ledger_account, now)
        return any(evidence.unattributed_costs for evidence in known_bills.newest_first)

    def _open_days(self, ledger_account: LedgerAccount, now: datetime) -> Iterator[datetime]:
        """Yield the days after the newest billed one that usage reports cover, with usage or without."""
        billed_days = self._ledger.costs.billed_days(ledger_account.id, days_back(now, DAYS_EXPORTED))
        if not billed_days:
            return iter(())
        coverages = (
            self._ledger.buckets.coverage(ledger_account.id, report.name) for report in ledger_account.usage_reports
        )
        covered_until = max((coverage.until for coverage in coverages if coverage is not None), default=now)
        return slots(billed_days[-1] + DAY, covered_until, DAY)

    def _value_day(
        self, ledger_account: LedgerAccount, day: datetime, now: datetime, bills_before: _KnownBills
    ) -> bool:
        """Value one day and store it; return whether it counts as billed.

        `bills_before` are those that were known before any bill of this run.
        """
        # Read before the rows: if the day changes in between, `put` notices it by the revision.
        revision = self._ledger.costs.revision(ledger_account.id, day)
        bill = self._read_bill(ledger_account, day)
        known_state = self._ledger.costs.bill_state(ledger_account.id, day)
        state = _bill_state(bill, known_state, day, now)
        if state.is_withdrawn:
            self._ledger.costs.keep_bill(ledger_account.id, day, ledger_account.method, state, revision)
            return True

        usage = self._read_usage(ledger_account, day)
        known_bills = self._read_bills(ledger_account, day)
        estimator = self._estimator(ledger_account, day, usage, known_bills)
        valuation: DayValuation | None = None
        if bill and _is_final(ledger_account, day, now):
            billed = value_day(usage, bill, estimator.rates, evidence=estimator.evidence, factors=estimator.factors)
            complete_at = day + DAY
            if now < complete_at + MAX_WAIT:
                # A bill that counted as complete and is then lowered was corrected: it does not wait once more.
                was_complete = day < known_state.complete_at <= now or (
                    known_state.is_withdrawn and known_state.digest == state.digest
                )
                unchanged_since = day if was_complete else state.changed_at
                complete_at = bill_complete_at(
                    day, usage, billed, estimator.evidence, estimator.rates, estimator.whole_day, unchanged_since
                )
            state = replace(state, complete_at=complete_at)
            if complete_at <= now:
                evidence = self._learn_volume_tiers(
                    ledger_account, day, billed.bill_evidence, known_bills, estimator.rates
                )
                valuation = replace(billed, bill_evidence=evidence)
        if valuation is None:
            valuation = estimator.estimate(min(LAST_HOUR, (now - day) // HOUR))
        exported_estimate: int | None = None
        # The estimate of an older day was never exported.
        if valuation.billed and now - day < MAX_ESTIMATE_AGE:
            if bills_before.newest_first:
                estimator = self._estimator(ledger_account, day, usage, bills_before, estimator)
            exported_estimate = estimator.whole_day
        valued_day = ValuedDay(
            hours=_rows_by_hour(valuation),
            unpriced_tokens=valuation.unpriced_tokens,
            method=ledger_account.method,
            # A provider with a bill may have none for a final day, e.g. one without usage: that day stays open.
            billed=valuation.billed if ledger_account.bill_reports else _is_final(ledger_account, day, now),
            estimate=exported_estimate,
            bill_evidence=json.dumps(valuation.bill_evidence.to_plain()) if valuation.billed else "",
            bill_state=state,
            fixed_costs=_sum_fixed_costs(valuation),
        )
        self._ledger.costs.put(ledger_account.id, day, valued_day, revision, still_open=not ledger_account.days_close)
        return valuation.billed

    def _estimator(
        self,
        ledger_account: LedgerAccount,
        day: datetime,
        usage: Mapping[int, Sequence[Row]],
        known_bills: _KnownBills,
        similar: _DayEstimator | None = None,
    ) -> _DayEstimator:
        """Return the estimator of a day; `similar` itself where that has the same evidence."""
        if similar is not None and similar.known_bills == known_bills:
            return similar
        tiers = known_bills.volume_tiers
        list_prices = self._price_list(ledger_account.provider, day)
        return _DayEstimator(
            usage,
            known_bills,
            learned_rates(known_bills.restated_last, list_prices, ledger_account.negotiated_prices),
            price_factors(usage, tiers, self._month_tokens(ledger_account, day)) if tiers else {},
        )

    def _read_bills(self, ledger_account: LedgerAccount, before: datetime) -> _KnownBills:
        found = self._ledger.costs.bill_evidence(ledger_account.id, before, EVIDENCE_DAYS)
        stored = [_DatedEvidence(day.start, BillEvidence.from_plain(json.loads(day.text))) for day in found]
        evidence = [without_tiers(dated.evidence) for dated in stored]
        by_restatement = sorted(zip(found, evidence, strict=True), key=lambda pair: pair[0].is_restated)
        return _KnownBills(stored, evidence, [day for _, day in by_restatement])

    def _month_tokens(self, ledger_account: LedgerAccount, day: datetime) -> dict[str, int]:
        """Return model -> tokens from the beginning of a day's month up to the day."""
        reports = [report.name for report in ledger_account.usage_reports]
        tokens: dict[str, int] = {}
        month = TimeRange(day.replace(day=1), day)
        for labels, units in self._ledger.buckets.units(ledger_account.id, reports, month).items():
            if labels.meter in TOKEN_METERS:
                tokens[labels.model] = tokens.get(labels.model, 0) + units
        return tokens

    def _learn_volume_tiers(
        self,
        ledger_account: LedgerAccount,
        day: datetime,
        billed: BillEvidence,
        known_bills: _KnownBills,
        rates: Rates,
    ) -> BillEvidence:
        """Return the evidence of a billed day with the volume tiers that are known with its bill."""
        tiers = known_bills.volume_tiers
        if tiers:
            month_tokens = self._month_tokens(ledger_account, day)
            factors = {
                model: day_factor(tier, tokens_of(billed, model), month_tokens.get(model, 0))
                for model, tier in tiers.items()
            }
            with_tiers = replace(
                billed,
                volume_tiers={model: (tier.tokens, tier.factor) for model, tier in tiers.items()},
                price_factors={model: factor for model, factor in factors.items() if factor != 1},
            )
            if not any(is_contradicted(with_tiers, model, rates) for model in tiers):
                return with_tiers
        return self._find_volume_tiers(ledger_account, day, billed, known_bills)

    def _find_volume_tiers(
        self, ledger_account: LedgerAccount, day: datetime, billed: BillEvidence, known_bills: _KnownBills
    ) -> BillEvidence:
        """Return the evidence with the tiers whose volume was reached on the day before."""
        if len(known_bills.stored) < DAYS_OF_CROSSING - 1:
            return billed
        days = known_bills.stored[: DAYS_OF_CROSSING - 1]
        if [dated.day for dated in days] != [day - number * DAY for number in range(1, DAYS_OF_CROSSING)]:
            return billed
        if days[-1].day.month != day.month:
            return billed
        between, *before = (dated.evidence for dated in days)
        # Where a part of each day is free, the mean price varies with the usage.
        allowances = learn_allowances([billed, *(dated.evidence for dated in known_bills.stored)])
        tiers: dict[str, tuple[int, Fraction]] = {}
        for model in sorted({priced.model for priced in billed.priced_usage} - allowances.keys()):
            factor = learn_tier(billed, between, before, model)
            if factor is not None:
                month_tokens = self._month_tokens(ledger_account, days[0].day).get(model, 0)
                tiers[model] = tier_from_crossing(factor, between, before[0], model, month_tokens)
        price_factors = {model: factor for model, (_, factor) in tiers.items()}
        return replace(billed, volume_tiers=tiers, price_factors=price_factors) if tiers else billed

    def _read_usage(self, ledger_account: LedgerAccount, day: datetime) -> dict[int, list[Row]]:
        """Return hour 0..23 -> rows of all usage reports."""
        usage: dict[int, list[Row]] = {}
        for hour, rows in self._read_hours(ledger_account, ledger_account.usage_reports, day):
            usage.setdefault(hour, []).extend(rows)
        return usage

    def _read_bill(self, ledger_account: LedgerAccount, day: datetime) -> list[Row]:
        bill: list[Row] = []
        for _, rows in self._read_hours(ledger_account, ledger_account.bill_reports, day):
            bill.extend(rows)
        return bill

    def _read_hours(
        self, ledger_account: LedgerAccount, reports: Iterable[Report], day: datetime
    ) -> Iterator[tuple[int, list[Row]]]:
        for report in reports:
            yield from self._ledger.buckets.rows(ledger_account.id, report.name, day).items()


def _bill_state(bill: Sequence[Row], known: BillState, day: datetime, now: datetime) -> BillState:
    """Return the newest version of a day's bill; whether it is complete has not been judged.

    A bill that counted and then has no rows at all is more likely withheld than waived: it is kept until 72 hours
    later, when its absence counts as complete.
    """
    if not bill:
        if known.is_withdrawn:
            return known if known.complete_at > now else NO_BILL
        if known.digest and day < known.complete_at <= now:
            return BillState(known.digest, now, now + MAX_WAIT, is_withdrawn=True)
        return NO_BILL
    digest = blake2b(repr(sorted(bill, key=repr)).encode(), digest_size=8).hexdigest()
    return BillState(digest, known.changed_at if known.digest == digest else now)


def _sum_fixed_costs(valuation: DayValuation) -> dict[RowLabels, FixedCost]:
    if not valuation.fixed_costs:
        return {}
    nano_usd = dict.fromkeys(valuation.fixed_costs, 0)
    for (_, labels), cost in valuation.hours.items():
        if labels in nano_usd:
            nano_usd[labels] += cost
    return {
        RowLabels(COST, *labels): FixedCost(frequency, nano_usd[labels])
        for labels, frequency in valuation.fixed_costs.items()
    }


def _rows_by_hour(valuation: DayValuation) -> dict[int, list[Row]]:
    hours: dict[int, list[Row]] = {}
    for (hour, labels), nano_usd in valuation.hours.items():
        row = Row(COST, nano_usd, labels.workspace, labels.model, labels.tier, labels.api_key, labels.item)
        hours.setdefault(hour, []).append(row)
    return hours


def _is_final(ledger_account: LedgerAccount, day: datetime, now: datetime) -> bool:
    """Return whether days close and every report that makes the day final is past its lag."""
    if not ledger_account.days_close:
        return False
    return all(day + DAY + report.lag <= now for report in ledger_account.final_reports)
