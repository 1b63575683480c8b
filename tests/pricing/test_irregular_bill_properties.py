"""Whatever a provider answers with before a bill is final, settled days are the bill and steady usage is no spike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.config.configuration import Account
from exporter.ledger import Ledger
from exporter.model import DAY, HOUR, NANO, Bucket, Report, Row
from exporter.polling.account_state import AccountConfig, AccountState
from exporter.pricing.bill_completeness import MAX_WAIT
from exporter.pricing.list_prices import list_rates
from exporter.pricing.valuer import LedgerAccount, Valuer
from exporter.snapshot.account_snapshot import AccountSnapshot
from exporter.snapshot.builder import SnapshotBuilder
from exporter.snapshot.source import LedgerSource
from exporter.windows import TimeRange

FIRST = datetime(2026, 11, 2, tzinfo=UTC)
HISTORY_DAYS = 6
"""Days with ordinary bills before the days with irregular ones: enough for baselines and rates."""
IRREGULAR_DAYS = 4
USAGE_REPORT = Report("use", "usage", HOUR, HOUR, HOUR, DAY, timedelta(0), 40 * DAY)
BILL_REPORT = Report("bill", "bill", DAY, HOUR, DAY, DAY, 8 * HOUR, 40 * DAY)
VALUATION_HOURS = (3, 9, 14, 20, 24)
"""Hours of a day at which its predecessors' bills are answered, and everything is valued."""

USAGE = [Row("output", 90_000, "a", "m"), Row("uncached_input", 400_000, "a", "m"), Row("output", 50_000, "b", "n")]
"""The usage of every hour; the last hours of the day have none."""
BILL = (
    Row("output", 20 * NANO, "a", "m"),
    Row("uncached_input", 9 * NANO, "a", "m"),
    Row("output", 7 * NANO, "b", "n"),
    Row("cost", 2 * NANO + 1, "b", item="storage"),
)
ACTIVE_HOURS = 20


class BillVersion(NamedTuple):
    """A version of a day's bill, relative to the ordinary one."""

    rows: frozenset[int]
    """Indexes of the rows that are there."""
    factor: float
    """Of every amount."""
    one_time_usd: int
    """A charge or credit in workspace a; 0 where there is none."""

    def to_rows(self) -> list[Row]:
        """Return the rows of this version."""
        rows = [
            Row(row.meter, round(row.value * self.factor), row.workspace, row.model, item=row.item)
            for number, row in enumerate(BILL)
            if number in self.rows
        ]
        if self.one_time_usd:
            rows.append(Row("cost", self.one_time_usd * NANO, "a", item="one-time"))
        return rows


all_rows = frozenset(range(len(BILL)))
versions = st.builds(
    BillVersion,
    st.one_of(st.just(all_rows), st.frozensets(st.sampled_from(sorted(all_rows)))),
    st.sampled_from([0.3, 0.7, 0.95, 1.0, 1.0, 1.0, 1.2, 1.7]),
    st.sampled_from([0, 0, 0, 500, 30, -15]),
)
early_versions = versions.map(lambda version: version._replace(one_time_usd=min(0, version.one_time_usd)))
final_versions = st.builds(
    BillVersion, st.just(all_rows), st.sampled_from([0.8, 0.95, 1.0, 1.0, 1.2, 1.5]), st.sampled_from([0, 0, -15])
)
"""A price that doubles is a higher cost of the same usage, and is one of the things that a spike alert is for."""


def _days(answers: st.SearchStrategy[list[BillVersion]]) -> st.SearchStrategy[list[list[BillVersion]]]:
    """Return day -> the versions of its bill in the order in which the provider answers with them."""
    return st.lists(answers, min_size=IRREGULAR_DAYS, max_size=IRREGULAR_DAYS)


def _charge_once(bills: list[list[BillVersion]], charged_day: int) -> list[list[BillVersion]]:
    """Add a charge of 500 USD to every version of one day's bill."""
    return [
        [answer._replace(one_time_usd=500) for answer in answers] if day == charged_day else answers
        for day, answers in enumerate(bills)
    ]


