"""Days hour by hour, their versions, and a ledger opened for reading only."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest

from exporter.errors import LedgerError
from exporter.ledger import Ledger, LedgerLocation, ReportedSeries, ValuedDay
from exporter.model import COST, DAY, HOUR, Bucket, Row, RowLabels
from exporter.windows import TimeRange

DAY1 = datetime(2026, 3, 1, tzinfo=UTC)
LABELS = RowLabels("output", "w", "m", "", "", "")


def put_usage(ledger: Ledger, report: str, hour: int, value: int) -> None:
    """Tell an hour of a report of account 1."""
    span = TimeRange(DAY1 + hour * HOUR, DAY1 + (hour + 1) * HOUR)
    ledger.buckets.put(1, report, span, [Bucket(report, span.start, span.end, (Row("output", value, "w", "m"),))])


def put_cost(ledger: Ledger, day: datetime, nano: int) -> None:
    """Value a day of account 1."""
    valued_day = ValuedDay({RowLabels(COST, "w", "m"): {4: nano}}, {}, "by hand", billed=False)
    ledger.costs.put(1, day, valued_day, ledger.costs.revision(1, day))


def test_reports_are_added_hour_by_hour(ledger: Ledger) -> None:
    """The same series of several reports is summed hour by hour; other reports are left out."""
    ledger.buckets.register_account("a", "p")
    put_usage(ledger, "use", 0, 5)
    put_usage(ledger, "use", 3, 7)
    put_usage(ledger, "more", 3, 10)
    put_usage(ledger, "other", 3, 100)
    assert ledger.hours.units(1, ["use", "more"], DAY1) == {LABELS: [5, 0, 0, 17] + [0] * 20}
    assert ledger.hours.units(1, ["use", "more"], DAY1 + DAY) == {}


def test_days_are_read_by_series(ledger: Ledger) -> None:
    """Each series of a day has its hours in ascending order; days without rows are left out."""
    number = ledger.buckets.register_account("a", "p")
    for hour in (26, 3, 25, 0, 17):
        put_usage(ledger, "use", hour, 100 + hour)
    put_usage(ledger, "more", 2, 7)
    days = ledger.reported_days.read(number, ["use", "more"], TimeRange(DAY1, DAY1 + 3 * DAY))
    assert days == {
        DAY1: [ReportedSeries(LABELS, [0, 3, 17], [100, 103, 117]), ReportedSeries(LABELS, [2], [7])],
        DAY1 + DAY: [ReportedSeries(LABELS, [1, 2], [125, 126])],
    }


def test_where_one_report_keeps_only_the_sum_so_does_the_day(ledger: Ledger) -> None:
    """When only one of two reports of a day is rolled up, their sum has no hours."""
    ledger.buckets.register_account("a", "p")
    put_usage(ledger, "use", 2, 5)
    ledger.retention.apply(DAY1 + 10 * DAY, 5 * DAY, 1000 * DAY)
    assert ledger.hours.units(1, ["use"], DAY1) == {LABELS: [5]}
    put_usage(ledger, "more", 3, 10)
    assert ledger.hours.units(1, ["use", "more"], DAY1) == {LABELS: [15]}
    assert ledger.hours.units(1, ["more", "use"], DAY1) == {LABELS: [15]}


def test_a_rolled_cost_is_one_sum_and_is_not_rolled_again(ledger: Ledger) -> None:
    """A day's hours of cost become one sum; another round leaves them, and the version, as they are."""
    ledger.buckets.register_account("a", "p")
    put_cost(ledger, DAY1, 9)
    assert ledger.hours.cost(1, DAY1) == {(COST, "w", "m", "", "", ""): [0] * 4 + [9] + [0] * 19}
    for _ in range(2):
        ledger.retention.apply(DAY1 + 10 * DAY, 5 * DAY, 1000 * DAY)
        assert ledger.hours.cost(1, DAY1) == {(COST, "w", "m", "", "", ""): [9]}
        assert ledger.hours.version(1, DAY1) == 2


