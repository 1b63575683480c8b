"""Runs a real PostgreSQL server of the machine's packages, with a schema for each test."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from exporter.ledger import LedgerLocation, PostgresLocation
from tests.command import free_port, wait_until

NewLocation = Callable[[], LedgerLocation]
"""Returns a place for another empty ledger."""
USER = "exporter"
DATABASE = "ai_spend"
FAST = ("-c", "fsync=off", "-c", "full_page_writes=off")
"""Settings with which a crash of the machine, not of a process, would lose data."""


@dataclass
class PostgresServer:
    """A server on loopback whose data are in a folder of its own."""

    folder: Path
    settings: Sequence[str] = FAST
    port: int = field(default_factory=free_port)
    _process: subprocess.Popen[bytes] | None = None
    _schemas: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def url(self) -> str:
        """The URL of the database."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{DATABASE}"

    def create(self) -> None:
        """Create the data folder; local users need no password, except the role `secured`."""
        options = ("--auth=trust", f"--username={USER}", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync")
        self._run("initdb", *options)
        rules = self.folder / "data" / "pg_hba.conf"
        rules.write_text("host all secured 127.0.0.1/32 scram-sha-256\n" + rules.read_text())

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        settings = ("listen_addresses=127.0.0.1", "unix_socket_directories=", "shared_buffers=16MB", "jit=off")
        flags = [flag for setting in settings for flag in ("-c", setting)]
        command = [_program("postgres"), "-D", str(self.folder / "data"), "-p", str(self.port), *flags, *self.settings]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*_unprivileged(), *command], cwd=self.folder, stdout=log, stderr=log, env=_environment()
            )
        wait_until("PostgreSQL answers", self._answers)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "log").read_text()
        try:
            self.connect("postgres").close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self, mode: str = "immediate") -> None:
        """Stop the server; `immediate` ends all of its processes at once, as a crash does."""
        assert self._process is not None
        self._run("pg_ctl", "stop", "--mode", mode, "--wait")
        self._process.wait()
        self._process = None

    def restart(self) -> None:
        """Crash, and start again."""
        self.stop()
        self.start()

    def connect(self, database: str = DATABASE) -> psycopg.Connection[tuple[object, ...]]:
        """Connect as the owner of everything."""
        url = f"postgresql://{USER}@127.0.0.1:{self.port}/{database}"
        return psycopg.connect(url, autocommit=True, connect_timeout=5)

    def execute(self, sql: str, database: str = DATABASE) -> list[tuple[object, ...]]:
        """Run statements; return the rows of the last one."""
        with self.connect(database) as db:
            cursor = db.execute(sql.encode())
            while cursor.nextset():
                pass
            return cursor.fetchall() if cursor.description else []

    def new_location(self) -> PostgresLocation:
        """Create a schema, and return where a ledger is in it."""
        schema = f"ledger_{next(self._schemas)}"
        self.execute(f"CREATE SCHEMA {schema}")
        return PostgresLocation(f"{self.url}?options=-csearch_path%3D{schema}")

    def _run(self, program: str, *arguments: str) -> None:
        command = [*_unprivileged(), _program(program), "-D", str(self.folder / "data"), *arguments]
        done = subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, check=False, timeout=120, env=_environment()
        )
        assert done.returncode == 0, done.stdout + done.stderr


def schema_of(location: PostgresLocation) -> str:
    """Return the schema of a ledger that `new_location` returned."""
    return location.url.rpartition("%3D")[2]


@contextmanager
def start_postgres(settings: Sequence[str] = FAST) -> Iterator[PostgresServer]:
    """Run a server until the end of the block."""
    # Not below pytest's own folders: only its user may enter those, and the server rejects to run as root.
    folder = Path(tempfile.mkdtemp(prefix="ai-spend-postgres-"))
    try:
        if os.geteuid() == 0:
            os.chown(folder, _account().pw_uid, _account().pw_gid)
        server = PostgresServer(folder, settings)
        server.create()
        server.start()
        try:
            server.execute(f"CREATE DATABASE {DATABASE}", "postgres")
            yield server
        finally:
            if server._process is not None:
                server.stop()
    finally:
        shutil.rmtree(folder)


def _program(name: str) -> str:
    """Return the path of a program; Debian's packages leave most of PostgreSQL's out of PATH."""
    newest_first = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: -int(path.parts[4]))
    found = [str(path) for path in newest_first] or [shutil.which(name) or ""]
    assert found[0], f"{name} is missing; .ci/tools installs it"
    return found[0]


def _account() -> pwd.struct_passwd:
    return pwd.getpwnam("nobody")


def _unprivileged() -> list[str]:
    """Return the command that runs another as a user without rights; empty for other users than root."""
    if os.geteuid() != 0:
        return []
    account = _account()
    return ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}
