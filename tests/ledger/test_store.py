"""The ledger's file: locking, durability, retention, and messages when it cannot be used."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from exporter.errors import LedgerError
from exporter.ledger import DaysRead, Ledger, LedgerLocation, ValuedDay
from exporter.ledger.schema import MIGRATIONS
from exporter.ledger.sqlite_store import SqliteStore
from exporter.model import COST, DAY, HOUR, Bucket, Row, RowLabels
from exporter.windows import TimeRange

START = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_ledger_of_a_newer_release_is_left_untouched(tmp_path: Path) -> None:
    """A file of a newer version is refused with what to do, and not a byte of it changes."""
    Ledger(tmp_path).close()
    file = tmp_path / "ledger.db"
    with sqlite3.connect(file) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    before = file.read_bytes()

    with pytest.raises(LedgerError, match=r"written by a newer ai-spend-exporter .*version 99.*--storage\.path"):
        Ledger(tmp_path)
    assert file.read_bytes() == before


def test_two_exporters_cannot_share_a_ledger(location: LedgerLocation) -> None:
    """The second one fails at once; after the first has ended, the next can start."""
    first = Ledger(location)
    with pytest.raises(LedgerError, match="in use by another"):
        Ledger(location)
    first.close()
    Ledger(location).close()


def test_closing_a_ledger_waits_for_readers(location: LedgerLocation) -> None:
    """Closing waits for running reads and rejects later reads with a reason; nothing crashes or blocks."""
    ledger = Ledger(location)
    number = ledger.buckets.register_account("acme", "maker")
    reading, refused = threading.Barrier(9), list[str]()

    def read() -> None:
        reading.wait()
        while True:
            try:
                ledger.costs.days(number, TimeRange(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC)))
            except LedgerError as error:
                refused.append(str(error))
                return

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    reading.wait()
    began = time.monotonic()
    ledger.close()
    for thread in threads:
        thread.join(10)
    assert time.monotonic() - began < 4
    assert len(refused) == 8
    assert all("is closed: the process is ending" in reason for reason in refused)
    with pytest.raises(LedgerError, match="is closed"):
        ledger.buckets.register_account("other", "maker")


def test_a_file_that_is_no_ledger_is_reported(tmp_path: Path) -> None:
    """A damaged file is reported with advice."""
    (tmp_path / "ledger.db").write_bytes(b"this is not a database, it is a text" * 100)
    with pytest.raises(LedgerError, match=r"damaged: move it away"):
        Ledger(tmp_path)


def test_advice_for_a_damaged_ledger_says_that_pushed_usage_is_lost(tmp_path: Path) -> None:
    """Whoever moves a damaged ledger away knows before that pushed usage does not come back by itself."""
    (tmp_path / "ledger.db").write_bytes(b"this is not a database, it is a text" * 100)
    with pytest.raises(LedgerError, match=r"restore a backup and start again.*pushed usage is not"):
        Ledger(tmp_path)


@pytest.mark.parametrize("rest", ["", "ledger.db-wal"])
def test_a_ledger_that_lost_its_content_is_not_begun_again(tmp_path: Path, rest: str) -> None:
    """An empty file where a ledger was written before is rejected with advice; moved away, a new ledger begins."""
    Ledger(tmp_path).close()
    os.truncate(tmp_path / "ledger.db", 0)
    if rest:
        (tmp_path / rest).write_bytes(b"x" * 4096)
        (tmp_path / "lock").unlink()
    for _ in range(2):
        with pytest.raises(LedgerError, match=r"is empty, although it had content\. Restore it from a backup"):
            Ledger(tmp_path)
    with pytest.raises(LedgerError, match=r"is empty"):
        Ledger(tmp_path, read_only=True)
    (tmp_path / "ledger.db").unlink()
    (tmp_path / "ledger.db-wal").unlink(missing_ok=True)
    Ledger(tmp_path).close()
    Ledger(tmp_path).close()


def test_a_start_that_was_killed_before_the_tables_existed_is_repeated(tmp_path: Path) -> None:
    """An empty file to which nothing was ever written is a new ledger, also where an older one was moved away."""
    (tmp_path / "ledger.db").touch()
    Ledger(tmp_path).close()
    (tmp_path / "ledger.db").unlink()
    # A process that was killed between the first two steps of its start leaves this.
    (tmp_path / "ledger.db").touch()
    (tmp_path / "lock").write_bytes(b"")
    Ledger(tmp_path).close()


@pytest.mark.parametrize("name", ["ledger.db", "ledger.db-wal"])
@pytest.mark.parametrize("change", ["removed", "replaced by another file"])
def test_writes_to_a_file_that_is_gone_fail(tmp_path: Path, name: str, change: str) -> None:
    """A transaction on a ledger whose file was removed or replaced is not acknowledged, and no reader creates one."""
    ledger = Ledger(tmp_path)
    number = ledger.buckets.register_account("a", "p")
    (tmp_path / name).rename(tmp_path / "elsewhere")
    if change != "removed":
        (tmp_path / name).write_bytes((tmp_path / "elsewhere").read_bytes())
    with pytest.raises(LedgerError, match=rf"{name} was {change} while the exporter ran.*pushed usage is not"):
        ledger.buckets.put(number, "use", TimeRange(START, START + HOUR), [_hour_bucket(0, 3)])
    with pytest.raises(LedgerError, match=change):
        ledger.check()
    assert (tmp_path / name).exists() == (change != "removed")
    ledger.close()


def test_a_removed_folder_is_noticed_and_an_unchanged_one_is_not(tmp_path: Path) -> None:
    """The check passes until the folder is moved away as a whole."""
    ledger = Ledger(tmp_path / "ledger")
    ledger.check()
    (tmp_path / "ledger").rename(tmp_path / "moved")
    with pytest.raises(LedgerError, match=r"ledger\.db was removed"):
        ledger.check()
    ledger.close()


def test_a_folder_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    """Where a file stands in the way, the message names the folder and the flag."""
    (tmp_path / "taken").write_text("")
    with pytest.raises(LedgerError, match=r"taken/data cannot be used.*--storage\.path"):
        Ledger(tmp_path / "taken" / "data")


def test_a_full_disk_loses_nothing_that_was_stored(tmp_path: Path) -> None:
    """When the disk is full, a put fails as a whole with a message, and everything stored before is kept."""
    ledger = Ledger(tmp_path)
    number = ledger.buckets.register_account("a", "p")
    ledger.buckets.put(number, "use", TimeRange(START, START + HOUR), [_hour_bucket(0, 3)])
    with ledger._store.write() as db:
        pages = db.execute("PRAGMA page_count").fetchone()[0]
    store = ledger._store
    assert isinstance(store, SqliteStore)
    store._writer.execute(f"PRAGMA max_page_count = {pages}")

    with pytest.raises(LedgerError, match="disk is full: free some space"):
        ledger.buckets.put(
            number, "use", TimeRange(START, START + DAY), [_hour_bucket(hour, 500) for hour in range(24)]
        )

    store._writer.execute(f"PRAGMA max_page_count = {pages * 100}")
    assert len(ledger.buckets.units(number, ["use"], TimeRange(START, START + DAY))) == 3
    ledger.close()


def _hour_bucket(hour: int, rows: int) -> Bucket:
    moment = START + hour * HOUR
    return Bucket("use", moment, moment + HOUR, tuple(Row("output", 1, model=f"model-{n}" * 9) for n in range(rows)))


def _format(location: LedgerLocation) -> str:
    """Return a place as an argument of a command."""
    return str(location) if isinstance(location, Path) else location.url


_WRITER_SCRIPT = """
import sys
import threading
import time
from datetime import UTC, datetime
from exporter.ledger import Ledger
from exporter.ledger.locations import parse_location
from exporter.model import HOUR, Bucket, Row
from exporter.windows import TimeRange
start = datetime(2026, 1, 1, tzinfo=UTC)
ledger = Ledger(parse_location(sys.argv[1]))
number = ledger.buckets.register_account("a", "p")
hour = 0
while True:
    at = start + hour * HOUR
    rows = tuple(Row("output", 1, model=f"m{n}") for n in range(20))
    ledger.buckets.put(number, "use", TimeRange(at, at + HOUR), [Bucket("use", at, at + HOUR, rows)])
    hour += 1
    print(hour, flush=True)
