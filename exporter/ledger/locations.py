"""Where a ledger is: a folder, or a PostgreSQL database whose password is never part of its URL."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from exporter.errors import LedgerError

SCHEMES = ("postgresql", "postgres")
_SECRET_PARAMETERS = frozenset({"password", "sslpassword"})


@dataclass(frozen=True, slots=True)
class PostgresLocation:
    """A database, and the file with the password of its user.

    Without a file, libpq uses PGPASSWORD, PGPASSFILE or ~/.pgpass, or none at all.
    """

    url: str
    password_file: Path | None = None

    def __post_init__(self) -> None:
        """Raise LedgerError where the URL is none, or has a password; the message does not contain it."""
        problem = find_url_problem(self.url)
        if problem:
            raise LedgerError(f"The URL of the ledger's database cannot be used: {problem}")

    def __str__(self) -> str:
        """Return the URL without its parameters."""
        return self.url.partition("?")[0]

    def read_password(self) -> str | None:
        """Return the password, None without a file. Raises OSError and UnicodeDecodeError."""
        if self.password_file is None:
            return None
        return self.password_file.read_text("utf-8").rstrip("\r\n")


LedgerLocation = Path | PostgresLocation
"""The folder of a SQLite file, or a PostgreSQL database."""


def parse_location(text: str, password_file: Path | None = None) -> LedgerLocation:
    """Return the place that a URL or a path names. Raises LedgerError where a URL cannot be used."""
    return PostgresLocation(text, password_file) if is_url(text) else Path(text)


def is_url(text: str) -> bool:
    """Return whether a text is the URL of a database, not a path."""
    return text.partition("://")[0] in SCHEMES and "://" in text


def find_url_problem(url: str) -> str:
    """Return why a URL cannot be used, without a part of it that may be secret; empty where it can."""
    if not is_url(url):
        return "it does not begin with postgresql://, such as postgresql://exporter@db.internal/ai_spend"
    try:
        parts = urlsplit(url)
    except ValueError:
        return "it is not of the form postgresql://exporter@db.internal/ai_spend"
    names = {name.lower() for name, _ in parse_qsl(parts.query, keep_blank_values=True)}
    # After the last `@` begins the host; a password with an unescaped `@` or `/` is one nevertheless.
    userinfo = url.partition("://")[2].partition("?")[0].rpartition("@")[0]
    if ":" in userinfo or names & _SECRET_PARAMETERS:
        return (
            "it contains a password, which every user of this machine can read in the list of processes; "
            "use --storage.password-file, PGPASSWORD or a pgpass file"
        )
    return ""
