"""The ledger in PostgreSQL: lost connections, locks between processes, versions, passwords, and messages."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from exporter.errors import LedgerError, LedgerUnavailable
from exporter.ledger import Ledger, PostgresLocation
from exporter.ledger.postgres_connection import PostgresConnection
from exporter.ledger.postgres_schema import SchemaConnection, apply_migration
from exporter.ledger.postgres_store import PostgresStore
from exporter.ledger.schema import MIGRATIONS
from exporter.model import DAY, HOUR, MAX_TEXT_LENGTH, Bucket, ChangeEvent, Row, UsageEvent
from exporter.windows import TimeRange
from tests.command import ENVIRONMENT, wait_until
from tests.postgres import PostgresServer, schema_of, start_postgres

START = datetime(2026, 1, 1, tzinfo=UTC)
DAY1 = TimeRange(START, START + DAY)
PASSWORD = "s3cret-of-the-ledger"


@pytest.fixture(name="server", scope="module")
def _start_server() -> Iterator[PostgresServer]:
    """A server of this file, which stores what it acknowledges: its tests stop it and damage its databases."""
    with start_postgres(settings=()) as server:
        yield server


@pytest.fixture(name="place")
def _make_place(server: PostgresServer) -> PostgresLocation:
    return server.new_location()


@pytest.fixture(name="opened")
def _open(place: PostgresLocation) -> Iterator[Ledger]:
    ledger = Ledger(place)
    yield ledger
    ledger.close()


def put(ledger: Ledger, hour: int, value: int = 5) -> None:
    """Store one row of an hour of the account `a`."""
    number = ledger.buckets.register_account("a", "p")
    time_range = TimeRange(START + hour * HOUR, START + (hour + 1) * HOUR)
    bucket = Bucket("use", time_range.start, time_range.end, (Row("output", value),))
    ledger.buckets.put(number, "use", time_range, [bucket])


def stored(ledger: Ledger) -> int:
    """Return the sum of all rows of the account `a`."""
    number = ledger.buckets.register_account("a", "p")
    return sum(ledger.buckets.units(number, ["use"], DAY1).values())


def succeeds(action: Callable[[], object]) -> bool:
    """Return whether the ledger is available for an action."""
    with suppress(LedgerUnavailable):
        action()
        return True
    return False


def in_schema(place: PostgresLocation, statement: str) -> str:
    """Return a statement on the tables of a ledger."""
    return f"SET search_path TO {schema_of(place)}; {statement}"


def test_a_server_that_stops_is_reached_again(server: PostgresServer, opened: Ledger) -> None:
    """After a crash of the server nothing acknowledged is missing, and the same ledger works again."""
    put(opened, 0)
    assert stored(opened) == 5
    server.stop("immediate")
    try:
        for action in (lambda: put(opened, 1), lambda: stored(opened)):
            with pytest.raises(LedgerUnavailable, match="Check that the server runs"):
                action()
        opened.check()
        assert "cannot be used" in opened.unavailable_reason
        assert opened.size() > 0
    finally:
        server.start()
    assert stored(opened) == 5

    def is_available() -> bool:
        opened.check()
        return not opened.unavailable_reason

    wait_until("the ledger is available", is_available)
    put(opened, 1)
    assert stored(opened) == 10


def test_a_lost_idle_connection_costs_no_operation(server: PostgresServer, opened: Ledger) -> None:
    """Connections that the server ended while nobody used them are replaced before they are used."""
    put(opened, 0)
    assert stored(opened) == 5
    server.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    put(opened, 1)
    assert stored(opened) == 10
    assert opened.unavailable_reason == ""


def test_a_server_that_does_not_answer_is_shown(place: PostgresLocation, opened: Ledger) -> None:
    """While the server accepts a statement and does not answer it, readiness has the reason; then all goes on."""
    put(opened, 0)
    with psycopg.connect(place.url, autocommit=True) as db:
        ((backend,),) = db.execute(
            "SELECT pid FROM pg_locks JOIN pg_stat_activity USING (pid)"
            " WHERE locktype = 'advisory' AND application_name LIKE 'ai-spend-exporter %'"
        ).fetchall()
    os.kill(backend, signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(1) as pool:
            work = pool.submit(put, opened, 1)
            wait_until("shown", lambda: "has not answered for" in opened.unavailable_reason)
            assert stored(opened) == 5
            os.kill(backend, signal.SIGCONT)
            work.result()
    finally:
        os.kill(backend, signal.SIGCONT)
    assert opened.unavailable_reason == ""
    assert stored(opened) == 10


def test_a_ledger_that_another_exporter_owns_is_not_written(server: PostgresServer, place: PostgresLocation) -> None:
    """A process that lost its session does not write while another one is the exporter; afterwards it does again."""
    with closing(Ledger(place)) as ledger:
        put(ledger, 0)
        reader = psycopg.connect(place.url, autocommit=True)
        ((key,),) = reader.execute(
            "SELECT (classid::bigint << 32) | objid::bigint FROM pg_locks JOIN pg_stat_activity USING (pid)"
            " WHERE locktype = 'advisory' AND application_name LIKE 'ai-spend-exporter %'"
        ).fetchall()
        waiting = threading.Thread(target=lambda: reader.execute(f"SELECT pg_advisory_lock({key})"))
        waiting.start()
        server.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name LIKE 'ai-spend%'"
        )
        waiting.join()
        with pytest.raises(LedgerUnavailable, match="in use by another ai-spend-exporter"):
            put(ledger, 1)
        assert stored(ledger) == 5
        reader.close()
        wait_until("written", lambda: succeeds(lambda: put(ledger, 1)))
        assert stored(ledger) == 10


def test_a_stale_session_of_its_own_is_ended(server: PostgresServer, place: PostgresLocation) -> None:
    """Where the server still has the session of a connection that was lost, the next connection takes its place."""
    with closing(PostgresStore(place)) as store:
        lost = store._writer
        assert lost is not None
        # The connection stays open for the server, as after a network that dropped every packet.
        store._writer = None
        with store.write() as db:
            db.execute("INSERT INTO account (name, provider) VALUES ('a', 'p')")
        assert not lost.is_alive
        lost.close()


def test_of_several_starts_at_once_one_creates_the_tables(place: PostgresLocation) -> None:
    """Of exporters that start at the same time one becomes the owner, and the tables are created once."""
    barrier = threading.Barrier(4)

    def start() -> Ledger | None:
        barrier.wait()
        try:
            return Ledger(place)
        except LedgerError as error:
            assert "in use by another" in str(error)  # noqa: PT017 - in a thread
            return None

    with ThreadPoolExecutor(4) as pool:
        ledgers = [ledger for ledger in pool.map(lambda _: start(), range(4)) if ledger is not None]
    (ledger,) = ledgers
    put(ledger, 0)
    assert stored(ledger) == 5
    ledger.close()


def test_a_commit_with_an_unknown_outcome_makes_everything_be_read_again(
    server: PostgresServer, place: PostgresLocation
) -> None:
    """Where the connection is lost during COMMIT, versions of all days grow, and caches are read from the database."""
    with closing(Ledger(place)) as ledger:
        put(ledger, 0)
        number = ledger.buckets.register_account("a", "p")
        change_event = ChangeEvent("deploy", START, "web", "a")
        ledger.change_events.put(change_event, START)
        assert len(ledger.change_events.recent(START)) == 1
        version = ledger.hours.version(number, START + 400 * DAY)
        server.execute(
            in_schema(
                place,
                "CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
                " PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$;"
                "CREATE CONSTRAINT TRIGGER lose AFTER INSERT ON point DEFERRABLE INITIALLY DEFERRED"
                " FOR EACH ROW EXECUTE FUNCTION lose()",
            )
        )
        with pytest.raises(LedgerUnavailable):
            put(ledger, 1)
        assert ledger.hours.version(number, START + 400 * DAY) > version
        server.execute(in_schema(place, "DROP TRIGGER lose ON point; UPDATE change_event SET title = 'other'"))
        (event,) = ledger.change_events.recent(START)
        assert event.title == "other"
        wait_until("written", lambda: succeeds(lambda: put(ledger, 1)))
        coverage = ledger.buckets.coverage(number, "use")
        assert coverage is not None
        assert coverage.until == START + 2 * HOUR


def test_a_full_disk_of_the_server_loses_nothing(server: PostgresServer, place: PostgresLocation) -> None:
    """What the server cannot store is not acknowledged, readiness has the reason, and the next write may succeed."""
    with closing(Ledger(place)) as ledger:
        put(ledger, 0)
        server.execute(
            in_schema(
                place,
                "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
                " RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$;"
                "CREATE TRIGGER full_disk BEFORE INSERT ON point FOR EACH ROW EXECUTE FUNCTION full_disk()",
            )
        )
        with pytest.raises(LedgerUnavailable, match="The server's disk is full: free some space"):
            put(ledger, 1)
        assert "disk is full" in ledger.unavailable_reason
        assert stored(ledger) == 5
        server.execute(in_schema(place, "DROP TRIGGER full_disk ON point"))
        put(ledger, 1)
        assert ledger.unavailable_reason == ""
        assert stored(ledger) == 10


def test_dropped_tables_end_the_process(server: PostgresServer, place: PostgresLocation) -> None:
    """Tables that are gone do not come back while the process runs: the error is not a temporary one."""
    with closing(Ledger(place)) as ledger:
        put(ledger, 0)
        server.execute(in_schema(place, "DROP TABLE point"))
        with pytest.raises(LedgerError, match="Tables of the ledger were dropped") as raised:
            put(ledger, 1)
        assert not isinstance(raised.value, LedgerUnavailable)


def test_values_are_those_of_the_account_alone(place: PostgresLocation) -> None:
    """A constraint that is violated fails one statement; sums are integers, also above 64 bits."""
    with closing(PostgresStore(place)) as store:
        with pytest.raises(psycopg.IntegrityError), store.write() as db:
            db.execute("INSERT INTO account (name, provider) VALUES ('a', 'openai'), ('a', 'openai')")
        with store.read() as db:
            assert db.execute("SELECT COUNT(*) FROM account").fetchone() == (0,)
            sums = "SELECT SUM(v), SUM(v) + 1 FROM (VALUES (?), (?)) AS t (v)"
            assert db.execute(sums, (2**63 - 1, 1)).fetchone() == (2**63, 2**63 + 1)
        assert store.unavailable_reason == ""


def test_a_database_whose_commits_are_not_durable_gets_durable_ones(
    server: PostgresServer, place: PostgresLocation
) -> None:
    """The exporter's own sessions wait for the disk, whatever the database's default is."""
    server.execute("ALTER DATABASE ai_spend SET synchronous_commit = off")
    try:
        with closing(PostgresStore(place)) as store, store.write() as db:
            assert db.execute("SHOW synchronous_commit").fetchone() == ("on",)
    finally:
        server.execute("ALTER DATABASE ai_spend RESET synchronous_commit")


@pytest.mark.parametrize("version", range(1, len(MIGRATIONS)))
def test_tables_of_an_earlier_version_are_brought_up_to_date(place: PostgresLocation, version: int) -> None:
    """Every migration works on PostgreSQL, on tables that have rows; a reader rejects them before."""
    db = PostgresConnection(place.url, None, {})
    schema = SchemaConnection(db)
    for number, migration in enumerate(MIGRATIONS[:version], start=1):
        apply_migration(schema, number, migration)
    db.execute("INSERT INTO account (name, provider) VALUES ('a', 'p')")
    db.execute("INSERT INTO point (account, report, start, series, value) VALUES (1, 'use', 1767225600, 1, 5)")
    db.execute("INSERT INTO series VALUES (1, 1, 'use', 'output', '', '', '', '', '')")
    db.execute("CREATE TABLE ledger_version (version BIGINT NOT NULL)")
    db.execute("INSERT INTO ledger_version VALUES (?)", (version,))
    db.close()
    with pytest.raises(LedgerError, match=r"written by an older .* Start this release's `run`"):
        Ledger(place, read_only=True)
    with closing(Ledger(place)) as ledger:
        assert stored(ledger) == 5
    Ledger(place, read_only=True).close()


def test_tables_of_a_newer_version_are_left_untouched(server: PostgresServer, place: PostgresLocation) -> None:
    """Tables of a newer release are rejected with what to do, by the exporter and by readers."""
    Ledger(place).close()
    server.execute(in_schema(place, "UPDATE ledger_version SET version = 99; DROP TABLE reread"))
    for read_only in (False, True):
        with pytest.raises(LedgerError, match=r"written by a newer .*version 99.*--storage\.url at another database"):
            Ledger(place, read_only=read_only)
    assert server.execute(in_schema(place, "SELECT to_regclass('reread')")) == [(None,)]


def test_a_reader_creates_no_tables(server: PostgresServer, place: PostgresLocation) -> None:
    """A database without a ledger is rejected by a reader, and stays as it is."""
    with pytest.raises(LedgerError, match=r"There is no ledger in .* --storage\.url"):
        Ledger(place, read_only=True)
    assert server.execute(in_schema(place, "SELECT to_regclass('account')")) == [(None,)]


def test_text_is_sorted_by_its_bytes(place: PostgresLocation) -> None:
    """Names are in the order of SQLite, whatever the database's language is."""
    with closing(PostgresStore(place)) as store:
        with store.write() as db:
            names = [("b", "p"), ("B", "p"), ("ä", "p"), ("a", "p")]
            db.executemany("INSERT INTO account (name, provider) VALUES (?, ?)", names)
        with store.read() as db:
            found = db.execute("SELECT name FROM account ORDER BY name").fetchall()
    assert found == [("B",), ("a",), ("b",), ("ä",)]


