"""`run` and `demo`: what goes on until it is stopped."""

from __future__ import annotations

import logging
import os
import platform
import re
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from hashlib import blake2b
from pathlib import Path
from typing import Any

import click

from exporter import __version__, logs
from exporter.app import MOST_SAMPLES, App, Surroundings
from exporter.cli.command import config_option, listen_option, log_options, main, now, said_plainly, storage_option
from exporter.demo import demo as run_demo
from exporter.errors import ConfigError, LedgerError
from exporter.model import DAY
from exporter.providers import ProviderType, load_providers
from exporter.serve import listen, serve, told_address
from exporter.settings import config as settings
from exporter.settings import keys
from exporter.windows import DAYS_SHOWN

logger = logging.getLogger("exporter")

LONGEST_KEPT = timedelta(days=100 * 365)

SHORTEST = (DAYS_SHOWN + 1) * DAY
"""Hours have to be kept this long at least."""


@main.command()
@config_option
@storage_option
@click.option("--storage.retention.hours", "hours", default="93d", show_default=True, help="Keep hours this long.")
@click.option("--storage.retention.days", "days", default="3y", show_default=True, help="Keep days this long.")
@click.option(
    "--storage.remote.read-sample-limit",
    "most_samples",
    type=click.IntRange(min=1),
    default=MOST_SAMPLES,
    show_default=True,
    help="Answer a remote read with this many samples at most.",
)
@listen_option
@click.option("--web.enable-lifecycle", "lifecycle", is_flag=True, help="Allow POST /-/reload.")
@click.option("--shard", default="1/1", show_default=True, help="Serve the I-th of N equal parts of the accounts.")
@log_options
def run(
    *,
    path: Path,
    folder: Path,
    hours: str,
    days: str,
    most_samples: int,
    address: str,
    lifecycle: bool,
    shard: str,
    level: str,
    form: Any,
) -> None:
    """Poll the configured accounts and serve /metrics until SIGTERM; SIGHUP reloads the configuration."""
    logs.configure(level, form, sys.stderr)
    # Until the server has its own: a reload that comes too early must not kill, and process 1 has to end when told.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    part = _shard(shard)
    keep_hours, keep_days = _kept(hours, days)
    with said_plainly():
        providers = load_providers()
    around = Surroundings(now, time.monotonic, os.environ, providers)
    around = replace(around, keep_hours=keep_hours, keep_days=keep_days, most_samples=most_samples)

    def load() -> settings.Config:
        return _load(path, providers, part)

    with said_plainly():
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


def _load(path: Path, providers: Mapping[str, ProviderType], part: tuple[int, int]) -> settings.Config:
    config = settings.load(path, providers)
    if problems := keys.check(config, os.environ):
        raise ConfigError(problems)
    return replace(config, accounts=tuple(one for one in config.accounts if _in_part(one.name, part)))


def _announce(config: settings.Config, address: str) -> None:
    logs.say(logger, "info", "Starting ai-spend-exporter", version=__version__, python=platform.python_version())
    logs.say(logger, "info", "Configuration loaded", file=str(config.path), accounts=len(config.accounts))
    for warning in keys.warnings(config, os.environ):
        logs.say(logger, "warn", "Something about a key is unsafe", warning=warning)
    logs.say(logger, "info", "Listening", address=address)


@main.command()
@click.option(
    "--web.listen-address", "address", default="127.0.0.1:10042", show_default=True, help="Where to serve /metrics."
)
@click.option("--prometheus.port", "prometheus", default=9090, show_default=True, help="Where Prometheus listens.")
@click.option(
    "--alertmanager.port", "alertmanager", default=9093, show_default=True, help="Where Alertmanager listens."
)
@log_options
def demo(address: str, prometheus: int, alertmanager: int, level: str, form: Any) -> None:
    """Run everything on this machine with simulated accounts: no key, nothing leaves loopback."""
    logs.configure("warn" if level == "info" else level, form, sys.stderr)
    with said_plainly():
        run_demo(address, prometheus, alertmanager, now, click.echo)


def _kept(hours: str, days: str) -> tuple[timedelta, timedelta]:
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
    return keep_hours, keep_days


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
