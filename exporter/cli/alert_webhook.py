"""`notices`: print what Alertmanager sends."""

from __future__ import annotations

import signal
import threading

import click

from exporter.cli.command import main, said_plainly
from exporter.demo.alert_webhook import notices as print_notices
from exporter.web.server import listen, told_address


@main.command()
@click.option(
    "--web.listen-address", "address", default=":10043", show_default=True, help="Where Alertmanager sends to."
)
def notices(*, address: str) -> None:
    """Print every notification that Alertmanager sends here, until SIGTERM.

    A webhook receiver to try routes with: prometheus/alertmanager.yml sends everything to it as it stands.
    """
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with said_plainly():
        opened = listen(address)
        with print_notices(opened, click.echo):
            click.echo(f"Listening on {told_address(opened)}", err=True)
            ended.wait()