class SteadyAccount:
    """An account whose usage is the same every day, with a ledger of its own."""

    def __init__(self, folder: Path) -> None:
        self.ledger = Ledger(folder)
        number = self.ledger.buckets.register_account("acme", "openai")
        self.ledger_account = LedgerAccount(number, "openai", (USAGE_REPORT, BILL_REPORT))
        self.valuer = Valuer(self.ledger, list_rates)
        account = Account(
            name="acme",
            provider="openai",
            api_key_env="KEY",
            poll_interval=HOUR,
            history=40 * DAY,
            max_series=100,
            timeout=HOUR,
        )
        self.view = AccountState(AccountConfig(account, self.ledger_account)).view()
        self.builder = SnapshotBuilder()

    def put_usage(self, since: datetime, until: datetime) -> None:
        """Store the usage of whole hours."""
        hours = [since + number * HOUR for number in range((until - since) // HOUR)]
        buckets = [Bucket("use", hour, hour + HOUR, tuple(USAGE) if hour.hour < ACTIVE_HOURS else ()) for hour in hours]
        self.ledger.buckets.put(self.ledger_account.id, "use", TimeRange(since, until), buckets)

    def put_bill(self, day: datetime, rows: Sequence[Row]) -> None:
        """Store a version of a day's bill."""
        bucket = Bucket("bill", day, day + DAY, tuple(rows))
        self.ledger.buckets.put(self.ledger_account.id, "bill", TimeRange(day, day + DAY), [bucket])

    def value(self, now: datetime) -> None:
        """Value all days."""
        self.valuer.value_days(self.ledger_account, now, hour_changed=True)

    def build_snapshot(self, now: datetime) -> AccountSnapshot:
        """Return the snapshot of the valued days."""
        return self.builder.build(self.view, LedgerSource(self.ledger, self.ledger_account), (), now)


def _play(
    account: SteadyAccount,
    bills: Sequence[Sequence[BillVersion]],
    on_valued: Callable[[datetime], None] = lambda _: None,
) -> None:
    """Play ordinary days and then the irregular days, with a call after each valuation of the latter."""
    start = FIRST + HISTORY_DAYS * DAY
    account.put_usage(FIRST, start)
    for number in range(HISTORY_DAYS - 1):
        account.put_bill(FIRST + number * DAY, BILL)
    account.value(start)
    account.put_bill(start - DAY, BILL)
    until = start
    for number in range(len(bills) + 4):
        day = start + number * DAY
        for step, hour in enumerate(VALUATION_HOURS):
            now = day + hour * HOUR
            account.put_usage(until, now)
            until = now
            for billed, answers in enumerate(bills):
                # A day's versions are answered one by one from the next day on; the last one stays.
                answer = (number - billed - 1) * len(VALUATION_HOURS) + step
                if 0 <= answer < len(answers):
                    account.put_bill(start + billed * DAY, answers[answer].to_rows())
            account.value(now)
            on_valued(now)
    account.value(until + MAX_WAIT)


@settings(max_examples=25, deadline=None)
@given(bills=_days(st.lists(versions, min_size=1, max_size=6)))
def test_settled_days_are_the_bill(tmp_path_factory: pytest.TempPathFactory, bills: list[list[BillVersion]]) -> None:
    """After partial, growing, emptied, restated and one-time bills, each settled day is its newest bill exactly."""
    account = SteadyAccount(tmp_path_factory.mktemp("ledger"))
    _play(account, bills)
    start = FIRST + HISTORY_DAYS * DAY
    days = {
        day.start: day
        for day in account.ledger.costs.days(account.ledger_account.id, TimeRange(FIRST, start + 9 * DAY))
    }
    for number, answers in enumerate(bills):
        rows = answers[-1].to_rows()
        day = days[start + number * DAY]
        assert day.billed == bool(rows)
        if rows:
            assert day.cost == sum(row.value for row in rows)
    account.ledger.close()


@settings(max_examples=25, deadline=None)
@given(
    bills=_days(st.builds(lambda early, final: [*early, final], st.lists(early_versions, max_size=5), final_versions)),
    charged_day=st.integers(0, IRREGULAR_DAYS),
)
def test_steady_usage_is_never_a_spike(
    tmp_path_factory: pytest.TempPathFactory, bills: list[list[BillVersion]], charged_day: int
) -> None:
    """No condition of a spike alert is met by any version of a bill whose final prices are less than doubled."""
    account = SteadyAccount(tmp_path_factory.mktemp("ledger"))

    def check_signals(now: datetime) -> None:
        snapshot = account.build_snapshot(now)
        for signals in snapshot.signals:
            this_hour = snapshot.hourly.cost_at(signals.workspace, snapshot.time.replace(minute=0))
            assert signals.cost is not None
            assert signals.this_hour_cost is not None
            assert not signals.is_spike, (snapshot.time, signals)
            assert this_hour <= signals.this_hour_cost.upper_bound, (snapshot.time, signals)
            assert not signals.excess, (snapshot.time, signals)

    _play(account, _charge_once(bills, charged_day), check_signals)
    account.ledger.close()


def test_a_withdrawn_bill_counts_for_three_days(tmp_path: Path) -> None:
    """A bill that is answered without rows is kept; after 72 hours its day is estimated, and billed when it is back."""
    account = SteadyAccount(tmp_path)
    day, now = FIRST, FIRST + 2 * DAY
    account.put_usage(FIRST, now)
    account.put_bill(day, BILL)

    def is_billed(at: datetime) -> bool:
        account.value(at)
        (cost,) = account.ledger.costs.days(account.ledger_account.id, TimeRange(day, day + DAY))
        assert not cost.billed or cost.cost == sum(row.value for row in BILL)
        return cost.billed

    assert is_billed(now)
    account.put_bill(day, [])
    assert is_billed(now + HOUR)
    assert is_billed(now + HOUR + MAX_WAIT - timedelta(seconds=1))
    assert not is_billed(now + HOUR + MAX_WAIT)
    account.put_bill(day, BILL)
    assert is_billed(now + 2 * HOUR + MAX_WAIT)
    account.ledger.close()
