"""Keeps the costs in the ledger current: finds the days to value, values them and stores their hours.

A day is valued again when its buckets have changed, when its bill has become final or complete, when the method has
changed (a new price list or other negotiated prices), and, while it is open, whenever a bill brings new evidence for
its rates.
"""

from __future__ import annotations

import json
from bisect import bisect_left, insort
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from fractions import Fraction
from functools import cached_property
from hashlib import blake2b
from importlib.metadata import version

from exporter.ledger import (
    NO_BILL,
    BillState,
    DayState,
    FixedCost,
    Ledger,
    ReportedSeries,
    RevisedDay,
    StoredEvidence,
    ValuedDay,
)
from exporter.model import COST, DAY, HOUR, TOKEN_METERS, Report, Row, RowLabels
from exporter.pricing.bill_completeness import MAX_WAIT, bill_complete_at
from exporter.pricing.bill_evidence import BillEvidence
from exporter.pricing.free_allowances import learn_allowances
from exporter.pricing.learned_rates import NegotiatedPrice, learned_rates
from exporter.pricing.list_prices import Rates
from exporter.pricing.usage import LAST_HOUR, DayUsage, UsageSeries
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

MAX_DAYS_AT_ONCE = 8
"""Days that are read and stored at once: reading and committing every day by itself takes a third of a first poll's
valuation. More would only need more memory, 24 values of each series of each day."""

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


@dataclass(frozen=True, slots=True)
class _BilledDay:
    """The evidence of a billed day."""

    day: datetime
    evidence: BillEvidence
    without_tiers: BillEvidence
    """The same as if there were no volume tiers."""
    is_restated: bool


@dataclass(frozen=True, slots=True)
class _KnownBills:
    """The newest billed days before a day, newest first."""

    days: Sequence[_BilledDay] = ()

    @property
    def newest_first(self) -> Sequence[BillEvidence]:
        """Their evidence as if there were no volume tiers."""
        return [billed.without_tiers for billed in self.days]

    @property
    def restated_last(self) -> Sequence[BillEvidence]:
        """The order in which rates are learned: a single corrected day must not win over others that agree."""
        return [billed.without_tiers for billed in sorted(self.days, key=lambda billed: billed.is_restated)]

    @property
    def volume_tiers(self) -> dict[str, VolumeTier]:
        """Model -> its volume tier, as known with the newest bill."""
        tiers = self.days[0].evidence.volume_tiers if self.days else {}
        return {model: VolumeTier(*tier) for model, tier in tiers.items()}


class _BillHistory:
    """The evidence of an account's billed days, decoded once for all days that are valued in one run."""

    def __init__(self, stored: Collection[StoredEvidence]) -> None:
        self._days = sorted(evidence.start for evidence in stored)
        self._stored = {evidence.start: evidence for evidence in stored}
        self._decoded: dict[datetime, _BilledDay] = {}

    def before(self, day: datetime) -> _KnownBills:
        """Return the newest billed days before a day."""
        end = bisect_left(self._days, day)
        newest = self._days[max(0, end - EVIDENCE_DAYS) : end]
        return _KnownBills([self._decode(known) for known in reversed(newest)])

    def replace(self, day: datetime, stored: StoredEvidence | None) -> None:
        """Replace the evidence of a day that was valued; None where it is not billed."""
        self._decoded.pop(day, None)
        if stored is None:
            if self._stored.pop(day, None) is not None:
                self._days.remove(day)
            return
        if day not in self._stored:
            insort(self._days, day)
        self._stored[day] = stored

    def _decode(self, day: datetime) -> _BilledDay:
        decoded = self._decoded.get(day)
        if decoded is None:
            stored = self._stored[day]
            evidence = BillEvidence.from_plain(json.loads(stored.text))
            decoded = _BilledDay(day, evidence, without_tiers(evidence), stored.is_restated)
            self._decoded[day] = decoded
        return decoded


