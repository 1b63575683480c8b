"""The ledger in a PostgreSQL database: one connection that writes, a pool that reads, and connecting again.

Two advisory locks, of one schema in a database, take the place of SQLite's:

- The session that holds the owner lock is the exporter of this ledger. It is that of the connection that writes: where
  it ends, nothing is written any more, and no other exporter can have begun before.
- A transaction that writes, or migrates, holds the writer lock. Numbers of labels are therefore committed in ascending
  order, on which `SeriesIndex` relies.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any, cast

import psycopg
from psycopg.conninfo import conninfo_to_dict

from exporter.errors import LedgerError, LedgerUnavailable
from exporter.ledger.copying import read_table_shapes
from exporter.ledger.locations import PostgresLocation
from exporter.ledger.postgres_connection import PostgresConnection
from exporter.ledger.postgres_errors import concerns_values, to_ledger_error
from exporter.ledger.postgres_schema import SELECT_SERIES, VERSION_TABLE, check_version, migrate
from exporter.ledger.store import Connection, Dialect, Key, placeholders
from exporter.logs import log_event

logger = logging.getLogger(__name__)

MAX_READERS = 10
"""Connections that read at the same time; further reads wait."""
READER_TIMEOUT = 30
"""Seconds that a read waits for a connection."""
CLOSE_TIMEOUT = 5
"""Seconds that closing waits for active readers."""
OWNER_TIMEOUT = 3
"""Seconds that a start waits for the session of an exporter that has just ended."""
RECONNECT_TIMEOUT = 1
"""Seconds that connecting again waits for the end of the lost session."""
RETRY_SECONDS = 3
"""Between two attempts to reach the database again."""
ANSWER_SECONDS = 10
"""Seconds that a statement may take before readiness says so. Roll-ups and pushes take much less."""
SIZE_SECONDS = 60
"""Between two measurements of the ledger's size, which every scrape exports."""

