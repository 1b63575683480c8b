"""The ledger's file: opening and locking it, one writer, many readers, and errors of the disk as messages for people.

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
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from exporter.errors import LedgerError
from exporter.ledger.schema import check_version, migrate

LEDGER_FILE_NAME = "ledger.db"
CLOSE_TIMEOUT = 5
"""Seconds that closing waits for active readers."""


class Store:
    """A SQLite file in WAL mode, with one connection that writes and a pool of connections that read.

    With `read_only` the file is not changed, and another process may be writing to it.
    """

    def __init__(self, folder: Path, *, read_only: bool = False) -> None:
        self.path = folder / LEDGER_FILE_NAME
        self._read_only = read_only
        self._lock = threading.RLock()
        self._idle_readers: list[sqlite3.Connection] = []
        self._active_readers = 0
        self._closed = False
        self._readers_condition = threading.Condition()
        if read_only and not self.path.exists():
            raise LedgerError(
                f"There is no ledger in {folder}. Point --storage.path at the folder of the exporter's own."
            )
        self._folder_lock = None if read_only else _lock_folder(folder)
        with self._translate_errors():
            self._writer = self._connect()
            if read_only:
                check_version(self._writer, str(self.path))
                return
            self._writer.execute("PRAGMA journal_mode = WAL")
            # FULL: what was acknowledged survives a power cut, not only the end of this process.
            self._writer.execute("PRAGMA synchronous = FULL")
            migrate(self._writer, str(self.path))

    def _connect(self) -> sqlite3.Connection:
        uri = f"{self.path.absolute().as_uri()}?mode={'ro' if self._read_only else 'rwc'}"
        db = sqlite3.connect(uri, timeout=30, isolation_level=None, check_same_thread=False, uri=True)
        # Temporary files may have no place: the ledger's folder may be the only writable one.
        db.execute("PRAGMA temp_store = MEMORY")
        return db

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """Run one transaction: all of it is stored, or none of it. Raises LedgerError when the disk fails."""
        with self._lock, self._translate_errors():
            self._check_open()
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
            except BaseException:
                # SQLite has already rolled back by itself if the disk was full.
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise
            self._writer.execute("COMMIT")

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
                db = self._connect()
                db.execute("PRAGMA query_only = ON")
            yield db
        finally:
            with self._readers_condition:
                self._active_readers -= 1
                if db is not None:
                    self._idle_readers.append(db)
                self._readers_condition.notify_all()

    def _check_open(self) -> None:
        if self._closed:
            raise LedgerError(f"The ledger {self.path} is closed: the process is ending.")

    def size(self) -> int:
        """Return the bytes that the ledger takes on the disk."""
        files = (self.path, self.path.with_name(LEDGER_FILE_NAME + "-wal"))
        return sum(file.stat().st_size for file in files if file.exists())

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
            raise LedgerError(_explain(self.path, error)) from error


def placeholders(values: Collection[object]) -> str:
    """Return the parameters of a list in SQL: `?, ?` for two values."""
    return ", ".join("?" * len(values))


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

    def close(self) -> None:
        os.close(self._descriptor)


def _concerns_values(error: sqlite3.DatabaseError) -> bool:
    """Return whether an error is about the values of a statement, such as a sum above 64 bits, and not about the file.

    It fails the operation of one account, not the process: values come from providers, whose answers must not end it.
    """
    kinds = (sqlite3.DataError, sqlite3.IntegrityError, sqlite3.ProgrammingError)
    return isinstance(error, kinds) or "integer overflow" in str(error)


def _explain(path: Path, error: sqlite3.DatabaseError) -> str:
    text = str(error)
    if "full" in text:
        advice = "The disk is full: free some space and start again. Everything stored so far is kept."
    elif "not a database" in text or "malformed" in text:
        advice = "The file is damaged: move it away and start again; it is filled again from the providers."
    elif "readonly" in text or "unable to open" in text:
        advice = "Make the folder and the file writable for this user."
    else:
        advice = "Check the disk (space, quota, mount). Everything stored so far is kept."
    return f"The ledger {path} cannot be used: {text}. {advice}"