"""


def test_a_killed_process_loses_nothing_that_it_acknowledged(location: LedgerLocation) -> None:
    """After kill -9 in the middle of writing, every acknowledged bucket is there, whole, and once."""
    for _ in range(5):
        process = subprocess.Popen(
            [sys.executable, "-c", _WRITER_SCRIPT, _format(location)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        acknowledged = 0
        for line in process.stdout:
            acknowledged = int(line)
            if acknowledged == 15:
                os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()

        ledger = Ledger(location)
        number = ledger.buckets.register_account("a", "p")
        totals = ledger.buckets.units(number, ["use"], TimeRange(START, START + 365 * DAY))
        ledger.close()
        assert len(totals) == 20
        assert len(set(totals.values())) == 1, "a bucket was stored in part"
        assert set(totals.values()) >= {acknowledged} or max(totals.values()) > acknowledged


def test_old_hours_become_days_and_keep_their_sums(location: LedgerLocation) -> None:
    """A roll-up keeps every sum, a rolled-up day is not counted again, and old days are deleted."""
    ledger = Ledger(location)
    number = ledger.buckets.register_account("a", "p")
    days = [START + n * DAY for n in range(3)]
    for day in days:
        hours = [Bucket("use", day + n * HOUR, day + (n + 1) * HOUR, (Row("output", n),)) for n in range(24)]
        ledger.buckets.put(number, "use", TimeRange(day, day + DAY), hours)
        ledger.costs.put(
            number, day, ValuedDay({RowLabels(COST): {n: n for n in range(24)}}, {}, "x", billed=True), revision=1
        )
    now = START + 100 * DAY

    ledger.retention.apply(now, timedelta(days=98), timedelta(days=1000))
    ledger.buckets.put(number, "use", TimeRange(days[0], days[1]), hours[:1])

    everything = TimeRange(START, now)
    assert list(ledger.buckets.units(number, ["use"], everything).values()) == [3 * 276]
    assert list(ledger.costs.total(number, everything).values()) == [3 * 276]
    assert len(ledger.buckets.rows(number, "use", days[0])) == 1
    assert len(ledger.buckets.rows(number, "use", days[2])) == 24
    assert ledger.costs.unvalued_days(number, "y") == [days[2]]

    ledger.retention.apply(now, timedelta(days=98), timedelta(days=99))
    assert list(ledger.costs.total(number, everything).values()) == [2 * 276]
    ledger.close()


def _valued_day(nano: int, *, billed: bool, estimate: int | None = None) -> ValuedDay:
    return ValuedDay({RowLabels(COST): {0: nano}}, {}, "x", billed, estimate)


def test_a_billed_day_keeps_its_first_bill_and_estimate(location: LedgerLocation) -> None:
    """Corrections of a billed day are added up, up and down, beside its first bill and the estimate before it."""
    ledger = Ledger(location)
    number = ledger.buckets.register_account("a", "p")
    for valued_day in (
        _valued_day(90, billed=False),
        _valued_day(100, billed=True, estimate=92),
        _valued_day(100, billed=True, estimate=7),
    ):
        ledger.costs.put(number, START, valued_day, revision=0)
    assert ledger.costs.total_restatement(number) == 0

    ledger.costs.put(number, START, _valued_day(70, billed=True), revision=0)
    ledger.costs.put(number, START, _valued_day(80, billed=True), revision=0)

    (day,) = ledger.costs.days(number, TimeRange(START, START + DAY))
    assert (day.cost, day.billed, day.first_bill, day.restatement, day.estimate) == (80, True, 100, 40, 92)
    assert ledger.costs.total_restatement(number) == 40
    ledger.close()


def test_reads_of_rolled_up_days_are_deleted(location: LedgerLocation) -> None:
    """When hours are rolled up, the times at which their days were read are deleted."""
    ledger = Ledger(location)
    number = ledger.buckets.register_account("a", "p")
    days = [START + n * DAY for n in range(3)]
    time_range = TimeRange(START, START + 3 * DAY)
    ledger.buckets.put(number, "use", time_range, (), days_read=DaysRead(days, START + 5 * DAY))

    ledger.retention.apply(START + 100 * DAY, timedelta(days=98), timedelta(days=1000))

    assert list(ledger.buckets.last_reads(number, ["use"], time_range)) == [days[2]]
    ledger.close()


@pytest.mark.parametrize("version", range(1, len(MIGRATIONS)))
def test_a_ledger_of_an_earlier_version_is_brought_up_to_date(tmp_path: Path, version: int) -> None:
    """A file of any earlier version is migrated when it is opened, and records reads of days from then on."""
    with sqlite3.connect(tmp_path / "ledger.db", isolation_level=None) as db:
        for migration in MIGRATIONS[:version]:
            migration(db)
        db.execute("INSERT INTO account (name, provider) VALUES ('a', 'p')")
        db.execute(f"PRAGMA user_version = {version}")
    db.close()

    ledger = Ledger(tmp_path)
    number = ledger.buckets.find_account("a", "p")
    assert number is not None
    day = TimeRange(START, START + DAY)
    assert ledger.buckets.last_reads(number, ["use"], day) == {}
    ledger.buckets.put(number, "use", day, (), days_read=DaysRead([START], START + DAY))
    assert ledger.buckets.last_reads(number, ["use"], day) == {START: START + DAY}
    ledger.close()


def test_values_of_an_account_are_no_failure_of_the_disk(tmp_path: Path) -> None:
    """A sum above 64 bits and a violated constraint fail the statement, are rolled back, and do not end the process."""
    with closing(SqliteStore(tmp_path)) as store:
        with pytest.raises(sqlite3.OperationalError, match="integer overflow"), store.read() as db:
            db.execute("SELECT SUM(column1) FROM (VALUES (9223372036854775807), (1))").fetchall()
        with pytest.raises(sqlite3.IntegrityError), store.write() as db:
            db.execute("INSERT INTO account (name, provider) VALUES ('a', 'openai'), ('a', 'openai')")
        with store.read() as db:
            assert db.execute("SELECT COUNT(*) FROM account").fetchone() == (0,)
