"""`notices`: print what Alertmanager sends."""

from __future__ import annotations

import signal
import threading

import click

from exporter.cli.command import exit_on_error, main
from exporter.demo.alert_webhook import serve_webhook
from exporter.web.server import format_address, listen


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
    with exit_on_error():
        opened = listen(address)
        with serve_webhook(opened, click.echo):
            click.echo(f"Listening on {format_address(opened)}", err=True)
            ended.wait()
