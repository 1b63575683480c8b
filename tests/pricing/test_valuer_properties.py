"""Whatever was told, in whatever order: a billed day is its newest bill, to the nano-dollar."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.ledger import Ledger
from exporter.ledger.series import Labels
from exporter.model import COST, DAY, HOUR, Bucket, Report, Row
from exporter.pricing.list_prices import list_rates
from exporter.pricing.valuer import Book, Books
from exporter.windows import Span

FIRST = datetime(2026, 11, 2, tzinfo=UTC)
DAYS = 3
NOW = FIRST + DAYS * DAY + 12 * HOUR
USE = Report("use", "usage", HOUR, HOUR, HOUR, DAY, timedelta(0), 30 * DAY)
BILL = Report("bill", "bill", DAY, HOUR, DAY, DAY, 8 * HOUR, 30 * DAY)

meters = st.sampled_from(["uncached_input", "output", "cache_read", "web_searches", "requests"])
names = st.sampled_from(["", "a", "b"])
models = st.sampled_from(["", "gpt-5-2025-08-07", "gpt-5", "nobody-knows"])
tiers = st.sampled_from(["", "standard", "batch"])
uses = st.builds(Row, meters, st.integers(0, 10**9), names, models, tiers)
charges = st.builds(
    Row, st.sampled_from(["output", COST, "web_searches"]), st.integers(-(10**9), 10**12), names, models, tiers
)
tellings = st.lists(
    st.one_of(
        st.tuples(st.just(USE), st.integers(0, DAYS * 24 - 1), st.lists(uses, max_size=4)),
        st.tuples(st.just(BILL), st.integers(0, DAYS - 1), st.lists(charges, max_size=4)),
        st.just(None),
    ),
    max_size=20,
)
Telling = tuple[Report, int, list[Row]]


class Account:
    """One account in a ledger of its own."""

    def __init__(self, folder: Path) -> None:
        self.ledger = Ledger(folder)
        self.book = Book(self.ledger.buckets.account("acme", "openai"), "openai", (USE, BILL))
        self.books = Books(self.ledger, list_rates)

    def tell(self, tellings: Iterable[Telling | None]) -> dict[datetime, list[Row]]:
        """Store tellings one by one, None being a valuation in between; return the newest bills."""
        bills: dict[datetime, list[Row]] = {}
        for telling in tellings:
            if telling is None:
                self.books.value(self.book, NOW)
                continue
            report, slot, rows = telling
            start = FIRST + slot * report.width
            bucket = Bucket(report.name, start, start + report.width, tuple(rows))
            self.ledger.buckets.put(self.book.number, report.name, Span(start, bucket.end), [bucket])
            if report is BILL:
                bills[start] = rows
        self.books.value(self.book, NOW)
        return bills

    def cost(self, day: datetime) -> dict[Labels, int]:
        """Return what a day costs, by labels."""
        return self.ledger.costs.total(self.book.number, Span(day, day + DAY))


@settings(max_examples=80, deadline=None)
@given(told=tellings)
def test_a_billed_day_is_its_newest_bill(tmp_path_factory: pytest.TempPathFactory, told: list[Telling | None]) -> None:
    """For any use, bills, order and valuations in between, each billed day's hours sum to its newest bill exactly."""
    account = Account(tmp_path_factory.mktemp("ledger"))
    bills = account.tell(told)
    for day, rows in bills.items():
        billed = {one.start: one.billed for one in account.ledger.costs.days(account.book.number, Span(day, day + DAY))}
        if rows:
            assert billed[day]
            assert sum(account.cost(day).values()) == sum(row.value for row in rows)
            for workspace in {row.workspace for row in rows}:
                of_bill = sum(row.value for row in rows if row.workspace == workspace)
                assert sum(nano for one, nano in account.cost(day).items() if one[1] == workspace) == of_bill
        else:
            assert not billed.get(day, False)
    account.ledger.close()


@settings(max_examples=40, deadline=None)
@given(told=tellings)
def test_telling_and_valuing_again_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, told: list[Telling | None]
) -> None:
    """The newest tellings told once more value no day again, and nothing was restated by it."""
    account = Account(tmp_path_factory.mktemp("ledger"))
    account.tell(told)
    newest = {(one[0].name, one[1]): one for one in told if one is not None}
    before = {day: account.cost(FIRST + day * DAY) for day in range(DAYS)}
    restated = account.ledger.costs.restated(account.book.number)

    for report, slot, rows in newest.values():
        start = FIRST + slot * report.width
        bucket = Bucket(report.name, start, start + report.width, tuple(rows))
        assert not account.ledger.buckets.put(account.book.number, report.name, Span(start, bucket.end), [bucket])
    assert not account.books.value(account.book, NOW)

    assert {day: account.cost(FIRST + day * DAY) for day in range(DAYS)} == before
    assert account.ledger.costs.restated(account.book.number) == restated
    account.ledger.close()


@settings(max_examples=40, deadline=None)
@given(told=tellings, rows=st.lists(charges, min_size=1, max_size=4))
def test_a_withdrawn_row_withdraws_its_money(
    tmp_path_factory: pytest.TempPathFactory, told: list[Telling | None], rows: list[Row]
) -> None:
    """A bill that loses a row loses exactly its money, and the loss is counted as restated."""
    account = Account(tmp_path_factory.mktemp("ledger"))
    account.tell([*told, (BILL, 0, [*rows, Row(COST, 12_345, "a")])])
    before, restated = sum(account.cost(FIRST).values()), account.ledger.costs.restated(account.book.number)

    account.tell([(BILL, 0, rows)])

    assert before - sum(account.cost(FIRST).values()) == 12_345
    assert account.ledger.costs.restated(account.book.number) - restated == 12_345
    account.ledger.close()
