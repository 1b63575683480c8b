"""`check`: mistakes found before they matter."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import datetime
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from exporter.cli.command import LazyGroup, config_option, exit_on_error, main, now
from exporter.config import configuration as settings
from exporter.config import keys
from exporter.errors import ConfigError, KeyRejected, ProviderError, RateLimited, Unavailable, Unsupported
from exporter.model import Provider, Report
from exporter.providers import load_providers
from exporter.providers.http import ClientConfig
from exporter.windows import floor

MAX_CONCURRENT_CHECKS = 64
"""How many accounts `check keys` asks at the same time."""


@main.group(cls=LazyGroup, modules={"account": "exporter.cli.check_account"})
def check() -> None:
    """Look for mistakes before they matter."""


@check.command("config")
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--syntax-only", is_flag=True, help="Do not look for the files and variables that hold the keys.")
def check_config(*, path: Path, syntax_only: bool) -> None:
    """Tell every problem of a configuration at once, with file and line; exit 1 if there is any.

    A key that cannot be read here is a warning: a configuration is checked where its secrets are not.
    """
    with exit_on_error():
        config = settings.load(path, load_providers())
    unread = [] if syntax_only else keys.check(config, os.environ)
    for warning in (*unread, *([] if syntax_only else keys.find_warnings(config, os.environ))):
        click.echo(f"warning: {warning}", err=True)
    count = len(config.accounts)
    rest = f"; {len(unread)} of the keys and tokens cannot be read here, and `run` needs them all" if unread else ""
    click.echo(f"{path}: good, {count} account{'s' * (count > 1)}{rest}")


@check.command("keys")
@config_option
def check_keys(path: Path) -> None:
    """Tell whose key each account has and what it may read, or what to do; exit 1 if any fails.

    Each report is asked for its newest whole hour or day, and nothing is stored.
    """
    with exit_on_error():
        config = settings.load(path, load_providers())
    moment = now()
    with ThreadPoolExecutor(min(len(config.accounts), MAX_CONCURRENT_CHECKS)) as pool:
        verdicts = list(pool.map(lambda account: _check_key(account, moment), config.accounts))
    table = Table(box=None, pad_edge=False)
    for heading in ("Account", "Provider", "Key", "What the provider says, and what to do"):
        table.add_column(heading, overflow="fold")
    for account, (good, said) in zip(config.accounts, verdicts, strict=True):
        table.add_row(account.name, account.provider, "good" if good else "FAILED", said)
    Console(width=None if sys.stdout.isatty() else 160, highlight=False, markup=False, emoji=False).print(table)
    sys.exit(0 if all(good for good, _ in verdicts) else 1)


def _check_key(account: settings.Account, time: datetime) -> tuple[bool, str]:
    kind = load_providers()[account.provider]
    try:
        key = account.api_key.read(os.environ)
        if (rejected := keys.diagnose(key, kind.key_kinds)) is not None:
            raise rejected
        timeout = account.timeout.total_seconds()
        with closing(kind(ClientConfig(key, account.base_url or kind.base_url, timeout=timeout))) as provider:
            said = provider.verify()
            named = keys.find_key_kind(key, kind.key_kinds)
            return True, f"{said}\n{named.name + '; ' if named else ''}{_check_reports(provider, kind.reports, time)}"
    except ConfigError as error:
        return False, str(error)
    except ProviderError as error:
        return False, f"{str(error).rstrip('.')}.\n-> {advice(error)}"


def _check_reports(provider: Provider, reports: Sequence[Report], time: datetime) -> str:
    """Return which reports answer. Raises ProviderError where one fails that an account has to have."""
    readable, refused = [], []
    for report in reports:
        newest = floor(time, report.width)
        try:
            for _ in provider.fetch(report, newest - report.width, newest):
                pass
            readable.append(report.name)
        except (KeyRejected, Unsupported):
            if not report.optional:
                raise
            refused.append(report.name)
    try:
        provider.names()
        readable.append("names")
    except (KeyRejected, Unsupported):
        refused.append("names")
    return f"reads {', '.join(readable)}" + (f"; not {', '.join(refused)}" if refused else "")


def advice(error: ProviderError) -> str:
    """Return what to do about a key or a report that could not be tried."""
    match error:
        case KeyRejected():
            return error.advice
        case RateLimited():
            return "The key was not judged: ask again in a minute."
        case Unavailable(reached=True):
            return "The provider is in trouble and the key was not judged: ask again later."
        case Unavailable():
            return "Check base_url, and the network, firewall and proxy on the way there."
        case _:
            return "Check that base_url is the provider's address, or a proxy that hands its answers on unchanged."
