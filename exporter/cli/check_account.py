"""`check account`: the last days of one account, to compare with the provider's own pages."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress

from exporter.check import AccountTotals, Backfill, PolledHistory, compute_account_totals, replay_days
from exporter.cli.account_tables import build_tables, sanitize, summarize
from exporter.cli.check import check
from exporter.cli.check_config import advice
from exporter.cli.command import config_option, exit_on_error, now
from exporter.config import configuration as settings
from exporter.config.configuration import Account, Config
from exporter.config.messages import format_value, suggest
from exporter.errors import ExporterError, ProviderError, RateLimited
from exporter.ledger import Ledger
from exporter.polling.account_state import AccountState
from exporter.polling.connection import build_account_config
from exporter.providers import ProviderType, load_providers, provider_console
from exporter.snapshot.offline import build_snapshot
from exporter.windows import TimeRange, days_back

DEFAULT_DAYS, MAX_DAYS = 14, 30
"""Days that are shown: without --days, and at most."""
DEFAULT_WIDTH = 100
"""Columns, where stdout is not a terminal."""
MAX_NAMES_LISTED = 5
"""Accounts that an error about an unknown name lists."""


@check.command("account")
@click.argument("name", metavar="NAME")
@config_option
@click.option(
    "--days",
    type=click.IntRange(1, MAX_DAYS),
    default=DEFAULT_DAYS,
    show_default=True,
    help="UTC days to show, today included.",
)
def check_account(*, name: str, path: Path, days: int) -> None:
    """Print what one account used, what it cost and what was billed, to compare with the provider's own pages.

    The totals are computed as those of /metrics, from what the provider reports now. Nothing is stored. Exit 1 if the
    account cannot be read.
    """
    _treat_termination_as_interrupt()
    # Failures of polls are printed by this command; without any handler Python writes their log lines to stderr too.
    logging.getLogger("exporter").addHandler(logging.NullHandler())
    with exit_on_error():
        providers = load_providers()
        account = _find_account(settings.load(path, providers), name)
        provider_type = providers[account.provider]
        with _add_advice_to_errors(account):
            result = _run_check(account, providers, days)
    _print_result(account, provider_type, result)


@dataclass(frozen=True, slots=True)
class _CheckResult:
    time_range: TimeRange
    history: PolledHistory
    totals: AccountTotals


def _find_account(config: Config, name: str) -> Account:
    known = {account.name: account for account in config.accounts}
    if name in known:
        return known[name]
    listed = ", ".join([*known][:MAX_NAMES_LISTED])
    if len(known) > MAX_NAMES_LISTED:
        listed += f" and {len(known) - MAX_NAMES_LISTED} more"
    hint = suggest(name, known)
    raise ExporterError(
        f"{config.path} has no account {format_value(name)}{f'; {hint}' if hint else '.'} It has {listed}."
    )


@contextmanager
def _add_advice_to_errors(account: Account) -> Iterator[None]:
    try:
        yield
    except ProviderError as error:
        raise ExporterError(f"{account.name}: {str(error).rstrip('.')}.\n-> {advice(error)}") from error


def _run_check(account: Account, providers: Mapping[str, ProviderType], days: int) -> _CheckResult:
    start = now()
    time_range = TimeRange(days_back(start, days - 1), start)
    key = account.api_key.read(os.environ)
    progress = Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())

    def wait(until: datetime, error: RateLimited) -> None:
        seconds = error.retry_after or (until - now()).total_seconds()
        message = f"{str(error).rstrip('.')}. Going on in {seconds:.0f} s."
        progress.console.print(message, soft_wrap=True, highlight=False, markup=False, emoji=False)
        while (remaining := (until - now()).total_seconds()) > 0:
            time.sleep(remaining)

    with (
        _temporary_folder() as folder,
        closing(Ledger(folder)) as polled,
        closing(Ledger(folder / "replayed")) as replayed,
        progress,
    ):
        number = polled.buckets.register_account(account.name, account.provider)
        replayed.buckets.register_account(account.name, account.provider)
        config = build_account_config(account, providers, number, os.environ, time.monotonic)
        # Read once, above: a key that cannot be read is an error of the configuration, not of the provider.
        config = replace(config, read_key=lambda: key)
        task = progress.add_task(f"Reading {account.name}", total=1.0)
        backfill = Backfill(
            polled,
            config,
            days,
            clock=now,
            monotonic=time.monotonic,
            wait=wait,
            on_progress=lambda part: progress.update(task, completed=part),
        )
        history = backfill.run()
        replay_days(polled, replayed, config.ledger_account, days, start)
        snapshot = build_snapshot(replayed, AccountState(config).view(), start)
        return _CheckResult(time_range, history, compute_account_totals(snapshot, time_range))


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    """Make a folder that is removed in the end. Raises ExporterError where there is no place for it."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="ai-spend-check-")
    except OSError as error:
        raise ExporterError(
            f"No temporary folder can be made ({error.strerror}). Set TMPDIR to a folder that this user may write to."
        ) from error
    with folder as path:
        yield Path(path)


def _print_result(account: Account, provider_type: ProviderType, result: _CheckResult) -> None:
    screen = Console(width=None if sys.stdout.isatty() else DEFAULT_WIDTH, highlight=False, markup=False, emoji=False)
    console = provider_console(provider_type)
    has_bills = any(report.kind == "bill" for report in provider_type.reports)
    time_range = result.time_range
    screen.print(f"{account.name} ({account.provider}): {sanitize(result.history.key_description)}")
    screen.print(f"{time_range.start:%Y-%m-%d} to {time_range.end:%Y-%m-%d %H:%M} UTC; the last day still runs.")
    if console is not None:
        screen.print(f"The provider's own figures, to compare: {console.url}")
    for table in build_tables(result.totals, has_bills=has_bills):
        screen.print()
        screen.print(table)
    screen.print()
    for line in summarize(result.totals, has_bills=has_bills):
        screen.print(line)
    if result.history.unsupported:
        screen.print(f"Left out, because this key or plan does not have it: {', '.join(result.history.unsupported)}.")
    if console is not None and console.excluded:
        screen.print(console.excluded)
    screen.print("Nothing was stored.")


def _treat_termination_as_interrupt() -> None:
    """Remove the temporary folder also on SIGTERM and SIGHUP.

    A signal that the parent process had ignored, as `nohup` and shells do for jobs in the background, stays ignored.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
