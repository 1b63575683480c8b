"""The ledger's tables, as a list of migrations: the n-th brings a ledger from version n-1 to n.

They are written for SQLite; `postgres_schema` translates the types of columns.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from exporter.errors import LedgerError
from exporter.ledger.store import Connection

Migration = Callable[[Connection], None]


def _m001_initial_tables(db: Connection) -> None:
    """Create the tables. Several columns are renamed by the third migration."""
    for statement in (
        """CREATE TABLE account (
            id INTEGER PRIMARY KEY, name TEXT NOT NULL, provider TEXT NOT NULL, UNIQUE (name, provider))""",
        # Interned labels; report is empty for the labels of valued cost.
        """CREATE TABLE series (
            id INTEGER PRIMARY KEY, account INTEGER NOT NULL, report TEXT NOT NULL, meter TEXT NOT NULL,
            workspace TEXT NOT NULL, model TEXT NOT NULL, tier TEXT NOT NULL, api_key TEXT NOT NULL, item TEXT NOT NULL,
            UNIQUE (account, report, meter, workspace, model, tier, api_key, item))""",
        # A digest of the newest rows of a bucket; a bucket without rows is known from its report's coverage.
        """CREATE TABLE bucket (
            account INTEGER NOT NULL, report TEXT NOT NULL, start INTEGER NOT NULL, digest TEXT NOT NULL,
            PRIMARY KEY (account, report, start)) WITHOUT ROWID""",
        """CREATE TABLE point (
            account INTEGER NOT NULL, report TEXT NOT NULL, start INTEGER NOT NULL, series INTEGER NOT NULL,
            value INTEGER NOT NULL, PRIMARY KEY (account, report, start, series)) WITHOUT ROWID""",
        """CREATE TABLE coverage (
            account INTEGER NOT NULL, report TEXT NOT NULL, since REAL NOT NULL, until REAL NOT NULL,
            settled REAL NOT NULL, PRIMARY KEY (account, report)) WITHOUT ROWID""",
        # Days of reports whose hours were rolled up into one row; buckets of such a day are not stored again.
        """CREATE TABLE rolled (
            account INTEGER NOT NULL, report TEXT NOT NULL, day INTEGER NOT NULL,
            PRIMARY KEY (account, report, day)) WITHOUT ROWID""",
        """CREATE TABLE cost (
            account INTEGER NOT NULL, start INTEGER NOT NULL, series INTEGER NOT NULL, value INTEGER NOT NULL,
            PRIMARY KEY (account, start, series)) WITHOUT ROWID""",
        # Everything that is known of a valued day beside its hours; amounts in nano-USD.
        """CREATE TABLE day (
            account INTEGER NOT NULL, start INTEGER NOT NULL, told INTEGER NOT NULL, method TEXT NOT NULL,
            billed INTEGER NOT NULL DEFAULT 0, first INTEGER NOT NULL DEFAULT 0,
            restated INTEGER NOT NULL DEFAULT 0, estimate INTEGER,
            lesson TEXT NOT NULL DEFAULT '', PRIMARY KEY (account, start)) WITHOUT ROWID""",
        """CREATE TABLE unpriced (
            account INTEGER NOT NULL, start INTEGER NOT NULL, model TEXT NOT NULL, tokens INTEGER NOT NULL,
            PRIMARY KEY (account, start, model)) WITHOUT ROWID""",
        """CREATE TABLE name (
            account INTEGER NOT NULL, id TEXT NOT NULL, name TEXT NOT NULL, PRIMARY KEY (account, id)) WITHOUT ROWID""",
    ):
        db.execute(statement)


def _m002_pushed_events(db: Connection) -> None:
    # The events that were counted, by the digests of the source's id and of the content.
    db.execute(
        """CREATE TABLE event (
            source TEXT NOT NULL, id TEXT NOT NULL, content TEXT NOT NULL, start INTEGER NOT NULL,
            PRIMARY KEY (source, id)) WITHOUT ROWID"""
    )
    db.execute("CREATE INDEX event_start ON event (start)")
    db.execute(
        """CREATE TABLE deed (
            moment REAL NOT NULL, title TEXT NOT NULL, service TEXT NOT NULL, account TEXT NOT NULL, link TEXT NOT NULL,
            UNIQUE (moment, title, service, account))"""
    )


def _m003_names(db: Connection) -> None:
    """Give tables and columns the names that the program uses."""
    for statement in (
        "ALTER TABLE coverage RENAME COLUMN settled TO last_refresh",
        # How often the day's buckets have changed.
        "ALTER TABLE day RENAME COLUMN told TO revision",
        "ALTER TABLE day RENAME COLUMN first TO first_bill",
        "ALTER TABLE day RENAME COLUMN restated TO restatement",
        "ALTER TABLE day RENAME COLUMN lesson TO bill_evidence",
        "ALTER TABLE deed RENAME TO change_event",
        "ALTER TABLE change_event RENAME COLUMN moment TO time",
    ):
        db.execute(statement)


def _m004_bill_states(db: Connection) -> None:
    for statement in (
        # Costs that do not follow usage, with their labels and charge frequency: a JSON list.
        "ALTER TABLE day ADD COLUMN fixed_costs TEXT NOT NULL DEFAULT ''",
        # The newest version of the bill, by a digest; when it was first seen; and from when on it counts as complete.
        "ALTER TABLE day ADD COLUMN bill_digest TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE day ADD COLUMN bill_changed_at INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE day ADD COLUMN bill_complete_at INTEGER NOT NULL DEFAULT 0",
        # Whether that bill had counted as complete and then had no rows.
        "ALTER TABLE day ADD COLUMN bill_is_withdrawn INTEGER NOT NULL DEFAULT 0",
    ):
        db.execute(statement)


def _m005_day_reads(db: Connection) -> None:
    # When each UTC day of a report was last read from its beginning to its end. Days that were read by an earlier
    # version have no row.
    db.execute(
        """CREATE TABLE day_read (
            account INTEGER NOT NULL, report TEXT NOT NULL, day INTEGER NOT NULL, time REAL NOT NULL,
            PRIMARY KEY (account, report, day)) WITHOUT ROWID"""
    )


def _m006_pending_rereads(db: Connection) -> None:
    # The time range of a report that was read while the clock was wrong, as far as it has not been read again.
    db.execute(
        """CREATE TABLE reread (
            account INTEGER NOT NULL, report TEXT NOT NULL, since REAL NOT NULL, until REAL NOT NULL,
            PRIMARY KEY (account, report)) WITHOUT ROWID"""
    )


def _m007_snapshot_days(db: Connection) -> None:
    for statement in (
        # How often the day's costs were replaced or its hours rolled up.
        "ALTER TABLE day ADD COLUMN cost_revision INTEGER NOT NULL DEFAULT 0",
        # What snapshots keep of an account's closed days: a copy, for restarts.
        "CREATE TABLE snapshot_days (account INTEGER PRIMARY KEY, content BLOB NOT NULL)",
    ):
        db.execute(statement)


MIGRATIONS: tuple[Migration, ...] = (
    _m001_initial_tables,
    _m002_pushed_events,
    _m003_names,
    _m004_bill_states,
    _m005_day_reads,
    _m006_pending_rereads,
    _m007_snapshot_days,
)


def migrate(db: sqlite3.Connection, path: str) -> None:
    """Bring the file up to this program's version, each step in its own transaction.

    Raises LedgerError where a newer program wrote the file: it is left untouched.
    """
    version = _read_version(db, path)
    for number, migration in enumerate(MIGRATIONS[version:], start=version + 1):
        db.execute("BEGIN IMMEDIATE")
        try:
            migration(db)
            db.execute(f"PRAGMA user_version = {number}")
        except BaseException:
            db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")


def check_version(db: sqlite3.Connection, path: str) -> None:
    """Raise LedgerError where the file was not written by this program's version."""
    check_not_older(_read_version(db, path), path)


def check_not_older(version: int, name: str) -> None:
    """Raise LedgerError where a ledger's version is that of an earlier program."""
    if version < len(MIGRATIONS):
        raise LedgerError(
            f"{name} was written by an older ai-spend-exporter (ledger version {version}; this one reads "
            f"{len(MIGRATIONS)}). Start this release's `run` on it once: it brings the file up to date."
        )


def _read_version(db: sqlite3.Connection, path: str) -> int:
    (user_version,) = db.execute("PRAGMA user_version").fetchone()
    version = int(user_version)
    check_not_newer(version, path, "--storage.path at another folder")
    return version


def check_not_newer(version: int, name: str, other_place: str) -> None:
    """Raise LedgerError where a ledger's version is that of a later program; `other_place` is part of the advice."""
    if version > len(MIGRATIONS):
        raise LedgerError(
            f"{name} was written by a newer ai-spend-exporter (ledger version {version}; this one knows up to "
            f"{len(MIGRATIONS)}). Nothing was changed. Run the newer release again, or point {other_place}: "
            "usage of polled accounts is read again from the providers, pushed usage is not."
        )
