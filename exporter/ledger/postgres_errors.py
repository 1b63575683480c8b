"""Errors of PostgreSQL as messages for people: which of them are temporary, and what to do about each."""

from __future__ import annotations

import psycopg
from psycopg import errors

from exporter.errors import LedgerError, LedgerUnavailable

_VALUE_ERRORS = (
    psycopg.DataError,
    psycopg.IntegrityError,
    psycopg.NotSupportedError,
    psycopg.ProgrammingError,
)
"""They concern the values of a statement, and fail the operation of one account, as in SQLite."""
_PERMANENT_ERRORS = (
    errors.UndefinedTable,
    errors.UndefinedColumn,
    errors.InvalidSchemaName,
    errors.DataCorrupted,
    errors.IndexCorrupted,
)
"""Nothing of this ends while the process runs: tables that were dropped, pages that are damaged."""

_ADVICE: tuple[tuple[tuple[type[psycopg.Error], ...], str], ...] = (
    (
        (errors.InvalidPassword, errors.InvalidAuthorizationSpecification),
        "Check the user of --storage.url, the password of --storage.password-file, and pg_hba.conf.",
    ),
    ((errors.InvalidCatalogName,), "Create the database, or correct its name in --storage.url."),
    (
        (errors.InsufficientPrivilege,),
        "Grant the user of --storage.url USAGE and CREATE on the schema, and let it own the tables.",
    ),
    (
        (errors.ReadOnlySqlTransaction,),
        (
            "This is a standby, or default_transaction_read_only is on: name the primary in --storage.url, or several "
            "hosts with target_session_attrs=read-write."
        ),
    ),
    (
        (errors.UndefinedTable, errors.UndefinedColumn, errors.InvalidSchemaName),
        (
            "Tables of the ledger were dropped or changed, or search_path names another schema. Restore the database "
            "from a backup and start again."
        ),
    ),
    ((errors.DataCorrupted, errors.IndexCorrupted), "The database is damaged: restore it from a backup."),
    ((errors.DiskFull,), "The server's disk is full: free some space. Everything stored so far is kept."),
    ((errors.TooManyConnections,), "The server's max_connections is reached: raise it, or close other clients."),
)
"""Kinds of errors -> advice; the first that fits is used."""
_OTHER_ADVICE = (
    "Check that the server runs and can be reached, and its log. Everything acknowledged so far is stored there."
)


def concerns_values(error: psycopg.Error) -> bool:
    """Return whether an error is about the values of a statement, and not about the database or the connection."""
    return isinstance(error, _VALUE_ERRORS) and not _find_advice(error)


def to_ledger_error(name: str, error: psycopg.Error, password: str | None, *, is_open: bool) -> LedgerError:
    """Return the error that is raised instead: LedgerUnavailable where a later attempt may succeed.

    `is_open` is whether the ledger was opened before: at the start every error ends the process.
    """
    is_temporary = is_open and not isinstance(error, _PERMANENT_ERRORS)
    kind = LedgerUnavailable if is_temporary else LedgerError
    advice = _find_advice(error) or _OTHER_ADVICE
    return kind(f"The ledger {name} cannot be used: {_describe(error, password)}. {advice}")


def _describe(error: psycopg.Error, password: str | None) -> str:
    """Return the server's or the driver's message in one line, without the password."""
    # A statement's values are in `detail` and `context` of a message, which are left out.
    text = error.diag.message_primary or str(error)
    line = "; ".join(part.strip() for part in text.splitlines() if part.strip())
    if password:
        line = line.replace(password, "***")
    return line.rstrip(".") or type(error).__name__


def _find_advice(error: psycopg.Error) -> str:
    # An error of connecting has no SQLSTATE, and its text is that of the server.
    if error.sqlstate is None and "password authentication failed" in str(error):
        return _ADVICE[0][1]
    for kinds, advice in _ADVICE:
        if isinstance(error, kinds):
            return advice
    return ""
