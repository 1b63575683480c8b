"""Copies of a ledger between a folder and PostgreSQL have every row."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from exporter.errors import LedgerError
from exporter.ledger import Ledger, LedgerLocation, ValuedDay, open_store
from exporter.ledger.copying import CopiedTable, copy_ledger, read_table_shapes
from exporter.ledger.snapshot_days import UNKNOWN_DAY
from exporter.model import COST, DAY, HOUR, Bucket, ChangeEvent, Row, RowLabels, UsageEvent
from exporter.windows import TimeRange
from tests.command import run_command
from tests.postgres import PostgresServer, schema_of

START = datetime(2026, 1, 1, tzinfo=UTC)
MODEL = "mä\tnew\nline \\N 'quoted' \"too\" %s ?"


@pytest.fixture(name="folder")
def _fill(tmp_path: Path) -> Path:
    """The folder of a ledger with rows in every table, of which those of rolled-up days are in place of others."""
    folder = tmp_path / "filled"
    with closing(Ledger(folder)) as ledger:
        number = ledger.buckets.register_account("acme", "p")
        rows = tuple(Row("output", 2**50 + n, "w", f"{MODEL}{n}") for n in range(20))
        hours = [Bucket("use", START + n * HOUR, START + (n + 1) * HOUR, rows) for n in range(48)]
        ledger.buckets.put(number, "use", TimeRange(START, START + 2 * DAY), hours, completes_refresh=True)
        valued_day = ValuedDay({RowLabels(COST, "w", MODEL): {0: -5, 23: 7}}, {"x": 3}, "m", billed=True, estimate=9)
        ledger.costs.put(number, START, valued_day, ledger.costs.revision(number, START))
        ledger.names.put(number, {"w": "Wörkspace", "v": ""})
        ledger.events.add("gateway", [UsageEvent("p", START, (Row("output", 1),), "id-1", "content")], START)
        ledger.change_events.put(ChangeEvent("deploy", START, "web", "acme", "https://ci.example/1"), START)
        ledger.buckets.truncate_coverage(
            number, "use", START + DAY, needs_refresh=True, reread=TimeRange(START + DAY, START + 2 * DAY)
        )
        ledger.snapshot_days.put(number, bytes(range(256)), {START - DAY: UNKNOWN_DAY})
        ledger.retention.apply(START + 3 * DAY, 2 * DAY, 100 * DAY)
    return folder


def copy(source: LedgerLocation, target: LedgerLocation) -> list[CopiedTable]:
    """Copy a ledger."""
    with closing(open_store(source, read_only=True, exclusive=True)) as first, closing(open_store(target)) as second:
        return copy_ledger(first, second)


def test_a_ledger_is_the_same_after_a_round_trip(folder: Path, postgres: PostgresServer, tmp_path: Path) -> None:
    """From a folder into PostgreSQL and from there into another folder, every table has the same rows."""
    place = postgres.new_location()
    there = copy(folder, place)
    back = copy(place, tmp_path / "back")
    assert there == back
    assert [table.name for table in there] == list(read_table_shapes())
    assert {table.name for table in there if not table.rows} <= {"day_read"}
    with closing(Ledger(place)) as ledger:
        number = ledger.buckets.find_account("acme", "p")
        assert number is not None
        assert ledger.hours.cost(number, START) == {RowLabels(COST, "w", MODEL): [2]}
        # New rows get numbers that no copied row has.
        assert ledger.buckets.register_account("another", "p") not in (0, number)
        time_range = TimeRange(START + 2 * DAY, START + 2 * DAY + HOUR)
        bucket = Bucket("use", time_range.start, time_range.end, (Row("output", 1, "new"),))
        ledger.buckets.put(number, "use", time_range, [bucket])
        assert ledger.buckets.units(number, ["use"], time_range) == {RowLabels("output", "new"): 1}


def test_a_target_with_rows_is_rejected(folder: Path, postgres: PostgresServer) -> None:
    """Nothing is added to a ledger that is not empty."""
    place = postgres.new_location()
    with closing(Ledger(place)) as ledger:
        ledger.buckets.register_account("a", "p")
    with pytest.raises(LedgerError, match="is not empty: its table account has rows"):
        copy(folder, place)


def test_the_ledger_of_a_running_exporter_is_not_copied(folder: Path, postgres: PostgresServer, tmp_path: Path) -> None:
    """What an exporter writes after the copy would be missing: it has to be stopped, on either database."""
    place = postgres.new_location()
    with closing(Ledger(folder)), pytest.raises(LedgerError, match="in use by another"):
        copy(folder, place)
    with closing(Ledger(place)), pytest.raises(LedgerError, match="in use by another"):
        copy(place, tmp_path / "other")


def test_rows_that_change_on_their_way_are_noticed(folder: Path, postgres: PostgresServer) -> None:
    """Where the target stores another value, the copy fails with the table's name, and nothing is stored."""
    place = postgres.new_location()
    Ledger(place).close()
    path = f"SET search_path TO {schema_of(place)}; "
    postgres.execute(
        f"{path} CREATE FUNCTION change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " NEW.value := NEW.value + 1; RETURN NEW; END $$;"
        "CREATE TRIGGER change BEFORE INSERT ON point FOR EACH ROW EXECUTE FUNCTION change()"
    )
    with pytest.raises(LedgerError, match=r"The table point of .* Nothing was stored"):
        copy(folder, place)
    assert postgres.execute(f"{path} SELECT COUNT(*) FROM account") == [(0,)]


def test_the_command_prints_every_table(folder: Path, postgres: PostgresServer, tmp_path: Path) -> None:
    """`ledger copy` prints rows and digests, and reports errors without a traceback."""
    place = postgres.new_location()
    done = run_command("ledger", "copy", str(folder), place.url)
    assert done.returncode == 0, done.stderr
    for name in read_table_shapes():
        assert f"│ {name} " in done.stdout
    assert "every row was read again and is the same" in done.stdout
    failed = run_command("ledger", "copy", str(tmp_path / "missing"), place.url)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.startswith("Error: There is no ledger in")
