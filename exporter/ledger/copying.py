"""Copies a ledger to another place, such as from a folder into PostgreSQL, and compares every row afterwards."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from itertools import islice
from typing import Any

import msgspec

from exporter.errors import LedgerError
from exporter.ledger.schema import MIGRATIONS
from exporter.ledger.store import Connection, Store, placeholders

BATCH_ROWS = 10_000
"""Rows that are in memory at once."""


@dataclass(frozen=True, slots=True)
class TableShape:
    """The columns of a table of the ledger."""

    columns: Sequence[str]
    key: Sequence[str]
    """The columns that identify a row; all columns where there is no primary key."""


@dataclass(frozen=True, slots=True)
class CopiedTable:
    """A table that is the same in both ledgers."""

    name: str
    rows: int
    digest: str
    """Of all rows, in the order of the key."""


def copy_ledger(source: Store, target: Store) -> list[CopiedTable]:
    """Copy all tables in one transaction, and return them.

    Every row is read again from the target before the transaction is committed. Raises LedgerError where the target is
    not empty, or where a table is not the same in the end: then nothing was stored.
    """
    shapes = read_table_shapes()
    with source.read() as source_db, target.write() as target_db:
        _check_empty(target, target_db, shapes)
        copied = [_copy_table(source, source_db, target_db, name, shape) for name, shape in shapes.items()]
        target.after_copy(target_db)
        for table in copied:
            stored = _digest_table(table.name, target.stream(target_db, _select_all(table.name, shapes[table.name])))
            if stored != table:
                raise LedgerError(
                    f"The table {table.name} of {target.name} has {stored.rows} rows with the digest {stored.digest} "
                    f"after copying {table.rows} rows with the digest {table.digest}. Nothing was stored."
                )
    return copied


@cache
def read_table_shapes() -> Mapping[str, TableShape]:
    """Return table -> its shape, of all tables that the migrations create, by name."""
    with closing(sqlite3.connect(":memory:")) as db:
        for migration in MIGRATIONS:
            migration(db)
        found = db.execute(
            "SELECT m.name, c.name, c.pk FROM sqlite_master m JOIN pragma_table_info(m.name) c"
            " WHERE m.type = 'table' ORDER BY m.name, c.cid"
        ).fetchall()
    shapes: dict[str, TableShape] = {}
    for name in dict.fromkeys(table for table, _, _ in found):
        columns = [column for table, column, _ in found if table == name]
        key = [column for table, column, position in found if table == name and position]
        shapes[name] = TableShape(columns, key or columns)
    return shapes


def _check_empty(target: Store, db: Connection, shapes: Mapping[str, TableShape]) -> None:
    for name in shapes:
        if db.execute(f"SELECT 1 FROM {name} LIMIT 1").fetchone() is not None:
            raise LedgerError(
                f"{target.name} is not empty: its table {name} has rows. Copy into a new folder, database or schema."
            )


def _copy_table(
    source: Store, source_db: Connection, target_db: Connection, name: str, shape: TableShape
) -> CopiedTable:
    insert = f"INSERT INTO {name} ({', '.join(shape.columns)}) VALUES ({placeholders(shape.columns)})"
    hashed = blake2b(digest_size=16)
    count = 0
    for rows in _batches(source.stream(source_db, _select_all(name, shape))):
        target_db.executemany(insert, rows)
        _hash_rows(hashed, rows)
        count += len(rows)
    return CopiedTable(name, count, hashed.hexdigest())


def _digest_table(name: str, rows: Iterable[Sequence[Any]]) -> CopiedTable:
    hashed = blake2b(digest_size=16)
    count = 0
    for batch in _batches(rows):
        _hash_rows(hashed, batch)
        count += len(batch)
    return CopiedTable(name, count, hashed.hexdigest())


def _hash_rows(hashed: blake2b, rows: Sequence[Sequence[Any]]) -> None:
    """Add rows to a digest, which does not depend on how they were batched."""
    for row in rows:
        hashed.update(msgspec.json.encode(row) + b"\n")


def _select_all(name: str, shape: TableShape) -> str:
    return f"SELECT {', '.join(shape.columns)} FROM {name} ORDER BY {', '.join(shape.key)}"


def _batches(rows: Iterable[Sequence[Any]]) -> Iterator[list[Sequence[Any]]]:
    iterator = iter(rows)
    while batch := list(islice(iterator, BATCH_ROWS)):
        yield batch
