"""`check config` and `check keys`: validate the configuration and try the keys."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from exporter.cli.check import check
from exporter.cli.command import config_option, exit_on_error, now
from exporter.config import configuration, keys
from exporter.errors import ConfigError, KeyRejected, ProviderError, RateLimited, Unavailable, Unsupported
from exporter.model import Report
from exporter.providers import create_provider, known_key_kinds, load_providers
from exporter.providers.base import Provider, ProviderWithBalance
from exporter.providers.http import ClientConfig
from exporter.windows import floor

MAX_CONCURRENT_CHECKS = 64
"""Accounts that `check keys` checks at the same time."""


@check.command("config")
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--syntax-only", is_flag=True, help="Do not read the keys from their files and variables.")
def check_config(*, path: Path, syntax_only: bool) -> None:
    """Print every problem of a configuration, with file and line; exit 1 if there is any.

    A key that cannot be read is only a warning, because a configuration may be checked where its secrets are not.
    """
    with exit_on_error():
        config = configuration.load(path, load_providers())
    unreadable = [] if syntax_only else keys.check(config, os.environ)
    warnings = [] if syntax_only else keys.find_warnings(config, os.environ)
    for warning in (*unreadable, *warnings):
        click.echo(f"warning: {warning}", err=True)
    count = len(config.accounts)
    result = f"{path}: good, {count} account{'s' * (count > 1)}"
    if unreadable:
        result += f"; {len(unreadable)} of the keys and tokens cannot be read here, and `run` needs them all"
    click.echo(result)


@check.command("keys")
@config_option
def check_keys(path: Path) -> None:
    """Print the owner and permissions of each account's key, or what to do; exit 1 if any key fails.

    The newest complete hour or day of each report is requested, and nothing is stored.
    """
    with exit_on_error():
        config = configuration.load(path, load_providers())
    time = now()
    # At least one thread: a configuration may have sources only.
    with ThreadPoolExecutor(max(1, min(len(config.accounts), MAX_CONCURRENT_CHECKS))) as pool:
        results = list(pool.map(lambda account: _check_key(account, time), config.accounts))
    table = Table(box=None, pad_edge=False)
    for heading in ("Account", "Provider", "Key", "Result, and what to do"):
        table.add_column(heading, overflow="fold")
    for account, result in zip(config.accounts, results, strict=True):
        table.add_row(account.name, account.provider, "good" if result.valid else "FAILED", result.message)
    Console(width=None if sys.stdout.isatty() else 160, highlight=False, markup=False, emoji=False).print(table)
    sys.exit(0 if all(result.valid for result in results) else 1)


@dataclass(frozen=True, slots=True)
class _KeyCheck:
    valid: bool
    message: str


def _check_key(account: configuration.Account, time: datetime) -> _KeyCheck:
    providers = load_providers()
    provider_type = providers[account.provider]
    key_kinds = known_key_kinds(account.provider, providers)
    try:
        key = account.api_key.read(os.environ)
        if (rejected := keys.diagnose(key, key_kinds)) is not None:
            raise rejected
        timeout = account.timeout.total_seconds()
        client_config = ClientConfig(key, account.base_url or provider_type.base_url, timeout=timeout)
        with closing(create_provider(provider_type, client_config, account.options)) as provider:
            owner = provider.verify()
            reports = _check_reports(provider, provider_type.reports, time)
        kind = keys.find_key_kind(key, key_kinds)
        return _KeyCheck(True, f"{owner}\n{kind.name}; {reports}" if kind else f"{owner}\n{reports}")
    except ConfigError as error:
        return _KeyCheck(False, str(error))
    except ProviderError as error:
        return _KeyCheck(False, f"{str(error).rstrip('.')}.\n-> {advice(error)}")


def _check_reports(provider: Provider, reports: Sequence[Report], time: datetime) -> str:
    """Return which reports can be read. Raises ProviderError where a report that is not optional cannot."""
    readable, unreadable = [], []
    for report in reports:
        newest = floor(time, report.width)
        try:
            for _ in provider.fetch(report, newest - report.width, newest):
                pass
            readable.append(report.name)
        except (KeyRejected, Unsupported):
            if not report.optional:
                raise
            unreadable.append(report.name)
    optional: dict[str, Callable[[], object]] = {"names": provider.names}
    if isinstance(provider, ProviderWithBalance):
        optional["balance"] = provider.balance
    for name, read in optional.items():
        try:
            read()
            readable.append(name)
        except (KeyRejected, Unsupported):
            unreadable.append(name)
    return f"reads {', '.join(readable)}" + (f"; not {', '.join(unreadable)}" if unreadable else "")


def advice(error: ProviderError) -> str:
    """Return what to do about a key or a report that cannot be read."""
    match error:
        case KeyRejected():
            return error.advice
        case RateLimited():
            return "The key was not checked: try again in a minute."
        case Unavailable(reached=True):
            return "The provider is unavailable and the key was not checked: try again later."
        case Unavailable():
            return "Check base_url, and the network, firewall and proxy on the way to it."
        case _:
            return "Check that base_url is the provider's address, or a proxy that does not change its responses."
