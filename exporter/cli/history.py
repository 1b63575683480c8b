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

from exporter.backtest.offline import newest_day, past, pushed, tellers, whole_days
from exporter.cli.command import config_option, main, now, said_plainly, storage_option
from exporter.config import configuration as settings
from exporter.errors import ExporterError
from exporter.history.hourly import Teller
from exporter.history.openmetrics import history_lines
from exporter.ledger import Ledger
from exporter.metrics.families import HISTORY_FAMILIES
from exporter.model import DAY
from exporter.providers import load_providers
from exporter.windows import Span

_DAY = click.DateTime(["%Y-%m-%d"])


@main.command()
@config_option
@storage_option
@click.option("--from", "since", type=_DAY, help="The first UTC day.  [default: the oldest known]")
@click.option("--to", "last", type=_DAY, help="The last UTC day.  [default: the newest that ended 3 hours ago]")
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
    *, path: Path, folder: Path, since: datetime | None, last: datetime | None, _form: str, output: Path | None
) -> None:
    """Write every hour of past days as OpenMetrics, for engines that cannot read it remotely.

    Works beside a running exporter. Days are UTC and whole.
    """
    newest = newest_day(now())
    last = newest if last is None else last.replace(tzinfo=UTC)
    since = None if since is None else since.replace(tzinfo=UTC)
    if last > newest:
        raise click.BadParameter(
            f"{last:%Y-%m-%d} has not ended three hours ago; the newest day that has is {newest:%Y-%m-%d}. A block "
            "that reaches into what Prometheus holds in memory makes its next start drop samples",
            param_hint="--to",
        )
    if since is not None and since > last:
        raise click.BadParameter(f"{since:%Y-%m-%d} is after --to={last:%Y-%m-%d}", param_hint="--from")
    with said_plainly():
        providers = load_providers()
        config = settings.load(path, providers)
        with past(folder) as ledger:
            told = [*tellers(ledger, config.accounts, providers, now()), *pushed(ledger, config.sources, now())]
            span = whole_days(ledger, told, since, last)
            _write_history(ledger, told, span, output)
    for one in told:
        if one.until < span.end:
            click.echo(f"warning: {one.name} is told up to {one.until:%Y-%m-%d %H:%M} UTC only", err=True)
    _tell_next(span, output)


def _write_history(ledger: Ledger, told: Sequence[Teller], span: Span, output: Path | None) -> None:
    bar = Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
    with bar, _whole(output) as file:
        task = bar.add_task("Writing history", total=len(HISTORY_FAMILIES) * len(told))
        for lines in history_lines(ledger, told, span, lambda: bar.advance(task)):
            file.write(lines)


@contextmanager
def _whole(output: Path | None) -> Iterator[TextIO]:
    """Open what is written to; a file appears under its name when it is complete."""
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


def _tell_next(span: Span, output: Path | None) -> None:
    file = "FILE" if output is None else str(output)
    days = f"{span.start:%Y-%m-%d} to {span.end - DAY:%Y-%m-%d}"
    click.echo(
        f"Days {days}, UTC. Next, for Prometheus (it keeps 15 days unless --storage.tsdb.retention.time says more):\n"
        f"  promtool tsdb create-blocks-from openmetrics --max-block-duration=36h {shlex.quote(file)} DATA_FOLDER\n"
        "for VictoriaMetrics:\n"
        f"  curl --data-binary @{shlex.quote(file)} http://VICTORIAMETRICS:8428/api/v1/import/prometheus",
        err=True,
    )