_CONNECTION_DEFAULTS = {
    "connect_timeout": 5,
    # A server or a network that vanished is noticed within 20 seconds.
    "keepalives_idle": 10,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
"""libpq's parameters, as far as the URL does not set them."""
_SESSION_SETTINGS = (
    # What was acknowledged survives a crash of the server, also where its default is faster; stronger ones stay.
    "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off';"
    # The server notices within 20 seconds that this machine vanished, and releases the locks.
    "SELECT set_config('tcp_keepalives_idle', '10', false), set_config('tcp_keepalives_interval', '3', false),"
    " set_config('tcp_keepalives_count', '3', false), set_config('tcp_user_timeout', '20000', false);"
    "SET standard_conforming_strings = on"
)


class PostgresStore:
    """The tables of one schema, the first of the connection's search_path.

    With `read_only` the tables are not changed, and another process may be writing to them unless it is `exclusive`.
    """

    dialect = Dialect(
        concat_template="string_agg(({value})::text, ',')",
        ordered_concat_template="string_agg(({value})::text, ',' ORDER BY {order})",
        select_series=SELECT_SERIES,
    )

    def __init__(self, location: PostgresLocation, *, read_only: bool = False, exclusive: bool = False) -> None:
        """Connect, and create the tables or bring them up to date. Raises LedgerError, with advice."""
        self._location = location
        self._read_only = read_only
        self._lock = threading.RLock()
        self._idle_readers: list[PostgresConnection] = []
        self._active_readers = 0
        self._lent_readers: tuple[PostgresConnection, ...] = ()
        """Replaced, not changed: readiness iterates over it."""
        self._readers_condition = threading.Condition()
        self._writer: PostgresConnection | None = None
        self._password: str | None = None
        self._is_open = False
        self._closed = False
        self._unavailable_reason = ""
        self._next_attempt = 0.0
        self._size = 0
        self._next_size = 0.0
        # Names the sessions of this process: a stale one of its own is ended when it connects again.
        self._application_name = f"ai-spend-exporter {secrets.token_hex(6)}"
        self._parameters = {
            **_connection_parameters(location),
            "application_name": self._application_name,
        }
        self.on_unknown_outcome = _do_nothing
        """Called where a connection was lost during a COMMIT: the transaction may be stored or not."""
        try:
            with self._translate_errors():
                if read_only:
                    self._open_read_only(exclusive=exclusive)
                else:
                    self._writer = self._open_writer(OWNER_TIMEOUT)
                self._measure_size()
        except BaseException:
            self.close()
            raise
        self._is_open = True

    @property
    def name(self) -> str:
        """The URL without its parameters."""
        return str(self._location)

    @property
    def unavailable_reason(self) -> str:
        """Why the database cannot be used at present; empty while it can."""
        connections = [*self._lent_readers, self._writer]
        waiting_since = [db.waiting_since for db in connections if db is not None and db.waiting_since is not None]
        seconds = time.monotonic() - min(waiting_since) if waiting_since else 0
        if seconds > ANSWER_SECONDS:
            return f"The ledger {self.name} cannot be used: its server has not answered for {seconds:.0f} seconds."
        return self._unavailable_reason

    def _open_read_only(self, *, exclusive: bool) -> None:
        with self.read() as db:
            check_version(db, self.name)
        if exclusive:
            self._writer = self._connect()
            self._become_owner(self._writer, _lock_number("owner", self._read_schema(self._writer)), OWNER_TIMEOUT)

    def _open_writer(self, timeout: float) -> PostgresConnection:
        """Connect, become the ledger's only exporter, and bring the tables up to date."""
        db = self._connect()
        try:
            schema = self._read_schema(db)
            self._begin_write = _begin_statements(schema)
            self._become_owner(db, _lock_number("owner", schema), timeout)
            db.run(self._begin_write)
            migrate(db, self.name)
            db.run("COMMIT")
        except BaseException:
            db.close()
            raise
        return db

    def _read_schema(self, db: PostgresConnection) -> str:
        (schema,) = db.execute("SELECT current_schema()").fetchone()
        if schema is None:
            raise LedgerError(
                f"The search_path of {self.name} names no schema that exists: create it, or correct the URL's "
                "options=-csearch_path=…"
            )
        return str(schema)

    def _become_owner(self, db: PostgresConnection, number: int, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not db.execute("SELECT pg_try_advisory_lock(?)", (number,)).fetchone()[0]:
            # A connection that this process lost may still be open for the server.
            db.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity JOIN pg_locks USING (pid)"
                " WHERE locktype = 'advisory' AND application_name = ? AND pid <> pg_backend_pid()",
                (self._application_name,),
            )
            if time.monotonic() >= deadline:
                kind = LedgerUnavailable if self._is_open else LedgerError
                raise kind(
                    f"{self.name} is in use by another ai-spend-exporter. Stop that one, or give this one its own "
                    "database or schema in --storage.url."
                )
            time.sleep(0.1)

    def _connect(self) -> PostgresConnection:
        try:
            self._password = self._location.read_password()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            kind = LedgerUnavailable if self._is_open else LedgerError
            raise kind(f"The password file {self._location.password_file} cannot be read: {reason}.") from error
        db = PostgresConnection(self._location.url, self._password, self._parameters)
        try:
            db.run(_SESSION_SETTINGS)
        except BaseException:
            db.close()
            raise
        return db

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Run one transaction: all of it is stored, durably, or none of it.

        Raises LedgerUnavailable where the database cannot be reached or rejects to store anything at present, and
        LedgerError where its tables are gone.
        """
        if self._read_only:
            raise LedgerError(f"The ledger {self.name} is open for reading only.")
        with self._lock, self._translate_errors():
            self._check_open()
            db = self._connected_writer()
            try:
                db.run(self._begin_write)
                yield db
                self._commit(db)
            except BaseException:
                self._abandon(db)
                raise
            self._unavailable_reason = ""

    def _connected_writer(self) -> PostgresConnection:
        """Return the connection that writes, which is opened again where it was lost."""
        if self._writer is not None and not self._writer.is_alive:
            self._writer.close()
            self._writer = None
        if self._writer is None:
            # Not every account that is due waits for a server that does not answer.
            if self._unavailable_reason and time.monotonic() < self._next_attempt:
                raise LedgerUnavailable(self._unavailable_reason)
            try:
                self._writer = self._open_writer(RECONNECT_TIMEOUT)
            finally:
                self._next_attempt = time.monotonic() + RETRY_SECONDS
            log_event(logger, "info", "Connected to the ledger's database again", ledger=self.name)
        return self._writer

    def _commit(self, db: PostgresConnection) -> None:
        try:
            db.run("COMMIT")
        except psycopg.Error:
            # The server may have stored the transaction before the connection was lost: what is kept of the ledger in
            # memory may be outdated, and is to be read again.
            self.on_unknown_outcome()
            raise

    def _abandon(self, db: PostgresConnection) -> None:
        """Roll back after an error; a connection that cannot even do that is closed, which rolls back, too."""
        try:
            if db.in_transaction:
                db.run("ROLLBACK")
            if db.is_alive:
                return
        except psycopg.Error:
            pass
        db.close()
        self._writer = None

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Read one consistent view of the ledger; the writer does not wait for it."""
        with self._translate_errors(), self._reader() as db:
            db.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            try:
                yield db
            finally:
                db.run("COMMIT")

    @contextmanager
    def _reader(self) -> Iterator[PostgresConnection]:
        """Lend a connection from the pool, a new one where the server has closed it."""
        with self._readers_condition:
            self._check_open()
            free = self._readers_condition.wait_for(
                lambda: self._closed or self._active_readers < MAX_READERS, READER_TIMEOUT
            )
            self._check_open()
            if not free:
                raise LedgerUnavailable(f"All {MAX_READERS} connections to {self.name} are in use.")
            self._active_readers += 1
            db = self._idle_readers.pop() if self._idle_readers else None
        lent_reader = None
        try:
            if db is not None and not db.is_alive:
                db.close()
                db = None
            if db is None:
                db = self._connect()
            lent_reader = db
            with self._readers_condition:
                self._lent_readers = (*self._lent_readers, db)
            yield db
        except psycopg.Error:
            # Its transaction may not have ended: the next reader gets a new connection.
            if db is not None:
                db.close()
                db = None
            raise
        finally:
            with self._readers_condition:
                self._active_readers -= 1
                self._lent_readers = tuple(lent for lent in self._lent_readers if lent is not lent_reader)
                if db is not None:
                    self._idle_readers.append(db)
                self._readers_condition.notify_all()

    def fetch_each(self, db: Connection, sql: str, parameters: Iterable[Sequence[Any]]) -> list[Any]:
        """Run a statement with each of these parameters, without waiting for one result before the next."""
        return cast(PostgresConnection, db).fetch_each(sql, parameters)

    def insert_pairs(self, db: Connection, table: str, pairs_by_key: Mapping[Key, Sequence[tuple[int, int]]]) -> None:
        """Insert a row (*key, *pair) for each pair of each key; the columns of a table are in this order."""
        rows = [(*key, *pair) for key, pairs in pairs_by_key.items() for pair in pairs]
        marks = ", ".join("?" * len(rows[0])) if rows else ""
        db.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)

    def stream(self, db: Connection, sql: str) -> Iterable[Sequence[Any]]:
        """Yield the rows of a query in batches."""
        return cast(PostgresConnection, db).stream(sql)

    def after_copy(self, db: Connection) -> None:
        """Let the next number of an account and of labels be above the largest one."""
        for table in ("account", "series"):
            db.execute(
                f"SELECT setval(pg_get_serial_sequence(?, 'id'), (SELECT MAX(id) FROM {table}))"
                f" WHERE EXISTS (SELECT 1 FROM {table})",
                (table,),
            )

    def check(self) -> None:
        """Connect again where the connection that writes was lost, and measure the size. Raises LedgerError.

        That the database cannot be reached is no error here, but `unavailable_reason`.
        """
        if self._read_only or self._closed or not self._lock.acquire(blocking=False):
            return  # a transaction is under way, and notices by itself
        try:
            is_lost = self._writer is None or not self._writer.is_alive
            if is_lost or self._unavailable_reason:
                self._try_again()
            elif time.monotonic() >= self._next_size:
                with self._translate_errors():
                    self._measure_size()
        except LedgerUnavailable:
            return
        finally:
            self._lock.release()

    def _try_again(self) -> None:
        """Show that the database stores something, at most every few seconds."""
        if self._unavailable_reason and time.monotonic() < self._next_attempt:
            return
        self._next_attempt = 0
        try:
            with self.write() as db:
                db.execute("UPDATE ledger_version SET version = version")
        finally:
            self._next_attempt = time.monotonic() + RETRY_SECONDS

    def size(self) -> int:
        """Return the bytes that the tables and indexes take, as of at most a minute ago."""
        return self._size

    def _measure_size(self) -> None:
        self._next_size = time.monotonic() + SIZE_SECONDS
        tables = (VERSION_TABLE, *read_table_shapes())
        with self.read() as db:
            (size,) = db.execute(
                "SELECT COALESCE(SUM(pg_total_relation_size(oid)), 0) FROM pg_class"
                f" WHERE relnamespace = current_schema()::regnamespace AND relname IN ({placeholders(tables)})",
                tables,
            ).fetchone()
        self._size = int(size)

    def close(self) -> None:
        """Reject new readers, wait for active ones, close every connection, and let others open the ledger."""
        with self._lock:
            with self._readers_condition:
                self._closed = True
                self._readers_condition.notify_all()
                self._readers_condition.wait_for(lambda: not self._active_readers, CLOSE_TIMEOUT)
                connections, self._idle_readers = self._idle_readers, []
            if self._writer is not None:
                connections.append(self._writer)
                self._writer = None
            for db in connections:
                db.close()

    def _check_open(self) -> None:
        if self._closed:
            raise LedgerError(f"The ledger {self.name} is closed: the process is ending.")

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            if self._is_open and concerns_values(error):
                raise
            translated = to_ledger_error(self.name, error, self._password, is_open=self._is_open)
            self._note(translated)
            raise translated from error
        except LedgerUnavailable as error:
            self._note(error)
            raise

    def _note(self, error: LedgerError) -> None:
        """Keep the reason why the database cannot be used, for readiness, until a write succeeds."""
        if isinstance(error, LedgerUnavailable):
            self._unavailable_reason = str(error)


def _connection_parameters(location: PostgresLocation) -> dict[str, str | int]:
    """Return the parameters that a URL does not set itself. Raises LedgerError where it has an unknown parameter."""
    try:
        given = conninfo_to_dict(location.url)
    except psycopg.ProgrammingError as error:
        raise LedgerError(f"The URL of the ledger's database cannot be used: {str(error).strip()}") from error
    return {name: value for name, value in _CONNECTION_DEFAULTS.items() if name not in given}


def _do_nothing() -> None:
    """Do nothing."""


def _begin_statements(schema: str) -> str:
    """Return the statements that begin a transaction, in which no other one writes to the ledger."""
    return f"BEGIN; SELECT pg_advisory_xact_lock({_lock_number('writer', schema)})"


def _lock_number(purpose: str, schema: str) -> int:
    """Return the number of an advisory lock; such locks are the same in all schemas of a database."""
    digest = blake2b(f"ai-spend-exporter {purpose} {schema}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, signed=True)
