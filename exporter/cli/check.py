"""`check`: mistakes found before they matter."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from exporter.cli.command import config_option, main, said_plainly
from exporter.errors import ConfigError, KeyRejected, ProviderError, RateLimited, Unavailable
from exporter.providers import load_providers
from exporter.providers.http import Access
from exporter.settings import config as settings
from exporter.settings import keys

MOST_AT_ONCE = 64
"""How many accounts `check keys` asks at the same time."""


@main.group()
def check() -> None:
    """Look for mistakes before they matter."""


@check.command("config")
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--syntax-only", is_flag=True, help="Do not look for the files and variables that hold the keys.")
def check_config(*, path: Path, syntax_only: bool) -> None:
    """Tell every problem of a configuration at once, with file and line; exit 1 if there is any."""
    with said_plainly():
        config = settings.load(path, load_providers())
        if not syntax_only and (problems := keys.check(config, os.environ)):
            raise ConfigError(problems)
    for warning in keys.warnings(config, os.environ):
        click.echo(f"warning: {warning}", err=True)
    count = len(config.accounts)
    click.echo(f"{path}: good, {count} account{'s' * (count > 1)}")


@check.command("keys")
@config_option
def check_keys(path: Path) -> None:
    """Make one cheap call per account and tell whose key it is, or what to do; exit 1 if any fails."""
    with said_plainly():
        config = settings.load(path, load_providers())
    with ThreadPoolExecutor(min(len(config.accounts), MOST_AT_ONCE)) as pool:
        verdicts = list(pool.map(_verdict, config.accounts))
    table = Table(box=None, pad_edge=False)
    for heading in ("Account", "Provider", "Key", "What the provider says, and what to do"):
        table.add_column(heading, overflow="fold")
    for account, (good, said) in zip(config.accounts, verdicts, strict=True):
        table.add_row(account.name, account.provider, "good" if good else "FAILED", said)
    Console(width=None if sys.stdout.isatty() else 160, highlight=False, markup=False, emoji=False).print(table)
    sys.exit(0 if all(good for good, _ in verdicts) else 1)


def _verdict(account: settings.Account) -> tuple[bool, str]:
    kind = load_providers()[account.provider]
    try:
        key = account.api_key.read(os.environ)
        if (rejected := keys.diagnose(key, kind.key_kinds)) is not None:
            raise rejected
        timeout = account.timeout.total_seconds()
        with closing(kind(Access(key, account.base_url or kind.base_url, timeout=timeout))) as provider:
            return True, provider.verify()
    except ConfigError as error:
        return False, str(error)
    except ProviderError as error:
        return False, f"{str(error).rstrip('.')}.\n-> {_advice(error)}"


def _advice(error: ProviderError) -> str:
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
