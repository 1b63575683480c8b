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

from exporter.check import Figures, Pull, figures, strides
from exporter.cli.account_tables import plain, sentences, tables
from exporter.cli.check import advice, check
from exporter.cli.command import config_option, now, said_plainly
from exporter.config import configuration as settings
from exporter.config import keys
from exporter.config.configuration import Account, Config
from exporter.config.messages import nearest, shown
from exporter.errors import ExporterError, ProviderError, RateLimited
from exporter.ledger import Ledger
from exporter.model import Provider
from exporter.pricing.learned_rates import Agreed
from exporter.pricing.valuer import Book
from exporter.providers import ProviderType, console_of, load_providers
from exporter.providers.http import Access
from exporter.windows import Span, days_back

USUAL, MOST = 14, 30
"""Days that are read: unless said, and at most."""
WIDTH = 100
"""Columns, where no terminal says how many it has."""
NAMED = 5
"""Accounts that are named where none is called so."""


@check.command("account")
@click.argument("name", metavar="NAME")
@config_option
@click.option(
    "--days",
    type=click.IntRange(1, MOST),
    default=USUAL,
    show_default=True,
    help="UTC days that are read, today included.",
)
def check_account(*, name: str, path: Path, days: int) -> None:
    """Print what one account used, what it cost and what was billed, to compare with the provider's own pages.

    The figures are made as `run` makes those of /metrics, from what the provider tells now. Nothing is stored. Exit 1
    if the account cannot be read.
    """
    _end_as_by_ctrl_c()
    with said_plainly():
        providers = load_providers()
        account = _named(settings.load(path, providers), name)
        kind = providers[account.provider]
        with _told_with_advice(account), closing(_session(account, kind)) as provider:
            tried = _try(account, kind, provider, days)
    _print(account, kind, tried)


@dataclass(frozen=True, slots=True)
class _Tried:
    """What came of it."""

    span: Span
    said: str
    """Whose account it is, in the provider's words."""
    refused: Sequence[str]
    figures: Figures


def _named(config: Config, name: str) -> Account:
    known = {account.name: account for account in config.accounts}
    if name in known:
        return known[name]
    some = ", ".join([*known][:NAMED]) + (f" and {len(known) - NAMED} more" if len(known) > NAMED else "")
    hint = nearest(name, known)
    raise ExporterError(f"{config.path} has no account {shown(name)}{f'; {hint}' if hint else '.'} It has {some}.")


@contextmanager
def _told_with_advice(account: Account) -> Iterator[None]:
    try:
        yield
    except ProviderError as error:
        raise ExporterError(f"{account.name}: {str(error).rstrip('.')}.\n-> {advice(error)}") from error


def _session(account: Account, kind: ProviderType) -> Provider:
    key = account.api_key.read(os.environ)
    if (rejected := keys.diagnose(key, kind.key_kinds)) is not None:
        raise rejected
    by_key, timeout = "api_key" in account.labels, account.timeout.total_seconds()
    return kind(Access(key, account.base_url or kind.base_url, api_keys=by_key, timeout=timeout))


def _try(account: Account, kind: ProviderType, provider: Provider, days: int) -> _Tried:
    moment = now()
    span = Span(days_back(moment, days - 1), moment)
    agreed = tuple(Agreed(one.model, one.meter, one.tier, one.usd_per_million) for one in account.prices)
    bar = Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())

    def wait(seconds: float, error: RateLimited) -> None:
        said = f"{str(error).rstrip('.')}. Going on in {seconds:.0f} s."
        bar.console.print(said, soft_wrap=True, highlight=False, markup=False, emoji=False)
        time.sleep(seconds)

    with _passing_ledger() as ledger, bar:
        number = ledger.buckets.account(account.name, account.provider)
        book = Book(number, account.provider, kind.reports, agreed)
        pull, spans = Pull(provider, book, ledger, wait), strides(book, days, moment)
        said = pull.verify()
        task = bar.add_task(f"Reading {account.name}", total=len(spans) * len(book.reports))
        pull.read(spans, lambda: bar.advance(task))
        return _Tried(span, said, pull.refused, figures(ledger, book, account.max_series, span))


@contextmanager
def _passing_ledger() -> Iterator[Ledger]:
    """Open a ledger that is removed in the end. Raises ExporterError where there is no place for one."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="ai-spend-check-")
    except OSError as error:
        raise ExporterError(
            f"No temporary folder can be made ({error.strerror}). Set TMPDIR to a folder that this user may write to."
        ) from error
    with folder as place, closing(Ledger(Path(place))) as ledger:
        yield ledger


def _print(account: Account, kind: ProviderType, tried: _Tried) -> None:
    screen = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False, markup=False, emoji=False)
    console, bills, span = console_of(kind), any(report.kind == "bill" for report in kind.reports), tried.span
    screen.print(f"{account.name} ({account.provider}): {plain(tried.said)}")
    screen.print(f"{span.start:%Y-%m-%d} to {span.end:%Y-%m-%d %H:%M} UTC; the last day still runs.")
    if console is not None:
        screen.print(f"The provider's own figures, to compare: {console.url}")
    for table in tables(tried.figures, bills=bills):
        screen.print()
        screen.print(table)
    screen.print()
    for sentence in sentences(tried.figures, bills=bills):
        screen.print(sentence)
    if tried.refused:
        screen.print(f"Left out, because this key or plan does not have it: {', '.join(tried.refused)}.")
    if console is not None and console.left_out:
        screen.print(console.left_out)
    screen.print("Nothing was stored.")


def _end_as_by_ctrl_c() -> None:
    """Have the temporary folder removed also where this is asked to end, or its terminal is closed."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
