"""`run` and `demo`: the commands that run until they are stopped."""

from __future__ import annotations

import logging
import os
import platform
import signal
import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from exporter import __version__, logs
from exporter.app import MAX_REMOTE_READ_SAMPLES, App, Dependencies
from exporter.cli import flag_types
from exporter.cli.allocator import limit_allocator
from exporter.cli.command import (
    config_option,
    exit_on_error,
    link_options,
    listen_option,
    log_options,
    main,
    now,
    storage_options,
)
from exporter.config import configuration, keys, web_configuration
from exporter.config.reload import ConfigWatcher
from exporter.demo.demo import run_demo
from exporter.errors import ConfigError, LedgerError
from exporter.ledger import LedgerLocation
from exporter.model import DAY
from exporter.providers import ProviderType, load_providers
from exporter.ui.links import PageLinks
from exporter.web import WebConfigReloader
from exporter.web.server import format_address, listen, serve
from exporter.windows import DAYS_EXPORTED

logger = logging.getLogger("exporter")

MIN_HOURLY_RETENTION = (DAYS_EXPORTED + 1) * DAY
"""The minimum of --storage.retention.hours: the exported days have to be in the ledger."""


@main.command()
@config_option
@storage_options
@click.option(
    "--config.auto-reload-interval",
    "interval",
    callback=flag_types.parse_interval,
    help="Check this often whether a file of the configuration has changed, and reload it.  [default: never]",
)
@click.option(
    "--storage.retention.hours",
    "hours",
    callback=flag_types.parse_retention,
    default="93d",
    show_default=True,
    help="Keep hours this long.",
)
@click.option(
    "--storage.retention.days",
    "days",
    callback=flag_types.parse_retention,
    default="3y",
    show_default=True,
    help="Keep days this long.",
)
@click.option(
    "--storage.remote.read-sample-limit",
    "max_samples",
    type=click.IntRange(min=1),
    default=MAX_REMOTE_READ_SAMPLES,
    show_default=True,
    help="Maximum number of samples in the response to a remote read.",
)
@listen_option
@click.option(
    "--web.config.file",
    "web",
    type=click.Path(path_type=Path),
    help="TLS and basic authentication, in exporter-toolkit's format.  [default: plain HTTP without authentication]",
)
@click.option("--web.enable-lifecycle", "lifecycle", is_flag=True, help="Allow POST /-/reload and /-/reread.")
@link_options
@click.option(
    "--shard",
    callback=flag_types.parse_shard,
    default="1/1",
    show_default=True,
    help="Serve only the I-th of N equal parts of the accounts; with auto/N, I is from the host name of a StatefulSet.",
)
@log_options
def run(
    *,
    path: Path,
    location: LedgerLocation,
    interval: timedelta | None,
    hours: timedelta,
    days: timedelta,
    max_samples: int,
    address: str,
    web: Path | None,
    lifecycle: bool,
    grafana_url: str,
    docs_url: str,
    shard: flag_types.Shard,
    level: str,
    log_format: Any,
) -> None:
    """Poll the configured accounts and serve /metrics until SIGTERM; SIGHUP reloads the configuration."""
    limit_allocator()
    logs.configure(level, log_format, sys.stderr)
    # Until the server installs its own handlers: an early SIGHUP must not end the process, and SIGTERM has no default
    # action for process 1 of a container.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    _check_retention(hours, days)
    watcher = ConfigWatcher()
    with exit_on_error():
        providers = load_providers()
    dependencies = Dependencies(
        now,
        time.monotonic,
        os.environ,
        providers,
        hourly_retention=hours,
        daily_retention=days,
        max_remote_read_samples=max_samples,
        page_links=PageLinks(grafana_url, docs_url),
    )

    def load() -> configuration.Config:
        return _load_config(path, providers, shard, watcher)

    with exit_on_error():
        config = load()
        web_reloader, listener = _create_web_reloader(web), listen(address)
        app = App(location, dependencies)
        app.apply(config)
        _log_startup(config, format_address(listener))

        def reload() -> str:
            return app.reload(load)

        if interval is not None:
            app.run_every(interval, lambda: watcher.detect_change() and reload())

    try:
        serve(app, app.handlers(reload if lifecycle else None), listener, reload, web_reloader)
    except LedgerError as error:
        logs.log_event(logger, "error", "Stopped: the ledger cannot be used", error=error)
        sys.exit(1)
    logs.log_event(logger, "info", "Stopped")


def _load_config(
    path: Path, providers: Mapping[str, ProviderType], shard: flag_types.Shard, watcher: ConfigWatcher
) -> configuration.Config:
    # Before the files are read, so that a change while they are read is detected later.
    watcher.detect_change()
    config = configuration.load(path, providers)
    watcher.watch(config)
    if problems := keys.check(config, os.environ):
        raise ConfigError(problems)
    accounts = tuple(account for account in config.accounts if account.name in shard)
    return config.model_copy(update={"accounts": accounts})


def _create_web_reloader(path: Path | None) -> WebConfigReloader | None:
    if path is None:
        return None
    reloader = WebConfigReloader(path, time.monotonic)
    logs.log_event(logger, "info", "Web configuration loaded", file=str(path), tls=reloader.config.tls is not None)
    for warning in web_configuration.find_warnings(reloader.config):
        logs.log_event(logger, "warn", "A file with secrets is unsafe", warning=warning)
    return reloader


def _log_startup(config: configuration.Config, address: str) -> None:
    logs.log_event(logger, "info", "Starting ai-spend-exporter", version=__version__, python=platform.python_version())
    logs.log_event(logger, "info", "Configuration loaded", file=str(config.path), accounts=len(config.accounts))
    for warning in keys.find_warnings(config, os.environ):
        logs.log_event(logger, "warn", "Warning about a key", warning=warning)
    logs.log_event(logger, "info", "Listening", address=address)


@main.command()
@click.option(
    "--web.listen-address",
    "address",
    default="127.0.0.1:10042",
    show_default=True,
    help="Address to serve /metrics on.",
)
@click.option("--prometheus.port", "prometheus", default=9090, show_default=True, help="Port of Prometheus.")
@click.option("--alertmanager.port", "alertmanager", default=9093, show_default=True, help="Port of Alertmanager.")
@link_options
@log_options
def demo(
    *,
    address: str,
    prometheus: int,
    alertmanager: int,
    grafana_url: str,
    docs_url: str,
    level: str,
    log_format: Any,
) -> None:
    """Run everything on this machine with simulated accounts, without keys and without access to the internet."""
    logs.configure("warn" if level == "info" else level, log_format, sys.stderr)
    with exit_on_error():
        run_demo(address, prometheus, alertmanager, now, click.echo, PageLinks(grafana_url, docs_url))


def _check_retention(hours: timedelta, days: timedelta) -> None:
    if hours < MIN_HOURLY_RETENTION:
        raise click.BadParameter(
            f"{hours.days}d is shorter than {MIN_HOURLY_RETENTION.days}d: bills are corrected and days are "
            f"exported that far back",
            param_hint="--storage.retention.hours",
        )
    if days < hours:
        raise click.BadParameter(
            f"{days.days}d is shorter than --storage.retention.hours={hours.days}d",
            param_hint="--storage.retention.days",
        )
