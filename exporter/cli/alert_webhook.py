"""`notices`: print Alertmanager's notifications."""

from __future__ import annotations

import signal
import threading

import click

from exporter.cli.command import exit_on_error, main
from exporter.demo.alert_webhook import serve_webhook
from exporter.web.server import format_address, listen


@main.command()
@click.option("--web.listen-address", "address", default=":10043", show_default=True, help="Address to listen on.")
def notices(*, address: str) -> None:
    """Receive notifications from Alertmanager and print them, until SIGTERM.

    A webhook receiver for trying routes: by default every route of prometheus/alertmanager.yml uses it.
    """
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    with exit_on_error():
        sock = listen(address)
        with serve_webhook(sock, click.echo):
            click.echo(f"Listening on {format_address(sock)}", err=True)
            stopped.wait()
