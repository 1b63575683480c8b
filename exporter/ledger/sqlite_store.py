"""The ledger in a SQLite file: opening and locking it, one writer, many readers, errors of the disk as messages.

Statements take plain parameters and return plain rows. Rows passed as one JSON text (`json_each`, `json_group_array`)
take as much CPU time or more, and are faster only beside threads that compute, because sqlite3 releases the
interpreter's lock at every row. Only where that is a clear factor, in the reads of `hours`, are columns passed as text.
docs/benchmarks.md has the figures.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from exporter.errors import LedgerError, LedgerUnavailable
from exporter.ledger.schema import check_version, migrate
from exporter.ledger.store import SERIES_COLUMNS, WHAT_IS_LOST, Connection, Dialect, Key

LEDGER_FILE_NAME = "ledger.db"
WAL_FILE_NAME = LEDGER_FILE_NAME + "-wal"
_MARK = b"ledger\n"
"""Content of the lock file once the ledger's tables exist: an empty ledger file beside it has lost its content."""
CLOSE_TIMEOUT = 5
"""Seconds that closing waits for active readers."""
_MAX_PAIRS = 64
"""Per statement, far below SQLite's limit of parameters."""


class SqliteStore:
    """A SQLite file in WAL mode, with one connection that writes and a pool of connections that read.

    With `read_only` the file is not changed, and another process may be writing to it unless it is `exclusive`.
    """

    dialect = Dialect(
        concat_template="group_concat({value})",
        ordered_concat_template="group_concat({value})",
        select_series=f"SELECT id FROM series WHERE {' AND '.join(f'{name} = ?' for name in SERIES_COLUMNS)}",
    )
    unavailable_reason = ""
    """A file is there, or ends the process; what its disk rejects is the problem of the accounts concerned."""

    def __init__(self, folder: Path, *, read_only: bool = False, exclusive: bool = False) -> None:
        self.path = folder / LEDGER_FILE_NAME
        self._read_only = read_only
        self._lock = threading.RLock()
        self._idle_readers: list[sqlite3.Connection] = []
        self._active_readers = 0
        self._is_open = False
        """Whether the file was opened successfully."""
        self._closed = False
        self._readers_condition = threading.Condition()
        if read_only:
            _check_exists(self.path)
        self._folder_lock = None if read_only and not exclusive else _lock_folder(folder)
        try:
            self._check_not_emptied()
            with self._translate_errors():
                self._open()
        except BaseException:
            if self._folder_lock is not None:
                self._folder_lock.close()
            raise
        self._files = () if read_only else tuple(_identify(file) for file in (self.path, self._wal_path))
        self._is_open = True

    def _open(self) -> None:
        if self._read_only:
            self._writer = self._connect("ro")
            check_version(self._writer, str(self.path))
            return
        # A ledger that was moved away begins as a new one: what the lock file says is about the one before.
        if self._folder_lock is not None and not self.path.exists():
            self._folder_lock.write(b"")
        self._writer = self._connect("rwc")
        self._writer.execute("PRAGMA journal_mode = WAL")
        # FULL: what was acknowledged survives a power cut, not only the end of this process.
        self._writer.execute("PRAGMA synchronous = FULL")
        migrate(self._writer, str(self.path))
        # The first read opens the file of the write-ahead log, which is to be identified.
        self._writer.execute("SELECT COUNT(*) FROM account").fetchone()
        if self._folder_lock is not None:
            self._folder_lock.write(_MARK)

    def _check_not_emptied(self) -> None:
        """Raise LedgerError where the ledger's file is empty although it had content.

        SQLite takes an empty file for a new database, so that the ledger would silently begin without what it had. A
        process that was killed before it created the tables leaves an empty file as well: there is nothing to lose.
        """
        if not self.path.exists() or self.path.stat().st_size:
            return
        marked = self._read_only or (self._folder_lock is not None and self._folder_lock.read() == _MARK)
        if marked or (self._wal_path.exists() and self._wal_path.stat().st_size):
            raise LedgerError(
                f"The ledger {self.path} is empty, although it had content. Restore it from a backup. Without one, "
                f"move it away and start again: {WHAT_IS_LOST}"
            )

    @property
    def _wal_path(self) -> Path:
        return self.path.with_name(WAL_FILE_NAME)

    @property
    def name(self) -> str:
        """The file."""
        return str(self.path)

    def check(self) -> None:
        """Raise LedgerError where a file of the ledger was removed or replaced: writes would be lost.

        SQLite keeps writing to a file that has no name any more, and reports success.
        """
        for file, identity in zip((self.path, self._wal_path), self._files, strict=False):
            try:
                present = _identify(file)
            except (FileNotFoundError, NotADirectoryError):
                present = None
            except OSError:
                # A folder that cannot be read says nothing about the file, which is still open.
                return
            if present != identity:
                what = "removed" if present is None else "replaced by another file"
                raise LedgerError(
                    f"{file} was {what} while the exporter ran; what it wrote since may be lost. Put the file back, or "
                    f"restore a backup, and start again. Without either, start again all the same: {WHAT_IS_LOST} "
                    "Stop the exporter before you move its ledger."
                )

    def _connect(self, mode: str) -> sqlite3.Connection:
        uri = f"{self.path.absolute().as_uri()}?mode={mode}"
        db = sqlite3.connect(uri, timeout=30, isolation_level=None, check_same_thread=False, uri=True)
        # Temporary files may have no place: the ledger's folder may be the only writable one.
        db.execute("PRAGMA temp_store = MEMORY")
        return db

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """Run one transaction: all of it is stored, or none of it.

        Raises LedgerUnavailable where the disk fails, and LedgerError where the file is damaged or was removed.
        """
        with self._lock, self._translate_errors():
            self._check_open()
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                # SQLite has already rolled back by itself if the disk was full. A COMMIT that failed for another reason
                # leaves its transaction open, and every later one would fail.
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise
            # After the transaction: what was removed during it is noticed, and the caller acknowledges nothing.
            self.check()

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """Read one consistent view of the ledger; the writer does not wait for it."""
        with self._translate_errors(), self._reader() as db:
            db.execute("BEGIN")
            try:
                yield db
            finally:
                db.execute("COMMIT")

    @contextmanager
    def _reader(self) -> Iterator[sqlite3.Connection]:
        """Lend a connection from the pool. Not one per thread: threads end, and their connections would stay open."""
        with self._readers_condition:
            self._check_open()
            self._active_readers += 1
            db = self._idle_readers.pop() if self._idle_readers else None
        try:
            if db is None:
                # Never created here: a reader of a file that was removed would leave an empty one in its place.
                db = self._connect("ro" if self._read_only else "rw")
                db.execute("PRAGMA query_only = ON")
            yield db
        except sqlite3.DatabaseError:
            # Its transaction may not have ended: the next reader gets a new connection.
            if db is not None:
                db.close()
                db = None
            raise
        finally:
            with self._readers_condition:
                self._active_readers -= 1
                if db is not None:
                    self._idle_readers.append(db)
                self._readers_condition.notify_all()

    def _check_open(self) -> None:
        if self._closed:
            raise LedgerError(f"The ledger {self.path} is closed: the process is ending.")

    def fetch_each(self, db: Connection, sql: str, parameters: Iterable[Sequence[Any]]) -> list[Any]:
        """Run a statement with each of these parameters; return the first row of each, None where it has none."""
        results = (db.execute(sql, row).fetchall() for row in parameters)
        return [rows[0] if rows else None for rows in results]

    def insert_pairs(self, db: Connection, table: str, pairs_by_key: Mapping[Key, Sequence[tuple[int, int]]]) -> None:
        """Insert a row (*key, *pair) for each pair of each key; the columns of a table are in this order.

        A statement takes a key once, with many of its pairs: less than half of the time of a statement for each row.
        """
        parameters_by_count: dict[int, list[list[object]]] = {}
        for key, pairs in pairs_by_key.items():
            for first in range(0, len(pairs), _MAX_PAIRS):
                part = pairs[first : first + _MAX_PAIRS]
                parameters_by_count.setdefault(len(part), []).append([*key, *chain.from_iterable(part)])
        for count, parameters in parameters_by_count.items():
            key_length = len(parameters[0]) - 2 * count
            values = ", ".join(["(?, ?)"] * count)
            # SQLite calls the columns of VALUES column1 and column2.
            db.executemany(
                f"INSERT INTO {table} SELECT {', '.join('?' * key_length)}, column1, column2 FROM (VALUES {values})",
                parameters,
            )

    def stream(self, db: Connection, sql: str) -> Iterable[Sequence[Any]]:
        """Yield the rows of a query; SQLite computes each when it is fetched."""
        return db.execute(sql)

    def after_copy(self, db: Connection) -> None:
        """Do nothing: the next number is above the largest one."""

    def size(self) -> int:
        """Return the bytes that the ledger takes on the disk."""
        return sum(file.stat().st_size for file in (self.path, self._wal_path) if file.exists())

    def close(self) -> None:
        """Reject new readers, wait for active ones, close every connection and release the folder."""
        with self._lock:
            with self._readers_condition:
                self._closed = True
                self._readers_condition.wait_for(lambda: not self._active_readers, CLOSE_TIMEOUT)
                # Idle connections only: closing one while its reader uses it crashes the process.
                idle_readers, self._idle_readers = self._idle_readers, []
            for db in (*idle_readers, self._writer):
                db.close()
            if self._folder_lock is not None:
                self._folder_lock.close()

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            if _concerns_values(error):
                raise
            # Before it is open there is nothing to serve meanwhile: every error ends the start.
            kind = LedgerUnavailable if self._is_open and _is_temporary(error) else LedgerError
            raise kind(_explain(self.path, error)) from error


