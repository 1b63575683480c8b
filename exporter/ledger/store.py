"""Where the ledger is stored: the interface that SQLite and PostgreSQL implement.

The statements of this folder are written in the SQL that both understand, with `?` for a parameter: `INSERT … ON
CONFLICT`, `RETURNING`, no integer as a condition, no scalar MIN or MAX, no literal with `?` or `%`. What cannot be
written in one way is in `Dialect`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from exporter.model import RowLabels

Key = TypeVar("Key", bound=tuple[object, ...])
"""The first columns of a row."""

SERIES_COLUMNS = ("account", "report", *RowLabels._fields)
"""The columns that identify a set of labels."""


class Cursor(Protocol):
    """The rows of a statement, as tuples of int, float, str and None."""

    @property
    def rowcount(self) -> int:
        """The number of rows that the statement changed."""

    def fetchone(self) -> Any:
        """Return the next row; None after the last one."""

    def fetchall(self) -> list[Any]:
        """Return all rows that are left."""

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the rows that are left."""


class Connection(Protocol):
    """A connection within a transaction. `sqlite3.Connection` is one."""

    def execute(self, sql: str, parameters: Sequence[Any] = ..., /) -> Cursor:
        """Run a statement."""

    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]], /) -> object:
        """Run a statement with each of these parameters."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """The fragments of SQL that differ between databases."""

    concat_template: str
    """The aggregate that joins the values of the expression `{value}` with commas, in any order."""
    ordered_concat_template: str
    """The same in the order of the expression `{order}`, of rows that come in this order already."""
    select_series: str
    """The query for the number of labels. Its parameters are the values of `SERIES_COLUMNS`."""

    def concat(self, value: str, order: str = "") -> str:
        """Return the aggregate that joins values with commas.

        With `order`, an index or a subquery has to sort the rows: SQLite has no order within an aggregate, and keeps
        that of its rows, which PostgreSQL does not.
        """
        template = self.ordered_concat_template if order else self.concat_template
        return template.format(value=value, order=order)


class Store(Protocol):
    """A ledger's database: one transaction that writes at a time, and many that read."""

    dialect: Dialect

    @property
    def name(self) -> str:
        """The file, or the URL without a password: for messages."""

    @property
    def unavailable_reason(self) -> str:
        """Why the database cannot be reached at present; empty while it can."""

    def write(self) -> AbstractContextManager[Connection]:
        """Run one transaction: all of it is stored, durably, or none of it.

        Raises LedgerUnavailable where nothing can be stored at present, and LedgerError where nothing can be any more.
        """

    def read(self) -> AbstractContextManager[Connection]:
        """Read one consistent view of the ledger; the writer does not wait for it. Raises LedgerError, as `write`."""

    def fetch_each(self, db: Connection, sql: str, parameters: Iterable[Sequence[Any]]) -> list[Any]:
        """Run a statement with each of these parameters; return the first row of each, None where it has none."""

    def insert_pairs(self, db: Connection, table: str, pairs_by_key: Mapping[Key, Sequence[tuple[int, int]]]) -> None:
        """Insert a row (*key, *pair) for each pair of each key; the columns of a table are in this order."""

    def stream(self, db: Connection, sql: str) -> Iterable[Sequence[Any]]:
        """Yield the rows of a query that are too many for the memory, within a transaction."""

    def after_copy(self, db: Connection) -> None:
        """Complete a transaction that inserted rows together with their numbers into `account` and `series`."""

    def check(self) -> None:
        """Raise LedgerError where the ledger cannot be used any more, and connect again where a connection was lost."""

    def size(self) -> int:
        """Return the bytes that the ledger takes on disk."""

    def close(self) -> None:
        """Reject new readers, wait for active ones, close every connection, and let others open the ledger."""


WHAT_IS_LOST = (
    "the usage of polled accounts is read again from the providers, as far back as `history`; pushed usage is not, "
    "unless its sources send it again."
)
"""The advice about a ledger that has to begin without its content."""


def placeholders(values: Collection[object]) -> str:
    """Return the parameters of a list in SQL: `?, ?` for two values; nothing is in the list of no values."""
    return ", ".join("?" * len(values)) or "NULL"
