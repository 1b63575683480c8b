"""A bill that lacks rows, or is still growing, does not count as the bill yet."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from exporter.model import DAY, HOUR, Row
from exporter.pricing.bill_completeness import MAX_WAIT, MIN_STABLE_TIME, bill_complete_at
from exporter.pricing.bill_evidence import BillEvidence
from exporter.pricing.learned_rates import learned_rates
from exporter.pricing.valuation import value_day
from tests.pricing.days import NO_RATES, Usage

START = datetime(2026, 11, 2, tzinfo=UTC)
END = START + DAY
CHANGED = END + timedelta(hours=9)
USAGE: Usage = {
    4: [Row("output", 100, "w", "m"), Row("uncached_input", 1000, "w", "m"), Row("output", 50, "v", "n")],
    5: [Row("cache_read", 10_000, "w", "free")],
}
OUTPUT = Row("output", 1_000_000, "w", "m")
INPUT = Row("uncached_input", 500_000, "w", "m")
OTHER = Row("output", 500_000, "v", "n")
STORAGE = Row("cost", 48_000, "w", item="storage")
WHOLE_BILL = (OUTPUT, INPUT, OTHER, STORAGE)


def _scale(rows: Sequence[Row], factor: float) -> list[Row]:
    return [Row(row.meter, round(row.value * factor), row.workspace, row.model, item=row.item) for row in rows]


def _evidence(days: int = 4, bill: Sequence[Row] = WHOLE_BILL) -> list[BillEvidence]:
    """Return the evidence of days with usage and bills like those of the day in question, but of other sizes."""
    evidence = []
    for number in range(days):
        usage = {
            hour: [Row(row.meter, row.value * (number + 2), row.workspace, row.model) for row in rows]
            for hour, rows in USAGE.items()
        }
        rows = [*_scale([row for row in bill if row.model], number + 2), *(row for row in bill if not row.model)]
        evidence.append(value_day(usage, rows, NO_RATES).bill_evidence)
    return evidence


def _complete_at(
    bill: Sequence[Row], evidence: list[BillEvidence], usage: Usage = USAGE, unchanged_since: datetime = CHANGED
) -> datetime:
    rates = learned_rates(evidence, NO_RATES)
    billed = value_day(usage, bill, rates, evidence=evidence)
    estimate = sum(value_day(usage, None, rates, evidence=evidence).hours.values())
    return bill_complete_at(START, usage, billed, evidence, rates, estimate, unchanged_since)


def test_a_bill_that_pays_for_everything_is_complete() -> None:
    """A bill as it is expected from earlier ones, or a higher one, counts at once."""
    assert _complete_at(WHOLE_BILL, _evidence()) == END
    assert _complete_at(_scale(WHOLE_BILL, 1.5), _evidence()) == END


def test_the_first_bill_is_taken_as_it_is() -> None:
    """Without earlier bills there is nothing to compare with."""
    assert _complete_at([OUTPUT], []) == END


@pytest.mark.parametrize("missing", WHOLE_BILL)
def test_a_bill_that_lacks_a_row_waits(missing: Row) -> None:
    """Usage, or a fee, that earlier bills have and this one lacks is awaited for 72 hours after the day."""
    assert _complete_at([row for row in WHOLE_BILL if row != missing], _evidence()) == END + MAX_WAIT


def test_usage_that_was_free_before_is_not_awaited() -> None:
    """The newest bill decides: usage for which it has no row is free."""
    later_free = [*_evidence(1, [OUTPUT, INPUT, STORAGE]), *_evidence(3)]
    assert _complete_at([OUTPUT, INPUT, STORAGE], later_free) == END


def test_a_few_cents_are_not_awaited() -> None:
    """A row of less than 0.5 % of the day may be missing."""
    usage = USAGE | {6: [Row("output", 99_900, "w", "m")]}
    assert _complete_at([Row("output", 1_000_000_000, "w", "m"), INPUT, STORAGE], _evidence(), usage) == END


def test_usage_in_a_new_workspace_is_awaited() -> None:
    """Where a workspace is on no bill yet, the account's bills decide whether its usage costs anything."""
    usage = USAGE | {6: [Row("output", 100, "new", "m")], 7: [Row("cache_read", 9000, "new", "free")]}
    assert _complete_at(WHOLE_BILL, _evidence(), usage) == END + MAX_WAIT
    assert _complete_at([*WHOLE_BILL, Row("output", 1_000_000, "new", "m")], _evidence(), usage) == END


def test_a_growing_bill_waits_until_it_is_stable() -> None:
    """A bill that is more than 2 % lower than expected counts after six hours without a change, 72 h at the latest."""
    assert _complete_at(_scale(WHOLE_BILL, 0.97), _evidence()) == CHANGED + MIN_STABLE_TIME
    assert _complete_at(_scale(WHOLE_BILL, 0.985), _evidence()) == END
    changed = END + MAX_WAIT - HOUR
    assert _complete_at(_scale(WHOLE_BILL, 0.5), _evidence(), unchanged_since=changed) == END + MAX_WAIT


def test_a_missing_credit_is_not_awaited() -> None:
    """A credit that ends makes the bill higher, and nothing is missing."""
    with_credit = [*WHOLE_BILL, Row("cost", -90_000, "w", item="credit")]
    assert _complete_at(WHOLE_BILL, _evidence(4, with_credit)) == END
