"""`reread`: have a running exporter read past days again."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import click
import httpx

from exporter.cli.client_options import DEFAULT_URL, ClientOptions, client_options, parse_exporter_url
from exporter.cli.command import exit_on_error, main, now
from exporter.errors import ExporterError

TIMEOUT = 30.0
"""Seconds to wait for an answer. The exporter answers before it reads anything."""
MAX_ANSWER_CHARACTERS = 300
"""Of an answer that is not the exporter's, in an error message."""

_DATE = click.DateTime(["%Y-%m-%d"])


@main.command()
@click.option("--from", "first", type=_DATE, required=True, help="The first UTC day.")
@click.option("--to", "last", type=_DATE, required=True, help="The last UTC day.")
@click.option("--account", help="Read only this account again.  [default: all polled accounts]")
@click.option("--provider", help="Read only the accounts of this provider again.  [default: all providers]")
@click.option(
    "--url", callback=parse_exporter_url, default=DEFAULT_URL, show_default=True, help="Address of the exporter."
)
@client_options
def reread(
    *,
    first: datetime,
    last: datetime,
    account: str | None,
    provider: str | None,
    url: str,
    **client_flags: Any,
) -> None:
    """Have a running exporter read usage and bills of past days again, and print which.

    The exporter needs --web.enable-lifecycle. It reads the days as soon as the providers' rate limits allow, beside its
    polls; its log and its landing page say when each day was read. Exit 1 if it cannot be reached or reads nothing.
    """
    client = ClientOptions(**client_flags)
    _check_days(first, last)
    query = {"from": f"{first:%Y-%m-%d}", "to": f"{last:%Y-%m-%d}", "account": account, "provider": provider}
    parameters = {name: value for name, value in query.items() if value is not None}
    with exit_on_error():
        credentials = client.read_credentials()
        ssl_context = client.build_ssl_context() if url.startswith("https:") else None
        answer = _post(f"{url}/-/reread", parameters, credentials, ssl_context)
    _print_answer(answer)


def _check_days(first: datetime, last: datetime) -> None:
    """Raise BadParameter for days that no exporter accepts."""
    if first > last:
        raise click.BadParameter(f"{first:%Y-%m-%d} is after --to={last:%Y-%m-%d}", param_hint="--from")
    if last.replace(tzinfo=UTC) > now():
        raise click.BadParameter(f"{last:%Y-%m-%d} is in the future: days are UTC", param_hint="--to")


def _post(
    url: str,
    parameters: Mapping[str, str],
    credentials: tuple[str, str] | None,
    ssl_context: ssl.SSLContext | None,
) -> Mapping[str, Any]:
    """Return the JSON of a successful answer. Raises ExporterError with advice."""
    try:
        # Without proxies: an exporter is in one's own network, and a password must not reach another host.
        verify = ssl_context or True
        with httpx.Client(verify=verify, auth=credentials, timeout=TIMEOUT, trust_env=False) as client:
            answer = client.post(url, params=parameters)
    except httpx.ConnectError as error:
        raise ExporterError(f"{url} cannot be reached: {error}. Is the exporter running there? See --url.") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ExporterError(f"{url} gave no answer: {str(error) or type(error).__name__}.") from error
    body = _parse_json(answer)
    if answer.status_code == httpx.codes.ACCEPTED and body is not None:
        return body
    raise ExporterError(_explain(url, answer, body))


def _parse_json(answer: httpx.Response) -> Mapping[str, Any] | None:
    try:
        body = answer.json()
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


def _explain(url: str, answer: httpx.Response, body: Mapping[str, Any] | None) -> str:
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        return f"{url} requires a user and a password: give --user and --password-file."
    if body is not None and "error" in body:
        return f"the exporter rejects the request: {str(body['error']).rstrip('.')}."
    if answer.status_code in (httpx.codes.NOT_FOUND, httpx.codes.METHOD_NOT_ALLOWED):
        return f"{url} answered {answer.status_code}: this is no ai-spend-exporter, or an older one."
    text = " ".join(answer.text.split())[:MAX_ANSWER_CHARACTERS]
    return f"{url} answered {answer.status_code}: {text}"


def _print_answer(answer: Mapping[str, Any]) -> None:
    try:
        for account in answer["accounts"]:
            click.echo(f"{account['account']} ({account['provider']}):")
            for days, reports in _group_by_days(account["reports"]).items():
                click.echo(f"  {days}: {', '.join(reports)}")
        messages = [str(message) for message in answer["messages"]]
    except (KeyError, TypeError):
        click.echo("Error: the answer is not one of an ai-spend-exporter of this version.", err=True)
        raise SystemExit(1) from None
    for message in messages:
        click.echo(f"warning: {message}", err=True)


def _group_by_days(reports: Iterable[Mapping[str, str]]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for report in reports:
        grouped.setdefault(f"{report['from']} to {report['to']}", []).append(report["report"])
    return grouped
