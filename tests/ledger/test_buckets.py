"""The newest version of a bucket is kept; storing it again changes nothing."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporter.ledger import DaysRead, Ledger, LedgerLocation
from exporter.model import DAY, HOUR, Bucket, Row, RowLabels
from exporter.windows import TimeRange

DAY1 = datetime(2026, 3, 1, tzinfo=UTC)
ALL_TIME = TimeRange(DAY1 - 100 * DAY, DAY1 + 100 * DAY)


def make_bucket(hour: int, *rows: Row) -> Bucket:
    """One hour of the report `use`."""
    return Bucket("use", DAY1 + hour * HOUR, DAY1 + (hour + 1) * HOUR, rows)


def hour_range(first: int, last: int) -> TimeRange:
    """The hours [first, last)."""
    return TimeRange(DAY1 + first * HOUR, DAY1 + last * HOUR)


def sum_units(ledger: Ledger, number: int) -> dict[RowLabels, int]:
    """Every series with its sum over all time."""
    return ledger.buckets.units(number, ["use"], ALL_TIME)


def test_a_bucket_replaces_the_whole_bucket(ledger: Ledger) -> None:
    """A row that the provider moved to another model vanishes from the old one."""
    number = ledger.buckets.register_account("a", "p")
    ledger.buckets.put(
        number, "use", hour_range(0, 1), [make_bucket(0, Row("output", 5, model="m"), Row("output", 7, model="n"))]
    )
    ledger.buckets.put(number, "use", hour_range(0, 1), [make_bucket(0, Row("output", 12, model="n"))])

    assert sum_units(ledger, number) == {("output", "", "n", "", "", ""): 12}


def test_storing_twice_changes_nothing(ledger: Ledger) -> None:
    """The same bucket stored again changes no day, in any order of its rows."""
    number = ledger.buckets.register_account("a", "p")
    rows = (Row("output", 5, model="m"), Row("output", 7, model="n"))

    assert ledger.buckets.put(number, "use", hour_range(0, 1), [make_bucket(0, *rows)]) == {DAY1}
    assert ledger.buckets.put(number, "use", hour_range(0, 1), [make_bucket(0, *reversed(rows))]) == frozenset()


def test_rows_with_the_same_labels_are_added(ledger: Ledger) -> None:
    """Two rows of one bucket that differ in nothing that is kept count both."""
    number = ledger.buckets.register_account("a", "p")
    ledger.buckets.put(number, "use", hour_range(0, 1), [make_bucket(0, Row("output", 5), Row("output", 7))])

    assert sum(sum_units(ledger, number).values()) == 12


def test_an_emptied_bucket_withdraws_its_rows(ledger: Ledger) -> None:
    """A bucket that becomes empty removes its rows, and its day has changed."""
    number = ledger.buckets.register_account("a", "p")
    ledger.buckets.put(number, "use", hour_range(0, 1), [make_bucket(0, Row("output", 5))])

    assert ledger.buckets.put(number, "use", hour_range(0, 1), [make_bucket(0)]) == {DAY1}
    assert sum_units(ledger, number) == {}


def test_a_gauge_meter_is_stored_as_its_largest_hour(ledger: Ledger) -> None:
    """Bytes are not summed over hours: the largest hour is returned."""
    number = ledger.buckets.register_account("a", "p")
    buckets = [make_bucket(hour, Row("bytes", 10 + hour)) for hour in range(3)]
    ledger.buckets.put(number, "use", hour_range(0, 3), buckets)

    assert list(sum_units(ledger, number).values()) == [12]


def test_coverage_never_hides_a_gap(ledger: Ledger) -> None:
    """Spans that touch are joined; one that does not touch begins a new coverage."""
    number = ledger.buckets.register_account("a", "p")
    for first, last in ((5, 8), (8, 9), (3, 5)):
        ledger.buckets.put(number, "use", hour_range(first, last), [])
    joined = ledger.buckets.coverage(number, "use")
    assert joined is not None
    assert (joined.since, joined.until) == (DAY1 + 3 * HOUR, DAY1 + 9 * HOUR)

    ledger.buckets.put(number, "use", hour_range(20, 22), [])
    apart = ledger.buckets.coverage(number, "use")
    assert apart is not None
    assert apart.since == DAY1 + 20 * HOUR


def test_what_was_stored_survives_a_restart(location: LedgerLocation) -> None:
    """A ledger opened again knows buckets, coverage and names."""
    first = Ledger(location)
    number = first.buckets.register_account("a", "p")
    first.buckets.put(number, "use", hour_range(0, 1), [make_bucket(0, Row("output", 5))], completes_refresh=True)
    first.names.put(number, {"w1": "Web"})
    before = first.buckets.coverage(number, "use")
    first.close()

    second = Ledger(location)
    assert second.buckets.register_account("a", "p") == number
    assert second.buckets.coverage(number, "use") == before
    assert second.names.all(number) == {"w1": "Web"}
    assert sum(sum_units(second, number).values()) == 5
    second.close()


def test_a_failed_write_stores_nothing(ledger: Ledger) -> None:
    """When the buckets raise half way, neither buckets nor coverage are stored."""
    number = ledger.buckets.register_account("a", "p")

    def breaking() -> Iterator[Bucket]:
        yield make_bucket(0, Row("output", 5))
        raise RuntimeError

    with pytest.raises(RuntimeError):
        ledger.buckets.put(number, "use", hour_range(0, 2), breaking())

    assert sum_units(ledger, number) == {}
    assert ledger.buckets.coverage(number, "use") is None
    ledger.buckets.put(number, "use", hour_range(0, 1), [make_bucket(0, Row("output", 5))])
    assert sum(sum_units(ledger, number).values()) == 5


EXAMPLES = itertools.count()

bucket_updates = st.lists(
    st.tuples(
        st.integers(0, 5),
        st.lists(
            st.builds(
                Row,
                st.sampled_from(["output", "requests"]),
                st.integers(0, 2**50),
                st.just(""),
                st.sampled_from("xyz"),
                *[st.just("")] * 3,
            ),
            max_size=4,
        ),
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(updates=bucket_updates)
def test_the_newest_version_of_every_bucket_is_kept(ledger: Ledger, updates: list[tuple[int, list[Row]]]) -> None:
    """For any order of updates the ledger holds exactly the newest rows of each bucket."""
    # An account for each example: another ledger takes a hundred times as long.
    number = ledger.buckets.register_account(f"a{next(EXAMPLES)}", "p")
    newest: dict[int, list[Row]] = {}
    for hour, rows in updates:
        ledger.buckets.put(number, "use", hour_range(hour, hour + 1), [make_bucket(hour, *rows)])
        newest[hour] = rows

    expected: dict[tuple[str, str], int] = {}
    for rows in newest.values():
        for row in rows:
            expected[row.meter, row.model] = expected.get((row.meter, row.model), 0) + row.value
    found = {(labels.meter, labels.model): value for labels, value in sum_units(ledger, number).items()}
    assert found == expected


def test_labels_that_come_after_a_read_are_known_at_the_next(ledger: Ledger) -> None:
    """A model that is stored for the first time after others were read has its own labels."""
    number = ledger.buckets.register_account("a", "p")
    ledger.buckets.put(number, "use", hour_range(0, 1), [make_bucket(0, Row("output", 5, model="m"))])
    assert sum_units(ledger, number) == {("output", "", "m", "", "", ""): 5}

    ledger.buckets.put(number, "use", hour_range(1, 2), [make_bucket(1, Row("output", 7, model="n"))])
    assert sum_units(ledger, number) == {("output", "", "m", "", "", ""): 5, ("output", "", "n", "", "", ""): 7}
    assert ledger.buckets.rows(number, "use", DAY1) == {
        0: [Row("output", 5, model="m")],
        1: [Row("output", 7, model="n")],
    }


def test_the_newest_read_of_each_day_is_known(ledger: Ledger) -> None:
    """A day has the time of its newest read; of several reports it is the oldest of theirs."""
    number = ledger.buckets.register_account("a", "p")
    first, second = DAY1 + 3 * DAY, DAY1 + 4 * DAY
    two_days = TimeRange(DAY1, DAY1 + 2 * DAY)
    assert ledger.buckets.last_reads(number, ["use"], ALL_TIME) == {}

    ledger.buckets.put(number, "use", two_days, (), days_read=DaysRead([DAY1, DAY1 + DAY], first))
    ledger.buckets.put(number, "use", hour_range(0, 24), (), days_read=DaysRead([DAY1], second))
    assert ledger.buckets.last_reads(number, ["use"], ALL_TIME) == {DAY1: second, DAY1 + DAY: first}

    ledger.buckets.put(number, "other", hour_range(0, 24), (), days_read=DaysRead([DAY1], first))
    assert ledger.buckets.last_reads(number, ["use", "other"], hour_range(0, 24)) == {DAY1: first}
    assert ledger.buckets.last_reads(number, ["use"], hour_range(0, 24)) == {DAY1: second}


def test_a_failed_put_records_no_read(ledger: Ledger) -> None:
    """A read whose buckets cannot be stored is not recorded either."""
    number = ledger.buckets.register_account("a", "p")
    too_large = Row("output", 2**63)
    with pytest.raises(OverflowError):
        ledger.buckets.put(
            number, "use", hour_range(0, 1), [make_bucket(0, too_large)], days_read=DaysRead([DAY1], DAY1)
        )
    assert ledger.buckets.last_reads(number, ["use"], ALL_TIME) == {}
