"""`digest`: print or send a daily summary."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import httpx

from exporter.cli.command import config_option, exit_on_error, link_options, main, now, storage_options
from exporter.cli.flag_types import split_http_url
from exporter.cli.offline import load_polled_snapshots, load_pushed_snapshots, open_ledger
from exporter.config import configuration as settings
from exporter.errors import ExporterError
from exporter.ledger import LedgerLocation
from exporter.providers import load_providers
from exporter.snapshot.budgets import evaluate_budgets
from exporter.ui.digest import Digest, build_digest, render_text, to_plain
from exporter.ui.links import PageLinks

TIMEOUT = 30.0
"""Seconds to wait for the webhook's answer."""

_FILE = click.Path(path_type=Path)


@main.command()
@config_option
@storage_options
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="On stdout.",
)
@click.option(
    "--webhook.url-file",
    "url_file",
    type=_FILE,
    help="File with the address of a webhook that receives the summary as JSON, in whose field text Slack, Mattermost "
    "and Google Chat find the message. In a file, since such an address is a secret.  [default: print only]",
)
@link_options
def digest(
    *,
    path: Path,
    location: LedgerLocation,
    output_format: str,
    url_file: Path | None,
    grafana_url: str,
    docs_url: str,
) -> None:
    """Print yesterday's cost, the month and its forecast, the largest changes, budgets and what needs attention.

    Reads the ledger, also of a running exporter: run it daily from cron or a CronJob, after the usage of yesterday is
    complete (most providers: two hours after midnight UTC). Why polls fail is not in the ledger; their accounts are
    listed as not known completely. Exit 1 if the webhook does not accept it.
    """
    with exit_on_error():
        time = now()
        providers = load_providers()
        config = settings.load(path, providers)
        with open_ledger(location) as ledger:
            snapshots = [
                *load_polled_snapshots(ledger, config, providers, time, config.budgets),
                *load_pushed_snapshots(ledger, config, time, config.budgets),
            ]
        budgets = evaluate_budgets(config.budgets, snapshots, time)
        summary = build_digest(snapshots, budgets, time, PageLinks(grafana_url, docs_url))
        if url_file is not None:
            _send(_read_url(url_file), to_plain(summary))
        click.echo(_format(summary, output_format), nl=False)


def _format(summary: Digest, output_format: str) -> str:
    if output_format == "text":
        return render_text(summary)
    return json.dumps(to_plain(summary), indent=2, ensure_ascii=False) + "\n"


def _read_url(file: Path) -> str:
    """Return the address in a file. Raises ExporterError, whose message does not have the address."""
    try:
        url = file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ExporterError(f"{file} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError:
        url = ""
    if split_http_url(url) is None:
        raise ExporterError(f"{file} does not contain an address such as https://hooks.example.com/services/…")
    return url


def _send(url: str, content: Mapping[str, Any]) -> None:
    """Post the summary once. Raises ExporterError unless it is accepted; only the host is named, the path is secret."""
    host = urlsplit(url).hostname
    try:
        answer = httpx.post(url, json=content, timeout=TIMEOUT, follow_redirects=False)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ExporterError(f"The webhook at {host} cannot be reached ({type(error).__name__}).") from None
    if not answer.is_success:
        raise ExporterError(
            f"The webhook at {host} answered with status {answer.status_code}: the summary was not sent."
        )
