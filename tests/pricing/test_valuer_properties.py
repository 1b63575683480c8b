"""For any updates in any order, a billed day is its newest bill, to the nano-USD."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.ledger import Ledger
from exporter.model import COST, DAY, HOUR, Bucket, Report, Row, RowLabels
from exporter.pricing.bill_completeness import MAX_WAIT
from exporter.pricing.list_prices import list_rates
from exporter.pricing.valuer import LedgerAccount, Valuer
from exporter.windows import TimeRange

FIRST = datetime(2026, 11, 2, tzinfo=UTC)
DAYS = 3
NOW = FIRST + DAYS * DAY + 12 * HOUR
USAGE_REPORT = Report("use", "usage", HOUR, HOUR, HOUR, DAY, timedelta(0), 30 * DAY)
BILL_REPORT = Report("bill", "bill", DAY, HOUR, DAY, DAY, 8 * HOUR, 30 * DAY)

NO_LABEL = st.just("")
meters = st.sampled_from(["uncached_input", "output", "cache_read", "web_searches", "requests"])
workspaces = st.sampled_from(["", "a", "b"])
models = st.sampled_from(["", "gpt-5-2025-08-07", "gpt-5", "nobody-knows"])
tiers = st.sampled_from(["", "standard", "batch"])
usage_rows = st.builds(Row, meters, st.integers(0, 10**9), workspaces, models, tiers, NO_LABEL, NO_LABEL)
bill_rows = st.builds(
    Row,
    st.sampled_from(["output", COST, "web_searches"]),
    st.integers(-(10**9), 10**12),
    workspaces,
    models,
    tiers,
    NO_LABEL,
    NO_LABEL,
)


class Update(NamedTuple):
    """A report's rows for one of its slots, numbered from FIRST on."""

    report: Report
    slot: int
    rows: list[Row]


update_lists = st.lists(
    st.one_of(
        st.builds(Update, st.just(USAGE_REPORT), st.integers(0, DAYS * 24 - 1), st.lists(usage_rows, max_size=4)),
        st.builds(Update, st.just(BILL_REPORT), st.integers(0, DAYS - 1), st.lists(bill_rows, max_size=4)),
        st.just(None),
    ),
    max_size=20,
)


class ValuedAccount:
    """One account in a ledger of its own."""

    def __init__(self, folder: Path) -> None:
        self.ledger = Ledger(folder)
        self.ledger_account = LedgerAccount(
            self.ledger.buckets.register_account("acme", "openai"), "openai", (USAGE_REPORT, BILL_REPORT)
        )
        self.valuer = Valuer(self.ledger, list_rates)

    def apply_updates(self, updates: Iterable[Update | None]) -> dict[datetime, list[Row]]:
        """Store updates in order, where None is a valuation in between; return the newest bills."""
        bills: dict[datetime, list[Row]] = {}
        for telling in updates:
            if telling is None:
                self.valuer.value_days(self.ledger_account, NOW)
                continue
            report, slot, rows = telling
            start = FIRST + slot * report.width
            bucket = Bucket(report.name, start, start + report.width, tuple(rows))
            self.ledger.buckets.put(self.ledger_account.id, report.name, TimeRange(start, bucket.end), [bucket])
            if report is BILL_REPORT:
                bills[start] = rows
        self.valuer.value_days(self.ledger_account, NOW)
        return bills

    def settle(self) -> None:
        """Value all days when every bill counts as complete."""
        self.valuer.value_days(self.ledger_account, NOW + MAX_WAIT)

    def cost_by_labels(self, day: datetime) -> dict[RowLabels, int]:
        """Return the cost of a day by labels."""
        return self.ledger.costs.total(self.ledger_account.id, TimeRange(day, day + DAY))


@settings(max_examples=80, deadline=None)
@given(updates=update_lists)
def test_a_billed_day_is_its_newest_bill(
    tmp_path_factory: pytest.TempPathFactory, updates: list[Update | None]
) -> None:
    """For any use, bills, order and valuations in between, each billed day's hours sum to its newest bill exactly."""
    account = ValuedAccount(tmp_path_factory.mktemp("ledger"))
    bills = account.apply_updates(updates)
    account.settle()
    for day, rows in bills.items():
        billed = {
            cost.start: cost.billed
            for cost in account.ledger.costs.days(account.ledger_account.id, TimeRange(day, day + DAY))
        }
        if rows:
            assert billed[day]
            assert sum(account.cost_by_labels(day).values()) == sum(row.value for row in rows)
            for workspace in {row.workspace for row in rows if all(row.workspace for row in rows)}:
                of_bill = sum(row.value for row in rows if row.workspace == workspace)
                costs = account.cost_by_labels(day).items()
                assert sum(nano_usd for labels, nano_usd in costs if labels.workspace == workspace) == of_bill
        else:
            assert not billed.get(day, False)
    account.ledger.close()


@settings(max_examples=40, deadline=None)
@given(updates=update_lists)
def test_storing_and_valuing_again_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, updates: list[Update | None]
) -> None:
    """Storing the newest buckets again values no day and restates nothing."""
    account = ValuedAccount(tmp_path_factory.mktemp("ledger"))
    account.apply_updates(updates)
    account.settle()
    newest = {(update.report.name, update.slot): update for update in updates if update is not None}
    before = {day: account.cost_by_labels(FIRST + day * DAY) for day in range(DAYS)}
    restated = account.ledger.costs.total_restatement(account.ledger_account.id)

    for report, slot, rows in newest.values():
        start = FIRST + slot * report.width
        bucket = Bucket(report.name, start, start + report.width, tuple(rows))
        assert not account.ledger.buckets.put(
            account.ledger_account.id, report.name, TimeRange(start, bucket.end), [bucket]
        )
    assert not account.valuer.value_days(account.ledger_account, NOW + MAX_WAIT)

    assert {day: account.cost_by_labels(FIRST + day * DAY) for day in range(DAYS)} == before
    assert account.ledger.costs.total_restatement(account.ledger_account.id) == restated
    account.ledger.close()


@settings(max_examples=40, deadline=None)
@given(updates=update_lists, rows=st.lists(bill_rows, min_size=1, max_size=4))
def test_a_withdrawn_row_withdraws_its_money(
    tmp_path_factory: pytest.TempPathFactory, updates: list[Update | None], rows: list[Row]
) -> None:
    """A bill that loses a row loses exactly its cost, and the loss is counted as restated."""
    account = ValuedAccount(tmp_path_factory.mktemp("ledger"))
    account.apply_updates([*updates, Update(BILL_REPORT, 0, [*rows, Row(COST, 12_345, "a")])])
    account.settle()
    before, restated = (
        sum(account.cost_by_labels(FIRST).values()),
        account.ledger.costs.total_restatement(account.ledger_account.id),
    )

    account.apply_updates([Update(BILL_REPORT, 0, rows)])

    assert before - sum(account.cost_by_labels(FIRST).values()) == 12_345
    assert account.ledger.costs.total_restatement(account.ledger_account.id) - restated == 12_345
    account.ledger.close()
