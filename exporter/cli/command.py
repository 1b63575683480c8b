"""The command, and options that subcommands share.

Results go to stdout, logs to stderr. The exit code is 0 for success, 1 for failure, 2 for wrong usage.
"""

from __future__ import annotations

import functools
import importlib
import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from exporter import __version__, logs
from exporter.cli import flag_types
from exporter.errors import ConfigError, ExporterError
from exporter.ledger.locations import LedgerLocation, PostgresLocation


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Exit with status 1 and the message, without a traceback, on an error that the user can correct."""
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


def log_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--log.level` and `--log.format`, as the parameters `level` and `log_format`."""
    level = click.option(
        "--log.level",
        "level",
        type=click.Choice(list(logs.LEVELS)),
        default="info",
        show_default=True,
        help="Log messages of this level and above.",
    )
    log_format = click.option(
        "--log.format",
        "log_format",
        type=click.Choice(["logfmt", "json"]),
        default="logfmt",
        show_default=True,
        help="Format of log lines.",
    )
    return level(log_format(command))


config_option = click.option(
    "--config.file",
    "path",
    type=click.Path(path_type=Path),
    default="config.yaml",
    show_default=True,
    help="The YAML file with the accounts.",
)
listen_option = click.option(
    "--web.listen-address", "address", default=":10042", show_default=True, help="Address to serve /metrics on."
)


def storage_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the flags that say where the ledger is, as the parameter `location`."""

    @click.option(
        "--storage.path",
        "folder",
        type=click.Path(path_type=Path),
        default="data",
        show_default=True,
        help="Directory of the ledger.",
    )
    @click.option(
        "--storage.url",
        "url",
        callback=flag_types.parse_storage_url,
        help="PostgreSQL database of the ledger, instead of a directory: postgresql://USER@HOST/DATABASE.",
    )
    @click.option(
        "--storage.password-file",
        "password_file",
        type=click.Path(path_type=Path),
        help="File with the password of --storage.url.  [default: PGPASSWORD, or a pgpass file]",
    )
    @functools.wraps(command)
    def with_location(*, folder: Path, url: str | None, password_file: Path | None, **parameters: Any) -> Any:
        return command(location=_select_location(folder, url, password_file), **parameters)

    return with_location


def _select_location(folder: Path, url: str | None, password_file: Path | None) -> LedgerLocation:
    if url is None:
        if password_file is not None:
            raise click.UsageError("--storage.password-file is for --storage.url, which is missing.")
        return folder
    if click.get_current_context().get_parameter_source("folder") is not click.core.ParameterSource.DEFAULT:
        raise click.UsageError("--storage.path and --storage.url name two ledgers: give one of them.")
    return PostgresLocation(url, password_file)


def link_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the addresses that the landing page links to, as the parameters `grafana_url` and `docs_url`."""
    grafana = click.option(
        "--web.grafana-url",
        "grafana_url",
        callback=flag_types.parse_base_url,
        help="Address of the Grafana with the dashboards, for links on the landing page.  [default: no links]",
    )
    docs = click.option(
        "--web.docs-url",
        "docs_url",
        callback=flag_types.parse_base_url,
        help="Address below which prometheus/runbooks.md and docs/ are, for links on the landing page.  "
        "[default: no links]",
    )
    return grafana(docs(command))


def now() -> datetime:
    """Return the current time: the only place, apart from the simulator, that reads the clock."""
    return datetime.now(UTC)


class LazyGroup(click.Group):
    """A group whose subcommands are imported when they are used: `--version` and `check config` load no HTTP server."""

    def __init__(self, *args: Any, modules: Mapping[str, str], **kwargs: Any) -> None:
        """Take the module of each subcommand in `modules`; importing it adds the subcommand to this group."""
        super().__init__(*args, **kwargs)
        self._modules = modules

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all subcommands, imported or not."""
        return sorted({*super().list_commands(ctx), *self._modules})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a subcommand, imported now if necessary; None where there is none of this name."""
        # An unknown name imports them all: Click suggests the nearest of the names that it knows.
        names = [cmd_name] if cmd_name in self._modules else self._modules
        for name in names:
            importlib.import_module(self._modules[name])
        return super().get_command(ctx, cmd_name)


MODULES = {
    "check": "exporter.cli.check",
    "demo": "exporter.cli.run",
    "digest": "exporter.cli.digest",
    "encrypt": "exporter.cli.encrypt",
    "history": "exporter.cli.history",
    "ledger": "exporter.cli.ledger",
    "notices": "exporter.cli.alert_webhook",
    "replay": "exporter.cli.replay",
    "reread": "exporter.cli.reread",
    "run": "exporter.cli.run",
}
"""Command -> the module that defines it."""


@click.group(
    cls=LazyGroup, modules=MODULES, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(
    __version__, message=f"ai-spend-exporter, version %(version)s (python {platform.python_version()})"
)
def main() -> None:
    """Expose what an organisation spends on OpenAI, Anthropic and Cursor as Prometheus metrics."""
