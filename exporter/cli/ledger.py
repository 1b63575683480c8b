"""`ledger copy`: move a ledger between a directory and PostgreSQL."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from exporter.cli.command import LazyGroup, exit_on_error, main
from exporter.ledger import open_store
from exporter.ledger.copying import copy_ledger
from exporter.ledger.locations import parse_location


@main.group(cls=LazyGroup, modules={})
def ledger() -> None:
    """Work on the ledger of a stopped exporter."""


@ledger.command("copy")
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.option(
    "--from.password-file",
    "source_password",
    type=click.Path(path_type=Path),
    help="File with the password of FROM.  [default: PGPASSWORD, or a pgpass file]",
)
@click.option(
    "--to.password-file",
    "target_password",
    type=click.Path(path_type=Path),
    help="File with the password of TO.  [default: PGPASSWORD, or a pgpass file]",
)
def copy(*, source: str, target: str, source_password: Path | None, target_password: Path | None) -> None:
    """Copy the ledger FROM into the empty ledger TO, and compare every row; each is a directory or a postgresql:// URL.

    The exporter of FROM has to be stopped. TO is created, and begins to exist only when all rows are the same.
    """
    with exit_on_error():
        origin, place = parse_location(source, source_password), parse_location(target, target_password)
        with (
            closing(open_store(origin, read_only=True, exclusive=True)) as source_store,
            closing(open_store(place)) as target_store,
        ):
            tables = copy_ledger(source_store, target_store)
    result = Table("Table")
    result.add_column("Rows", justify="right")
    result.add_column("Digest of all rows")
    for table in tables:
        result.add_row(table.name, f"{table.rows:,}", table.digest)
    Console().print(result)
    rows = sum(table.rows for table in tables)
    click.echo(f"Copied {rows:,} rows from {origin} to {place}; every row was read again and is the same.")
