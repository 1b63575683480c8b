"""`run` and `demo`: what goes on until it is stopped."""

from __future__ import annotations

import logging
import os
import platform
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from exporter import __version__, logs
from exporter.app import MOST_SAMPLES, App, Surroundings
from exporter.cli import flag_types as values
from exporter.cli.command import config_option, listen_option, log_options, main, now, said_plainly, storage_option
from exporter.config import configuration as settings
from exporter.config import keys
from exporter.config import web_configuration as web_config
from exporter.config.reload import Watch
from exporter.demo.demo import demo as run_demo
from exporter.errors import ConfigError, LedgerError
from exporter.model import DAY
from exporter.providers import ProviderType, load_providers
from exporter.web import Entrance
from exporter.web.server import listen, serve, told_address
from exporter.windows import DAYS_SHOWN

logger = logging.getLogger("exporter")

SHORTEST = (DAYS_SHOWN + 1) * DAY
"""Hours have to be kept this long at least."""


@main.command()
@config_option
@storage_option
@click.option(
    "--config.auto-reload-interval",
    "interval",
    callback=values.interval,
    help="Look this often whether a file of the configuration has changed, and reload then.  [default: never]",
)
@click.option(
    "--storage.retention.hours",
    "hours",
    callback=values.kept,
    default="93d",
    show_default=True,
    help="Keep hours this long.",
)
@click.option(
    "--storage.retention.days",
    "days",
    callback=values.kept,
    default="3y",
    show_default=True,
    help="Keep days this long.",
)
@click.option(
    "--storage.remote.read-sample-limit",
    "most_samples",
    type=click.IntRange(min=1),
    default=MOST_SAMPLES,
    show_default=True,
    help="Answer a remote read with this many samples at most.",
)
@listen_option
@click.option(
    "--web.config.file",
    "web",
    type=click.Path(path_type=Path),
    help="TLS, users and passwords, as the exporters of Prometheus take them.  [default: plain HTTP for everybody]",
)
@click.option("--web.enable-lifecycle", "lifecycle", is_flag=True, help="Allow POST /-/reload.")
@click.option(
    "--shard",
    callback=values.shard,
    default="1/1",
    show_default=True,
    help="Serve the I-th of N equal parts of the accounts.",
)
@log_options
def run(
    *,
    path: Path,
    folder: Path,
    interval: timedelta | None,
    hours: timedelta,
    days: timedelta,
    most_samples: int,
    address: str,
    web: Path | None,
    lifecycle: bool,
    shard: values.Shard,
    level: str,
    form: Any,
) -> None:
    """Poll the configured accounts and serve /metrics until SIGTERM; SIGHUP reloads the configuration."""
    logs.configure(level, form, sys.stderr)
    # Until the server has its own: a reload that comes too early must not kill, and process 1 has to end when told.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    _check_kept(hours, days)
    watch = Watch()
    with said_plainly():
        providers = load_providers()
    around = Surroundings(
        now, time.monotonic, os.environ, providers, keep_hours=hours, keep_days=days, most_samples=most_samples
    )

    def load() -> settings.Config:
        return _load(path, providers, shard, watch)

    with said_plainly():
        config = load()
        entrance, opened = _entrance(web), listen(address)
        app = App(folder, around)
        app.apply(config)
        _announce(config, told_address(opened))

        def reload() -> str:
            return app.reload(load)

        if interval is not None:
            app.every(interval, lambda: watch.changed() and reload())

    try:
        serve(app, app.views(reload if lifecycle else None), opened, reload, entrance)
    except LedgerError as error:
        logs.say(logger, "error", "Stopped: the ledger cannot be used", error=error)
        sys.exit(1)
    logs.say(logger, "info", "Stopped")


def _load(path: Path, providers: Mapping[str, ProviderType], part: values.Shard, watch: Watch) -> settings.Config:
    watch.changed()
    config = settings.load(path, providers)
    watch.follow(config)
    if problems := keys.check(config, os.environ):
        raise ConfigError(problems)
    return replace(config, accounts=tuple(one for one in config.accounts if one.name in part))


def _entrance(web: Path | None) -> Entrance | None:
    if web is None:
        return None
    entrance = Entrance(web, time.monotonic)
    logs.say(logger, "info", "Web configuration loaded", file=str(web), tls=entrance.config.tls is not None)
    for warning in web_config.warnings(entrance.config):
        logs.say(logger, "warn", "A file with secrets is unsafe", warning=warning)
    return entrance


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


def _check_kept(hours: timedelta, days: timedelta) -> None:
    if hours < SHORTEST:
        raise click.BadParameter(
            f"{hours.days}d is shorter than {SHORTEST.days}d: bills are corrected and days are shown that far back",
            param_hint="--storage.retention.hours",
        )
    if days < hours:
        raise click.BadParameter(
            f"{days.days}d is shorter than --storage.retention.hours={hours.days}d",
            param_hint="--storage.retention.days",
        )