def test_a_version_grows_with_every_change_and_only_then(ledger: Ledger) -> None:
    """A changed bucket, a valuation and a roll-up change the version; an unchanged bucket does not."""
    ledger.buckets.register_account("a", "p")
    seen = [ledger.hours.version(1, DAY1)]
    for change in (
        lambda: put_usage(ledger, "use", 0, 5),
        lambda: put_usage(ledger, "use", 0, 6),
        lambda: put_cost(ledger, DAY1, 9),
        lambda: ledger.retention.apply(DAY1 + 10 * DAY, 5 * DAY, 1000 * DAY),
    ):
        change()
        seen.append(ledger.hours.version(1, DAY1))
    assert seen == sorted(set(seen))
    before = ledger.hours.version(1, DAY1 + 12 * DAY)
    put_usage(ledger, "use", 12 * 24, 5)
    put_usage(ledger, "use", 12 * 24, 5)
    assert ledger.hours.version(1, DAY1 + 12 * DAY) == before + 1
    assert ledger.hours.version(2, DAY1) == 0


def test_a_valuation_that_came_too_late_changes_nothing(ledger: Ledger) -> None:
    """A valuation of a day that has changed meanwhile changes neither its cost nor its version."""
    ledger.buckets.register_account("a", "p")
    before = ledger.costs.revision(1, DAY1)
    put_usage(ledger, "use", 0, 5)
    version = ledger.hours.version(1, DAY1)
    ledger.costs.put(1, DAY1, ValuedDay({RowLabels(COST): {4: 9}}, {}, "by hand", billed=False), before)
    assert ledger.hours.version(1, DAY1) == version
    assert ledger.hours.cost(1, DAY1) == {}


def test_a_day_under_continuous_ingest_has_a_cost(ledger: Ledger) -> None:
    """While a day changes, its cost is that of the known usage, and it has to be valued again."""
    ledger.buckets.register_account("a", "p")
    before = ledger.costs.revision(1, DAY1)
    put_usage(ledger, "use", 0, 5)
    valued_day = ValuedDay({RowLabels(COST): {4: 9}}, {}, "by hand", billed=False)
    ledger.costs.put(1, DAY1, valued_day, before, still_open=True)
    assert sum(map(sum, ledger.hours.cost(1, DAY1).values())) == 9
    assert ledger.costs.unvalued_days(1, "by hand") == [DAY1]


def test_days_and_labels_are_those_of_the_account(ledger: Ledger) -> None:
    """Known days within a time range are listed, and the labels of the given reports."""
    ledger.buckets.register_account("a", "p")
    for hour in (0, 24, 72):
        put_usage(ledger, "use", hour, 5)
    put_cost(ledger, DAY1, 9)
    put_usage(ledger, "bill", 0, 5)
    assert ledger.hours.days(1, TimeRange(DAY1 + DAY, DAY1 + 9 * DAY)) == [DAY1 + DAY, DAY1 + 3 * DAY]
    assert ledger.hours.days(1, TimeRange(DAY1, DAY1 + DAY)) == [DAY1]
    assert sorted(ledger.hours.labels(1, ["use"])) == [(COST, "w", "m", "", "", ""), LABELS]
    assert ledger.hours.labels(2, ["use"]) == []


def test_a_reader_works_beside_the_writer(location: LedgerLocation) -> None:
    """A ledger opened for reading takes no lock, sees committed data, and cannot write."""
    writer = Ledger(location)
    writer.buckets.register_account("a", "p")
    reader = Ledger(location, read_only=True)
    put_usage(writer, "use", 0, 5)
    assert reader.buckets.find_account("a", "p") == 1
    assert reader.buckets.find_account("a", "q") is None
    assert reader.hours.units(1, ["use"], DAY1)[LABELS][0] == 5
    with pytest.raises(LedgerError, match=r"readonly|for reading only"):
        put_usage(reader, "use", 0, 6)
    reader.close()
    writer.close()
    closed = Ledger(location, read_only=True)
    assert closed.hours.units(1, ["use"], DAY1)[LABELS][0] == 5
    closed.close()


def test_a_reader_makes_no_ledger_and_changes_none(tmp_path: Path) -> None:
    """A missing ledger, or one of an older or newer release, is rejected with advice."""
    with pytest.raises(LedgerError, match=r"There is no ledger in .* --storage\.path"):
        Ledger(tmp_path, read_only=True)
    assert list(tmp_path.iterdir()) == []
    Ledger(tmp_path).close()
    for version, message in ((0, "written by an older .* Start this release's `run`"), (99, "written by a newer")):
        with sqlite3.connect(tmp_path / "ledger.db") as db:
            db.execute(f"PRAGMA user_version = {version}")
        db.close()
        with pytest.raises(LedgerError, match=message):
            Ledger(tmp_path, read_only=True)
