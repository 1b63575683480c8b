"""A connection to PostgreSQL that takes the ledger's statements: `?` for a parameter, plain tuples as rows."""

from __future__ import annotations

import re
import select
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import psycopg
from psycopg import errors
from psycopg.abc import Query
from psycopg.adapt import Buffer, Loader
from psycopg.conninfo import make_conninfo
from psycopg.types.numeric import Int8Dumper

from exporter.ledger.store import Cursor

MIN_COPY_ROWS = 8
"""From this number of rows on a COPY, which takes two more round trips, is faster than an INSERT of each row."""
STREAM_ROWS = 10_000
"""Rows that are fetched at once from a large result."""
_PLAIN_INSERT = re.compile(r"INSERT INTO (\w+ \([\w, ]+\)) VALUES \((?:\?, )*\?\)")
"""An INSERT of nothing but parameters, without a clause for conflicts."""


class _IntegralLoader(Loader):
    """Loads a numeric as an int: the ledger has no other than sums of integers."""

    def load(self, data: Buffer) -> int:
        """Return the number."""
        return int(bytes(data))


@lru_cache(maxsize=256)
def translate(sql: str) -> bytes:
    """Return a statement with psycopg's placeholders; the ledger's statements have no literal with `?` or `%`."""
    return sql.replace("%", "%%").replace("?", "%s").encode()


@lru_cache(maxsize=256)
def _find_copy(sql: str) -> bytes | None:
    """Return the COPY that does the same as an INSERT of many rows; None where none does."""
    match = _PLAIN_INSERT.fullmatch(sql)
    return f"COPY {match[1]} FROM STDIN".encode() if match else None


class PostgresConnection:
    """A connection in autocommit mode: transactions begin and end where `PostgresStore` says so."""

    def __init__(self, url: str, password: str | None, parameters: Mapping[str, str | int]) -> None:
        """Connect. `parameters` are libpq's, beside those of the URL. Raises psycopg.Error."""
        self.waiting_since: float | None = None
        """Since when the server has not answered, by the monotonic clock; None while nobody waits."""
        secret = {} if password is None else {"password": password}
        conninfo = make_conninfo(url, **parameters, **secret)
        self._connection = psycopg.connect(conninfo, autocommit=True)
        # One type for all integers: fewer prepared statements, and a number beyond 64 bits fails, as in SQLite.
        self._connection.adapters.register_dumper(int, Int8Dumper)
        self._connection.adapters.register_loader("numeric", _IntegralLoader)

    def run(self, statements: Query) -> psycopg.Cursor[Any]:
        """Run statements without parameters, several of them in one round trip."""
        with self._waiting():
            return self._connection.execute(statements)

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> Cursor:
        """Run a statement. Raises OverflowError for a number beyond 64 bits."""
        with self._waiting():
            return self._connection.execute(translate(sql), tuple(parameters))

    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]], /) -> None:
        """Run a statement with each of these parameters. Raises OverflowError for a number beyond 64 bits."""
        rows = [tuple(row) for row in parameters]
        copy = _find_copy(sql) if len(rows) >= MIN_COPY_ROWS else None
        with self._waiting(), self._connection.cursor() as cursor:
            if copy is None:
                cursor.executemany(translate(sql), rows)
                return
            with cursor.copy(copy) as stream:
                for row in rows:
                    stream.write_row(row)

    def fetch_each(self, sql: str, parameters: Iterable[Sequence[Any]]) -> list[Any]:
        """Run a statement with each of these parameters; return the first row of each, None where it has none."""
        rows = []
        with self._waiting(), self._connection.cursor() as cursor:
            cursor.executemany(translate(sql), [tuple(row) for row in parameters], returning=True)
            has_result = cursor.pgresult is not None
            while has_result:
                rows.append(cursor.fetchone())
                has_result = bool(cursor.nextset())
        return rows

    def stream(self, sql: str) -> Iterator[Sequence[Any]]:
        """Yield the rows of a query in batches, within a transaction."""
        with self._connection.cursor(name="ledger_stream") as cursor:
            cursor.itersize = STREAM_ROWS
            cursor.execute(translate(sql), ())
            yield from cursor

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        self.waiting_since = time.monotonic()
        try:
            yield
        except errors.NumericValueOutOfRange as error:
            raise OverflowError(str(error)) from error
        finally:
            self.waiting_since = None

    @property
    def is_alive(self) -> bool:
        """Whether the server has not closed the idle connection, as far as this machine knows; no round trip."""
        if self._connection.closed:
            return False
        # An idle connection has something to read when the server ends it, or sends a notice before that.
        poll = select.poll()  # not select.select, which takes no descriptor above 1023
        poll.register(self._connection.fileno(), select.POLLIN)
        readable = poll.poll(0)
        if readable:
            try:
                self._connection.pgconn.consume_input()
            except psycopg.OperationalError:
                return False
        return bool(self._connection.pgconn.status == psycopg.pq.ConnStatus.OK) and not readable

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction has begun and not ended, on a connection that is not lost."""
        status = self._connection.info.transaction_status
        return status not in (psycopg.pq.TransactionStatus.IDLE, psycopg.pq.TransactionStatus.UNKNOWN)

    def close(self) -> None:
        """Close it; the server rolls back an open transaction."""
        self._connection.close()