@dataclass(frozen=True)
class _DayEstimator:
    """Estimates the value of a day, of which no bill is used."""

    usage: DayUsage
    known_bills: _KnownBills
    rates: Rates
    factors: PriceFactors

    @cached_property
    def evidence(self) -> Sequence[BillEvidence]:
        """The evidence of the newest billed days before this one, newest first."""
        return self.known_bills.newest_first

    def estimate(self, last_hour: int = LAST_HOUR) -> DayValuation:
        """Value the day up to and including an hour."""
        return value_day(self.usage, None, self.rates, last_hour, self.evidence, self.factors)

    @cached_property
    def whole_day(self) -> int:
        """The estimate of all 24 hours in nano-USD."""
        return self.estimate().total


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
        return _ValuationRun(self._ledger, self._price_list, ledger_account, now).value_days(hour_changed=hour_changed)


class _ValuationRun:
    """One valuation of all days of an account that need it."""

    def __init__(self, ledger: Ledger, price_list: PriceList, ledger_account: LedgerAccount, now: datetime) -> None:
        self._ledger = ledger
        self._price_list = price_list
        self._account = ledger_account
        self._now = now
        self._bills = _BillHistory(())
        self._valued: dict[datetime, RevisedDay] = {}
        """Days that are valued and not stored yet."""

    def value_days(self, *, hour_changed: bool) -> bool:
        """Value every day that needs it; return whether any day changed or became final."""
        costs, number, now = self._ledger.costs, self._account.id, self._now
        days = {
            *costs.unvalued_days(number, self._account.method),
            *self._newly_final_days(),
            *costs.withdrawn_days(number, now),
        }
        if hour_changed and self._has_unattributed_costs():
            days.update(self._open_days())
        if not days:
            return False

        first_day = min(days)
        self._bills = _BillHistory(
            [
                *costs.bill_evidence_before(number, first_day, EVIDENCE_DAYS),
                *costs.bill_evidence(number, TimeRange(first_day, now)),
            ]
        )
        final_days = sorted(day for day in days if self._is_final(day))
        # Looked up before any day is valued. The error of a day's estimate is that of the estimate that was exported: a
        # bill that arrives together with this day's must not improve it in hindsight.
        bills_before = {day: self._bills.before(day) for day in final_days if now - day < MAX_ESTIMATE_AGE}
        billed_days = self._value(final_days, bills_before)

        remaining = days.difference(final_days)
        if billed_days:
            later_days = (day for day in costs.unbilled_days(number, billed_days[0]) if day < now)
            remaining.update(set(later_days).difference(final_days))
        self._value(sorted(remaining), {})
        return True

    def _newly_final_days(self) -> Sequence[datetime]:
        """Return the days whose bill has become final or complete by the passing of time alone."""
        since = days_back(self._now, DAYS_EXPORTED)
        reports = [report.name for report in self._account.final_reports]
        reported_days = self._ledger.buckets.days(self._account.id, reports, since)
        unbilled_days = reported_days.difference(
            self._ledger.costs.billed_days(self._account.id, since),
            self._ledger.costs.incomplete_days(self._account.id, self._now),
        )
        return [day for day in unbilled_days if self._is_final(day)]

    def _has_unattributed_costs(self) -> bool:
        stored = self._ledger.costs.bill_evidence_before(self._account.id, self._now, EVIDENCE_DAYS)
        known_bills = _BillHistory(stored).before(self._now)
        return any(evidence.unattributed_costs for evidence in known_bills.newest_first)

    def _open_days(self) -> Iterator[datetime]:
        """Yield the days after the newest billed one that usage reports cover, with usage or without."""
        billed_days = self._ledger.costs.billed_days(self._account.id, days_back(self._now, DAYS_EXPORTED))
        if not billed_days:
            return iter(())
        coverages = (
            self._ledger.buckets.coverage(self._account.id, report.name) for report in self._account.usage_reports
        )
        covered_until = max((coverage.until for coverage in coverages if coverage is not None), default=self._now)
        return slots(billed_days[-1] + DAY, covered_until, DAY)

    def _value(self, days: Sequence[datetime], bills_before: Mapping[datetime, _KnownBills]) -> list[datetime]:
        """Value days, oldest first, and store them; return those that count as billed.

        `bills_before` are those that were known before any bill of this run, by day.
        """
        billed_days = []
        for batch in _consecutive_days(days):
            time_range = TimeRange(batch[0], batch[-1] + DAY)
            # Read before the rows: if a day changes in between, `put_days` notices it by the revision.
            states = self._ledger.costs.states(self._account.id, time_range)
            usage = self._read(self._account.usage_reports, time_range)
            bills = self._read(self._account.bill_reports, time_range)
            for day in batch:
                day_usage = DayUsage([UsageSeries(*reported) for reported in usage.get(day, ())])
                bill = _bill_rows(bills.get(day, ()))
                if self._value_day(day, states.get(day, DayState()), day_usage, bill, bills_before.get(day)):
                    billed_days.append(day)
            self._store()
        return billed_days

    def _read(self, reports: Sequence[Report], time_range: TimeRange) -> Mapping[datetime, Sequence[ReportedSeries]]:
        return self._ledger.reported_days.read(self._account.id, [report.name for report in reports], time_range)

    def _store(self) -> None:
        """Store the days that are valued; those of which the buckets changed meanwhile stay unvalued."""
        if self._valued:
            self._ledger.costs.put_days(self._account.id, self._valued, still_open=not self._account.days_close)
            self._valued = {}

    def _value_day(
        self,
        day: datetime,
        known: DayState,
        usage: DayUsage,
        bill: Sequence[Row],
        bills_before: _KnownBills | None,
    ) -> bool:
        """Value one day; return whether it counts as billed."""
        now = self._now
        state = _bill_state(bill, known.bill_state, day, now)
        if state.is_withdrawn:
            self._ledger.costs.keep_bill(self._account.id, day, self._account.method, state, known.revision)
            return True

        known_bills = self._bills.before(day)
        estimator = self._estimator(day, usage, known_bills)
        valuation: DayValuation | None = None
        if bill and self._is_final(day):
            billed = value_day(usage, bill, estimator.rates, evidence=estimator.evidence, factors=estimator.factors)
            complete_at = day + DAY
            if now < complete_at + MAX_WAIT:
                # A bill that counted as complete and is then lowered was corrected: it does not wait once more.
                was_complete = day < known.bill_state.complete_at <= now or (
                    known.bill_state.is_withdrawn and known.bill_state.digest == state.digest
                )
                unchanged_since = day if was_complete else state.changed_at
                complete_at = bill_complete_at(
                    day, usage, billed, estimator.evidence, estimator.rates, estimator.whole_day, unchanged_since
                )
            state = replace(state, complete_at=complete_at)
            if complete_at <= now:
                evidence = self._learn_volume_tiers(day, billed.bill_evidence, known_bills, estimator.rates)
                valuation = replace(billed, bill_evidence=evidence)
        if valuation is None:
            valuation = estimator.estimate(min(LAST_HOUR, (now - day) // HOUR))
        exported_estimate: int | None = None
        # The estimate of an older day was never exported.
        if valuation.billed and now - day < MAX_ESTIMATE_AGE:
            if bills_before is not None and bills_before.days:
                estimator = self._estimator(day, usage, bills_before, estimator)
            exported_estimate = estimator.whole_day
        valued_day = ValuedDay(
            costs={RowLabels(COST, *labels): by_hour for labels, by_hour in valuation.costs.items()},
            unpriced_tokens=valuation.unpriced_tokens,
            method=self._account.method,
            # A provider with a bill may have none for a final day, e.g. one without usage: that day stays open.
            billed=valuation.billed if self._account.bill_reports else self._is_final(day),
            estimate=exported_estimate,
            bill_evidence=json.dumps(valuation.bill_evidence.to_plain()) if valuation.billed else "",
            bill_state=state,
            fixed_costs=_sum_fixed_costs(valuation),
        )
        self._valued[day] = RevisedDay(valued_day, known.revision)
        self._update_bills(day, valued_day, known)
        return valuation.billed

    def _update_bills(self, day: datetime, valued_day: ValuedDay, known: DayState) -> None:
        """Let the days after it be valued with a day's evidence."""
        stored: StoredEvidence | None = None
        if valued_day.bill_evidence:
            stored = StoredEvidence(day, valued_day.bill_evidence, is_restated=False)
            if known.was_billed:
                # Whether the bill was changed noticeably is known once its sum was compared with that before.
                self._store()
                stored = next(iter(self._ledger.costs.bill_evidence(self._account.id, TimeRange(day, day + DAY))), None)
        self._bills.replace(day, stored)

    def _estimator(
        self,
        day: datetime,
        usage: DayUsage,
        known_bills: _KnownBills,
        similar: _DayEstimator | None = None,
    ) -> _DayEstimator:
        """Return the estimator of a day; `similar` itself where that has the same evidence."""
        if similar is not None and similar.known_bills == known_bills:
            return similar
        tiers = known_bills.volume_tiers
        list_prices = self._price_list(self._account.provider, day)
        return _DayEstimator(
            usage,
            known_bills,
            learned_rates(known_bills.restated_last, list_prices, self._account.negotiated_prices),
            price_factors(usage, tiers, self._month_tokens(day)) if tiers else {},
        )

    def _month_tokens(self, day: datetime) -> dict[str, int]:
        """Return model -> tokens from the beginning of a day's month up to the day."""
        reports = [report.name for report in self._account.usage_reports]
        tokens: dict[str, int] = {}
        month = TimeRange(day.replace(day=1), day)
        for labels, units in self._ledger.buckets.units(self._account.id, reports, month).items():
            if labels.meter in TOKEN_METERS:
                tokens[labels.model] = tokens.get(labels.model, 0) + units
        return tokens

    def _learn_volume_tiers(
        self, day: datetime, billed: BillEvidence, known_bills: _KnownBills, rates: Rates
    ) -> BillEvidence:
        """Return the evidence of a billed day with the volume tiers that are known with its bill."""
        tiers = known_bills.volume_tiers
        if tiers:
            month_tokens = self._month_tokens(day)
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
        return self._find_volume_tiers(day, billed, known_bills)

    def _find_volume_tiers(self, day: datetime, billed: BillEvidence, known_bills: _KnownBills) -> BillEvidence:
        """Return the evidence with the tiers whose volume was reached on the day before."""
        if len(known_bills.days) < DAYS_OF_CROSSING - 1:
            return billed
        days = known_bills.days[: DAYS_OF_CROSSING - 1]
        if [dated.day for dated in days] != [day - number * DAY for number in range(1, DAYS_OF_CROSSING)]:
            return billed
        if days[-1].day.month != day.month:
            return billed
        between, *before = (dated.evidence for dated in days)
        # Where a part of each day is free, the mean price varies with the usage.
        allowances = learn_allowances([billed, *(dated.evidence for dated in known_bills.days)])
        tiers: dict[str, tuple[int, Fraction]] = {}
        for model in sorted({priced.model for priced in billed.priced_usage} - allowances.keys()):
            factor = learn_tier(billed, between, before, model)
            if factor is not None:
                month_tokens = self._month_tokens(days[0].day).get(model, 0)
                tiers[model] = tier_from_crossing(factor, between, before[0], model, month_tokens)
        price_factors = {model: factor for model, (_, factor) in tiers.items()}
        return replace(billed, volume_tiers=tiers, price_factors=price_factors) if tiers else billed

    def _is_final(self, day: datetime) -> bool:
        """Return whether days close and every report that makes the day final is past its lag."""
        if not self._account.days_close:
            return False
        return all(day + DAY + report.lag <= self._now for report in self._account.final_reports)


def _consecutive_days(days: Sequence[datetime]) -> Iterator[Sequence[datetime]]:
    """Yield days, which are sorted, in parts without a gap."""
    part: list[datetime] = []
    for day in days:
        if part and (day != part[-1] + DAY or len(part) == MAX_DAYS_AT_ONCE):
            yield part
            part = []
        part.append(day)
    if part:
        yield part


def _bill_rows(reported: Sequence[ReportedSeries]) -> list[Row]:
    return [
        Row(labels.meter, value, labels.workspace, labels.model, labels.tier, labels.api_key, labels.item)
        for labels, _, values in reported
        for value in values
    ]


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
    # Equal to `repr` of the sorted list, and each row is formatted once.
    text = f"[{', '.join(sorted(map(repr, bill)))}]"
    digest = blake2b(text.encode(), digest_size=8).hexdigest()
    return BillState(digest, known.changed_at if known.digest == digest else now)


def _sum_fixed_costs(valuation: DayValuation) -> dict[RowLabels, FixedCost]:
    return {
        RowLabels(COST, *labels): FixedCost(frequency, sum(valuation.costs.get(labels, {}).values()))
        for labels, frequency in valuation.fixed_costs.items()
    }
