"""The exporter is killed at random moments of its first poll, later polls and migrations: totals equal the truth."""

from __future__ import annotations

import random
import shutil
import signal
import sqlite3
import threading
import time
from pathlib import Path

from exporter.ledger import Ledger, PostgresLocation
from exporter.ledger.schema import MIGRATIONS
from exporter.model import HOUR
from tests.faults.accounts_system import AccountsSystem, start_accounts
from tests.faults.results import Results
from tests.system import SPEND_PREFIXES, Samples, make_account

ACCOUNTS = (make_account("openai", "acme"), make_account("anthropic", "labs"), make_account("cursor", "crew"))


def run_to_the_end(system: AccountsSystem, ledger: str | PostgresLocation = "ledger") -> tuple[Samples, float]:
    """Run an exporter until every account is up; return its series of spend, and the seconds that it took."""
    began = time.monotonic()
    process = system.launcher.start(system.flags(ledger))
    try:
        system.wait_until_up()
        seconds = time.monotonic() - began
        # The page is assembled after the last account, with a pause after each assembly.
        threading.Event().wait(0.5)
        samples = system.scrape()
    finally:
        system.launcher.kill(process)
    return {name: series for name, series in samples.items() if name.startswith(SPEND_PREFIXES)}, seconds


def run_and_kill(system: AccountsSystem, seconds: float, ledger: str | PostgresLocation = "ledger") -> None:
    """Run an exporter and kill it after this many seconds."""
    process = system.launcher.start(system.flags(ledger))
    threading.Event().wait(seconds)
    status = system.launcher.kill(process)
    assert status == -signal.SIGKILL, system.launcher.log.read_text()


def test_a_first_poll_that_is_killed_loses_and_doubles_nothing(
    tmp_path: Path, results: Results, *, long: bool, seed: int
) -> None:
    """After kills at random moments of the first poll, tokens are the truth, and every series that of an exporter
    that was never killed.
    """
    chosen = random.Random(seed)
    kills, rounds = (8, 8) if long else (4, 1)
    with start_accounts(tmp_path, *ACCOUNTS) as system:
        expected, seconds = run_to_the_end(system, "undisturbed")
        for number in range(rounds):
            for _ in range(kills):
                run_and_kill(system, chosen.uniform(0, seconds), f"ledger-{number}")
            samples, _ = run_to_the_end(system, f"ledger-{number}")
            assert system.stored_totals(f"ledger-{number}") == system.true_totals()
            assert samples == expected
    results.add("crash", "first poll and pricing", f"{kills * rounds} kills, {len(ACCOUNTS)} accounts, 0 differences")


def test_later_polls_that_are_killed_lose_and_double_nothing(
    tmp_path: Path, results: Results, *, long: bool, seed: int
) -> None:
    """While hours pass and every process is killed amid its polls, tokens are the truth at the end."""
    chosen = random.Random(seed)
    kills = 64 if long else 4
    with start_accounts(tmp_path, *ACCOUNTS) as system:
        _, seconds = run_to_the_end(system)
        for _ in range(kills):
            system.advance(HOUR)
            run_and_kill(system, chosen.uniform(0, seconds))
        run_to_the_end(system)
        assert system.stored_totals() == system.true_totals()
    results.add("crash", "polls", f"{kills} kills in {kills} hours, {len(ACCOUNTS)} accounts, 0 differences")


REVERSALS = (
    (6, ("DROP TABLE snapshot_days", "ALTER TABLE day DROP COLUMN cost_revision")),
    (5, ("DROP TABLE reread",)),
    (4, ("DROP TABLE day_read",)),
    (
        3,
        tuple(
            f"ALTER TABLE day DROP COLUMN {column}"
            for column in ("fixed_costs", "bill_digest", "bill_changed_at", "bill_complete_at", "bill_is_withdrawn")
        ),
    ),
)
"""Version of the ledger -> the statements that bring one of the next version back to it."""


def test_a_migration_that_is_killed_is_repeated(tmp_path: Path, results: Results, *, long: bool, seed: int) -> None:
    """A ledger of an earlier version is whole after every kill of the process that migrates it."""
    chosen = random.Random(seed)
    kills = 80 if long else 16
    versions, lifetime = list[int](), 0.02
    with start_accounts(tmp_path, *ACCOUNTS) as system:
        run_to_the_end(system)
        expected = system.stored_totals()
        Ledger(tmp_path / "ledger").close()
        with sqlite3.connect(tmp_path / "ledger" / "ledger.db", isolation_level=None) as db:
            for version, statements in REVERSALS:
                for statement in statements:
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {version}")
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        db.close()
        for _ in range(kills):
            shutil.rmtree(tmp_path / "old", ignore_errors=True)
            shutil.copytree(tmp_path / "ledger", tmp_path / "old")
            run_and_kill(system, chosen.uniform(0, lifetime), "old")
            versions.append(_version(tmp_path / "old"))
            # Half of the kills come before the end of the migrations, however fast the machine is.
            lifetime *= 1.3 if versions[-1] < len(MIGRATIONS) else 0.7
            Ledger(tmp_path / "old").close()
            assert _version(tmp_path / "old") == len(MIGRATIONS)
            assert system.stored_totals("old") == expected
    before = sum(version < len(MIGRATIONS) for version in versions)
    assert 0 < before < kills, "every kill was before the migrations, or after them"
    results.add("crash", "migration", f"{kills} kills, {before} of them before the last migration, 0 differences")


def _version(ledger: Path) -> int:
    with sqlite3.connect(ledger / "ledger.db") as db:
        (version,) = db.execute("PRAGMA user_version").fetchone()
    db.close()
    return int(version)
