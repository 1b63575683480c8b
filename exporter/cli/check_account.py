"""`check account`: two weeks of one account, to compare with the provider's own pages before relying on it."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress

from exporter.check import AccountTotals, Backfill, batches, compute_account_totals
from exporter.cli.account_tables import build_tables, sanitize, summarize
from exporter.cli.check import advice, check
from exporter.cli.command import config_option, exit_on_error, now
from exporter.config import configuration as settings
from exporter.config import keys
from exporter.config.configuration import Account, Config
from exporter.config.messages import format_value, suggest
from exporter.errors import ExporterError, ProviderError, RateLimited
from exporter.ledger import Ledger
from exporter.pricing.learned_rates import NegotiatedPrice
from exporter.pricing.valuer import LedgerAccount
from exporter.providers import ProviderType, create_provider, known_key_kinds, load_providers, provider_console
from exporter.providers.base import KeyKind, Provider
from exporter.providers.http import ClientConfig
from exporter.windows import TimeRange, days_back

DEFAULT_DAYS, MAX_DAYS = 14, 30
"""Days that are read: unless said, and at most."""
DEFAULT_WIDTH = 100
"""Columns, where no terminal says how many it has."""
MAX_NAMES_LISTED = 5
"""Accounts that are named where none is called so."""


@check.command("account")
@click.argument("name", metavar="NAME")
@config_option
@click.option(
    "--days",
    type=click.IntRange(1, MAX_DAYS),
    default=DEFAULT_DAYS,
    show_default=True,
    help="UTC days that are read, today included.",
)
def check_account(*, name: str, path: Path, days: int) -> None:
    """Print what one account used, what it cost and what was billed, to compare with the provider's own pages.

    The figures are made as `run` makes those of /metrics, from what the provider tells now. Nothing is stored. Exit 1
    if the account cannot be read.
    """
    _treat_sigterm_as_interrupt()
    with exit_on_error():
        providers = load_providers()
        account = _find_account(settings.load(path, providers), name)
        kind = providers[account.provider]
        with (
            _add_advice_to_errors(account),
            closing(_connect(account, kind, known_key_kinds(account.provider, providers))) as provider,
        ):
            tried = _run_check(account, kind, provider, days)
    _print_result(account, kind, tried)


@dataclass(frozen=True, slots=True)
class _CheckResult:
    """What came of it."""

    time_range: TimeRange
    key_description: str
    """Whose account it is, in the provider's words."""
    unsupported: Sequence[str]
    totals: AccountTotals


def _find_account(config: Config, name: str) -> Account:
    known = {account.name: account for account in config.accounts}
    if name in known:
        return known[name]
    some = ", ".join([*known][:MAX_NAMES_LISTED]) + (
        f" and {len(known) - MAX_NAMES_LISTED} more" if len(known) > MAX_NAMES_LISTED else ""
    )
    hint = suggest(name, known)
    raise ExporterError(
        f"{config.path} has no account {format_value(name)}{f'; {hint}' if hint else '.'} It has {some}."
    )


@contextmanager
def _add_advice_to_errors(account: Account) -> Iterator[None]:
    try:
        yield
    except ProviderError as error:
        raise ExporterError(f"{account.name}: {str(error).rstrip('.')}.\n-> {advice(error)}") from error


def _connect(account: Account, provider_type: ProviderType, key_kinds: Sequence[KeyKind]) -> Provider:
    key = account.api_key.read(os.environ)
    if (rejected := keys.diagnose(key, key_kinds)) is not None:
        raise rejected
    by_key, timeout = "api_key" in account.labels, account.timeout.total_seconds()
    base_url = account.base_url or provider_type.base_url
    client_config = ClientConfig(key, base_url, by_api_key=by_key, timeout=timeout)
    return create_provider(provider_type, client_config, getattr(account, "options", None))


def _run_check(account: Account, provider_type: ProviderType, provider: Provider, days: int) -> _CheckResult:
    moment = now()
    span = TimeRange(days_back(moment, days - 1), moment)
    agreed = tuple(NegotiatedPrice(one.model, one.meter, one.tier, one.usd_per_million) for one in account.prices)
    bar = Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())

    def wait(seconds: float, error: RateLimited) -> None:
        said = f"{str(error).rstrip('.')}. Going on in {seconds:.0f} s."
        bar.console.print(said, soft_wrap=True, highlight=False, markup=False, emoji=False)
        time.sleep(seconds)

    with _temporary_ledger() as ledger, bar:
        number = ledger.buckets.register_account(account.name, account.provider)
        book = LedgerAccount(number, account.provider, provider_type.reports, agreed)
        pull, spans = Backfill(provider, book, ledger, wait), batches(book, days, moment)
        said = pull.verify()
        task = bar.add_task(f"Reading {account.name}", total=len(spans) * len(book.reports))
        pull.read(spans, lambda: bar.advance(task))
        return _CheckResult(
            span, said, pull.unsupported, compute_account_totals(ledger, book, account.max_series, span)
        )


@contextmanager
def _temporary_ledger() -> Iterator[Ledger]:
    """Open a ledger that is removed in the end. Raises ExporterError where there is no place for one."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="ai-spend-check-")
    except OSError as error:
        raise ExporterError(
            f"No temporary folder can be made ({error.strerror}). Set TMPDIR to a folder that this user may write to."
        ) from error
    with folder as place, closing(Ledger(Path(place))) as ledger:
        yield ledger


def _print_result(account: Account, provider_type: ProviderType, result: _CheckResult) -> None:
    screen = Console(width=None if sys.stdout.isatty() else DEFAULT_WIDTH, highlight=False, markup=False, emoji=False)
    console, bills, span = (
        provider_console(provider_type),
        any(report.kind == "bill" for report in provider_type.reports),
        result.time_range,
    )
    screen.print(f"{account.name} ({account.provider}): {sanitize(result.key_description)}")
    screen.print(f"{span.start:%Y-%m-%d} to {span.end:%Y-%m-%d %H:%M} UTC; the last day still runs.")
    if console is not None:
        screen.print(f"The provider's own figures, to compare: {console.url}")
    for table in build_tables(result.totals, has_bills=bills):
        screen.print()
        screen.print(table)
    screen.print()
    for sentence in summarize(result.totals, has_bills=bills):
        screen.print(sentence)
    if result.unsupported:
        screen.print(f"Left out, because this key or plan does not have it: {', '.join(result.unsupported)}.")
    if console is not None and console.excluded:
        screen.print(console.excluded)
    screen.print("Nothing was stored.")


def _treat_sigterm_as_interrupt() -> None:
    """Have the temporary folder removed also where this is asked to end, or its terminal is closed."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