class _FileIdentity(NamedTuple):
    device: int
    inode: int


def _identify(file: Path) -> _FileIdentity:
    status = file.stat()
    return _FileIdentity(status.st_dev, status.st_ino)


def _check_exists(path: Path) -> None:
    try:
        found = path.exists()
    except OSError as error:
        raise LedgerError(f"{path} cannot be read: {error.strerror}. Run this as the exporter's user.") from error
    if not found:
        raise LedgerError(
            f"There is no ledger in {path.parent}. Point --storage.path at the folder of the exporter's own."
        )


def _lock_folder(folder: Path) -> _FolderLock:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return _FolderLock(folder / "lock")
    except BlockingIOError as error:
        raise LedgerError(
            f"{folder} is in use by another ai-spend-exporter. Stop that one, or give this one its own --storage.path."
        ) from error
    except (FileExistsError, NotADirectoryError) as error:
        raise LedgerError(
            f"{folder} cannot be used as the ledger's folder: a file stands in its way. "
            "Point --storage.path at a folder."
        ) from error
    except OSError as error:
        raise LedgerError(
            f"{folder} cannot be used as the ledger's folder: {error.strerror}. "
            "Make it writable for this user, or point --storage.path at a folder that is."
        ) from error


class _FolderLock:
    """A lock on the folder; the operating system releases it when the process ends, after a kill too."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._descriptor)
            raise

    def read(self) -> bytes:
        """Return the lock file's content."""
        return os.pread(self._descriptor, 64, 0)

    def write(self, content: bytes) -> None:
        """Replace the lock file's content durably; it is filled up to the length of the mark."""
        content = content.ljust(len(_MARK), b"\0")
        if self.read() != content:
            os.pwrite(self._descriptor, content, 0)
            os.fsync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)


