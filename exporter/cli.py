"""The command line. Results on stdout, logs on stderr; exit 0 good, 1 bad, 2 misuse."""

from __future__ import annotations

import logging
import os
import platform
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from exporter import __version__, logs
from exporter.app import App, Surroundings
from exporter.demo import demo as run_demo
from exporter.errors import (
    ConfigError,
    ExporterError,
    KeyRejected,
    LedgerError,
    ProviderError,
    RateLimited,
    Unavailable,
)
from exporter.model import DAY
from exporter.providers import load_providers
from exporter.providers.http import Access
from exporter.serve import listen, serve, told_address
from exporter.settings import config as settings
from exporter.settings import keys
from exporter.windows import DAYS_SHOWN

logger = logging.getLogger("exporter")

MOST_AT_ONCE = 64
"""How many accounts `check keys` asks at the same time."""

LONGEST_KEPT = timedelta(days=100 * 365)

SHORTEST = (DAYS_SHOWN + 1) * DAY
"""Hours have to be kept this long at least."""


@contextmanager
def _said_plainly() -> Iterator[None]:
    """End with status 1 and the message alone where something is wrong that a person can mend."""
    try:
        yield
    except ConfigError as error:
        count = len(error.problems)
        click.echo(f"{count} problem{'s' * (count > 1)} in the configuration:", err=True)
        for problem in error.problems:
            click.echo(f"  {problem}", err=True)
        sys.exit(1)
    except ExporterError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)


def _log_options(command: Callable[..., Any]) -> Callable[..., Any]:
    level = click.option(
        "--log.level",
        "level",
        type=click.Choice(list(logs.LEVELS)),
        default="info",
        show_default=True,
        help="Log from this level on.",
    )
    form = click.option(
        "--log.format",
        "form",
        type=click.Choice(["logfmt", "json"]),
        default="logfmt",
        show_default=True,
        help="How to write log lines.",
    )
    return level(form(command))


