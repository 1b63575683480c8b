"""`check health`: whether a running exporter answers, for the health checks of containers and pods.

It uses the standard library's HTTP client: a health check runs every few seconds and has to start quickly.
"""

from __future__ import annotations

import http.client
import os
import ssl
import sys
from base64 import b64encode
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import click

from exporter.cli.check import check
from exporter.cli.client_options import ClientOptions, client_options, parse_exporter_url
from exporter.cli.command import exit_on_error
from exporter.errors import ExporterError

ADDRESS = "127.0.0.1:10042"
NO_CHECK_TIME = 0x200000
"""OpenSSL's X509_V_FLAG_NO_CHECK_TIME, which the ssl module does not name."""
MAX_ANSWER_BYTES = 300

_CLIENT_CERT_ALERTS = ("CERTIFICATE_REQUIRED", "HANDSHAKE_FAILURE", "BAD_CERTIFICATE")
"""Ends of OpenSSL's names of the alerts that a client without a valid certificate receives."""


class _Answer(NamedTuple):
    status: int
    text: str


def _parse_optional_url(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    return None if value is None else parse_exporter_url(context, parameter, value)


@check.command("health")
@click.option(
    "--url",
    callback=_parse_optional_url,
    help=f"Address of the exporter.  [default: http://{ADDRESS}, or https with TLS in --web.config.file]",
)
@click.option(
    "--web.config.file",
    "web",
    type=click.Path(path_type=Path),
    help="The exporter's own file: use TLS if it does, and expect its certificate.  [default: plain HTTP]",
)
@click.option("--ready", is_flag=True, help="Check that it can answer scrapes, not only that the process serves.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=3.0,
    show_default=True,
    help="Seconds to wait for the answer.",
)
@client_options
def check_health(*, url: str | None, web: Path | None, ready: bool, timeout: float, **client_flags: Any) -> None:
    """Check that a running exporter answers; exit 0 if it does, 1 if not, 2 for wrong usage.

    With a password or a rate limit in the exporter's --web.config.file, the answers 401 and 429 show as well that the
    process serves, so no password is needed. --ready needs --user and --password-file then.
    """
    client = ClientOptions(**client_flags)
    if client.user is not None and client.password_file is None:
        raise click.BadParameter("needs --password-file", param_hint="--user")
    with exit_on_error():
        transport = _choose_transport(url, web, client)
        address = f"{url or f'{transport.scheme}://{ADDRESS}'}/-/{'ready' if ready else 'healthy'}"
        answer = _get(address, timeout, transport.context, client.read_credentials())
    click.echo(f"{address}: {answer.status} {answer.text}")
    served = (HTTPStatus.UNAUTHORIZED, HTTPStatus.TOO_MANY_REQUESTS)
    serves_without_password = not ready and client.user is None and answer.status in served
    sys.exit(0 if answer.status == HTTPStatus.OK or serves_without_password else 1)


class _Transport(NamedTuple):
    context: ssl.SSLContext | None
    """None: plain HTTP."""
    scheme: str


def _choose_transport(url: str | None, web: Path | None, client: ClientOptions) -> _Transport:
    """Return how to connect. Raises ExporterError where a file is not usable."""
    cert_chain = None if web is None else _read_cert_chain(web)
    scheme = urlsplit(url).scheme if url else "http" if cert_chain is None else "https"
    if scheme == "http":
        return _Transport(None, scheme)
    if cert_chain is None or client.ca_file is not None:
        return _Transport(client.build_ssl_context(), scheme)
    # The exporter's own certificate, issued for names other than the loopback address. Whether it has expired concerns
    # scrapes: a restart does not renew it.
    context = client.build_ssl_context()
    context.check_hostname = False
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN | NO_CHECK_TIME
    context.load_verify_locations(cadata=cert_chain)
    return _Transport(context, scheme)


def _read_cert_chain(web: Path) -> str | None:
    """Return the certificates of a web configuration in PEM, or None without TLS. Raises ConfigError."""
    # Imported here: without the option, the command does not need what reads YAML.
    from exporter.config import web_configuration  # noqa: PLC0415

    tls = web_configuration.load(web).tls
    return None if tls is None else tls.cert_chain


def _get(address: str, timeout: float, context: ssl.SSLContext | None, credentials: tuple[str, str] | None) -> _Answer:
    """Return the status and the beginning of the answer. Raises ExporterError with the reason."""
    parts = urlsplit(address)
    host, port = parts.hostname or "", parts.port
    connection = (
        http.client.HTTPConnection(host, port, timeout=timeout)
        if context is None
        else http.client.HTTPSConnection(host, port, timeout=timeout, context=context)
    )
    headers = {"User-Agent": "ai-spend-exporter check health"}
    if credentials is not None:
        headers["Authorization"] = f"Basic {b64encode(':'.join(credentials).encode()).decode()}"
    try:
        connection.request("GET", parts.path, headers=headers)
        response = connection.getresponse()
        text = response.read(MAX_ANSWER_BYTES).decode(errors="replace")
    except http.client.RemoteDisconnected as error:
        # So ends TLS 1.3 too where the server rejects the client's certificate: it does so after the handshake.
        advice = " (give --cert-file and --key-file if it requires a client certificate)" if context else ""
        raise ExporterError(f"{address} closed the connection without an answer{advice}.") from error
    except ssl.SSLError as error:
        raise ExporterError(f"{address}: {_explain(error)}.") from error
    except OSError as error:
        raise ExporterError(f"{address} cannot be reached: {_reason(error)}.") from error
    except http.client.HTTPException as error:
        raise ExporterError(f"{address} does not answer in HTTP: {type(error).__name__}.") from error
    finally:
        connection.close()
    return _Answer(response.status, " ".join(text.split()))


def _explain(error: ssl.SSLError) -> str:
    reason = error.reason or str(error)
    if reason.endswith(_CLIENT_CERT_ALERTS):
        return "the exporter requires a client certificate: give --cert-file and --key-file"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate cannot be verified: {error.verify_message}; give --web.config.file or --ca-file"
    return f"no TLS connection: {reason}"


def _reason(error: OSError) -> str:
    # A timeout of the socket has no number.
    return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