def _concerns_values(error: sqlite3.DatabaseError) -> bool:
    """Return whether an error is about the values of a statement, such as a sum above 64 bits, and not about the file.

    It fails the operation of one account, not the process: values come from providers, whose answers must not end it.
    """
    kinds = (sqlite3.DataError, sqlite3.IntegrityError, sqlite3.ProgrammingError)
    return isinstance(error, kinds) or "integer overflow" in str(error)


_TEMPORARY_ERRORS = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_READONLY,
    }
)
"""Primary result codes that say that the disk or the machine fails, not that the file's content is damaged."""
_PRIMARY_CODE = 0xFF
"""The bits of a result code that are its primary code; the others say more about it."""


def _is_temporary(error: sqlite3.DatabaseError) -> bool:
    # Errors that the sqlite3 module raises itself, without SQLite, have no code.
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & _PRIMARY_CODE in _TEMPORARY_ERRORS


def _explain(path: Path, error: sqlite3.DatabaseError) -> str:
    text = str(error)
    if "full" in text:
        advice = "The disk is full: free some space. Everything stored so far is kept."
    elif "not a database" in text or "malformed" in text:
        advice = (
            f"The file is damaged: move it away, restore a backup and start again. Without a backup, {WHAT_IS_LOST}"
        )
    elif "readonly" in text or "unable to open" in text:
        advice = "Make the folder and the file writable for this user."
    else:
        advice = "Check the disk (space, quota, mount). Everything stored so far is kept."
    return f"The ledger {path} cannot be used: {text}. {advice}"