def test_the_longest_labels_are_stored(place: PostgresLocation) -> None:
    """Labels and change events of the longest texts that are accepted fit, are distinguished, and are stored once."""
    texts = ["".join(chr(0x20000 + 256 * column + index) for index in range(MAX_TEXT_LENGTH)) for column in range(6)]
    _, workspace, model, tier, api_key, item = texts
    rows = [Row("output", n, workspace, model, tier, api_key, item[:-1] + end) for n, end in enumerate("abc", start=1)]
    event = ChangeEvent(texts[0], START, texts[1], texts[2], texts[3])
    for _ in range(2):
        with closing(Ledger(place)) as ledger:
            number = ledger.buckets.register_account(texts[0], texts[1])
            bucket = Bucket("use", START, START + HOUR, tuple(rows))
            ledger.buckets.put(number, "use", TimeRange(START, START + HOUR), [bucket])
            ledger.events.add("gateway", [UsageEvent("p", START, tuple(rows))], START + HOUR)
            ledger.names.put(number, {texts[2]: texts[3]})
            for stored_event in (event, replace(event, title="other"), event):
                ledger.change_events.put(stored_event, START)
            assert sorted(ledger.buckets.units(number, ["use"], DAY1).values()) == [1, 2, 3]
            assert len(ledger.hours.labels(number, ["use"])) == 3
            assert len(ledger.change_events.recent(START)) == 2