_config_option = click.option(
    "--config.file",
    "path",
    type=click.Path(path_type=Path),
    default="config.yaml",
    show_default=True,
    help="The YAML file with the accounts.",
)
_listen_option = click.option(
    "--web.listen-address", "address", default=":10042", show_default=True, help="Where to serve /metrics."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(
    __version__, message=f"ai-spend-exporter, version %(version)s (python {platform.python_version()})"
)
def main() -> None:
    """Expose what an organisation spends on OpenAI, Anthropic and Cursor as Prometheus metrics."""


@main.command()
@_config_option
@click.option(
    "--storage.path",
    "folder",
    type=click.Path(path_type=Path),
    default="data",
    show_default=True,
    help="The ledger's folder.",
)
@click.option("--storage.retention.hours", "hours", default="93d", show_default=True, help="Keep hours this long.")
@click.option("--storage.retention.days", "days", default="3y", show_default=True, help="Keep days this long.")
@_listen_option
@click.option("--web.enable-lifecycle", "lifecycle", is_flag=True, help="Allow POST /-/reload.")
@click.option("--shard", default="1/1", show_default=True, help="Serve the I-th of N equal parts of the accounts.")
@_log_options
def run(
    *, path: Path, folder: Path, hours: str, days: str, address: str, lifecycle: bool, shard: str, level: str, form: Any
) -> None:
    """Poll the configured accounts and serve /metrics until SIGTERM; SIGHUP reloads the configuration."""
    logs.configure(level, form, sys.stderr)
    # Until the server has its own: a reload that comes too early must not kill, and process 1 has to end when told.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    part = _shard(shard)
    keep_hours, keep_days = _keep(hours, "hours"), _keep(days, "days")
    if keep_hours < SHORTEST:
        raise click.BadParameter(
            f"{hours} is shorter than {SHORTEST.days}d: bills are corrected and days are shown that far back",
            param_hint="--storage.retention.hours",
        )
    if keep_days < keep_hours:
        raise click.BadParameter(
            f"{days} is shorter than --storage.retention.hours={hours}", param_hint="--storage.retention.days"
        )
    with _said_plainly():
        providers = load_providers()
    around = Surroundings(_now, time.monotonic, os.environ, providers, keep_hours=keep_hours, keep_days=keep_days)

    def load() -> settings.Config:
        config = settings.load(path, providers)
        if problems := keys.check(config, os.environ):
            raise ConfigError(problems)
        return replace(config, accounts=tuple(one for one in config.accounts if _in_part(one.name, part)))

    with _said_plainly():
        config = load()
        opened = listen(address)
        app = App(folder, around)
        app.apply(config)
        _announce(config, told_address(opened))

        def reload() -> str:
            return app.reload(load)

    try:
        serve(app, app.views(reload if lifecycle else None), opened, reload)
    except LedgerError as error:
        logs.say(logger, "error", "Stopped: the ledger cannot be used", error=error)
        sys.exit(1)
    logs.say(logger, "info", "Stopped")


def _announce(config: settings.Config, address: str) -> None:
    logs.say(logger, "info", "Starting ai-spend-exporter", version=__version__, python=platform.python_version())
    logs.say(logger, "info", "Configuration loaded", file=str(config.path), accounts=len(config.accounts))
    for warning in keys.warnings(config, os.environ):
        logs.say(logger, "warn", "Something about a key is unsafe", warning=warning)
    logs.say(logger, "info", "Listening", address=address)


@main.group()
def check() -> None:
    """Look for mistakes before they matter."""


@check.command("config")
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--syntax-only", is_flag=True, help="Do not look for the files and variables that hold the keys.")
def check_config(*, path: Path, syntax_only: bool) -> None:
    """Tell every problem of a configuration at once, with file and line; exit 1 if there is any."""
    with _said_plainly():
        config = settings.load(path, load_providers())
        if not syntax_only and (problems := keys.check(config, os.environ)):
            raise ConfigError(problems)
    for warning in keys.warnings(config, os.environ):
        click.echo(f"warning: {warning}", err=True)
    count = len(config.accounts)
    click.echo(f"{path}: good, {count} account{'s' * (count > 1)}")


@check.command("keys")
@_config_option
def check_keys(path: Path) -> None:
    """Make one cheap call per account and tell whose key it is, or what to do; exit 1 if any fails."""
    with _said_plainly():
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


@main.command()
@click.option(
    "--web.listen-address", "address", default="127.0.0.1:10042", show_default=True, help="Where to serve /metrics."
)
@click.option("--prometheus.port", "prometheus", default=9090, show_default=True, help="Where Prometheus listens.")
@click.option(
    "--alertmanager.port", "alertmanager", default=9093, show_default=True, help="Where Alertmanager listens."
)
@_log_options
def demo(address: str, prometheus: int, alertmanager: int, level: str, form: Any) -> None:
    """Run everything on this machine with simulated accounts: no key, nothing leaves loopback."""
    logs.configure("warn" if level == "info" else level, form, sys.stderr)
    with _said_plainly():
        run_demo(address, prometheus, alertmanager, _now, click.echo)


def _now() -> datetime:
    return datetime.now(UTC)


def _keep(text: str, what: str) -> timedelta:
    found = re.fullmatch(r"([1-9]\d{0,4})([dwy])", text)
    if found is None:
        raise click.BadParameter(
            f"{text!r} is not a duration such as 93d, 12w or 3y", param_hint=f"--storage.retention.{what}"
        )
    kept = int(found[1]) * {"d": timedelta(days=1), "w": timedelta(weeks=1), "y": timedelta(days=365)}[found[2]]
    if kept > LONGEST_KEPT:
        raise click.BadParameter(f"{text} is more than 100y", param_hint=f"--storage.retention.{what}")
    return kept


def _shard(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d{0,3})/([1-9]\d{0,3})", text)
    if found is None or int(found[1]) > int(found[2]):
        raise click.BadParameter(f"{text!r} is not I/N with I from 1 to N, such as 2/8", param_hint="--shard")
    return int(found[1]), int(found[2])


def _in_part(name: str, part: tuple[int, int]) -> bool:
    number, parts = part
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest()) % parts == number - 1
