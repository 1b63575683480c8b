"""`history`: the past as a file."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

import click
from rich.console import Console
from rich.progress import Progress

from exporter.cli.command import config_option, exit_on_error, main, now, storage_options
from exporter.cli.offline import (
    known_day_range,
    load_polled_snapshots,
    load_pushed_snapshots,
    newest_exportable_day,
    open_ledger,
)
from exporter.config import configuration as settings
from exporter.errors import ExporterError
from exporter.history.hourly import HistoryAccount, history_accounts
from exporter.history.openmetrics import render_history
from exporter.ledger import Ledger, LedgerLocation
from exporter.metrics.families import HOURLY_FAMILIES
from exporter.model import DAY
from exporter.providers import load_providers
from exporter.windows import TimeRange

_DATE = click.DateTime(["%Y-%m-%d"])


@main.command()
@config_option
@storage_options
@click.option("--from", "since", type=_DATE, help="The first UTC day.  [default: the oldest known]")
@click.option("--to", "last", type=_DATE, help="The last UTC day.  [default: the newest that ended 3 hours ago]")
@click.option(
    "--format",
    "_form",
    type=click.Choice(["openmetrics"]),
    default="openmetrics",
    show_default=True,
    help="How it is written.",
)
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="The file.  [default: stdout]")
def history(
    *,
    path: Path,
    location: LedgerLocation,
    since: datetime | None,
    last: datetime | None,
    _form: str,
    output: Path | None,
) -> None:
    """Write every hour of past days as OpenMetrics, for engines that cannot read it remotely.

    Works beside a running exporter. Days are UTC and whole.
    """
    newest = newest_exportable_day(now())
    last = newest if last is None else last.replace(tzinfo=UTC)
    since = None if since is None else since.replace(tzinfo=UTC)
    if last > newest:
        raise click.BadParameter(
            f"{last:%Y-%m-%d} has not ended three hours ago; the newest day that has is {newest:%Y-%m-%d}. A block "
            "that overlaps Prometheus's in-memory head makes its next start drop samples",
            param_hint="--to",
        )
    if since is not None and since > last:
        raise click.BadParameter(f"{since:%Y-%m-%d} is after --to={last:%Y-%m-%d}", param_hint="--from")
    with exit_on_error():
        providers = load_providers()
        config = settings.load(path, providers)
        with open_ledger(location) as ledger:
            snapshots = [
                *load_polled_snapshots(ledger, config, providers, now()),
                *load_pushed_snapshots(ledger, config, now()),
            ]
            accounts = history_accounts(snapshots)
            span = known_day_range(ledger, accounts, since, last)
            _write_history(ledger, accounts, span, output)
    for account in accounts:
        if account.complete_until < span.end:
            until = f"{account.complete_until:%Y-%m-%d %H:%M} UTC"
            click.echo(f"warning: usage of {account.account.name} is complete only up to {until}", err=True)
    _print_next_steps(span, output)


def _write_history(
    ledger: Ledger, accounts: Sequence[HistoryAccount], time_range: TimeRange, output: Path | None
) -> None:
    bar = Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
    with bar, _open_output(output) as file:
        task = bar.add_task("Writing history", total=len(HOURLY_FAMILIES) * len(accounts))
        for lines in render_history(ledger, accounts, time_range, lambda: bar.advance(task)):
            file.write(lines)


@contextmanager
def _open_output(output: Path | None) -> Iterator[TextIO]:
    """Open the output; a file gets its name only when it is complete."""
    if output is None:
        yield sys.stdout
        return
    draft = output.with_name(f"{output.name}.part")
    try:
        with draft.open("w", encoding="utf-8") as file:
            yield file
        draft.replace(output)
    except OSError as error:
        raise ExporterError(f"{output} cannot be written: {error.strerror}.") from error
    finally:
        draft.unlink(missing_ok=True)


def _print_next_steps(time_range: TimeRange, output: Path | None) -> None:
    file = "FILE" if output is None else str(output)
    days = f"{time_range.start:%Y-%m-%d} to {time_range.end - DAY:%Y-%m-%d}"
    click.echo(
        f"Days {days}, UTC. Next, for Prometheus (it keeps 15 days unless --storage.tsdb.retention.time says more):\n"
        f"  promtool tsdb create-blocks-from openmetrics --max-block-duration=36h {shlex.quote(file)} DATA_FOLDER\n"
        "for VictoriaMetrics:\n"
        f"  curl --data-binary @{shlex.quote(file)} http://VICTORIAMETRICS:8428/api/v1/import/prometheus",
        err=True,
    )
