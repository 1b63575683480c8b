"""The file that remembers: opening it, one writer, many readers, and what a broken disk looks like to a person."""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from exporter.errors import LedgerError
from exporter.ledger.schema import check_version, migrate

LEDGER_FILE_NAME = "ledger.db"
CLOSE_TIMEOUT = 5
"""Seconds that closing waits for those who read."""


class Store:
    """A SQLite file in WAL mode with one writing connection, and a reading one for each that reads at the same time.

    For `reading` only, the file is left as it is, and another process may be writing to it.
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
        place = f"{self.path.absolute().as_uri()}?mode={'ro' if self._read_only else 'rwc'}"
        db = sqlite3.connect(place, timeout=30, isolation_level=None, check_same_thread=False, uri=True)
        # The ledger's folder may be the only one that can be written.
        db.execute("PRAGMA temp_store = MEMORY")
        return db

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it is kept, or none of it. Raises LedgerError when the disk is wrong."""
        with self._lock, self._translate_errors():
            self._check_open()
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
            except BaseException:
                # SQLite has already rolled back by itself where the disk was full.
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise
            self._writer.execute("COMMIT")

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """One consistent view of the ledger, undisturbed by the writer."""
        with self._translate_errors(), self._reader() as db:
            db.execute("BEGIN")
            try:
                yield db
            finally:
                db.execute("COMMIT")

    @contextmanager
    def _reader(self) -> Iterator[sqlite3.Connection]:
        """Lend a connection that nobody uses: threads come and go, and one of their own would outlive each of them."""
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
        names = (self.path, self.path.with_name(LEDGER_FILE_NAME + "-wal"))
        return sum(name.stat().st_size for name in names if name.exists())

    def close(self) -> None:
        """Let those who read come to their end, refuse others, close every connection and let the next process in."""
        with self._lock:
            with self._readers_condition:
                self._closed = True
                self._readers_condition.wait_for(lambda: not self._active_readers, CLOSE_TIMEOUT)
                # Only what nobody uses: a connection that is closed under its reader takes the whole process along.
                unused, self._idle_readers = self._idle_readers, []
            for db in (*unused, self._writer):
                db.close()
            if self._folder_lock is not None:
                self._folder_lock.close()

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise LedgerError(_explain(self.path, error)) from error


def to_json(rows: Sequence[object]) -> str:
    """Return rows as the JSON that a statement reads with json_each.

    Rows go in and come out as one JSON array per statement because sqlite3 gives the interpreter away at every row:
    while other threads compute, a thousand rows one by one cost a thousand waits.
    """
    return json.dumps(rows, separators=(",", ":"))


def fetch_json(db: sqlite3.Connection, query: str, parameters: Sequence[object]) -> Any:
    """Return the JSON array that a query's json_group_array made, parsed."""
    return json.loads(db.execute(query, parameters).fetchone()[0])


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
    """A lock on the folder that the system lets go of when this process ends, however it ends."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._descriptor)
            raise

    def close(self) -> None:
        os.close(self._descriptor)


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