def test_a_schema_that_does_not_exist_is_reported(server: PostgresServer) -> None:
    """A search_path of nothing is an error with advice, and so is a database that does not exist."""
    with pytest.raises(LedgerError, match=r"search_path of .* names no schema that exists"):
        Ledger(PostgresLocation(f"{server.url}?options=-csearch_path%3Dmissing"))
    with pytest.raises(LedgerError, match=r"missing.*does not exist"):
        Ledger(PostgresLocation(server.url.replace("ai_spend", "missing")))
    with pytest.raises(LedgerError, match="invalid URI query parameter"):
        Ledger(PostgresLocation(f"{server.url}?colour=red"))


def test_the_password_is_in_no_message(server: PostgresServer, place: PostgresLocation, tmp_path: Path) -> None:
    """A wrong password, then the right one, from a file that may be replaced while the exporter runs."""
    schema, file = schema_of(place), tmp_path / "password"
    server.execute(f"CREATE ROLE secured LOGIN PASSWORD '{PASSWORD}'; ALTER SCHEMA {schema} OWNER TO secured")
    secured = PostgresLocation(place.url.replace("//exporter@", "//secured@"), file)
    with pytest.raises(LedgerError, match=r"password file .*password cannot be read"):
        Ledger(secured)
    file.write_text("another-secret\n")
    with pytest.raises(LedgerError, match=r"Check the user of --storage\.url, the password") as raised:
        Ledger(secured)
    assert "another-secret" not in str(raised.value)
    file.write_text(f"{PASSWORD}\n")
    with closing(Ledger(secured)) as ledger:
        put(ledger, 0)
        server.execute("ALTER ROLE secured PASSWORD 'rotated'")
        file.write_text("rotated")
        server.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = 'secured'")
        put(ledger, 1)
        assert stored(ledger) == 10
    assert PASSWORD not in repr(secured)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://exporter:{PASSWORD}@db/ai_spend",
        f"postgresql://exporter:{PASSWORD}@x@db/ai_spend",
        f"postgresql://db/ai_spend?user=exporter&password={PASSWORD}",
        f"postgres://db/ai_spend?PASSWORD={PASSWORD}",
        f"postgresql://db/ai_spend?sslpassword={PASSWORD}",
    ],
)
def test_a_url_with_a_password_is_rejected(url: str) -> None:
    """Every user of the machine can read a command line; the message does not repeat the password."""
    with pytest.raises(LedgerError, match=r"contains a password.*--storage\.password-file") as raised:
        PostgresLocation(url)
    assert PASSWORD not in str(raised.value)


def test_a_missing_psycopg_is_reported_with_the_command_to_install_it() -> None:
    """Without the extra, the message has pip's command; SQLite needs no psycopg."""
    script = (
        "import sys; sys.modules['psycopg'] = None\n"
        "from exporter.ledger import Ledger, PostgresLocation\n"
        "Ledger(PostgresLocation('postgresql://db/x'))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=ENVIRONMENT)
    assert "LedgerError" in done.stderr
    assert "pip install 'ai-spend-exporter[postgres]'" in done.stderr
